"""Which layer a class activation map is made of."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper

import onnxviz
from onnxviz import objectives
from onnxviz.attribution import cam_layers
from onnxviz.errors import ModelUnsuitable, UnknownLayer, UsageError
from tests import networks
from tests.attribution.pieces import load, pictures
from tests.networks import Maker


def default(net, objective=None):
    ends = [net.head.logits] if objective is None else objective.layers(net.model, net.input.name)
    return cam_layers.default(net.layers, tuple(ends), classes=objective is None)


def u_net() -> onnx.ModelProto:
    """A segmenter: 32 → 16 → 8 → 16 → 32, skips at both sizes, mask (N, 4, 32, 32)."""
    m = Maker()
    wide = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4))
    middle = m("Relu", m("Conv", wide, m.random(8, 8, 3, 3), pads=[1] * 4, strides=[2, 2]))
    low = m("Relu", m("Conv", middle, m.random(16, 8, 3, 3), pads=[1] * 4, strides=[2, 2]), name="deepest")
    scales = m.constant(np.array([1, 1, 2, 2], np.float32))
    up = m("Concat", m("Resize", low, "", scales, mode="nearest"), middle, axis=1)
    up = m("Relu", m("Conv", up, m.random(8, 24, 3, 3), pads=[1] * 4))
    up = m("Concat", m("Resize", up, "", scales, mode="nearest"), wide, axis=1)
    mask = m("Conv", up, m.random(4, 16, 3, 3), pads=[1] * 4)
    return m.model({"image": ("N", 3, 32, 32)}, {mask: ("N", 4, 32, 32)})


def detector() -> onnx.ModelProto:
    """Boxes (N, 320, 4) and scores (N, 320, 2) from two scales, as one-stage detectors have them."""
    m = Maker()
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4, strides=[2, 2]))
    fine = m("Relu", m("Conv", x, m.random(8, 8, 3, 3), pads=[1] * 4), name="shared")
    coarse = m("Relu", m("Conv", fine, m.random(8, 8, 3, 3), pads=[1] * 4, strides=[2, 2]))
    outputs = {}
    for width, name in ((4, "boxes"), (2, "scores")):
        parts = []
        for level in (fine, coarse):
            found = m("Conv", level, m.random(width, 8, 3, 3), pads=[1] * 4)
            found = m("Transpose", found, perm=[0, 2, 3, 1])
            parts.append(m("Reshape", found, m.constant([0, -1, width])))
        m.nodes.append(helper.make_node("Concat", parts, [name], axis=1))
        outputs[name] = ("N", 320, width)
    return m.model({"image": ("N", 3, 32, 32)}, outputs)


def transformer() -> onnx.ModelProto:
    """Patches of 8 pixels as tokens (N, 16, 32), four blocks of weights on them, their mean, classes."""
    m = Maker()
    x = m("Conv", "image", m.random(32, 3, 8, 8), strides=[8, 8], name="patches")
    x = m("Transpose", m("Reshape", x, m.constant([0, 32, 16])), perm=[0, 2, 1])
    for _ in range(4):
        x = m("Add", x, m("MatMul", m("Relu", m("MatMul", x, m.random(32, 128))), m.random(128, 32)))
    x = m("MatMul", m("ReduceMean", x, axes=[1], keepdims=0), m.random(32, 10))
    return m.model({"image": ("N", 3, 32, 32)}, {x: ("N", 10)})


WANTED = {
    "tiny": (networks.tiny_cnn, "pool", (8, 8)),
    "open size": (lambda: networks.tiny_cnn(size="S"), "pool", None),
    "fp16": (lambda: networks.fp16(networks.tiny_cnn()), "pool", (8, 8)),
    "uint8": (lambda: networks.tiny_cnn(uint8=True), "pool", (8, 8)),
    "NHWC": (networks.nhwc, "transpose10", (16, 16)),
    "QDQ": (lambda: networks.qdq(networks.tiny_cnn()), "pool", (8, 8)),
    "QOperator": (lambda: networks.qoperator(networks.tiny_cnn()), "pool", (8, 8)),
    # Its classifier is a convolution, whose map has a channel a class: what that reads is taken.
    "squeezenet": (lambda: networks.light("squeezenet"), "r61", (13, 13)),
    "shufflenet": (lambda: networks.light("shufflenet"), "r198", (7, 7)),
    "alexnet": (lambda: networks.light("bvlc_alexnet", width=64), "r14", (6, 6)),
}


def test_features_are_taken_where_they_are_pooled(net):
    assert default(net).name == default(net, objectives.l2("features")).name == "head.relu6"
    squeeze = load(networks.light("squeezenet"))
    assert default(squeeze, objectives.l2(squeeze.head.logits)).op == "Relu"  # one channel a class


@pytest.mark.parametrize(("make", "name", "places"), WANTED.values(), ids=WANTED)
def test_a_classifiers_last_layer_with_a_map(make, name, places):
    model = make()
    bytes_ = model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    found = default(load(model, preprocess="raw" if bytes_ else "unit"))
    assert found.name == name
    assert places is None or cam_layers.places(found) == places


def test_a_segmenters_coarsest_layer_and_not_the_mask_itself():
    net = load(u_net())
    assert default(net, objectives.part(net.model.graph.outputs[0].name, 2)).node == "deepest"


def test_a_detectors_layer_is_one_that_every_box_comes_through():
    net, score = load(detector()), objectives.part("scores", 300, 1)
    assert default(net, objectives.part("boxes", 3, 1)).node == "shared"
    found = onnxviz.cam(net, pictures(1)[0], objective=score, signed=True, method="hirescam")
    assert np.abs(found.values).max() > 0


def test_a_transformer_is_refused_with_its_layers_named():
    net = load(transformer())
    with pytest.raises(ModelUnsuitable, match=r"'conv2'.*work.*layer=.*layers with a map: 'conv2'"):
        default(net)
    assert onnxviz.cam(net, pictures(1)[0], layer="patches", signed=True).values.shape == (32, 32)


def test_a_network_without_maps():
    m = Maker()
    x = m("Flatten", "image")
    x = m("MatMul", m("Relu", m("MatMul", x, m.random(192, 8))), m.random(8, 4))
    net = load(m.model({"image": ("N", 3, 8, 8)}, {x: ("N", 4)}))
    with pytest.raises(ModelUnsuitable, match="no layer will do"):
        default(net)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"layer": "features"}, UsageError, r"'features' has shape \(N, 1280\) and no map.*'head.relu6'"),
        ({"layer": "head.relu7"}, UnknownLayer, "did you mean 'head.relu6'"),
        (
            {"layer": "head", "objective": objectives.channel("stem.relu6", 3)},
            UsageError,
            r"'stem.relu6'.* does not depend on layer 'head'.*map: 'stem'",
        ),
        ({"layer": []}, UsageError, "no layer was named"),
    ],
)
def test_a_layer_that_will_not_do_is_refused_with_others_named(net, cat, options, error, words):
    with pytest.raises(error, match=words):
        onnxviz.cam(net, cat, **options)
