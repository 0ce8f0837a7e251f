"""Resizing and reading between pixels. Each axis is one matrix product, so that torch's autograd turns it round."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from onnxviz.backends.torch.table import CannotRun, Ints, numbers, operator, select, single


@operator("Resize")
def resize(
    x: Any, *inputs: Any, antialias: int = 0, axes: Ints = None, coordinate_transformation_mode: str = "half_pixel",
    cubic_coeff_a: float = -0.75, exclude_outside: int = 0, extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch", mode: str = "nearest", nearest_mode: str = "round_prefer_floor",
) -> Any:  # fmt: skip
    """x with the lengths of some axes changed: (roi, scales, sizes) as further inputs."""
    given: list[Any] = [v if v is not None and v.numel() else None for v in inputs]
    roi, scales, sizes = [*given, None, None, None][:3]
    where = list(range(x.ndim)) if axes is None else [a % x.ndim for a in axes]
    lengths = [x.shape[a] for a in where]
    if sizes is not None:
        wanted = numbers(sizes)
        factors = [w / length for w, length in zip(wanted, lengths, strict=True)]
        if keep_aspect_ratio_policy != "stretch":
            extreme = min if keep_aspect_ratio_policy == "not_larger" else max
            factors = [extreme(factors)] * len(factors)
            wanted = [math.floor(f * length + 0.5) for f, length in zip(factors, lengths, strict=True)]
    else:
        factors = [float(v) for v in scales.reshape(-1).tolist()]
        wanted = [math.floor(f * length) for f, length in zip(factors, lengths, strict=True)]
    corners = None if roi is None else [float(v) for v in roi.reshape(-1).tolist()]
    crop = coordinate_transformation_mode == "tf_crop_and_resize"
    outside = torch.zeros((), dtype=torch.bool, device=x.device)
    for i, axis in enumerate(where):
        length, out, factor = lengths[i], wanted[i], factors[i]
        box = None if corners is None else (corners[i], corners[len(where) + i])
        if out == length and factor == 1 and not (crop and box != (0.0, 1.0)):
            continue
        at = _coordinates(coordinate_transformation_mode, length, out, factor, box)
        if crop:
            beyond = torch.as_tensor((at < 0) | (at > length - 1), device=x.device)
            outside = outside | beyond.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        if mode == "nearest":
            x = select(x, axis, np.clip(_ROUND[nearest_mode](at), 0, length - 1).astype(np.int64))
        else:
            matrix = _matrix(at, length, factor, mode, cubic_coeff_a, exclude_outside, antialias)
            x = _along_axis(x, axis, matrix)
    if outside.any():
        x = torch.where(outside, torch.full_like(x, extrapolation_value), x)
    return x


def _along_axis(x: Any, axis: int, matrix: np.ndarray) -> Any:
    """The matrix (out, in) applied to one axis."""
    weights = torch.as_tensor(matrix, dtype=x.dtype, device=x.device)
    return (x.movedim(axis, -1) @ weights.T).movedim(-1, axis)


def _coordinates(
    mode: str, length: int, out: int, factor: float, box: tuple[float, float] | None
) -> np.ndarray:
    """Where in the input each entry of the output lies."""
    i = np.arange(out, dtype=np.float64)
    if mode == "asymmetric":
        return i / factor
    if mode == "align_corners":
        return i * (length - 1) / (out - 1) if out > 1 else np.zeros(out)
    if mode == "pytorch_half_pixel":
        return (i + 0.5) / factor - 0.5 if out > 1 else np.zeros(out)
    if mode == "half_pixel_symmetric":
        adjustment = out / (factor * length)
        centre = length / 2
        return centre * (1 - adjustment) + (i + 0.5) / factor - 0.5
    if mode == "tf_crop_and_resize":
        start, end = box or (0.0, 1.0)
        if out > 1:
            return start * (length - 1) + i * (end - start) * (length - 1) / (out - 1)
        return np.full(out, 0.5 * (start + end) * (length - 1))
    return (i + 0.5) / factor - 0.5


_ROUND: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' kernel."""
    d = np.abs(distance)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d <= 1, near, np.where(d < 2, far, 0.0))


def _matrix(
    at: np.ndarray, length: int, factor: float, mode: str, a: float, exclude_outside: int, antialias: int
) -> np.ndarray:
    """The weights (out, in) of linear or cubic interpolation; what lies beyond the edge repeats it."""
    stretch = min(factor, 1.0) if antialias else 1.0
    reach = math.ceil((1 if mode == "linear" else 2) / stretch)
    taps = np.floor(at)[:, None] + np.arange(1 - reach, reach + 1)  # (out, taps)
    distance = (at[:, None] - taps) * stretch
    weights = np.maximum(0.0, 1 - np.abs(distance)) if mode == "linear" else _cubic(distance, a)
    if exclude_outside:
        weights = weights * ((taps >= 0) & (taps < length))
    if exclude_outside or antialias:
        weights = weights / weights.sum(axis=1, keepdims=True)
    matrix = np.zeros((len(at), length))
    columns = np.clip(taps, 0, length - 1).astype(np.int64)
    np.add.at(matrix, (np.arange(len(at))[:, None], columns), weights)
    return matrix


