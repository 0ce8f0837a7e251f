"""Textures by Gram matrices: how far the loss falls, sizes, the same bytes again, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data

import onnxviz
from onnxviz.errors import ImageRejected, UnknownLayer, UsageError
from onnxviz.interrupted import Interrupted
from onnxviz.synthesis.layers import style_layers
from onnxviz.synthesis.texture import gram_texture
from tests.synthesis.painted import network, picture


@pytest.fixture(scope="module")
def small():
    return onnxviz.load(network(), preprocess="imagenet", provider="cpu")


def test_the_loss_falls_a_thousandfold_and_the_picture_is_like_the_source(net):
    gravel = data.gravel()[:96, :96]
    first_four = style_layers(net)[:4]
    made = gram_texture(net, gravel, size=96, layers=first_four, steps=120, seed=1)
    figures = made.manifest["figures"]
    assert figures["fall"] >= 1000
    assert abs(made.values.mean() - gravel.mean() / 255) < 0.05
    assert made.values.std() > 0.5 * gravel.std() / 255
    colour = made.values - made.values.mean(axis=2, keepdims=True)
    assert np.abs(colour).mean() < 0.05  # grey stones stay grey


def test_larger_than_the_source_and_not_square(small):
    made = gram_texture(small, picture(32, 40), size=(50, 70), steps=5)
    assert made.values.shape == (50, 70, 3)
    assert made.picture().size == (70, 64) or made.picture().size[0] >= 70
    assert made.manifest["parameters"]["source_size"] == [32, 40]


def test_a_large_source_is_made_smaller(small):
    made = gram_texture(small, picture(64, 80), size=32, source=40, steps=2)
    assert made.manifest["parameters"]["source_size"] == [32, 40]


def test_the_same_seed_gives_the_same_bytes(small):
    one, two, other = (gram_texture(small, picture(), size=32, steps=6, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(one.values, two.values)
    assert not np.array_equal(one.values, other.values)


def test_the_command_takes_it(small):
    made = onnxviz.texture(small, picture(), "gram", size=(40, 32), layers=["relu3", "relu10"], steps=3)
    assert made.values.shape == (40, 32, 3)
    assert set(made.manifest["parameters"]["layers"]) == {"relu3", "relu10"}
    assert made.manifest["schema"] == "onnxviz.texture/1"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layers": ["relu11"]}, UnknownLayer, "did you mean"),
        ({"steps": 0}, UsageError, "steps"),
        ({"source": 5}, ImageRejected, "too small"),
    ],
)
def test_refusals(small, options, error, message):
    with pytest.raises(error, match=message):
        gram_texture(small, picture(), **options)


def test_a_source_of_one_colour_is_refused(small):
    with pytest.raises(ImageRejected, match="one colour"):
        gram_texture(small, np.full((40, 40, 3), 7, np.uint8))


def test_an_early_end_keeps_what_there_is(small):
    def watch(shot):
        if shot.index == 3:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stop:
        gram_texture(small, picture(), size=32, steps=30, watch=watch)
    assert stop.value.partial.manifest["incomplete"] is True
    assert stop.value.partial.manifest["figures"]["steps_done"] == 4
