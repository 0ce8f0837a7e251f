"""Score-CAM: a layer's channels, each weighted by the score of the picture when only what the channel marks shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from onnxviz.attribution.masks import Swept, sweep
from onnxviz.attribution.targets import Measure, Target
from onnxviz.graph import occlude
from onnxviz.network import Network
from onnxviz.progress import Progress


class Scored(NamedTuple):
    """Score-CAM of the first n of N pictures; fewer than N where Ctrl-C ended it.

    weights      of each layer's channels, (n, C) float32, summing to 1; 0 for channels that mark nothing
    scores       the objective on each picture, (n,) float32
    figures      what was measured, for each picture
    incomplete   whether Ctrl-C ended it
    """

    weights: list[np.ndarray]
    scores: np.ndarray
    figures: list[dict[str, Any]]
    incomplete: bool


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

    Wang et al. 2020, arXiv:1910.01279, algorithm 1: each channel's map, upsampled and scaled to 0...1, is multiplied
    with the picture (in the network's input, where 0 is mostly the mean colour); the scores, before softmax over the
    classes, go through a softmax over the channels. The score of the empty picture, which the paper takes off all of
    them, changes nothing in that softmax and is not run. Masks are made inside the graph from the layer's own maps.

    x             the network's input tensor, N pictures
    activations   of each layer, (N, C, h, w) float32
    upsampling    for each layer the matrices of `cam_layers.matrices`
    aim           what is scored
    """
    score = Measure(net, aim, probable=False)

    def weigh(number: int, layer: int) -> tuple[np.ndarray, Swept]:
        """The weights of a layer's channels for one picture, (C,), and what the masked pictures told."""
        values, (rows, columns) = activations[layer][number], upsampling[layer]
        image = x[number : number + 1]
        masks, used = cells(values, rows, columns)
        swept = sweep(
            net,
            lambda: occlude.shown(
                score.graph(),
                input=net.input.name,
                layout=net.input.layout,
                shape=image.shape,
                rows=rows,
                columns=columns,
            ),
            {occlude.IMAGE: image},
            {
                occlude.CELLS: np.concatenate([np.ones_like(values[:1]), masks]),
                **aim.feeds(np.full(len(masks) + 1, number)),
            },
            score,
            key=("score-cam", score.key, image.shape, rows.tobytes(), columns.tobytes()),
            batch=batch,
            progress=progress,
            what="channels",
        )
        found = swept.scores[1:].astype(np.float64)
        weights = np.zeros(len(values), dtype=np.float32)
        if len(found):
            shares = np.exp(found - found.max())
            weights[np.flatnonzero(used)[: len(found)]] = shares / shares.sum()
        return weights, swept

    told: list[list[tuple[np.ndarray, Swept]]] = []
    incomplete = False
    try:
        for number in range(len(x)):
            told.append([])
            for layer in range(len(activations)):
                told[-1].append(weigh(number, layer))
                if told[-1][-1][1].done < told[-1][-1][1].total:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:
        incomplete = True
        if len(told[-1]) < len(activations):  # a picture whose every layer has begun is kept
            del told[-1]
        if not told:
            raise
    return Scored(
        [np.stack([one[layer][0] for one in told]) for layer in range(len(activations))],
        np.array([one[0][1].scores[0] for one in told], np.float32),
        [_figures([swept for _, swept in one]) for one in told],
        incomplete,
    )


def _figures(told: Sequence[Swept]) -> dict[str, Any]:
    figures = {"masks": sum(one.total for one in told)}
    done = sum(one.done for one in told)
    return figures if done == figures["masks"] else {**figures, "masks_done": done}


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
