"""What is explained: the same arguments mean the same for every technique."""

from __future__ import annotations

import networks
import numpy as np
import pytest

import onnxviz
from onnxviz.attribution.targets import parse
from onnxviz.errors import UnknownLabel, UsageError
from tests.attribution.pieces import load


@pytest.fixture(scope="module")
def small():
    return load(networks.tiny_cnn())


def test_classes(net, cat):
    x = net.prepare([cat, cat[:, ::-1].copy()])
    found = parse(net).settle(net, x)
    assert found.classes == (285, 285)
    assert found.labels[0] == "Egyptian cat"
    assert 0.2 < found.probabilities[0] < 1
    named = parse(net, ["Egyptian cat", 1]).settle(net, x)
    assert named.classes == (285, 1)
    np.testing.assert_array_equal(named.feeds()["target"], [285, 1])
    np.testing.assert_array_equal(named.feeds(np.array([1, 1, 0]))["target"], [1, 1, 285])
    value = named.gradients(net)(x, named.feeds())["objective"]
    logits = net.run(x, [net.head.logits])[net.head.logits]
    np.testing.assert_allclose(value, [logits[0, 285], logits[1, 1]], rtol=1e-4)
    assert parse(net, named) is named


def test_a_layer(net, cat):
    x = net.prepare([cat])
    found = parse(net, layer="stem", channel=3).settle(net, x)
    value = found.gradients(net)(x)["objective"]
    maps = net.activations([cat], "stem")["stem"]
    np.testing.assert_allclose(value, maps[:, 3].mean(axis=(1, 2)), rtol=1e-4)
    unit = parse(net, layer="stem", channel=3, neuron=(5, 7))
    np.testing.assert_allclose(unit.gradients(net)(x)["objective"], maps[:, 3, 5, 7], rtol=1e-4)
    assert found.classes == (None,)
    assert "stem" in found.labels[0]


@pytest.mark.parametrize("last", [False, True], ids=["NCHW", "NHWC"])
@pytest.mark.parametrize("neuron", [None, (1, 2), "1,2", "middle"], ids=str)
def test_forwards_and_by_gradients_the_same_is_explained(last, neuron):
    net = load(networks.nhwc() if last else networks.tiny_cnn())
    layer = [
        one for one in net.layers if len(one.shape) == 4 and one.channels_last == last and 16 in one.shape[2:]
    ][-1]
    x = np.random.default_rng(0).random((1, *((32, 32, 3) if last else (3, 32, 32))), np.float32)
    maps = net.activations(x, layer.name)[layer.name][0]
    channel = np.moveaxis(maps, -1, 0)[1] if last else maps[1]
    height, width = (size // 2 for size in channel.shape)
    place = {"1,2": (1, 2), "middle": (height, width)}.get(neuron, neuron)
    expected = channel.mean() if place is None else channel[place]
    explained = {"layer": layer.name, "channel": 1, "neuron": neuron}
    assert onnxviz.saliency(net, x, **explained)[0].score == pytest.approx(expected, rel=1e-4)
    options = {"window": 16, "stride": 16, "fill": "zero"}
    assert onnxviz.occlusion(net, x, **options, **explained).score == pytest.approx(expected, rel=1e-4)


def test_texts_mean_what_numbers_do(small):
    for channel, neuron in ((1, (2, 3)), ("1", "2,3"), (["1"], [2, 3])):
        found = parse(small, layer="conv2", channel=channel, neuron=neuron)
        assert found.labels == ("conv2, channel 1 at (2, 3)",)
    shown = parse(small, layer="conv2", channel="all", neuron="middle", shown=True)
    assert shown.channels == tuple(range(small.layer("conv2").shape[1]))
    assert shown.labels[-1] == f"conv2, channel {len(shown) - 1}, middle neuron"
    np.testing.assert_array_equal(shown.feeds()["channel"], shown.channels)


def test_the_older_name_of_neuron_works(small):
    x = np.random.default_rng(0).random((1, 3, 32, 32), np.float32)
    new = onnxviz.saliency(small, x, layer="conv2", channel=1, neuron=(2, 3))[0]
    with pytest.warns(DeprecationWarning, match="neuron="):
        old = onnxviz.saliency(small, x, layer="conv2", channel=1, position=(2, 3))[0]
    np.testing.assert_array_equal(old.values, new.values)
    with pytest.raises(UsageError, match="give one of them"):
        onnxviz.saliency(small, x, layer="conv2", channel=1, neuron=(2, 3), position=(2, 3))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"target": 1, "layer": "stem"}, "one of target=, layer= and objective="),
        ({"target": []}, "no target was given"),
        ({"layer": "stem"}, "channel="),
        ({"channel": 1}, "layer="),
        ({"neuron": 1}, "layer="),
        ({"objective": 3}, "an objective is made by"),
        ({"objective": len}, "an objective is made by"),
        ({"layer": "stem", "channel": 32}, "32 channels"),
        ({"layer": "stem", "channel": -1}, "32 channels"),
        ({"layer": "stem", "channel": "two"}, "takes a number"),
        ({"layer": "stem", "channel": True}, "takes a number"),
        ({"layer": "stem", "channel": [1, 2]}, "one channel"),
        ({"layer": "stem", "channel": 1, "neuron": 5}, "a row and a column"),
        ({"layer": "stem", "channel": 1, "neuron": "a,b"}, "a row and a column"),
        ({"layer": "stem", "channel": 1, "neuron": (5, 500)}, "112×112 neurons"),
        ({"layer": "logits", "channel": 1, "neuron": (0, 0)}, "no map of neurons"),
    ],
)
def test_what_cannot_be_meant(net, given, told):
    with pytest.raises(UsageError, match=told):
        parse(net, **given)


