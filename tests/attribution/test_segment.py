"""Objects cut out by what a score rests on."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from networks import Maker

import onnxviz
from onnxviz.attribution import segment
from onnxviz.errors import ModelUnsuitable, UnknownLabel, UsageError
from onnxviz.figures import draw
from tests import toys
from tests.attribution.pieces import load

SIDE = 48


def disc() -> tuple[np.ndarray, np.ndarray]:
    """A noisy red disc on noisy blue, and its mask."""
    y, x = np.mgrid[:SIDE, :SIDE]
    mask = (y - 20) ** 2 + (x - 28) ** 2 < 12**2
    picture = np.where(mask[..., None], (200, 60, 40), (50, 80, 170))
    picture = picture + np.random.default_rng(0).normal(0, 10, picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8), mask


@pytest.fixture(scope="module")
def red():
    """Class 0 answers to what is redder than it is blue, through a blurring convolution; class 1 never answers."""
    m = Maker()
    weights = np.zeros((2, 3, 9, 9), np.float32)
    weights[0, 0], weights[0, 2] = 1 / 81, -1 / 81
    fired = m("Relu", m("Conv", "image", m.constant(weights), m.constant([0.0, -1.0]), pads=[4] * 4))
    logits = m("Flatten", m("GlobalAveragePool", fired))
    return load(m.model({"image": ("N", 3, SIDE, SIDE)}, {logits: ("N", 2)}), labels=["red", "none"])


def overlap(found, mask: np.ndarray) -> float:
    return (found.mask & mask).sum() / (found.mask | mask).sum()


@pytest.mark.parametrize("method", ["full-gradient", "saliency", "integrated-gradients"])
def test_the_object_is_found_whatever_the_map_comes_from(red, method) -> None:
    picture, mask = disc()
    found = onnxviz.segment(red, picture, target="red", method=method)
    assert found.values.dtype == np.float32
    assert set(np.unique(found.values)) == {0.0, 1.0}
    assert overlap(found, mask) > 0.9
    assert found.manifest["figures"]["area"] == pytest.approx(found.mask.mean())
    assert found.label == "red"


def test_a_list_gives_a_list_and_the_same_seed_the_same(red) -> None:
    picture, _ = disc()
    several = onnxviz.segment(red, [picture, picture[:, ::-1].copy()], target=0)
    np.testing.assert_array_equal(several[0].values, onnxviz.segment(red, picture, target=0).values)
    assert several[1].mask[:, :24].sum() > several[1].mask[:, 24:].sum()


def test_the_cat_is_in_the_cats_outline(net, cat) -> None:
    """And the network is asked about it alone and the rest: without nose and eyes it is still a cat, which is said."""
    found = onnxviz.segment(net, cat, target="Egyptian cat")
    figures = found.manifest["figures"]
    assert found.values.shape == (224, 224)
    assert 0.05 < figures["area"] < 0.6
    assert found.mask[150, 150]  # the nose
    assert not found.mask[:, -4:].any()
    assert found.picture().width > 3 * 400
    shown = np.where(found.mask[..., None], 127.5, found.image).astype(np.float32)
    wanted = net.probabilities(net.preprocessing.normalise(shown[None]).astype(np.float32))[0, 285]
    assert figures["without"] == pytest.approx(float(wanted), rel=1e-4)
    assert figures["sure"] == (
        figures["agreement"] >= 0.6
        and figures["alone"] >= figures["score"] / 4
        and figures["without"] <= figures["score"] / 2
    )
    assert figures["sure"] != any("unsure" in text for text in found.manifest["warnings"])


def test_the_papers_cut_follows_the_paper(red) -> None:
    """Simonyan et al. 2014, 3.2: colours from beyond 95 % and 30 %, no prior, one cut, the largest part."""
    picture, mask = disc()
    found = onnxviz.segment(red, picture, target="red", cut="paper")
    parameters = found.manifest["parameters"]
    assert (parameters["foreground"], parameters["background"], parameters["prior"]) == (0.95, 0.30, 0)
    assert found.manifest["figures"]["rounds"] == found.manifest["figures"]["parts"] == 1
    assert overlap(found, mask) > 0.9
    own = onnxviz.segment(red, picture, target="red").manifest["parameters"]
    assert (own["cut"], own["foreground"], own["background"]) == ("grabcut", 0.99, 0.20)
    assert own["prior"] > 0


def test_a_steady_cut_and_an_unsteady_one_say_so(red) -> None:
    picture, _ = disc()
    found = onnxviz.segment(red, picture, target="red")
    assert found.manifest["figures"]["agreement"] > 0.9
    assert found.manifest["figures"]["parts"] == 1
    # Noise all over: no border to follow, so the outline is where the thresholds put it.
    noise = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    noise[:, 24:, 0] = np.minimum(noise[:, 24:, 0], 190)
    noise[..., 2] = noise[..., 2] // 2
    doubtful = onnxviz.segment(red, noise, target="red")
    figures = doubtful.manifest["figures"]
    assert not figures["sure"]
    assert figures["agreement"] < 0.6
    assert any("unsure" in text for text in doubtful.manifest["warnings"])
    assert "unsure" in draw._certainty(figures)


def test_parts_are_counted() -> None:
    mask = np.zeros((10, 10), bool)
    mask[1:4, 1:4] = mask[6:7, 6:9] = True
    half = mask.copy()
    half[6:7] = False
    found = segment._certainty(mask, [mask, half])
    assert found["parts"] == 2
    assert found["largest_part"] == pytest.approx(9 / 12)
    assert found["agreement"] == pytest.approx((1 + 9 / 12) / 2)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"target": "none"}, ModelUnsuitable, "zero everywhere"),
        ({"rounds": 0}, UsageError, "rounds"),
        ({"cut": "scissors"}, UsageError, "grabcut or paper"),
        ({"foreground": 0.2, "background": 0.4}, UsageError, "background < foreground"),
        ({"method": "grab"}, UsageError, "no method"),
        ({"target": "blue"}, UnknownLabel, "blue"),
    ],
)
def test_wrong_usage_is_a_typed_error(red, options, error, words) -> None:
    with pytest.raises(error, match=words):
        onnxviz.segment(red, disc()[0], **options)


def test_a_tiny_picture_is_cut_too(toy) -> None:
    found = onnxviz.segment(toy, toys.photo(), target=0, method="saliency")
    assert found.values.shape == (12, 12)
    assert found.mask[4:8, 6:10].any()


# --- the minimal cut, held to a search through all labellings ---------------------------------


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
    found = segment.minimal_cut(odds, links)
    others = (np.reshape(labels, (3, 4)) for labels in itertools.product([False, True], repeat=12))
    least = min(energy(labels, odds, links) for labels in others)
    assert energy(found, odds, links) == pytest.approx(least, abs=1e-6)


def test_a_hint_is_enough_for_an_object_of_another_colour() -> None:
    picture, wanted = disc()
    y, x = np.mgrid[:SIDE, :SIDE]
    distance = np.hypot(y - 19, x - 26)  # a little beside the middle
    mask, rounds = segment.grab(picture, 1.5 - distance / 8, distance < 2, distance > 30)
    assert (mask != wanted).mean() < 0.01
    assert 1 <= rounds <= 5


def test_pixels_that_are_sure_stay_so() -> None:
    sure, never = np.zeros((2, SIDE, SIDE), bool)
    sure[2:5, 2:5] = never[18:22, 26:30] = True
    mask, _ = segment.grab(disc()[0], np.zeros((SIDE, SIDE)), sure, never)
    assert mask[sure].all()
    assert not mask[never].any()


def test_a_picture_of_one_colour_is_cut_by_a_strong_prior() -> None:
    flat = np.full((20, 20, 3), 90, np.uint8)
    prior = np.where(np.arange(20)[None] < 8, 9.0, -9.0) * np.ones((20, 1))
    mask, _ = segment.grab(flat, prior, prior > 99, prior < -99)
    np.testing.assert_array_equal(mask[5], np.arange(20) < 8)
