"""The table of gradient rules: operator -> rule, and the operators whose derivative is zero by declaration.

A rule is a function `rule(op, g, y, *inputs, **attributes)`:

    op          the tape: `op.Mul(g, mask)` appends an operator
    g           the cotangent of the output, of the output's shape
    y, inputs   the forward values; an omitted optional input is None
    attributes  by keyword, defaults of the standard filled in

It gives one entry an input (of one input that itself): a cotangent, None for zero, or a function without arguments that
makes the cotangent, called only where that input is on the way. An attribute that the signature does not name is
refused (a rule that has not heard of `dilations` must not ignore it). What all rules share is done in
`backward.py`: summing back what was broadcast, adding up, shape checks.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias

Function: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    broadcast   the inputs broadcast against each other: the walk sums the excess away
    every       the rule takes tuples of cotangents (None where zero) and outputs, one entry an output
    constant    outputs that count as constants although they are floats (a quantiser's scale)
    """

    function: Function
    broadcast: bool = False
    every: bool = False
    constant: tuple[int, ...] = ()

    @functools.cached_property
    def attributes(self) -> frozenset[str]:
        """The attributes that the function's signature names."""
        found = inspect.signature(self.function).parameters.values()
        return frozenset(p.name for p in found if p.kind is inspect.Parameter.KEYWORD_ONLY)


Table: TypeAlias = Mapping[str, Rule]

_RULES: dict[str, Rule] = {}
_ZERO: set[str] = set()

# Views, so that nobody changes the tables in place: a variant is another table (overrides.py).
VJP_RULES: Table = MappingProxyType(_RULES)


def key(op_type: str, domain: str = "") -> str:
    """How the tables name an operator: 'Relu', 'com.microsoft::Gelu'."""
    return op_type if not domain else f"{domain}::{op_type}"


def vjp(
    *op_types: str, broadcast: bool = False, every: bool = False, constant: tuple[int, ...] = ()
) -> Callable[[Function], Function]:
    """Enter a rule for these operators; a second rule for one of them is an error at import."""

    def taken(function: Function) -> Function:
        for name in op_types:
            _RULES[_free(name)] = Rule(function, broadcast, every, constant)
        return function

    return taken


def _free(name: str) -> str:
    if name in _RULES or name in _ZERO:
        raise RuntimeError(f"two gradient rules for {name}")
    return name


def enter(rules: Mapping[str, Function], *, broadcast: bool = False) -> None:
    """Enter several rules, by their operators' names."""
    for name, function in rules.items():
        vjp(name, broadcast=broadcast)(function)


def nondifferentiable(*op_types: str) -> None:
    """Declare that nothing flows back through these operators."""
    _ZERO.update(map(_free, op_types))


def is_zero(op_type: str, domain: str = "") -> bool:
    """Whether the operator's derivative is zero by declaration."""
    return key(op_type, domain) in _ZERO


def zero_operators() -> frozenset[str]:
    """The operators that are declared to have no derivative."""
    return frozenset(_ZERO)
