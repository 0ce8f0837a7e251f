"""Score-CAM: a layer's channels, each weighted by the score of the picture when only what the channel marks shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from onnxviz.attribution.masks import sweep
from onnxviz.attribution.targets import Measure, Target
from onnxviz.graph import occlude
from onnxviz.network import Network
from onnxviz.progress import Progress


@dataclass
class Scored:
    """Score-CAM of the first n of N pictures; fewer than N where Ctrl-C ended it.

    weights      of each layer's channels, (n, C) float32
    scores       the objective on each picture, (n,) float32
    figures      what was measured, for each picture
    incomplete   whether Ctrl-C ended it
    """

    weights: list[np.ndarray]
    scores: np.ndarray
    figures: list[dict[str, Any]] = field(default_factory=list)
    incomplete: bool = False


def score_cam(
    net: Network,
    x: np.ndarray,
    activations: Sequence[np.ndarray],
    upsampling: Sequence[tuple[np.ndarray, np.ndarray]],
    aim: Target,
    *,
    batch: int | None,
    progress: Progress,
) -> Scored:
    """Channels weighted by the score when only they show: one forward pass a channel, no gradient.

    Wang et al. 2020, arXiv:1910.01279, algorithm 1 (`weigh`).

    x             the network's input tensor, N pictures
    activations   of each layer, (N, C, h, w) float32
    upsampling    for each layer the matrices of `cam_layers.matrices`
    aim           what is scored
    """
    found: list[list[Weighed]] = []
    incomplete = False
    try:
        for number in range(len(x)):
            found.append([])
            for values, to in zip(activations, upsampling, strict=True):
                one = x[number : number + 1]
                told = weigh(net, one, values[number], to, aim, number, batch=batch, progress=progress)
                found[-1].append(told)
                if told.done < told.masks:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        incomplete = True
        if len(found[-1]) < len(activations):  # a picture whose every layer has begun is kept
            del found[-1]
        if not found:
            raise
    weights = [np.stack([told[k].weights for told in found]) for k in range(len(activations))]
    figures = [_figures(told) for told in found]
    return Scored(weights, np.array([told[0].score for told in found], np.float32), figures, incomplete)


def _figures(told: list[Weighed]) -> dict[str, Any]:
    figures: dict[str, Any] = {"masks": sum(one.masks for one in told)}
    done = sum(one.done for one in told)
    return figures if done == figures["masks"] else {**figures, "masks_done": done}


class Weighed(NamedTuple):
    """What the masked pictures told.

    weights   of the channels, (C,) float32, summing to 1; 0 for channels that mark nothing
    score     the objective on the whole picture
    masks     how many channels mark something
    done      how many of them were run: fewer where Ctrl-C ended it
    """

    weights: np.ndarray
    score: float
    masks: int
    done: int


def weigh(
    net: Network,
    x: np.ndarray,
    activations: np.ndarray,
    upsampling: tuple[np.ndarray, np.ndarray],
    aim: Target,
    picture: int,
    *,
    batch: int | None,
    progress: Progress,
) -> Weighed:
    """The weight of each channel for one picture: one forward pass a channel, no gradient.

    Wang et al. 2020, arXiv:1910.01279, algorithm 1: each channel's map, upsampled and scaled to 0...1, is multiplied
    with the picture (in the network's input, where 0 is mostly the mean colour); the scores, before softmax over the
    classes, go through a softmax over the channels. The score of the empty picture, which the paper takes off all of
    them, changes nothing in that softmax and is not run. Masks are made inside the graph from the layer's own maps.

    x             (1, ...), the network's input tensor
    activations   (C, h, w) float32
    upsampling    the matrices of `cam_layers.matrices`
    aim           what is scored, whose entry `picture` this is
    """
    masks, used = cells(activations, *upsampling)
    score = Measure(net, aim, probable=False)
    moving = {occlude.CELLS: np.concatenate([np.ones_like(activations[:1]), masks])}
    fed = aim.feeds(np.full(len(masks) + 1, picture))
    rows, columns = upsampling
    scores, _ = sweep(
        net,
        lambda: occlude.shown(
            score.graph(),
            input=net.input.name,
            layout=net.input.layout,
            shape=x.shape,
            rows=rows,
            columns=columns,
        ),
        {occlude.IMAGE: x},
        {**moving, **fed},
        score,
        key=("score-cam", score.key, x.shape, rows.tobytes(), columns.tobytes()),
        batch=batch,
        progress=progress,
        what="channels",
    )
    found = scores[1:].astype(np.float64)
    weights = np.zeros(len(activations), dtype=np.float32)
    if len(found):
        shares = np.exp(found - found.max())
        weights[np.flatnonzero(used)[: len(found)]] = shares / shares.sum()
    return Weighed(weights, float(scores[0]), len(masks), len(found))


def cells(
    activations: np.ndarray, rows: np.ndarray, columns: np.ndarray, *, at_once: int = 64
) -> tuple[np.ndarray, np.ndarray]:
    """Each channel's map shifted and scaled so that upsampled it runs from 0 to 1.

    activations   (C, h, w)
    returns       (M, h, w) float32 for the M channels that are not the same everywhere, and which these are, (C,) bool
    """
    low, high = (np.empty(len(activations)) for _ in range(2))
    for start in range(0, len(activations), at_once):
        part = slice(start, start + at_once)
        whole = rows @ activations[part].astype(np.float64) @ columns.T
        low[part], high[part] = whole.min(axis=(1, 2)), whole.max(axis=(1, 2))
    span = high - low
    used = span > 1e-6 * np.abs(high)
    scaled = (activations[used] - low[used, None, None]) / span[used, None, None]
    return scaled.astype(np.float32), used
