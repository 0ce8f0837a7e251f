"""Which value of B is which value of A: what every other part of a comparison goes by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import onnx_ir as ir

Step = Literal["given", "weights", "values", "name"]


@dataclass(frozen=True)
class Pair:
    """A value of A and the value of B that means the same.

    a, b      names of values in `Matching.a` and `Matching.b`; b is a real value (behind DequantizeLinear)
    layer     how A's file and `Network.layers` call it
    op        the operator that makes it in A
    by        the step that matched it
    sure      0 to 1: cosine of the weights, or correlation of the values
    weak      whether it was accepted below 0.9, since nothing else came into question
    macs      multiply-accumulates of A's operator for one picture
    axes      B's axes in A's order (`transpose(axes)` gives A's layout); None: the same layout
    """

    a: str
    b: str
    layer: str
    op: str
    by: Step
    sure: float
    weak: bool = False
    macs: int = 0
    axes: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Matching:
    """Two files in the form that a comparison works on, and their pairs in A's topological order.

    a, b     the graphs in normal form: QOperator nodes as DequantizeLinear, the float operator, QuantizeLinear;
             functions inlined; Identity, Cast of the same type and Dropout collapsed. Values keep their names
    macs     share of A's multiply-accumulates that are matched (0 to 1)
    values   share of A's values that are matched (0 to 1)
    """

    a: ir.Model
    b: ir.Model
    pairs: tuple[Pair, ...]
    macs: float
    values: float
