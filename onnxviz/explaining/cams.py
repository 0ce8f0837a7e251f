"""Class activation maps as operators: of activations and gradients, (N, C, h, w) float32, to (N, h, w).

The formulas, their papers and why they are as they are stand in onnxviz/attribution/cam_methods.py.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx_ir as ir

from onnxviz.grad.tape import dims

# The first component outweighs the next by their ratio to the power of 2^12: a ratio of 0.99 leaves 1e-18.
_SQUARINGS: Final = 12
_TINY: Final = float(np.finfo(np.float32).tiny)


def grad_cam(op: Any, activations: ir.Value, gradients: ir.Value) -> ir.Value:
    """Channels weighted by their mean gradient."""
    return _summed(op, activations, op.ReduceMean(gradients, [2, 3], keepdims=1))


def grad_cam_plus_plus(op: Any, activations: ir.Value, gradients: ir.Value) -> ir.Value:
    """Channels weighted by their positive gradient, the less the more places share it."""
    squares = op.Mul(gradients, gradients)
    cubes = op.Mul(squares, gradients)
    total = op.ReduceSum(activations, [2, 3], keepdims=1)
    share = _ratio(op, squares, op.Add(op.Mul(squares, 2.0), op.Mul(cubes, total)))
    weights = op.ReduceSum(op.Mul(share, op.Relu(gradients)), [2, 3], keepdims=1)
    return _summed(op, activations, weights)


def layer_cam(op: Any, activations: ir.Value, gradients: ir.Value) -> ir.Value:
    """Each place weighted by its own positive gradient."""
    return _summed(op, activations, op.Relu(gradients))


def hires_cam(op: Any, activations: ir.Value, gradients: ir.Value) -> ir.Value:
    """Each place weighted by its own gradient."""
    return _summed(op, activations, gradients)


def xgrad_cam(op: Any, activations: ir.Value, gradients: ir.Value) -> ir.Value:
    """Channels weighted by their gradient, each place counted by its share of the activation."""
    above = op.ReduceSum(op.Mul(gradients, activations), [2, 3], keepdims=1)
    weights = _ratio(op, above, op.ReduceSum(activations, [2, 3], keepdims=1))
    return _summed(op, activations, weights)


def eigen_cam(op: Any, activations: ir.Value) -> ir.Value:
    """The places along the first principal component, its sign such that the map's sum is positive.

    The standard has no singular value decomposition. Squaring the Gram matrix again and again, divided by its trace,
    leaves the projector on its first eigenvector; any column of it that is not zero is that vector.
    """
    rows = op.Reshape(activations, [0, 0, -1])  # (N, C, hw)
    known = dims(activations) or (None,) * 4
    channels, height, width = known[1:]
    few = isinstance(height, int) and isinstance(width, int) and isinstance(channels, int)
    across = op.Transpose(rows, perm=[0, 2, 1])
    by_place = few and height * width <= channels  # type: ignore[operator]
    gram = op.MatMul(across, rows) if by_place else op.MatMul(rows, across)
    vector = _first(op, gram)  # (N, n, 1)
    if by_place:
        length = op.ReduceSum(op.Mul(vector, op.MatMul(gram, vector)), [1], keepdims=1)
        maps = op.Mul(vector, op.Sqrt(length))
    else:
        maps = op.MatMul(across, vector)
    total = op.ReduceSum(maps, [1], keepdims=1)
    maps = op.Where(op.Less(total, 0.0), op.Neg(maps), maps)
    return op.Reshape(maps, op.Concat(op.shape(activations, 0, 1), op.shape(activations, 2), axis=0))


def _first(op: Any, gram: ir.Value) -> ir.Value:
    """The unit eigenvector of the largest eigenvalue of positive matrices (N, n, n): (N, n, 1)."""
    side = op.Shape(gram, start=1, end=2)
    eye = op.EyeLike(op.Expand(0.0, op.Concat(side, side, axis=0)), dtype=int(ir.DataType.FLOAT))
    power = gram
    for _ in range(_SQUARINGS):
        trace = op.ReduceSum(op.Mul(power, eye), [1, 2], keepdims=1)
        power = op.Div(power, op.Max(trace, _TINY))  # a layer of zeros stays zero
        power = op.MatMul(power, power)
    strongest = op.ArgMax(op.ReduceSum(op.Mul(power, eye), [1], keepdims=1), axis=2, keepdims=1)  # (N, 1, 1)
    column = op.GatherElements(
        power, op.Expand(strongest, op.Concat(op.Shape(power, end=2), [1], axis=0)), axis=2
    )
    length = op.Sqrt(op.ReduceSum(op.Mul(column, column), [1], keepdims=1))
    return op.Div(column, op.Max(length, _TINY))


def _summed(op: Any, activations: ir.Value, weights: ir.Value) -> ir.Value:
    return op.ReduceSum(op.Mul(activations, weights), [1], keepdims=0)


def _ratio(op: Any, above: ir.Value, below: ir.Value) -> ir.Value:
    """above / below, 0 where below is 0 or as good as."""
    fit = op.Greater(op.Abs(below), _TINY)
    return op.Where(fit, op.Div(above, op.Where(fit, below, 1.0)), 0.0)
