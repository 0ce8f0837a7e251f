"""Gradient rules of arithmetic: binary operators (the walk sums broadcasts back), unary ones, selection."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxviz.grad.table import nondifferentiable, vjp

nondifferentiable(
    "And", "ArgMax", "ArgMin", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
    "Ceil", "Constant", "ConstantOfShape", "Equal", "EyeLike", "Floor", "Greater", "GreaterOrEqual", "Hardmax",
    "IsInf", "IsNaN", "Less", "LessOrEqual", "Multinomial", "NonMaxSuppression", "NonZero", "Not", "Or",
    "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Range", "Round", "Shape", "Sign",
    "Size", "Xor",
)  # fmt: skip


@vjp("Add", broadcast=True)
def add(op, g, y, a, b):
    """A sum hands its cotangent to both."""
    return g, g


@vjp("Sub", broadcast=True)
def sub(op, g, y, a, b):
    """The subtrahend gets it with the other sign."""
    return g, lambda: op.Neg(g)


@vjp("Mul", broadcast=True)
def mul(op, g, y, a, b):
    """Each factor gets the other."""
    return lambda: op.Mul(g, b), lambda: op.Mul(g, a)


@vjp("Div", broadcast=True)
def div(op, g, y, a, b):
    """1/b and −y/b."""
    return lambda: op.Div(g, b), lambda: op.Neg(op.Mul(g, op.Div(y, b)))


@vjp("Mod", broadcast=True)
def mod(op, g, y, a, b, *, fmod):
    """y = a − b·n with n = (a − y)/b, constant between its jumps."""
    return g, lambda: op.Neg(op.Mul(g, op.Round(op.Div(op.Sub(a, y), b))))


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


@vjp("Neg")
def neg(op, g, y, x):
    """−g."""
    return (op.Neg(g),)


@vjp("Abs")
def abs_(op, g, y, x):
    """The sign; 0 at the kink."""
    return (op.Mul(g, op.Sign(x)),)


@vjp("Sqrt")
def sqrt(op, g, y, x):
    """1 / 2y."""
    return (op.Div(op.Mul(g, 0.5), y),)


@vjp("Exp")
def exp(op, g, y, x):
    """Its own derivative."""
    return (op.Mul(g, y),)


@vjp("Log")
def log(op, g, y, x):
    """1/x."""
    return (op.Div(g, x),)


@vjp("Reciprocal")
def reciprocal(op, g, y, x):
    """−y²."""
    return (op.Neg(op.Mul(g, op.Mul(y, y))),)


@vjp("Sin")
def sin(op, g, y, x):
    """cos."""
    return (op.Mul(g, op.Cos(x)),)


@vjp("Cos")
def cos(op, g, y, x):
    """−sin."""
    return (op.Neg(op.Mul(g, op.Sin(x))),)


@vjp("Tan")
def tan(op, g, y, x):
    """1 + y²."""
    return (op.Mul(g, op.Add(op.Mul(y, y), 1.0)),)


@vjp("Asin")
def asin(op, g, y, x):
    """1 / √(1 − x²)."""
    return (op.Div(g, op.Sqrt(op.Sub(1.0, op.Mul(x, x)))),)


@vjp("Acos")
def acos(op, g, y, x):
    """−1 / √(1 − x²)."""
    return (op.Neg(op.Div(g, op.Sqrt(op.Sub(1.0, op.Mul(x, x))))),)


@vjp("Atan")
def atan(op, g, y, x):
    """1 / (1 + x²)."""
    return (op.Div(g, op.Add(op.Mul(x, x), 1.0)),)


@vjp("Sinh")
def sinh(op, g, y, x):
    """cosh."""
    return (op.Mul(g, op.Cosh(x)),)


@vjp("Cosh")
def cosh(op, g, y, x):
    """sinh."""
    return (op.Mul(g, op.Sinh(x)),)


@vjp("Asinh")
def asinh(op, g, y, x):
    """1 / √(x² + 1)."""
    return (op.Div(g, op.Sqrt(op.Add(op.Mul(x, x), 1.0))),)


@vjp("Acosh")
def acosh(op, g, y, x):
    """1 / √(x² − 1)."""
    return (op.Div(g, op.Sqrt(op.Sub(op.Mul(x, x), 1.0))),)


@vjp("Atanh")
def atanh(op, g, y, x):
    """1 / (1 − x²)."""
    return (op.Div(g, op.Sub(1.0, op.Mul(x, x))),)


@vjp("Sum", broadcast=True)
def sum_(op, g, y, *xs):
    """As Add."""
    return tuple(g for _ in xs)


@vjp("Mean", broadcast=True)
def mean(op, g, y, *xs):
    """An equal share each."""
    share = op.Mul(g, 1.0 / len(xs))
    return tuple(share for _ in xs)


@vjp("Max", "Min", broadcast=True)
def extreme(op, g, y, *xs):
    """To the one that was taken; a tie is shared evenly, as torch.maximum does."""
    if len(xs) == 1:
        return (g,)
    taken = [op.cast_like(op.Equal(x, y), g) for x in xs]
    share = op.Div(g, op.Sum(*taken))
    return tuple(lambda t=t: op.Mul(share, t) for t in taken)


@vjp("Where", broadcast=True)
def where(op, g, y, condition, a, b):
    """Each side where it was chosen."""
    return None, lambda: op.Where(condition, g, 0.0), lambda: op.Where(condition, 0.0, g)


@vjp("Identity")
def identity(op, g, y, x):
    """As it came."""
    return (g,)


@vjp("Dropout")
def dropout(op, g, y, x, ratio=None, training_mode=None, *, seed=None):
    """At inference nothing is dropped (normalise takes it out; one that trains is random, hence refused there)."""
    return (g,)


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


@vjp("CumSum")
def cumsum(op, g, y, x, axis, *, exclusive, reverse):
    """The cumulative sum from the other end."""
    return (op.CumSum(g, axis, exclusive=exclusive, reverse=1 - reverse),)
