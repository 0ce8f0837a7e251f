"""What a process of its own costs a network (`load(isolate=True)`): the same calls with it and without.

The bundled network and one photo, a process each.
"""

from __future__ import annotations

from bench import turns
from bench.turns import Peer, Step

TARGET = 1.10
CASES = ("forward pass", "predict", "saliency", "occlusion", "ascent, 20 steps")


def run() -> list[dict]:
    """A row a technique: how many times as long the isolated network takes."""
    rows = []
    for case in CASES:
        asked = {name: Peer("bench.isolate:call", case, name == "own") for name in ("plain", "own")}
        with turns.ending(asked) as started:
            taken = turns.take_turns(started)
        found = turns.ratio(taken["own"], taken["plain"])
        each, plain = (turns.seconds(taken[name]) * 1e3 for name in ("own", "plain"))
        rows.append(
            {
                "name": f"`isolate=True`, {case}, times as long",
                **found.row(".3f"),
                "target": f"≤ {TARGET:.2f}",
                "detail": f"{each:.2f} ms, in the caller's process {plain:.2f} ms",
            }
        )
    return rows


def call(case: str, isolate: bool) -> Step:
    """One of the cases."""
    from skimage import data

    import onnxviz

    photo = data.chelsea()
    net = onnxviz.load("efficientnet-lite0", provider="cpu", isolate=isolate)
    x = net.prepare(photo)
    scores = net.program([net.head.scores])
    return {
        "forward pass": lambda: scores({net.input.name: x}),
        "predict": lambda: net.predict(photo),
        "saliency": lambda: onnxviz.saliency(net, photo, target=285),
        "occlusion": lambda: onnxviz.occlusion(net, photo, target=285),
        "ascent, 20 steps": lambda: onnxviz.ascent(net, target=285, steps=20),
    }[case]
