"""Backprop variants as other tables of torch functions; what they do stands in grad/overrides.py."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import torch

from onnxviz.backends.torch import operators
from onnxviz.backends.torch.activation import Between, clip
from onnxviz.backends.torch.quantised import quantize_linear
from onnxviz.backends.torch.table import OPERATORS, Operator, Table
from onnxviz.errors import UsageError, near
from onnxviz.graph.rectifiers import Rectifier

assert operators  # importing it fills the table


def _guided(g: Any, inside: Any, x: Any, high: float | None) -> Any:
    return torch.relu(g) * inside


def _deconvnet(g: Any, inside: Any, x: Any, high: float | None) -> Any:
    return torch.relu(g)


def _redirected(g: Any, inside: Any, x: Any, high: float | None) -> Any:
    plain = g * inside
    blocked = (x < 0) & (g < 0)
    if high is not None:
        blocked |= (x > high) & (g > 0)
    alive = plain.flatten(1).abs().sum(1).reshape(-1, *([1] * (x.ndim - 1))) > 0
    return torch.where(alive, plain, torch.where(blocked, torch.zeros_like(g), g))


def _table(back: Callable[..., Any]) -> Table:
    """The plain table, but for the rectifiers (graph/operators.py) among the nodes of these operators."""

    def relu(x: Any) -> Any:
        return Between.apply(x, 0.0, None, back)

    def clipped(x: Any, low: Any = None, high: Any = None, *, rectifier: Rectifier | None) -> Any:
        return clip(x, low, high) if rectifier is None else Between.apply(x, 0.0, rectifier.high, back)

    def quantized(
        x: Any, *operands: Any, rectifier: Rectifier | None, kind: int, axis: int = 1,
        block_size: int = 0, saturate: int = 1, output_dtype: int = 0, precision: int = 0,
    ) -> Any:  # fmt: skip
        going_back = {} if rectifier is None else {"back": back}
        return quantize_linear(x, *operands, kind=kind, axis=axis, block_size=block_size, **going_back)

    changed: dict[str, Callable[..., Any]] = {"Relu": relu, "Clip": clipped, "QuantizeLinear": quantized}
    return MappingProxyType(
        {**OPERATORS, **{name: Operator(name, function) for name, function in changed.items()}}
    )


TABLES: dict[str, Table] = {
    "plain": OPERATORS,
    "guided": _table(_guided),
    "deconvnet": _table(_deconvnet),
    "redirected": _table(_redirected),
}


def by_name(name: str) -> Table:
    """The table that the command line calls so; raises UsageError."""
    if name not in TABLES:
        raise UsageError(f"no rules {name!r}; there are {', '.join(TABLES)}{near(name, TABLES)}")
    return TABLES[name]
