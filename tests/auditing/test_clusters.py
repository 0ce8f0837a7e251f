"""shortcut.clusters: what a class is told by, sorted by where the network looks."""

from __future__ import annotations

import numpy as np
import pytest

import onnxviz
from onnxviz.auditing.checks.attention import small, split
from tests.auditing.checking import SIZE, checked, ending, opened
from tests.auditing.test_masks import reds
from tests.networks import Maker

RNG = np.random.default_rng(0)


def bump(y: float, x: float) -> np.ndarray:
    rows, columns = np.mgrid[:28, :28]
    y, x = RNG.normal((y, x), 0.5)
    return np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 20)


def photo(y: int, x: int) -> np.ndarray:
    picture = np.full((SIZE, SIZE, 3), 100, np.uint8)
    y, x = y + RNG.integers(0, 3), x + RNG.integers(0, 3)
    picture[y : y + 8, x : x + 8] = (250, 10, 10)
    return picture


@pytest.mark.parametrize("seed", [0, 7])
def test_maps_of_two_places_are_two_clusters(seed):
    maps = np.stack([bump(6, 6) for _ in range(14)] + [bump(20, 21) for _ in range(10)])
    order = np.random.default_rng(seed).permutation(24)
    members = split(maps[order], seed)
    assert [set(order[one]) for one in members] == [set(range(14)), set(range(14, 24))]
    assert [len(one) for one in split(np.stack([bump(14, 14)] * 20), seed)] == [20]


def test_a_map_is_where_the_class_is_spoken_for():
    values = np.zeros((56, 56), np.float32)
    values[:2, :2], values[30:, 30:] = 8, -5
    found = small(values)
    assert found.shape == (28, 28)
    assert found[0, 0] == pytest.approx(1)
    assert small(-np.abs(values)).sum() == 0


def test_two_habits_of_a_class_are_shown_and_not_judged():
    images = [photo(1, 1) for _ in range(13)] + [photo(20, 20) for _ in range(9)]
    one = checked(reds(), "shortcut.clusters", images)
    assert (one.state, one.findings) == ("clean", ())
    assert one.figures["clusters"]["pictures"] == [13, 9]
    assert [part.picture is not None for part in one.evidence] == [False, True, True]
    assert "cluster 2: 9 of 22 pictures" in one.evidence[2].caption


def test_without_twenty_pictures_of_a_class_there_are_none():
    mixed = [photo(1, 1) for _ in range(12)] + [photo(1, 1)[..., ::-1].copy() for _ in range(12)]
    one = checked(reds(), "shortcut.clusters", mixed)
    assert one.state == "not-run"
    assert "the most of one are 12" in one.reason


def checkers():
    """A network that answers 0 for a checkerboard anywhere, else 1."""
    m = Maker()
    fine = np.zeros((1, 3, 2, 2), np.float32)
    fine[0, :, [0, 1], [0, 1]], fine[0, :, [0, 1], [1, 0]] = 1, -1
    x = m("Flatten", m("GlobalAveragePool", m("Relu", m("Conv", "image", fine))))
    return ending(m, m("Gemm", x, [[200.0], [0.0]], [-6.0, 0.0], transB=1), 2)


def mark(y: int, x: int) -> np.ndarray:
    picture = np.full((SIZE, SIZE, 3), 100, np.uint8)
    picture[y : y + 6, x : x + 6] = 250 * (np.indices((6, 6)).sum(axis=0) % 2)[..., None]
    return picture


def test_the_place_of_a_cluster_is_proven_by_hiding_and_pasting():
    """Here marks in the middle of the picture too, where shortcut.region does not look."""
    plain = [np.full((SIZE, SIZE, 3), grey, np.uint8) for grey in range(80, 160, 10)]
    images = [mark(2, 3 + i % 3) for i in range(13)] + [mark(16, 14 + i % 3) for i in range(9)] + plain
    found = onnxviz.audit(opened(checkers()), images, only=["shortcut.clusters"])
    assert [(one.severity, one.where) for one in found.findings] == [
        ("info", "class 0: cluster 1"),
        ("info", "class 0: cluster 2"),
    ]
    assert "rows 1" in found.findings[1].sentence
    assert found.verdict == "pass"  # small things decide as marks do: a person judges
    (one,) = [one for one in found.checks if one.id == "shortcut.clusters"]
    assert min(one.figures["clusters"]["falls by"] + one.figures["clusters"]["turns"]) > 0.9
