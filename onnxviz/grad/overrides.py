"""Backprop variants: other tables for the same walk.

They rewrite operators, so a reused or functional activation cannot escape them, as it does in hook-based tools.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeAlias

from onnxviz.grad.backward import rank_of
from onnxviz.grad.forms import between, step
from onnxviz.grad.rules import PLAIN
from onnxviz.grad.rules.quantised import rescaled, within
from onnxviz.grad.table import Table

Mask: TypeAlias = Callable[[Any], Any]
Variant: TypeAlias = Callable[[Any, Any, Mask, Any, "float | None"], Any]


# Each takes g, and the function that masks it as the plain rule would: x and y the activation's input and output.


def _guided(op: Any, g: Any, masked: Mask, x: Any, high: float | None) -> Any:
    """g where the unit is on its slope and g is positive."""
    return masked(op.Relu(g))


def _deconvnet(op: Any, g: Any, masked: Mask, x: Any, high: float | None) -> Any:
    """g where it is positive, whatever the unit did."""
    return op.Relu(g)


def _redirected(op: Any, g: Any, masked: Mask, x: Any, high: float | None) -> Any:
    """As plain; for a picture of which nothing would come through, what does not push dead units further off.

    A unit below 0 lets a positive cotangent pass (it may rise), one above `high` a negative one.
    """
    plain = masked(g)
    blocked = op.And(op.Less(x, 0.0), op.Less(g, 0.0))
    if high is not None:
        blocked = op.Or(blocked, op.And(op.Greater(x, high), op.Greater(g, 0.0)))
    through = op.ReduceSum(op.Abs(op.Flatten(plain, axis=1)), [1], keepdims=0)  # (N,)
    alive = op.Reshape(op.Greater(through, 0.0), [-1, *([1] * (rank_of(x) - 1))])
    return op.Where(alive, plain, op.Where(blocked, 0.0, g))


def _table(variant: Variant) -> Table:
    """The plain table, but for the rectifiers (graph/operators.py) among the nodes of these operators."""

    def relu(op: Any, g: Any, y: Any, x: Any) -> Any:
        return (variant(op, g, lambda h: op.Mul(h, step(op, y)), x, None),)

    def clip(op: Any, g: Any, y: Any, x: Any, low: Any = None, high: Any = None) -> Any:
        found = op.rectifiers.get(y.producer())
        if found is None:
            return PLAIN["Clip"].function(op, g, y, x, low, high)
        return (
            variant(op, g, lambda h: op.Mul(h, between(op, y, 0.0, found.high)), x, found.high),
            None,
            None,
        )

    def quantize(
        op: Any, g: Any, y: Any, x: Any, scale: Any, zero: Any = None,
        *, axis: Any, block_size: Any = 0, saturate: Any = 1, output_dtype: Any = 0, precision: Any = 0,
    ) -> Any:  # fmt: skip
        found = op.rectifiers.get(y.producer())
        if found is None:
            plain = PLAIN["QuantizeLinear"].function
            return plain(op, g, y, x, scale, zero, axis=axis, block_size=block_size)
        back = variant(op, g, lambda h: op.Mul(h, within(op, h, y, x, scale, zero, axis)), x, found.high)
        return rescaled(op, back, y, x, scale, axis), None

    changed: dict[str, Callable[..., Any]] = {"Relu": relu, "Clip": clip, "QuantizeLinear": quantize}
    return MappingProxyType(
        {**PLAIN, **{name: replace(PLAIN[name], function=rule) for name, rule in changed.items()}}
    )


# Springenberg, Dosovitskiy, Brox & Riedmiller 2015, arXiv:1412.6806
GUIDED: Table = _table(_guided)
# Zeiler & Fergus 2014, arXiv:1311.2901
DECONVNET: Table = _table(_deconvnet)
# Lucid's redirected ReLU (Olah, Mordvintsev & Schubert 2017, "Feature Visualization"), which gets an ascent going
# from a picture that no unit responds to
REDIRECTED: Table = _table(_redirected)

TABLES: dict[str, Table] = {
    "plain": PLAIN, "guided": GUIDED, "deconvnet": DECONVNET, "redirected": REDIRECTED,
}  # fmt: skip
