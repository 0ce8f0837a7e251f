"""The checks that need the file alone, each on a file with its fault planted."""

from __future__ import annotations

import numpy as np
import pytest

from onnxviz.auditing.checks import runtime
from onnxviz.auditing.checks.runtime import decibels
from onnxviz.auditing.checks.weights import layers
from onnxviz.auditing.subject import made as pictures
from onnxviz.graph.open.load import load
from tests import heads, networks
from tests.auditing.checking import checked, ending, pooled
from tests.networks import Maker, edited

TINY = networks.tiny_cnn()
FIRST, SECOND = [node.input[1] for node in TINY.graph.node if node.op_type == "Conv"][:2]


def filled(places, value):
    """A change of weights: some filters are this number, or this times what they were, or others' multiples."""

    def change(w):
        w[places] = value(w) if callable(value) else value
        return w

    return change


def second(places, value):
    """The small network with its second convolution changed."""
    return edited(TINY, **{SECOND: filled(places, value)})


def test_a_weight_that_is_no_number():
    one = checked(edited(TINY, **{FIRST: filled((0, 0, 0, 0), np.nan)}), "file.finite")
    assert one.state == "found"
    (finding,) = one.findings
    assert (finding.severity, finding.where) == ("high", FIRST)
    assert "1 NaN" in finding.sentence


@pytest.mark.parametrize(
    ("id", "figure"),
    [
        ("file.finite", "all finite"),
        ("file.loading", "opened"),
        ("weights.channels", None),
        ("runtime.repeat", "the same"),
        ("graph.rules", None),
        ("graph.kernels", "all, on CPUExecutionProvider"),
    ],
)
def test_a_sound_file_is_clean(id, figure):
    one = checked(TINY, id)
    assert one.state == "clean" and one.figure == (figure or one.figure)
    if id == "weights.channels":
        assert (one.figures["zero"], one.figures["copies"]) == (0, 0)


def test_groups_that_share_their_filters_are_no_copies():
    """Each group reads other channels: a cosine transform of each colour, Haar's wavelets, blur pooling."""
    m = Maker()
    waves = np.random.default_rng(0).standard_normal((16, 1, 4, 4))
    x = m("Conv", "image", np.tile(waves, (3, 1, 1, 1)), group=3, strides=[4, 4])
    model = pooled(m, m("Relu", m("Conv", x, m.random(8, 48, 3, 3))), classes=10)
    assert checked(model, "weights.channels").state == "clean"


@pytest.mark.parametrize(
    ("places", "value", "what"),
    [
        (slice(None), 0, "16 of the 16 filters"),
        (slice(0, 8), 0, "8 of the 16 filters"),
        (slice(1, 8), lambda w: w[:1] * np.arange(2, 9).reshape(-1, 1, 1, 1), "7 of the 16 filters"),
    ],
)
def test_a_layer_of_which_half_is_dead_or_doubled(places, value, what):
    (finding,) = checked(second(places, value), "weights.channels").findings
    assert finding.severity == "medium" and what in finding.sentence and finding.where == "conv2"


@pytest.mark.parametrize(
    ("places", "value", "figures", "policy"),
    [
        (0, 0, {"zero": 1}, None),  # one dead filter is no fault
        (
            slice(0, 8),
            lambda w: w[:8] * 1e-12,
            {"zero": 0, "near_zero": 8},
            None,
        ),  # what weight decay has emptied
        (slice(0, 8), 0, {"zero": 8}, {"check": {"weights.channels": {"threshold": 0.6}}}),
    ],
)
def test_filters_that_are_counted_and_not_judged(places, value, figures, policy):
    one = checked(second(places, value), "weights.channels", policy=policy)
    assert one.state == "clean" and one.figures.items() >= figures.items()


@pytest.mark.parametrize("form", [networks.qdq, networks.qoperator])
def test_quantised_weights_are_read_less_their_zero_points(form):
    one = checked(form(second(slice(0, 9), 0)), "weights.channels")
    assert "9 of the 16 filters" in one.findings[0].sentence


_PRODUCTS = {
    "DynamicQuantizeMatMul": "logits = com.microsoft.DynamicQuantizeMatMul (flat, w, s, z)",
    "MatMulIntegerToFloat": """x, xs, xz = DynamicQuantizeLinear (flat)
        logits = com.microsoft.MatMulIntegerToFloat (x, w, xs, s, xz, z)""",
    "QDQ": "real = DequantizeLinear <axis = 1> (w, s, z) logits = MatMul (flat, real)",
    "turned": """real = DequantizeLinear <axis = 0> (turned, s, z)
        there = Transpose <perm = [1, 0]> (real) logits = MatMul (flat, there)""",
}


