"""`compare` on planted faults, beside ONNX Runtime's `qdq_loss_debug` and Polygraphy's comparator; its time and memory.

The bundled network in both int8 forms (per channel, calibrated on 68 crops of photos); eight kinds of fault at ten
layers (`tools/quantise.py`), of which those count that cost 2 dB or more at the logits of the QDQ file. Who debugs
wants the faulty layer's name first. Then what a name is worth on a sound file: the layers that each names first are
left in float when the network is quantised anew.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import quantise

from bench import networks, turns

PROBES = 16  # pictures that rankings go by
COST = 2.0  # dB: a fault that costs less at the logits is none
RESTORED = (3, 5)
PICTURES, FEW = 200, 50
FORMS = ("QDQ", "QOperator")
TARGETS = {"EfficientNet-Lite0": 90, "ResNet-50": 360}
#: A ranking of the values of the float file, the worst first; empty where the tool cannot say.
Ranking = Callable[[Path, Path, np.ndarray], list[str]]


def parts() -> dict[str, Callable[[], list[dict]]]:
    """Each tool's names in each form, what names are worth, and the whole command on two networks."""
    return {
        **{f"{form}-{tool}": functools.partial(_names, form, tool) for form in FORMS for tool in TOOLS},
        "restored": _restored,
        **{name: functools.partial(_speed, name) for name in TARGETS},
        **{f"{name}-memory": functools.partial(_memory, name) for name in TARGETS},
    }


@functools.cache
def bundled() -> _Bundled:
    """Made once a run; its folder ends with the process."""
    return _Bundled()


class _Bundled:
    """The bundled network, its two sound int8 files, and pictures."""

    def __init__(self) -> None:
        from onnxviz.catalogue import resolve

        self._place = tempfile.TemporaryDirectory()
        self.folder = folder = Path(self._place.name)
        self.float = Path(resolve("efficientnet-lite0"))
        self.model = onnx.load(self.float)
        self.crops = folder / "crops"
        photos = quantise.inputs(self.model, quantise.crops(self.crops))
        self.ranges = quantise.calibrate(self.model, photos)
        self.x = photos[np.linspace(0, len(photos) - 1, PROBES).astype(int)]
        self.sound = {form: self.quantised(form) for form in FORMS}

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


def each(
    what: str, form: str, faults: Sequence[quantise.Fault], measure: Callable[[quantise.Fault], float]
) -> dict[str, Any]:
    """By fault, what is measured of it in a file of its own; kept one by one, so that a run that is stopped goes on."""
    sound, path = bundled().sound[form].SerializeToString(), networks.kept() / f"{what}.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    if found.get("file") != (file := hashlib.sha256(sound).hexdigest()):
        found = {"file": file}
    for fault in faults:
        if str(fault) not in found:
            found[str(fault)] = measure(fault)
            path.write_text(json.dumps(found))
    return {str(fault): found[str(fault)] for fault in faults}


@functools.cache
def costly() -> list[quantise.Fault]:
    """The planted faults that cost COST dB at the logits of the QDQ file."""
    given = bundled()
    sound, planted = given.sound["QDQ"], quantise.faults(given.model)
    clean = functools.cache(lambda: logits(given.float, given.x))
    whole = functools.cache(lambda: sqnr(clean(), logits(sound, given.x)))

    def cost(fault: quantise.Fault) -> float:
        return whole() - sqnr(clean(), logits(quantise.plant(sound, fault), given.x))

    costs = each("costs", "QDQ", planted, cost)
    return [fault for fault in planted if costs[str(fault)] >= COST]


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

        def matched(pictures: np.ndarray) -> dict:
            kept = []
            for path in (a, b):
                augmented = Path(place) / f"augmented-{path.name}"
                qdq_loss_debug.modify_model_output_intermediate_tensors(path, augmented)
                name = onnx.load(path, load_external_data=False).graph.input[0].name
                feeds = ({name: picture[None]} for picture in pictures)
                kept.append(qdq_loss_debug.collect_activations(str(augmented), feeds))
            found = qdq_loss_debug.create_activation_matching(kept[1], kept[0])
            return {name: arrays for name, arrays in found.items() if "float" in arrays}

        # It matches by names alone: what matches nothing with one picture does not with many.
        errors = qdq_loss_debug.compute_activation_error(matched(x) if matched(x[:1]) else {})
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


def _names(form: str, tool: str) -> list[dict]:
    """How often a tool names the faulty layer first, and among the first three."""
    given, faults = bundled(), costly()
    if tool == "onnxviz":
        places, how = by_kinds(form), "a layer's own effect beside those of the sound file's other layers"
    else:

        def place(fault: quantise.Fault) -> int:
            path = given.saved(quantise.plant(given.sound[form], fault))
            named = TOOLS[tool](given.float, path, given.x)
            found = (named.index(name) for name in fault.place.names if name in named)
            return min(found, default=len(named) + 9)

        places = each(f"{form}-{tool}", form, faults, place)
        how = "each fault in a file of its own"
    first = sum(place == 0 for place in places.values())
    return [
        {
            "name": f"`compare`, {len(faults)} planted faults in {form}: the faulty layer named first, by "
            + ("`onnxviz compare`" if tool == "onnxviz" else tool),
            "ratio": f"{first} of {len(faults)}",
            "target": "≥ 43 of 46" if tool == "onnxviz" else "none",
            "detail": f"in the first three {sum(place < 3 for place in places.values())}; {how}",
            "figures": {"places": places},
        }
    ]


