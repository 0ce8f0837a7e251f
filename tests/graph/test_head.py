"""The end of classifiers of every exporter."""

from __future__ import annotations

import networks
import numpy as np
import onnx_ir as ir
import pytest
from heads import finished, linear, pooled, trunk
from networks import Maker, bare, tiny_cnn

from onnxviz.errors import ModelUnsuitable, UnknownLayer
from onnxviz.graph.head import Head, head
from onnxviz.graph.open.load import load


def ends(m, *outputs, **options):
    return head(ir.from_proto(finished(m, *outputs)), **options)


def test_softmax_and_linear():
    assert head(load(tiny_cnn()).model) == Head("prob", "logits", "softmax", 10, "features", False)
    assert head(load(tiny_cnn(softmax=False)).model) == Head("logits", "logits", None, 10, "features", False)


@pytest.mark.parametrize(
    ("name", "logits", "activation", "features", "is_pooled"),
    [
        ("bvlc_alexnet", "r24", "softmax", "r21", False),
        ("densenet121", "fc6_1", None, "r908", True),
        ("inception_v1", "r143", "softmax", "r141", False),
        ("resnet50", "r174", "softmax", "r173", False),
        ("squeezenet", "r65", "softmax", "r60", True),
        ("vgg19", "r46", "softmax", "r43", False),
    ],
)
def test_classics(name, logits, activation, features, is_pooled):
    model = load(bare(name)).model
    found = head(model)
    assert (found.logits, found.activation, found.classes) == (logits, activation, 1000)
    assert (found.features, found.pooled) == (features, is_pooled)
    assert found.scores == model.graph.outputs[0].name


def test_dropout_between_features_and_classifier_is_looked_through():
    m = Maker()
    features = pooled(m)
    assert ends(m, linear(m, m("Identity", m("Dropout", features)), 5)).features == features


def reshaped_softmax(m, x):
    x = m("Unsqueeze", m("Softmax", x, axis=1), m.constant([2]))
    return m("Identity", m("Squeeze", x, m.constant([2])))


@pytest.mark.parametrize(
    ("build", "activation"),
    [
        (lambda m, x: m("Sigmoid", x), "sigmoid"),
        (lambda m, x: m("LogSoftmax", x), "log_softmax"),
        (lambda m, x: m("Softmax", x), "softmax"),
        (reshaped_softmax, "softmax"),
        (lambda m, x: m("Relu", x), None),  # no final activation
    ],
)
def test_activations(build, activation):
    m = Maker()
    logits = linear(m, pooled(m), 5)
    out = build(m, logits)
    found = ends(m, out)
    assert (found.scores, found.activation, found.classes) == (out, activation, 5)
    assert found.logits == (logits if activation else out)


def test_matmul_and_add_with_a_scale():
    m = Maker()
    features = pooled(m)
    x = m("Add", m("MatMul", features, m.random(8, 5)), m.random(5))
    found = ends(m, m("Softmax", m("Mul", x, m.constant(np.float32(10)))))
    assert found.features == features
    assert found.logits != x  # the temperature belongs to the logits


@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("product", ["MatMulInteger", "ConvInteger"])
def test_scale_and_bias_of_a_dynamically_quantised_product_are_no_rescaling(product, rescaled):
    """As onnxruntime.quantization.quantize_dynamic writes a linear layer: its scale is measured as it runs."""
    m = Maker()
    x = pooled(m) if product == "MatMulInteger" else m("GlobalAveragePool", trunk(m))
    codes, scale, zero = m("DynamicQuantizeLinear", x, outputs=3)
    weights = m.constant(np.ones((8, 5) if product == "MatMulInteger" else (5, 8, 1, 1), np.uint8))
    both = m("Mul", scale, m.constant(np.float32(0.02)))
    y = m("Mul", m("Cast", m(product, codes, weights, zero), to=1), both)
    y = m("Add", y, m.random(5) if product == "MatMulInteger" else m.random(1, 5, 1, 1))
    if rescaled:  # quantities brought to their units, as in a file that is not quantised
        y = m("Add", m("Mul", y, m.constant(np.float32(40))), m.constant(np.float32(3)))
    found = ends(m, y if product == "MatMulInteger" else m("Flatten", y))
    assert found.scored is not rescaled
    assert ("rescaling" in found.reason) is rescaled


@pytest.mark.parametrize("before", [True, False])
def test_a_pointwise_convolution_as_classifier(before):
    """In front of the mean over places, and behind it: scores of shape (N, C, 1, 1)."""
    m = Maker()
    x = trunk(m) if before else m("GlobalAveragePool", trunk(m))
    out = m("Conv", m("Dropout", x) if before else x, m.random(5, 8, 1, 1))
    if before:
        out = m("Softmax", m("Flatten", m("GlobalAveragePool", out)))
    found = ends(m, out)
    assert (found.scores, found.features, found.pooled, found.classes) == (out, x, True, 5)


def test_features_of_a_class_token():
    m = Maker()
    tokens = m("Transpose", m("Reshape", trunk(m), m.constant([0, 8, 64])), perm=[0, 2, 1])
    token = m("Gather", tokens, m.constant(np.int64(0)), axis=1)
    assert ends(m, linear(m, token, 5)).features == token


@pytest.mark.parametrize("form", ["qdq", "qoperator", "fp16"])
def test_other_forms(form):
    proto = networks.static_batch()
    model = load(getattr(networks, form)(proto)).model
    found = head(model)
    assert found.classes == 10
    assert found.activation == "softmax"
    from onnxviz.graph.layers import layers

    told = {layer.name: layer for layer in layers(model)}
    assert told[found.features].shape == (1, 16)
    assert told[found.logits].shape == (1, 10)
    assert not found.pooled
    if form != "qoperator":
        assert told[found.features].op[:8] != "Quantize"


def test_of_several_outputs_the_scores():
    """Of logits and probabilities the probabilities; not features, maps, nor what the picture does not reach."""
    m = Maker()
    features = pooled(m)
    logits = linear(m, features, 5)
    prob = m("Softmax", logits)
    fixed = m("Identity", m.random(1, 9))
    for outputs in ((logits, prob), (prob, logits)):
        found = ends(m, *outputs)
        assert (found.scores, found.logits) == (prob, logits)
    for outputs in ((features, logits), (logits, trunk(m)), (fixed, logits)):
        assert ends(m, *outputs).scores == logits


def test_of_several_heads_the_one_with_a_telling_name_or_none():
    m = Maker()
    features = pooled(m)
    one, two = linear(m, features, 5), linear(m, features, 7)
    listed = rf"choose one with `output`.*'{one}' \(N, 5\).*'{two}' \(N, 7\)"
    with pytest.raises(ModelUnsuitable, match=listed):
        ends(m, one, two)
    assert ends(m, one, two, output=two).classes == 7
    with pytest.raises(UnknownLayer, match="no output named"):
        ends(m, one, two, output="three")
    probabilities = m("Softmax", one)
    assert ends(m, probabilities, two).scores == probabilities


def test_no_classifier():
    m = Maker()
    with pytest.raises(ModelUnsuitable, match=r"no output looks like class scores.*\(N, 8, 8, 8\)"):
        ends(m, trunk(m))


def test_a_network_without_weights_before_its_scores():
    m = Maker()
    x = m("Flatten", m("GlobalMaxPool", "image"))
    found = ends(m, x)
    assert found.features == found.scores == x


def test_an_end_prints_in_one_short_line():
    text = repr(head(load(tiny_cnn()).model))
    assert text.startswith("<Head 'prob' (N, 10): ") and "10 classes" in text
    assert "\n" not in text and len(text) < 310
