"""Gradient rules of the activation functions. Kinks as torch has them."""

from __future__ import annotations

import math
from typing import Any

from onnxviz.grad.forms import between, normal_cdf, step
from onnxviz.grad.table import vjp
from onnxviz.graph.tape import array

# Any alpha beyond this is a step that a gradient model makes for its masks (forms.py): flat but at one point.
_STEP_ALPHA = 2.0**60


@vjp("Relu")
def relu(op, g, y, x):
    """g where the unit fired; 0 at the kink.

    Behind a MaxPool or a Concat these know a cheaper place for the mask.
    """
    return (op.masked[g]() if g in op.masked else op.Mul(g, step(op, y)),)


@vjp("LeakyRelu")
def leaky_relu(op, g, y, x, *, alpha):
    """g above 0, alpha·g at and below it."""
    return (op.Mul(g, op.Add(op.Mul(step(op, x), 1.0 - alpha), alpha)),)


@vjp("PRelu", broadcast=True)
def prelu(op, g, y, x, slope):
    """As LeakyRelu, the slope being a tensor that broadcasts to x and may itself be differentiated."""
    fired = step(op, x)
    return (
        lambda: op.Mul(g, op.Add(fired, op.Mul(op.Sub(1.0, fired), slope))),
        lambda: op.Mul(g, op.Min(x, 0.0)),
    )


@vjp("ThresholdedRelu")
def thresholded_relu(op, g, y, x, *, alpha):
    """g above the threshold."""
    return (op.Mul(g, step(op, x, alpha)),)


@vjp("Clip", broadcast=True)
def clip(op, g, y, x, low=None, high=None):
    """g strictly between the bounds, 0 on and outside them (as torch's relu6 and hardtanh)."""
    lo, hi = array(low), array(high)
    if (low is None or lo is not None) and (high is None or hi is not None):
        inside = between(op, y, None if lo is None else float(lo), None if hi is None else float(hi))
    else:
        inside = None
        if low is not None:
            inside = op.Greater(y, low)
        if high is not None:
            below = op.Less(y, high)
            inside = below if inside is None else op.And(inside, below)
        inside = op.cast_like(inside, g)

    def to_low() -> Any:
        under = op.Less(x, low)
        return _where(op, under if high is None else op.And(under, op.Less(low, high)), g, 0.0)

    def to_high() -> Any:  # where the bounds are crossed, the upper one holds everywhere
        over = op.Greater(x, high)
        return _where(op, over if low is None else op.Or(over, op.Less(high, low)), g, 0.0)

    return lambda: g if inside is None else op.Mul(g, inside), to_low, to_high


@vjp("Elu")
def elu(op, g, y, x, *, alpha):
    """alpha·exp(x), which is y + alpha, at and below 0."""
    return (op.Mul(g, _where(op, op.Greater(x, 0.0), 1.0, op.Add(y, alpha))),)


@vjp("Celu")
def celu(op, g, y, x, *, alpha):
    """exp(x / alpha), which is y / alpha + 1, at and below 0."""
    return (op.Mul(g, _where(op, op.Greater(x, 0.0), 1.0, op.Add(op.Div(y, alpha), 1.0))),)


@vjp("Selu")
def selu(op, g, y, x, *, alpha, gamma):
    """gamma above 0; gamma·alpha·exp(x), which is y + gamma·alpha, below."""
    return (op.Mul(g, _where(op, op.Greater(x, 0.0), gamma, op.Add(y, gamma * alpha))),)


@vjp("Sigmoid")
def sigmoid(op, g, y, x):
    """y(1 − y)."""
    return (op.Mul(g, op.Mul(y, op.Sub(1.0, y))),)


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


@vjp("Softplus")
def softplus(op, g, y, x):
    """σ(x)."""
    return (op.Mul(g, op.Sigmoid(x)),)


@vjp("Softsign")
def softsign(op, g, y, x):
    """1 / (1 + |x|)²."""
    d = op.Add(op.Abs(x), 1.0)
    return (op.Div(g, op.Mul(d, d)),)


@vjp("Tanh")
def tanh(op, g, y, x):
    """1 − y²."""
    return (op.Mul(g, op.Sub(1.0, op.Mul(y, y))),)


@vjp("Erf")
def erf(op, g, y, x):
    """2/√π · exp(−x²)."""
    return (op.Mul(g, op.Mul(op.Exp(op.Neg(op.Mul(x, x))), 2.0 / math.sqrt(math.pi))),)


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


@vjp("Shrink")
def shrink(op, g, y, x, *, bias, lambd):
    """g outside [−lambd, lambd]."""
    return (op.Mul(g, op.cast_like(op.Greater(op.Abs(x), lambd), g)),)


def _where(op: Any, condition: Any, a: Any, b: Any) -> Any:
    return op.Where(condition, a, b)
