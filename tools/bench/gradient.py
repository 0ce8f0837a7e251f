"""Input gradients of eight networks against twice ONNX Runtime's forward time, torch, ort-training and onnx-ad.

A process for each peer, which take turns, on two threads. onnxviz is timed through its own runtime, as its techniques
run it, and as the file that it writes on ONNX Runtime with its defaults. Sessions and graphs are built before, which
rows of their own tell about.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import gradient_peers, networks, turns
from bench.turns import Peer, Unmeasured

BATCHES = (1, 8)
COMPILED = ("EfficientNet-Lite0", "ResNet-50")  # torch.compile takes a minute each
PEERS = ("torch", "torch.compile", "ort-training", "onnx-ad")
WRONG = 0.05  # a relative error of the gradient


def parts() -> dict[str, Callable[[], list[dict]]]:
    """A part for each network, then building, session start and memory."""
    return {
        **{name: partial(_network, name) for name in networks.NAMES},
        "start": _start,
        "memory": _memory,
    }


def _network(name: str) -> list[dict]:
    """The network's row; its figures are what the means are made of."""
    path = networks.save(name, networks.kept())
    figures: dict[str, Any] = {"network": name, "off": 0.0, "speed": {}, "notes": {}}
    for batch in BATCHES:
        with tempfile.TemporaryDirectory() as folder:
            data = _data(path, batch, Path(folder))
            with turns.ending(_peers(name, str(path), str(data), batch, figures["notes"])) as started:
                _check(started, figures)
                taken = turns.take_turns(started)
        for key, form in (("floor", "ours"), ("stock", "stock")):
            figures[f"{key} {batch}"] = list(turns.ratio(taken[form], taken["forward"], by=2))
        figures[f"milliseconds {batch}"] = 1e3 * turns.seconds(taken["ours"])
        for peer in PEERS:
            if peer in taken:
                figures["speed"][f"{peer} {batch}"] = turns.ratio(taken[peer], taken["ours"]).middle
    return [_row(figures)]


def _data(path: Path, batch: int, folder: Path) -> Path:
    """Pictures of noise, and the cotangent that asks for one class."""
    x = np.random.default_rng(batch).standard_normal((batch, 3, networks.SIZE, networks.SIZE))
    bare = gradient_peers.session(str(path))
    x = x.astype(np.float32)
    logits = bare.run(None, {bare.get_inputs()[0].name: x})[0]
    cotangent = np.zeros_like(logits)
    cotangent.reshape(batch, -1)[:, 285] = 1.0
    np.savez(folder / "data.npz", x=x, cotangent=cotangent)
    return folder / "data.npz"


def _peers(name: str, path: str, data: str, batch: int, notes: dict[str, str]) -> dict[str, Peer]:
    """The peers of this network; those that only one picture is given to with one."""
    ours = "bench.gradient_peers"
    started = {
        "forward": Peer(f"{ours}:forward", path, data),
        "ours": Peer(f"{ours}:native", path, data),
        "stock": Peer(f"{ours}:stock", path, data),
        "torch": Peer(f"{ours}:torch_eager", name, path, data),
    }
    if batch > 1:
        return started
    started["onnx-ad"] = Peer(f"{ours}:onnx_ad", path, data)
    if name in COMPILED:
        started["torch.compile"] = Peer(f"{ours}:torch_compiled", name, path, data)
    try:
        python = gradient_peers.training_python()
        started["ort-training"] = Peer("bench.ort_training:gradient", path, data, python=python)
    except Unmeasured as reason:
        notes["ort-training"] = f" refuses ({reason})"
    return started


def _check(started: dict[str, Peer], figures: dict[str, Any]) -> None:
    """Hold every gradient against torch's; those that cannot be had are taken out, with a note."""
    right = started["torch"].answer().ravel()
    for form in ("ours", "stock"):
        mine = started[form].answer().ravel()
        cosine = float(mine @ right / np.linalg.norm(mine) / np.linalg.norm(right))
        figures["off"] = max(figures["off"], 1 - cosine)
    for peer in set(PEERS) & set(started):
        try:
            found = started[peer].answer().ravel()
        except Unmeasured as reason:
            figures["notes"][peer] = f" refuses ({reason})"
            started.pop(peer).close()
            continue
        off = float(np.linalg.norm(found - right) / np.linalg.norm(right))
        if off > WRONG:
            figures["notes"][peer] = f", and wrong (relative error {off:.1g})"


