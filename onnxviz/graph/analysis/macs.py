"""Multiply-accumulates of a node: what convolutions and matrix products cost, the usual measure of work.

Convolutions, matrix products, Einsum, recurrent cells (their matrix products at every step) and attentions (their
projections, and the products of queries, keys and values over the whole length) are counted, in every spelling: fused,
quantised, dynamic. Every other operator counts 0 (additions, activations, pools, normalisations, gates, bodies of If
and Loop), as published counts do. A bias is no multiplication. Nodes with unknown shapes count 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxviz.graph.analysis.probe import Facts
from onnxviz.graph.analysis.twins import View, view
from onnxviz.graph.operators import operator

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


def _conv(twin: View, inputs: Shapes, result: tuple[int, ...]) -> int:
    # Each result is a sum over the kernel (weights: out channels, in channels of the group, kernel...).
    return math.prod(result) * math.prod(inputs[1][1:])


def _conv_transpose(twin: View, inputs: Shapes, result: tuple[int, ...]) -> int:
    # Each input is spread over the kernel (weights: in channels, out channels of the group, kernel...).
    return math.prod(inputs[0]) * math.prod(inputs[1][1:])


def _gemm(twin: View, inputs: Shapes, result: tuple[int, ...]) -> int:
    return math.prod(result) * inputs[0][0 if twin.attributes.get("transA", 0) else 1]


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
    "gemm": _gemm,
    "kernel": _conv,
    "matmul": _matmul,
    "recurrent": _recurrent,
    "spread": _conv_transpose,
}
# Of com.microsoft, those that are another form of no operator of the standard.
_MICROSOFT: dict[str, Callable[[View, Shapes, tuple[int, ...]], int]] = {
    "Attention": _projecting_attention,
    "MultiHeadAttention": _multi_head_attention,
    "QAttention": _projecting_attention,
}
