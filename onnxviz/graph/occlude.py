"""Graph pieces that hide parts of the image inside the graph: sliding windows (occlusion) and soft random masks (RISE).

Each piece is a pure function `ir.Model -> ir.Model` that puts a few nodes in front of the network. The image and its
fill are fed once, (1, ...), and a batch is described by a few numbers an image, so a batch of hidden images never
exists outside the graph:

    image (1, ...), fill (1, ...), windows (B, 4)                 ─▶ occluded batch (B, ...) ─▶ network
    image (1, ...), fill (1, ...), cells (B, G, G), shifts (B, 2) ─▶ masked batch (B, ...)   ─▶ network

Only operators whose meaning has not changed since opset 7 are used (Gather, Sub, Mul, Add, MatMul, HardSigmoid, Reshape,
Floor, Cast), so a model of any opset takes them as it is. Masks are float32 and exact: 0 and 1 for windows, multiples
of 2^-24 for RISE, the same on every provider.

Measured on ONNX Runtime's CPU provider (3×224×224, batch 32): the outer product of two step vectors and then
`image + mask * (fill - image)` with a (B, 1, H, W) mask takes 0.12 ms an image; `Where` takes 0.26, masks flattened to
(B, C*H, W) 0.20, `mask*fill + (1-mask)*image` 0.19. A forward pass of EfficientNet-Lite0 takes 5 ms.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

IMAGE = "onnxviz.image"
FILL = "onnxviz.fill"
WINDOWS = "onnxviz.windows"
CELLS = "onnxviz.cells"
SHIFTS = "onnxviz.shifts"
SCORE = "onnxviz.score"

# Interpolation weights are multiples of 2^-12, so a product of two fits float32's 24 bits: whatever the order of
# additions and whether or not the hardware fuses them, every mask comes out the same to the last bit.
_STEPS = 1 << 12


def occluded(model: ir.Model, *, input: str, layout: str, shape: Sequence[int]) -> ir.Model:  # noqa: A002
    """A copy of `model` whose image input is a batch with one window of the image covered in each entry.

    input    the name of the image input, which the new inputs replace
    layout   'NCHW' or 'NHWC'
    shape    the input tensor's four sizes; the first is not used
    New inputs, all float32: IMAGE and FILL, one tensor each as the network takes it, (1, ...); WINDOWS (B, 4), the top,
    left, bottom and right edge of each window in pixels, bottom and right not included. An empty window
    (0, 0, 0, 0) leaves the image untouched, to the last bit.
    """
    front = _Front(model, input, layout, shape)
    windows = front.input(WINDOWS, ir.DataType.FLOAT, (front.batch, 4))
    top, left, bottom, right = (front.op("Gather", windows, front.constant([k]), axis=1) for k in range(4))
    rows = front.op("Reshape", _between(front, front.rows, top, bottom), front.constant(front.row_shape))
    columns = front.op(
        "Reshape", _between(front, front.columns, left, right), front.constant(front.column_shape)
    )
    return front.finish(front.image, front.fill, front.op("Mul", rows, columns))


def _between(front: _Front, positions: np.ndarray, first: ir.Value, last: ir.Value) -> ir.Value:
    """(B, P): 1 where first <= position < last, else 0; whole numbers, so HardSigmoid is an exact step."""
    places = front.constant(positions.astype(np.float32)[None] + 1)
    reached = front.op("HardSigmoid", front.op("Sub", places, first), alpha=1.0, beta=0.0)
    passed = front.op("HardSigmoid", front.op("Sub", places, last), alpha=1.0, beta=0.0)
    return front.op("Sub", reached, passed)


def masked(model: ir.Model, *, input: str, layout: str, shape: Sequence[int], grid: int) -> ir.Model:  # noqa: A002
    """A copy of `model` whose image input is a batch of softly masked images, as RISE makes them.

    input, layout, shape   as for `occluded`
    grid                   the cells of the coarse grid, along each side
    New inputs: IMAGE and FILL as for `occluded`; CELLS (B, grid, grid) float32, 1 where the image shows; SHIFTS (B, 2)
    int64, the row and column at which the upsampled grid is cut, from 0 to the cell's size - 1 (`hat`).
    A grid of ones leaves the image as it is (exactly so where the fill is 0).
    """
    front = _Front(model, input, layout, shape)
    cells = front.input(CELLS, ir.DataType.FLOAT, (front.batch, grid, grid))
    shifts = front.input(SHIFTS, ir.DataType.INT64, (front.batch, 2))
    weights = []
    for axis, (length, positions) in enumerate(((front.height, front.rows), (front.width, front.columns))):
        shift = front.op("Gather", shifts, front.constant([axis]), axis=1)
        places = front.op("Add", front.constant(positions[None]), shift)
        weights.append(front.op("Gather", front.constant(hat(length, grid)), places, axis=0))
    across = front.op("MatMul", cells, front.op("Transpose", weights[1], perm=[0, 2, 1]))
    mask = front.op("MatMul", weights[0], across)
    if front.mask_shape is not None:
        mask = front.op("Reshape", mask, front.constant(front.mask_shape))
    return front.finish(front.fill, front.image, mask)


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


def reduced(
    model: ir.Model,
    *,
    value: str,
    rank: int,
    channel: int,
    channels_last: bool = False,
    position: tuple[int, int] | None = None,
) -> ir.Model:
    """A copy of `model` whose only output, SCORE (N,), is one number an image: a channel's mean, or one neuron.

    value           the name of the layer's value, which must be an output of `model`
    rank            its number of dimensions: 2 (N, C) or more
    channel         the index along its channels
    channels_last   whether the channels are its last dimension and not its second
    position        (y, x) of a single neuron of a value of rank 4; None: the mean over all positions
    """
    copy = model.clone()
    chosen = next(output for output in copy.graph.outputs if output.name == value)
    tape = _Tape(copy)
    dtype = chosen.dtype
    if channels_last and rank > 2:
        chosen = tape.op("Transpose", chosen, perm=[0, rank - 1, *range(1, rank - 1)])
    picked = tape.op("Gather", chosen, tape.constant([channel]), axis=1)  # (N, 1, ...)
    if position is not None:
        for axis, index in zip((2, 3), position, strict=True):
            picked = tape.op("Gather", picked, tape.constant([index]), axis=axis)
    elif rank > 2:
        picked = tape.op("GlobalAveragePool", picked)
    score = tape.op("Reshape", picked, tape.constant([-1]))
    score.name = SCORE
    score.dtype = dtype
    score.shape = ir.Shape(["N"])
    copy.graph.extend(tape.nodes)
    copy.graph.outputs.clear()
    copy.graph.outputs.append(score)
    return copy


class _Tape:
    """New nodes for a model, with names that no other value of it has."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.nodes: list[ir.Node] = []
        taken = {value.name for node in model.graph.all_nodes() for value in node.outputs}
        taken |= {value.name for value in (*model.graph.inputs, *model.graph.initializers.values())}
        stems = (f"onnxviz.hide{count}." for count in itertools.count())
        self._stem = next(stem for stem in stems if not any(str(name).startswith(stem) for name in taken))

    def _name(self) -> str:
        return f"{self._stem}{len(self.nodes)}.{len(self.model.graph.initializers)}"

    def op(self, kind: str, *inputs: ir.Value, **attributes: int | float | list[int]) -> ir.Value:
        name = self._name()
        output = ir.Value(name=name)
        node = ir.node(kind, list(inputs), attributes or None, outputs=[output], name=name)
        self.nodes.append(node)
        return output

    def constant(self, array: np.ndarray | Sequence[int]) -> ir.Value:
        name = self._name()
        tensor = ir.tensor(np.asarray(array), name=name)
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape), const_value=tensor
        )
        self.model.graph.register_initializer(value)
        return value


