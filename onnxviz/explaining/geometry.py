"""Where the network's view lies in a picture of any size, in int64 operators: `Preprocessing.geometry` as a graph."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

if TYPE_CHECKING:
    from onnxviz.grad.tape import Tape
    from onnxviz.image.preprocess import Preprocessing

#: A number: known when the graph is built, or a vector of one int64 that the graph computes.
Number = int | ir.Value


@dataclass(frozen=True)
class Placement:
    """`image.recipe.Geometry` of a picture whose size is known only at run time.

    rows, columns   of the picture
    height, width   what it is resized to
    top, left       where the view begins in that; padded, how much is filled above and to the left
    padded          which of the two it is
    """

    rows: Number
    columns: Number
    height: Number
    width: Number
    top: Number
    left: Number
    padded: bool = False


def place(op: Tape, recipe: Preprocessing, rows: ir.Value, columns: ir.Value) -> Placement:
    """The placement of a picture of `rows` × `columns` pixels, each a vector of one int64.

    The recipe has a size. Rounds as `Preprocessing.geometry` does, with whole numbers wherever it has them.
    """
    assert recipe.fixed is not None
    h, w = recipe.fixed
    if recipe.padded:
        ratio = op.Max(_divided(op, rows, h), _divided(op, columns, w))
        height, width = (
            op.Max(_whole(op, op.Round(op.Div(_real(op, side), ratio))), 1) for side in (rows, columns)
        )
        top, left = op.Div(op.Sub(h, height), 2), op.Div(op.Sub(w, width), 2)
        return Placement(rows, columns, height, width, top, left, padded=True)
    tall, wide = (math.floor(side / recipe.crop_fraction + 1e-6) for side in (h, w))
    if recipe.resize == "stretch":
        return Placement(rows, columns, tall, wide, round((tall - h) / 2), round((wide - w) / 2))
    by_width, by_height = op.Mul(columns, tall), op.Mul(rows, wide)
    taller = op.GreaterOrEqual(by_width, by_height)  # the side that must grow more decides
    height = op.Where(taller, tall, op.Div(by_height, columns))
    width = op.Where(taller, op.Div(by_width, rows), wide)
    return Placement(rows, columns, height, width, _middle(op, height, h), _middle(op, width, w))


def _middle(op: Any, length: ir.Value, kept: int) -> ir.Value:
    """round((length − kept)/2), halves to even as Python rounds, for length ≥ kept."""
    spare = op.Sub(length, kept)
    half = op.Div(spare, 2)
    return op.Add(half, op.Mul(op.Mod(spare, 2), op.Mod(half, 2)))


def _real(op: Any, value: ir.Value) -> ir.Value:
    return op.Cast(value, to=int(ir.DataType.DOUBLE))


def _whole(op: Any, value: ir.Value) -> ir.Value:
    return op.Cast(value, to=int(ir.DataType.INT64))


def _divided(op: Any, value: ir.Value, by: int) -> ir.Value:
    return op.Div(_real(op, value), float(by))
