"""Backprop variants as other tables of torch functions; what they do stands in grad/overrides.py."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import torch

from onnxviz.errors import UsageError, near
from onnxviz.runtime.torch_backend import operators
from onnxviz.runtime.torch_backend.activation import Between, clip
from onnxviz.runtime.torch_backend.table import OPERATORS, Operator, Table

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
    """The plain table, but for the rectifiers: Relu, and Clip from 0 up (ReLU6)."""

    def relu(x: Any) -> Any:
        return Between.apply(x, 0.0, None, back)

    def clipped(x: Any, low: Any = None, high: Any = None, *, min: Any = None, max: Any = None) -> Any:
        bottom, top = (
            float(v) if v is not None else None
            for v in (low if min is None else min, high if max is None else max)
        )
        if bottom != 0.0:
            return clip(x, low, high, min=min, max=max)
        return Between.apply(x, 0.0, top, back)

    changed = {"Relu": Operator("Relu", relu), "Clip": Operator("Clip", clipped)}
    return MappingProxyType({**OPERATORS, **changed})


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
