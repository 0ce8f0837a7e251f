"""Pictures in cells: nobody shares one, and the order of the map stays."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxviz.errors import UsageError
from onnxviz.features.map import assign, grid


@given(st.integers(1, 40), st.integers(0, 2**31), st.sampled_from(["cloud", "line", "same", "outlier"]))
def test_each_picture_has_a_cell_of_its_own(count, seed, kind):
    points = np.random.default_rng(seed).normal(size=(count, 2))
    if kind == "line":
        points[:, 1] = 0
    elif kind == "same":
        points[:] = 1
    elif kind == "outlier":
        points[0] = 1e6
    found = grid(points)
    assert len(np.unique(found.cell)) == count
    assert found.cell.min() >= 0
    assert found.cell.max() < found.rows * found.columns
    np.testing.assert_array_equal(found.index, np.arange(count))
    assert abs(found.rows - found.columns) <= 1


@pytest.mark.parametrize("rows, columns", [(3, 4), (1, 7), (6, 2)])
def test_a_shuffled_grid_is_put_in_order(rows, columns):
    cells = np.random.default_rng(0).permutation(rows * columns)
    row, column = np.divmod(cells, columns)
    points = np.stack([column, -row], axis=1).astype(np.float32)  # y upwards, row 0 at the top
    np.testing.assert_array_equal(assign(points, rows, columns), cells)


def test_the_total_distance_is_the_least_there_is():
    points = np.random.default_rng(3).uniform(size=(6, 2))
    found = assign(points, 2, 3)
    from onnxviz.features.map import _spread

    places = _spread(points)
    centres = np.array([((c + 0.5) / 3, 1 - (r + 0.5) / 2) for r in range(2) for c in range(3)])

    def total(cells):
        return ((places - centres[list(cells)]) ** 2).sum()

    assert total(found) == pytest.approx(min(map(total, itertools.permutations(range(6)))))


def test_groups_stay_together_and_empty_cells_part_them():
    random = np.random.default_rng(0)
    centres = np.array([[0, 0], [10, 0], [0, 10], [10, 10]])
    points = np.repeat(centres, 20, axis=0) + random.normal(size=(80, 2))
    found = grid(points)
    row, column = np.divmod(found.cell, found.columns)
    places = np.stack([column, -row], axis=1)
    for group in range(4):
        middle = places[group * 20 : group * 20 + 20].mean(axis=0)
        others = np.delete(np.arange(80), np.s_[group * 20 : group * 20 + 20])
        inside = np.linalg.norm(places[group * 20 : group * 20 + 20] - middle, axis=1)
        assert np.mean(np.linalg.norm(places[others] - middle, axis=1) > inside.max()) > 0.95
    assert found.rows * found.columns - 80 >= 15


def test_of_too_many_a_seeded_sample_is_shown():
    points = np.random.default_rng(0).normal(size=(50, 2))
    found = grid(points, most=20, seed=1)
    assert len(found.index) == len(found.cell) == 20
    assert np.all(np.diff(found.index) > 0)
    np.testing.assert_array_equal(found.index, grid(points, most=20, seed=1).index)
    assert not np.array_equal(found.index, grid(points, most=20, seed=2).index)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="do not fit"):
        assign(np.zeros((7, 2)), 2, 3)
    with pytest.raises(UsageError):
        grid(np.zeros((0, 2)))
