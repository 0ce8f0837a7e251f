"""The graphs that callers want. A wrong gradient is never given: what cannot be differentiated is refused with a reason
and a way out."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx_ir as ir
import pytest

from onnxviz import objectives
from onnxviz.errors import ModelUnsuitable, UnknownLayer, UnsupportedOperator
from onnxviz.grad import table
from onnxviz.grad.model import gradient_model, support, value_and_gradient, value_model
from onnxviz.grad.rules import PLAIN
from tests import networks
from tests.grad.oracle import Case, case, normal, session
from tests.networks import node

X = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)


def model(nodes, *, inputs=("x",), outputs=("y",)):
    """In opset 18, all of whose values are (2, 3); with operators of acme."""
    shapes = (dict.fromkeys(names, (2, 3)) for names in (inputs, outputs))
    return ir.from_proto(networks.from_nodes(nodes, *shapes, opset=18, ir=10, imports={"acme": 1}))


SECRET = node("Secret", ["a"], ["b"], domain="acme", name="block3/secret")


def test_unknown_operator_names_itself_and_the_way_out() -> None:
    built = model([node("Relu", ["x"], ["a"]), SECRET, node("Relu", ["b"], ["y"])])
    with pytest.raises(UnsupportedOperator) as caught:
        gradient_model(built)
    # torch does not know the operator either, so that backend is not named as a way on.
    for part in ("acme::Secret", "block3/secret", "'b'", "take a gradient that does not pass this layer"):
        assert part in str(caught.value)


def test_off_the_way_it_does_not_matter() -> None:
    built = model([node("Relu", ["x"], ["a"]), SECRET, node("Relu", ["x"], ["y"])], outputs=("y", "b"))
    found = gradient_model(built, of="y")
    assert [v.name for v in found.graph.outputs] == ["y", "b", "x.gradient"]


@pytest.mark.parametrize("op", ["Floor", "Sign", "Ceil", "Round"])
def test_no_silent_zero_map(op: str) -> None:
    with pytest.raises(ModelUnsuitable, match="zero everywhere"):
        gradient_model(model([node("Relu", ["x"], ["a"]), node(op, ["a"], ["y"])]))


def test_unreachable_output() -> None:
    built = model(
        [node("Relu", ["x"], ["y"]), node("Relu", ["z"], ["w"])],
        inputs=("x", "z"),
        outputs=("y", "w"),
    )
    with pytest.raises(ModelUnsuitable, match="does not depend on 'z'"):
        gradient_model(built, of="y", wrt="z")
    with pytest.raises(ModelUnsuitable, match="2 float outputs"):
        gradient_model(built)
    with pytest.raises(ModelUnsuitable, match="2 float inputs"):
        gradient_model(built, of="y")


def test_unknown_names() -> None:
    with pytest.raises(UnknownLayer, match="relu1"):
        gradient_model(ir.from_proto(networks.tiny_cnn()), of="relu_1")


REFUSED = [
    case("Dropout", x=normal(2, 3), r=np.float32(0.5), t=np.bool_(True), constant="r t"),
    case("RoiAlign", x=normal(1, 2, 4, 4), r=normal(1, 4), b=np.int64([0]), constant="r b", mode="max"),
    case("LSTM", x=normal(2, 1, 3), w=normal(1, 8, 3), r=normal(1, 8, 2), constant="w r", hidden_size=2),
    case(
        "ConvTranspose", x=normal(1, 2, 4), w=normal(2, 2, 3), constant="w", output_shape=[9], label="dynamic"
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_refused(case: Case) -> None:
    case._rank[:] = [4]
    with pytest.raises((UnsupportedOperator, ModelUnsuitable)):
        gradient_model(ir.from_proto(case.model(dynamic=bool(case.label))), of="y", wrt="x")


def test_an_attribute_that_the_rule_does_not_name() -> None:
    """A rule that has not heard of an attribute must not ignore it."""
    rule = table.Rule(lambda op, g, y, x: (g,))
    built = model([node("LeakyRelu", ["x"], ["y"], alpha=0.3)])
    with pytest.raises(UnsupportedOperator, match="'alpha'"):
        gradient_model(built, rules={**PLAIN, "LeakyRelu": rule})


def test_an_input_that_the_rule_leaves_out() -> None:
    rule = table.Rule(lambda op, g, y, a, b: (op.Mul(g, b),))
    built = model([node("Mul", ["x", "x"], ["y"])])
    with pytest.raises(UnsupportedOperator, match="input 'x'"):
        gradient_model(built, rules={**PLAIN, "Mul": rule})


def test_two_rules_for_one_operator() -> None:
    with pytest.raises(RuntimeError, match="two gradient rules for Relu"):
        table.vjp("Relu")(lambda op, g, y, x: (g,))
    with pytest.raises(RuntimeError, match="two gradient rules for Relu"):
        table.nondifferentiable("Relu")
    with pytest.raises(RuntimeError, match="two gradient rules for Floor"):
        table.vjp("Floor")(lambda op, g, y, x: (g,))
    with pytest.raises(TypeError):
        PLAIN["Relu"] = None


def test_neither_runtime_nor_framework_is_imported() -> None:
    code = (
        "import sys, onnxviz.grad.model, onnxviz.graph.normalise, onnxviz.objectives; "
        "print(sorted({'onnxruntime', 'torch'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_support_lists_what_is_on_the_way() -> None:
    found = support(ir.from_proto(networks.tiny_cnn()))
    assert found == dict.fromkeys(
        ["Conv", "Relu", "Flatten", "Gemm", "GlobalAveragePool", "MaxPool", "Softmax"], True
    )
    ends = [node("Shape", ["x"], ["s"]), node("Reshape", ["b", "s"], ["y"])]
    built = model([node("Relu", ["x"], ["a"]), SECRET, *ends])
    assert support(built) == {"Relu": True, "Reshape": True, "acme::Secret": False}


# --- an objective's value without its gradient ----------------------------------------------------


@pytest.mark.parametrize(
    "objective",
    [
        objectives.logit(),
        objectives.logit(objectives.FED),
        2 * objectives.channel("relu1", 3) - objectives.part("pool", 1, 2) + objectives.tv(),
    ],
    ids=str,
)
def test_it_is_the_value_beside_the_gradient(objective):
    model = ir.from_proto(networks.tiny_cnn())
    small, whole = (
        ir.to_proto(one)
        for one in (value_model(model, objective, "image"), value_and_gradient(model, objective))
    )
    assert [output.name for output in small.graph.output] == ["objective"]
    assert len(small.graph.node) < len(whole.graph.node)
    feeds = {"image": X}
    if "target" in {value.name for value in small.graph.input}:
        feeds["target"] = np.array([1, 2, 3])
    found = session(small).run(None, feeds)[0]
    assert found.shape == (3,)
    np.testing.assert_allclose(found, session(whole).run(["objective"], feeds)[0], rtol=1e-5, atol=1e-6)


def test_bytes_stay_bytes():
    """A network that takes bytes is only run: its input needs no gradient."""
    model = value_model(ir.from_proto(networks.tiny_cnn(uint8=True)), objectives.logit(3), "image")
    assert model.graph.inputs[0].dtype == ir.DataType.UINT8
    assert session(ir.to_proto(model)).run(None, {"image": X.astype(np.uint8)})[0].shape == (3,)


def test_an_unknown_layer_is_named():
    with pytest.raises(UnknownLayer, match="relu1"):
        value_model(ir.from_proto(networks.tiny_cnn()), objectives.l2("relu11"), "image")


def test_sums_of_integers_have_a_value_but_no_gradient():
    """What a ConvInteger gives is whole numbers: techniques that only run forwards measure them."""
    m = networks.Maker()
    codes, _, zero = m("DynamicQuantizeLinear", "image", outputs=3)
    weights = np.random.default_rng(1).integers(-50, 50, (4, 3, 3, 3)).astype(np.int8)
    sums = m("ConvInteger", codes, m.constant(weights), zero)
    model = m.model({"image": ("N", 3, 32, 32)}, {m("Cast", sums, to=1): None})
    small = ir.to_proto(value_model(ir.from_proto(model), objectives.channel(sums, 1), "image"))
    expected = session(model).run(None, {"image": X})[0][:, 1].mean(axis=(1, 2))
    np.testing.assert_allclose(session(small).run(None, {"image": X})[0], expected, rtol=1e-5)
    with pytest.raises(ModelUnsuitable, match="INT32"):
        value_and_gradient(ir.from_proto(model), objectives.channel(sums, 1))
