"""Networks and gradients on one NVIDIA card against the CPU provider, torch on the same card and Captum.

`tools/gpu.sh` calls it on a machine without a network; `--stand-in` rehearses every step on the CPU with few rounds.
It writes gpu.json (all figures) and gpu.md (the tables) into --out after every step, so that what was measured before
a time limit is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TOOLS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(TOOLS), str(TOOLS.parent)]

from bench import networks  # noqa: E402

BATCHES = (1, 8, 64)
ROUNDS, LEAST_SECONDS = 30, 0.4
# The largest first cost most to export; what no time is left for is named in the table.
ORDER = (
    "EfficientNet-Lite0", "ResNet-50", "SqueezeNet", "ConvNeXt-T", "DenseNet-121", "GoogLeNet", "MobileNetV2", "VGG-16",
)  # fmt: skip


class Bench:
    """One run of all steps, and the figures so far."""

    def __init__(self, out: Path, *, stand_in: bool, seconds: float) -> None:
        self.out, self.stand_in = out, stand_in
        self.provider, self.device = ("cpu", "cpu") if stand_in else ("cuda", "cuda")
        self.batches = BATCHES[:2] if stand_in else BATCHES
        self.rounds = 2 if stand_in else ROUNDS
        self.end = time.monotonic() + seconds
        self.figures: dict[str, Any] = {"machine": machine(), "skipped": []}
        self.folder = Path(tempfile.mkdtemp())

    def step(self, name: str, function: Callable[[], Any], needs: float) -> None:
        """Run a step if `needs` seconds are left, and write what is known; one that fails is named and passed over."""
        if time.monotonic() + needs > self.end:
            self.figures["skipped"].append(f"{name}: no time left")
        else:
            begun = time.monotonic()
            try:
                self.figures[name] = function()
            except Exception as error:  # one peer's failure must not cost the other figures
                self.figures["skipped"].append(
                    f"{name}: {type(error).__name__}: {str(error).splitlines()[0][:300]}"
                )
            print(f"{name}: {time.monotonic() - begun:.1f} s", flush=True)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "gpu.json").write_text(json.dumps(self.figures, indent=1, default=str))
        (self.out / "gpu.md").write_text(render(self.figures))

    # --- timing -----------------------------------------------------------------------------------

    def wait(self) -> None:
        """Until the card has done what torch gave it."""
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()

    def seconds(self, function: Callable[[], Any]) -> float:
        """The median of rounds after a warm-up of three."""
        for _ in range(1 if self.stand_in else 3):
            function()
        self.wait()
        times: list[float] = []
        begun = time.perf_counter()
        while len(times) < self.rounds and (
            len(times) < 3 or time.perf_counter() - begun < 10 * LEAST_SECONDS
        ):
            start = time.perf_counter()
            function()
            self.wait()
            times.append(time.perf_counter() - start)
        return statistics.median(times)

    # --- networks ---------------------------------------------------------------------------------

    def network(self, name: str) -> dict[str, Any]:
        """Agreement with the CPU provider, and the times of forward and gradient."""
        from onnxviz.grad.model import gradient_model
        from onnxviz.graph.open.load import load
        from onnxviz.programs import compile

        path = networks.save(name, self.folder)
        model = load(str(path)).model
        source = next(v.name for v in model.graph.inputs if not v.is_initializer())
        output = model.graph.outputs[0].name
        made = gradient_model(model, of=output, wrt=source)
        rng = np.random.default_rng(0)
        x = rng.standard_normal((max(self.batches), 3, networks.SIZE, networks.SIZE)).astype(np.float32)
        shape = (len(x), *compile(model, provider="cpu")({source: x[:1]})[output].shape[1:])
        seed = np.zeros(shape, np.float32)
        seed.reshape(len(x), -1)[:, 285] = 1.0
        feeds = {source: x, f"{output}.cotangent": seed}
        names = [output, f"{source}.gradient"]
        two = {key: array[:2] for key, array in feeds.items()}
        right = compile(made, provider="cpu")(two, names)
        found: dict[str, Any] = {"agreement": {}, "seconds": {}}
        for tf32 in (False, True):
            arrays = dict(zip(names, session(made, self.provider, tf32).run(names, two), strict=True))
            found["agreement"]["TF32" if tf32 else "float32"] = [
                agreement(arrays[n], right[n]) for n in names
            ]
        found["on_cpu"] = placed(made, self.provider, two)
        forward, backward = compile(model, provider=self.provider), compile(made, provider=self.provider)
        peer = self.peer(name, path)
        for batch in self.batches:
            cut = {key: array[:batch] for key, array in feeds.items()}
            row = {
                "forward": self.seconds(lambda cut=cut: forward({source: cut[source]})),
                "gradient": self.seconds(lambda cut=cut: backward(cut, names[1:])),
                "forward on the card": self.seconds(
                    self.held(forward, {source: cut[source]}, output, cut[f"{output}.cotangent"].shape)
                ),
                "gradient on the card": self.seconds(self.held(backward, cut, names[1], cut[source].shape)),
            }
            with contextlib.suppress(Exception):
                row |= self.torch(peer, cut[source], cut[f"{output}.cotangent"])
            found["seconds"][str(batch)] = row
        return found

    def held(
        self, program: Any, feeds: dict[str, np.ndarray], output: str, shape: tuple[int, ...]
    ) -> Callable[[], Any]:
        """A run that reads and writes the card's memory, with nothing copied to the host."""
        held = {name: program.hold(array) for name, array in feeds.items()}
        into = {output: program.hold(np.zeros(shape, np.float32))}
        return lambda: program.run_bound({}, held, into, [])

    def peer(self, name: str, path: Path) -> Any:
        """The same network as a torch module on the card; float32 without TF32, cuDNN choosing by trial."""
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.benchmark = True
        net = networks.module(name, path)
        return net.to(self.device) if hasattr(net, "to") else None

    def torch(self, net: Any, x: np.ndarray, seed: np.ndarray) -> dict[str, float]:
        """Forward and gradient of torch, eager, arrays on the card."""
        import torch

        image, cotangent = (torch.from_numpy(array).to(self.device) for array in (x, seed))

        def forward() -> None:
            with torch.no_grad():
                net(image)

        def gradient() -> None:
            leaf = image.detach().requires_grad_(True)
            y = net(leaf)
            torch.autograd.grad(y, leaf, cotangent.reshape(y.shape))

        return {"torch forward": self.seconds(forward), "torch gradient": self.seconds(gradient)}

    # --- techniques -------------------------------------------------------------------------------

    def occlusion(self) -> dict[str, Any]:
        """The whole call against Captum's Occlusion on the card, at 64 windows a run."""
        import torch
        from captum.attr import Occlusion

        net, photo = self.bundled()
        x = torch.from_numpy(net.prepare(photo)).to(self.device)
        model = self.peer("EfficientNet-Lite0", self.folder / "EfficientNet-Lite0.onnx")
        captum = Occlusion(lambda batch: torch.softmax(model(batch), dim=1))
        ours = self.technique("occlusion", window=32, stride=16, fill="zero")

        def theirs(at_once: int) -> Any:
            with torch.no_grad():
                return captum.attribute(x, target=285, sliding_window_shapes=(3, 32, 32), strides=(3, 16, 16),
                                        baselines=0, perturbations_per_eval=at_once)  # fmt: skip

        at = (4,) if self.stand_in else (1, 16, 64)
        return {"ours": ours, **{f"Captum, {n} at once": self.seconds(lambda n=n: theirs(n)) for n in at}}

    def rise(self) -> dict[str, Any]:
        """4,000 masks, against bare forward passes of the same number."""
        masks = 63 if self.stand_in else 4000
        net, photo = self.bundled()
        program, batch = net.program([net.head.scores]), 64
        x = np.repeat(net.prepare(photo), batch, axis=0)
        bare = self.seconds(lambda: program({net.input.name: x})) * math.ceil(masks / batch)
        return {"masks": masks, "ours": self.technique("rise", masks=masks), "bare passes": bare}

    def technique(self, name: str, **options: Any) -> float:
        """Seconds of a technique on the bundled network and one photo."""
        import onnxviz

        net, photo = self.bundled()
        getattr(onnxviz, name)(net, photo, target=285, **options)  # builds and warms up
        start = time.perf_counter()
        getattr(onnxviz, name)(net, photo, target=285, **options)
        return time.perf_counter() - start

    def ascent(self) -> dict[str, Any]:
        """512 steps of class visualisation, preset lucid."""
        import onnxviz

        net, _ = self.bundled()
        steps = 8 if self.stand_in else 512
        onnxviz.ascent(net, target=285, preset="lucid", steps=4)
        start = time.perf_counter()
        onnxviz.ascent(net, target=285, preset="lucid", steps=steps)
        return {"steps": steps, "ours": time.perf_counter() - start}

    def patches(self) -> dict[str, Any]:
        """Maximally activating patches over JPEG files of 500 by 375."""
        import onnxviz
        from bench.patches import _last_maps, _photos

        net, _ = self.bundled()
        paths = _photos(self.folder / "photos", 32 if self.stand_in else 2000, (500, 375))
        layer = _last_maps(net)
        onnxviz.patches(net, paths[:16], layer)
        start = time.perf_counter()
        onnxviz.patches(net, paths, layer)
        return {"pictures": len(paths), "ours": time.perf_counter() - start}

    def bundled(self) -> tuple[Any, np.ndarray]:
        """The bundled network on the provider, and a photo."""
        from skimage import data

        import onnxviz

        if not hasattr(self, "_bundled"):
            self._bundled = onnxviz.load("efficientnet-lite0", provider=self.provider), data.chelsea()
        return self._bundled


