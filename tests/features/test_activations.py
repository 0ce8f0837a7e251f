import numpy as np
import pytest
from networks import Maker

import onnxviz
from onnxviz.errors import UsageError
from onnxviz.features.activations import Activations
from onnxviz.figures.heat import diverging


def test_maps_are_the_layers_values(net, cat):
    result = onnxviz.activations(net, cat, "stem.relu6")
    np.testing.assert_array_equal(result.values, net.activations(cat, "stem.relu6")["stem.relu6"][0])
    assert result.values.dtype == np.float32
    assert result.shown() == list(range(32))
    assert result.image.shape == (224, 224, 3)
    assert result.manifest["figures"]["shape"] == [32, 112, 112]


def test_only_the_strongest_of_many_channels_are_drawn(net, cat):
    result = onnxviz.activations(net, cat, "head.relu6")
    peaks = result.values.reshape(len(result.values), -1).max(axis=1)
    shown = result.shown()
    assert len(shown) == 64
    assert shown == sorted(shown)
    assert peaks[shown].min() >= np.delete(peaks, shown).max()


def test_negative_activations_have_colours_of_their_own_about_zero():
    values = np.zeros((2, 8, 8), np.float32)
    values[0, :4], values[0, 4:], values[1, :4] = 2.0, -2.0, 1.0
    image = np.zeros((8, 8, 3), np.uint8)
    drawn = np.asarray(Activations(values, {}, "sum", image).picture()).astype(int)
    red = (drawn[..., 0] > drawn[..., 2] + 60).mean()
    blue = (drawn[..., 2] > drawn[..., 0] + 60).mean()
    assert min(red, blue) > 0.05  # as large each way
    one = diverging(np.float32([0.0, 1.0, -1.0, 0.5])).astype(int)
    for colour in one:  # 0, ±2 and 1 on a scale of ±2
        assert (np.abs(drawn - colour).max(axis=-1) == 0).mean() > 0.02
    # Of 65 channels those with the largest magnitude are shown.
    many = np.full((65, 2, 2), 1.0, np.float32)
    many[3], many[4] = -5, 0.5
    assert 3 in Activations(many, {}, "sum", image).shown()
    assert 4 not in Activations(many, {}, "sum", image).shown()


def test_a_layer_without_maps_can_be_drawn(net, cat):
    result = onnxviz.activations(net, cat, "logits")
    assert result.values.shape == (1000,)
    assert result.picture().width > 100


def test_several_images_give_one_result_each(net, cat):
    found = onnxviz.activations(net, [cat, cat[::-1].copy()], "stem")
    np.testing.assert_array_equal(found[0].values, onnxviz.activations(net, cat, "stem").values)
    assert not np.array_equal(found[0].values, found[1].values)
    with pytest.raises(UsageError, match="no picture"):
        onnxviz.activations(net, [], "stem")


def test_channels_come_first_whatever_the_networks_layout():
    m = Maker()
    last = m("Relu", "image")
    first = m("Transpose", last, perm=[0, 3, 1, 2])
    model = m.model({"image": ("N", 6, 8, 3)}, {first: ("N", 3, 6, 8)})
    net = onnxviz.load(model, preprocess="unit", provider="cpu")
    assert [layer.channels_last for layer in net.layers] == [True, False]
    image = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    found = [onnxviz.activations(net, image, name).values for name in (last, first)]
    assert found[0].shape == (3, 6, 8)
    np.testing.assert_array_equal(*found)
