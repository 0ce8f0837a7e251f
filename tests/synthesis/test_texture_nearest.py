"""Efros & Leung: the errors are the plain sums, the order is that of one pixel after the other, patterns go on."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data

from onnxviz.errors import UsageError
from onnxviz.synthesis.texture_pieces import _Bank, _Canvas, default_window, grow


def finished(source, size, **options):
    return list(grow(source, size, **options))[-1]


@pytest.fixture(scope="module")
def grass() -> np.ndarray:
    picture = data.grass()[:192:3, :192:3]
    return np.repeat(picture[:, :, None], 3, axis=2)


@pytest.fixture(scope="module")
def stripes() -> np.ndarray:
    """Four colours, one a column, again and again."""
    colours = np.random.default_rng(0).integers(0, 256, (4, 3), np.uint8)
    return np.tile(colours, (24, 6, 1))


@pytest.mark.parametrize("channels", [1, 3])
def test_errors_are_the_weighted_sums(channels):
    random = np.random.default_rng(1)
    source = random.integers(0, 256, (14, 13, channels), np.uint8)
    source = np.repeat(source, 3, axis=2) if channels == 1 else source
    bank = _Bank(source, 5, tolerance=0.0, evenness=0.0)
    windows = random.normal(0, 0.3, (6, 5, 5, channels)).astype(np.float32)
    masks = (random.random((6, 5, 5)) < 0.5).astype(np.float32)
    places, errors = bank.draw(windows, masks, np.random.default_rng(0))
    bell = np.exp(-(np.arange(-2, 3) ** 2) / (2 * (5 / 6.4) ** 2))
    values = source[..., :channels] / 255.0 - source[..., :channels].mean(axis=(0, 1)) / 255.0
    for window, mask, place, error in zip(windows, masks, places, errors, strict=True):
        weights = mask * np.outer(bell, bell)
        table = {
            (y, x): (
                weights * ((window - values[y - 2 : y + 3, x - 2 : x + 3]) ** 2).mean(axis=2)
            ).sum() / weights.sum()
            for y in range(2, 12)
            for x in range(2, 11)
        }  # fmt: skip
        assert error == pytest.approx(min(table.values()), rel=1e-4, abs=1e-6)
        assert table[tuple(place)] == pytest.approx(min(table.values()), rel=1e-4, abs=1e-6)


def test_pixels_of_one_step_do_not_see_each_other(grass):
    before = None
    most = 0
    for growth in grow(grass, (40, 44), window=7):
        if before is not None:
            new = np.argwhere(growth.known & ~before)
            gaps = np.abs(new[:, None] - new[None]).max(axis=2)
            assert (gaps[~np.eye(len(new), dtype=bool)] > 3).all()
            most = max(most, len(new))
        before = growth.known.copy()
    assert most > 5


def test_every_pixel_is_the_sources(grass):
    growth = finished(grass, (50, 61), window=9, seed=2)
    assert growth.known.all()
    assert growth.done == growth.total == 50 * 61
    np.testing.assert_array_equal(growth.image, grass[growth.origin[..., 0], growth.origin[..., 1]])


def test_stripes_go_on_without_a_fault(stripes):
    image = finished(stripes, (30, 40), window=9, evenness=0.0).image
    assert (image == image[:1]).all()
    np.testing.assert_array_equal(image[:, 4:], image[:, :-4])
    assert len(np.unique(image[0], axis=0)) == 4


def test_seeds(grass):
    first = finished(grass, (24, 24), window=7, seed=1).image
    np.testing.assert_array_equal(finished(grass, (24, 24), window=7, seed=1).image, first)
    assert not np.array_equal(finished(grass, (24, 24), window=7, seed=2).image, first)


def test_evenness_keeps_flat_spots_from_growing(grass):
    """The paper's own method repeats one dark place of this source dozens of times: grass turns into flat streaks."""

    def most(evenness: float) -> int:
        origin = finished(grass, (80, 80), window=21, evenness=evenness).origin
        return int(np.bincount((origin[..., 0] * 64 + origin[..., 1]).ravel()).max())

    assert 3 * most(0.5) < most(0.0)


def test_a_tolerance_draws_among_the_best(stripes):
    bank = _Bank(stripes, 5, tolerance=0.1, evenness=0.0)
    canvas = _Canvas(stripes, (9, 9), bank)
    canvas.settle(np.array([4, 4]), np.array([3, 4]), np.array([[4, 4], [4, 5]]))
    windows, masks = canvas.windows(np.full(200, 4), np.full(200, 5))
    places, _ = bank.draw(windows, masks, np.random.default_rng(0))
    assert set(places[:, 1] % 4) == {2}  # the column that follows
    assert len(np.unique(places, axis=0)) > 50


def test_windows_of_small_sources():
    sides = [default_window(np.zeros((side, 100, 3), np.uint8)) for side in (5, 9, 15, 30, 45, 64)]
    assert sides == [3, 3, 5, 9, 15, 15]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 8}, "odd"),
        ({"window": 31}, "at least 33 pixels"),
        ({"tolerance": -1.0}, "0 or more"),
        ({"evenness": float("nan")}, "0 or more"),
        ({"size": (2, 40)}, "at least 3 pixels"),
    ],
)
def test_what_cannot_work_is_said(options, message, stripes):
    with pytest.raises(UsageError, match=message):
        finished(stripes, options.pop("size", (20, 20)), **options)
