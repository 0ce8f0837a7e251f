"""Input gradients of eight networks against twice ONNX Runtime's forward time, torch, ort-training and onnx-ad.

Everything of one network runs interleaved, one gradient each in turn, on two threads; a ratio is the median of the
rounds' ratios. onnxviz is timed through its own runtime, as its techniques run it. Sessions and graphs are built
before, which rows of their own tell about.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench import gradient_peers as peers
from bench import networks

SECONDS = 9.0  # of rounds for each network and batch
LEAST, MOST = 3, 40
COMPILED = ("EfficientNet-Lite0", "ResNet-50")  # torch.compile takes a minute each
PEERS = ("torch", "torch.compile", "ort-training", "onnx-ad")


@dataclass
class Measured:
    """One network: figures by batch, and what could not be measured."""

    name: str
    floor: dict[int, float] = field(default_factory=dict)  # gradient ÷ (2 × forward)
    exported: dict[int, float] = field(default_factory=dict)  # the same of the graph for any device
    seconds: dict[int, float] = field(default_factory=dict)
    speed: dict[tuple[str, int], float] = field(default_factory=dict)  # peer's time ÷ ours
    notes: dict[str, str] = field(default_factory=dict)
    off: float = 0.0  # cosine distance to torch's gradient


def run() -> list[dict]:
    """One row a network, the means over them, then building, session start and memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            training: Path | str = peers.training_python()
        except peers.Unmeasured as reason:
            training = str(reason)
        measured = [_network(network, folder, training) for network in networks.NAMES]
        return [
            *(_row(m) for m in measured),
            *_means(measured),
            *_start(networks.save("ResNet-50", folder)),
            *_memory(folder),
        ]


def _network(name: str, folder: Path, training: Path | str) -> Measured:
    path = networks.save(name, folder)
    net = networks.module(name, path)
    found = Measured(name)
    for batch in (1, 8):
        rng = np.random.default_rng(batch)
        x = rng.standard_normal((batch, 3, networks.SIZE, networks.SIZE)).astype(np.float32)
        forward = peers.forward(path, x)
        shape = np.shape(forward()[0])
        cotangent = np.zeros(shape, np.float32)
        cotangent.reshape(batch, -1)[:, 285] = 1.0
        ours = peers.native(path, x, cotangent)
        steps: dict[str, Any] = {
            "forward": forward,
            "ours": ours,
            "torch": peers.torch_eager(net, x, cotangent),
        }
        steps["exported"] = peers.native(path, x, cotangent, cpu=False)
        mine, theirs = ours().ravel(), steps["torch"]().ravel()
        found.off = max(found.off, 1 - float(mine @ theirs / np.linalg.norm(mine) / np.linalg.norm(theirs)))
        child = None
        if batch == 1:
            child = _single(found, steps, path, (x, cotangent, theirs), net, training)
        times = _rounds(steps, child)
        if child is not None:
            child.close()
        ratio = _ratios(times)
        found.floor[batch] = ratio("ours", "forward") / 2
        found.exported[batch] = ratio("exported", "forward") / 2
        found.seconds[batch] = statistics.median(times["ours"])
        for peer in PEERS:
            if peer in times:
                found.speed[peer, batch] = ratio(peer, "ours")
    return found


def _single(
    found: Measured, steps: dict[str, Any], path: Path, arrays: Any, net: Any, training: Path | str
) -> peers.OrtTraining | None:
    """Add the peers that are measured with one picture; those that cannot be go into the notes."""
    x, cotangent, right = arrays
    try:
        steps["onnx-ad"], found.notes["onnx-ad"] = peers.onnx_ad(path, x, cotangent, right)
    except peers.Unmeasured as reason:
        found.notes["onnx-ad"] = f" refuses ({reason})"
    if found.name in COMPILED:
        try:
            steps["torch.compile"] = peers.torch_compiled(net, x, cotangent)
        except peers.Unmeasured as reason:
            found.notes["torch.compile"] = f" fails ({reason})"
    try:
        if isinstance(training, str):
            raise peers.Unmeasured(training)
        child = peers.OrtTraining(training, path, x, cotangent)
    except peers.Unmeasured as reason:
        found.notes["ort-training"] = f" refuses ({reason})"
        return None
    off = float(np.linalg.norm(child.gradient.ravel() - right) / np.linalg.norm(right))
    found.notes["ort-training"] = f", and wrong (relative error {off:.1g})" if off > 0.05 else ""
    return child


def _rounds(steps: dict[str, Any], child: peers.OrtTraining | None) -> dict[str, list[float]]:
    """Seconds of each, in turn, in alternating order; the first round is thrown away."""
    order = [*steps, *(["ort-training"] if child is not None else [])]
    times: dict[str, list[float]] = {name: [] for name in order}
    begun = time.perf_counter()
    for turn in range(MOST + 1):
        if turn > LEAST and time.perf_counter() - begun > SECONDS:
            break
        for name in order if turn % 2 else reversed(order):
            asked = child is not None and name == "ort-training"
            times[name].append(child.seconds() if asked and child else peers.timed(steps[name]))
    return {name: taken[1:] for name, taken in times.items()}


def _ratios(times: dict[str, list[float]]) -> Any:
    return lambda a, b: statistics.median(p / q for p, q in zip(times[a], times[b], strict=True))


