"""The learned numbers that each node reads: counted once, wherever in the file they come from."""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import FLOATS, QUANTISED, constant
from onnxviz.graph.analysis.probe import Facts
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.operators import SPELLINGS, operator, operators

_FREE = frozenset({"ConstantOfShape", "RandomNormal", "RandomUniform", "EyeLike"})
# A single number here is a constant of the formula (the 0.5 of a GELU, an epsilon), not a weight.
_ARITHMETIC = operators(lambda row: row.family in ("arithmetic", "choice", "comparison")) - {"Pow"}


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
            if producer is None or producer.op_type == "Constant" or producer.op_type in _FREE:
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
        return dtype in FLOATS or dtype in QUANTISED or self._bias_of_integers(value, dtype)

    def _bias_of_integers(self, value: ir.Value, dtype: ir.DataType | None) -> bool:
        """The int32 bias of a quantised convolution or product."""
        return dtype == ir.DataType.INT32 and any(
            node.op_type in ("QLinearConv", "QGemm", "DequantizeLinear") for node in value.consumers()
        )

    def _size(self, value: ir.Value) -> int:
        tensor = constant(value)
        if tensor is not None:
            return tensor.size
        shape = self._facts.full_shape(value)
        return math.prod(shape) if shape is not None else 0
