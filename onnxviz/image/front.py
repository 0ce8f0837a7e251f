"""A recipe as operators of the standard: what stands before a network inside a graph.

`prepare` takes pictures of bytes, as an explainer gets them. Pillow's antialiased resizing is `Resize` with `antialias`
and `exclude_outside` on whole pixels: ONNX Runtime computes both in fixed point, across and then down, so that what
differs is the rounding of single pixels by one level. (Pillow 13 goes down first where that is cheaper: only 'stretch'
can meet it.) Everything after it is exact.

`enter` takes pictures of real numbers, as they are made by optimisation; the engine differentiates it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, ways
from onnxviz.image.recipe import LUMA_65536

if TYPE_CHECKING:
    from onnxviz.image.recipe import Recipe

_RESIZE: Final[dict[str, dict[str, Any]]] = {
    "bilinear": {"mode": "linear", "antialias": 1, "exclude_outside": 1},
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5, "antialias": 1, "exclude_outside": 1},
}

#: A number: known when the graph is built, or a vector of one int64 that the graph computes.
Number = int | ir.Value


@dataclass(frozen=True)
class Placement:
    """`recipe.Geometry` of a picture whose size is known only at run time.

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


def prepare(
    op: Any,
    image: ir.Value,
    recipe: Recipe,
    *,
    dtype: ir.DataType,
    size: tuple[int, int] | None,
    fixed: bool,
) -> tuple[ir.Value, Placement | None]:
    """Append the way from pictures, (N, H, W, 3) uint8 RGB, to the network's input.

    dtype    of the network's input; a recipe of codes gives whole numbers whatever their type
    size     (height, width) of the network's input where it is known
    fixed    pictures come at that size: nothing is resized
    returns  the input, and where the view lies in the picture; None where the picture is the view
    raises   ModelUnsuitable for an interpolation that no operator does
    """
    planes = op.Transpose(image, perm=[0, 3, 1, 2])  # (N, 3, H, W)
    placement = None
    if recipe.channels == "L":
        planes = _grey(op, planes)
    if recipe.fixed is not None and not fixed:
        placement = place(op, recipe, op.shape(image, 1, 2), op.shape(image, 2, 3))
        planes = _resize(op, recipe, planes, placement)
        if not placement.padded:
            top, left = placement.top, placement.left
            ends = [
                at + kept if isinstance(at, int) else op.Add(at, kept)
                for at, kept in ((top, recipe.fixed[0]), (left, recipe.fixed[1]))
            ]
            planes = op.Slice(planes, op.vector([top, left]), op.vector(ends), [2, 3])
    if recipe.channels == "BGR":
        planes = op.Gather(planes, [2, 1, 0], axis=1)
    tensor = op.Cast(planes, to=int(ir.DataType.FLOAT))
    if placement is not None and placement.padded:
        tensor = _filled(op, recipe, tensor, placement)
    tensor = _scaled(op, recipe, tensor, dtype, size)
    return tensor, placement


def _grey(op: Any, planes: ir.Value) -> ir.Value:
    """(N, 3, H, W) -> (N, 1, H, W), the very integers of Pillow."""
    wide = op.Cast(planes, to=int(ir.DataType.INT32))
    total = op.ReduceSum(op.Mul(wide, np.array(LUMA_65536, np.int32).reshape(3, 1, 1)), [1], keepdims=1)
    return op.Cast(op.Div(op.Add(total, 1 << 15), 1 << 16), to=int(ir.DataType.UINT8))


def _resize(op: Any, recipe: Recipe, planes: ir.Value, at: Placement) -> ir.Value:
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


def _filled(op: Any, recipe: Recipe, tensor: ir.Value, at: Placement) -> ir.Value:
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
    op: Any, recipe: Recipe, tensor: ir.Value, dtype: ir.DataType, size: tuple[int, int] | None
) -> ir.Value:
    """Alpha, scale and bias, static size, type and layout."""
    if recipe.channels == "RGBA":
        tensor = op.Pad(tensor, [0, 0, 0, 0, 0, 1, 0, 0], 255.0)
    scale, bias = recipe.scale.reshape(-1, 1, 1), recipe.bias.reshape(-1, 1, 1)
    tensor = op.Add(op.Mul(tensor, scale), bias)
    if size is not None:
        tensor = op.Reshape(tensor, [0, len(recipe.scale), *size])  # what follows is planned with known sizes
    if recipe.codes is not None:
        tensor = op.Clip(op.Round(tensor), *map(float, recipe.codes))
    if dtype != ir.DataType.FLOAT:
        tensor = op.Cast(tensor, to=int(dtype))
    return op.Transpose(tensor, perm=[0, 2, 3, 1]) if recipe.layout == "NHWC" else tensor


# --- where the view lies, in int64 operators: `Recipe.geometry` as a graph --------------------


def place(op: Any, recipe: Recipe, rows: ir.Value, columns: ir.Value) -> Placement:
    """The placement of a picture of `rows` × `columns` pixels, each a vector of one int64.

    The recipe has a size. Rounds as `Recipe.geometry` does, with whole numbers wherever it has them.
    """
    assert recipe.fixed is not None
    h, w = recipe.fixed
    if recipe.padded:
        double, int64 = int(ir.DataType.DOUBLE), int(ir.DataType.INT64)
        shares = (op.Div(op.Cast(side, to=double), float(by)) for side, by in ((rows, h), (columns, w)))
        ratio = op.Max(*shares)
        height, width = (
            op.Max(op.Cast(op.Round(op.Div(op.Cast(side, to=double), ratio)), to=int64), 1)
            for side in (rows, columns)
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


# --- pictures of real numbers --------------------------------------------------------------------


def centre(recipe: Recipe) -> np.ndarray:
    """The colour that is zero to the network, of 0..1; middle grey where the recipe has no such colour.

    returns   (3,) RGB; (1,) where the network sees grey: there is one plane to be moved then, and no colour
    """
    mean = np.array(recipe.mean[: 1 if recipe.channels == "L" else 3], np.float64)
    if recipe.channels == "BGR":
        mean = mean[::-1]
    if mean.min() < 0.2 or mean.max() > 0.8:
        mean = np.full(len(mean), 0.5)
    return mean.astype(np.float32)


def enter(op: Any, picture: ir.Value, recipe: Recipe) -> ir.Value:
    """Append the way from pictures, as differences from `centre`, (N, 3, h, w) or (N, 1, h, w), to the network's input,
    float32, in its layout."""
    colour = centre(recipe)
    matrix = 255.0 * recipe.matrix
    if len(colour) == 1:  # grey: all three colours move together
        matrix = matrix.sum(axis=1, keepdims=True)
    offset = recipe.bias + matrix @ colour
    if recipe.channels == "RGBA":  # opaque
        offset[3] += 255.0 * float(recipe.scale[3])
    matrix, offset = matrix.astype(np.float32), offset.astype(np.float32)
    same = matrix.shape[0] == len(colour) and np.count_nonzero(matrix - np.diag(np.diag(matrix))) == 0
    if same:
        value = op.Mul(picture, np.diag(matrix)[:, None, None].copy())
    else:
        value = op.Conv(picture, matrix[:, :, None, None], kernel_shape=[1, 1])
    # An offset that is only rounding (the centre is the recipe's own mean) needs no operator.
    if np.abs(offset).max() > 1e-5:
        value = op.Add(value, offset[:, None, None])
    return op.Transpose(value, perm=[0, 2, 3, 1]) if recipe.layout == "NHWC" else value
