"""Every spelling of a rectifier becomes Relu or Clip, with the same values; what is none stays as it is."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxviz.graph.normalise import normalise
from onnxviz.graph.rectifiers import rectifiers
from tests.grad.oracle import session
from tests.networks import written

# Spelling -> nodes from x to y.
RELU = {
    "Relu": "y = Relu(x)",
    "Max": "y = Max(x, zero)",
    "Max, zero first": "y = Max(zero, x)",
    "Clip without an upper end": "y = Clip(x, zero)",
    "Where greater": "k = Greater(x, zero) y = Where(k, x, zero)",
    "Where greater or equal": "k = GreaterOrEqual(x, zero) y = Where(k, x, zero)",
    "Where less": "k = Less(x, zero) y = Where(k, zero, x)",
    "Where zero less": "k = Less(zero, x) y = Where(k, x, zero)",
    "Where zero greater": "k = GreaterOrEqual(zero, x) y = Where(k, zero, x)",
    "Where not": "k = LessOrEqual(x, zero) n = Not(k) y = Where(n, x, zero)",
    "Where zeros_like": "k = Greater(x, zero) s = Shape(x) z = ConstantOfShape(s) y = Where(k, x, z)",
    "Where times zero": "k = Greater(x, zero) z = Mul(x, zero) y = Where(k, x, z)",
    "mask": "k = Greater(x, zero) m = Cast <to = 1> (k) y = Mul(x, m)",
    "mask of ones": "k = LessOrEqual(x, zero) m = Where(k, zero, one) y = Mul(m, x)",
    "LeakyRelu": "y = LeakyRelu <alpha = 0.0> (x)",
    "ThresholdedRelu": "y = ThresholdedRelu <alpha = 0.0> (x)",
    "PRelu": "y = PRelu(x, zeros)",
    "Elu": "y = Elu <alpha = 0.0> (x)",
    "mirrored Min": "a = Neg(x) b = Min(a, zero) y = Neg(b)",
    "half of x + |x|": "a = Abs(x) b = Add(x, a) y = Mul(half, b)",
    "x + |x| by two": "a = Abs(x) b = Add(a, x) y = Div(b, two)",
    "Max of zeros for every channel": "y = Max(x, zeros)",
}
SIX = {
    "Clip": "y = Clip(x, zero, six)",
    "Min of Relu": "r = Relu(x) y = Min(r, six)",
    "Min of Max": "r = Max(zero, x) y = Min(six, r)",
    "Max of Min": "r = Min(x, six) y = Max(r, zero)",
    "Relu of Min": "r = Min(six, x) y = Relu(r)",
    "Clip from above of Relu": "r = Relu(x) y = Clip(r, , six)",
    "Where within Where": "k = Greater(x, six) r = Where(k, six, x) n = Less(x, zero) y = Where(n, zero, r)",
    "Where of Max": "r = Max(x, zero) k = Less(r, six) y = Where(k, r, six)",
}
NONE = {
    "LeakyRelu": "y = LeakyRelu(x)",
    "PRelu": "y = PRelu(x, slopes)",
    "Elu": "y = Elu(x)",
    "HardSigmoid": "y = HardSigmoid(x)",
    "HardSwish": "y = HardSwish(x)",
    "Max, below zero": "y = Max(x, minus)",
    "hardtanh": "y = Clip(x, minus, one)",
    "ThresholdedRelu": "y = ThresholdedRelu <alpha = 1.0> (x)",
    "Where above another level": "k = Greater(x, one) y = Where(k, x, zero)",
    "Where below": "k = Greater(x, zero) y = Where(k, zero, x)",
    "LeakyRelu by Where": "k = Greater(x, zero) l = Mul(x, fifth) y = Where(k, x, l)",
    "inverse mask": "k = Less(x, zero) m = Cast <to = 1> (k) y = Mul(x, m)",
    "Max of two": "n = Neg(x) y = Max(x, n)",
    "SiLU": "s = Sigmoid(x) y = Mul(x, s)",
    # x times ReLU6(x + 3) / 6, as PyTorch, TensorFlow and Keras write it
    "h-swish": "a = Add(x, three) c = Clip(a, zero, six) m = Mul(x, c) y = Div(m, six)",
    "h-swish, divided first": "a = Add(x, three) r = Relu(a) c = Min(r, six) d = Div(c, six) y = Mul(d, x)",
    "h-sigmoid": "a = Add(three, x) c = Clip(a, zero, six) y = Div(c, six)",
    "h-sigmoid of Keras": "m = Mul(x, fifth) a = Add(m, half) y = Clip(a, zero, one)",
}
NUMBERS = {"zero": 0, "one": 1, "six": 6, "two": 2, "half": 0.5, "three": 3, "fifth": 0.2, "minus": -1}
WEIGHTS = {
    **{name: np.float32(number) for name, number in NUMBERS.items()},
    "zeros": np.zeros((4, 1, 1), np.float32),
    "slopes": np.full((4, 1, 1), 0.25, np.float32),
    "w": np.random.default_rng(0).normal(0, 3, (4, 3, 1, 1)).astype(np.float32),
    **{name: np.int64(0) for name in ("first", "none")},
    "axes": np.array([1]),
}


def operators(spelling: str, opset: int = 18, also: tuple[str, ...] = ()) -> tuple[list[str], ir.Model]:
    """The operators of the normal form, and that itself; it computes the same.

    In front a scale per channel, so that both signs and both ends are met.
    """
    outputs = dict.fromkeys(("y", *also), ("N", 4, 5, 5))
    source = written(
        f"x = Conv(image, w) {spelling}", {"image": ("N", 3, 5, 5)}, outputs, WEIGHTS, opset=opset
    )
    found = normalise(ir.from_proto(source))
    x = np.random.default_rng(1).standard_normal((2, 3, 5, 5)).astype(np.float32)
    before, after = (session(p).run(None, {"image": x}) for p in (source, ir.to_proto(found)))
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-6, atol=1e-6)
    return [n.op_type for n in found.graph], found


@pytest.mark.parametrize(
    ("last", "spelling"),
    [("Relu", one) for one in RELU.values()] + [("Clip", one) for one in SIX.values()],
    ids=[*RELU, *(f"6, {name}" for name in SIX)],
)
def test_every_spelling(last: str, spelling: str) -> None:
    found, model = operators(spelling)
    assert found == ["Conv", last]
    assert len(rectifiers(model)) == 1


@pytest.mark.parametrize("spelling", NONE)
def test_no_rectifier(spelling: str) -> None:
    assert not rectifiers(operators(NONE[spelling])[1])


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 21])
def test_opsets(opset: int) -> None:
    clip = "Clip <min = 0.0, max = 6.0> (x)" if opset < 11 else "Clip(x, zero, six)"
    assert operators(f"c = {clip} y = LeakyRelu <alpha = 0.0> (c)", opset)[0][-1] == "Clip"


def test_a_value_that_is_given_out_keeps_its_node() -> None:
    """A gradient by max(x, 0) must not be led around it."""
    assert operators(SIX["Min of Max"], also=("r",))[0] == ["Conv", "Relu", "Clip"]


@pytest.mark.parametrize(
    "spelling",
    [
        # Max(n, 0) of shape arithmetic: whole numbers
        "s = Shape(x) n = Gather(s, first) m = Max(n, none) f = Cast <to = 1> (m) y = Mul(x, f)",
        # Max of (N, 1, 5, 5) and zeros for four channels has four channels
        "r = ReduceMean(x, axes) y = Max(r, zeros)",
    ],
)
def test_a_max_with_zero_that_is_no_relu_is_left_alone(spelling: str) -> None:
    assert "Max" in operators(spelling)[0]
