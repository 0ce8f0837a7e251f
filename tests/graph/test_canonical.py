"""Every spelling of a rectifier becomes Relu or Clip, with the same values; what is none stays as it is."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxviz.graph.normalise import normalise
from onnxviz.graph.rectifiers import rectifiers
from tests.grad.oracle import session

node = helper.make_node
FLOAT = TensorProto.FLOAT
NUMBERS = {
    "zero": 0.0,
    "one": 1.0,
    "six": 6.0,
    "two": 2.0,
    "half": 0.5,
    "three": 3.0,
    "fifth": 0.2,
    "minus": -1.0,
}


def _compare(op: str, a: str, b: str, *more):
    return [node(op, [a, b], ["k"]), *more]


# Spelling -> nodes from x to y.
RELU = {
    "Relu": [node("Relu", ["x"], ["y"])],
    "Max": [node("Max", ["x", "zero"], ["y"])],
    "Max, zero first": [node("Max", ["zero", "x"], ["y"])],
    "Clip without an upper end": [node("Clip", ["x", "zero"], ["y"])],
    "Where greater": _compare("Greater", "x", "zero", node("Where", ["k", "x", "zero"], ["y"])),
    "Where greater or equal": _compare("GreaterOrEqual", "x", "zero", node("Where", ["k", "x", "zero"], ["y"])),
    "Where less": _compare("Less", "x", "zero", node("Where", ["k", "zero", "x"], ["y"])),
    "Where zero less": _compare("Less", "zero", "x", node("Where", ["k", "x", "zero"], ["y"])),
    "Where zero greater": _compare("GreaterOrEqual", "zero", "x", node("Where", ["k", "zero", "x"], ["y"])),
    "Where not": _compare(
        "LessOrEqual", "x", "zero", node("Not", ["k"], ["n"]), node("Where", ["n", "x", "zero"], ["y"])
    ),
    "Where zeros_like": _compare(
        "Greater", "x", "zero",
        node("Shape", ["x"], ["s"]), node("ConstantOfShape", ["s"], ["z"]), node("Where", ["k", "x", "z"], ["y"]),
    ),
    "Where times zero": _compare(
        "Greater", "x", "zero", node("Mul", ["x", "zero"], ["z"]), node("Where", ["k", "x", "z"], ["y"])
    ),
    "mask": _compare("Greater", "x", "zero", node("Cast", ["k"], ["m"], to=FLOAT), node("Mul", ["x", "m"], ["y"])),
    "mask of ones": _compare(
        "LessOrEqual", "x", "zero", node("Where", ["k", "zero", "one"], ["m"]), node("Mul", ["m", "x"], ["y"])
    ),
    "LeakyRelu": [node("LeakyRelu", ["x"], ["y"], alpha=0.0)],
    "ThresholdedRelu": [node("ThresholdedRelu", ["x"], ["y"], alpha=0.0)],
    "PRelu": [node("PRelu", ["x", "zeros"], ["y"])],
    "Elu": [node("Elu", ["x"], ["y"], alpha=0.0)],
    "mirrored Min": [node("Neg", ["x"], ["a"]), node("Min", ["a", "zero"], ["b"]), node("Neg", ["b"], ["y"])],
    "half of x + |x|": [
        node("Abs", ["x"], ["a"]), node("Add", ["x", "a"], ["b"]), node("Mul", ["half", "b"], ["y"])
    ],
    "x + |x| by two": [
        node("Abs", ["x"], ["a"]), node("Add", ["a", "x"], ["b"]), node("Div", ["b", "two"], ["y"])
    ],
    "Max of zeros for every channel": [node("Max", ["x", "zeros"], ["y"])],
}  # fmt: skip
SIX = {
    "Clip": [node("Clip", ["x", "zero", "six"], ["y"])],
    "Min of Relu": [node("Relu", ["x"], ["r"]), node("Min", ["r", "six"], ["y"])],
    "Min of Max": [node("Max", ["zero", "x"], ["r"]), node("Min", ["six", "r"], ["y"])],
    "Max of Min": [node("Min", ["x", "six"], ["r"]), node("Max", ["r", "zero"], ["y"])],
    "Relu of Min": [node("Min", ["six", "x"], ["r"]), node("Relu", ["r"], ["y"])],
    "Clip from above of Relu": [node("Relu", ["x"], ["r"]), node("Clip", ["r", "", "six"], ["y"])],
    "Where within Where": [
        node("Greater", ["x", "six"], ["k"]), node("Where", ["k", "six", "x"], ["r"]),
        node("Less", ["x", "zero"], ["n"]), node("Where", ["n", "zero", "r"], ["y"]),
    ],
    "Where of Max": [
        node("Max", ["x", "zero"], ["r"]), node("Less", ["r", "six"], ["k"]), node("Where", ["k", "r", "six"], ["y"])
    ],
}  # fmt: skip
NONE = {
    "LeakyRelu": [node("LeakyRelu", ["x"], ["y"])],
    "PRelu": [node("PRelu", ["x", "slopes"], ["y"])],
    "Elu": [node("Elu", ["x"], ["y"])],
    "HardSigmoid": [node("HardSigmoid", ["x"], ["y"])],
    "HardSwish": [node("HardSwish", ["x"], ["y"])],
    "Max, below zero": [node("Max", ["x", "minus"], ["y"])],
    "hardtanh": [node("Clip", ["x", "minus", "one"], ["y"])],
    "ThresholdedRelu": [node("ThresholdedRelu", ["x"], ["y"], alpha=1.0)],
    "Where above another level": _compare("Greater", "x", "one", node("Where", ["k", "x", "zero"], ["y"])),
    "Where below": _compare("Greater", "x", "zero", node("Where", ["k", "zero", "x"], ["y"])),
    "LeakyRelu by Where": _compare(
        "Greater", "x", "zero", node("Mul", ["x", "fifth"], ["l"]), node("Where", ["k", "x", "l"], ["y"])
    ),
    "inverse mask": _compare("Less", "x", "zero", node("Cast", ["k"], ["m"], to=FLOAT), node("Mul", ["x", "m"], ["y"])),
    "Max of two": [node("Neg", ["x"], ["n"]), node("Max", ["x", "n"], ["y"])],
    "SiLU": [node("Sigmoid", ["x"], ["s"]), node("Mul", ["x", "s"], ["y"])],
    # x times ReLU6(x + 3) / 6, as PyTorch, TensorFlow and Keras write it
    "h-swish": [
        node("Add", ["x", "three"], ["a"]), node("Clip", ["a", "zero", "six"], ["c"]),
        node("Mul", ["x", "c"], ["m"]), node("Div", ["m", "six"], ["y"]),
    ],
    "h-swish, divided first": [
        node("Add", ["x", "three"], ["a"]), node("Relu", ["a"], ["r"]), node("Min", ["r", "six"], ["c"]),
        node("Div", ["c", "six"], ["d"]), node("Mul", ["d", "x"], ["y"]),
    ],
    "h-sigmoid": [
        node("Add", ["three", "x"], ["a"]), node("Clip", ["a", "zero", "six"], ["c"]), node("Div", ["c", "six"], ["y"])
    ],
    "h-sigmoid of Keras": [
        node("Mul", ["x", "fifth"], ["m"]), node("Add", ["m", "half"], ["a"]), node("Clip", ["a", "zero", "one"], ["y"])
    ],
}  # fmt: skip


def model(nodes, opset: int = 18, also: tuple[str, ...] = ()) -> onnx.ModelProto:
    """Scale per channel, so that both signs and both ends are met; then the spelling."""
    weights = {k: np.float32(v) for k, v in NUMBERS.items()}
    weights |= {"zeros": np.zeros((4, 1, 1), np.float32), "slopes": np.full((4, 1, 1), 0.25, np.float32)}
    weights["w"] = np.random.default_rng(0).normal(0, 3, (4, 3, 1, 1)).astype(np.float32)
    used = {name for n in nodes for name in n.input}
    graph = helper.make_graph(
        [node("Conv", ["image", "w"], ["x"]), *nodes],
        "g",
        [helper.make_tensor_value_info("image", FLOAT, ["N", 3, 5, 5])],
        [helper.make_tensor_value_info(name, FLOAT, ["N", 4, 5, 5]) for name in ("y", *also)],
        [numpy_helper.from_array(v, k) for k, v in weights.items() if k in used | {"w"}],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _normal_form(source: onnx.ModelProto) -> ir.Model:
    """The normal form, which computes the same."""
    found = normalise(ir.from_proto(source))
    x = np.random.default_rng(1).standard_normal((2, 3, 5, 5)).astype(np.float32)
    before, after = (session(p).run(None, {"image": x}) for p in (source, ir.to_proto(found)))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6)
    return found


def _operators(found: ir.Model) -> list[str]:
    return [n.op_type for n in found.graph]


@pytest.mark.parametrize("spelling", RELU)
def test_relu(spelling: str) -> None:
    found = _normal_form(model(RELU[spelling]))
    assert _operators(found) == ["Conv", "Relu"]
    assert len(rectifiers(found)) == 1


@pytest.mark.parametrize("spelling", SIX)
def test_relu6(spelling: str) -> None:
    found = _normal_form(model(SIX[spelling]))
    assert _operators(found) == ["Conv", "Clip"]
    assert len(rectifiers(found)) == 1


@pytest.mark.parametrize("spelling", NONE)
def test_no_rectifier(spelling: str) -> None:
    assert not rectifiers(_normal_form(model(NONE[spelling])))


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 21])
def test_opsets(opset: int) -> None:
    bounds = {"min": 0.0, "max": 6.0} if opset < 11 else {}
    nodes = [
        node("Clip", ["x"] if bounds else ["x", "zero", "six"], ["c"], **bounds),
        node("LeakyRelu", ["c"], ["y"], alpha=0.0),
    ]
    assert _operators(_normal_form(model(nodes, opset)))[-1] == "Clip"


def test_a_value_that_is_given_out_keeps_its_node() -> None:
    """A gradient by max(x, 0) must not be led around it."""
    found = _normal_form(model(SIX["Min of Max"], also=("r",)))
    assert _operators(found) == ["Conv", "Relu", "Clip"]


def test_whole_numbers_are_left_alone() -> None:
    """Max(n, 0) of shape arithmetic."""
    nodes = [
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "first"], ["n"]), node("Max", ["n", "none"], ["m"]),
        node("Cast", ["m"], ["f"], to=FLOAT), node("Mul", ["x", "f"], ["y"]),
    ]  # fmt: skip
    source = model(nodes)
    source.graph.initializer.extend(
        [numpy_helper.from_array(np.int64(0), name) for name in ("first", "none")]
    )
    assert "Max" in _operators(_normal_form(source))


def test_a_constant_that_makes_the_tensor_larger() -> None:
    """Max of (N, 1, 5, 5) and zeros for four channels is no Relu: it has four channels."""
    source = model([node("ReduceMean", ["x", "axes"], ["r"]), node("Max", ["r", "zeros"], ["y"])])
    source.graph.initializer.append(numpy_helper.from_array(np.array([1]), "axes"))
    assert "Max" in _operators(_normal_form(source))
