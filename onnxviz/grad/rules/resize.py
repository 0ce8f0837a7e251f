"""Gradient rule of Resize (Upsample is lifted to it): every mode, any axes, known or dynamic sizes.

Resize is linear and works on one axis after the other: y = A_h x A_wᵀ. Each matrix is what the same Resize makes of
an identity matrix, so the adjoint agrees with the engine's own idea of coordinates, rounding, cubic weights and
antialiasing; where the sizes are constants, every engine folds it at load.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.grad.backward import NoRule, lengths
from onnxviz.grad.table import vjp
from onnxviz.graph.tape import array, dims


@vjp("Resize")
def resize(
    op, g, y, x, roi=None, scales=None, sizes=None, *,
    antialias=0, axes=None, coordinate_transformation_mode, cubic_coeff_a, exclude_outside, extrapolation_value,
    keep_aspect_ratio_policy="stretch", mode, nearest_mode,
):  # fmt: skip
    """Each axis' matrix transposed; a plain repetition by whole numbers is a sum over its tiles."""
    known, out = lengths(x), lengths(y)
    rank = len(known)
    along = [int(a) % rank for a in axes] if axes is not None else list(range(rank))
    roi, scales, sizes = (None if _empty(v) else v for v in (roi, scales, sizes))
    cropping = coordinate_transformation_mode == "tf_crop_and_resize"
    if keep_aspect_ratio_policy != "stretch" and sizes is not None:
        # Else graph/padding.py has put a scale in their place.
        raise NoRule(
            f"has keep_aspect_ratio_policy={keep_aspect_ratio_policy} and a size that is not known or was rounded up"
        )
    if scales is not None and len(dims(scales) or "1") != 1:  # ONNX Runtime reads them in any form
        known_scales = array(scales)
        scales = op.Reshape(scales, [-1]) if known_scales is None else op.const(known_scales.reshape(-1))
    factors = array(scales)
    moved = []  # (axis, its place among the operator's axes)
    for i, a in enumerate(along):
        same = factors is not None and factors[i] == 1.0
        same = same or (sizes is not None and isinstance(known[a], int) and known[a] == out[a])
        if not same or cropping:
            moved.append((a, i))
    if not moved or all(isinstance(a, int) and a == b for a, b in zip(known, out, strict=True)):
        return (g,)  # a picture that keeps its size is handed on, whatever the scales
    plain = coordinate_transformation_mode == "asymmetric" and nearest_mode == "floor"
    plain |= coordinate_transformation_mode in (
        "half_pixel",
        "pytorch_half_pixel",
    ) and nearest_mode.startswith("round")
    if mode == "nearest" and plain and 3 <= rank <= 5 and min(a for a, _ in moved) >= 2:
        times = _whole_factors(known, out, moved, factors)
        if times is not None:
            tile = [times.get(a, 1) for a in range(2, rank)]
            mean = op.AveragePool(g, kernel_shape=tile, strides=tile)
            return (op.Mul(mean, float(np.prod(tile))),)
    settings = {
        "antialias": antialias or None, "coordinate_transformation_mode": coordinate_transformation_mode,
        "cubic_coeff_a": cubic_coeff_a, "exclude_outside": exclude_outside, "mode": mode, "nearest_mode": nearest_mode,
    }  # fmt: skip
    for a, i in moved:
        window = None
        if cropping:
            window = op.Concat(
                op.Slice(roi, [i], [i + 1]), op.Slice(roi, [len(along) + i], [len(along) + i + 1]), axis=0
            )
        scale = None if scales is None else op.Slice(scales, [i], [i + 1])
        length = None if scales is not None else op.shape(y, a, a + 1)
        factor = None if factors is None else float(factors[i])
        settles = known[a] != out[a] and isinstance(known[a], int) and isinstance(out[a], int)
        settles |= factor is not None and (factor < 1 or factor >= 2)
        g = _contract(op, g, _matrix(op, g, x, a, window, scale, length, settings, wide=not settles), a, rank)
    return (g,)


def _empty(value: Any) -> bool:
    """Omitted, or the empty tensor that stood for 'omitted' in opset 11."""
    known = None if value is None else array(value)
    return value is None or (known is not None and known.size == 0)


def _whole_factors(known: Any, out: Any, moved: Any, factors: Any) -> dict[int, int] | None:
    times = {}
    for a, i in moved:
        if factors is not None:
            factor = float(factors[i])
        elif isinstance(known[a], int) and isinstance(out[a], int):
            factor = out[a] / known[a]
        else:
            return None
        if factor < 1 or factor != int(factor):
            return None
        times[a] = int(factor)
    return times


def _matrix(
    op: Any,
    g: Any,
    x: Any,
    axis: int,
    roi: Any,
    scale: Any,
    length: Any,
    settings: dict[str, Any],
    *,
    wide: bool,
) -> Any:
    """(L_out, L_in): the same Resize of an identity matrix along its rows.

    wide   the length may stay the same: ONNX Runtime would hand such a matrix on without looking at scales or region,
           which it does not where another axis changes. So each row gets a second axis, of length 1, that doubles.
    """
    side = op.shape(x, axis, axis + 1)
    square = op.ConstantOfShape(
        op.Concat(side, side, axis=0), value=ir.tensor(np.zeros(1, dtype=g.dtype.numpy()))
    )
    if not wide:
        eye = op.Unsqueeze(op.EyeLike(square), [0, 1])
        return op.Squeeze(op.Resize(eye, roi, scale, length, axes=[2], **settings), [0, 1])
    eye = op.Unsqueeze(op.EyeLike(square), [1, 3])  # (L_in, 1, L_in, 1)
    if roi is not None:
        roi = op.Gather(op.Concat(roi, np.array([0, 1], roi.dtype.numpy()), axis=0), [0, 2, 1, 3], axis=0)
    if scale is not None:
        scale = op.Concat(scale, np.array([2], np.float32), axis=0)
    if length is not None:
        length = op.Concat(length, np.array([2], np.int64), axis=0)
    turned = op.Resize(eye, roi, scale, length, axes=[2, 3], **settings)  # (L_in, 1, L_out, 2)
    return op.Transpose(op.Squeeze(op.Slice(turned, [0], [1], [3]), [1, 3]), perm=[1, 0])


def _contract(op: Any, g: Any, matrix: Any, axis: int, rank: int) -> Any:
    """Σ over the axis of g times the matrix's rows: (…, L_out, …) -> (…, L_in, …)."""
    if axis == rank - 1:
        return op.MatMul(g, matrix)
    if axis == rank - 2:
        return op.MatMul(op.Transpose(matrix, perm=[1, 0]), g)
    order = [a for a in range(rank) if a != axis] + [axis]
    turned = op.MatMul(op.Transpose(g, perm=order), matrix)
    return op.Transpose(turned, perm=[int(i) for i in np.argsort(order)])
