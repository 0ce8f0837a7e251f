"""The values of shape arithmetic: what `Shape -> Gather -> Concat -> Reshape` comes to when the shapes are known.

A deliberately small evaluator. The general folders (`onnxscript.optimizer`, `onnx.reference`) compute
whatever the file asks for, and a hostile file asks for 2^33 elements; nothing here ever holds an array of
more than `LARGEST` elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import constant
from onnxviz.graph.operators import MOVING, REDUCTIONS, SHAPE_ONLY, computes, computing

LARGEST = 4096
Array = np.ndarray
Shape = tuple[int | None, ...]


class Value(NamedTuple):
    """Elements that are known.

    unsure   which of them are not; None where all are
    """

    elements: Array
    unsure: Array | None = None


def fold(graph: ir.Graph, shapes: Mapping[str, Shape]) -> dict[str, Array]:
    """Every small value of the graph that follows from its constants and the given shapes, by name.

    Of a shape that is known in part, the known lengths are followed: `Shape -> Gather` of the channels comes out where
    the batch is open.
    """
    known: dict[str, Value] = {}
    for value in graph.initializers.values():
        _note(known, value)
    for node in graph:
        if node.domain != "" or not node.outputs:
            continue
        if computes(node.op_type) == "constant":
            _note(known, node.outputs[0])
            continue
        names = [None if value is None else value.name or "" for value in node.inputs]
        if node.op_type in SHAPE_ONLY:
            shape = shapes.get(names[0] or "") if names else None
            found = [] if shape is None else [measured(node.op_type, shape, _settings(node))]
        elif node.op_type in _RULES and all(name is None or name in known for name in names):
            inputs = [None if name is None else known[name] for name in names]
            found = compute(node.op_type, inputs, _settings(node), len(node.outputs))
        else:
            continue
        known |= {
            y.name: one for y, one in zip(node.outputs, found, strict=False) if y.name and one is not None
        }
    return {name: value.elements for name, value in known.items() if value.unsure is None}


def small(tensor: ir.TensorProtocol | None) -> Array | None:
    """The tensor as an array where it is small and numeric, else None."""
    if tensor is None or tensor.size > LARGEST or tensor.dtype == ir.DataType.STRING:
        return None
    try:
        return np.asarray(tensor.numpy())
    except (ValueError, TypeError, OSError):  # a tensor that cannot be read is a finding for the loader
        return None


def _note(known: dict[str, Value], value: ir.Value) -> None:
    array = small(constant(value))
    if array is not None and value.name:
        known[value.name] = Value(array)


def _settings(node: ir.Node) -> dict[str, Any]:
    return {
        name: small(each.value) if each.type == ir.AttributeType.TENSOR else each.value
        for name, each in node.attributes.items()
        if not each.is_ref()
    }


def measured(op: str, shape: Shape, attributes: Mapping[str, Any]) -> Value | None:
    """What Shape or Size gives of a value of this shape; None of a size that is not known."""
    if op == "Size":
        return None if None in shape else Value(np.array(np.prod([d or 0 for d in shape], dtype=np.int64)))
    piece = shape[attributes.get("start", 0) : attributes.get("end", len(shape))]
    unsure = np.array([d is None for d in piece]) if None in piece else None
    return Value(np.array([1 if d is None else d for d in piece], dtype=np.int64), unsure)


def compute(
    op: str, inputs: Sequence[Value | None], attributes: Mapping[str, Any], outputs: int = 1
) -> list[Value | None]:
    """What an operator makes of values, one an output; [] where that cannot be told, None for one that is too large.

    inputs       None for one that is left out
    attributes   by name: numbers, text, sequences of these; arrays for tensors, None for one that is not known
    """
    rule = _RULES.get(op)
    left_out = [value is None for value in inputs]
    if rule is None or left_out[:1] == [True] or (any(left_out) and op not in _SOME_LEFT_OUT):
        return []  # an input that its rule needs is not there
    arrays = [None if value is None else value.elements for value in inputs]
    given = dict(attributes, outputs=outputs)
    try:
        with np.errstate(all="ignore"):
            results = rule(arrays, given)
            masks = _masks(op, arrays, [None if value is None else value.unsure for value in inputs], given)
    except (ValueError, LookupError, TypeError, OverflowError, MemoryError, ArithmeticError, AttributeError):
        return []  # not computable: the value stays unknown
    results = results if isinstance(results, list) else [results]
    unsure = [mask if mask.any() else None for mask in masks] if masks is not None else [None] * len(results)
    return [
        Value(result, mask) if result.size <= LARGEST else None
        for result, mask in zip(results, unsure, strict=True)
    ]


def _masks(
    op: str, inputs: list[Array | None], missing: list[Array | None], attributes: dict[str, Any]
) -> list[Array] | None:
    """Which elements of the results are not known; None where all are. ValueError where that cannot be told."""
    if all(mask is None for mask in missing):
        return None
    marks = [
        (np.zeros(() if x is None else x.shape, dtype=bool) if mask is None else mask)
        for x, mask in zip(inputs, missing, strict=True)
    ]
    if computes(op) in {*NUMPY, "divide"}:
        return [np.asarray(np.logical_or.reduce(np.broadcast_arrays(*marks)))]
    if computes(op) in ("cast", "identity"):
        return [marks[0]]
    if computes(op) == "concatenate":
        return [np.concatenate(marks, axis=attributes["axis"])]
    if op not in MOVING or any(mask is not None for mask in missing[1:]):
        raise ValueError(f"{op} of unknown lengths")
    moved = _RULES[op]([marks[0], *inputs[1:]], attributes)
    return moved if isinstance(moved, list) else [moved]


def _bounded(shape: Any) -> tuple[int, ...]:
    sizes = tuple(int(d) for d in np.asarray(shape).reshape(-1))
    total = 1
    for size in sizes:
        total *= size
    if total > LARGEST or any(size < 0 for size in sizes):
        raise ValueError("too large to fold")
    return sizes


def _divide(x: Array, y: Array) -> Array:
    """Integers are divided towards zero, as in C."""
    if np.issubdtype(x.dtype, np.integer):
        if not y.all():
            raise ZeroDivisionError
        quotient = np.abs(x) // np.abs(y)
        return (quotient * np.sign(x) * np.sign(y)).astype(x.dtype)
    return np.asarray(x / y)


def _axes(inputs: list[Any], attributes: dict[str, Any], place: int = 1) -> tuple[int, ...] | None:
    """`axes` was an attribute in old opsets and is an input in new ones."""
    given = inputs[place] if len(inputs) > place and inputs[place] is not None else attributes.get("axes")
    return None if given is None else tuple(int(a) for a in np.asarray(given).reshape(-1))


def _slice(inputs: list[Any], attributes: dict[str, Any]) -> Array:
    x = inputs[0]
    starts = inputs[1] if len(inputs) > 1 else attributes["starts"]
    ends = inputs[2] if len(inputs) > 2 else attributes["ends"]
    axes = _axes(inputs, attributes, 3) or tuple(range(len(starts)))
    steps = inputs[4] if len(inputs) > 4 and inputs[4] is not None else [1] * len(starts)
    index: list[slice] = [slice(None)] * x.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        low, high, by = int(start), int(end), int(step)
        index[axis] = slice(low, None if by < 0 and high < -x.shape[axis] else high, by)
    return np.asarray(x[tuple(index)])


def _range(inputs: list[Any], _: dict[str, Any]) -> Array:
    start, limit, delta = (x.item() for x in inputs)
    _bounded([max(0, int(np.ceil((limit - start) / delta)))])
    return np.arange(start, limit, delta, dtype=inputs[0].dtype)


def _reshape(inputs: list[Any], attributes: dict[str, Any]) -> Array:
    x, shape = inputs
    sizes = [int(d) for d in shape]
    if not attributes.get("allowzero", 0):
        sizes = [x.shape[i] if d == 0 else d for i, d in enumerate(sizes)]
    return np.asarray(x.reshape(sizes))


def _split(inputs: list[Any], attributes: dict[str, Any]) -> list[Array]:
    x, axis = inputs[0], attributes.get("axis", 0)
    sizes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else attributes.get("split")
    if sizes is None:
        each = -(-x.shape[axis] // attributes["outputs"])
        sizes = [each] * attributes["outputs"]  # the last is what is left
    return np.split(x, np.cumsum(np.asarray(sizes))[:-1], axis)


def _filled(inputs: list[Any], attributes: dict[str, Any]) -> Array:
    fill = attributes.get("value", np.zeros(1, np.float32))
    return np.full(_bounded(inputs[0]), fill.reshape(-1)[0], fill.dtype)


def _expand(inputs: list[Any], _: dict[str, Any]) -> Array:
    shape = np.broadcast_shapes(inputs[0].shape, tuple(int(d) for d in inputs[1]))
    _bounded(shape)
    return np.broadcast_to(inputs[0], shape).copy()


def _reducer(function: Callable[..., Any]) -> Callable[[list[Any], dict[str, Any]], Array]:
    def rule(inputs: list[Any], attributes: dict[str, Any]) -> Array:
        keep = bool(attributes.get("keepdims", 1))
        x = inputs[0]
        return np.asarray(function(x, axis=_axes(inputs, attributes), keepdims=keep)).astype(x.dtype)

    return rule


def _gather(inputs: list[Any], attributes: dict[str, Any]) -> Array:
    x, index, axis = inputs[0], inputs[1].astype(np.int64), attributes.get("axis", 0)
    _bounded([index.size, max(1, x.size // max(1, x.shape[axis]))])
    return np.asarray(np.take(x, index, axis=axis))


def _pointwise(function: Callable[..., Any], like: int = -1) -> Callable[[list[Any], dict[str, Any]], Array]:
    """Never widens: the result has the type of input `like`, or is boolean."""

    def rule(inputs: list[Any], _: dict[str, Any]) -> Array:
        _bounded(np.broadcast_shapes(*(x.shape for x in inputs)))
        result = np.asarray(function(*inputs))
        return result if result.dtype == bool else result.astype(inputs[like].dtype)

    return rule


# By the table's words, which are NumPy's.
_COMPUTING: dict[str, Callable[[list[Any], dict[str, Any]], Array | list[Array]]] = {
    "identity": lambda i, a: i[0],
    "cast": lambda i, a: i[0].astype(ir.DataType(a["to"]).numpy()),
    "take": _gather,
    "concatenate": lambda i, a: np.concatenate(i, axis=a["axis"]),
    "expand_dims": lambda i, a: np.expand_dims(i[0], _axes(i, a) or ()),
    "squeeze": lambda i, a: np.asarray(np.squeeze(i[0], _axes(i, a))),
    "slice": _slice,
    "split": _split,
    "reshape": _reshape,
    "flatten": lambda i, a: i[0].reshape(int(np.prod(i[0].shape[: a.get("axis", 1)])), -1),
    "transpose": lambda i, a: np.transpose(i[0], a.get("perm")),
    "arange": _range,
    "full": _filled,
    "broadcast_to": _expand,
    "divide": _pointwise(_divide),
    "mod": lambda i, a: _pointwise(np.fmod if a.get("fmod") else np.mod)(i, a),
    "power": _pointwise(np.power, like=0),
    **{word: _reducer(getattr(np, word)) for word in ("prod", "sum", "max", "min")},
}
_SOME_LEFT_OUT = computing("slice split squeeze") | REDUCTIONS
#: What works place by place.
NUMPY: dict[str, Callable[..., Any]] = {
    word: getattr(np, word)
    for word in (
        "add", "subtract", "multiply", "negative", "absolute", "reciprocal", "sqrt", "floor", "ceil", "round", "where",
        "equal", "less", "less_equal", "greater", "greater_equal", "logical_not", "logical_and", "logical_or",
    )
} | {
    "minimum": lambda *xs: np.minimum.reduce(np.broadcast_arrays(*xs)),
    "maximum": lambda *xs: np.maximum.reduce(np.broadcast_arrays(*xs)),
}  # fmt: skip
_COMPUTING |= {word: _pointwise(function) for word, function in NUMPY.items()}
_RULES = {op: rule for word, rule in _COMPUTING.items() for op in computing(word)}
#: What `compute` knows.
COMPUTED = frozenset(_RULES)
