"""Which pixels of the picture a value reads: as one box, for somebody to look at."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Protocol

import numpy as np
import onnx_ir as ir

from onnxviz.graph.analysis import receptive_field
from onnxviz.graph.analysis.kernels import source
from onnxviz.graph.analysis.probe import Facts, Prober
from onnxviz.graph.analysis.receptive_field import Field

#: Top, left, bottom and right, the last two excluded.
Box = tuple[int, int, int, int]


class Activations(Protocol):
    """What is read of `layers.Activations`, which this is below."""

    model: ir.Model
    image: ir.Value
    prober: Prober
    base: Facts
    moved: set[ir.Value]


class Pixels:
    """The pixels of the values of one graph; followed only when somebody asks."""

    def __init__(self, activations: Activations) -> None:
        self._activations = activations
        self.size = activations.base.size

    @cached_property
    def _fields(self) -> dict[str, Field]:
        a = self._activations
        return receptive_field.fields(a.model.graph, a.image, a.prober.layout, a.base)

    def field(self, value: ir.Value) -> Field | None:
        """What its units see; None for a value in a body, or of unknown shape."""
        return self._fields.get(value.name or "")

    def placed(self, value: ir.Value) -> bool:
        """Whether its units tell rows and columns of the picture apart."""
        seen = self.field(value)
        return seen is not None and all(seen.placed)

    def box(self, value: ir.Value) -> Box | None:
        """All the pixels that its units read, inside the picture."""
        seen, shape = self.field(value), self._activations.base.full_shape(value)
        if seen is None or shape is None or self.size is None:
            return None
        ends: list[tuple[int, int]] = []
        for spans, axis, side in zip(seen.full, seen.axes, self.size, strict=True):
            low, high = spans.table(np.arange(1 if axis is None else shape[axis]))
            ends.append((max(0, int(low.min())), min(side, int(high.max()) + 1)))
        return ends[0][0], ends[1][0], ends[0][1], ends[1][1]

    def part(self, value: ir.Value) -> bool:
        """Whether it reads a part of the picture only."""
        box = self.box(value)
        return box is not None and self.size is not None and box != (0, 0, *self.size)

    def narrowed(self, box: Box | None, masks: Iterable[ir.Value]) -> Box | None:
        """A box (None: the picture), narrowed to where the constants that it was multiplied with are not 0."""
        for mask in masks:
            if self.size is not None:
                box = _narrowed(box or (0, 0, *self.size), source(mask), self.size)
        return box


def _narrowed(box: Box, tensor: ir.TensorProtocol | None, size: tuple[int, int]) -> Box:
    """The part of a box where a constant of the picture's size, in NCHW, NHWC or flat, is not 0."""
    height, width = size
    if tensor is None or tensor.size < height * width or tensor.size % (height * width):
        return box
    shape, array = list(tensor.shape.numpy()), np.asarray(tensor.numpy()) != 0
    if shape[-2:] == [height, width]:
        plane = array.reshape(-1, height, width).any(axis=0)
    elif len(shape) > 2 and shape[-3:-1] == [height, width]:
        plane = array.reshape(-1, height, width, shape[-1]).any(axis=(0, 3))
    else:  # rows of a matrix over a flattened picture; its channels come first
        rows = array.reshape(-1, max(shape[-2:])) if shape[-1] == max(shape) else array.any(axis=-1)[None]
        if rows.shape[-1] % (height * width):
            return box
        plane = rows.any(axis=0).reshape(-1, height, width).any(axis=0)
    if not plane.any() or plane.all():
        return box
    (ys,), (xs,) = np.nonzero(plane.any(axis=1)), np.nonzero(plane.any(axis=0))
    return (
        max(box[0], int(ys[0])), max(box[1], int(xs[0])),
        min(box[2], int(ys[-1]) + 1), min(box[3], int(xs[-1]) + 1),
    )  # fmt: skip
