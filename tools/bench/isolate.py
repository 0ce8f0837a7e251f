"""What a process of its own costs a network (`load(isolate=True)`): the same calls with it and without.

One process each, which take turns: sessions of one would go on spinning in the time of the other. The bundled network
and one photo; the median of the rounds' ratios.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 31
REST = 0.1  # seconds until the other's threads sleep
TARGET = 1.10
# Calls a round: about a third of a second each.
CASES = {"forward pass": 40, "predict": 30, "saliency": 12, "occlusion": 1, "ascent, 20 steps": 1}


def run() -> list[dict]:
    """A row a technique: how many times as long the isolated network takes."""
    taking = {isolate: _started(isolate) for isolate in (False, True)}
    rows = []
    try:
        for case, calls in CASES.items():
            seconds: dict[bool, list[float]] = {False: [], True: []}
            for turn in range(ROUNDS + 1):
                for isolate in (False, True) if turn % 2 else (True, False):
                    seconds[isolate].append(_ask(taking[isolate], case))
                    time.sleep(REST)
            plain, own = seconds[False][1:], seconds[True][1:]  # the first compiles
            ratio = statistics.median(b / a for a, b in zip(plain, own, strict=True))
            each = statistics.median(own) / calls * 1e3, statistics.median(plain) / calls * 1e3
            rows.append(
                {
                    "name": f"`isolate=True`, {case}, times as long",
                    "ratio": f"{ratio:.3f}",
                    "target": f"≤ {TARGET:.2f}",
                    "detail": f"{each[0]:.2f} ms, in the caller's process {each[1]:.2f} ms",
                }
            )
    finally:
        for process in taking.values():
            process.terminate()
            process.wait()
    return rows


def _started(isolate: bool) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(Path(__file__)), json.dumps(isolate)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _ask(process: subprocess.Popen[str], case: str) -> float:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{case}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def _serve(isolate: bool) -> None:
    """Run each case that is named on stdin, and print how long it took."""
    from skimage import data

    import onnxviz

    photo = data.chelsea()
    net = onnxviz.load("efficientnet-lite0", provider="cpu", isolate=isolate)
    x = net.prepare(photo)
    scores = net.program([net.head.scores])
    works: dict[str, Callable[[], object]] = {
        "forward pass": lambda: scores({net.input.name: x}),
        "predict": lambda: net.predict(photo),
        "saliency": lambda: onnxviz.saliency(net, photo, target=285),
        "occlusion": lambda: onnxviz.occlusion(net, photo, target=285),
        "ascent, 20 steps": lambda: onnxviz.ascent(net, target=285, steps=20),
    }
    for line in sys.stdin:
        case = line.strip()
        start = time.perf_counter()
        for _ in range(CASES[case]):
            works[case]()
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    _serve(json.loads(sys.argv[1]))
