"""Graph pieces that hide parts of the image inside the graph: sliding windows (occlusion), soft random masks (RISE),
a layer's own maps (Score-CAM), places in the order of a map (faithfulness).

Each piece is a pure function `ir.Model -> ir.Model` that puts a few nodes in front of the network. The image and its
fill are fed once, (1, ...), and a batch is described by a few numbers an image, so a batch of hidden images never
exists outside the graph:

    image (1, ...), fill (1, ...), windows (B, 4)                 ─▶ occluded batch (B, ...) ─▶ network
    image (1, ...), fill (1, ...), cells (B, G, G), shifts (B, 2) ─▶ masked batch (B, ...)   ─▶ network
    image (1, ...), cells (B, h, w)                               ─▶ shown batch (B, ...)    ─▶ network
    image (1, ...), fill (1, ...), ranks (K, H, W), steps (B, 2)  ─▶ flipped batch (B, ...)  ─▶ network

A model of any opset takes the nodes as they are (`tape.PORTABLE`). Masks are float32 and exact: 0 and 1 for windows,
multiples of 2^-24 for RISE, the same on every provider.

Measured on ONNX Runtime's CPU provider (3×224×224, batch 32): the outer product of two step vectors and then
`image + mask * (fill - image)` with a (B, 1, H, W) mask takes 0.12 ms an image; `Where` takes 0.26, masks flattened
to (B, C*H, W) 0.20, `mask*fill + (1-mask)*image` 0.19. EfficientNet-Lite0 itself takes 5 ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxviz.graph.naming import dims
from onnxviz.graph.reduce import appended

IMAGE = "onnxviz.image"
FILL = "onnxviz.fill"
WINDOWS = "onnxviz.windows"
CELLS = "onnxviz.cells"
SHIFTS = "onnxviz.shifts"
RANKS = "onnxviz.ranks"
STEPS = "onnxviz.steps"

# Interpolation weights are multiples of 2^-12, so a product of two fits float32's 24 bits: whatever the order of
# additions and whether or not the hardware fuses them, every mask comes out the same to the last bit.
_STEPS = 1 << 12


def occluded(model: ir.Model, *, input: str, layout: str, shape: Sequence[int]) -> ir.Model:
    """A copy of `model` whose image input is a batch with one window of the image covered in each entry.

    input    the name of the image input, which the new inputs replace
    layout   'NCHW' or 'NHWC'
    shape    the input tensor's four sizes; the first is not used
    New inputs, all float32: IMAGE and FILL, one tensor each as the network takes it, (1, ...); WINDOWS (B, 4), the
    top, left, bottom and right edge of each window in pixels, bottom and right not included. An empty window
    (0, 0, 0, 0) leaves the image untouched, to the last bit.
    """
    front = _Front(model, input, layout, shape)
    windows = front.op.input(WINDOWS, ir.DataType.FLOAT, (front.batch, 4))
    top, left, bottom, right = (front.op.Gather(windows, [side], axis=1) for side in range(4))
    rows = front.op.Reshape(_between(front, front.rows, top, bottom), front.row_shape)
    columns = front.op.Reshape(_between(front, front.columns, left, right), front.column_shape)
    return front.finish(front.image, front.fill, front.op.Mul(rows, columns))


def _between(front: _Front, positions: np.ndarray, first: ir.Value, last: ir.Value) -> ir.Value:
    """(B, P): 1 where first <= position < last, else 0; whole numbers, so HardSigmoid is an exact step.

    (Not with a beta of 0, which OpenVINO reads as 0.5: see grad/forms.py.)
    """
    places = positions[None].astype(np.float32) + 1
    reached = front.op.HardSigmoid(front.op.Sub(places, first), alpha=2.0, beta=-1.0)
    passed = front.op.HardSigmoid(front.op.Sub(places, last), alpha=2.0, beta=-1.0)
    between: ir.Value = front.op.Sub(reached, passed)
    return between


def masked(
    model: ir.Model, *, input: str, layout: str, shape: Sequence[int], grid: int, filled: bool = True
) -> ir.Model:
    """A copy of `model` whose image input is a batch of softly masked images, as RISE makes them.

    input, layout, shape   as for `occluded`
    grid                   the cells of the coarse grid, along each side
    filled                 False: there is no FILL, what is hidden is 0 (one pass over the batch less)
    New inputs: IMAGE and FILL as for `occluded`; CELLS (B, grid, grid) float32, 1 where the image shows; SHIFTS
    (B, 2) int64, the row and column at which the upsampled grid is cut, from 0 to the cell's size - 1 (`hat`).
    A grid of ones leaves the image as it is (exactly so where the fill is 0).
    """
    front = _Front(model, input, layout, shape, filled=filled)
    cells = front.op.input(CELLS, ir.DataType.FLOAT, (front.batch, grid, grid))
    shifts = front.op.input(SHIFTS, ir.DataType.INT64, (front.batch, 2))
    weights = []
    for axis, (length, positions) in enumerate(((front.height, front.rows), (front.width, front.columns))):
        places = front.op.Add(front.op.Gather(shifts, [axis], axis=1), positions[None])
        weights.append(front.op.Gather(front.op.const(hat(length, grid)), places, axis=0))
    across = front.op.MatMul(cells, front.op.Transpose(weights[1], perm=[0, 2, 1]))
    return front.finish(front.fill, front.image, front.spread(front.op.MatMul(weights[0], across)))


def shown(
    model: ir.Model, *, input: str, layout: str, shape: Sequence[int], rows: np.ndarray, columns: np.ndarray
) -> ir.Model:
    """A copy of `model` whose image input is a batch of images that show through coarse maps, as Score-CAM's do.

    input, layout, shape   as for `occluded`
    rows, columns          upsampling of a map as two matrices, (H, h) and (W, w)
    New inputs: IMAGE as for `occluded`; CELLS (B, h, w) float32, 1 where the image shows. What is hidden is 0. Cells
    of ones leave the image as it is where the rows of both matrices sum to exactly 1.
    """
    front = _Front(model, input, layout, shape, filled=False)
    cells = front.op.input(CELLS, ir.DataType.FLOAT, (front.batch, rows.shape[1], columns.shape[1]))
    down = rows.astype(np.float32)
    across = np.ascontiguousarray(columns.astype(np.float32)[front.columns].T)
    mask = front.op.MatMul(down, front.op.MatMul(cells, across))
    return front.finish(None, front.image, front.spread(mask))


def flipped(model: ir.Model, *, input: str, layout: str, shape: Sequence[int]) -> ir.Model:
    """A copy of `model` whose image input is a batch of images with their first places, by some order, covered.

    input, layout, shape   as for `occluded`
    New inputs: IMAGE and FILL as for `occluded`; RANKS (K, H, W) float32 (of 'NHWC' (K, H, W*C)), K orders, each the
    rank from 0 of every place; STEPS (B, 2) int64, which order, and how many ranks are covered: 0 leaves the image as
    it is, to the last bit.
    """
    front = _Front(model, input, layout, shape)
    ranks = front.op.input(RANKS, ir.DataType.FLOAT, ("orders", front.height, len(front.columns)))
    steps = front.op.input(STEPS, ir.DataType.INT64, (front.batch, 2))
    which, count = (front.op.Reshape(front.op.Gather(steps, [i], axis=1), [-1]) for i in range(2))
    level = front.op.Reshape(front.op.Cast(count, to=int(ir.DataType.FLOAT)), [-1, 1, 1])
    past = front.op.Sub(level, front.op.Gather(ranks, which, axis=0))
    mask = front.op.HardSigmoid(past, alpha=2.0, beta=-1.0)  # whole numbers: an exact step, see `_between`
    return front.finish(front.image, front.fill, front.spread(mask))


def cell_size(length: int, grid: int) -> int:
    """The pixels of one cell when `grid` cells cover `length` pixels; shifts run from 0 to this - 1."""
    return math.ceil(length / grid)


def hat(length: int, grid: int) -> np.ndarray:
    """Bilinear upsampling as a matrix: ((grid + 1) * cell_size, grid) float32, each row summing to exactly 1.

    Row p holds the weights of the coarse cells at pixel p of the upsampled grid, Relu(1 - |u(p) - cell|), where u(p)
    is the pixel's centre in cells, mirrored at the two ends. It is what the authors of RISE get from
    `skimage.transform.resize(order=1, mode="reflect")`, with u rounded to 1/4096 of a cell.
    """
    pixels = (grid + 1) * cell_size(length, grid)
    centre = (np.arange(pixels) + 0.5) * (grid / pixels) - 0.5
    last = grid - 1
    mirrored = last - np.abs(last - np.abs(centre)) if last else np.zeros_like(centre)
    exact = np.round(mirrored * _STEPS) / _STEPS
    return np.maximum(0, 1 - np.abs(exact[:, None] - np.arange(grid)[None])).astype(np.float32)


class _Front:
    """The nodes in front of a network: its image input is replaced by what they compute.

    For NHWC the picture is handled as (1, H, W*C): operators that broadcast run along whole rows, where C numbers at
    a time would take many times as long.
    """

    def __init__(
        self, model: ir.Model, name: str, layout: str, shape: Sequence[int], *, filled: bool = True
    ) -> None:
        self._copy, self.op, self._old = appended(model, name)
        self.batch = (dims(self._old) or (None,))[0]
        self._shape = [1, *(int(size) for size in shape[1:])]
        self._nhwc = layout == "NHWC"
        if self._nhwc:
            self.height, self.width, repeat = self._shape[1:]
        else:
            self.height, self.width, repeat = *self._shape[2:], 1
        self.rows = np.arange(self.height)
        self.columns = np.repeat(np.arange(self.width), repeat)
        span = len(self.columns)
        self.row_shape = [-1, self.height, 1] if self._nhwc else [-1, 1, self.height, 1]
        self.column_shape = [-1, 1, span] if self._nhwc else [-1, 1, 1, span]
        self.image = self._picture(IMAGE)
        self.fill = self._picture(FILL) if filled else None

    def _picture(self, name: str) -> ir.Value:
        value = self.op.input(name, ir.DataType.FLOAT, self._shape)
        if not self._nhwc:
            return value
        rows: ir.Value = self.op.Reshape(value, [1, self.height, len(self.columns)])
        return rows

    def spread(self, mask: ir.Value) -> ir.Value:
        """Masks (B, H, columns), so that they broadcast against the picture."""
        spread: ir.Value = (
            mask if self._nhwc else self.op.Reshape(mask, [-1, 1, self.height, len(self.columns)])
        )
        return spread

    def finish(self, under: ir.Value | None, over: ir.Value | None, mask: ir.Value) -> ir.Model:
        """The network on `under + mask * (over - under)`, in its own layout and type; None: zero."""
        if under is None:
            batch = self.op.Mul(mask, over)
        else:
            batch = self.op.Add(self.op.Mul(mask, self.op.Sub(over, under)), under)
        if self._nhwc:
            batch = self.op.Reshape(batch, [-1, *self._shape[1:]])
        dtype = self._old.dtype or ir.DataType.FLOAT
        if not dtype.is_floating_point():
            batch = self.op.Floor(self.op.Add(batch, 0.5))
        if dtype != ir.DataType.FLOAT:
            batch = self.op.Cast(batch, to=int(dtype))
        batch.shape = ir.Shape([self.batch, *self._shape[1:]])
        graph = self._copy.graph
        ir.convenience.replace_all_uses_with(self._old, batch, replace_graph_outputs=True)
        graph.inputs.remove(self._old)
        batch.name = self._old.name  # by which it is asked for where it is an output, too
        graph.sort()  # the new nodes were appended behind the network
        return self._copy
