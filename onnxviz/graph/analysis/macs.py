"""Multiply-accumulates of a node: what convolutions and matrix products cost, the usual measure of work.

Conv (with QLinearConv, ConvInteger and the fused spellings), ConvTranspose, Gemm, MatMul and Einsum are
counted; every other operator counts 0 (additions, activations, pools, normalisations, recurrent cells, bodies of
If and Loop), as published counts do. A bias is no multiplication. Nodes with unknown shapes count 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import onnx_ir as ir

from onnxviz.graph.analysis.probe import Facts
from onnxviz.graph.analysis.twins import View, view

Shapes = Sequence[tuple[int, ...]]


def macs(node: ir.Node, facts: Facts) -> int:
    """Multiply-accumulates of one run of the node at the batch of `facts`."""
    twin = view(node)
    count = _COUNTS.get(twin.op) if twin.standard else None
    result = facts.full_shape(node.outputs[0]) if node.outputs else None
    if count is None or result is None:
        return 0
    inputs = [facts.full_shape(value) for value in twin.inputs if value is not None]
    known = [shape for shape in inputs if shape is not None]
    if len(known) < len(inputs):
        return 0
    try:
        return count(twin, known, result)
    except (IndexError, ZeroDivisionError, KeyError):  # shapes that do not fit the operator
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


def _einsum(twin: View, inputs: Shapes, result: tuple[int, ...]) -> int:
    """Every combination of labels once for each product: n operands are n - 1 products."""
    left = twin.attributes["equation"].replace(" ", "").partition("->")[0]
    terms = left.split(",")
    if len(terms) != len(inputs) or any(
        "." in t or len(t) != len(s) for t, s in zip(terms, inputs, strict=True)
    ):
        return 0
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=True):
        for label, size in zip(term, shape, strict=True):
            sizes[label] = max(sizes.get(label, 1), size)
    return math.prod(sizes.values()) * (len(terms) - 1)


_COUNTS: dict[str, Callable[[View, Shapes, tuple[int, ...]], int]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Einsum": _einsum,
}
