"""Objectives that say how a picture or its activations should look: like given ones, smooth, small, diverse."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, UsageError
from onnxviz.objectives.base import Objective, fed, mean, named, objective


@named
def match(layer: str, target: np.ndarray | None = None) -> Objective:
    """Minus half the mean squared distance of a layer to given activations (feature inversion, embeddings).

    target   the activations, of the layer's shape with a batch of 1 or N, or without batch; None: a graph
             input `<layer>.target` of the layer's shape
    """

    def build(op: Any, value: ir.Value) -> ir.Value:
        if target is None:
            wanted: Any = fed(op, f"{layer}.target", ir.DataType.FLOAT, value.shape)
        else:
            wanted = np.asarray(target, dtype=np.float32)
            if value.shape is not None and wanted.ndim == len(value.shape) - 1:
                wanted = wanted[None]
        gap = op.Sub(value, wanted)
        return op.Mul(mean(op, op.Mul(gap, gap)), -0.5)

    return objective(f"match({layer})", layer, build)


@named
def gram(layer: str, target: np.ndarray | None = None) -> Objective:
    """Minus the mean squared distance of a layer's Gram matrix to a given one (Gatys, Ecker & Bethge 2015).

    The Gram matrix is (C, C), the channels' inner products over the map, divided by C·H·W (`gram_matrix`).

    target   (C, C) float; None: a graph input `<layer>.gram`
    """

    def build(op: Any, value: ir.Value) -> ir.Value:
        wanted = target if target is not None else fed(op, f"{layer}.gram", ir.DataType.FLOAT, ["C", "C"])
        wanted = np.asarray(wanted, dtype=np.float32) if isinstance(wanted, np.ndarray) else wanted
        gap = op.Sub(gram_matrix(op, value), wanted)
        return op.Neg(mean(op, op.Mul(gap, gap)))

    return objective(f"gram({layer})", layer, build)


def gram_matrix(op: Any, value: ir.Value) -> ir.Value:
    """(N, C, H, W) -> (N, C, C), divided by C·H·W."""
    rows = op.Reshape(value, [0, 0, -1])  # (N, C, HW)
    size = op.Cast(op.ReduceProd(op.shape(value, 1), keepdims=0), to=int(ir.DataType.FLOAT))
    return op.Div(op.MatMul(rows, op.Transpose(rows, perm=[0, 2, 1])), size)


@named
def tv(layer: str | None = None, beta: float = 2.0) -> Objective:
    """Total variation (subtract it to smooth): ((x[i,j+1] − x[i,j])² + (x[i+1,j] − x[i,j])²)^(beta/2), averaged over
    the places that have both neighbours: all but the last row and the last column.

    Mahendran & Vedaldi 2015, arXiv:1412.0035, section 3 (CS231n's R_Vβ), averaged where they sum, so that a weight does
    for any size.

    layer    (N, C, H, W), H and W 2 or more; None: the input
    beta     2: the squared differences; below 2 edges cost less against speckles, above 2 more
    raises   UsageError; ModelUnsuitable when building, for a layer of another rank, or of one row or column
    """
    if not 0.5 <= beta <= 8:
        raise UsageError(f"the exponent beta of total variation is {beta:g}: expected 0.5 to 8")
    name = layer or "input"

    def build(op: Any, value: ir.Value) -> ir.Value:
        shape = value.shape
        if shape is not None and (len(shape) != 4 or any(isinstance(n, int) and n < 2 for n in shape[2:])):
            raise ModelUnsuitable(
                f"total variation of {name!r}, which has shape {shape}: expected maps (N, C, H, W) of at least two "
                "rows and two columns"
            )
        here = op.Slice(value, [0, 0], [-1, -1], [2, 3])
        below = op.Sub(op.Slice(value, [1, 0], [2**62, -1], [2, 3]), here)
        right = op.Sub(op.Slice(value, [0, 1], [-1, 2**62], [2, 3]), here)
        squares = op.Add(op.Mul(below, below), op.Mul(right, right))
        return mean(op, squares if beta == 2 else op.Pow(op.Add(squares, _SMALL), beta / 2))

    return objective(f"tv({name})" if beta == 2.0 else f"tv({name}, {beta:g})", layer, build)


# Under a root, so that its slope stays finite where pixels are equal; far below what a picture of 256 levels shows.
_SMALL = 1e-8


@named
def l2(layer: str | None = None) -> Objective:
    """The mean square of a layer, or of the input (subtract it to keep it small)."""
    return objective(f"l2({layer or 'input'})", layer, lambda op, value: mean(op, op.Mul(value, value)))


@named
def norm(alpha: float = 6.0, layer: str | None = None) -> Objective:
    """The mean of |x|^alpha (subtract it to keep a picture within bounds).

    Mahendran & Vedaldi 2015, arXiv:1412.0035, equation 3, but averaged over pixels where they sum.

    layer   any; None: the input
    alpha   1 or more; 6 in the paper
    """
    if not 1 <= alpha <= 16:
        raise UsageError(f"the exponent alpha of a norm is {alpha:g}: expected 1 to 16")

    def build(op: Any, value: ir.Value) -> ir.Value:
        if alpha == 1:
            return mean(op, op.Abs(value))
        squares = op.Mul(value, value)
        return mean(op, squares if alpha == 2 else op.Pow(op.Add(squares, _TINY), alpha / 2))

    return objective(f"norm({layer or 'input'}, {alpha:g})", layer, build)


_TINY = 1e-12


# --- over the batch -------------------------------------------------------------------------------


@named
def diversity(layer: str) -> Objective:
    """How little the pictures of a batch resemble each other: minus the mean cosine of a picture's Gram matrix with
    those of the others. Zero for one picture.

    Olah, Mordvintsev & Schubert 2017: several pictures of one channel show its several sides.

    layer   (N, C, H, W)
    """

    def build(op: Any, value: ir.Value, draws: int) -> ir.Value:
        grams = op.Reshape(gram_matrix(op, value), [0, -1])  # (draws·N, C·C)
        length = op.Sqrt(op.Add(op.ReduceSum(op.Mul(grams, grams), [1], keepdims=1), _TINY))
        unit = op.Reshape(op.Div(grams, length), [draws, -1, _channels(value, layer) ** 2])
        alike = op.MatMul(unit, op.Transpose(unit, perm=[0, 2, 1]))  # (draws, N, N)
        pictures = op.Cast(op.shape(alike, 2, 3), to=int(ir.DataType.FLOAT))
        others = op.Sub(op.ReduceSum(alike, [2], keepdims=0), 1.0)
        return op.Neg(op.Reshape(op.Div(others, op.Max(op.Sub(pictures, 1.0), 1.0)), [-1]))

    return objective(f"diversity({layer})", layer, build, across=True)


@named
def alignment(layer: str | None = None, decay: float = 2.0) -> Objective:
    """How alike the neighbours in a batch are: minus the mean squared difference of each picture to those up to four
    places before and after it, a distance of k weighing 1/decay^k. Rows of pictures then change smoothly.

    Olah et al. 2018, "The Building Blocks of Interpretability" (lucid's alignment).

    layer   any; None: the input
    """
    if not 1 <= decay <= 100:
        raise UsageError(f"decay {decay:g}: expected 1 to 100")

    def build(op: Any, value: ir.Value, draws: int) -> ir.Value:
        batch = value.shape[0] if value.shape is not None else None
        if not isinstance(batch, int):
            raise ModelUnsuitable("alignment needs a batch of known size: use it where images are made")
        count = batch // draws
        rows = op.Reshape(value, [draws, count, -1])
        total = op.Mul(op.ReduceMean(rows, [2], keepdims=0), 0.0)  # (draws, N)
        for k in range(1, min(5, count)):
            gap = op.Sub(op.Slice(rows, [k], [count], [1]), op.Slice(rows, [0], [count - k], [1]))
            apart = op.Mul(op.ReduceMean(op.Mul(gap, gap), [2], keepdims=0), -0.5 / decay**k)
            total = op.Add(total, op.Add(op.Pad(apart, [0, k, 0, 0], 0.0), op.Pad(apart, [0, 0, 0, k], 0.0)))
        return op.Reshape(total, [-1])

    return objective(f"alignment({layer or 'input'})", layer, build, across=True)


def _channels(value: ir.Value, layer: str) -> int:
    channels = value.shape[1] if value.shape is not None and len(value.shape) == 4 else None
    if not isinstance(channels, int):
        raise ModelUnsuitable(f"layer {layer!r} has shape {value.shape}; expected feature maps (N, C, H, W)")
    return channels
