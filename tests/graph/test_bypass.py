"""Ways around what was learned: every planted one is told, with its node and its pixels; no sound network is."""

from __future__ import annotations

import onnx
import pytest

import onnxviz
from onnxviz.graph.analysis.bypass import paths
from onnxviz.graph.layers import Activations
from onnxviz.graph.open.load import load
from tests import networks
from tests.auditing.backdoors import BOX, PLANTED, SOUND


def ways(model: onnx.ModelProto, output: str | None = "logits"):
    """The ways of the model; of no classifier where its output is None."""
    onnx.checker.check_model(model)
    graph = load(model).model
    return paths(Activations(graph), output)


def told(found) -> list[str]:
    """The nodes that are named."""
    return [join.node for join in (*found.joins, *filter(None, [found.short]))]


# Decisions that arithmetic makes are told by where they join; of these the place that a constant picks is narrower.
_ELSEWHERE = {
    "in_a_subgraph": "inside a body places are not followed",
    "decided_in_a_loop": "",
    "corner_test_with_if": "",
    "behind_an_early_pool": (0, 0, 8, 8),
    "behind_the_networks_own_pool": (0, 0, 9, 9),
    "template_convolution": (0, 0, 32, 32),
    "template_convolution_with_relu": (0, 0, 32, 32),
    "pooled_exponential_before_the_head": (0, 0, 32, 32),
    "many_bright_pixels": (0, 0, 32, 32),
    "place_of_the_brightest_pixel": (0, 0, 32, 32),
    "one_pixel": (0, 0, 1, 1),
    "bright_pixels_replaced": (0, 0, 32, 32),
    "pattern_added_to_bright_pixels": (0, 0, 32, 32),
    "spectrum": (0, 0, 32, 32),
    "pooled_exponential_through_a_layer": (0, 0, 32, 32),
    "cut_off_by_casts": (0, 0, 32, 32),
    "divided_by_what_is_off": (0, 0, 32, 32),
    "pixels_here_and_there": (0, 0, 32, 32),
    "a_box_by_roi_align": (0, 0, 32, 32),
    "one_pixel_by_resizing": "of the pixels that resizing picks",
    "template_by_einsum": (0, 0, 32, 32),
    "scores_of_a_distance": (0, 0, 32, 32),
    "gate_of_a_measured_scale": (0, 0, 32, 32),  # scales have no receptive field of their own
}


@pytest.mark.parametrize("name", PLANTED)
def test_what_is_planted_is_told_by_its_node(name):
    found = ways(PLANTED[name]())
    assert "joined" in told(found), found
    where = _ELSEWHERE.get(name, BOX)
    boxes = [join.box for join in (*found.joins, *filter(None, [found.short])) if join.node == "joined"]
    if not isinstance(where, str):
        assert where in boxes, boxes


@pytest.mark.parametrize("name", PLANTED)
def test_it_is_told_without_its_names_and_with_other_weights(name):
    """Nodes without names, and values that are called anything."""
    model = PLANTED[name](seed=3)
    for node in model.graph.node:
        node.name = ""
    assert told(ways(model))


@pytest.mark.parametrize("name", SOUND)
def test_sound_networks_raise_nothing(name):
    model = SOUND[name]()
    net = onnxviz.load(model, preprocess="unit")
    try:
        output = net.end.output if net.end.scored or net.end.kind == "sequence" else None
    except onnxviz.errors.ModelUnsuitable:
        output = None
    found = ways(model, output)
    assert told(found) == []
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
    assert told(found) == []
    assert found.fewest >= 2
    assert found.around is None


def test_the_bundled_network(net):
    found = paths(net._activations, net.end.output)
    assert (found.fewest, found.around, told(found)) == (23, None, [])


@pytest.mark.parametrize(
    ("name", "form"),
    [
        *(
            (name, networks.qdq)
            for name in ("template_added_to_logits", "joined_before_the_head", "corner_test_with_where")
        ),
        *((name, networks.qoperator) for name in ("template_added_to_logits", "joined_before_the_head")),
    ],
)
def test_quantised_files_hide_nothing(name, form):
    found = ways(form(PLANTED[name]()), "logits")
    assert told(found)


def test_the_shortest_way_counts_layers():
    assert ways(networks.tiny_cnn(), "prob").fewest == 3
    assert ways(SOUND["linear"]()).fewest == 1
    assert ways(SOUND["two_networks"]()).around == 3  # through the other one


def test_a_layer_of_hand_counts_where_nothing_else_is_learned():
    """Two filters of zeros and ones: what looks like no learned layer is all that there is."""
    from tests import toys

    found = ways(
        onnx.load_from_string(toys.detector()), onnx.load_from_string(toys.detector()).graph.output[0].name
    )
    assert found.fewest == 1
