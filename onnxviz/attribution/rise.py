"""RISE: the parts of the image that show whenever the class is recognised."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from onnxviz.attribution.occlusion import filling, finished, sweep
from onnxviz.attribution.result import Attribution
from onnxviz.attribution.targets import Channel, Measure, Measured, Neuron, Target, parse
from onnxviz.errors import UsageError, at_least, one_of
from onnxviz.features.pictures import for_each, single
from onnxviz.figures.captions import Caption
from onnxviz.graph import occlude
from onnxviz.network import ImageLike, Network
from onnxviz.progress import Shown, told
from onnxviz.provenance import recorded

DIVISORS = ("coverage", "paper")
CAPTION: Final = Caption(
    "RISE",
    "the deeper the colour, the higher the {what} when the place shows through a random mask",
    "mean {what} when the place shows",
    zero=False,
)


@for_each
@recorded
def rise(
    net: Network,
    image: ImageLike,
    *,
    target: Target | int | str | None = None,
    masks: int = 2000,
    grid: int = 8,
    probability: float = 0.5,
    fill: str = "zero",
    divide: str = "coverage",
    objective: Measured | None = None,
    output: str | None = None,
    layer: str | None = None,
    channel: Channel = None,
    neuron: Neuron = None,
    seed: int = 0,
    batch: int | None = None,
    progress: Shown = "auto",
) -> Attribution:
    """RISE: the class probability that a pixel brings when it shows through random masks.

    Petsiuk, Das & Saenko 2018, arXiv:1806.07421. Each mask is a coarse grid of random cells, upsampled bilinearly and
    cut out at a random shift. The map estimates the paper's E[score × mask] / E[mask]: the mean score when the pixel
    shows.

    image         (H, W, 3) uint8, or anything `Network.prepare` takes; or a list of these, which gives a list
    target        class index or label; None: the top class of the whole image
    masks         how many random masks; the error falls with its square root. On EfficientNet-Lite0 the maps of two
                  seeds correlate 0.93 at 1000 masks, 0.96 at 2000, 0.98 at 4000
    grid          cells along each side of the coarse grid
    probability   the chance that a cell shows, over 0 and under 1
    fill          what shows through where the image does not (`attribution.occlusion.filling`); 'zero' is the paper's
    divide        coverage   by how often each pixel really showed (the sum of the masks there)
                  paper      by masks × probability, how often it shows on average, as the paper's equation 6 does.
                             Both estimate the same number; this one also carries the chance differences in
                             how often pixels showed: two seeds correlate 0.66 (a cat) and 0.96 (a cup) at 4000 masks
    objective, output, layer, channel, neuron   instead of a class, as for `occlusion`
    seed          of the random cells and shifts; the same masks whatever the batch
    returns       Attribution, values (H, W) float32, for probabilities ≥ 0. Figures: `range`, between the weakest and
                  the strongest place, and `noise`, how far other masks would move a place (from the two halves of
                  these masks); the picture fades what lies within it
    raises        UsageError, UnknownLabel, UnknownLayer, ImageRejected, ModelUnsuitable; Interrupted on Ctrl-C, whose
                  partial map is that of the masks so far
    """
    progress = told(progress)
    net = net.at(output)
    asked = parse(
        net, target, objective=objective, layer=layer, channel=channel, neuron=neuron, functions=True
    )
    score = Measure(net, asked)
    x, picture = single(net, image, "RISE")
    size = (picture.shape[0], picture.shape[1])
    at_least("masks", masks)
    at_least("grid", grid)
    if grid > min(size):
        raise UsageError(f"grid must be from 1 to {min(size)}, the image's shorter side; got {grid}")
    if not 0 < probability < 1:
        raise UsageError(f"probability must be over 0 and under 1, got {probability}")
    cell = (occlude.cell_size(size[0], grid), occlude.cell_size(size[1], grid))
    one_of("divide", divide, DIVISORS)
    hidden = filling(net, x, picture, fill, radius=max(cell) / 2, seed=seed)
    filled = bool(hidden.any())
    cells, shifts = draw_masks(masks, grid, probability, cell, seed)
    moving = {  # the first mask shows everything: the image as it is
        occlude.CELLS: np.concatenate([np.ones((1, grid, grid), dtype=np.float32), cells]),
        occlude.SHIFTS: np.concatenate([np.zeros((1, 2), dtype=np.int64), shifts]),
    }
    still = {occlude.FILL: hidden} if filled else {}
    how: dict[str, Any] = {"batch": batch, "progress": progress, "what": "masks"}
    swept = sweep(net, occlude.masked, x, still, moving, score, **how, grid=grid, filled=filled)
    weights = swept.scores[1:]
    chance = probability if divide == "paper" else None
    values, noise = averaged(weights, cells[: len(weights)], shifts[: len(weights)], size, probability=chance)
    figures: dict[str, Any] = {}
    if len(weights):
        figures |= {"mean_masked_score": float(weights.mean()), "largest_masked_score": float(weights.max())}
    if noise is not None:
        figures |= {"range": float(np.ptp(values)), "noise": noise}
    own: dict[str, Any] = {"masks": masks, "grid": grid, "probability": probability}
    own |= {"fill": fill, "divide": divide, "seed": seed}
    return finished(net, "rise", CAPTION, picture, score, swept, values, figures, **own)


def draw_masks(
    count: int, grid: int, probability: float, cell: tuple[int, int], seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The random choices behind `count` masks: cells (count, grid, grid) float32 0/1, shifts (count, 2) int64."""
    random = np.random.default_rng(seed)
    cells = (random.random((count, grid, grid), dtype=np.float32) < probability).astype(np.float32)
    return cells, random.integers(0, cell, (count, 2))


