"""`compare` on planted faults, beside ONNX Runtime's `qdq_loss_debug` and Polygraphy's comparator; its time and memory.

The bundled network in both int8 forms (per channel, calibrated on 68 crops of photos); eight kinds of fault at ten
layers (`tools/quantise.py`), of which those count that cost 2 dB or more at the logits of the QDQ file. Who debugs
wants the faulty layer's name first. Then what a name is worth on a sound file: the layers that each names first are
left in float when the network is quantised anew.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx
import quantise

PROBES = 16  # pictures that rankings go by
COST = 2.0  # dB: a fault that costs less at the logits is none
RESTORED = (3, 5)
PICTURES = 200
TARGETS = {"EfficientNet-Lite0": 90, "ResNet-50": 360}
#: A ranking of the values of the float file, the worst first; None where the tool cannot say.
Ranking = Callable[[Path, Path, np.ndarray], list[str]]


def run() -> list[dict]:
    """The rows of the table."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        bundled = _Bundled(folder)
        faults = costly(bundled)
        rows = [row for form in ("QDQ", "QOperator") for row in _ranks(bundled, form, faults)]
        return [*rows, _usefulness(bundled), *_speed(bundled)]


class _Bundled:
    """The bundled network, its two sound int8 files, and pictures."""

    def __init__(self, folder: Path) -> None:
        from onnxviz.catalogue import resolve

        self.folder = folder
        self.float = Path(resolve("efficientnet-lite0"))
        self.model = onnx.load(self.float)
        self.crops = folder / "crops"
        photos = quantise.inputs(self.model, quantise.crops(self.crops))
        self.ranges = quantise.calibrate(self.model, photos)
        self.x = photos[np.linspace(0, len(photos) - 1, PROBES).astype(int)]
        self.sound = {form: self.quantised(form) for form in ("QDQ", "QOperator")}

    def quantised(self, form: str, exclude: Sequence[str] = ()) -> onnx.ModelProto:
        return quantise.quantise(self.model, quantise.Scheme(form, exclude=tuple(exclude)), self.ranges)

    def saved(self, model: onnx.ModelProto) -> Path:
        path = self.folder / "int8.onnx"
        onnx.save(model, path)
        return path


# --- rankings -------------------------------------------------------------------------------------


def logits(model: onnx.ModelProto | Path, x: np.ndarray) -> np.ndarray:
    """What the file says, (N, classes) less their mean: without graph optimisations, which are faults of their own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    (image,) = session.get_inputs()
    z = session.run(None, {image.name: x})[0].reshape(len(x), -1).astype(np.float64)
    return z - z.mean(axis=1, keepdims=True)


def sqnr(clean: np.ndarray, noisy: np.ndarray) -> float:
    """Signal to noise in dB."""
    return float(20 * np.log10(np.linalg.norm(clean) / max(np.linalg.norm(clean - noisy), 1e-30)))


def costly(bundled: _Bundled, form: str = "QDQ") -> list[quantise.Fault]:
    """The planted faults that cost COST dB at the logits."""
    clean = logits(bundled.float, bundled.x)
    sound = sqnr(clean, logits(bundled.sound[form], bundled.x))

    def cost(fault: quantise.Fault) -> float:
        return sound - sqnr(clean, logits(quantise.plant(bundled.sound[form], fault), bundled.x))

    return [fault for fault in quantise.faults(bundled.model) if cost(fault) >= COST]


def by_onnxviz(a: Path, b: Path, x: np.ndarray) -> list[str]:
    """By local effect: one layer of B at a time in A."""
    import onnxviz
    from onnxviz.comparing.hybrids import Hybrids
    from onnxviz.comparing.local import local
    from onnxviz.comparing.match import match

    one, other = (onnxviz.load(path, provider="cpu") for path in (a, b))
    hybrids = Hybrids(one, other, match(one, other, x), x, x)
    return [effect.layer for effect in local(hybrids, heal=0).ranked]


def by_ort(a: Path, b: Path, x: np.ndarray) -> list[str]:
    """By `qdq_loss_debug`: the lowest SQNR of what it matches, by its own functions."""
    from onnxruntime.quantization import qdq_loss_debug

    with tempfile.TemporaryDirectory() as place:
        kept = []
        for path in (a, b):
            augmented = Path(place) / f"augmented-{path.name}"
            qdq_loss_debug.modify_model_output_intermediate_tensors(path, augmented)
            name = onnx.load(path, load_external_data=False).graph.input[0].name
            feeds = ({name: picture[None]} for picture in x)
            kept.append(qdq_loss_debug.collect_activations(str(augmented), feeds))
        matched = qdq_loss_debug.create_activation_matching(kept[1], kept[0])
        errors = qdq_loss_debug.compute_activation_error(
            {name: arrays for name, arrays in matched.items() if "float" in arrays}
        )
    return sorted(errors, key=lambda name: errors[name]["xmodel_err"])


def by_polygraphy(a: Path, b: Path, x: np.ndarray) -> list[str]:
    """By Polygraphy's comparator on ONNX Runtime, all values as outputs: the largest mean relative difference."""
    from polygraphy.backend.onnx import BytesFromOnnx, ModifyOutputs, OnnxFromPath
    from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
    from polygraphy.comparator import Comparator, CompareFunc
    from polygraphy.constants import MARK_ALL
    from polygraphy.logger import G_LOGGER

    name = onnx.load(a, load_external_data=False).graph.input[0].name
    runners = [
        OnnxrtRunner(SessionFromOnnx(BytesFromOnnx(ModifyOutputs(OnnxFromPath(str(path)), outputs=MARK_ALL))))
        for path in (a, b)
    ]
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
        results = Comparator.run(runners, data_loader=[{name: picture[None]} for picture in x])
        compare = CompareFunc.simple(check_error_stat="mean", fail_fast=False)
        compared = Comparator.compare_accuracy(results, compare_func=compare)
    errors: dict[str, list[float]] = {}
    for row in (row for result in compared for rows in result.values() for row in rows):
        for value, result in row.items():
            if isinstance(result, bool):  # of other shapes
                continue
            errors.setdefault(value, []).append(float(result.mean_reldiff))
    return sorted(errors, key=lambda value: -statistics.fmean(errors[value]))


