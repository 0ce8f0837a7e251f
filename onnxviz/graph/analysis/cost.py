"""What each node costs: the learned numbers that it reads, and its multiply-accumulates.

Parameters are counted once, wherever in the file they come from. Of multiply-accumulates are counted, in every spelling
(fused, quantised, dynamic): convolutions, matrix products, Einsum, recurrent cells (their products at every step) and
attentions (their projections, and the products of queries, keys and values over the whole length). Every other
operator counts 0 (additions, activations, pools, normalisations, gates, bodies of If and Loop), as published counts do.
A bias is no multiplication. Nodes with unknown shapes count 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import FLOATS, QUANTISED, constant
from onnxviz.graph.analysis.probe import Facts
from onnxviz.graph.analysis.twins import View, view
from onnxviz.graph.operators import SPELLINGS, computes, computing, operator, operators

# --- parameters -----------------------------------------------------------------------------------

_FREE = computing("full eye") | {"RandomNormal", "RandomUniform"}
_WITH_INTEGER_BIAS = computing("dequantize") | {"QLinearConv", "QGemm"}
# A single number here is a constant of the formula (the 0.5 of a GELU, an epsilon), not a weight.
_ARITHMETIC = operators(lambda row: row.family in ("arithmetic", "choice", "comparison")) - computing("power")


class Parameters:
    """Weights and their sizes; a weight that several nodes share counts for the first that asks.

    Counted are floating-point and quantised tensors: initialisers, Constant nodes, weights behind
    DequantizeLinear, Transpose, Cast and the like, and those a file of the onnx test data makes by
    ConstantOfShape. Left out, as training frameworks leave them out: scales and zero points, the running
    mean and variance of BatchNormalization, bounds, and single numbers in plain arithmetic.
    """

    def __init__(self, moved: set[ir.Value], facts: Facts) -> None:
        self._moved = moved
        self._facts = facts
        self._counted: set[ir.Value] = set()

    def count(self, weights: Iterable[ir.Value]) -> int:
        """How many numbers these tensors hold, those left out that were counted before."""
        total = 0
        for weight in weights:
            if weight not in self._counted:
                self._counted.add(weight)
                total += self._size(weight)
        return total

    def weights(self, node: ir.Node) -> list[ir.Value]:
        """The tensors that hold what the node reads and that do not depend on the image."""
        found: dict[ir.Value, None] = {}
        todo = list(reversed(self._readable(node)))
        visited: set[ir.Value] = set()
        while todo:
            value = todo.pop()
            if value in self._moved or value in visited:
                continue
            visited.add(value)
            producer = value.producer()
            if producer is None or computes(producer.op_type) == "constant" or producer.op_type in _FREE:
                if self._learned(value):
                    found[value] = None
            else:
                todo.extend(reversed(self._readable(producer)))
        return list(found)

    def _readable(self, node: ir.Node) -> list[ir.Value]:
        twin = view(node)
        steering = operator(twin.op).steering
        inputs = list(twin.inputs)
        spelling = SPELLINGS.get(node.op_type) if node.domain == "com.microsoft" else None
        if spelling is not None and spelling.parameters:
            inputs = [node.inputs[place] for place in spelling.parameters if place < len(node.inputs)]
        values = [v for place, v in enumerate(inputs) if v is not None and place not in steering]
        if twin.op in _ARITHMETIC:
            values = [v for v in values if v in self._moved or self._size(v) != 1]
        return values

    def _learned(self, value: ir.Value) -> bool:
        dtype = value.dtype or self._facts.dtypes.get(value.name or "")
        tensor = constant(value)
        if tensor is not None:
            dtype = tensor.dtype
        elif value.producer() is None:
            return False  # another input of the model
        # In int32 there are biases of quantised convolutions and products.
        of_integers = dtype == ir.DataType.INT32 and any(
            node.op_type in _WITH_INTEGER_BIAS for node in value.consumers()
        )
        return dtype in FLOATS or dtype in QUANTISED or of_integers

    def _size(self, value: ir.Value) -> int:
        tensor = constant(value)
        if tensor is not None:
            return tensor.size
        shape = self._facts.full_shape(value)
        return math.prod(shape) if shape is not None else 0


# --- multiply-accumulates --------------------------------------------------------------------------

Shapes = Sequence[tuple[int, ...]]
_MOST = 6  # inputs that a count reads: further ones (masks, scales, states) may be of unknown shape


def macs(node: ir.Node, facts: Facts) -> int:
    """Multiply-accumulates of one run of the node at the batch of `facts`."""
    twin = view(node)
    count = _COUNTS.get(operator(twin.op).macs) if twin.standard else _MICROSOFT.get(node.op_type)
    if count is None:
        return 0
    inputs = [() if value is None else facts.full_shape(value) for value in twin.inputs[:_MOST]]
    results = [facts.full_shape(value) for value in node.outputs[:1]]
    known = [shape for shape in (*inputs, *results) if shape is not None]
    if len(known) < len(inputs) + 1:
        return 0
    try:
        return count(twin, known[:-1], known[-1])
    except (IndexError, ZeroDivisionError, KeyError, ValueError):  # shapes that do not fit the operator
        return 0


def _matmul(twin: View, inputs: Shapes, result: tuple[int, ...]) -> int:
    turned = twin.attributes.get("transA", 0) and len(inputs[0]) > 1
    return math.prod(result) * inputs[0][-2 if turned else -1]


def _recurrent(twin: View, inputs: Shapes, result: tuple[int, ...]) -> int:
    """The input's and the state's weights, of every gate and direction, once a step and sequence.

    inputs[0] is (steps, batch, width), or (batch, steps, width) in layout 1; weights have a leading axis of directions.
    """
    steps, batch, _ = inputs[0]
    return steps * batch * (math.prod(inputs[1]) + math.prod(inputs[2]))


def _attention(twin: View, inputs: Shapes, result: tuple[int, ...]) -> int:
    """Attention of the standard: queries by keys, and weights by values, over past and present."""
    query, key, value = inputs[:3]
    past = inputs[4][-2] if len(inputs) > 4 and inputs[4] else 0
    if len(query) == 4:  # (batch, heads, length, width)
        batch, heads, length, width = query
        return batch * heads * length * (key[2] + past) * (width + value[3])
    heads = int(twin.attributes["q_num_heads"])
    batch, length, width = query
    wide = heads * value[2] // int(twin.attributes["kv_num_heads"])
    return batch * length * (key[1] + past) * (width + wide)


def _projecting_attention(twin: View, inputs: Shapes, result: tuple[int, ...]) -> int:
    """Attention and QAttention of com.microsoft: one matrix of weights (width, q + k + v), then as `_attention`."""
    batch, length, width = inputs[0]
    sizes = twin.attributes.get("qkv_hidden_sizes") or [inputs[1][1] // 3] * 3
    return batch * length * (width * inputs[1][1] + length * (sizes[0] + sizes[2]))


def _multi_head_attention(twin: View, inputs: Shapes, result: tuple[int, ...]) -> int:
    """MultiHeadAttention of com.microsoft on (batch, length, width) each."""
    (batch, length, width), (_, others, _), (_, _, wide) = inputs[:3]
    return batch * length * others * (width + wide)


def _einsum(twin: View, inputs: Shapes, result: tuple[int, ...]) -> int:
    """Every combination of labels once for each product: n operands are n - 1 products."""
    left = twin.attributes["equation"].replace(" ", "").partition("->")[0]
    terms = left.split(",")
    sizes: dict[str | int, int] = {}
    for term, shape in zip(terms, inputs, strict=True):
        before, dots, after = term.partition("...")
        broadcast = len(shape) - len(before) - len(after)
        labels = (
            [*before, *range(-broadcast, 0), *after] if dots else [*term]
        )  # an ellipsis is counted from its end
        for label, size in zip(labels, shape, strict=True):
            sizes[label] = max(sizes.get(label, 1), size)
    return math.prod(sizes.values()) * (len(terms) - 1)


_COUNTS: dict[str, Callable[[View, Shapes, tuple[int, ...]], int]] = {
    "attention": _attention,
    "einsum": _einsum,
    "gemm": lambda twin, inputs, result: math.prod(result) * inputs[0][not twin.attributes.get("transA", 0)],
    # Each result is a sum over the kernel (weights: out channels, in channels of the group, kernel...).
    "kernel": lambda twin, inputs, result: math.prod(result) * math.prod(inputs[1][1:]),
    "matmul": _matmul,
    "recurrent": _recurrent,
    # Each input is spread over the kernel (weights: in channels, out channels of the group, kernel...).
    "spread": lambda twin, inputs, result: math.prod(inputs[0]) * math.prod(inputs[1][1:]),
}
# Of com.microsoft, those that are another form of no operator of the standard.
_MICROSOFT: dict[str, Callable[[View, Shapes, tuple[int, ...]], int]] = {
    "Attention": _projecting_attention,
    "MultiHeadAttention": _multi_head_attention,
    "QAttention": _projecting_attention,
}
