"""RISE against an implementation of the paper in NumPy that makes every mask and every masked picture."""

from __future__ import annotations

import numpy as np
import pytest

import onnxviz
from onnxviz.attribution.rise import averaged, draw_masks, weighted_sum
from onnxviz.errors import UsageError
from onnxviz.graph.occlude import cell_size, hat
from tests import toys
from tests.stopped import stopped
from tests.toys import load

GRID, MASKS, SIZE = 3, 50, (toys.SIDE, toys.SIDE)
COARSE = {"masks": MASKS, "grid": GRID}
CELL = (cell_size(SIZE[0], GRID), cell_size(SIZE[1], GRID))


def numpy_masks(cells: np.ndarray, shifts: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(N, H, W) float32: the coarse grids upsampled and cut out at their shifts."""
    grid = cells.shape[1]
    down, across = (hat(length, grid) for length in size)
    whole = (down @ coarse @ across.T for coarse in cells)
    return np.stack(
        [mask[y : y + size[0], x : x + size[1]] for mask, (y, x) in zip(whole, shifts, strict=True)]
    )


def rise(net, picture=None, **options):
    return onnxviz.rise(net, toys.photo() if picture is None else picture, **{**COARSE, **options})


def reference(net, picture: np.ndarray, target: int, *, seed: int, p: float, batch: int) -> tuple:
    """RISE as in the paper's equation 6: sum of score × mask, and the masks, all made in NumPy."""
    masks = numpy_masks(*draw_masks(MASKS, GRID, p, CELL, seed), SIZE)
    x = net.prepare(picture)
    # The whole image goes first, so that the batches are those of the technique.
    batches = np.concatenate([x, x * masks[:, None]])
    scores = net.probabilities(batches, batch=batch)[1:, target]
    return (scores.astype(np.float64)[:, None, None] * masks).sum(axis=0), masks


@pytest.mark.parametrize("p", [0.5, 0.3])
def test_equal_to_the_paper_in_numpy(toy, p) -> None:
    total, masks = reference(toy, toys.photo(), 0, seed=4, p=p, batch=8)
    shown = masks.astype(np.float64).sum(axis=0)
    for divide, below in (("paper", MASKS * p), ("coverage", shown)):
        found = rise(toy, target=0, probability=p, seed=4, batch=8, divide=divide).values
        assert (found.shape, found.dtype) == (SIZE, np.float32)
        np.testing.assert_array_equal(found, (total / below).astype(np.float32))


def test_the_sum_of_masks_without_masks() -> None:
    size, grid = (23, 17), 5
    cells, shifts = draw_masks(300, grid, 0.4, (cell_size(23, grid), cell_size(17, grid)), 7)
    assert np.unique(shifts[:, 0]).tolist() == list(range(5))
    assert np.unique(shifts[:, 1]).tolist() == list(range(4))
    weights = np.random.default_rng(0).standard_normal(300).astype(np.float32)
    masks = numpy_masks(cells, shifts, size).astype(np.float64)
    wanted = (weights.astype(np.float64)[:, None, None] * masks).sum(axis=0)
    np.testing.assert_allclose(weighted_sum(weights, cells, shifts, size), wanted, rtol=1e-12, atol=1e-12)
    assert not weighted_sum(weights[:0], cells[:0], shifts[:0], size).any()


@pytest.mark.parametrize("form", toys.FORMS.values(), ids=toys.FORMS)
def test_other_forms_of_the_network_give_the_same_map(toy, form) -> None:
    wanted, got = (rise(net, seed=2).values for net in (toy, load(**form)))
    np.testing.assert_allclose(got, wanted, atol=5e-3 if "dtype" in form else 1e-6)


def test_the_map_is_high_where_the_class_is(toy) -> None:
    values = onnxviz.rise(toy, toys.photo(), target=0, masks=400, grid=4).values
    assert values[4:8, 6:10].mean() > values[:, :3].mean() + 0.02


def test_a_fill_that_is_not_zero(toy) -> None:
    # Over a grey of half a red picture's values, red never falls to nothing.
    flat = np.full_like(toys.photo(), 200)
    dark, grey = (rise(toy, flat, fill=fill, layer="features", channel=0).values for fill in ("zero", "grey"))
    np.testing.assert_allclose(grey, 127.5 + dark * (200 - 127.5) / 200, rtol=1e-4)


def test_any_batch(toy) -> None:
    np.testing.assert_allclose(rise(toy, batch=3).values, rise(toy).values, atol=1e-6)


def test_a_layer_and_a_function(toy) -> None:
    layer = rise(toy, layer="features", channel=0)
    assert layer.label == "features, channel 0"
    # A channel's mean cannot rise by hiding: showing a pixel adds to it everywhere.
    assert layer.values.min() > 0
    twice = rise(toy, objective=lambda p: 2 * p[:, 0])
    np.testing.assert_allclose(twice.values, 2 * rise(toy, target=0).values, rtol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"masks": 0}, "masks must be"),
        ({"grid": 0}, "grid must be"),
        ({"grid": 13}, "grid must be"),
        ({"probability": 0.0}, "probability must be"),
        ({"probability": 1.0}, "probability must be"),
        ({"fill": "pink"}, "unknown fill"),
        ({"divide": "papers"}, "did you mean 'paper'"),
    ],
)
def test_what_makes_no_sense(toy, arguments, words) -> None:
    with pytest.raises(UsageError, match=words):
        rise(toy, **arguments)


def test_ctrl_c_keeps_the_masks_so_far() -> None:
    toy = load(threads=1)
    partial = stopped(rise, toy, batch=10, seed=3, when=lambda *step: step >= (19, MASKS, "masks"))
    assert partial.manifest["figures"]["masks_done"] == 19
    masks = numpy_masks(*(part[:19] for part in draw_masks(MASKS, GRID, 0.5, CELL, 3)), SIZE)
    scores = toy.probabilities(toy.prepare(toys.photo()) * masks[:, None])[:, 0].astype(np.float64)
    wanted = (scores[:, None, None] * masks).sum(axis=0) / masks.sum(axis=0)
    np.testing.assert_allclose(partial.values, wanted, rtol=1e-5)


def test_the_bundled_network(net, cat) -> None:
    result = onnxviz.rise(net, cat, target=285, masks=48)
    assert result.values.shape == (224, 224)
    assert 0 <= result.values.min() <= result.values.max() <= 1
    assert result.manifest["parameters"]["masks"] == 48
    assert result.manifest["figures"]["score"] == result.score


def test_the_noise_is_how_far_other_masks_lie() -> None:
    """Against maps of many other draws, one map a seed: the spread of them about their mean."""
    rng = np.random.default_rng(0)
    where = np.zeros((4, 4))
    where[1, 2] = 3.0

    def one(seed: int) -> tuple[np.ndarray, float]:
        cells, shifts = draw_masks(400, 4, 0.5, (8, 8), seed)
        weights = (cells * where).sum(axis=(1, 2)) + rng.normal(0, 1, len(cells))
        values, noise = averaged(weights, cells, shifts, (32, 32))
        return values, noise

    maps, noises = zip(*(one(seed) for seed in range(40)), strict=True)
    spread = np.stack(maps) - np.mean(maps, axis=0)
    spread = spread - spread.mean(axis=(1, 2), keepdims=True)
    assert np.mean(noises) == pytest.approx(float(spread.std()), rel=0.15)
    assert averaged(np.ones(1), np.ones((1, 4, 4)), np.zeros((1, 2), int), (32, 32))[1] is None
