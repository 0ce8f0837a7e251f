"""From the picture to the network's own input, and the gradient back, at any size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

if TYPE_CHECKING:
    from onnxviz.image.recipe import Preprocessing


def centre(recipe: Preprocessing) -> np.ndarray:
    """The colour that is zero to the network, of 0..1; middle grey where the recipe has no such colour.

    returns   (3,) RGB; (1,) where the network sees grey: there is one plane to be moved then, and no colour
    """
    mean = np.array(recipe.mean[: 1 if recipe.channels == "L" else 3], np.float64)
    if recipe.channels == "BGR":
        mean = mean[::-1]
    if mean.min() < 0.2 or mean.max() > 0.8:
        mean = np.full(len(mean), 0.5)
    return mean.astype(np.float32)


def enter(op: Any, picture: ir.Value, recipe: Preprocessing) -> tuple[ir.Value, Any]:
    """Append the way from pictures, as differences from `centre`, (N, 3, h, w) or (N, 1, h, w), to the network's input.

    returns   the input in the network's layout, float32, and the function from its cotangent to the pictures'
    """
    colour = centre(recipe)
    scale, bias = 255.0 * recipe.scale.astype(np.float64), recipe.bias.astype(np.float64)
    matrix = np.zeros((len(scale), len(colour)))
    offset = bias.copy()
    for row in range(len(scale)):
        if recipe.channels == "RGBA" and row == 3:  # opaque
            offset[row] += scale[row]
            continue
        matrix[row, 2 - row if recipe.channels == "BGR" else row] = scale[row]
        offset[row] += matrix[row] @ colour
    matrix, offset = matrix.astype(np.float32), offset.astype(np.float32)
    same = len(scale) == len(colour) and np.count_nonzero(matrix - np.diag(np.diag(matrix))) == 0
    gains = np.diag(matrix)[:, None, None].copy() if same else None
    value = (
        op.Mul(picture, gains) if same else op.Conv(picture, matrix[:, :, None, None], kernel_shape=[1, 1])
    )
    # An offset that is only rounding (the centre is the recipe's own mean) needs no operator.
    if np.abs(offset).max() > 1e-5:
        value = op.Add(value, offset[:, None, None])
    last = recipe.layout == "NHWC"
    value = op.Transpose(value, perm=[0, 2, 3, 1]) if last else value

    def back(g: ir.Value) -> ir.Value:
        g = op.Transpose(g, perm=[0, 3, 1, 2]) if last else g
        if same:
            return op.Mul(g, gains)
        return op.Conv(g, np.ascontiguousarray(matrix.T)[:, :, None, None], kernel_shape=[1, 1])

    return value, back
