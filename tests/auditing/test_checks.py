"""The checks that need the file alone, each on a file with its fault planted."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

import onnxviz
from onnxviz.auditing.checks.runtime import decibels
from onnxviz.auditing.checks.weights import layers
from onnxviz.auditing.subject import made as pictures
from tests import heads, networks
from tests.networks import Maker


def made(model, *only, **options):
    """The one check of an audit that was made."""
    found = onnxviz.audit(onnxviz.load(model, preprocess="unit", threads=1), only=only, **options)
    (one,) = [check for check in found.checks if check.id == only[0]]
    return one


def changed(model, name: str, change):
    for tensor in model.graph.initializer:
        if tensor.name == name:
            array = numpy_helper.to_array(tensor).copy()
            change(array)
            tensor.CopyFrom(numpy_helper.from_array(array, name))
            return model
    raise LookupError(name)


def first_kernel(model) -> str:
    return next(node.input[1] for node in model.graph.node if node.op_type == "Conv")


def second_kernel(model) -> str:
    return [node.input[1] for node in model.graph.node if node.op_type == "Conv"][1]


def test_a_weight_that_is_no_number(tiny):
    name = first_kernel(tiny)
    one = made(changed(tiny, name, lambda w: w.__setitem__((0, 0, 0, 0), np.nan)), "file.finite")
    assert one.state == "found"
    (finding,) = one.findings
    assert (finding.severity, finding.where) == ("high", name)
    assert "1 NaN" in finding.sentence


@pytest.fixture
def tiny():
    return networks.tiny_cnn()


def test_sound_weights_are_clean(tiny):
    assert made(tiny, "file.finite").state == "clean"
    one = made(networks.tiny_cnn(), "weights.channels")
    assert (one.state, one.figures["zero"], one.figures["copies"]) == ("clean", 0, 0)


def test_groups_that_share_their_filters_are_no_copies():
    """Each group reads other channels: a cosine transform of each colour, Haar's wavelets, blur pooling."""
    m = networks.Maker()
    waves = np.random.default_rng(0).standard_normal((16, 1, 4, 4)).astype(np.float32)
    x = m("Conv", "image", m.constant(np.tile(waves, (3, 1, 1, 1))), group=3, strides=[4, 4])
    x = m("Flatten", m("GlobalAveragePool", m("Relu", m("Conv", x, m.random(8, 48, 3, 3)))))
    x = m("Gemm", x, m.random(10, 8), transB=1)
    model = m.model({"image": ("N", 3, 32, 32)}, {x: ("N", 10)})
    assert made(model, "weights.channels").state == "clean"


def test_one_dead_filter_is_no_fault(tiny):
    one = made(changed(tiny, second_kernel(tiny), lambda w: w.__setitem__(0, 0)), "weights.channels")
    assert (one.state, one.figures["zero"]) == ("clean", 1)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda w: w.__setitem__(slice(None), 0), "16 of the 16 filters"),
        (lambda w: w.__setitem__(slice(0, 8), 0), "8 of the 16 filters"),
        (
            lambda w: w.__setitem__(slice(1, 8), w[:1] * np.arange(2, 9).reshape(-1, 1, 1, 1)),
            "7 of the 16 filters",
        ),
    ],
)
def test_a_layer_of_which_half_is_dead_or_doubled(tiny, change, what):
    one = made(changed(tiny, second_kernel(tiny), change), "weights.channels")
    assert [finding.severity for finding in one.findings] == ["medium"]
    assert what in one.findings[0].sentence
    assert one.findings[0].where == "conv2"


def test_the_threshold_is_the_policys(tiny):
    model = changed(tiny, second_kernel(tiny), lambda w: w.__setitem__(slice(0, 8), 0))
    policy = {"check": {"weights.channels": {"threshold": 0.6}}}
    assert made(model, "weights.channels", policy=policy).state == "clean"


@pytest.mark.parametrize("form", [networks.qdq, networks.qoperator])
def test_quantised_weights_are_read_less_their_zero_points(tiny, form):
    model = changed(tiny, second_kernel(tiny), lambda w: w.__setitem__(slice(0, 9), 0))
    one = made(form(model), "weights.channels")
    assert "9 of the 16 filters" in one.findings[0].sentence


def test_filters_that_training_let_fall_are_counted_and_not_judged(tiny):
    """As those of a squeeze-and-excite block that weight decay has emptied: small, and none exactly zero."""
    model = changed(
        tiny, second_kernel(tiny), lambda w: w.__setitem__(slice(0, 8), w[:8] * np.float32(1e-12))
    )
    one = made(model, "weights.channels")
    assert (one.state, one.figures["zero"], one.figures["near_zero"]) == ("clean", 0, 8)


def test_filters_are_what_makes_a_channel():
    m = Maker()
    x = m("Flatten", m("ConvTranspose", "image", m.random(3, 5, 2, 2)))
    x = m("Gemm", x, m.random(7, 5 * 81), transB=1)
    x = m("MatMul", m("Gemm", x, m.random(7, 6)), m("Transpose", m.random(4, 6), perm=[1, 0]))
    model = m.model({"image": (1, 3, 8, 8)}, {x: (1, 4)})
    from onnxviz.graph.open.load import load

    assert [array.shape for _, _, array, *_ in layers(load(model).model)] == [
        (5, 12),
        (7, 405),
        (6, 7),
        (4, 6),
    ]


