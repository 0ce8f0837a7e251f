"""Neighbours among arrays, against sorting every distance."""

from __future__ import annotations

import numpy as np
import pytest

from onnxviz.errors import UsageError
from onnxviz.features.neighbours import nearest, spread


def by_hand(features, query, metric):
    a, b = features.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return np.sqrt(((a - b) ** 2).sum(axis=1))
    return 1 - a @ b / (np.linalg.norm(a, axis=1) * np.linalg.norm(b))


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(size=(200, 24)).astype(np.float32)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("scale", [1, 1e-25, 1e25])
def test_it_is_what_sorting_gives(features, metric, scale):
    values = features * np.float32(scale)
    queries = np.random.default_rng(1).normal(size=(6, 24)).astype(np.float32) * np.float32(scale)
    found = nearest(values, queries, 7, metric)
    assert found.distance.dtype == np.float32
    for q, query in enumerate(queries):
        expected = by_hand(values, query, metric)
        np.testing.assert_array_equal(found.index[q], np.argsort(expected, kind="stable")[:7])
        np.testing.assert_allclose(found.distance[q], np.sort(expected)[:7], rtol=1e-5)
    assert not found.copies.any()


def test_the_query_is_not_its_own_neighbour(features):
    own = np.array([4, 90])
    found = nearest(features, features[own], 200, own=own)
    assert not np.any(found.index == own[:, None])
    np.testing.assert_array_equal(np.sort(found.index[0])[1:], np.delete(np.arange(200), 4))
    assert found.index[0, -1] == -1  # 199 others
    assert np.isnan(found.distance[0, -1])
    assert not found.copies.any()


def test_copies_are_left_out_and_counted_however_many(features):
    features[50:150] = features[3] * (1 + 1e-7)
    found = nearest(features, features[[3]], 5, own=np.array([3]))
    assert found.copies[0] == 100
    expected = by_hand(features, features[3], "l2")
    expected[[3, *range(50, 150)]] = np.inf
    np.testing.assert_array_equal(found.index[0], np.argsort(expected)[:5])


def test_a_picture_that_differs_a_little_is_no_copy(features):
    features[7] = features[3] * np.float32(1.001)
    found = nearest(features, features[[3]], 1, own=np.array([3]))
    assert found.index[0, 0] == 7
    assert found.copies[0] == 0


def test_the_same_direction_is_no_copy(features):
    features[7] = features[3] * 2
    found = nearest(features, features[[3]], 1, "cosine", own=np.array([3]))
    assert found.index[0, 0] == 7
    assert found.distance[0, 0] == pytest.approx(0, abs=1e-6)


def test_zeros_are_like_nothing_and_break_nothing():
    features = np.zeros((5, 3), np.float32)
    features[4] = 1
    found = nearest(features, features[[0]], 4, "cosine", own=np.array([0]))
    np.testing.assert_array_equal(found.distance[0], np.ones(4))
    assert nearest(features, features[[0]], 1, "l2", own=np.array([0])).index[0, 0] == 1


def test_ties_come_in_the_order_of_the_set():
    features = np.eye(40, dtype=np.float32)
    np.testing.assert_array_equal(
        nearest(features, features[[9]], 4, own=np.array([9])).index[0], [0, 1, 2, 3]
    )


def test_wrong_choices_are_told(features):
    with pytest.raises(UsageError, match="did you mean 'cosine'"):
        nearest(features, features[:1], 3, "cosin")
    with pytest.raises(UsageError, match="k must be"):
        nearest(features, features[:1], 0)


def test_drawn_rows_differ_and_the_seed_decides():
    groups = np.repeat(np.eye(5, dtype=np.float32) * 100, 30, axis=0)
    groups += np.random.default_rng(0).normal(size=groups.shape).astype(np.float32)
    rows = spread(groups, 5, seed=2)
    assert sorted(rows // 30) == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(rows, spread(groups, 5, seed=2))
    assert any(not np.array_equal(rows, spread(groups, 5, seed=seed)) for seed in (3, 4))


def test_drawing_from_copies_and_from_few():
    np.testing.assert_array_equal(spread(np.ones((3, 2), np.float32), 8), [0, 1, 2])
    assert len(set(spread(np.ones((9, 2), np.float32), 4).tolist())) == 4
    assert len(set(spread(np.full((9, 2), 1e30, np.float32), 4).tolist())) == 4
