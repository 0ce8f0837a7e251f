"""Gradient rules of what works place by place: functions of one operand, arithmetic, choice, activations.

The walk sums broadcasts back. Kinks as torch has them.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import onnx_ir as ir

from onnxviz.grad.forms import between, normal_cdf, step
from onnxviz.grad.table import enter, nondifferentiable, vjp
from onnxviz.graph.tape import array

nondifferentiable(
    "And", "ArgMax", "ArgMin", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
    "Ceil", "Constant", "ConstantOfShape", "Equal", "EyeLike", "Floor", "Greater", "GreaterOrEqual", "Hardmax",
    "IsInf", "IsNaN", "Less", "LessOrEqual", "Multinomial", "NonMaxSuppression", "NonZero", "Not", "Or",
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range", "Round", "Shape", "Sign",
    "Size", "Xor",
)  # fmt: skip

# y = f(x) of one operand, of which some have attributes: x's cotangent.
enter({
    "Identity": lambda op, g, y, x: g,
    "Neg": lambda op, g, y, x: op.Neg(g),
    "Abs": lambda op, g, y, x: op.Mul(g, op.Sign(x)),  # 0 at the kink
    "Sqrt": lambda op, g, y, x: op.Div(op.Mul(g, 0.5), y),
    "Exp": lambda op, g, y, x: op.Mul(g, y),
    "Log": lambda op, g, y, x: op.Div(g, x),
    "Reciprocal": lambda op, g, y, x: op.Neg(op.Mul(g, op.Mul(y, y))),
    "Sin": lambda op, g, y, x: op.Mul(g, op.Cos(x)),
    "Cos": lambda op, g, y, x: op.Neg(op.Mul(g, op.Sin(x))),
    "Tan": lambda op, g, y, x: op.Mul(g, op.Add(op.Mul(y, y), 1.0)),
    "Asin": lambda op, g, y, x: op.Div(g, op.Sqrt(op.Sub(1.0, op.Mul(x, x)))),
    "Acos": lambda op, g, y, x: op.Neg(op.Div(g, op.Sqrt(op.Sub(1.0, op.Mul(x, x))))),
    "Atan": lambda op, g, y, x: op.Div(g, op.Add(op.Mul(x, x), 1.0)),
    "Sinh": lambda op, g, y, x: op.Mul(g, op.Cosh(x)),
    "Cosh": lambda op, g, y, x: op.Mul(g, op.Sinh(x)),
    "Tanh": lambda op, g, y, x: op.Mul(g, op.Sub(1.0, op.Mul(y, y))),
    "Asinh": lambda op, g, y, x: op.Div(g, op.Sqrt(op.Add(op.Mul(x, x), 1.0))),
    "Acosh": lambda op, g, y, x: op.Div(g, op.Sqrt(op.Sub(op.Mul(x, x), 1.0))),
    "Atanh": lambda op, g, y, x: op.Div(g, op.Sub(1.0, op.Mul(x, x))),
    "Erf": lambda op, g, y, x: op.Mul(g, op.Mul(op.Exp(op.Neg(op.Mul(x, x))), 2.0 / math.sqrt(math.pi))),
    "Sigmoid": lambda op, g, y, x: op.Mul(g, op.Mul(y, op.Sub(1.0, y))),
    "Softplus": lambda op, g, y, x: op.Mul(g, op.Sigmoid(x)),
    "LeakyRelu": lambda op, g, y, x, *, alpha: op.Mul(g, op.Add(op.Mul(step(op, x), 1.0 - alpha), alpha)),
    "ThresholdedRelu": lambda op, g, y, x, *, alpha: op.Mul(g, step(op, x, alpha)),
    # At and below 0: alpha·exp(x), which is y + alpha; exp(x/alpha), y/alpha + 1; gamma·alpha·exp(x), y + gamma·alpha.
    "Elu": lambda op, g, y, x, *, alpha: op.Mul(g, op.Where(op.Greater(x, 0.0), 1.0, op.Add(y, alpha))),
    "Celu": lambda op, g, y, x, *, alpha: op.Mul(
        g, op.Where(op.Greater(x, 0.0), 1.0, op.Add(op.Div(y, alpha), 1.0))),
    "Selu": lambda op, g, y, x, *, alpha, gamma: op.Mul(
        g, op.Where(op.Greater(x, 0.0), gamma, op.Add(y, gamma * alpha))),
    "Shrink": lambda op, g, y, x, *, bias, lambd: op.Mul(g, op.cast_like(op.Greater(op.Abs(x), lambd), g)),
    # The cumulative sum from the other end.
    "CumSum": lambda op, g, y, x, axis, *, exclusive, reverse: op.CumSum(
        g, axis, exclusive=exclusive, reverse=1 - reverse),
    # At inference nothing is dropped (normalise takes it out; one that trains is random, hence refused there).
    "Dropout": lambda op, g, y, x, ratio=None, training_mode=None, *, seed=None: g,
})  # fmt: skip


# --- arithmetic and choice ------------------------------------------------------------------------

enter({
    "Add": lambda op, g, y, a, b: (g, g),
    "Sub": lambda op, g, y, a, b: (g, lambda: op.Neg(g)),
    "Mul": lambda op, g, y, a, b: (lambda: op.Mul(g, b), lambda: op.Mul(g, a)),
    "Div": lambda op, g, y, a, b: (lambda: op.Div(g, b), lambda: op.Neg(op.Mul(g, op.Div(y, b)))),
    # y = a − b·n with n = (a − y)/b, constant between its jumps.
    "Mod": lambda op, g, y, a, b, *, fmod: (g, lambda: op.Neg(op.Mul(g, op.Round(op.Div(op.Sub(a, y), b))))),
    "Sum": lambda op, g, y, *xs: (g,) * len(xs),
    "Mean": lambda op, g, y, *xs: (op.Mul(g, 1.0 / len(xs)),) * len(xs),
    "Where": lambda op, g, y, condition, a, b: (
        None, lambda: op.Where(condition, g, 0.0), lambda: op.Where(condition, 0.0, g)),
}, broadcast=True)  # fmt: skip


@vjp("Pow", broadcast=True)
def pow_(op, g, y, a, b):
    """b·a^(b−1) and y·ln a. A factor 0 where b is 0 or y is 0, as torch, not 0·∞."""
    power = op.cast_like(b, a) if b.dtype != a.dtype else b

    def base():
        slope = op.Mul(power, op.Pow(a, op.Sub(power, 1.0)))
        return op.Mul(g, op.Where(op.Equal(power, 0.0), 0.0, slope))

    def exponent():
        # Where y is 0 the derivative is 0 (for b > 0); the logarithm there is kept from being −∞.
        still = op.Equal(y, 0.0)
        return op.Mul(g, op.Where(still, 0.0, op.Mul(y, op.Log(op.Where(still, 1.0, a)))))

    return base, exponent


@vjp("Max", "Min", broadcast=True)
def extreme(op, g, y, *xs):
    """To the one that was taken; a tie is shared evenly, as torch.maximum does."""
    if len(xs) == 1:
        return (g,)
    taken = [op.cast_like(op.Equal(x, y), g) for x in xs]
    share = op.Div(g, op.Sum(*taken))
    return tuple(lambda t=t: op.Mul(share, t) for t in taken)


@vjp("Cast")
def cast(op, g, y, x, *, to, saturate=1, round_mode="up"):
    """Between float types a change of precision; to integers it is a step (the walk never comes here).

    The cotangents of half precision values, and of integers that stand for floats, are float32.
    """
    return (_as(op, g, x),)


@vjp("CastLike")
def cast_like(op, g, y, x, like, *, saturate=1, round_mode="up"):
    """As Cast; of the second only the type is used."""
    return _as(op, g, x), None


def _as(op: Any, g: Any, x: Any) -> Any:
    wanted = x.dtype if x.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
    return g if g.dtype == wanted else op.Cast(g, to=int(wanted))


# --- activations ----------------------------------------------------------------------------------

# Any alpha beyond this is a step that a gradient model makes for its masks (forms.py): flat but at one point.
_STEP_ALPHA = 2.0**60


@vjp("Relu")
def relu(op, g, y, x):
    """g where the unit fired; 0 at the kink.

    Behind a MaxPool or a Concat these know a cheaper place for the mask.
    """
    return (op.masked[g]() if g in op.masked else op.Mul(g, step(op, y)),)


@vjp("PRelu", broadcast=True)
def prelu(op, g, y, x, slope):
    """As LeakyRelu, the slope being a tensor that broadcasts to x and may itself be differentiated."""
    fired = step(op, x)
    return (
        lambda: op.Mul(g, op.Add(fired, op.Mul(op.Sub(1.0, fired), slope))),
        lambda: op.Mul(g, op.Min(x, 0.0)),
    )


@vjp("Clip", broadcast=True)
def clip(op, g, y, x, low=None, high=None):
    """g strictly between the bounds, 0 on and outside them (as torch's relu6 and hardtanh)."""
    lo, hi = array(low), array(high)
    if (low is None or lo is not None) and (high is None or hi is not None):
        inside = between(op, y, None if lo is None else float(lo), None if hi is None else float(hi))
    else:
        cuts = [
            compare(y, bound) for compare, bound in ((op.Greater, low), (op.Less, high)) if bound is not None
        ]
        inside = op.cast_like(functools.reduce(op.And, cuts), g)

    def to_low() -> Any:
        under = op.Less(x, low)
        return op.Where(under if high is None else op.And(under, op.Less(low, high)), g, 0.0)

    def to_high() -> Any:  # where the bounds are crossed, the upper one holds everywhere
        over = op.Greater(x, high)
        return op.Where(over if low is None else op.Or(over, op.Less(high, low)), g, 0.0)

    return lambda: g if inside is None else op.Mul(g, inside), to_low, to_high


@vjp("HardSigmoid")
def hard_sigmoid(op, g, y, x, *, alpha, beta):
    """alpha strictly inside the ramp. The masks of a gradient model are steps: no gradient."""
    if abs(alpha) >= _STEP_ALPHA or alpha == 0.0:
        return (None,)
    return (op.Mul(g, op.Mul(between(op, y, 0.0, 1.0), alpha)),)


@vjp("HardSwish")
def hard_swish(op, g, y, x):
    """0 below −3, x/3 + 1/2 between, 1 above 3."""
    ramp = op.Mul(between(op, x, -3.0, 3.0), op.Add(op.Div(x, 3.0), 0.5))
    return (op.Mul(g, op.Add(ramp, op.cast_like(op.GreaterOrEqual(x, 3.0), g))),)


@vjp("Swish")
def swish(op, g, y, x, *, alpha):
    """x·σ(αx): σ + α·y·(1 − σ)."""
    s = op.Sigmoid(op.Mul(x, alpha))
    return (op.Mul(g, op.Add(s, op.Mul(op.Mul(y, alpha), op.Sub(1.0, s)))),)


@vjp("Mish")
def mish(op, g, y, x):
    """x·t with t = tanh(softplus(x)): t + x(1 − t²)σ(x)."""
    t = op.Tanh(op.Softplus(x))
    return (op.Mul(g, op.Add(t, op.Mul(op.Mul(x, op.Sub(1.0, op.Mul(t, t))), op.Sigmoid(x)))),)


@vjp("Softsign")
def softsign(op, g, y, x):
    """1 / (1 + |x|)²."""
    d = op.Add(op.Abs(x), 1.0)
    return (op.Div(g, op.Mul(d, d)),)


@vjp("Gelu")
def gelu(op, g, y, x, *, approximate):
    """Φ(x) + x·φ(x), or the derivative of the tanh approximation.

    With u = x/√2 the second term is u·exp(−u²)/√π.
    """
    if approximate == "none":
        u = op.Mul(x, math.sqrt(0.5))
        bend = op.Mul(u, op.Exp(op.Sub(-0.5 * math.log(math.pi), op.Mul(u, u))))
        return (op.Mul(g, op.Add(normal_cdf(op, u, x, y), bend)),)
    c, k = math.sqrt(2.0 / math.pi), 0.044715
    square = op.Mul(x, x)
    t = op.Tanh(op.Mul(op.Mul(x, op.Add(op.Mul(square, k), 1.0)), c))
    slope = op.Mul(op.Add(op.Mul(square, 3.0 * k), 1.0), c)
    bend = op.Mul(op.Mul(x, op.Sub(1.0, op.Mul(t, t))), slope)
    return (op.Mul(g, op.Mul(op.Add(op.Add(t, 1.0), bend), 0.5)),)
