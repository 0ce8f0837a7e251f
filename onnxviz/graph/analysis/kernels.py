"""The constants that weight layers multiply with: which they are, and whether they look learned."""

from __future__ import annotations

import math
from collections.abc import Container
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import constant
from onnxviz.graph.analysis.steps import Step
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.operators import RENAMING, family, operator

# Filters that read pixels and look like no learned layer: so few of them, of so few different numbers, ...
_FEW_FILTERS: Final = 3
_FEW_NUMBERS: Final = 8
_SMALL: Final = 4096  # ... in a kernel of up to so many weights; ternary networks have larger ones
_MOSTLY: Final = 0.9  # ... or with such a share of one and the same number
_LOOKED_AT: Final = 1 << 16
_LARGE: Final = (
    64  # numbers: where an operator's weights have no place of their own, smaller constants are none
)


def kernel(step: Step, moved: Container[ir.Value]) -> ir.Value | None:
    """The weights of a weight layer; None for any other, such as the product of two values of an attention.

    moved    what depends on the picture
    """
    if step.steers or len(step.inputs) == 1:
        return None
    twin, kind = view(step.node), family(step.op)
    places: tuple[int, ...] = operator(step.op).weights
    if kind == "product":
        places = tuple(range(len(twin.inputs) if operator(step.op).macs == "einsum" else 2))
    elif kind in ("attention", "unknown") and step.node.domain != "":
        places = (1,)  # projections, and matrices of few bits
    for place in places:
        value = twin.input(place)
        if value is None or value in moved:
            continue
        tensor = source(value)
        if kind in ("convolution", "product", "recurrent") or (tensor is not None and tensor.size > _LARGE):
            return value
    return None


def fixed(step: Step, value: ir.Value, only: bool) -> bool:
    """Whether the weights of a layer that reads pixels look like none that were learned: a template, a colour matrix.

    only   whether every way from the picture leads through it: then it is the network's own first layer, unless it is
           plainly a fixed filter
    """
    tensor = source(value)
    if tensor is None or tensor.size == 0:
        return False
    filters, window = shape(step, value, tensor)
    sample = tensor.numpy().reshape(-1)[:_LOOKED_AT]
    different, counts = np.unique(sample, return_counts=True)
    few = len(different) <= _FEW_NUMBERS and tensor.size <= _SMALL
    if only:
        return filters <= _FEW_FILTERS + 1 and (few or window == 1)
    return filters <= _FEW_FILTERS or few or bool(counts.max() >= _MOSTLY * len(sample))


def shape(step: Step, value: ir.Value, tensor: ir.TensorProtocol) -> tuple[int, int]:
    """How many numbers a weight layer makes at a place, and how many places its window has (0: all of them)."""
    twin, sizes = view(step.node), list(tensor.shape.numpy())
    if family(step.op) == "convolution":
        spread = operator(step.op).macs == "spread"
        made = sizes[1] * int(twin.attributes.get("group", 1)) if spread and len(sizes) > 1 else sizes[0]
        return made, math.prod(sizes[2:])
    if family(step.op) == "recurrent":
        return int(twin.attributes.get("hidden_size", sizes[-1])), 0
    if operator(step.op).macs == "einsum":
        equation = str(twin.attributes.get("equation", "")).replace(" ", "")
        left, arrow, right = equation.partition("->")
        kept = right if arrow else "".join(one for one in left if left.count(one) == 1)
        own = left.split(",")[twin.inputs.index(value)] if value in twin.inputs else ""
        return math.prod(size for letter, size in zip(own, sizes, strict=False) if letter in kept), 0
    if len(sizes) < 2:
        return 1, 0
    if twin.input(0) is value:
        return sizes[-2], 0
    return sizes[0] if twin.attributes.get("transB", 0) else sizes[-1], 0


def source(value: ir.Value) -> ir.TensorProtocol | None:
    """The constant that a value is made of by its first input alone: behind DequantizeLinear, Transpose and such."""
    for _ in range(8):
        tensor = constant(value)
        if tensor is not None:
            return tensor if tensor.dtype != ir.DataType.STRING else None
        node = value.producer()
        if node is None or not node.inputs or node.inputs[0] is None:
            return None
        if node.op_type not in RENAMING and family(node.op_type) not in ("type", "quantisation", "movement"):
            return None
        value = node.inputs[0]
    return None