def by_kinds(form: str) -> dict[str, int]:
    """How many other layers have at least the effect of the faulty one.

    One file holds a kind of fault at all layers where it counts: a layer's own effect does not depend on what the file
    does elsewhere, so that each stands against the sound file's other layers.
    """
    import onnxviz
    from onnxviz.comparing.hybrids import Hybrids
    from onnxviz.comparing.local import local
    from onnxviz.comparing.match import match, normal

    given, x = bundled(), bundled().x
    one, other = (onnxviz.load(file, provider="cpu") for file in (given.float, given.sound[form]))
    sound = Hybrids(one, other, match(one, other, x), x, x)
    own = {effect.layer: effect.e for effect in local(sound, heal=0).effects}
    places = {}
    for kind in quantise.KINDS:
        chosen = [fault for fault in costly() if fault.kind == kind]
        b: Any = onnxviz.load(functools.reduce(quantise.plant, chosen, given.sound[form]), provider="cpu")
        hybrids = Hybrids(one, b, dataclasses.replace(sound.matching, b=normal(b)), x, x)
        names = [next(name for name in fault.place.names if name in own) for fault in chosen]
        values = {pair.layer: value for value, pair in hybrids.pairs.items()}
        moved = hybrids.distances([hybrids.graft.local(values[name]) for name in names]).moved.mean(axis=1)
        for fault, name, e in zip(chosen, names, moved, strict=True):
            places[str(fault)] = sum(bool(effect >= e) for layer, effect in own.items() if layer != name)
    return places


def nodes(model: onnx.ModelProto, named: Sequence[str]) -> list[str]:
    """The operators of these layers of the float file: a convolution and the activation behind it are one layer."""
    together = {name: place.names for place in quantise.places(model) for name in place.names}
    wanted = {one for name in named for one in together.get(name, (name,))}
    return [node.name for node in model.graph.node if wanted.intersection(node.output)]


def _restored() -> list[dict]:
    """What the SQNR at the logits gains when the first layers of each ranking stay float."""
    given = bundled()
    clean = logits(given.float, given.x)
    path = given.saved(given.sound["QDQ"])
    before = sqnr(clean, logits(path, given.x))
    text = {}
    for tool, ranking in TOOLS.items():
        named = ranking(given.float, path, given.x)
        files = [given.quantised("QDQ", nodes(given.model, named[:count])) for count in RESTORED]
        text[tool] = " / ".join(f"{sqnr(clean, logits(file, given.x)) - before:+.1f}" for file in files)
    return [
        {
            "name": "`compare`, sound int8 file: the first 3 / 5 layers named left in float",
            "ratio": f"{text.pop('onnxviz')} dB",
            "target": "≥ +3 dB",
            "detail": f"{before:.1f} dB before; "
            + ", ".join(f"by {tool}'s ranking {gains} dB" for tool, gains in text.items()),
        }
    ]


# --- time and memory ------------------------------------------------------------------------------


def _command(name: str) -> tuple[list[str], list[Path], tuple[Path, Path]]:
    """The command without its photos, the photos, and the two files; what takes time to make is kept."""
    a = networks.save(name, networks.kept())
    b = networks.kept() / f"{name}.int8.onnx"
    recipe = ["--preprocess", "efficientnet-lite"]
    if not b.exists():
        given, model = bundled(), onnx.load(a)
        own = name == "EfficientNet-Lite0"
        ranges = given.ranges if own else quantise.calibrate(model, given.x)
        onnx.save(quantise.quantise(model, quantise.Scheme("QDQ"), ranges), b)
    out = str(networks.kept() / f"compared-{name}")
    command = ["compare", str(a), str(b), "--quiet", *recipe, "-o", out]
    return command, pictures(), (a, b)


def pictures() -> list[Path]:
    """Crops of the demo's photos, which are kept."""
    from onnxviz.demo.photos import photos, write_crops

    folder = networks.kept() / "photos"
    if not folder.exists():
        found = [*photos().values()]
        write_crops(folder, found, -(-PICTURES // len(found)), seed=1)
    return sorted(folder.iterdir())[:PICTURES]


def _speed(name: str) -> list[dict]:
    """The whole command with 16 probes, in a process of its own."""
    command, photos, _ = _command(name)
    start = time.perf_counter()
    turns.peak(_COMMAND, *command, *map(str, photos))
    took = time.perf_counter() - start
    return [
        {
            "name": f"`onnxviz compare`, {name}, {PICTURES} photos",
            "ratio": f"{took:.0f} s",
            "values": [took],
            "target": f"≤ {TARGETS[name]} s",
            "detail": f"{PROBES} probes",
        }
    ]


def _memory(name: str) -> list[dict]:
    """Its memory with few photos and with many, beside that of two sessions alone."""
    command, photos, files = _command(name)
    few = photos[:: PICTURES // FEW]
    early, peak = (turns.peak(_COMMAND, *command, *map(str, some)) / 2**20 for some in (few, photos))
    bare = turns.peak(_SESSIONS, *map(str, files)) / 2**20
    return [
        {
            "name": f"`onnxviz compare`, {name}: peak memory",
            "ratio": f"{peak:.0f} MB",
            "target": f"≤ {1.5 * bare + 200:.0f} MB",
            "detail": f"{PICTURES} photos; {early:.0f} MB with {len(few)}; the target is 1.5 times a process "
            f"with both sessions, {bare:.0f} MB, and 200 MB",
        }
    ]


# What the program does in its child. Findings are no failure.
_COMMAND = """
import sys
from onnxviz import isolate
from onnxviz.cli.main import run
isolate.serve(isolate.Board(bytearray(isolate.SIZE)))
code = run(sys.argv[1:])
assert code in (0, 1), code
"""
_SESSIONS = """
import sys
import numpy as np
import onnxruntime
both = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in sys.argv[1:]]
for session in both:
    (image,) = session.get_inputs()
    sides = [size if isinstance(size, int) else 224 for size in image.shape[1:]]
    session.run(None, {image.name: np.zeros((1, *sides), np.float32)})
"""
