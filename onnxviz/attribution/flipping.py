"""The curves behind `faithfulness`: one picture's score while places are covered in the order of its maps.

A map travels as the rank of each place, a covered picture as two numbers: which map, and how many ranks are covered
(`graph.occlude.flipped`).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from onnxviz.attribution.methods import each_once
from onnxviz.attribution.occlusion import filling, sweep
from onnxviz.attribution.targets import Measure
from onnxviz.errors import UsageError, near
from onnxviz.graph import occlude
from onnxviz.network import Network
from onnxviz.progress import silent

MEASURES: Final = ("srg", "deletion", "insertion", "pixel-flipping", "road")
#: Of these less is better.
LOWER: Final = frozenset({"deletion", "pixel-flipping"})
_KERNEL, _DEVIATION = 11, 5.0  # of RISE's blur, in pixels
# Of ROAD: the shares that are taken out, and the deviation of the noise in the network's input.
_TAKEN: Final = (0.2, 0.4, 0.6, 0.8)
_NOISE: Final = 0.01


@dataclass(frozen=True)
class How:
    """What `faithfulness` was asked for."""

    fill: str
    grid: int
    steps: int
    seed: int
    batch: int | None


def chosen(measures: Sequence[str] | str) -> list[str]:
    """The measures that are meant; of 'all' each; raises UsageError."""
    names = [measures] if isinstance(measures, str) else list(measures)
    for name in names:
        if name not in MEASURES and names != ["all"]:
            raise UsageError(
                f"no measure is called {name!r}{near(str(name), MEASURES)}; there are {', '.join(MEASURES)}, all"
            )
    return each_once("measure", list(MEASURES) if names == ["all"] else names)


def measured(
    net: Network,
    score: Measure,
    x: np.ndarray,
    picture: np.ndarray,
    maps: Sequence[np.ndarray],
    measures: Sequence[str],
    how: How,
) -> dict[str, np.ndarray]:
    """What each measure says of each map of one picture: (maps,) float64; with 'srg' also 'curves' (maps, 2, S + 1).

    x, picture   as the network takes it, (1, ...), and sees it
    maps         (H, W) each
    raises       KeyboardInterrupt where Ctrl-C ended a sweep
    """
    run = _Runs(net, score, x, how)
    found: dict[str, np.ndarray] = {}
    if "srg" in measures:
        found["curves"], places = _both_ways(run, picture, maps, how)
        areas = _area(found["curves"], places)
        found["srg"] = areas[:, 1] - areas[:, 0]
    pixels = [ranks(one) for one in maps]
    for name in measures:
        if name == "deletion":
            found[name] = _mean(run.down(pixels, np.zeros_like(x)))
        elif name == "insertion":
            found[name] = _mean(run.down([pixel.size - 1 - pixel for pixel in pixels], blurred(x, run.axes)))
        elif name == "pixel-flipping":
            curves = run.down(pixels, np.full_like(x, x.min()))[
                :, 1:
            ]  # the untouched picture is no step of it
            found[name] = _mean(curves) * (curves.shape[1] - 1)
        elif name == "road":
            found[name] = _road(run, pixels)
    return found


def levels(count: int, steps: int) -> np.ndarray:
    """How many of `count` places are covered at each of `steps`, from none to all: (steps + 1,) int64."""
    return np.unique(np.round(np.linspace(0, count, steps + 1)).astype(np.int64))


def ranks(values: np.ndarray) -> np.ndarray:
    """The rank of each place, 0 for the greatest value; among equals, the one that is read first."""
    found = np.empty(values.size, dtype=np.int64)
    found[np.argsort(-values.reshape(-1).astype(np.float64), kind="stable")] = np.arange(values.size)
    return found.reshape(values.shape)


def cells(values: np.ndarray, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of a map in each cell, (grid, grid), and the number of the cell that each pixel is in, (H, W)."""
    rows, columns = (np.arange(length) * grid // length for length in values.shape)
    number = rows[:, None] * grid + columns[None]
    total = np.bincount(number.reshape(-1), values.reshape(-1).astype(np.float64), grid * grid)
    count = np.bincount(number.reshape(-1), minlength=grid * grid)
    return (total / count).reshape(grid, grid), number


def blurred(x: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
    """RISE's blur of the input: 11 pixels along each axis, deviation 5, zero beyond the border."""
    from scipy.ndimage import convolve1d, gaussian_filter1d

    kernel = gaussian_filter1d(np.eye(_KERNEL)[_KERNEL // 2], _DEVIATION)  # mirrored at its ends, as theirs
    for axis in axes:
        x = convolve1d(x, kernel, axis, mode="constant")
    return x


def _both_ways(
    run: _Runs, picture: np.ndarray, maps: Sequence[np.ndarray], how: How
) -> tuple[np.ndarray, np.ndarray]:
    """(maps, 2, S + 1): the most important cells first, and the least important ones; and the share covered."""
    height, width = maps[0].shape
    if how.grid > min(height, width):
        raise UsageError(
            f"grid must be from 2 to {min(height, width)}, the picture's shorter side; got {how.grid}"
        )
    orders = []
    for one in maps:
        means, number = cells(one, how.grid)
        first = ranks(means).reshape(-1)
        orders += [first[number], (first.size - 1 - first)[number]]
    hidden = filling(run.net, run.x, picture, how.fill, radius=max(height, width) / how.grid, seed=how.seed)
    at = levels(how.grid**2, how.steps)
    curves = run(orders, hidden, at)
    return curves.reshape(len(maps), 2, -1), at / how.grid**2


def _area(curves: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The area under the last axis, by trapezoids."""
    return ((curves[..., 1:] + curves[..., :-1]) / 2 * np.diff(places)).sum(axis=-1)


def _mean(curves: np.ndarray) -> np.ndarray:
    """The same for equal steps that add up to 1."""
    return _area(curves, np.linspace(0, 1, curves.shape[-1]))


class _Runs:
    """One picture, covered in any orders by any fill."""

    def __init__(self, net: Network, score: Measure, x: np.ndarray, how: How) -> None:
        self.net, self.x, self.seed = net, x, how.seed
        self._score, self._batch = score, how.batch
        self._last = net.input.layout == "NHWC"
        self.axes = (1, 2) if self._last else (2, 3)

    def __call__(self, orders: Sequence[np.ndarray], fill: np.ndarray, at: np.ndarray) -> np.ndarray:
        """(orders, levels) float64: the score with so many ranks covered; `at` begins at 0 and ends with all.

        The untouched picture, and the one that is covered throughout, are run once for all orders.
        """
        planes = np.stack(orders).astype(np.float32)
        if self._last:
            planes = np.repeat(planes, self.x.shape[3], axis=2)
        steps = [(0, 0), *((k, n) for k in range(len(orders)) for n in at[1:-1]), (0, at[-1])]
        still = {occlude.FILL: fill, occlude.RANKS: planes}
        moving = {occlude.STEPS: np.array(steps, dtype=np.int64)}
        how: dict[str, Any] = {"batch": self._batch, "progress": silent, "what": "steps"}
        swept = sweep(self.net, occlude.flipped, self.x, still, moving, self._score, **how)
        if swept.done < swept.total:
            raise KeyboardInterrupt
        found = swept.scores.astype(np.float64)
        between = found[1:-1].reshape(len(orders), -1)
        ends = np.ones((len(orders), 1))
        return np.hstack([found[0] * ends, between, found[-1] * ends])

    def down(self, orders: Sequence[np.ndarray], fill: np.ndarray) -> np.ndarray:
        """The same by pixels, a row's worth a step."""
        size = orders[0].size
        return self(orders, fill, np.append(np.arange(0, size, orders[0].shape[1]), size))

    def scored(self, x: np.ndarray) -> np.ndarray:
        """The score of other pictures, (N,) float64."""
        target = self._score.target
        return target.rows(self.net, x)[:, target.classes[0]].astype(np.float64)


def _road(run: _Runs, pixels: Sequence[np.ndarray]) -> np.ndarray:
    """Half of the score without the least important pixels, less that without the most important ones: (maps,)."""
    found = []
    for order in pixels:
        images = []
        for share in _TAKEN:
            count = round(share * order.size)
            images += [
                imputed(run.x, gone, run.axes, run.seed)
                for gone in (order >= order.size - count, order < count)
            ]
        scores = run.scored(np.concatenate(images)).reshape(-1, 2)
        found.append(float((scores[:, 0] - scores[:, 1]).mean() / 2))
    return np.array(found)


def imputed(x: np.ndarray, gone: np.ndarray, axes: tuple[int, int], seed: int) -> np.ndarray:
    """The input with these pixels made of their neighbours: ROAD's noisy linear imputation.

    Each is the mean of its eight neighbours, 1/6 for those beside it and 1/12 for the diagonal ones, less at the
    border, where both may be gone: a linear system. A little noise hides which ones they were.

    gone   (H, W) boolean
    """
    from scipy.sparse import diags
    from scipy.sparse.linalg import cg

    planes = np.moveaxis(x[0], np.array(axes) - 1, (0, 1)).reshape(gone.size, -1).astype(np.float64)
    inside = gone.reshape(-1)
    weights = _neighbours(gone.shape)
    system = diags(np.asarray(weights.sum(axis=1)).reshape(-1)[inside]) - weights[inside][:, inside]
    known = weights[inside][:, ~inside] @ planes[~inside]
    start = planes[~inside].mean(axis=0)
    solved = [
        cg(system, b, x0=np.full(len(b), at), rtol=1e-4, maxiter=500)[0]
        for b, at in zip(known.T, start, strict=True)
    ]
    noise = _NOISE * np.random.default_rng(seed).standard_normal((len(known), len(start)))
    planes[inside] = np.stack(solved, axis=1) + noise
    laid = planes.reshape(*gone.shape, -1)
    return np.moveaxis(laid, (0, 1), np.array(axes) - 1)[None].astype(np.float32)


@functools.lru_cache(maxsize=4)
def _neighbours(shape: tuple[int, int]) -> Any:
    """(pixels, pixels), sparse: what each pixel counts for another."""
    from scipy.sparse import coo_matrix

    number = np.arange(shape[0] * shape[1]).reshape(shape)
    pairs = [
        (number[:-1], number[1:], 1 / 6),
        (number[:, :-1], number[:, 1:], 1 / 6),
        (number[:-1, :-1], number[1:, 1:], 1 / 12),
        (number[:-1, 1:], number[1:, :-1], 1 / 12),
    ]
    one = np.concatenate([a.reshape(-1) for a, _, _ in pairs])
    other = np.concatenate([b.reshape(-1) for _, b, _ in pairs])
    weights = np.concatenate([np.full(a.size, w) for a, _, w in pairs])
    half = coo_matrix((weights, (one, other)), (number.size, number.size)).tocsr()
    return (half + half.T).tocsr()
