"""The end of classifiers of every exporter."""

from __future__ import annotations

import networks
import numpy as np
import onnx_ir as ir
import pytest
from networks import Maker, bare, tiny_cnn

from onnxviz.errors import ModelUnsuitable, UnknownLayer
from onnxviz.graph.head import Head, head
from onnxviz.graph.open.load import load


def ends(m, *outputs, **options):
    return head(ir.from_proto(m.model({"image": ("N", 3, 16, 16)}, dict.fromkeys(outputs))), **options)


def trunk(m):
    """(N, 8, 8, 8)"""
    return m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4, strides=[2, 2]))


def pooled(m):
    """(N, 8)"""
    return m("Flatten", m("GlobalAveragePool", trunk(m)))


def linear(m, x, classes=5, size=8):
    return m("Gemm", x, m.random(classes, size), m.random(classes), transB=1)


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
    dropped = m("Identity", m("Dropout", features))
    logits = linear(m, dropped)
    assert ends(m, logits).features == features


def test_forms_behind_the_softmax():
    m = Maker()
    logits = linear(m, pooled(m))
    out = m(
        "Identity",
        m("Squeeze", m("Unsqueeze", m("Softmax", logits, axis=1), m.constant([2])), m.constant([2])),
    )
    found = ends(m, out)
    assert (found.scores, found.logits, found.activation, found.classes) == (out, logits, "softmax", 5)


@pytest.mark.parametrize(
    ("op", "name"), [("Sigmoid", "sigmoid"), ("LogSoftmax", "log_softmax"), ("Softmax", "softmax")]
)
def test_activations(op, name):
    m = Maker()
    logits = linear(m, pooled(m))
    out = m(op, logits)
    found = ends(m, out)
    assert (found.logits, found.activation) == (logits, name)


def test_a_relu_is_no_final_activation():
    m = Maker()
    out = m("Relu", linear(m, pooled(m)))
    found = ends(m, out)
    assert (found.logits, found.activation) == (out, None)


def test_matmul_and_add_with_a_scale():
    m = Maker()
    features = pooled(m)
    x = m("Add", m("MatMul", features, m.random(8, 5)), m.random(5))
    out = m("Softmax", m("Mul", x, m.constant(np.float32(10))))
    found = ends(m, out)
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


def test_a_pointwise_convolution_as_classifier():
    m = Maker()
    x = trunk(m)
    scores = m("Conv", m("Dropout", x), m.random(5, 8, 1, 1))
    out = m("Softmax", m("Flatten", m("GlobalAveragePool", scores)))
    found = ends(m, out)
    assert (found.features, found.pooled, found.classes) == (x, True, 5)


def test_scores_of_shape_n_c_1_1():
    m = Maker()
    whole = m("GlobalAveragePool", trunk(m))
    out = m("Conv", whole, m.random(5, 8, 1, 1))
    found = ends(m, out)
    assert (found.scores, found.classes, found.features, found.pooled) == (out, 5, whole, True)


def test_features_of_a_class_token():
    m = Maker()
    tokens = m("Transpose", m("Reshape", trunk(m), m.constant([0, 8, 64])), perm=[0, 2, 1])
    token = m("Gather", tokens, m.constant(np.int64(0)), axis=1)
    assert ends(m, linear(m, token)).features == token


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


def test_of_logits_and_probabilities_the_probabilities():
    m = Maker()
    logits = linear(m, pooled(m))
    prob = m("Softmax", logits)
    for outputs in ((logits, prob), (prob, logits)):
        found = ends(m, *outputs)
        assert (found.scores, found.logits) == (prob, logits)


def test_of_features_and_scores_the_scores():
    m = Maker()
    features = pooled(m)
    logits = linear(m, features)
    assert ends(m, features, logits).scores == logits
    assert ends(m, logits, trunk(m)).scores == logits  # maps are no scores


def test_of_several_heads_the_one_with_a_telling_name_or_none():
    m = Maker()
    features = pooled(m)
    one, two = linear(m, features), linear(m, features, classes=7)
    with pytest.raises(
        ModelUnsuitable, match=rf"choose one with `output`.*'{one}' \(N, 5\).*'{two}' \(N, 7\)"
    ):
        ends(m, one, two)
    assert ends(m, one, two, output=two).classes == 7
    with pytest.raises(UnknownLayer, match="no output named"):
        ends(m, one, two, output="three")
    probabilities = m("Softmax", one)
    assert ends(m, probabilities, two).scores == probabilities


def test_no_classifier():
    m = Maker()
    x = trunk(m)
    with pytest.raises(ModelUnsuitable, match=r"no output looks like class scores.*\(N, 8, 8, 8\)"):
        ends(m, x)


def test_an_output_that_the_image_does_not_reach():
    m = Maker()
    logits = linear(m, pooled(m))
    fixed = m("Identity", m.random(1, 9))
    assert ends(m, fixed, logits).scores == logits


def test_a_network_without_weights_before_its_scores():
    m = Maker()
    x = m("Flatten", m("GlobalMaxPool", "image"))
    found = ends(m, x)
    assert found.features == found.scores == x


def test_an_end_prints_in_one_short_line():
    text = repr(head(load(tiny_cnn()).model))
    assert text.startswith("<Head 'prob' (N, 10): ") and "10 classes" in text
    assert "\n" not in text and len(text) < 310
