"""Objectives written as text, for the command line: `2*logit(285) - logit("tabby")`, `part(boxes, 0, 3)`.

The text is parsed, never run: what it may hold is listed here, and everything else is a typed error.
"""

from __future__ import annotations

import ast
import inspect
import warnings
from collections.abc import Callable
from typing import Any, Final, Protocol

from onnxviz.errors import UsageError, near
from onnxviz.graph.output import BINARY
from onnxviz.objectives.base import Objective
from onnxviz.objectives.terms import WRITTEN

_LONGEST: Final = 2000
_MOST_INDICES: Final = 8
_LARGEST: Final = 2.0**62
_EXAMPLE: Final = "such as 2*logit(285) - logit('tabby') or part('boxes', 0, 3)"


class Names(Protocol):
    """What looks names up: a `Network`."""

    def layer(self, name: str) -> Any:
        """The layer of this name."""

    def target(self, target: int | str) -> int:
        """The class that a label means."""

    @property
    def head(self) -> Any:
        """What the output is."""


def forms() -> dict[str, str]:
    """What can be written, by name, and how: {'channel': 'channel(layer, index)'}."""
    return {name: f"{name}({', '.join(map(_shown, _takes(make)))})" for name, make in WRITTEN.items()}


def _takes(make: Callable[..., Objective]) -> list[inspect.Parameter]:
    """The parameters that arguments in order are given to."""
    parameters = inspect.signature(make).parameters.values()
    return [one for one in parameters if one.kind is not inspect.Parameter.KEYWORD_ONLY]


def _shown(parameter: inspect.Parameter) -> str:
    name = "layer" if _is_layer(parameter) else parameter.name
    if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
        return f"{name}, ..."
    return name if parameter.default is inspect.Parameter.empty else f"[{name}]"


def _is_layer(parameter: inspect.Parameter) -> bool:
    return parameter.name in ("layer", "name")


def parse(text: str, net: Names | None = None) -> Objective:
    """The objective that a text describes.

    text     functions of `onnxviz.objectives` that need no arrays (`terms.WRITTEN`), numbers, +, -, *, / and brackets.
             Layer names and class labels are strings; a name of letters, digits, dots and _ needs no quotes. `part`
             also takes None and slice(start, stop)
    net      the network, to look up labels and layers in; None: names are taken as they are
    raises   UsageError, saying what cannot be read; UnknownLabel, UnknownLayer
    """
    if len(text) > _LONGEST:
        raise UsageError(f"the objective has {len(text)} characters; at most {_LONGEST} are read")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes: stderr is for one-line errors
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as reason:
        said = reason.msg if isinstance(reason, SyntaxError) else str(reason)
        raise UsageError(
            f"the objective {text!r} cannot be read ({said}); expected an expression {_EXAMPLE}; put layer names "
            "that hold other signs than letters, digits, dots and _ in quotes"
        ) from None
    try:
        found = _sum(tree.body, net)
    except RecursionError:
        raise UsageError("the objective is nested too deeply; write fewer brackets") from None
    if not isinstance(found, Objective):
        raise UsageError(f"the objective {text!r} is only a number; expected an expression {_EXAMPLE}")
    return found


