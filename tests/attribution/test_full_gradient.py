"""Full gradients: input and biases explain the whole score; and how methods take random weights (Adebayo 2018)."""

from __future__ import annotations

import networks
import numpy as np
import onnx_ir as ir
import pytest
from networks import Maker

import onnxviz
from onnxviz.attribution.full_gradient import offsets
from onnxviz.attribution.sampled import Job
from onnxviz.attribution.targets import parse
from onnxviz.features.pictures import given
from onnxviz.graph.randomise import randomise, weighted
from tests.attribution.pieces import correlation, load


def photo(side: int = 32) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (side, side, 3)).astype(np.uint8)


def explained(net, side: int = 32, **options):
    """(completeness error, layers with offsets, warnings)"""
    manifest = onnxviz.saliency(net, photo(side), method="full-gradient", **options).manifest
    layers = manifest["parameters"]["layers_with_offsets"]
    return manifest["figures"]["completeness_error"], layers, manifest["warnings"]


def test_the_bundled_networks_score_is_explained_completely(net, photo_files) -> None:
    """Also what its ReLU6 units hold back at their limit."""
    found = onnxviz.saliency(net, photo_files[:2], method="full-gradient")
    for one in found:
        assert one.manifest["figures"]["completeness_error"] < 1e-5
        assert one.manifest["parameters"]["layers_with_offsets"] >= 50
        assert not one.manifest["warnings"]


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (networks.tiny_cnn, {}),  # BatchNormalization behind a convolution, max pooling
        (networks.nhwc, {"layout": "NHWC"}),  # MatMul and Add
        (lambda: networks.static_batch(batch=2), {}),
        # Rounding and saturation count too, and biases that are stored quantised.
        (lambda: networks.qdq(networks.tiny_cnn(batch=1)), {}),
        (lambda: networks.fp16(networks.tiny_cnn()), {}),
    ],
    ids=["tiny", "nhwc", "static batch", "quantised", "half"],
)
def test_other_networks_too(model, options) -> None:
    net = load(model(), **options)
    for target in (0, 3):
        assert explained(net, target=target)[0] < 1e-4


CURVES = {
    "swish": lambda m, x: m("Mul", x, m("Sigmoid", x)),
    "square": lambda m, x: m("Pow", x, m.constant(np.float32(2))),
    "ratio": lambda m, x: m("Div", x, m("Add", m("Mul", x, x), m.constant(np.float32(1)))),
    "clip": lambda m, x: m("Clip", x, m.constant(np.float32(-0.1)), m.constant(np.float32(0.3))),
}
PLAIN = ["Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Softplus", "LeakyRelu", "Elu", "Exp", "Erf"]


@pytest.mark.parametrize("activation", [*PLAIN, *CURVES])
def test_curved_activations_have_offsets(activation) -> None:
    m = Maker()
    x = m("Conv", "image", m.random(6, 3, 3, 3), m.random(6))
    statistics = [m.random(6, positive=True) for _ in range(4)]
    x = m("BatchNormalization", m("Relu", x), *statistics)  # behind a ReLU, so that nothing can fold it
    x = CURVES[activation](m, x) if activation in CURVES else m(activation, x)
    x = m("GlobalAveragePool", m("Sub", m.constant(np.float32(0.5)), x))
    logits = m("Gemm", m("Flatten", x), m.random(6, 4), m.random(4), beta=0.5)
    net = load(m.model({"image": ("N", 3, 16, 16)}, {logits: ("N", 4)}))
    assert explained(net, 16, target=1)[0] < 1e-4


def test_what_is_left_unexplained_is_said() -> None:
    """A softmax over channels has no offset here."""
    m = Maker()
    x = m("Softmax", m("Conv", "image", m.random(4, 3, 3, 3), m.random(4)), axis=1)
    logits = m("Flatten", m("GlobalAveragePool", x))
    error, _, warnings = explained(
        load(m.model({"image": ("N", 3, 16, 16)}, {logits: ("N", 4)})), 16, target=0
    )
    assert error > 0.1
    assert any("add up to" in text for text in warnings)


def test_offsets_are_those_of_the_folded_graph_and_of_the_way_only() -> None:
    model = ir.from_proto(networks.tiny_cnn())
    found = {one.layer: one for one in offsets(model, ["logits"], lambda node: True)}
    assert set(found) == {
        "norm1",
        "conv2",
        "logits",
    }  # the first convolution's bias is in the normalisation's
    assert {one.layer for one in offsets(model, ["relu1"], lambda node: True)} == {"norm1"}
    assert not any(one.needs for one in found.values())


def lengths(form: str):
    """A Reshape, Resize or scale whose numbers are computed from the picture's own size, with constants added."""
    m = Maker()
    x = m("Relu", m("Conv", "image", m.random(6, 3, 3, 3), m.random(6)))
    shape = m("Shape", x)

    def part(start: int, end: int) -> str:
        return m("Slice", shape, m.constant([start]), m.constant([end]))

    if form == "reshape":  # (N, 6, H * W + 1 - 1), mean
        places = m("Add", m("Mul", part(2, 3), part(3, 4)), m.constant([1]))
        sizes = m("Concat", part(0, 2), m("Sub", places, m.constant([1])), axis=0)
        x = m("ReduceMean", m("Reshape", x, sizes), axes=[2], keepdims=0)
    elif form == "scale":  # x / (number of places + 0.5)
        x = m("Mul", x, m("Reciprocal", m("Add", m("Cast", part(2, 3), to=1), m.constant([0.5]))))
    elif form == "resize":
        sizes = m("Concat", part(0, 2), m("Add", part(2, 4), m.constant([3, 5])), axis=0)
        x = m("Resize", x, "", "", sizes, mode="linear")
    else:  # where the largest value lies, as a picture of its own: an integer that depends on the picture
        place = m("Add", m("ArgMax", x, axis=1, keepdims=1), m.constant(2))
        x = m("Where", m("Greater", place, m.constant(1)), x, m.constant(np.float32(0)))
    if form != "reshape":
        x = m("Flatten", m("GlobalAveragePool", x))
    logits = m("Gemm", x, m.random(6, 4), m.random(4))
    return m.model({"image": ("N", 3, "H", "W")}, {logits: ("N", 4)})


@pytest.mark.parametrize("form", ["reshape", "scale", "resize", "largest"])
def test_what_is_added_to_lengths_is_no_bias(form) -> None:
    net = load(lengths(form))
    error, layers, _ = explained(net, 16, target=1)
    assert error < 1e-4
    assert layers == 2  # the convolution and the last layer
    onnxviz.segment(net, photo(16), target=1)


# --- random weights ---------------------------------------------------------------------------


def test_guided_backprop_hardly_changes_under_random_weights_and_the_gradient_does(net, cat) -> None:
    """The sanity check of Adebayo et al. 2018, cascading from the head down to 20 of 50 layers."""

    def raw(net, rules: str) -> np.ndarray:
        taken = given(net, cat)
        return Job(net, taken.x, taken.pictures, parse(net, 285).settle(net, taken.x)).gradient(rules)[1]

    before = {rules: raw(net, rules) for rules in ("plain", "guided")}
    for depth in (1, 20):
        made = ir.to_proto(randomise(net.model, weighted(net.model)[:depth]))
        other = load(made, preprocess=net.preprocessing)
        alike = {rules: correlation(one, raw(other, rules)) for rules, one in before.items()}
        assert alike["guided"] > 0.9
        assert abs(alike["plain"]) < 0.25