def averaged(
    weights: np.ndarray,
    cells: np.ndarray,
    shifts: np.ndarray,
    size: tuple[int, int],
    *,
    probability: float | None = None,
) -> tuple[np.ndarray, float | None]:
    """The mean of `weights` over the masks that show each pixel, counted as far as they show it, (H, W) float32; and
    its noise: how far the maps of other masks would lie from it, root mean square over the pixels.

    Half of the masks give one map, the other half another; what they differ by, less what they differ by everywhere,
    is twice the noise of their mean. None for fewer than two masks.
    """

    def sums(count: int) -> np.ndarray:
        """Of the first masks: Σ weight × mask, and what it is divided by."""
        part = weights[:count], cells[:count], shifts[:count]
        if probability is not None:
            shown = np.full(size, count * probability)
        else:
            shown = weighted_sum(np.ones_like(part[0]), *part[1:], size)
        return np.stack([weighted_sum(*part, size), shown])

    def quotient(total: np.ndarray, shown: np.ndarray) -> np.ndarray:
        return np.divide(total, shown, out=np.zeros(size), where=shown > 0).astype(np.float32)

    whole, half = sums(len(weights)), len(weights) // 2
    if not half:
        return quotient(*whole), None
    first = sums(half)
    gap = quotient(*first).astype(np.float64) - quotient(*(whole - first))
    return quotient(*whole), float(np.std(gap) / 2)


def weighted_sum(
    weights: np.ndarray, cells: np.ndarray, shifts: np.ndarray, size: tuple[int, int]
) -> np.ndarray:
    """Σ weight × mask over all masks, without making one: (H, W) float64.

    A mask is linear in its cells: A(row shift) · cells · A(column shift)ᵀ with the matrices of `occlude.hat`. So masks
    of equal shifts are added while they are still grids of numbers, and only those sums are upsampled, in float64:
    for 224 pixels at most 28 × 28 of them, whatever the number of masks.
    """
    total = np.zeros(size)
    if not len(weights):
        return total
    grid = cells.shape[1]
    tables = [occlude.hat(length, grid).astype(np.float64) for length in size]
    pairs, group = np.unique(shifts, axis=0, return_inverse=True)
    sums = np.zeros((len(pairs), grid, grid))
    np.add.at(sums, group.reshape(-1), weights.astype(np.float64)[:, None, None] * cells)
    for shift in np.unique(pairs[:, 0]):
        chosen = pairs[:, 0] == shift
        across = tables[1][pairs[chosen, 1][:, None] + np.arange(size[1])]  # (shifts, W, grid)
        rows = np.tensordot(sums[chosen], across, axes=((0, 2), (0, 2)))  # (grid, W)
        total += tables[0][shift : shift + size[0]] @ rows
    return total