def _row(m: Measured) -> dict:
    parts = [f"{m.seconds[1] * 1e3:.0f} and {m.seconds[8] * 1e3:.0f} ms"]
    for peer in PEERS:
        values = [f"{m.speed[peer, batch]:.1f}×" for batch in (1, 8) if (peer, batch) in m.speed]
        if values:
            parts.append(f"{peer} {' and '.join(values)} as long{m.notes.get(peer, '')}")
        elif m.notes.get(peer):
            parts.append(f"{peer}{m.notes[peer]}")
    return {
        "name": f"gradient of {m.name} over twice the forward time, 1 and 8 pictures",
        "ratio": f"{m.floor[1]:.2f} and {m.floor[8]:.2f}",
        "target": "≤ 1.5",
        "detail": "; ".join(parts),
    }


def _mean(values: list[float]) -> float:
    return math.exp(statistics.fmean(math.log(v) for v in values))


def _means(measured: list[Measured]) -> list[dict]:
    rows = []
    by_batch = [_mean([m.floor[batch] for m in measured]) for batch in (1, 8)]
    exported = [_mean([m.exported[batch] for m in measured]) for batch in (1, 8)]
    rows.append(
        {
            "name": "gradient over twice the forward time, geometric mean",
            "ratio": f"{by_batch[0]:.2f} and {by_batch[1]:.2f}",
            "target": "≤ 1.25",
            "detail": f"as the file that `onnxviz gradient` writes, which is for any device: {exported[0]:.2f} and "
            f"{exported[1]:.2f}; cosine to torch's gradients ≥ {1 - max(m.off for m in measured):.6f}",
        }
    )
    for peer, target in zip(PEERS, ("≥ 2×, none under 1×", "", "≥ 1.3×", "≥ 4×"), strict=True):
        values = {(m.name, b): m.speed[peer, b] for m in measured for b in (1, 8) if (peer, b) in m.speed}
        if not values:
            continue
        (worst, batch), least = min(values.items(), key=lambda item: item[1])
        count = len({name for name, _ in values})
        rows.append(
            {
                "name": f"gradient, speed over {peer}, geometric mean",
                "ratio": f"{_mean(list(values.values())):.1f}×",
                "target": target or "none",
                "detail": f"{count} of {len(measured)} networks; least {least:.2f}× ({worst}, batch {batch})",
            }
        )
    return rows


def _start(path: Path) -> list[dict]:
    """How long ResNet-50's gradient model takes to build and to load."""
    from onnxviz.grad.model import gradient_model
    from onnxviz.graph.open.load import load
    from onnxviz.programs import compile

    model = load(str(path)).model
    made = gradient_model(model, cpu=True)
    steps = {
        "build": lambda: gradient_model(model, cpu=True),
        "forward": lambda: compile(model, provider="cpu", threads=peers.THREADS),
        "backward": lambda: compile(made, provider="cpu", threads=peers.THREADS),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(5):
        for name, step in steps.items():
            times[name].append(peers.timed(step))
    built, forward, backward = times.values()
    ratio = statistics.median(b / f for b, f in zip(backward, forward, strict=True))
    return [
        {
            "name": "building ResNet-50's gradient model",
            "ratio": f"{statistics.median(built):.2f} s",
            "target": "≤ 1 s",
            "detail": f"{len(list(made.graph))} nodes, of which {len(list(model.graph))} forward",
        },
        {
            "name": "its session, start over the forward session's",
            "ratio": f"{ratio:.2f}×",
            "target": "≤ 2×",
            "detail": f"{statistics.median(backward) * 1e3:.0f} ms against {statistics.median(forward) * 1e3:.0f} ms",
        },
    ]


_PEAK_HEAD = """
import sys
from pathlib import Path
sys.path.insert(0, {tools!r})
import numpy as np
from bench import gradient_peers, networks
name, path, batch = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
x = np.zeros((batch, 3, 224, 224), np.float32) + 0.1
cotangent = np.ones((batch, 1000), np.float32)
"""
_PEAK_OURS = "gradient_peers.native(path, x, cotangent)()"
_PEAK_TORCH = "gradient_peers.torch_eager(networks.module(name, path), x, cotangent)()"


def _memory(folder: Path) -> list[dict]:
    """The most memory of whole processes: from the file or the module to the gradients of eight pictures."""
    head = _PEAK_HEAD.format(tools=str(Path(__file__).resolve().parents[1]))
    parts, ratios = [], []
    # Networks whose torch modules need no further package that would count against torch.
    for name in ("EfficientNet-Lite0", "VGG-16"):
        path = networks.save(name, folder)
        ours, theirs = (peers.peak(head + code, name, str(path), "8") for code in (_PEAK_OURS, _PEAK_TORCH))
        ratios.append(ours / theirs)
        parts.append(f"{name} {ours / 2**20:.0f} MB, torch {theirs / 2**20:.0f} MB")
    return [
        {
            "name": "gradient of 8 pictures, peak memory over torch's",
            "ratio": " and ".join(f"{r:.2f}" for r in ratios),
            "target": "≤ 1",
            "detail": "; ".join(parts) + "; whole processes, building included",
        }
    ]