def _row(figures: dict[str, Any]) -> dict:
    notes, speed = figures["notes"], figures["speed"]
    parts = [" and ".join(f"{figures[f'milliseconds {batch}']:.0f}" for batch in BATCHES) + " ms"]
    stock = [figures[f"stock {batch}"][0] for batch in BATCHES]
    parts.append(f"the written file on ONNX Runtime as it comes {_both(stock)}")
    for peer in PEERS:
        values = [f"{speed[f'{peer} {batch}']:.1f}×" for batch in BATCHES if f"{peer} {batch}" in speed]
        if values:
            parts.append(f"{peer} {' and '.join(values)} as long{notes.get(peer, '')}")
        elif peer in notes:
            parts.append(f"{peer}{notes[peer]}")
    floors = [turns.Spread(*figures[f"floor {batch}"]) for batch in BATCHES]
    return {
        "name": f"gradient of {figures['network']} over twice the forward time, 1 and 8 pictures",
        "ratio": _both([floor.middle for floor in floors]),
        "values": [floor.middle for floor in floors],
        "spread": " and ".join(floor.between() for floor in floors),
        "target": "≤ 1.4",
        "detail": "; ".join(parts),
        "figures": figures,
    }


def _both(values: Sequence[float]) -> str:
    return " and ".join(f"{value:.2f}" for value in values)


def _mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(math.log(v) for v in values))


def summary(rows: Sequence[dict]) -> list[dict]:
    """The means over the networks that have been measured."""
    measured = [row["figures"] for row in rows if "network" in row.get("figures", {})]
    if not measured:
        return []
    floors, stock = (
        _both([_mean([m[f"{form} {batch}"][0] for m in measured]) for batch in BATCHES])
        for form in ("floor", "stock")
    )
    cosine = 1 - max(m["off"] for m in measured)
    found = [
        {
            "name": "gradient over twice the forward time, geometric mean",
            "ratio": floors,
            "target": "≤ 1.15 and ≤ 1.05",
            "detail": f"{len(measured)} networks; cosine to torch's gradients ≥ {cosine:.6f}",
        },
        {
            "name": "the file that `onnxviz gradient` writes, for any device, on ONNX Runtime as it comes, over twice "
            "the forward time, geometric mean",
            "ratio": stock,
            "target": "≤ 1.1 times the row above",
            "detail": "one session with ONNX Runtime's default options, eight pictures as one batch",
        },
    ]
    for peer, target in zip(PEERS, ("≥ 2.2×, none under 1.2×", "none", "≥ 1.3×", "≥ 4×"), strict=True):
        values = {
            (m["network"], batch): m["speed"][f"{peer} {batch}"]
            for m in measured
            for batch in BATCHES
            if f"{peer} {batch}" in m["speed"]
        }
        if not values:
            continue
        (worst, batch), least = min(values.items(), key=lambda item: item[1])
        count = len({name for name, _ in values})
        found.append(
            {
                "name": f"gradient, speed over {peer}, geometric mean",
                "ratio": f"{_mean(list(values.values())):.1f}×",
                "target": target,
                "detail": f"{count} of {len(measured)} networks; least {least:.2f}× ({worst}, batch {batch})",
            }
        )
    return found


def _start() -> list[dict]:
    """How long ResNet-50's gradient model takes to build and to load."""
    from onnxviz.grad.model import gradient_model
    from onnxviz.graph.open.load import load
    from onnxviz.programs import compile

    model = load(str(networks.save("ResNet-50", networks.kept()))).model
    made = gradient_model(model, cpu=True)
    steps = {
        "build": lambda: gradient_model(model, cpu=True),
        "forward": lambda: compile(model, provider="cpu", threads=gradient_peers.THREADS),
        "backward": lambda: compile(made, provider="cpu", threads=gradient_peers.THREADS),
    }
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(9):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    built, forward, backward = times.values()
    ratio = turns.Spread.of([b / f for b, f in zip(backward, forward, strict=True)])
    return [
        {
            "name": "building ResNet-50's gradient model",
            "ratio": f"{statistics.median(built):.2f} s",
            "spread": turns.Spread.of(built).between(),
            "target": "≤ 1 s",
            "detail": f"{len(list(made.graph))} nodes, of which {len(list(model.graph))} forward",
        },
        {
            "name": "its session, start over the forward session's",
            **ratio.row(".2f", "×"),
            "target": "≤ 2×",
            "detail": f"{statistics.median(backward) * 1e3:.0f} ms against {statistics.median(forward) * 1e3:.0f} ms",
        },
    ]


_PEAK_HEAD = """
import sys
sys.path.insert(0, {tools!r})
from bench import gradient_peers
name, path, data = sys.argv[1:]
"""
_PEAK_OURS = "gradient_peers.native(path, data)()"
_PEAK_TORCH = "gradient_peers.torch_eager(name, path, data)()"


def _memory() -> list[dict]:
    """The most memory of whole processes: from the file or the module to the gradients of eight pictures."""
    head = _PEAK_HEAD.format(tools=str(Path(__file__).resolve().parents[1]))
    parts, ratios = [], []
    # Networks whose torch modules need no further package that would count against torch.
    for name in ("EfficientNet-Lite0", "VGG-16"):
        path = networks.save(name, networks.kept())
        with tempfile.TemporaryDirectory() as folder:
            data = _data(path, 8, Path(folder))
            ours, theirs = (
                turns.peak(head + code, name, str(path), str(data)) for code in (_PEAK_OURS, _PEAK_TORCH)
            )
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
