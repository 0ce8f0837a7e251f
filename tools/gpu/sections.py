"""The sections of tools/gpu.sh: networks and gradients on one card, against the CPU provider, torch and Captum.

Each method is a section; it tells what it has as it goes, as a part of all figures.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from bench import networks

from gpu import peers, tables

BATCHES = (1, 8, 64)
ROUNDS, MOST_SECONDS = 30, 2.0
TARGET = 285  # chelsea, an Egyptian cat
Tell = Callable[[dict[str, Any]], None]


class Sections:
    """What the sections share.

    stand_in   the CPU provider stands in for the card, with small counts
    """

    def __init__(self, *, stand_in: bool) -> None:
        self.stand_in = stand_in
        self.provider = self.device = "cpu" if stand_in else "cuda"
        self.batches = (1, 2) if stand_in else BATCHES
        self.folder = (
            Path(tempfile.gettempdir()) / "onnxviz-gpu"
        )  # exported files serve the next process, too
        self.folder.mkdir(exist_ok=True)

    def table(self) -> dict[str, Callable[[Tell], Any]]:
        """The sections by name."""
        found: dict[str, Callable[[Tell], Any]] = {
            "machine": self.machine,
            "occlusion": self.occlusion,
            "rise": self.rise,
            "ascent": self.ascent,
            "patches": self.patches,
            "CUDA graphs": self.graphs,
            "strided depthwise": self.strided_depthwise,
            "TensorRT": self.tensorrt,
        }
        for name in tables.NETWORKS:
            found[name] = lambda tell, name=name: self.network(name, tell)
            found[f"compiled {name}"] = lambda tell, name=name: self.compiled(name, tell)
        return found

    def machine(self, _: Tell) -> dict[str, Any]:
        """The card and the versions that matter; that CUDA starts."""
        import onnxruntime
        import torch

        found = {
            "date": time.strftime("%Y-%m-%d"),
            "card": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no card (stand-in)",
            "cores": len(os.sched_getaffinity(0)),
            "Python": sys.version.split()[0],
            "onnxruntime": onnxruntime.__version__,
            "torch": torch.__version__,
            "Captum": peers.captum() or "missing",
            "CUDA": str(torch.version.cuda),
        }
        if not self.stand_in:
            found["cuDNN"] = str(torch.backends.cudnn.version())
        return {"machine": found}

    # --- timing -----------------------------------------------------------------------------------

    def wait(self) -> None:
        """Until the card has done what torch gave it."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def seconds(self, function: Callable[[], Any]) -> float:
        """The median of rounds, after some that warm up; of one only where it takes long."""
        for _ in range(1 if self.stand_in else 3):
            once = self.once(function)
            if once > MOST_SECONDS:
                return once
        times: list[float] = []
        begun = time.perf_counter()
        while len(times) < (2 if self.stand_in else ROUNDS) and time.perf_counter() - begun < MOST_SECONDS:
            times.append(self.once(function))
        return statistics.median(times)

    def once(self, function: Callable[[], Any]) -> float:
        """Seconds of one call."""
        self.wait()
        start = time.perf_counter()
        function()
        self.wait()
        return time.perf_counter() - start

    # --- networks ---------------------------------------------------------------------------------

    def network(self, name: str, tell: Tell) -> None:
        """Agreement with the CPU provider, nodes left to the CPU, and the times of forward and gradient."""
        from onnxviz.programs import compile

        path, model, made, feeds, names = self.pair(name)
        source, output = names[1].removesuffix(".gradient"), names[0]
        two = {key: array[:2] for key, array in feeds.items()}
        right = compile(made, provider="cpu")(two, names)
        for kind in ("float32", "TF32"):
            arrays = dict(
                zip(names, session(made, self.provider, kind == "TF32").run(names, two), strict=True)
            )
            tell({name: {"agreement": {kind: [agreement(arrays[n], right[n]) for n in names]}}})
        tell({name: {"on_cpu": placed(made, self.provider, two)}})
        forward, backward = compile(model, provider=self.provider), compile(made, provider=self.provider)
        net = peers.network(name, path, self.device)
        for batch in self.batches:
            cut = {key: array[:batch] for key, array in feeds.items()}
            image, seed = cut[source], cut[f"{output}.cotangent"]
            cases: dict[str, Callable[[], Any]] = {
                "forward": lambda image=image: forward({source: image}),
                "gradient": lambda cut=cut: backward(cut, names[1:]),
                "forward on the card": held(forward, {source: image}, output, seed.shape),
                "gradient on the card": held(backward, cut, names[1], image.shape),
            }
            cases |= peers.passes(net, image, seed, self.device, captum=peers.captum() is not None)
            for case, function in cases.items():
                tell({name: {"seconds": {str(batch): {case: self.seconds(function)}}}})

    def pair(self, name: str) -> tuple[Path, Any, Any, dict[str, np.ndarray], list[str]]:
        """The network's file, the network, its gradient model, feeds of the largest batch, [output, gradient]."""
        from onnxviz.grad.model import gradient_model
        from onnxviz.graph.open.load import load
        from onnxviz.programs import compile

        path = networks.save(name, self.folder)
        model = load(str(path)).model
        source = next(v.name for v in model.graph.inputs if not v.is_initializer())
        output = model.graph.outputs[0].name
        rng = np.random.default_rng(0)
        x = rng.standard_normal((max(self.batches), 3, networks.SIZE, networks.SIZE)).astype(np.float32)
        classes = compile(model, provider="cpu")({source: x[:1]})[output].shape[1:]
        seed = np.zeros((len(x), *classes), np.float32)
        seed.reshape(len(x), -1)[:, TARGET] = 1.0
        feeds = {source: x, f"{output}.cotangent": seed}
        return (
            path,
            model,
            gradient_model(model, of=output, wrt=source),
            feeds,
            [output, f"{source}.gradient"],
        )

    def compiled(self, name: str, tell: Tell) -> None:
        """torch.compile on the card: forward and gradient, batch by batch, as far as the time goes."""
        import torch

        net = peers.network(name, networks.save(name, self.folder), self.device)
        backend = "eager" if self.stand_in else "inductor"
        fast = torch.compile(net, backend=backend, dynamic=False)
        x = np.random.default_rng(0).standard_normal((max(self.batches), 3, networks.SIZE, networks.SIZE))
        with torch.no_grad():
            scores = net(torch.zeros(1, 3, networks.SIZE, networks.SIZE, device=self.device)).shape[1]
        for batch in sorted(self.batches, key=lambda n: (n != 1, -n)):
            image = x[:batch].astype(np.float32)
            seed = np.eye(scores, dtype=np.float32)[[TARGET] * batch]
            for case, function in peers.passes(fast, image, seed, self.device, captum=False).items():
                told = case.replace("torch", "torch compiled")
                tell({name: {"seconds": {str(batch): {told: self.seconds(function)}}}})

    def tensorrt(self, _: Tell) -> dict[str, Any]:
        """Network and gradient on TensorRT, where its libraries are there."""
        import onnxruntime as ort

        path, model, made, feeds, names = self.pair("EfficientNet-Lite0")
        del path, model
        two = {key: array[:2] for key, array in feeds.items()}
        wanted = "CPUExecutionProvider" if self.stand_in else "TensorrtExecutionProvider"
        if wanted not in ort.get_available_providers():
            return {"TensorRT": {"state": "not built in"}}
        ran = session(made, "tensorrt" if not self.stand_in else "cpu")
        if ran.get_providers()[0] != wanted:
            return {"TensorRT": {"state": "its libraries do not load"}}
        right = session(made, "cpu").run(names, two)
        found = {n: agreement(a, b) for n, a, b in zip(names, ran.run(names, two), right, strict=True)}
        told: dict[str, Any] = {f"cosine of {n}": one["cosine"] for n, one in found.items()}
        return {"TensorRT": {**told, "seconds for two": self.seconds(lambda: ran.run(names, two))}}

    def strided_depthwise(self, tell: Tell) -> None:
        """Both forms of a strided depthwise convolution's adjoint (grad/forms.py), on the card."""
        import onnx_ir as ir

        from onnxviz.graph.tape import Tape
        from onnxviz.programs import compile

        rng = np.random.default_rng(0)
        for channels, size, kernel in ((96, 112, 3), (144, 56, 5), (480, 14, 5)):
            pad, small = kernel // 2, size // 2
            weights = rng.standard_normal((channels, 1, kernel, kernel)).astype(np.float32)
            comb = np.tile(np.eye(1, 2, dtype=np.float32)[0], small)
            for form in ("stuffed", "transposed"):
                graph = ir.Graph([], [], nodes=[], name=form, opset_imports={"": 18})
                op = Tape(graph)
                g = op.input("g", ir.DataType.FLOAT, ["N", channels, small, small])
                if form == "stuffed":
                    scales = np.array([1, 1, 2, 2], np.float32)
                    wide = op.Resize(g, None, scales, mode="nearest", nearest_mode="floor",
                                     coordinate_transformation_mode="asymmetric")  # fmt: skip
                    wide = op.Mul(wide, comb[:, None] * comb)
                    pads = [kernel - 1 - pad] * 4
                    out = op.Conv(wide, weights[..., ::-1, ::-1].copy(), group=channels, pads=pads)
                else:
                    out = op.ConvTranspose(g, weights, group=channels, strides=[2, 2], pads=[pad] * 4,
                                           output_padding=[1, 1])  # fmt: skip
                out = op.output(out, "x")
                out.shape = ir.Shape(["N", channels, size, size])
                program = compile(ir.Model(graph, ir_version=10), provider=self.provider)
                for batch in self.batches:
                    fed = rng.standard_normal((batch, channels, small, small)).astype(np.float32)
                    run = held(program, {"g": fed}, "x", (batch, channels, size, size))
                    row = f"{batch} × {channels} × {size}², {kernel}×{kernel}"
                    tell({"strided depthwise": {row: {form: self.seconds(run)}}})

    # --- techniques -------------------------------------------------------------------------------

    def occlusion(self, tell: Tell) -> None:
        """The whole call against Captum's Occlusion on the card."""
        import torch
        from captum.attr import Occlusion

        net, photo = self.bundled
        tell(
            {
                "occlusion": {
                    "of": "windows of 32, stride 16",
                    **self.technique("occlusion", window=32, stride=16, fill="zero"),
                }
            }
        )
        model, x = self.bundled_peer, torch.from_numpy(net.prepare(photo)).to(self.device)
        captum = Occlusion(lambda batch: torch.softmax(model(batch), dim=1))
        options = {"sliding_window_shapes": (3, 32, 32), "strides": (3, 16, 16), "baselines": 0}
        for at_once in (8,) if self.stand_in else (64, 16, 1):
            with torch.no_grad():
                taken = self.seconds(
                    lambda at_once=at_once: captum.attribute(
                        x, target=TARGET, perturbations_per_eval=at_once, **options
                    )
                )
            tell({"occlusion": {f"Captum, {at_once} at once": taken}})

    def rise(self, tell: Tell) -> None:
        """Masks by the thousand, against bare passes of the same number, and RISE written in torch."""
        masks, batch = (24, 8) if self.stand_in else (4000, 64)
        net, photo = self.bundled
        tell({"rise": {"of": f"{masks} masks", **self.technique("rise", masks=masks)}})
        x = np.repeat(net.prepare(photo), batch, axis=0)
        program = net.program([net.head.scores])
        bare = self.seconds(lambda: program({net.input.name: x})) * math.ceil(masks / batch)
        tell({"rise": {"bare passes": bare}})
        model = self.bundled_peer
        tell(
            {
                "rise": {
                    "torch": self.once(lambda: peers.rise(model, x[:1], TARGET, masks, batch, self.device))
                }
            }
        )

    def ascent(self, tell: Tell) -> None:
        """Steps of class visualisation, preset lucid, against the same in torch."""
        import onnxviz

        net, _ = self.bundled
        steps = 6 if self.stand_in else 512
        few, taken = (
            self.once(lambda count=count: onnxviz.ascent(net, target=TARGET, preset="lucid", steps=count))
            for count in (4, steps)
        )
        tell({"ascent": {"of": f"{steps} steps", "ours": taken, "ours, 4 steps": few}})
        step = peers.ascent_step(net, self.bundled_peer, TARGET, self.device)
        for _ in range(3):
            step()
        tell({"ascent": {"torch": self.once(lambda: [step() for _ in range(steps)])}})

    def patches(self, tell: Tell) -> None:
        """Maximally activating patches over JPEG files of 500 by 375, against the same in torch."""
        from bench.patches import _last_maps, _photos

        import onnxviz

        net, _ = self.bundled
        count = 32 if self.stand_in else 2000
        with tempfile.TemporaryDirectory() as folder:
            paths = _photos(Path(folder) / "photos", count, (500, 375))
            layer = _last_maps(net)
            onnxviz.patches(net, paths[:16], layer)
            taken = self.once(lambda: onnxviz.patches(net, paths, layer))
            tell({"patches": {"of": f"{count} pictures", "ours": taken}})
            maps = peers.maps(self.bundled_peer)
            taken = self.once(lambda: peers.patches(maps, net, paths, self.device))
            tell({"patches": {"torch": taken}})

    def technique(self, name: str, **options: Any) -> dict[str, float]:
        """Seconds of a technique on the bundled network and one photo: the first call, and one that stands."""
        import onnxviz

        net, photo = self.bundled
        call = getattr(onnxviz, name)
        first, again = (self.once(lambda: call(net, photo, target=TARGET, **options)) for _ in range(2))
        return {"ours": again, "first call": first}

    def graphs(self, _: Tell) -> dict[str, Any]:
        """Steps of `ascent` with and without CUDA graphs (runtime/capture.py): equal pictures, and the time."""
        import onnxviz

        net, _photo = self.bundled
        steps = 6 if self.stand_in else 128
        made, taken = {}, {}
        for name in ("off", "on"):
            os.environ["ONNXVIZ_CUDA_GRAPHS"] = str(int(name == "on"))
            onnxviz.ascent(net, target=TARGET, preset="lucid", steps=4)
            start = time.perf_counter()
            pictures = onnxviz.ascent(net, target=TARGET, preset="lucid", steps=steps).pictures()
            taken[name], made[name] = time.perf_counter() - start, np.asarray(pictures, np.float64)
        apart = float(np.abs(made["on"] - made["off"]).max())
        return {"CUDA graphs": {"steps": steps, **taken, "largest difference of a picture": apart}}

    @cached_property
    def bundled(self) -> tuple[Any, np.ndarray]:
        """The bundled network on the provider, and a photo."""
        from skimage import data

        import onnxviz

        return onnxviz.load("efficientnet-lite0", provider=self.provider), data.chelsea()

    @cached_property
    def bundled_peer(self) -> Any:
        """The same in torch."""
        return peers.network("EfficientNet-Lite0", None, self.device)


