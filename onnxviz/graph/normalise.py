"""Bring any model into the form that gradients are taken in.

Ensures, on a copy that shares the weights: opset 18 or later; no functions, of the model or of the standard
(Attention); no fused operators of com.microsoft; rectifiers are Relu or Clip; constants are initialisers; operands
that are one number have rank 0; an If with a constant condition replaced by its branch; no Dropout; BatchNormalization
folded into the convolution before it; explicit pads, and lengths that every reader counts alike; half precision
computed in float32; QOperator forms as QuantizeLinear/DequantizeLinear; shapes inferred as far as they go. Graph inputs
and outputs keep their names, shapes and types, and the outputs their values. Whatever intermediate value somebody wants
must be a graph output before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxviz.graph import float32, fold, fused, lift, padding
from onnxviz.graph.analysis.dataflow import clone, inline, prune
from onnxviz.graph.analysis.dataflow import rank as rank_of
from onnxviz.graph.naming import name_nodes
from onnxviz.graph.operators import CASTS, RENAMING, computes, computing, operator
from onnxviz.graph.shapes import infer
from onnxviz.graph.tape import Tape, number

_FLOATS = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE})
# Larger constants are weights, not a number written out for every place.
_LARGEST = 1 << 16
# Exporters write "no upper end" as the largest number there is.
_OPEN = 3e38
# Comparison -> whether it is true where its first operand is the larger; equality is the kink and makes no difference.
_LARGER: dict[str | None, bool] = {"greater": True, "greater_equal": True, "less": False, "less_equal": False}
# What hands its first operand's numbers on, in another type or shape.
_HANDS_ON = RENAMING | CASTS | computing("broadcast_to")


def normalise(model: ir.Model) -> ir.Model:
    """The model in normal form (see above); the given one is left as it is.

    raises   ModelUnsuitable for an opset under 7, or a form that cannot be lifted; ModelRejected for a broken graph
    """
    model = clone(model)
    declared = {value.name: (value.type, value.shape) for value in model.graph.outputs}
    inline(model)
    standard(model)
    while fold.lengths(model):
        fold.branches(model)
        infer(model)
    rectifiers(model)
    float32.widen(model)
    fold.batch_norms(model)
    padding.explicit(model)
    padding.exact(model)
    prune(model)
    infer(model)
    for value in model.graph.outputs:
        kind, shape = declared[value.name]
        if value.type is None:
            value.type = kind
        if value.shape is None:
            value.shape = shape
    return model


def standard(model: ir.Model, *, whole: bool = True) -> None:
    """Write every operator as the standard of opset 18 or later does, in place; functions must be inlined.

    whole    also those that the standard defines by others, and whatever follows from constants
    """
    common.RemoveInitializersFromInputsPass()(model)
    name_nodes(model.graph)
    fold.constants(model)
    infer(model)
    fused.split(model)
    scalars(model)
    lift.lift(model)
    if whole:
        lift.expand(model)
    fold.branches(model)
    fold.constants(model)
    if whole:
        fold.shapes(model)
    fold.dropout(model)
    fused.as_qdq(model)
    # Before IR version 4 every initialiser had to be a graph input too; opset 18 came with 8, opset 21 with 10.
    model.ir_version = max(model.ir_version, 10 if model.opset_imports[""] >= 21 else 8)
    infer(model)


# --- one spelling: numbers of rank 0, rectifiers as Relu or Clip ----------------------------------
#
# Files write max(x, 0) as Max, Where, a product with a mask, LeakyRelu or PRelu without a slope, half of x
# + |x|; and ReLU6 as any of these with a Min, in either order.


def scalars(model: ir.Model) -> None:
    """Give every operand that is one number the rank 0, in place; requires constants as initialisers."""
    tape = Tape(model.graph)
    for node in list(model.graph.all_nodes()):
        if node.domain:
            continue
        for place in (*operator(node.op_type).numbers, *_one_step(node)):
            value = node.inputs[place] if place < len(node.inputs) else None
            if value is None or rank_of(value) in (0, None):
                continue
            tensor = value.const_value
            if tensor is None or value.is_graph_input():
                scalar = tape.before(node).Reshape(value, tape.const([]))
            elif tensor.size != 1:
                continue
            else:
                scalar = tape.const(tensor.numpy().reshape(()), tensor.dtype.numpy())
            node.replace_input_with(place, scalar)


def _one_step(node: ir.Node) -> tuple[int, ...]:
    """Scale and zero point of a whole tensor that have axes of their own. ONNX Runtime looks along the tensor's axes
    for theirs, and fails unless it has left the node out."""
    if computes(node.op_type) not in ("dequantize", "quantize") or node.attributes.get_int("block_size"):
        return ()
    steps = node.inputs[1:3]
    one = all(
        value is None or (value.const_value is not None and value.const_value.size == 1) for value in steps
    )
    wide = any((rank_of(value) or 0) > 1 for value in steps if value is not None)
    return (1, 2)[: len(steps)] if one and wide else ()


class Held(NamedTuple):
    """x, held from below by `low` and from above by `high`."""

    x: ir.Value
    low: float = -math.inf
    high: float = math.inf


def rectifiers(model: ir.Model) -> None:
    """Rewrite every other spelling in the main graph and the graphs within, in place; opset 11 or later."""
    tape = Tape(model.graph)
    for node in list(model.graph.all_nodes()):
        if node.domain or computes(node.op_type) not in _SPELLINGS:
            continue
        found = held(node)
        if found is None or found.low != 0.0 or not found.high > 0.0 or _is_canonical(node, found):
            continue
        if found.high == math.inf:
            tape.become(node).Relu(found.x)
        else:
            kind = found.x.dtype or node.outputs[0].dtype or ir.DataType.FLOAT
            ends = [tape.const(end, kind.numpy()) for end in (0.0, found.high)]
            tape.become(node).Clip(found.x, *ends)


def _is_canonical(node: ir.Node, found: Held) -> bool:
    if computes(node.op_type) == "relu":
        return found.high == math.inf
    return computes(node.op_type) == "clip" and node.inputs[0] is found.x and found.high < math.inf


def held(node: ir.Node) -> Held | None:
    """What the node holds between which ends, together with the node in front of it; None where it does no such thing.

    A value that is given out is not skipped: somebody may want the gradient by it. Its ends are known all the same.
    """
    outer = _one(node)
    if outer is None:
        return None
    inner = _one(outer.x.producer())
    if inner is None or inner.low > outer.high or outer.low > inner.high:  # the order of the two would matter
        return outer
    x = outer.x if outer.x.is_graph_output() else inner.x
    return Held(x, max(outer.low, inner.low), min(outer.high, inner.high))


def _one(node: ir.Node | None) -> Held | None:
    """As `held`, of the node alone."""
    if node is None or node.domain or computes(node.op_type) not in _SPELLINGS:
        return None
    y, found = node.outputs[0], None
    if y.dtype in _FLOATS:
        found = _SPELLINGS[computes(node.op_type)](node)
    if found is None or found.x.dtype not in _FLOATS:
        return None
    if found.x.shape is not None and y.shape is not None and len(found.x.shape) != len(y.shape):
        return None  # the constant made the tensor larger
    return found


def _maker(value: ir.Value | None, words: str = "") -> ir.Node | None:
    """The node of the standard that makes the value, if it computes one of these (none given: whatever it is)."""
    node = None if value is None else value.producer()
    if node is None or node.domain:
        return None
    return node if not words or computes(node.op_type) in words.split() else None


def _relu(node: ir.Node) -> Held | None:
    x = node.inputs[0]
    return None if x is None else Held(x, low=0.0)


def _clip(node: ir.Node) -> Held | None:
    x, ends = node.inputs[0], (*node.inputs[1:], None, None)
    numbers = [number(end) for end in ends[:2]]
    if x is None or any(n is None and end is not None for n, end in zip(numbers, ends, strict=False)):
        return None
    low, high = numbers
    return Held(x, -math.inf if low is None else low, math.inf if high is None or high > _OPEN else high)


def _flat(alpha: float) -> Callable[[ir.Node], Held | None]:
    """A rectifier where its slope, scale or threshold, this much by default, is 0."""
    return lambda node: _relu(node) if node.attributes.get_float("alpha", alpha) == 0.0 else None


def _prelu(node: ir.Node) -> Held | None:
    slope = node.inputs[1].const_value if node.inputs[1] is not None else None
    return _relu(node) if slope is not None and not slope.numpy().any() else None


def _mirrored(node: ir.Node) -> Held | None:
    """-Min(-x, 0) and its like."""
    held_back = _maker(node.inputs[0])
    found = None if held_back is None or computes(held_back.op_type) == "negative" else _one(held_back)
    mirror = None if found is None else _maker(found.x, "negative")
    x = None if mirror is None else mirror.inputs[0]
    if found is None or x is None or found.high != 0.0:  # -Relu(-x) holds a rectifier already, of -x
        return None
    return Held(x, 0.0, -found.low)


def _extreme(end: str) -> Callable[[ir.Node], Held | None]:
    """The larger or the smaller of a value and a number, in either order; `end` is where that holds the value."""

    def spelled(node: ir.Node) -> Held | None:
        for x, other in (node.inputs, node.inputs[::-1]) if len(node.inputs) == 2 else ():
            value = _uniform(other, x)
            if value is not None and x is not None and _uniform(x, None) is None:
                return Held(x, low=value) if end == "low" else Held(x, high=value)
        return None

    return spelled


def _where(node: ir.Node) -> Held | None:
    """Where(x > c, x, c) and its like: the larger or the smaller of the two."""
    sides = _compared(node.inputs[0])
    if sides is None:
        return None
    x, level, true_above = sides
    above, below = node.inputs[1:3] if true_above else (node.inputs[2], node.inputs[1])
    if _uniform(below, x) == level:
        inner = _itself(above, x)
        return None if inner is None or inner.low > -math.inf else Held(x, level, inner.high)
    if _uniform(above, x) == level:
        inner = _itself(below, x)
        return None if inner is None or inner.high < math.inf else Held(x, inner.low, level)
    return None


def _itself(value: ir.Value | None, x: ir.Value) -> Held | None:
    """x, or x held by a node of its own (a Where within a Where)."""
    if value is x:
        return Held(x)
    found = None if value is None else _one(value.producer())
    return found if found is not None and found.x is x else None


def _product(node: ir.Node) -> Held | None:
    """x times a mask that is 1 where x is over 0; or (x + |x|) times a half."""
    for x, other in (node.inputs, node.inputs[::-1]):
        if x is None or other is None:
            continue
        if _uniform(other, x) == 0.5:
            return _with_magnitude(x)
        if _steps_at(other, x):
            return Held(x, low=0.0)
    return None


def _quotient(node: ir.Node) -> Held | None:
    """(x + |x|) / 2."""
    return _with_magnitude(node.inputs[0]) if _uniform(node.inputs[1], node.inputs[0]) == 2.0 else None


def _with_magnitude(total: ir.Value | None) -> Held | None:
    source = _maker(total, "add")
    for x, other in () if source is None else (source.inputs, source.inputs[::-1]):
        size = _maker(other, "absolute")
        if x is not None and size is not None and size.inputs[0] is x:
            return Held(x, low=0.0)
    return None


def _steps_at(mask: ir.Value, x: ir.Value) -> bool:
    """Whether the mask is 1 where x is over 0, otherwise 0: a comparison as numbers."""
    source = _maker(mask)
    if source is None:
        return False
    if source.op_type in CASTS:
        sides, true_is_one = _compared(source.inputs[0]), True
    elif computes(source.op_type) == "where":
        sides = _compared(source.inputs[0])
        ends = tuple(_uniform(end, None) for end in source.inputs[1:3])
        if ends not in ((1.0, 0.0), (0.0, 1.0)):
            return False
        true_is_one = ends == (1.0, 0.0)
    else:
        return False
    return sides is not None and sides[0] is x and sides[1] == 0.0 and sides[2] == true_is_one


def _compared(condition: ir.Value | None) -> tuple[ir.Value, float, bool] | None:
    """(x, level, whether the condition holds where x is over the level) of a comparison, however it is written."""
    source = _maker(condition, "logical_not greater greater_equal less less_equal")
    if source is None:
        return None
    if computes(source.op_type) == "logical_not":
        inner = _compared(source.inputs[0])
        return None if inner is None else (inner[0], inner[1], not inner[2])
    a, b = source.inputs
    for x, other, first in ((a, b, True), (b, a, False)):
        level = _uniform(other, x)
        if level is not None and x is not None:
            return x, level, _LARGER[computes(source.op_type)] == first
    return None


def _uniform(value: ir.Value | None, beside: ir.Value | None) -> float | None:
    """The number that all elements of a constant have, if it does not make `beside` larger; None for anything else.

    A tensor of the shape that another one has at run time (zeros_like) counts as well.
    """
    for _ in range(8):
        if value is None:
            return None
        constant = value.const_value
        if constant is not None and not value.is_graph_input():
            rank = None if beside is None or beside.shape is None else len(beside.shape)
            if not 0 < constant.size <= _LARGEST or (
                constant.size > 1 and beside is not None and not _fits(constant, beside)
            ):
                return None
            if rank is not None and len(constant.shape) > max(rank, 1):
                return None
            array = constant.numpy().reshape(-1)
            return float(array[0]) if (array == array[0]).all() else None
        source = _maker(value)
        if source is None:
            return None
        if computes(source.op_type) == "subtract" and source.inputs[0] is source.inputs[1]:
            return 0.0
        if computes(source.op_type) == "multiply" and any(number(factor) == 0.0 for factor in source.inputs):
            return 0.0
        if computes(source.op_type) == "full":
            fill = source.attributes.get("value")
            return 0.0 if fill is None else float(np.reshape(fill.as_tensor().numpy(), -1)[0])
        if source.op_type not in _HANDS_ON:
            return None
        value = source.inputs[0]
    return None


def _fits(constant: ir.TensorProtocol, beside: ir.Value) -> bool:
    """Whether each side of the constant is 1 or as long as the value's."""
    if beside.shape is None or len(constant.shape) > len(beside.shape):
        return False
    sides = list(beside.shape)[len(beside.shape) - len(constant.shape) :]
    return all(c in (1, b) for c, b in zip(constant.shape, sides, strict=True))


_SPELLINGS: dict[str | None, Callable[[ir.Node], Held | None]] = {
    "clip": _clip,
    "divide": _quotient,
    "elu": _flat(1.0),
    "leaky_relu": _flat(0.01),
    "maximum": _extreme("low"),
    "minimum": _extreme("high"),
    "multiply": _product,
    "negative": _mirrored,
    "prelu": _prelu,
    "relu": _relu,
    "thresholded_relu": _flat(1.0),
    "where": _where,
}