def session(model: Any, provider: str, tf32: bool = False, **config: Any) -> Any:
    """A bare session of a model with few options; `config` are fields of its SessionOptions."""
    import onnx_ir as ir
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    for name, value in config.items():
        setattr(options, name, value)
    if provider == "cuda":
        ort.preload_dlls()
    cuda = ("CUDAExecutionProvider", {"use_tf32": str(int(tf32)), "cudnn_conv_algo_search": "HEURISTIC"})
    wanted: list[Any] = [cuda, "CPUExecutionProvider"] if provider == "cuda" else ["CPUExecutionProvider"]
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


def machine() -> dict[str, str]:
    """The card and the versions that matter."""
    import onnxruntime
    import torch

    card = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "no card (stand-in)"
    return {
        "card": card,
        "python": sys.version.split()[0],
        "onnxruntime": f"{onnxruntime.__version__} ({', '.join(onnxruntime.get_available_providers())})",
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
    }


# --- tables ---------------------------------------------------------------------------------------


def render(figures: dict[str, Any]) -> str:
    """All figures as Markdown tables."""
    lines = [", ".join(f"{key} {value}" for key, value in figures["machine"].items()), ""]
    nets = {name: figures[name] for name in ORDER if name in figures}
    lines += _agreement(nets) + _times(nets)
    for name in ("occlusion", "rise", "ascent", "patches"):
        if name in figures:
            told = ", ".join(
                f"{k} {v:.3f} s" if isinstance(v, float) else f"{v} {k}" for k, v in figures[name].items()
            )
            lines.append(f"- {name}: {told}")
    lines += [f"- not measured: {line}" for line in figures["skipped"]]
    return "\n".join(lines) + "\n"


