"""Objectives written as text, for the command line: `2*logit(285) - logit("tabby")`, `part(boxes, 0, 3)`.

The text is parsed, never run: what it may hold is listed here, and everything else is a typed error.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from onnxviz import objectives
from onnxviz.errors import UsageError, near
from onnxviz.graph.output import BINARY
from onnxviz.objectives import Objective

if TYPE_CHECKING:
    from onnxviz.network import Network

# Those of objectives.py that need no arrays, and how many arguments each takes.
_FUNCTIONS: Final[dict[str, tuple[Callable[..., Objective], int, int]]] = {
    "logit": (objectives.logit, 0, 2),
    "channel": (objectives.channel, 2, 2),
    "neuron": (objectives.neuron, 2, 4),
    "part": (objectives.part, 1, 9),
    "layer": (objectives.layer, 1, 1),
    "tv": (objectives.tv, 0, 2),
    "l2": (objectives.l2, 0, 1),
}
# Where the first argument is a layer's name.
_ON_LAYERS: Final = frozenset({"channel", "neuron", "part", "layer", "tv", "l2"})
_LONGEST: Final = 2000
_LARGEST: Final = 2.0**62
_EXAMPLE: Final = "such as 2*logit(285) - logit('tabby') or part('boxes', 0, 3)"


def parse(text: str, net: Network | None = None) -> Objective:
    """The objective that a text describes.

    text     functions of `onnxviz.objectives` that need no arrays (logit, channel, neuron, part, layer, tv, l2),
             numbers, +, -, *, / and brackets. Layer names and class labels are strings; a name of letters, digits, dots
             and _ needs no quotes. `part` also takes None and slice(start, stop)
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


def _sum(node: ast.expr, net: Network | None) -> Objective | float:
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
        raise UsageError(f"{_text(node)} is no objective; expected {', '.join(_FUNCTIONS)} or a number")
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


def _called(node: ast.Call, net: Network | None) -> Objective:
    name = node.func.id if isinstance(node.func, ast.Name) else _text(node.func)
    if name in ("match", "gram"):
        raise UsageError(f"{name} needs an array, which a text cannot hold; use onnxviz.objectives in Python")
    if name not in _FUNCTIONS:
        raise UsageError(
            f"no objective is called {name!r}{near(name, _FUNCTIONS)}; there are {', '.join(_FUNCTIONS)}"
        )
    function, least, most = _FUNCTIONS[name]
    if node.keywords:
        raise UsageError(f"{_text(node)}: arguments are given in order, without names")
    if not least <= len(node.args) <= most:
        expected = str(least) if least == most else f"{least} to {most}"
        raise UsageError(f"{name} takes {expected} arguments, got {len(node.args)} in {_text(node)}")
    arguments = [_argument(one, name) for one in node.args]
    if name == "logit":
        labelled = bool(arguments) and isinstance(arguments[0], str)
        _check_logit(arguments, node, net)
        if labelled and net is not None and len(arguments) == 1 and net.head.kind == BINARY:
            return objectives.logit(0) if arguments[0] == 1 else -objectives.logit(0)
    elif arguments:
        if not isinstance(arguments[0], str):
            raise UsageError(f"{_text(node)}: the first argument of {name} is a layer's name")
        if net is not None:
            arguments[0] = net.layer(arguments[0]).name
        allowed = (int, slice, type(None)) if name == "part" else (int,)
        for one, given in zip(node.args[1:], arguments[1:], strict=True):
            if isinstance(given, bool) or not isinstance(given, allowed):
                raise UsageError(f"{_text(one)} in {_text(node)} is no index; expected a whole number")
    return function(*arguments)


def _check_logit(arguments: list[Any], node: ast.Call, net: Network | None) -> None:
    """A class index, None or a label, then perhaps a layer; labels and layers are looked up in place."""
    if arguments and (isinstance(arguments[0], bool) or not isinstance(arguments[0], (int, str, type(None)))):
        raise UsageError(f"{_text(node)}: logit takes a class index or label")
    if arguments and isinstance(arguments[0], str):
        if net is None:
            raise UsageError(
                f"{_text(node)}: a label can only be looked up in a network; give the class index"
            )
        arguments[0] = net.target(arguments[0])
    if len(arguments) > 1:
        if not isinstance(arguments[1], str):
            raise UsageError(f"{_text(node)}: the second argument of logit is a layer's name")
        if net is not None:
            arguments[1] = net.layer(arguments[1]).name


def _argument(node: ast.expr, function: str) -> Any:
    """A number, a string, a bare name, None, or slice(...) within `part`."""
    if isinstance(node, ast.Call):
        if function != "part" or not isinstance(node.func, ast.Name) or node.func.id != "slice":
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