def held(
    program: Any, feeds: dict[str, np.ndarray], output: str, shape: tuple[int, ...]
) -> Callable[[], Any]:
    """A run that reads and writes the card's memory (IO binding), with nothing copied to the host."""
    kept = {name: program.hold(array) for name, array in feeds.items()}
    into = {output: program.hold(np.zeros(shape, np.float32))}
    return lambda: program.run_bound({}, kept, into, [])


def session(model: Any, provider: str, tf32: bool = False, **config: Any) -> Any:
    """A bare session of a model with few options; `config` are fields of its SessionOptions."""
    import onnx_ir as ir
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    for name, value in config.items():
        setattr(options, name, value)
    wanted: list[Any] = ["CPUExecutionProvider"]
    if provider != "cpu":
        ort.preload_dlls()
        given = {"use_tf32": str(int(tf32)), "cudnn_conv_algo_search": "HEURISTIC"}
        wanted.insert(0, ("CUDAExecutionProvider", given))
    if provider == "tensorrt":
        wanted.insert(0, "TensorrtExecutionProvider")
    return ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=wanted)


def placed(model: Any, provider: str, feeds: dict[str, np.ndarray]) -> dict[str, int]:
    """The operators that ran on the CPU, and how often copies between the two memories were made, by its profiler."""
    with tempfile.TemporaryDirectory() as folder:
        made = session(model, provider, enable_profiling=True, profile_file_prefix=str(Path(folder) / "run"))
        made.run(None, feeds)
        events = json.loads(Path(made.end_profiling()).read_text())
    found: Counter[str] = Counter()
    for event in events:
        arguments = event.get("args", {})
        op = arguments.get("op_name", "")
        if event.get("name", "").endswith("_kernel_time") and (
            arguments.get("provider") == "CPUExecutionProvider" or op.startswith("Memcpy")
        ):
            found[op] += 1
    return dict(found.most_common())


def agreement(found: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """The largest difference relative to the largest value, and the cosine."""
    a, b = found.astype(np.float64).ravel(), right.astype(np.float64).ravel()
    cosine = float(a @ b / max(np.linalg.norm(a) * np.linalg.norm(b), 1e-300))
    return {"relative": float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-300)), "cosine": cosine}