def _agreement(nets: dict[str, Any]) -> list[str]:
    columns = (
        "network", "logits, float32", "gradient, float32", "cosine", "gradient, TF32", "cosine", "on the CPU",
    )  # fmt: skip
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for name, found in nets.items():
        (logits, plain), (_, fast) = found["agreement"]["float32"], found["agreement"]["TF32"]
        there = ", ".join(f"{count} {op}" for op, count in found["on_cpu"].items()) or "nothing"
        lines.append(
            f"| {name} | {logits['relative']:.1e} | {plain['relative']:.1e} | {plain['cosine']:.6f} | "
            f"{fast['relative']:.1e} | {fast['cosine']:.6f} | {there} |"
        )
    return [*lines, ""]


def _times(nets: dict[str, Any]) -> list[str]:
    columns = (
        "forward",
        "gradient",
        "forward on the card",
        "gradient on the card",
        "torch forward",
        "torch gradient",
    )
    lines = [
        f"| milliseconds | pictures | {' | '.join(columns)} | torch's gradient over ours |",
        "|---" * 9 + "|",
    ]
    for name, found in nets.items():
        for batch, row in found["seconds"].items():
            cells = [f"{1e3 * row[column]:.2f}" if column in row else "" for column in columns]
            ratio = row["torch gradient"] / row["gradient on the card"] if "torch gradient" in row else None
            lines.append(f"| {name} | {batch} | {' | '.join(cells)} | {f'{ratio:.2f}×' if ratio else ''} |")
    return [*lines, ""]


def main() -> int:
    """All steps, the most telling first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=330.0, help="of all steps together")
    parser.add_argument("--stand-in", action="store_true", help="on the CPU, to rehearse")
    given = parser.parse_args()
    bench = Bench(given.out, stand_in=given.stand_in, seconds=given.seconds)
    few, rest = ORDER[:3], ORDER[3:]
    for name in few:
        bench.step(name, lambda name=name: bench.network(name), 20)
    for name in ("occlusion", "rise", "ascent", "patches"):
        bench.step(name, getattr(bench, name), 15)
    for name in () if given.stand_in else rest:
        bench.step(name, lambda name=name: bench.network(name), 30)
    print((given.out / "gpu.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
