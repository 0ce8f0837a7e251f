"""Maps from one grid to another: a layer's to the network's input, the input's to the whole picture."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxviz.explaining.geometry import Number, Placement


def place_back(op: Any, heat: ir.Value, at: Placement, size: tuple[int, int]) -> ir.Value:
    """The heat map over the whole picture, (N, H, W): 0 where the network did not see it."""
    h, w = size
    planes = op.Unsqueeze(heat, [1])
    if at.padded:
        ends = [op.Add(at.top, at.height), op.Add(at.left, at.width)]
        planes = op.Slice(planes, op.vector([at.top, at.left]), op.vector(ends), [2, 3])
    else:
        bottom, right = _less(op, at.height, h, at.top), _less(op, at.width, w, at.left)
        planes = op.Pad(planes, op.vector([0, 0, at.top, at.left, 0, 0, bottom, right]), 0.0)
    sizes = op.Concat(op.Shape(planes, end=2), op.vector([at.rows, at.columns]), axis=0)
    planes = op.Resize(planes, None, None, sizes, mode="linear", antialias=1, exclude_outside=1)
    return op.Squeeze(planes, [1])


def _less(op: Any, whole: Number, kept: int, before: Number) -> Number:
    """whole − kept − before."""
    if isinstance(whole, int) and isinstance(before, int):
        return whole - kept - before
    return op.Sub(op.Sub(whole, kept), before)
