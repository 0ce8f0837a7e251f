"""A `Preprocessing` as operators of the standard: from pictures, (N, H, W, 3) uint8 RGB, to the network's input.

Pillow's antialiased resizing is `Resize` with `antialias` and `exclude_outside` on whole pixels: ONNX Runtime computes
both in fixed point, across and then down, so that what differs is the rounding of single pixels by one level.
(Pillow 13 goes down first where that is cheaper: only 'stretch' can meet it.) Everything after it is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, ways
from onnxviz.explaining.geometry import Number, Placement, place
from onnxviz.grad.tape import Tape

if TYPE_CHECKING:
    from onnxviz.image.preprocess import Preprocessing

_CUBIC = {"mode": "cubic", "cubic_coeff_a": -0.5, "antialias": 1, "exclude_outside": 1}
_RESIZE: Final[dict[str, dict[str, Any]]] = {
    "bilinear": {"mode": "linear", "antialias": 1, "exclude_outside": 1},
    "bicubic": _CUBIC,
}
_LUMA: Final = (19595, 38470, 7471)  # ITU-R 601 as Pillow's convert("L") has it, over 65536


@dataclass(frozen=True)
class Prepared:
    """The operators that turn pictures into a network's input.

    graph       with input `image`, (N, H, W, 3) uint8
    image       that input
    tensor      the network's input
    placement   where the view lies in the picture; None where the picture is the view
    """

    graph: ir.Graph
    image: ir.Value
    tensor: ir.Value
    placement: Placement | None


def prepare(
    recipe: Preprocessing,
    *,
    dtype: ir.DataType,
    batch: int | str,
    opset: int,
    size: tuple[int, int] | None,
    fixed: bool,
) -> Prepared:
    """The recipe as a graph of its own.

    dtype    of the network's input; a recipe of uint8 gives whole numbers whatever their type
    batch    the number of pictures, or the name of that dimension
    size     (height, width) of the network's input where it is known
    fixed    pictures come at that size: nothing is resized
    raises   ModelUnsuitable for an interpolation that no operator does
    """
    rows: int | str = "picture_height"
    columns: int | str = "picture_width"
    if fixed or recipe.fixed is None:
        rows, columns = size or (rows, columns)
    image = ir.Value(
        name="image", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape([batch, rows, columns, 3])
    )
    graph = ir.Graph([image], [], nodes=[], opset_imports={"": opset}, name="preprocessing")
    op = Tape(graph)
    planes = op.Transpose(image, perm=[0, 3, 1, 2])  # (N, 3, H, W)
    placement = None
    if recipe.channels == "L":
        planes = _grey(op, planes)
    if recipe.fixed is not None and not fixed:
        placement = place(op, recipe, op.shape(image, 1, 2), op.shape(image, 2, 3))
        planes = _resize(op, recipe, planes, placement)
        if not placement.padded:
            top, left = placement.top, placement.left
            ends = [_plus(op, top, recipe.fixed[0]), _plus(op, left, recipe.fixed[1])]
            planes = op.Slice(planes, op.vector([top, left]), op.vector(ends), [2, 3])
    if recipe.channels == "BGR":
        planes = op.Gather(planes, [2, 1, 0], axis=1)
    tensor = op.Cast(planes, to=int(ir.DataType.FLOAT))
    if placement is not None and placement.padded:
        tensor = _filled(op, recipe, tensor, placement)
    tensor = _scaled(op, recipe, tensor, dtype, size)
    return Prepared(graph, image, tensor, placement)


def _plus(op: Any, a: Number, b: int) -> Number:
    return a + b if isinstance(a, int) else op.Add(a, b)


def _grey(op: Any, planes: ir.Value) -> ir.Value:
    """(N, 3, H, W) -> (N, 1, H, W), the very integers of Pillow."""
    wide = op.Cast(planes, to=int(ir.DataType.INT32))
    total = op.ReduceSum(op.Mul(wide, np.array(_LUMA, np.int32).reshape(3, 1, 1)), [1], keepdims=1)
    return op.Cast(op.Div(op.Add(total, 1 << 15), 1 << 16), to=int(ir.DataType.UINT8))


def _resize(op: Any, recipe: Preprocessing, planes: ir.Value, at: Placement) -> ir.Value:
    if recipe.interpolation == "nearest":
        planes = op.Gather(planes, _nearest(op, at.rows, at.height), axis=2)
        return op.Gather(planes, _nearest(op, at.columns, at.width), axis=3)
    if recipe.interpolation not in _RESIZE:
        raise ModelUnsuitable(
            f"the preprocessing resizes with {recipe.interpolation!r}, which no ONNX operator does"
            + ways(
                "make the explainer for pictures that are already resized: --fixed",
                "choose another interpolation in a file for --preprocess: bilinear, bicubic, nearest",
            )
        )
    # All four sizes, not `axes` and two: ONNX Runtime moves the Transpose behind the Resize and then miscounts.
    sizes = op.Concat(op.shape(planes, 0, 2), op.vector([at.height, at.width]), axis=0)
    return op.Resize(planes, None, None, sizes, **_RESIZE[recipe.interpolation])


def _nearest(op: Any, given: Number, wanted: Number) -> ir.Value:
    """Which rows (or columns) Pillow takes: a sum of steps of given/wanted, rounded down."""
    step, count = (op.Cast(op.vector([side]), to=int(ir.DataType.DOUBLE)) for side in (given, wanted))
    step = op.Div(step, count)
    more = op.Expand(step, op.Sub(op.vector([wanted]), 1))
    at = op.CumSum(op.Concat(op.Mul(step, 0.5), more, axis=0), np.array(0, np.int64))
    return op.Cast(at, to=int(ir.DataType.INT64))


def _filled(op: Any, recipe: Preprocessing, tensor: ir.Value, at: Placement) -> ir.Value:
    """The picture in the middle, the recipe's colour around it."""
    assert recipe.fixed is not None
    colour = recipe.filling.astype(np.float32)
    mean = colour[: 1 if recipe.channels == "L" else 3].reshape(-1, 1, 1)
    top, left = at.top, at.left
    bottom = op.Sub(op.Sub(recipe.fixed[0], at.height), top)
    right = op.Sub(op.Sub(recipe.fixed[1], at.width), left)
    pads = op.vector([0, 0, top, left, 0, 0, bottom, right])
    return op.Add(op.Pad(op.Sub(tensor, mean), pads, 0.0), mean)  # whole numbers: exact


def _scaled(
    op: Any, recipe: Preprocessing, tensor: ir.Value, dtype: ir.DataType, size: tuple[int, int] | None
) -> ir.Value:
    """Alpha, scale and bias, static size, type and layout."""
    if recipe.channels == "RGBA":
        tensor = op.Pad(tensor, [0, 0, 0, 0, 0, 1, 0, 0], 255.0)
    scale, bias = recipe.scale.reshape(-1, 1, 1), recipe.bias.reshape(-1, 1, 1)
    tensor = op.Add(op.Mul(tensor, scale), bias)
    if size is not None:
        tensor = op.Reshape(tensor, [0, len(recipe.scale), *size])  # what follows is planned with known sizes
    if recipe.dtype == "uint8":
        tensor = op.Clip(op.Round(tensor), 0.0, 255.0)
    if dtype != ir.DataType.FLOAT:
        tensor = op.Cast(tensor, to=int(dtype))
    return op.Transpose(tensor, perm=[0, 2, 3, 1]) if recipe.layout == "NHWC" else tensor
