"""Activations and arithmetic: every attribute, broadcasting both ways, against central differences in float64."""

from __future__ import annotations

import numpy as np

from tests.grad.oracle import ORT, Case, apart, case, normal, positive, rule_test

X = apart(2, 3, 4, gap=0.21)


def unary(op: str, x: np.ndarray = X, **attributes) -> Case:
    return case(op, x=x, **attributes)


UNIT = np.linspace(-0.85, 0.8, 24, dtype=np.float32).reshape(2, 3, 4)
UNARY = [
    unary("Relu"),
    unary("LeakyRelu"),
    unary("LeakyRelu", alpha=0.3),
    unary("LeakyRelu", alpha=-0.3),
    unary("ThresholdedRelu"),
    unary("ThresholdedRelu", alpha=0.5),
    unary("Elu"),
    unary("Elu", alpha=0.4),
    unary("Elu", alpha=-0.4),
    unary("Celu"),
    unary("Celu", alpha=0.4),
    unary("Selu"),
    unary("Selu", alpha=1.2, gamma=0.8),
    unary("Sigmoid"),
    unary("HardSigmoid"),
    unary("HardSigmoid", alpha=0.3, beta=0.1),
    unary("HardSigmoid", alpha=-0.3, beta=0.1),
    unary("HardSwish"),
    unary("Mish"),
    unary("Softplus"),
    unary("Softsign"),
    unary("Tanh"),
    unary("Erf"),
    unary("Gelu", opset=20),
    unary("Gelu", opset=20, approximate="tanh"),
    unary("Shrink"),
    unary("Shrink", bias=0.2, lambd=0.7),
    unary("Neg"),
    unary("Abs"),
    unary("Sqrt", positive(2, 3)),
    unary("Exp"),
    unary("Log", positive(2, 3)),
    unary("Reciprocal", positive(2, 3)),
    unary("Sin"),
    unary("Cos"),
    unary("Tan", UNIT),
    unary("Asin", UNIT),
    unary("Acos", UNIT),
    unary("Atan"),
    unary("Sinh"),
    unary("Cosh"),
    unary("Asinh"),
    unary("Acosh", positive(2, 3) + 1),
    unary("Atanh", UNIT),
    unary("Identity"),
    unary("Swish", opset=24),
    unary("Swish", opset=24, alpha=0.7),
    unary("Dropout"),
    unary("Sum"),
    unary("Mean"),
    unary("Max"),
    unary("Min"),
    unary("Softmax"),
    unary("Softmax", axis=1),
    unary("Softmax", axis=0),
    unary("LogSoftmax"),
    unary("LogSoftmax", axis=-2),
    unary("Clip", opset=7),
    unary("Clip", opset=7, min=-1.0),
    unary("Clip", opset=7, max=1.0),
    unary("Clip", opset=7, min=-1.0, max=1.0),
    unary("Dropout", opset=7),
    unary("Dropout", opset=10, ratio=0.3),
    unary("Softmax", opset=7),
    unary("Softmax", opset=11, axis=0),
    unary("Softmax", opset=11, axis=2),
    unary("LogSoftmax", opset=11, axis=1),
    unary("LogSoftmax", opset=11, axis=-1),
    unary("LpNormalization", axis=1),
    unary("LpNormalization", axis=-1, p=1),
    unary("LpNormalization", axis=0, p=2),
    unary("Cast", to=1),
    unary("Trilu", normal(2, 4, 4)),
    unary("Trilu", normal(2, 4, 4), upper=0),
]
# Where onnx.reference is wrong or only single precision, ONNX Runtime's float32 forward is differenced instead.
for one in UNARY:
    old = one.opset < {"Softmax": 13, "LogSoftmax": 13, "Clip": 11}.get(one.op, 0)
    if old or one.op in ("Cast", "Erf") or (one.op == "LpNormalization" and one.attributes.get("p") == 1):
        vars(one).update(ORT)

A, B = apart(2, 3, 4, gap=0.17), positive(3, 1) + 0.1
WIDE, TALL = positive(2, 1, 4), positive(5, 1, 3, 1)
MASK = np.array([[True], [False], [True]])
BINARY = [
    *(case(op, a=A, b=B) for op in ("Add", "Sub", "Mul", "Div")),
    *(case(op, a=B, b=A) for op in ("Add", "Sub", "Mul", "Div")),
    *(case(op, a=WIDE, b=TALL, label="both") for op in ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min")),
    *(case(op, a=A, b=np.float32(1.3), label="scalar") for op in ("Add", "Sub", "Mul", "Div", "Max", "Min")),
    case("Pow", a=positive(2, 3), b=normal(2, 3)),
    case("Pow", a=A, b=np.float32(2.0), constant="b", label="square"),
    case("Pow", a=A, b=np.int64(3), label="cube", **ORT | {"step": 1e-2}),
    case("Pow", a=A, b=np.float32(0.0), constant="b", label="zeroth"),
    case("PRelu", x=A, slope=B),
    case("PRelu", x=A, slope=positive(3, 4), label="full"),
    case("PRelu", x=A, slope=normal(1), label="one"),
    case("Clip", x=A, low=np.float32(-1), high=np.float32(0.5), constant="low high"),
    case("Clip", x=A, low=np.float32(-1.05), constant="low", label="low"),
    case("Clip", x=A, low=None, high=np.float32(0.55), constant="high", label="high"),
    case("Clip", x=A, low=np.float32(-1.03), high=np.float32(0.53), label="moving"),
    case("Sum", a=A, b=B, c=np.float32(2.0)),
    case("Mean", a=A, b=B, c=WIDE),
    case("Max", a=A, b=normal(2, 3, 4, seed=5), c=normal(3, 1, seed=3), step=1e-6),
    case("Min", a=A, b=normal(2, 3, 4, seed=5), c=normal(3, 1, seed=3), step=1e-6),
    case("Mod", a=A, b=np.float32(0.9), fmod=1, step=1e-6),
    case("Where", c=MASK, a=A, b=B),
    case("Where", c=MASK, a=np.float32(1.0), b=A, label="scalar"),
    case("CumSum", x=A, axis=np.int64(1)),
    *(case("CumSum", x=A, axis=np.int64(-1), exclusive=e, reverse=r) for e in (0, 1) for r in (0, 1)),
]


test_rule = rule_test(UNARY + BINARY)