@pytest.mark.parametrize("form", _PRODUCTS)
def test_codes_of_a_product_are_read_less_their_zero_points(form):
    """However they are spelled, and where there are as many filters as inputs: far from 0 all filters are alike."""
    random = np.random.default_rng(0)
    zeros = random.integers(140, 160, 48).astype(np.uint8)
    codes = (zeros + random.integers(-1, 2, (48, 48))).astype(np.uint8)
    model = networks.written(
        f"pool = GlobalAveragePool (image) flat = Flatten (pool) {_PRODUCTS[form]}",
        {"image": ("N", 48, 8, 8)},
        {"logits": ("N", 48)},
        {"w": codes, "turned": codes.T.copy(), "s": np.full(48, 0.01, np.float32), "z": zeros},
    )
    ((_, _, filters, coded, _),) = layers(load(model).model)
    assert coded
    np.testing.assert_array_equal(filters, (codes.astype(np.float32) - zeros).T)
    assert checked(model, "weights.channels").state == "clean"


def test_filters_are_what_makes_a_channel():
    m = Maker()
    x = m("Flatten", m("ConvTranspose", "image", m.random(3, 5, 2, 2)))
    x = m("Gemm", x, m.random(7, 5 * 81), transB=1)
    x = m("MatMul", m("Gemm", x, m.random(7, 6)), m("Transpose", m.random(4, 6), perm=[1, 0]))
    model = m.model({"image": (1, 3, 8, 8)}, {x: (1, 4)})
    shapes = [array.shape for _, _, array, *_ in layers(load(model).model)]
    assert shapes == [(5, 12), (7, 405), (6, 7), (4, 6)]


def test_random_operators_do_not_repeat():
    m = Maker()
    x = m("Add", m("Flatten", "image"), m("RandomNormalLike", m("Flatten", "image")))
    one = checked(
        ending(m, m("Gemm", x, m.random(4, 192), transB=1), 4, size=8, softmax=False), "runtime.repeat"
    )
    assert (one.state, one.findings[0].severity) == ("found", "high")


def test_the_optimiser_keeps_sound_numbers():
    one = checked(TINY, "runtime.optimiser")
    assert one.state == "clean"
    assert min(one.figures["decibels"].values()) > 100


@pytest.mark.parametrize(("noise", "severity"), [(0.1, "medium"), (0.5, "high")])
def test_what_the_optimiser_changes_is_told(monkeypatch, noise, severity):
    outputs = runtime._outputs

    def noisy(subject, names, **options):
        found = outputs(subject, names, **options)
        if options == {"optimise": False}:
            return found
        drawn = np.random.default_rng(0)
        return {key: v + noise * v.std() * drawn.standard_normal(v.shape) for key, v in found.items()}

    monkeypatch.setattr(runtime, "_outputs", noisy)
    one = checked(TINY, "runtime.optimiser", pictures(32, 32, 0))
    assert one.findings[0].severity == severity
    assert one.findings[0].evidence[0].picture.size[1] > 160  # each with both answers under it
    assert one.figures["decibels"]["prob"] == pytest.approx(-20 * np.log10(noise), abs=3)


@pytest.mark.parametrize(
    ("model", "compared"),
    [
        (heads.detector("nms"), "raw_scores"),
        (heads.detector("topk"), "reducemax"),
        (heads.labelled_map(), "maps"),
        (heads.best_only("top"), "scores"),
    ],
    ids=["boxes", "best boxes", "map", "best classes"],
)
def test_what_picks_is_judged_by_what_it_picks_from(model, compared):
    """Which of two alike is picked may hang on the last bit: counts and places differ, and nothing is wrong."""
    one = checked(model, "runtime.optimiser")
    names = set(one.figures["decibels"])
    assert any(name.startswith(compared) for name in names)
    assert not names & {"det_scores", "det_boxes", "labels", "best", "share"}
    assert one.state == "clean"


def test_decibels():
    one = np.array([1.0, -1.0])
    assert [decibels(x, 1.1 * x) for x in (one, 1e-30 * one)] == pytest.approx([20, 20])
    assert decibels(one, one) == 200
    assert decibels(one, one[:1]) == decibels(np.array([1.0, np.nan]), one) == -np.inf
    assert decibels(np.zeros(2), one) == -np.inf
    # Numbers that are all the same, as untrained networks answer, have no signal to hold the last bit against.
    same = np.full(1000, 0.46095496, np.float32)
    assert decibels(same, same + np.float32(6e-8)) == 200
    assert decibels(same, same * 1.01) == -np.inf


def test_operators_without_a_rule_are_named():
    m = Maker(opset=20)
    x = m("Slice", m("Conv", "image", m.random(1, 3, 1, 1)), [0, 0], [4, 4], [2, 3])
    x = m("Gemm", m("Unsqueeze", m("Det", m("Reshape", x, [-1, 4, 4])), [1]), m.random(4, 1), transB=1)
    one = checked(m.model({"image": (1, 3, 8, 8)}, {x: (1, 4)}), "graph.rules")
    assert [(finding.where, finding.severity) for finding in one.findings] == [("Det", "low")]


def test_shares_next_to_nothing_are_right_to_the_last_bits_of_one():
    """As text detectors answer where there is nothing to read: of 1e-8 the runtime's Sigmoid gets no bit right."""
    m = Maker()
    x = m("Sigmoid", m("Sub", m("Conv", "image", m.random(4, 3, 3, 3)), 16.5))
    one = checked(m.model({"image": ("N", 3, 32, 32)}, {x: ("N", 4, 30, 30)}), "runtime.optimiser")
    assert one.state == "clean", one.figure
