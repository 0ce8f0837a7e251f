"""The best k of a stream, against sorting everything."""

from __future__ import annotations

import numpy as np
import pytest

from onnxviz.features.patch_boxes import INDEX, NOBODY, Ranking


def fed(keys: np.ndarray, k: int, order=None, size: int = 3) -> Ranking:
    """A ranking that was given the rows of `keys` in chunks."""
    best = Ranking(keys.shape[1], k)
    order = np.arange(len(keys)) if order is None else order
    for start in range(0, len(keys), size):
        part = order[start : start + size]
        facts = np.zeros((len(part), keys.shape[1], 6), np.int64)
        facts[:, :, INDEX] = part[:, None]
        best.add(keys[part], keys[part] * 2, facts)
    return best


@pytest.mark.parametrize("size", [1, 4, 100])
def test_it_is_what_sorting_everything_gives(size):
    keys = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32)
    best = fed(keys, 5, size=size)
    order = np.argsort(-keys, axis=0, kind="stable")[:5].T
    np.testing.assert_array_equal(best.facts[:, :, INDEX], order)
    np.testing.assert_array_equal(best.keys, np.sort(keys, axis=0)[::-1][:5].T)
    np.testing.assert_array_equal(best.scores, 2 * best.keys)


@pytest.mark.parametrize("seed", range(5))
def test_ties_go_to_the_earlier_image_in_whatever_order_they_come(seed):
    random = np.random.default_rng(seed)
    keys = random.integers(0, 3, (40, 4)).astype(np.float32)
    best = fed(keys, 6, order=random.permutation(40))
    np.testing.assert_array_equal(best.facts[:, :, INDEX], np.argsort(-keys, axis=0, kind="stable")[:6].T)


def test_fewer_images_than_places():
    best = fed(np.ones((2, 3), np.float32), 4)
    assert best.filled.tolist() == [[True, True, False, False]] * 3
    assert (best.facts[:, 2:] == NOBODY).all()
    assert np.isnan(best.scores[:, 2:]).all()


def test_nan_is_counted_and_never_ranked():
    keys = np.array([[np.nan, 1], [np.nan, 2], [-5, np.nan]], np.float32)
    best = fed(keys, 2)
    assert best.undefined.tolist() == [2, 1]
    assert best.facts[:, :, INDEX].tolist() == [[2, NOBODY], [1, 0]]
    assert np.isfinite(best.mean).all()


def test_mean_and_deviation_are_those_of_all_images():
    keys = (np.random.default_rng(1).normal(size=(1000, 3)) * 2 + 1e4).astype(np.float32)
    best = fed(keys, 2, size=7)
    np.testing.assert_allclose(best.mean, keys.astype(np.float64).mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(best.deviation, keys.astype(np.float64).std(axis=0), rtol=1e-9)
    z = (keys.max(axis=0) - best.mean) / best.deviation
    np.testing.assert_allclose(best.standing_out(), z, rtol=1e-6)


def test_a_channel_that_never_changes_stands_out_nowhere():
    assert fed(np.zeros((9, 1), np.float32), 2).standing_out().tolist() == [0.0]
