"""Which layers carry style, content and dreams: the papers' own for their networks, and sensible ones elsewhere."""

from __future__ import annotations

import pytest

import onnxviz
from onnxviz.errors import ModelUnsuitable
from onnxviz.synthesis.layers import content_layer, dream_layer, style_layers, trunk
from tests.networks import Maker, light


def opened(model):
    return onnxviz.load(model, preprocess="imagenet", provider="cpu")


def described(net, names):
    by_name = {layer.name: layer for layer in net.layers}
    return [(by_name[name].op, by_name[name].stride[0], by_name[name].shape[1]) for name in names]


def test_vgg_gives_one_relu_a_stride():
    net = opened(light("vgg19", width=16))
    found = described(net, style_layers(net))
    assert found == [("Relu", 1, 64), ("Relu", 2, 128), ("Relu", 4, 256), ("Relu", 8, 512), ("Relu", 16, 512)]
    assert content_layer(net) == "r22"  # relu4_2, as in the paper
    assert described(net, [dream_layer(net)])[0][1] == 16


def test_googlenet_gives_whole_modules():
    net = opened(light("inception_v1"))
    found = described(net, style_layers(net))
    assert [step for _, step, _ in found] == [2, 4, 8, 16, 16]
    assert [op for op, step, _ in found if step >= 8] == ["Concat"] * 3
    assert described(net, [content_layer(net)]) == [("Concat", 8, 256)]
    assert described(net, [dream_layer(net)]) == [("Concat", 16, 512)]  # inception_4c, or its neighbour


def test_bottlenecks_are_left_out():
    net = opened(light("squeezenet"))
    assert min(channels for _, _, channels in described(net, style_layers(net))) >= 64


def test_the_bundled_networks(net):
    """The trunk leaves out what lies inside a block."""
    found = described(net, style_layers(net))
    assert [step for _, step, _ in found] == [2, 2, 4, 8, 16]
    assert {op for op, _, _ in found} == {"Clip"}
    names = {layer.name for layer in trunk(net.layers)}
    assert {"blocks.4.add", "blocks.5.expand.relu6"} <= names
    assert "blocks.4.expand.relu6" not in names


def test_any_image_size(small):
    assert style_layers(small) == ["relu3", "relu10", "relu14", "relu17"]
    assert content_layer(small) == "relu14"


@pytest.mark.parametrize("choose", [style_layers, content_layer, dream_layer])
def test_a_network_without_feature_maps_is_refused(choose):
    m = Maker()
    out = m("Gemm", m("Flatten", "image"), m.random(10, 48), transB=1)
    with pytest.raises(ModelUnsuitable, match="feature maps"):
        choose(opened(m.model({"image": ("N", 3, 4, 4)}, {out: ("N", 10)})))