class _Front(_Tape):
    """The nodes in front of a network: its image input is replaced by what they compute.

    For NHWC the picture is handled as (1, H, W*C): operators that broadcast run along whole rows, where C numbers at a
    time would take many times as long.
    """

    def __init__(self, model: ir.Model, name: str, layout: str, shape: Sequence[int]) -> None:
        super().__init__(model.clone())
        graph = self.model.graph
        self._old = next(value for value in graph.inputs if value.name == name)
        self.batch = self._old.shape[0] if self._old.shape is not None else ir.SymbolicDim("N")
        self._shape = [1, *(int(size) for size in shape[1:])]
        self._nhwc = layout == "NHWC"
        channels, self.height, self.width = (
            (shape[3], shape[1], shape[2]) if self._nhwc else (shape[1], shape[2], shape[3])
        )
        repeat = channels if self._nhwc else 1
        self.rows = np.arange(self.height)
        self.columns = np.repeat(np.arange(self.width), repeat)
        span = self.width * repeat
        self.row_shape = [-1, self.height, 1] if self._nhwc else [-1, 1, self.height, 1]
        self.column_shape = [-1, 1, span] if self._nhwc else [-1, 1, 1, span]
        self.mask_shape = None if self._nhwc else [-1, 1, self.height, span]
        graph.inputs.remove(self._old)
        self.image = self._picture(IMAGE)
        self.fill = self._picture(FILL)

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | ir.SymbolicDim]) -> ir.Value:
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.model.graph.inputs.append(value)
        return value

    def _picture(self, name: str) -> ir.Value:
        value = self.input(name, ir.DataType.FLOAT, self._shape)
        if not self._nhwc:
            return value
        return self.op("Reshape", value, self.constant([1, self.height, len(self.columns)]))

    def finish(self, under: ir.Value, over: ir.Value, mask: ir.Value) -> ir.Model:
        """The network on `under + mask * (over - under)`, in its own layout and type."""
        batch = self.op("Add", self.op("Mul", mask, self.op("Sub", over, under)), under)
        if self._nhwc:
            batch = self.op("Reshape", batch, self.constant([-1, *self._shape[1:]]))
        dtype = self._old.dtype or ir.DataType.FLOAT
        if not dtype.is_floating_point():
            batch = self.op("Floor", self.op("Add", batch, self.constant(np.float32([0.5]))))
        if dtype != ir.DataType.FLOAT:
            batch = self.op("Cast", batch, to=int(dtype))
        batch.dtype = dtype
        batch.shape = ir.Shape([self.batch, *self._shape[1:]])
        graph = self.model.graph
        ir.convenience.replace_all_uses_with(self._old, batch)
        first = next(iter(graph), None)
        if first is None:
            graph.extend(self.nodes)
        else:
            graph.insert_before(first, self.nodes)
        return self.model
