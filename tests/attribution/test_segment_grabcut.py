"""The minimal cut, held to a search through all labellings, and objects cut out of drawn pictures."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxviz.attribution.segment import grab, minimal_cut


def grid(height: int, width: int, cost: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Four neighbours, each pair with its own cost."""
    at = np.arange(height * width).reshape(height, width)
    a = np.concatenate([at[:, :-1].ravel(), at[:-1].ravel()])
    b = np.concatenate([at[:, 1:].ravel(), at[1:].ravel()])
    return [(a, b, cost[: len(a)])]


def energy(mask: np.ndarray, odds: np.ndarray, links) -> float:
    total = odds[~mask].clip(min=0).sum() + (-odds[mask]).clip(min=0).sum()
    for a, b, cost in links:
        total += cost[mask.ravel()[a] != mask.ravel()[b]].sum()
    return float(total)


@pytest.mark.parametrize("seed", range(6))
def test_no_labelling_costs_less(seed) -> None:
    rng = np.random.default_rng(seed)
    odds = rng.normal(0, 2, (3, 4)).round(2)
    links = grid(3, 4, rng.uniform(0, 2, 17).round(2))
    found = minimal_cut(odds, links)
    others = (np.reshape(labels, (3, 4)) for labels in itertools.product([False, True], repeat=12))
    least = min(energy(labels, odds, links) for labels in others)
    assert energy(found, odds, links) == pytest.approx(least, abs=1e-6)


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """A noisy orange disc on noisy green, and the disc's mask."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:60, :80]
    disc = (y - 28) ** 2 + (x - 45) ** 2 < 18**2
    picture = np.where(disc[..., None], (210, 130, 40), (40, 120, 60)) + rng.normal(0, 12, (60, 80, 3))
    return np.clip(picture, 0, 255).astype(np.uint8), disc


def test_a_hint_is_enough_for_an_object_of_another_colour() -> None:
    picture, disc = drawn()
    y, x = np.mgrid[:60, :80]
    distance = np.hypot(y - 26, x - 42)  # a little beside the middle
    mask, rounds = grab(picture, 1.5 - distance / 12, distance < 3, distance > 45)
    assert (mask != disc).mean() < 0.01
    assert 1 <= rounds <= 5


def test_pixels_that_are_sure_stay_so() -> None:
    picture, _ = drawn()
    sure, never = np.zeros((60, 80), bool), np.zeros((60, 80), bool)
    sure[2:5, 2:5] = never[26:30, 40:44] = True
    mask, _ = grab(picture, np.zeros((60, 80)), sure, never)
    assert mask[sure].all()
    assert not mask[never].any()


def test_a_picture_of_one_colour_is_cut_by_a_strong_prior() -> None:
    flat = np.full((20, 20, 3), 90, np.uint8)
    prior = np.where(np.arange(20)[None] < 8, 9.0, -9.0) * np.ones((20, 1))
    mask, _ = grab(flat, prior, prior > 99, prior < -99)
    np.testing.assert_array_equal(mask[5], np.arange(20) < 8)
