"""Efros & Freeman: the errors are the plain sums, the cut is the cheapest, blocks do not just copy the source."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from skimage import data

from onnxviz.errors import UsageError
from onnxviz.synthesis import texture_pieces
from onnxviz.synthesis.texture_pieces import _Finder, cut, quilt


def finished(source, size, **options):
    return list(quilt(source, size, **options))[-1]


@pytest.fixture(scope="module")
def coffee() -> np.ndarray:
    """Wood: (64, 64, 3)."""
    return np.ascontiguousarray(data.coffee()[300:364, 20:84])


def test_the_cut_is_the_cheapest_of_all_paths():
    random = np.random.default_rng(0)
    for _ in range(20):
        costs = random.random((6, 4))
        rows = np.arange(6)
        paths = [
            path
            for path in itertools.product(range(4), repeat=6)
            if all(abs(a - b) <= 1 for a, b in itertools.pairwise(path))
        ]
        best = min(paths, key=lambda path: costs[rows, list(path)].sum())
        assert costs[rows, cut(costs)].sum() == pytest.approx(costs[rows, list(best)].sum())


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


@pytest.mark.parametrize("size", [(64, 64), (50, 131), (7, 9)])
def test_every_pixel_is_the_sources(coffee, size):
    made = finished(coffee, size, seed=3)
    assert made.image.shape == (*size, 3)
    assert made.known.all()
    assert made.done == made.total
    np.testing.assert_array_equal(made.image, coffee[made.origin[..., 0], made.origin[..., 1]])


def test_no_block_only_continues_its_neighbour(coffee):
    block, overlap = 18, 3
    step = block - overlap
    origin = finished(coffee, (step * 8 + overlap, step * 8 + overlap), block=block, overlap=overlap).origin
    middles = origin[block // 2 :: step, block // 2 :: step][:8, :8]
    for axis in (0, 1):
        moved = np.diff(middles, axis=axis) - np.array([(step, 0), (0, step)][axis])
        assert (np.abs(moved).max(axis=2) > overlap).all()


def test_cuts_hide_the_seams(coffee, monkeypatch):
    def roughness() -> float:
        image = finished(coffee, (124, 124), block=18, overlap=4).image.astype(np.float64)
        seams = image[:, np.r_[14:124:14]] - image[:, np.r_[14:124:14] - 1]
        return float((seams**2).mean())

    smooth = roughness()
    monkeypatch.setattr(texture_pieces, "_fresh", lambda difference, *_: np.ones(difference.shape, bool))
    assert roughness() > 1.2 * smooth


def test_stripes_go_on_without_a_fault():
    colours = np.random.default_rng(0).integers(0, 256, (4, 3), np.uint8)
    image = finished(np.tile(colours, (30, 8, 1)), (50, 60), block=9).image
    assert (image == image[:1]).all()
    np.testing.assert_array_equal(image[:, 4:], image[:, :-4])


def test_seeds_and_evenness(coffee):
    first = finished(coffee, (96, 96), seed=1)
    np.testing.assert_array_equal(finished(coffee, (96, 96), seed=1).image, first.image)
    assert not np.array_equal(finished(coffee, (96, 96), seed=2).image, first.image)

    def used(evenness: float) -> int:
        made = finished(coffee, (192, 192), evenness=evenness)
        return len(np.unique(made.origin.reshape(-1, 2), axis=0))

    assert used(0.5) > 1.1 * used(0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 64}, "shorter side, which is 64"),
        ({"block": 2}, "from 3 pixels"),
        ({"overlap": 11}, "is 1 to 10"),
        ({"tolerance": float("nan")}, "0 or more"),
        ({"size": (0, 4)}, "at least 1 pixel"),
    ],
)
def test_what_cannot_work_is_said(coffee, options, message):
    with pytest.raises(UsageError, match=message):
        finished(coffee, options.pop("size", (20, 20)), **options)