TOOLS: dict[str, Ranking] = {"onnxviz": by_onnxviz, "qdq_loss_debug": by_ort, "Polygraphy": by_polygraphy}


def _ranks(bundled: _Bundled, form: str, faults: Sequence[quantise.Fault]) -> Iterable[dict]:
    """How often each tool names the faulty layer first, and among the first three."""
    told = []
    first: dict[str, int] = {}
    for tool, ranking in TOOLS.items():
        places = []
        for fault in faults:
            path = bundled.saved(quantise.plant(bundled.sound[form], fault))
            named = ranking(bundled.float, path, bundled.x)
            places.append(
                min((named.index(n) for n in fault.place.names if n in named), default=len(named) + 9)
            )
        first[tool] = sum(place == 0 for place in places)
        told.append(f"{tool} {first[tool]}, in the first three {sum(place < 3 for place in places)}")
    yield {
        "name": f"`compare`, {len(faults)} planted faults in {form}: the faulty layer named first",
        "ratio": f"{first['onnxviz']} of {len(faults)}",
        "target": "≥ 43 of 46",
        "detail": "; ".join(told),
    }


def nodes(model: onnx.ModelProto, named: Sequence[str]) -> list[str]:
    """The operators of these layers of the float file: a convolution and the activation behind it are one layer."""
    together = {name: place.names for place in quantise.places(model) for name in place.names}
    wanted = {one for name in named for one in together.get(name, (name,))}
    return [node.name for node in model.graph.node if wanted.intersection(node.output)]


def _usefulness(bundled: _Bundled) -> dict:
    """What the SQNR at the logits gains when the first layers of each ranking stay float."""
    clean = logits(bundled.float, bundled.x)
    path = bundled.saved(bundled.sound["QDQ"])
    before = sqnr(clean, logits(path, bundled.x))
    gains = {}
    for tool in ("onnxviz", "qdq_loss_debug"):
        named = TOOLS[tool](bundled.float, path, bundled.x)
        gains[tool] = [
            sqnr(clean, logits(bundled.quantised("QDQ", nodes(bundled.model, named[:count])), bundled.x))
            - before
            for count in RESTORED
        ]
    text = {tool: " / ".join(f"{gain:+.1f}" for gain in found) for tool, found in gains.items()}
    return {
        "name": "`compare`, sound int8 file: the first 3 / 5 layers named left in float",
        "ratio": f"{text['onnxviz']} dB",
        "target": "≥ +3 dB",
        "detail": f"by qdq_loss_debug's ranking {text['qdq_loss_debug']} dB",
    }


# --- time and memory ------------------------------------------------------------------------------


def _speed(bundled: _Bundled) -> Iterable[dict]:
    """The whole command with 16 probes, in a process of its own."""
    from bench.networks import save

    pictures = bundled.folder / "pictures"
    from onnxviz.demo.photos import photos, write_crops

    found = photos()
    write_crops(pictures, found, -(-PICTURES // len(found)), seed=1)
    for extra in sorted(pictures.iterdir())[PICTURES:]:
        extra.unlink()
    for name, seconds in TARGETS.items():
        a = bundled.float if name == "EfficientNet-Lite0" else save(name, bundled.folder)
        model = onnx.load(a)
        ranges = bundled.ranges if a == bundled.float else quantise.calibrate(model, bundled.x)
        b = bundled.saved(quantise.quantise(model, quantise.Scheme("QDQ"), ranges))
        recipe = [] if a == bundled.float else ["--preprocess", "efficientnet-lite"]
        took, peak = _timed(
            ["compare", str(a), str(b), str(pictures), "-o", str(bundled.folder / name), *recipe]
        )
        yield {
            "name": f"`onnxviz compare`, {name}, {PICTURES} photos",
            "ratio": f"{took:.0f} s",
            "target": f"≤ {seconds} s",
            "detail": f"{PROBES} probes; memory at most {peak / 2**20:.0f} MB",
        }


def _timed(arguments: Sequence[str]) -> tuple[float, int]:
    """Wall-clock seconds and the largest resident memory, in bytes, of a command; findings are no failure."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "onnxviz", *arguments, "--quiet"], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code not in (0, 1):
        raise SystemExit(f"onnxviz {' '.join(arguments)} ended with {code}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024


def main() -> None:
    """The faults that count, one a line."""
    with tempfile.TemporaryDirectory() as place:
        print(*costly(_Bundled(Path(place))), sep="\n")


if __name__ == "__main__":
    main()
