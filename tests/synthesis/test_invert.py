"""Feature inversion: how near it comes on the bundled network, a row of layers, jitter, refusals, early ends."""

from __future__ import annotations

import numpy as np
import pytest

import onnxviz
from onnxviz.errors import GradientNotFinite, ImageRejected, UnknownLayer
from tests.networks import Maker
from tests.synthesis.painted import network, picture

PHOTO = picture(seed=1)


@pytest.fixture(scope="module")
def small():
    return onnxviz.load(network(), preprocess="imagenet", provider="cpu", size=32)


def test_the_errors_on_the_bundled_network_are_those_of_the_layers(cat):
    net = onnxviz.load("efficientnet-lite0", provider="cpu", size=96)
    found = onnxviz.invert(net, cat, ["stem.relu6", "blocks.12.add"], steps=60)
    assert found.values.shape == (2, 96, 96, 3)
    assert found.errors[0] <= 0.05
    assert found.errors[1] <= 0.15
    normalise = net.preprocessing.normalise
    shown = normalise(found.image[None]), normalise(found.values[:1] * 255)
    wanted, got = (net.run(x, ["stem.relu6"])["stem.relu6"] for x in shown)
    assert found.errors[0] == pytest.approx(float(((got - wanted) ** 2).sum() / (wanted**2).sum()), rel=0.02)
    # A shallow layer gives the photo back.
    difference = np.abs(found.values - found.image / 255).mean(axis=(1, 2, 3))
    assert difference[0] < 0.08
    assert difference[1] > difference[0]


def test_more_total_variation_is_smoother(small):
    rough, smooth = (onnxviz.invert(small, PHOTO, "relu10", steps=25, tv_weight=w) for w in (0, 30))
    variation = [np.abs(np.diff(found.values[0], axis=0)).mean() for found in (rough, smooth)]
    assert variation[1] < 0.7 * variation[0]
    assert rough.errors[0] < smooth.errors[0]


def test_jitter_is_drawn_from_the_seed(small):
    made = [onnxviz.invert(small, PHOTO, "relu3", steps=4, jitter=4, seed=seed).values for seed in (1, 1, 2)]
    np.testing.assert_array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


def test_the_sheet_has_the_photo_and_every_layer(small):
    found = onnxviz.invert(small, PHOTO, ["relu3", "relu10", "relu17"], steps=2)
    assert found.layers == ["relu3", "relu10", "relu17"]
    assert found.picture().width > 4 * 200
    assert [row["layer"] for row in found.manifest["figures"]["layers"]] == found.layers
    assert onnxviz.invert(small, PHOTO, "flatten19", steps=30).errors[0] < 0.1  # a layer without places


def test_a_size_without_places_is_refused():
    net = onnxviz.load(network(), preprocess="imagenet", provider="cpu", size=6)
    with pytest.raises(ImageRejected, match="too small"):
        onnxviz.invert(net, PHOTO, "relu17")


def test_a_value_that_does_not_depend_on_the_input_is_no_layer():
    m = Maker()
    fixed = m("Relu", m.constant(np.ones((1, 8, 16, 16), np.float32)))
    x = m("Add", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1, 1, 1, 1]), fixed)
    net = onnxviz.load(m.model({"image": ("N", 3, 16, 16)}, {x: None}), preprocess="unit", provider="cpu")
    with pytest.raises(UnknownLayer, match="no layer"):
        onnxviz.invert(net, PHOTO, fixed)


def test_numbers_that_run_away_end_with_what_there_was():
    m = Maker()
    x = m("Conv", "image", m.random(8, 3, 3, 3), pads=[1, 1, 1, 1])
    x = m("Log", m("Add", x, m.constant(np.float32(2.0))))
    net = onnxviz.load(m.model({"image": ("N", 3, 16, 16)}, {x: None}), preprocess="imagenet", provider="cpu")
    grey = np.full((16, 16, 3), 120, np.uint8)
    with pytest.raises(GradientNotFinite, match="step"):
        onnxviz.invert(net, grey, x, steps=40, jitter=3, rate=5.0)
