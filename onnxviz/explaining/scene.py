"""What a technique in an explainer can ask for: a layer, and gradients of the score by that layer or the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.grad.model import differentiate
from onnxviz.grad.overrides import PLAIN
from onnxviz.grad.table import Table
from onnxviz.grad.tape import Tape


@dataclass(frozen=True)
class Scene:
    """A normalised network with a score on its tape.

    op       appends operators
    x        the network's input
    layout   of the input: NCHW or NHWC
    score    what is explained, (N,)
    maps     the layer that a class activation map is made from, (N, C, h, w) or (N, h, w, C)
    last     whether that layer has its channels last
    size     (height, width) of the input, None where pictures keep their own
    """

    op: Tape
    x: ir.Value
    layout: str
    score: ir.Value
    maps: ir.Value | None
    last: bool
    size: tuple[int, int] | None

    def gradient(self, rules: Table = PLAIN) -> ir.Value:
        """Of the score by the input: (N, C, H, W) float32."""
        return self._planes(self._by(self.x, rules), self.layout == "NHWC")

    def input(self) -> ir.Value:
        """The network's input as (N, C, H, W) float32."""
        return self._planes(self.x, self.layout == "NHWC")

    def layer(self) -> tuple[ir.Value, ir.Value]:
        """The layer and the gradient of the score by it, both (N, C, h, w) float32."""
        assert self.maps is not None
        return self.activation(), self._planes(self._by(self.maps, PLAIN), self.last)

    def activation(self) -> ir.Value:
        """The layer, (N, C, h, w) float32."""
        assert self.maps is not None
        return self._planes(self.maps, self.last)

    def extent(self) -> ir.Value:
        """(height, width) of the input, a vector of two int64."""
        if self.size is not None:
            return self.op.const(np.array(self.size, np.int64))
        start = 1 if self.layout == "NHWC" else 2
        return self.op.shape(self.x, start, start + 2)

    def _by(self, source: ir.Value, rules: Table) -> ir.Value:
        op = self.op
        with op.named("score"):
            ones = op.Expand(op.cast_like(1.0, self.score), op.Shape(self.score))
        (found,) = differentiate(op, {self.score: ones}, [source], rules)
        return found

    def _planes(self, value: ir.Value, last: bool) -> ir.Value:
        op: Any = self.op
        if value.dtype != ir.DataType.FLOAT:
            value = op.Cast(value, to=int(ir.DataType.FLOAT))
        return op.Transpose(value, perm=[0, 3, 1, 2]) if last else value
