"""A wrong gradient is never given: what cannot be differentiated is refused with a reason and a way out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxviz.errors import ModelUnsuitable, UnknownLayer, UnsupportedOperator
from onnxviz.grad import table
from onnxviz.grad.model import gradient_model
from onnxviz.grad.overrides import PLAIN
from tests import networks
from tests.grad.oracle import Case, normal


def model(nodes, *, inputs=("x",), outputs=("y",), opset=18, weights=None, domains=(), shape=(2, 3)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in inputs],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return ir.from_proto(helper.make_model(graph, opset_imports=imports, ir_version=10))


def test_unknown_operator_names_itself_and_the_way_out() -> None:
    built = model(
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("Secret", ["a"], ["b"], domain="acme", name="block3/secret"),
            helper.make_node("Relu", ["b"], ["y"]),
        ],
        domains=("acme",),
    )
    with pytest.raises(UnsupportedOperator) as caught:
        gradient_model(built)
    # torch does not know the operator either, so that backend is not named as a way on.
    for part in ("acme::Secret", "block3/secret", "'b'", "take a gradient that does not pass this layer"):
        assert part in str(caught.value)


def test_off_the_way_it_does_not_matter() -> None:
    built = model(
        [
            helper.make_node("Secret", ["x"], ["b"], domain="acme"),
            helper.make_node("Relu", ["x"], ["y"]),
        ],
        outputs=("y", "b"),
        domains=("acme",),
    )
    found = gradient_model(built, of="y")
    assert [v.name for v in found.graph.outputs] == ["y", "b", "x.gradient"]


@pytest.mark.parametrize("op", ["Floor", "Sign", "Ceil", "Round"])
def test_no_silent_zero_map(op: str) -> None:
    built = model([helper.make_node("Relu", ["x"], ["a"]), helper.make_node(op, ["a"], ["y"])])
    with pytest.raises(ModelUnsuitable, match="zero everywhere"):
        gradient_model(built)


def test_unreachable_output() -> None:
    built = model(
        [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Relu", ["z"], ["w"])],
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
    Case("Dropout", {"x": normal(2, 3), "r": np.float32(0.5), "t": np.bool_(True)}, constant=("r", "t")),
    Case(
        "RoiAlign",
        {"x": normal(1, 2, 4, 4), "r": normal(1, 4), "b": np.int64([0])},
        {"mode": "max"},
        constant=("r", "b"),
    ),
    Case(
        "LSTM",
        {"x": normal(2, 1, 3), "w": normal(1, 8, 3), "r": normal(1, 8, 2)},
        {"hidden_size": 2},
        constant=("w", "r"),
    ),
    Case(
        "ConvTranspose",
        {"x": normal(1, 2, 4), "w": normal(2, 2, 3)},
        {"output_shape": [9]},
        constant=("w",),
        label="dynamic",
    ),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_refused(case: Case) -> None:
    case._rank[:] = [4]
    with pytest.raises((UnsupportedOperator, ModelUnsuitable)):
        gradient_model(ir.from_proto(case.model(dynamic=bool(case.label))), of="y", wrt="x")


def test_an_attribute_that_the_rule_does_not_name() -> None:
    """A rule that has not heard of an attribute must not ignore it."""
    rule = table.Rule("Relu", lambda op, g, y, x: (g,))
    built = model([helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.3)])
    with pytest.raises(UnsupportedOperator, match="'alpha'"):
        gradient_model(built, rules={**PLAIN, "LeakyRelu": rule})


def test_an_input_that_the_rule_leaves_out() -> None:
    rule = table.Rule("Mul", lambda op, g, y, a, b: (op.Mul(g, b),))
    built = model([helper.make_node("Mul", ["x", "x"], ["y"])])
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
    import subprocess
    import sys

    code = (
        "import sys, onnxviz.grad.model, onnxviz.graph.normalise, onnxviz.objectives; "
        "print(sorted({'onnxruntime', 'torch'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_support_lists_what_is_on_the_way() -> None:
    from onnxviz.grad.model import support

    found = support(ir.from_proto(networks.tiny_cnn()))
    assert found == dict.fromkeys(
        ["Conv", "Relu", "Flatten", "Gemm", "GlobalAveragePool", "MaxPool", "Softmax"], True
    )
    built = model(
        [
            helper.make_node("Relu", ["x"], ["a"]),
            helper.make_node("Secret", ["a"], ["b"], domain="acme"),
            helper.make_node("Shape", ["x"], ["s"]),
            helper.make_node("Reshape", ["b", "s"], ["y"]),
        ],
        domains=("acme",),
    )
    assert support(built) == {"Relu": True, "Reshape": True, "acme::Secret": False}
