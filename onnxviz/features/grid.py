"""Pictures on a grid without overlaps: each in a cell of its own, as near as can be to its place on the map.

The assignment is the one of least total squared distance (`scipy.optimize.linear_sum_assignment`), so the
order of the map stays: neighbours on the map are neighbours on the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from onnxviz.errors import UsageError

#: The most pictures on one grid: the assignment grows with the cube of the number (2,500 take about 2 s).
MOST = 2500
# About a cell in four stays empty: gaps then part what the map parts, and groups show as islands.
_SPARE = 1.3
# The part of a cell's position that is the point's rank rather than its place.
_RANK = 0.5


@dataclass(frozen=True)
class Grid:
    """Cells for pictures.

    rows, columns   the grid's size
    index           (M,) which pictures are on it, in the order of the set
    cell            (M,) the cell of each, counted along the rows from the top left
    """

    rows: int
    columns: int
    index: np.ndarray
    cell: np.ndarray


def grid(points: np.ndarray, *, most: int = MOST, spare: float = _SPARE, seed: int = 0) -> Grid:
    """A grid for the pictures whose places on the map are `points`; where there are too many, for a sample.

    points   (N, 2) finite floats, x to the right and y upwards
    most     the most pictures on the grid; of more, a random sample drawn from `seed`
    spare    cells for each picture, at least 1
    raises   UsageError for no points
    """
    n = len(points)
    if n < 1 or most < 1 or spare < 1:
        raise UsageError(f"a grid needs at least one picture, got {n} pictures, most={most}, spare={spare:g}")
    index = np.arange(n)
    if n > most:
        index = np.sort(np.random.default_rng(seed).choice(n, most, replace=False))
    columns = math.ceil(math.sqrt(len(index) * (spare if len(index) > 8 else 1)))
    rows = math.ceil(len(index) * (spare if len(index) > 8 else 1) / columns)
    return Grid(rows, columns, index, assign(np.asarray(points)[index], rows, columns))


def assign(points: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A cell of its own for each point, of least total squared distance.

    points    (N, 2) finite floats, x to the right and y upwards; N at most rows × columns
    returns   (N,) int64, the cell counted along the rows from the top left
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    n = len(points)
    if n > rows * columns:
        raise UsageError(f"{n} pictures do not fit {rows} × {columns} cells")
    places = _spread(points)
    x = (np.arange(columns) + 0.5) / columns
    y = 1 - (np.arange(rows) + 0.5) / rows
    cells = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    _, cell = linear_sum_assignment(cdist(places, cells, "sqeuclidean"))
    return np.asarray(cell, dtype=np.int64)


def _spread(points: np.ndarray) -> np.ndarray:
    """The points in the unit square, half by place and half by rank: an outlier does not crowd all others."""
    points = np.asarray(points, dtype=np.float64)
    span = np.ptp(points, axis=0)
    place = np.where(span > 0, (points - points.min(axis=0)) / np.where(span > 0, span, 1), 0.5)
    rank = np.empty_like(place)
    for axis in (0, 1):
        _, inverse, counts = np.unique(points[:, axis], return_inverse=True, return_counts=True)
        # Equal values share the middle of their ranks.
        middle = np.cumsum(counts) - (counts + 1) / 2
        rank[:, axis] = (middle[inverse] + 0.5) / len(points)
    return (1 - _RANK) * place + _RANK * rank