def test_targets_are_as_many_as_pictures(net, cat):
    with pytest.raises(UsageError, match="2 targets were given for 1"):
        parse(net, [1, 2]).settle(net, net.prepare([cat]))
    with pytest.raises(UsageError, match="2 targets were given for 1"):
        onnxviz.occlusion(net, cat, target=(1, 2))
    with pytest.raises(UnknownLabel):
        parse(net, 1000)


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize("end", [None, "Sigmoid"])
def test_a_file_that_squeezes_everything_gives_what_it_gives_with_its_axes_named(classes, end):
    """At one picture such a file drops the batch too: a scalar, or a row of classes, without an axis of pictures."""
    rng = np.random.default_rng(0)
    photos = [rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for _ in range(3)]
    found = []
    for named in (False, True):
        m = networks.Maker(seed=3)
        x = m("Relu", m("Conv", "image", m.random(6, 3, 3, 3), pads=[1] * 4, strides=[2, 2]))
        x = m("ReduceMean", m("Conv", x, m.random(classes, 6, 1, 1)), axes=[2, 3])
        axes = [m.constant(np.int64([1, 2, 3] if classes == 1 else [2, 3]))] if named else []
        x = m("Squeeze", m(end, x) if end else x, *axes)
        net = load(m.model({"image": ("N", 3, 16, 16)}, {x: None}))
        text = f"part({x!r})"
        maps = [
            *onnxviz.saliency(net, photos, method="gradient", objective=text),
            *onnxviz.saliency(net, photos[:1], method="gradient", objective=f"l2({x!r})"),
            onnxviz.saliency(net, photos[0], method="gradient"),
            *onnxviz.cam(net, photos),
            onnxviz.occlusion(net, photos[0], window=8, stride=8, objective=text),
            onnxviz.fool(net, photos[0], steps=2),
            onnxviz.ascent(net, target=0, steps=2, preset="simonyan"),
        ]
        assert net.alone is None
        found.append([one.values for one in maps])
    for squeezed, expected in zip(*found, strict=True):
        np.testing.assert_allclose(squeezed, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
