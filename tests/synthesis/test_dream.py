"""DeepDream: how far the objective rises, octaves, detail, guides, zooms, refusals, early ends."""

from __future__ import annotations

import numpy as np
import pytest

import onnxviz
from onnxviz.errors import ModelUnsuitable
from onnxviz.synthesis.dream import enlarged, octave_sizes
from tests.networks import light
from tests.synthesis.painted import picture

PHOTO = picture(60, 80, seed=1)


def test_the_objective_rises_tenfold_at_every_octave_of_the_bundled_network(net, cat):
    made = onnxviz.dream(net, cat, "blocks.7.add", channels=[3], size=160, octaves=2, steps=20)
    octaves = made.manifest["figures"]["octaves"]
    assert [octave["size"] for octave in octaves] == [[76, 114], [106, 160]]
    assert min(octave["rise"] for octave in octaves) >= 10


def test_a_whole_layer_answers_more_at_every_octave(net, cat):
    made = onnxviz.dream(net, cat, "blocks.5.project", size=128, octaves=2, steps=6)
    octaves = made.manifest["figures"]["octaves"]
    assert min(octave["rise"] for octave in octaves) > 1.3
    assert octaves[1]["objective_start"] > octaves[1]["objective_photo"]  # detail is carried over


def test_the_figures_are_the_objective_of_the_picture(small):
    made = onnxviz.dream(small, PHOTO, "relu10", octaves=1, steps=4, jitter=0)
    (octave,) = made.manifest["figures"]["octaves"]
    for picture_, name in ((PHOTO / np.float32(255), "objective_photo"), (made.values, "objective_end")):
        x = small.preprocessing.normalise(picture_[None].astype(np.float32) * 255)
        energy = 0.5 * float((small.run(x, ["relu10"])["relu10"].astype(np.float64) ** 2).sum())
        assert octave[name] == pytest.approx(energy, rel=1e-3)


def test_a_step_moves_pixels_by_its_rate_on_average(small):
    made = onnxviz.dream(small, np.full((40, 40, 3), 128, np.uint8), octaves=1, steps=1, rate=3, jitter=0)
    grey = made.values * 255 - 128
    assert np.abs(grey).mean() == pytest.approx(3, rel=0.02)


def test_octaves():
    assert octave_sizes((200, 100), 3, 2.0, (8, 8)) == [(50, 25), (100, 50), (200, 100)]
    assert octave_sizes((200, 100), 3, 2.0, (40, 40)) == [(100, 50), (200, 100)]
    assert octave_sizes((200, 100), 1, 1.4, (8, 8)) == [(200, 100)]


def test_a_guide_brings_its_own_features(small):
    guides = picture(seed=5), picture(seed=6)
    found = [onnxviz.dream(small, PHOTO, "relu10", guide=guide, octaves=1, steps=3) for guide in guides]
    for made in found:
        assert made.manifest["figures"]["octaves"][0]["rise"] > 1.05
        assert made.manifest["parameters"]["guided"] is True
    assert np.abs(found[0].values - found[1].values).max() > 0.02


def test_a_zoom_goes_into_the_picture(small):
    made = onnxviz.dream(small, PHOTO, octaves=2, steps=2, zoom=3, zoom_by=1.2)
    assert made.manifest["figures"]["frames"] == 5
    assert [frame.shape for frame in made.frames] == [(60, 80, 3)] * 5
    np.testing.assert_array_equal(made.frames[0], PHOTO)
    np.testing.assert_array_equal(made.frames[-1], made.image)
    still = enlarged(np.asarray(made.frames[1], np.float32) / 255, 1.2)
    assert np.abs(made.frames[2] / 255 - still).mean() < np.abs(made.frames[2] / 255 - PHOTO / 255).mean()
    wave = np.zeros((41, 61, 3), np.float32)  # enlarging keeps the middle
    wave[20, 30] = 1
    assert np.unravel_index(enlarged(wave, 1.5)[..., 0].argmax(), (41, 61)) == (20, 30)


@pytest.mark.parametrize(("size", "shape"), [(40, (30, 40, 3)), ((44, 33), (44, 33, 3))])
def test_the_size_of_the_result_and_several_layers_with_weights(small, size, shape):
    made = onnxviz.dream(small, PHOTO, {"relu3": 1, "relu10": 3}, size=size, octaves=1, steps=1)
    assert made.values.shape == shape
    assert made.manifest["parameters"]["layers"] == {"relu3": 0.25, "relu10": 0.75}


def test_a_layer_behind_a_fixed_head_at_another_size():
    net = onnxviz.load(light("zfnet512", width=16), preprocess="imagenet", provider="cpu")
    with pytest.raises(ModelUnsuitable, match="ends before"):
        onnxviz.dream(net, PHOTO, net.head.logits, size=64, octaves=1, steps=1)
