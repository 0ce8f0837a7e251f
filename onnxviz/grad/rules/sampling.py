"""Gradient rules of what reads between places: Resize (Upsample is lifted to it), GridSample, AffineGrid, RoiAlign.

Resize (every mode, any axes, known or dynamic sizes) is linear and works on one axis after the other: y = A_h x A_wᵀ.
Each matrix is what the same Resize makes of an identity matrix, so the adjoint agrees with the engine's own idea of
coordinates, rounding, cubic weights and antialiasing; where the sizes are constants, every engine folds it at load.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from onnxviz.grad.backward import NoRule, lengths
from onnxviz.grad.forms import identity
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
    halves = coordinate_transformation_mode in ("half_pixel", "pytorch_half_pixel")
    plain |= halves and nearest_mode.startswith("round")
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
            ends = (op.Slice(roi, [at], [at + 1]) for at in (i, len(along) + i))
            window = op.Concat(*ends, axis=0)
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
    op: Any, g: Any, x: Any, axis: int, roi: Any, scale: Any, length: Any, settings: dict[str, Any], *, wide: bool
) -> Any:  # fmt: skip
    """(L_out, L_in): the same Resize of an identity matrix along its rows.

    wide   the length may stay the same: ONNX Runtime would hand such a matrix on without looking at scales or region,
           which it does not where another axis changes. So each row gets a second axis, of length 1, that doubles.
    """
    unit = identity(op, x, axis, g)
    if not wide:
        eye = op.Unsqueeze(unit, [0, 1])
        return op.Squeeze(op.Resize(eye, roi, scale, length, axes=[2], **settings), [0, 1])
    eye = op.Unsqueeze(unit, [1, 3])  # (L_in, 1, L_in, 1)
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


# --- GridSample, AffineGrid and RoiAlign: bilinear reading at computed places ---------------------


_CUBIC = -0.75  # the standard's (and torch's) coefficient


@vjp("GridSample")
def grid_sample(op, g, y, x, grid, *, align_corners, mode, padding_mode):
    """Every tap of the interpolation hands its weight's share back; the grid gets the slope of the weights.

    x (N, C, *in), grid (N, *out, d) with its last axis in the order x, y(, z), g (N, C, *out); d = 2 or 3.
    """
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    known = dims(x)
    if known is None or len(known) not in (4, 5):
        raise NoRule("samples neither a plane nor a volume")
    d = len(known) - 2
    lengths = [op.Squeeze(op.shape(x, a, a + 1), [0]) for a in range(2, d + 2)]
    taps = []
    for axis, length in enumerate(
        lengths
    ):  # spatial axis: its coordinate is the (d − 1 − axis)-th of the grid
        raw = op.Gather(grid, d - 1 - axis, axis=d + 1)
        taps.append(_taps(op, raw, length, mode, padding_mode, bool(align_corners), g))
    flat_g = op.Reshape(g, [0, 0, -1])
    channels = op.shape(x, 1, 2)
    flat_shape = op.Concat(op.shape(x, 0, 2), [-1], axis=0)

    def corners() -> Any:
        for corner in itertools.product(*taps):
            index = corner[0][0]
            for axis in range(1, d):
                index = op.Add(op.Mul(index, lengths[axis]), corner[axis][0])
            yield corner, op.Reshape(index, [0, 1, -1])

    def spread(index: Any) -> Any:
        return op.Expand(index, op.Concat([1], channels, [1], axis=0))

    def to_x() -> Any:
        total = op.Reshape(op.Expand(op.cast_like(0.0, g), op.shape(x)), flat_shape)
        for corner, index in corners():
            weight = corner[0][1]
            for _, w, _ in corner[1:]:
                weight = op.Mul(weight, w)
            share = op.Mul(flat_g, op.Reshape(weight, [0, 1, -1]))
            total = op.ScatterElements(total, spread(index), share, axis=2, reduction="add")
        return op.Reshape(total, op.shape(x))

    def to_grid() -> Any:
        if mode == "nearest":
            return op.Mul(grid, 0.0)
        flat_x = op.Reshape(x, flat_shape)
        slopes: list[Any] = [None] * d
        for corner, index in corners():
            value = op.Mul(op.GatherElements(flat_x, spread(index), axis=2), flat_g)
            value = op.ReduceSum(value, [1], keepdims=0)  # (N, out)
            for axis in range(d):
                weight = corner[axis][2]
                for other in range(d):
                    weight = weight if other == axis else op.Mul(weight, corner[other][1])
                part = op.Mul(value, op.Reshape(weight, [0, -1]))
                slopes[axis] = part if slopes[axis] is None else op.Add(slopes[axis], part)
        columns = [op.Unsqueeze(slopes[axis], [-1]) for axis in reversed(range(d))]
        return op.Reshape(op.Concat(*columns, axis=-1), op.shape(grid))

    return to_x, to_grid


@vjp("AffineGrid")
def affine_grid(op, g, y, theta, size, *, align_corners):
    """grid = [place, 1]·θᵀ, hence gᵀ·[place, 1]; the places are the grid of the identity.

    theta (N, d, d + 1), g (N, *out, d)
    """
    known = dims(y)
    if known is None:
        raise NoRule("makes a grid of unknown rank")
    d = len(known) - 2
    same = op.Expand(np.eye(d, d + 1, dtype=g.dtype.numpy())[None], op.shape(theta))
    places = op.Reshape(op.AffineGrid(same, size, align_corners=align_corners), [0, -1, d])
    ones = op.Add(op.Mul(op.Slice(places, [0], [1], [2]), 0.0), 1.0)
    back = op.Transpose(op.Reshape(g, [0, -1, d]), perm=[0, 2, 1])
    return op.MatMul(back, op.Concat(places, ones, axis=2)), None


def _taps(op: Any, raw: Any, length: Any, mode: str, padding: str, corners: bool, g: Any) -> Any:
    """Along one axis: (index int64, weight, slope of the weight by the grid's coordinate) of each tap."""
    real = op.cast_like(length, g)

    def tap(at: Any, weight: Any, slope: Any) -> Any:
        """The index within bounds; weight and slope 0 where it was not."""
        within = op.And(op.GreaterOrEqual(at, 0.0), op.Less(at, real))
        inside, index = op.cast_like(within, g), op.Cast(op.Where(within, at, 0.0), to=7)  # NaN has no index
        return index, op.Mul(weight, inside), op.Mul(slope, inside)

    scale = op.Mul(op.Sub(real, 1.0) if corners else real, 0.5)
    place = op.Mul(op.Add(raw, 1.0), scale)
    place = place if corners else op.Sub(place, 0.5)
    if mode == "cubic":
        floor = op.Floor(place)
        t, found = op.Sub(place, floor), []
        for k in range(4):
            weight, slope = _cubic(op, t, k)
            at, _ = _inside(op, op.Add(floor, float(k - 1)), real, padding, corners)
            found.append(tap(at, weight, op.Mul(slope, scale)))
        return found
    place, slope = _inside(op, place, real, padding, corners)
    scale = scale if slope is None else op.Mul(scale, slope)
    if mode == "nearest":
        flat = op.Mul(place, 0.0)
        return [tap(op.Round(place), op.Add(flat, 1.0), flat)]
    floor = op.Floor(place)
    t = op.Sub(place, floor)
    slope = op.Mul(op.Add(op.Mul(t, 0.0), 1.0), scale)
    return [tap(floor, op.Sub(1.0, t), op.Neg(slope)), tap(op.Add(floor, 1.0), t, slope)]


def _inside(op: Any, place: Any, real: Any, padding: str, corners: bool) -> tuple[Any, Any]:
    """The coordinate after padding, and its slope (None: 1)."""
    if padding == "zeros":
        return place, None
    last = op.Sub(real, 1.0)
    slope = None
    if padding == "reflection":
        # Fold at low and high: |(p − low) mod 2·span|, measured from the nearer end.
        low = 0.0 if corners else -0.5
        span = last if corners else real
        moved = op.Sub(place, low)
        distance = op.Abs(moved)
        turns = op.Floor(op.Div(distance, span))
        extra = op.Sub(distance, op.Mul(turns, span))
        odd = op.Sub(turns, op.Mul(op.Floor(op.Mul(turns, 0.5)), 2.0))
        place = op.Add(op.Add(op.Mul(op.Sub(1.0, odd), extra), op.Mul(odd, op.Sub(span, extra))), low)
        slope = op.Mul(op.Sign(moved), op.Sub(1.0, op.Mul(odd, 2.0)))
    cut = op.Max(op.Min(place, last), 0.0)
    within = op.cast_like(op.And(op.Greater(place, 0.0), op.Less(place, last)), place)
    return cut, within if slope is None else op.Mul(slope, within)


def _cubic(op: Any, t: Any, k: int) -> tuple[Any, Any]:
    """Weight and slope of the k-th of four taps at fraction t (Keys 1981, coefficient −0.75)."""
    a = _CUBIC
    # The distance from the tap, as polynomial coefficients in t, lowest first.
    inner = np.poly1d([a + 2, -(a + 3), 0, 1])
    outer = np.poly1d([a, -5 * a, 8 * a, -4 * a])
    distance = [np.poly1d([1, 1]), np.poly1d([1, 0]), np.poly1d([-1, 1]), np.poly1d([-1, 2])][k]
    weight = (outer if k in (0, 3) else inner)(distance)
    return _polynomial(op, weight, t), _polynomial(op, weight.deriv(), t)


def _polynomial(op: Any, p: np.poly1d, t: Any) -> Any:
    total: Any = op.Add(op.Mul(t, 0.0), float(p.coeffs[0]))
    for c in p.coeffs[1:]:
        total = op.Add(op.Mul(total, t), float(c))
    return total


@vjp("RoiAlign")
def roi_align(
    op, g, y, x, rois, batch, *,
    coordinate_transformation_mode, mode, output_height, output_width, sampling_ratio, spatial_scale,
):  # fmt: skip
    """Averages of bilinear samples are one matrix an axis and box: out = A_h x A_wᵀ, hence A_hᵀ g A_w.

    The boxes get nothing, as in torchvision.
    """
    if mode != "avg":
        raise NoRule(f"has mode={mode}")
    half = coordinate_transformation_mode == "half_pixel"

    def matrix(first: int, axis: int, bins: int) -> Any:
        """(boxes, bins, length)."""
        low, high = (
            op.Sub(op.Mul(op.Gather(rois, i, axis=1), spatial_scale), 0.5 if half else 0.0)
            for i in (first, first + 2)
        )
        extent = op.Sub(high, low) if half else op.Max(op.Sub(high, low), 1.0)
        width = op.Mul(extent, 1.0 / max(bins, 1))
        if sampling_ratio > 0:
            count: Any = op.Add(op.Mul(width, 0.0), float(sampling_ratio))
            most: Any = op.const(np.int64(sampling_ratio))
        else:  # as many samples as the bin has pixels: another number for each box, laid out by the largest
            count = op.Ceil(width)
            most = op.Cast(op.ReduceMax(count, keepdims=0), to=7)
        sample = op.cast_like(op.arange(most), g)
        column = [op.Unsqueeze(v, [1, 2]) for v in (low, width, count)]  # (boxes, 1, 1)
        share = op.Div(op.Add(sample, 0.5), column[2])
        place = op.Add(
            column[0], op.Mul(op.Add(share, np.arange(bins, dtype=g.dtype.numpy())[:, None]), column[1])
        )
        real = op.cast_like(op.Squeeze(op.shape(x, axis, axis + 1), [0]), g)
        counted = op.And(op.GreaterOrEqual(place, -1.0), op.LessOrEqual(place, real))
        counted = op.And(counted, op.Less(op.Add(op.Mul(place, 0.0), sample), column[2]))
        weight = op.Div(op.cast_like(counted, g), op.Max(column[2], 1.0))
        place = op.Max(op.Min(place, op.Sub(real, 1.0)), 0.0)
        grid = op.cast_like(op.arange(op.Squeeze(op.shape(x, axis, axis + 1), [0])), g)
        hat = op.Max(op.Sub(1.0, op.Abs(op.Sub(op.Unsqueeze(place, [3]), grid))), 0.0)
        return op.ReduceSum(op.Mul(hat, op.Unsqueeze(weight, [3])), [2], keepdims=0)

    rows, columns = matrix(1, 2, output_height), matrix(0, 3, output_width)
    back = op.MatMul(op.Transpose(op.Unsqueeze(rows, [1]), perm=[0, 1, 3, 2]), g)
    back = op.MatMul(back, op.Unsqueeze(columns, [1]))  # (boxes, C, H, W)
    # Each box belongs to one picture: a 0/1 matrix adds them up. (A scatter with repeated indices adds in another order
    # at every run.)
    pictures = op.arange(op.Squeeze(op.shape(x, 0, 1), [0]))
    owner = op.cast_like(op.Equal(op.Unsqueeze(pictures, [1]), op.Unsqueeze(op.Cast(batch, to=7), [0])), g)
    summed = op.MatMul(owner, op.Flatten(back, axis=1))  # (N, C·H·W)
    return op.Reshape(summed, op.shape(x)), None