@operator("GridSample")
def grid_sample(
    x: Any, grid: Any, *, align_corners: int = 0, mode: str = "linear", padding_mode: str = "zeros"
) -> Any:
    """x (N, C, ...) read at the grid's places, which run from −1 to 1."""
    name = {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode)
    if x.ndim not in (4, 5) or (x.ndim == 5 and name == "bicubic"):
        raise CannotRun(f"samples {x.ndim - 2} spatial axes in the mode {mode!r}")
    return F.grid_sample(x, grid, name, padding_mode, bool(align_corners))


@operator("AffineGrid")
def affine_grid(theta: Any, size: Any, *, align_corners: int = 0) -> Any:
    """The places that an affine map of the picture reads at, for GridSample."""
    return F.affine_grid(theta, numbers(size), bool(align_corners))


@operator("RoiAlign")
def roi_align(
    x: Any, rois: Any, images: Any, *, coordinate_transformation_mode: str = "half_pixel", mode: str = "avg",
    output_height: int = 1, output_width: int = 1, sampling_ratio: int = 0, spatial_scale: float = 1.0,
) -> Any:  # fmt: skip
    """He et al. 2017, arXiv:1703.06870: each box (x1, y1, x2, y2) as a grid of cells, each the mean of its samples.

    With mode 'max' it is the largest of the samples' weighted corners, as ONNX Runtime and the standard's reference
    have it. The boxes get their gradient too.
    """
    half = coordinate_transformation_mode == "half_pixel"
    shift = 0.5 if half else 0.0
    cells = []
    for box, image in zip(rois, numbers(images), strict=True):
        x1, y1, x2, y2 = (box * spatial_scale - shift).unbind()
        width, height = x2 - x1, y2 - y1
        if not half:
            width, height = width.clamp(min=1.0), height.clamp(min=1.0)
        sides = ((y1, height, output_height, x.shape[2]), (x1, width, output_width, x.shape[3]))
        rows, columns = (
            _corners(start, extent, count, length, sampling_ratio) for start, extent, count, length in sides
        )
        cells.append(_cells(x[int(image)], rows, columns, mode, output_height, output_width))
    if not cells:
        return x.new_zeros((0, x.shape[1], output_height, output_width))
    return torch.stack(cells)


def _corners(start: Any, extent: Any, count: int, length: int, ratio: int) -> tuple[Any, Any, Any, Any]:
    """For the samples along one side: the places below and above, and their weights."""
    step = extent / count
    samples = ratio if ratio > 0 else max(1, math.ceil(float(single(step.detach()))))
    offsets = torch.arange(count * samples, device=extent.device, dtype=extent.dtype)
    at = start + (offsets + 0.5) * step / samples
    inside = (at >= -1.0) & (at <= length)
    at = at.clamp(min=0.0)
    low = at.detach().floor().clamp(max=length - 1)
    at = torch.where(low >= length - 1, low, at)
    fraction = at - low
    high = (low + 1).clamp(max=length - 1)
    return low.long(), high.long(), (1 - fraction) * inside, fraction * inside


def _cells(x: Any, rows: Any, columns: Any, mode: str, height: int, width: int) -> Any:
    """x (C, H, W) -> (C, height, width)."""
    parts = []
    for y_index, y_weight in zip(rows[:2], rows[2:], strict=True):
        for x_index, x_weight in zip(columns[:2], columns[2:], strict=True):
            corner = x.index_select(1, y_index).index_select(2, x_index)
            parts.append(corner * y_weight[:, None] * x_weight[None, :])
    c = x.shape[0]
    if mode == "avg":
        whole = sum(parts[1:], parts[0]).reshape(c, height, -1, width, parts[0].shape[2] // width)
        return whole.mean((2, 4))
    whole = torch.stack(parts, -1).reshape(c, height, -1, width, parts[0].shape[2] // width, 4)
    return whole.permute(0, 1, 3, 2, 4, 5).flatten(3).max(3).values


@operator("MaxRoiPool")
def max_roi_pool(x: Any, rois: Any, *, pooled_shape: Sequence[int], spatial_scale: float = 1.0) -> Any:
    """Girshick 2015, arXiv:1504.08083: each box (image, x1, y1, x2, y2) as a grid, each cell its largest entry."""
    found = []
    for row in rois.tolist():
        x1, y1, x2, y2 = (math.floor(v * spatial_scale + 0.5) for v in row[1:])
        parts = []
        for start, end, count, length in (
            (y1, y2, pooled_shape[0], x.shape[2]),
            (x1, x2, pooled_shape[1], x.shape[3]),
        ):
            step = max(end - start + 1, 1) / count
            bounds = [(math.floor(i * step) + start, math.ceil((i + 1) * step) + start) for i in range(count)]
            parts.append([(min(max(a, 0), length), min(max(b, 0), length)) for a, b in bounds])
        image = x[int(row[0])]
        cells = [
            image[:, a:b, c:d].flatten(1).max(1).values if b > a and d > c else image.new_zeros(x.shape[1])
            for a, b in parts[0]
            for c, d in parts[1]
        ]
        found.append(torch.stack(cells, 1).reshape(x.shape[1], *pooled_shape))
    return torch.stack(found)
