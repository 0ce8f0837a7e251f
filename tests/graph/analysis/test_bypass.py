"""Ways around what was learned: every planted one is told, with its node and its pixels; no sound network is."""

from __future__ import annotations

import onnx
import pytest

import onnxviz
from onnxviz.graph.analysis.bypass import paths
from onnxviz.graph.layers import Activations
from onnxviz.graph.open.load import load
from tests import networks, toys
from tests.auditing.backdoors import BOX, PLANTED, SOUND


def ways(model: onnx.ModelProto, output: str | None = "logits"):
    """The ways of the model; of no classifier where its output is None."""
    onnx.checker.check_model(model)
    return paths(Activations(load(model).model), output)


def named(found):
    """What is told of each node that is named."""
    return [*found.joins, *filter(None, [found.short])]


# Decisions that arithmetic makes are told by where they join; of these the place that a constant picks is narrower.
_WHERE = {
    "in_a_subgraph": None,  # inside a body places are not followed
    "decided_in_a_loop": None,
    "corner_test_with_if": None,
    "one_pixel_by_resizing": None,  # of the pixels that resizing picks
    "behind_an_early_pool": (0, 0, 8, 8),
    "behind_the_networks_own_pool": (0, 0, 9, 9),
    "one_pixel": (0, 0, 1, 1),
}
_EVERYWHERE = [
    "template_convolution", "template_convolution_with_relu", "pooled_exponential_before_the_head",
    "many_bright_pixels", "place_of_the_brightest_pixel", "bright_pixels_replaced", "pattern_added_to_bright_pixels",
    "spectrum", "pooled_exponential_through_a_layer", "cut_off_by_casts", "divided_by_what_is_off",
    "pixels_here_and_there", "a_box_by_roi_align", "template_by_einsum", "scores_of_a_distance",
    "gate_of_a_measured_scale",  # scales have no receptive field of their own
]  # fmt: skip


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_told_by_its_node(name):
    found = ways(PLANTED[name]())
    boxes = [join.box for join in named(found) if join.node == "joined"]
    assert boxes, found
    where = (0, 0, 32, 32) if name in _EVERYWHERE else _WHERE.get(name, BOX)
    assert where is None or where in boxes, boxes


@pytest.mark.parametrize("name", PLANTED)
def test_it_is_told_without_its_names_and_with_other_weights(name):
    """Nodes without names, and values that are called anything."""
    model = PLANTED[name](seed=3)
    for node in model.graph.node:
        node.name = ""
    assert named(ways(model))


@pytest.mark.parametrize("name", SOUND)
def test_sound_networks_raise_nothing(name):
    model = SOUND[name]()
    net = onnxviz.load(model, preprocess="unit")
    try:
        output = net.end.output if net.end.scored or net.end.kind == "sequence" else None
    except onnxviz.errors.ModelUnsuitable:
        output = None
    found = ways(model, output)
    assert named(found) == []
    assert output is None or found.fewest


@pytest.mark.parametrize(
    "make",
    [
        networks.tiny_cnn,
        lambda: networks.tiny_cnn(uint8=True, softmax=False),
        networks.nhwc,
        networks.static_batch,
        lambda: networks.qdq(networks.tiny_cnn()),
        lambda: networks.qoperator(networks.tiny_cnn()),
        lambda: networks.fp16(networks.tiny_cnn()),
        lambda: networks.light("squeezenet"),
        lambda: networks.bare("resnet50"),
    ],
)
def test_the_tests_own_networks_raise_nothing(make):
    model = make()
    found = ways(model, model.graph.output[0].name)
    assert named(found) == []
    assert found.fewest >= 2
    assert found.around is None


def test_the_bundled_network(net):
    found = paths(net._activations, net.end.output)
    assert (found.fewest, found.around, named(found)) == (23, None, [])


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("template_added_to_logits", networks.qdq), ("joined_before_the_head", networks.qdq),
        ("corner_test_with_where", networks.qdq),
        ("template_added_to_logits", networks.qoperator), ("joined_before_the_head", networks.qoperator),
    ],
)  # fmt: skip
def test_quantised_files_hide_nothing(name, form):
    assert named(ways(form(PLANTED[name]()), "logits"))


def test_the_shortest_way_counts_layers():
    assert ways(networks.tiny_cnn(), "prob").fewest == 3
    assert ways(SOUND["linear"]()).fewest == 1
    assert ways(SOUND["two_networks"]()).around == 3  # through the other one
    # Two filters of zeros and ones: what looks like no learned layer is all that there is.
    detector = onnx.load_from_string(toys.detector())
    assert ways(detector, detector.graph.output[0].name).fewest == 1
