"""The table of operators on torch: operator -> function.

A function takes the node's inputs as tensors (None where one is omitted) and its attributes by keyword, and gives a
tensor, or a tuple of them for several outputs. autograd differentiates it. Operators changed their form over the
opsets: a function takes every form, so an attribute that became an input later on is a parameter that may come
either way. What a function wants to know about the node it names among its keywords:

    opset     the version of the standard that the graph is written in
    outputs   how many outputs the node has
    kind      the ONNX type code that its first output has, which a float that stands for an integer does not show
    run       (graph, its inputs) -> its outputs, for operators that hold graphs
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

Function: TypeAlias = Callable[..., Any]
CONTEXT = frozenset({"opset", "outputs", "kind", "rectifier", "run"})


@dataclass(frozen=True)
class Operator:
    """One row of the table."""

    name: str
    function: Function

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """The attributes, and what else, that the function can be given by name."""
        try:
            found = inspect.signature(self.function).parameters.values()
        except ValueError:  # a function of torch's own, written in C
            return frozenset()
        return frozenset(p.name for p in found if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD))

    @functools.cached_property
    def open(self) -> bool:
        """Whether the function takes any attribute."""
        try:
            found = inspect.signature(self.function).parameters.values()
        except ValueError:
            return False
        return any(p.kind is p.VAR_KEYWORD for p in found)


Table: TypeAlias = Mapping[str, Operator]

_OPERATORS: dict[str, Operator] = {}
OPERATORS: Table = MappingProxyType(_OPERATORS)


def key(op_type: str, domain: str = "") -> str:
    """How the table names an operator: 'Relu', 'com.microsoft::Gelu'."""
    return op_type if domain in ("", "ai.onnx") else f"{domain}::{op_type}"


def operator(*op_types: str, domain: str = "") -> Callable[[Function], Function]:
    """Enter a function for these operators; a second one for one of them is an error at import."""

    def enter(function: Function) -> Function:
        for op_type in op_types:
            name = key(op_type, domain)
            if name in _OPERATORS:
                raise RuntimeError(f"two torch functions for {name}")
            _OPERATORS[name] = Operator(name, function)
        return function

    return enter


class CannotRun(Exception):
    """Raised inside a function for a form that torch cannot do; the message goes on 'the operator ...'."""
