"""Textures from pieces of a picture: pixel by pixel and block by block."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from skimage import data

from onnxviz.errors import UsageError
from onnxviz.synthesis import texture_pieces
from onnxviz.synthesis.texture_pieces import _Bank, _Canvas, _Finder, cut, default_window, grow, quilt


def finished(source, size, make=grow, **options):
    return list(make(source, size, **options))[-1]


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
    for window, mask, (y, x), error in zip(windows, masks, places, errors, strict=True):
        weights = mask * np.outer(bell, bell) / (mask * np.outer(bell, bell)).sum()
        views = np.lib.stride_tricks.sliding_window_view(values, (5, 5), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
        table = (weights * ((window - views) ** 2).mean(axis=4)).sum(axis=(2, 3))
        assert [error, table[y - 2, x - 2]] == pytest.approx([table.min()] * 2, rel=1e-4, abs=1e-6)


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


@pytest.mark.parametrize(
    ("make", "size", "options"),
    [(grow, (50, 61), {"window": 9}), (quilt, (64, 64), {}), (quilt, (50, 131), {}), (quilt, (7, 9), {})],
)
def test_every_pixel_is_the_sources(grass, wood, make, size, options):
    source = grass if make is grow else wood
    made = finished(source, size, make, seed=3, **options)
    assert made.image.shape == (*size, 3)
    assert made.known.all()
    assert made.done == made.total
    np.testing.assert_array_equal(made.image, source[made.origin[..., 0], made.origin[..., 1]])


@pytest.mark.parametrize("options", [{"window": 9, "evenness": 0.0}, {"make": quilt, "block": 9}])
def test_stripes_go_on_without_a_fault(stripes, options):
    image = finished(stripes, (50, 60), **options).image
    assert (image == image[:1]).all()
    np.testing.assert_array_equal(image[:, 4:], image[:, :-4])
    assert len(np.unique(image[0], axis=0)) == 4


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
    ("make", "options", "message"),
    [
        (grow, {"window": 8}, "odd"),
        (grow, {"window": 31}, "at least 33 pixels"),
        (grow, {"tolerance": -1.0}, "0 or more"),
        (grow, {"evenness": float("nan")}, "0 or more"),
        (grow, {"size": (2, 40)}, "at least 3 pixels"),
        (quilt, {"block": 64}, "shorter side, which is 24"),
        (quilt, {"block": 2}, "from 3 pixels"),
        (quilt, {"block": 20, "overlap": 11}, "is 1 to 10"),
        (quilt, {"tolerance": float("nan")}, "0 or more"),
        (quilt, {"size": (0, 4)}, "at least 1 pixel"),
    ],
)
def test_what_cannot_work_is_said(make, options, message, stripes):
    with pytest.raises(UsageError, match=message):
        finished(stripes, options.pop("size", (20, 20)), make, **options)


# --- block by block -------------------------------------------------------------------------


def test_the_cut_is_the_cheapest_of_all_paths():
    random, rows = np.random.default_rng(0), np.arange(6)
    paths = np.array(list(itertools.product(range(4), repeat=6)))
    paths = paths[(np.abs(np.diff(paths, axis=1)) <= 1).all(axis=1)]
    for _ in range(20):
        costs = random.random((6, 4))
        assert costs[rows, cut(costs)].sum() == pytest.approx(costs[rows, paths].sum(axis=1).min())


def test_errors_are_the_masked_sums():
    random = np.random.default_rng(1)
    source = random.integers(0, 256, (17, 20, 3), np.uint8)
    block = random.integers(0, 256, (6, 6, 3)).astype(np.float32)
    mask = (random.random((6, 6)) < 0.4).astype(np.float32)
    errors = _Finder(source, 6, 0.1, 0.0).errors(block, mask)
    assert errors.shape == (12, 15)
    for y, x in ((0, 0), (11, 14), (3, 7), (11, 0)):
        gap = source[y : y + 6, x : x + 6].astype(np.float64) - block
        assert errors[y, x] == pytest.approx((gap**2 * mask[..., None]).sum(), rel=1e-6)


def test_no_block_only_continues_its_neighbour(wood):
    block, overlap, step = 18, 3, 15
    made = finished(wood, (step * 8 + overlap,) * 2, quilt, block=block, overlap=overlap)
    middles = made.origin[block // 2 :: step, block // 2 :: step][:8, :8]
    for axis in (0, 1):
        moved = np.diff(middles, axis=axis) - np.array([(step, 0), (0, step)][axis])
        assert (np.abs(moved).max(axis=2) > overlap).all()


def test_cuts_hide_the_seams(wood, monkeypatch):
    def roughness() -> float:
        image = finished(wood, (124, 124), quilt, block=18, overlap=4).image.astype(np.float64)
        seams = image[:, np.r_[14:124:14]] - image[:, np.r_[14:124:14] - 1]
        return float((seams**2).mean())

    smooth = roughness()
    monkeypatch.setattr(texture_pieces, "_fresh", lambda difference, *_: np.ones(difference.shape, bool))
    assert roughness() > 1.2 * smooth


@pytest.mark.parametrize(("make", "options"), [(grow, {"window": 7}), (quilt, {"block": 9})])
def test_seeds(grass, make, options):
    first, again, other = (finished(grass, (24, 24), make, seed=seed, **options).image for seed in (1, 1, 2))
    np.testing.assert_array_equal(again, first)
    assert not np.array_equal(other, first)


def test_evenness_shows_more_of_the_source(wood):
    def used(evenness: float) -> int:
        made = finished(wood, (192, 192), quilt, evenness=evenness)
        return len(np.unique(made.origin.reshape(-1, 2), axis=0))

    assert used(0.5) > 1.1 * used(0.0)