def test_random_operators_do_not_repeat():
    m = Maker()
    x = m("Add", m("Flatten", "image"), m("RandomNormalLike", m("Flatten", "image")))
    x = m("Gemm", x, m.random(4, 192), transB=1)
    one = made(m.model({"image": ("N", 3, 8, 8)}, {x: ("N", 4)}), "runtime.repeat")
    assert (one.state, one.findings[0].severity) == ("found", "high")
    assert made(networks.tiny_cnn(), "runtime.repeat").state == "clean"


def test_the_optimiser_keeps_sound_numbers(tiny):
    one = made(tiny, "runtime.optimiser")
    assert one.state == "clean"
    assert min(one.figures["decibels"].values()) > 100


@pytest.mark.parametrize(("noise", "severity"), [(0.1, "medium"), (0.5, "high")])
def test_what_the_optimiser_changes_is_told(tiny, monkeypatch, noise, severity):
    from onnxviz.auditing.checks import runtime

    outputs = runtime._outputs

    def noisy(subject, names, **options):
        found = outputs(subject, names, **options)
        if options == {"optimise": False}:
            return found
        drawn = np.random.default_rng(0)
        return {key: v + noise * v.std() * drawn.standard_normal(v.shape) for key, v in found.items()}

    monkeypatch.setattr(runtime, "_outputs", noisy)
    one = made(tiny, "runtime.optimiser", images=pictures(32, 32, 0))
    assert one.findings[0].severity == severity
    assert one.findings[0].evidence[0].picture.size[1] > 160  # each with both answers under it
    assert one.figures["decibels"]["prob"] == pytest.approx(-20 * np.log10(noise), abs=3)


@pytest.mark.parametrize(
    ("model", "compared"),
    [
        (heads.detector("nms"), {"raw_scores"}),
        (heads.detector("topk"), {"reducemax"}),
        (heads.labelled_map(), {"maps"}),
        (heads.best_only("top"), {"scores"}),
    ],
    ids=["boxes", "best boxes", "map", "best classes"],
)
def test_what_picks_is_judged_by_what_it_picks_from(model, compared):
    """Which of two alike is picked may hang on the last bit: counts and places differ, and nothing is wrong."""
    one = made(model, "runtime.optimiser")
    names = set(one.figures["decibels"])
    assert all(any(name.startswith(want) for name in names) for want in compared)
    assert not names & {"det_scores", "det_boxes", "labels", "best", "share"}
    assert one.state == "clean"


def test_decibels():
    one = np.array([1.0, -1.0])
    assert decibels(one, 1.1 * one) == pytest.approx(20)
    assert decibels(1e-30 * one, 1.1e-30 * one) == pytest.approx(20)
    assert decibels(one, one) == 200
    assert decibels(one, one[:1]) == -np.inf
    assert decibels(np.array([1.0, np.nan]), one) == -np.inf
    assert decibels(np.zeros(2), one) == -np.inf


def test_operators_without_a_rule_are_named():
    m = Maker(opset=20)
    x = m("Reshape", m("Slice", m("Conv", "image", m.random(1, 3, 1, 1)), m.constant([0, 0]), m.constant([4, 4]),
                       m.constant([2, 3])), m.constant([-1, 4, 4]))  # fmt: skip
    x = m("Gemm", m("Unsqueeze", m("Det", x), m.constant([1])), m.random(4, 1), transB=1)
    one = made(m.model({"image": (1, 3, 8, 8)}, {x: (1, 4)}), "graph.rules")
    assert [(finding.where, finding.severity) for finding in one.findings] == [("Det", "low")]
    assert made(networks.tiny_cnn(), "graph.rules").state == "clean"


def test_the_provider_that_runs_it_is_named(tiny):
    one = made(tiny, "graph.kernels")
    assert (one.state, one.figure) == ("clean", "all, on CPUExecutionProvider")


def test_file_loading_is_clean_where_the_file_opened(tiny):
    assert made(tiny, "file.loading").state == "clean"


def test_numbers_that_are_all_the_same_may_be_rounded():
    """As untrained networks answer: there is no signal to hold the last bit against."""
    same = np.full(1000, 0.46095496, np.float32)
    assert decibels(same, same + np.float32(6e-8)) == 200
    assert decibels(same, same * 1.01) == -np.inf


def test_shares_next_to_nothing_are_right_to_the_last_bits_of_one():
    """As text detectors answer where there is nothing to read: of 1e-8 the runtime's Sigmoid gets no bit right."""
    m = Maker()
    x = m("Conv", "image", m.random(4, 3, 3, 3))
    x = m("Sigmoid", m("Sub", x, m.constant(np.float32(16.5))))
    one = made(m.model({"image": ("N", 3, 32, 32)}, {x: ("N", 4, 30, 30)}), "runtime.optimiser")
    assert one.state == "clean", one.figure