def _sum(node: ast.expr, net: Names | None) -> Objective | float:
    """An expression of objectives and numbers."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        inner = _sum(node.operand, net)
        return -inner if isinstance(node.op, ast.USub) else inner
    if isinstance(node, ast.BinOp):
        return _combined(node, _sum(node.left, net), _sum(node.right, net))
    if isinstance(node, ast.Call):
        return _called(node, net)
    value = _literal(node)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"{_text(node)} is no objective; expected {', '.join(WRITTEN)} or a number")
    return float(value)


def _combined(node: ast.BinOp, left: Objective | float, right: Objective | float) -> Objective | float:
    """+ and - of two objectives or two numbers, * and / of an objective by a number."""
    if isinstance(node.op, (ast.Add, ast.Sub)) and isinstance(left, Objective) == isinstance(
        right, Objective
    ):
        result: Any = left + right if isinstance(node.op, ast.Add) else left - right  # type: ignore[operator]
        return result
    if isinstance(node.op, ast.Mult) and not (isinstance(left, Objective) and isinstance(right, Objective)):
        return left * right  # type: ignore[operator]
    if isinstance(node.op, ast.Div) and not isinstance(right, Objective):
        if right == 0:
            raise UsageError(f"{_text(node)} divides by zero")
        return left / right
    raise UsageError(
        f"{_text(node)} is no objective: objectives add up (+, -), and are multiplied or divided by numbers only"
    )


def _called(node: ast.Call, net: Names | None) -> Objective:
    from onnxviz import objectives

    name = node.func.id if isinstance(node.func, ast.Name) else _text(node.func)
    if name not in WRITTEN:
        if name in objectives.__all__:
            raise UsageError(
                f"{name} needs an array, which a text cannot hold; use onnxviz.objectives in Python"
            )
        raise UsageError(
            f"no objective is called {name!r}{near(name, WRITTEN)}; there are {', '.join(WRITTEN)}"
        )
    if node.keywords:
        raise UsageError(f"{_text(node)}: arguments are given in order, without names")
    parameters = _takes(WRITTEN[name])
    if parameters[-1].kind is inspect.Parameter.VAR_POSITIONAL:
        parameters += parameters[-1:] * (_MOST_INDICES - 1)
    least = sum(
        one.default is one.empty and one.kind is not inspect.Parameter.VAR_POSITIONAL for one in parameters
    )
    if not least <= len(node.args) <= len(parameters):
        expected = str(least) if least == len(parameters) else f"{least} to {len(parameters)}"
        raise UsageError(f"{name} takes {expected} arguments, got {len(node.args)} in {_text(node)}")
    parameters = parameters[: len(node.args)]
    raw = list(map(_argument, node.args, parameters, [name] * len(parameters)))
    given = [
        _fitting(value, parameter, _text(one), _text(node), net)
        for value, parameter, one in zip(raw, parameters, node.args, strict=True)
    ]
    labelled = name == "logit" and len(raw) == 1 and isinstance(raw[0], str)
    if net is not None and labelled and net.head.kind == BINARY:
        return WRITTEN[name](0) if given[0] == 1 else -WRITTEN[name](0)
    return WRITTEN[name](*given)


def _fitting(value: Any, parameter: inspect.Parameter, written: str, call: str, net: Names | None) -> Any:
    """An argument as the function takes it; layers and labels are looked up.

    written, call   it, and the call that it stands in, as they were typed

    raises   UsageError, UnknownLabel, UnknownLayer
    """
    if _is_layer(parameter):
        if not isinstance(value, str):
            raise UsageError(f"{written} in {call}: a layer's name is expected there")
        return value if net is None else net.layer(value).name
    if parameter.name == "target":
        if isinstance(value, bool) or not isinstance(value, (int, str, type(None))):
            raise UsageError(f"{call}: it takes a class index or label")
        if isinstance(value, str) and net is None:
            raise UsageError(f"{call}: a label can only be looked up in a network; give the class index")
        return net.target(value) if isinstance(value, str) and net is not None else value
    several = parameter.kind is inspect.Parameter.VAR_POSITIONAL
    number = "float" in str(parameter.annotation)
    allowed = (int, slice, type(None)) if several else (int, float) if number else (int,)
    if isinstance(value, bool) or not isinstance(value, allowed):
        expected = "a number" if number else "a whole number"
        raise UsageError(f"{written} in {call} is no index; expected {expected}")
    return value


def _argument(node: ast.expr, parameter: inspect.Parameter, function: str) -> Any:
    """A number, a string, a bare name, None, or slice(...) where any number of indices is taken."""
    if isinstance(node, ast.Call):
        several = parameter.kind is inspect.Parameter.VAR_POSITIONAL
        if not several or not isinstance(node.func, ast.Name) or node.func.id != "slice":
            raise UsageError(f"{_text(node)} cannot stand within {function}; part takes slice(start, stop)")
        ends = [_literal(one) for one in node.args]
        whole = all(one is None or (isinstance(one, int) and not isinstance(one, bool)) for one in ends)
        if node.keywords or not 1 <= len(ends) <= 3 or not whole:
            raise UsageError(f"{_text(node)} is no slice; expected slice(start, stop) of whole numbers")
        return slice(*ends)
    return _literal(node)


def _literal(node: ast.expr) -> Any:
    """The value of a number, string, None, or of a bare name with dots, which stands for itself."""
    if isinstance(node, ast.Constant) and isinstance(node.value, (int, float, str, type(None))):
        if isinstance(node.value, (int, float)) and not abs(node.value) < _LARGEST:
            raise UsageError(f"{_text(node)} is too large a number")
        return node.value
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        value = _literal(node.operand)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return -value
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = _literal(node.value)
        if isinstance(before, str):
            return f"{before}.{node.attr}"
    raise UsageError(
        f"{_text(node)} cannot stand in an objective; expected numbers, names and strings, {_EXAMPLE}"
    )


def _text(node: ast.AST) -> str:
    """What was written, short enough for one line."""
    written = ast.unparse(node)
    return repr(written if len(written) <= 80 else written[:77] + "...")
