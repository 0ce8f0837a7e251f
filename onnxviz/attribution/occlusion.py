"""Occlusion: what the network no longer sees when a part of the image is covered."""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from onnxviz.attribution.masks import filling, finished, pair, sweep
from onnxviz.attribution.result import Attribution
from onnxviz.attribution.targets import Channel, Measure, Measured, Neuron, Target, parse
from onnxviz.errors import UsageError
from onnxviz.features.pictures import for_each, single
from onnxviz.figures.captions import Caption
from onnxviz.graph import occlude
from onnxviz.network import ImageLike, Network
from onnxviz.progress import Shown, told
from onnxviz.provenance import recorded

_WINDOW, _STRIDE = 32, 16
CAPTION: Final = Caption(
    "occlusion",
    "the deeper the colour, the more the {what} falls with the place covered: the mean of the windows over it",
    "mean fall in {what}",
)


@for_each
@recorded
def occlusion(
    net: Network,
    image: ImageLike,
    *,
    target: Target | int | str | None = None,
    window: int | tuple[int, int] | None = None,
    stride: int | tuple[int, int] | None = None,
    fill: str = "grey",
    objective: Measured | None = None,
    output: str | None = None,
    layer: str | None = None,
    channel: Channel = None,
    neuron: Neuron = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Shown = "auto",
) -> Attribution:
    """How far the class probability falls when a window covers each place of the image.

    Zeiler & Fergus 2014, arXiv:1311.2901. Windows at the right and bottom border are cut off; where windows overlap,
    their falls are averaged, as in Captum.

    image       (H, W, 3) uint8, or anything `Network.prepare` takes; or a list of these, which gives a list
    target      class index or label; None: the top class
    window      the window's side in pixels of what the network sees, or (height, width); None: 32, or a seventh of the
                image's shorter side where that is less
    stride      the step from window to window, or (vertical, horizontal); None: 16, or half the window's side where
                that is less
    fill        what the window shows: grey, mean, blur, noise or zero (`attribution.masks.filling`)
    objective   instead of a class: any objective (`onnxviz.objectives`) or its text, or a function of probabilities
                (N, classes) that gives (N,) numbers
    output      which of the file's outputs holds the classes; None: the one that looks like it
    layer, channel, neuron   instead of a class: a channel's mean activation, or one neuron (y, x) or 'middle'; `neuron`
                alone: the step of a sequence
    returns     Attribution, values (H, W) float32, the mean fall of the score over the windows that cover a pixel,
                for probabilities -1 to 1; negative where covering raises the score, 0 where no window comes
    raises      UsageError, UnknownLabel, UnknownLayer, ImageRejected, ModelUnsuitable; Interrupted on Ctrl-C, whose
                partial map is 0 where no window has been yet
    """
    progress = told(progress)
    net = net.at(output)
    asked = parse(
        net, target, objective=objective, layer=layer, channel=channel, neuron=neuron, functions=True
    )
    score = Measure(net, asked)
    x, picture = single(net, image, "occlusion")
    size = (picture.shape[0], picture.shape[1])
    if window is None:
        window = max(1, min(_WINDOW, round(min(size) / 7)))
    span = pair(window, "window")
    if span[0] > size[0] or span[1] > size[1]:
        raise UsageError(
            f"window {span[0]}×{span[1]} (height × width) is larger than the image, {size[0]}×{size[1]}; "
            "give a smaller window"
        )
    step = pair(max(1, min(_STRIDE, min(span) // 2)) if stride is None else stride, "stride")
    hidden = filling(net, x, picture, fill, radius=max(span) / 2, seed=seed)
    boxes = windows(size, span, step)
    whole = np.zeros((1, 4), dtype=np.float32)  # an empty window: the image as it is
    moving = {occlude.WINDOWS: np.concatenate([whole, boxes.astype(np.float32)])}
    how: dict[str, Any] = {"batch": batch, "progress": progress, "what": "windows"}
    swept = sweep(net, occlude.occluded, x, {occlude.FILL: hidden}, moving, score, **how)
    falls = swept.scores[0] - swept.scores[1:]
    figures: dict[str, Any] = {}
    if len(falls):
        deepest = int(np.argmin(swept.scores[1:]))
        sides = zip(("top", "left", "bottom", "right"), map(int, boxes[deepest]), strict=True)
        figures = {"largest_fall": float(falls[deepest]), "largest_fall_window": dict(sides)}
        figures["windows_that_raise"] = int(np.sum(swept.scores[1:] > swept.scores[0]))
    values = average(falls, boxes[: len(falls)], size)
    own = {"window": span, "stride": step, "fill": fill, "seed": seed}
    return finished(net, "occlusion", CAPTION, picture, score, swept, values, figures, **own)


def windows(size: tuple[int, int], window: tuple[int, int], stride: tuple[int, int]) -> np.ndarray:
    """The windows that cover an image: (M, 4) int64, each (top, left, bottom, right), cut off at the border.

    They start at 0 and go on by `stride` until one reaches the border, row by row. A stride larger than the window
    leaves gaps.
    """
    starts = [
        np.arange(0, min(length, math.ceil((length - span) / step) * step + 1), step)
        for length, span, step in zip(size, window, stride, strict=True)
    ]
    top, left = (grid.ravel() for grid in np.meshgrid(*starts, indexing="ij"))
    bottom, right = np.minimum(top + window[0], size[0]), np.minimum(left + window[1], size[1])
    return np.stack([top, left, bottom, right], axis=1)


def average(falls: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The mean fall of the windows over each pixel: (H, W) float32, 0 where no window is."""
    total = np.zeros(size, dtype=np.float64)
    count = np.zeros(size, dtype=np.float64)
    for fall, (top, left, bottom, right) in zip(falls, boxes, strict=True):
        total[top:bottom, left:right] += fall
        count[top:bottom, left:right] += 1
    return (total / np.maximum(count, 1)).astype(np.float32)
