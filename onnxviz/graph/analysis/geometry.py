"""Which input positions each output position of a window, a transposed window or a resize reads, along one axis."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

from onnxviz.graph.analysis.span import LONGEST, Span, span, window


def same_padding(auto_pad: str, size: int, stride: int, extent: int) -> int:
    """Padding before the first position under auto_pad SAME_UPPER or SAME_LOWER (ONNX, operator Conv)."""
    total = max((math.ceil(size / stride) - 1) * stride + extent - size, 0)
    return total // 2 if auto_pad == "SAME_UPPER" else total - total // 2


def transposed(stride: int, start: int, kernel: int, dilation: int) -> Span:
    """ConvTranspose: input i is added to outputs i·stride - start + dilation·j for j < kernel.

    So output o reads the i = (o + start - dilation·j) / stride that are whole. Where the kernel is narrower
    than the stride some outputs read nothing; these are told to read the nearest input.
    """
    if stride * kernel > LONGEST:
        raise ValueError(f"a transposed window of stride {stride} and kernel {kernel} is not followed")
    low, high = [], []
    for o in range(stride):
        whole = [
            (o + start - dilation * j) // stride
            for j in range(kernel)
            if (o + start - dilation * j) % stride == 0
        ]
        nearest = (o + start - dilation * (kernel - 1) // 2) // stride
        low.append(min(whole, default=nearest))
        high.append(max(whole, default=nearest))
    return span(low, high, 1)


def resampling(
    before: int,
    after: int,
    scale: float | None,
    mode: str,
    coordinates: str,
    rounding: str,
    antialias: bool,
) -> Span | None:
    """ONNX Resize (opset 11 and later): which inputs output o reads. None for modes without a plain formula."""
    ratio = Fraction(after, before)
    if scale is not None and scale > 0:
        ratio = Fraction(float(scale)).limit_denominator(1 << 12)
    if not ratio:  # a scale that is next to nothing
        return None
    if coordinates == "align_corners":
        step, start = (
            (Fraction(before - 1, after - 1), Fraction(0)) if after > 1 else (Fraction(0), Fraction(0))
        )
    elif coordinates == "asymmetric" or (coordinates == "pytorch_half_pixel" and after == 1):
        step, start = 1 / ratio, Fraction(0)
    elif coordinates in ("half_pixel", "pytorch_half_pixel"):
        step, start = 1 / ratio, Fraction(1, 2) / ratio - Fraction(1, 2)
    elif coordinates == "half_pixel_symmetric":
        adjustment = Fraction(after) / (ratio * before)
        centre = Fraction(before, 2)
        step, start = 1 / ratio, centre * (1 - adjustment) + Fraction(1, 2) / ratio - Fraction(1, 2)
    else:  # tf_crop_and_resize
        return None
    if step.denominator > LONGEST:
        return None
    taps = [
        _taps(start + step * o, mode, rounding, step if antialias else None) for o in range(step.denominator)
    ]
    return span([low for low, _ in taps], [high for _, high in taps], step.numerator)


def _taps(place: Fraction, mode: str, rounding: str, step: Fraction | None) -> tuple[int, int]:
    """First and last input that the output at this place (in input positions) is made of."""
    half = Fraction(1, 2)
    if mode == "nearest":
        nearest = {
            "round_prefer_floor": math.ceil(place - half),
            "round_prefer_ceil": math.floor(place + half),
            "floor": math.floor(place),
            "ceil": math.ceil(place),
        }[rounding]
        return nearest, nearest
    radius = 1 if mode == "linear" else 2
    if step is not None and step > 1:  # antialiasing: the filter is as wide as the shrinking asks for
        return math.floor(place - radius * step) + 1, math.ceil(place + radius * step) - 1
    if place.denominator == 1:
        return int(place), int(place)
    return math.floor(place) - radius + 1, math.floor(place) + radius


def tiled(size: int) -> Span:
    """Tile: output o reads input o mod size."""
    if size > LONGEST:
        raise ValueError(f"repeats of {size} are not followed")
    return Span(np.arange(size), np.arange(size), 0)


def picked(indices: np.ndarray, size: int) -> Span:
    """Gather with one list of indices: output o reads input indices[o]."""
    places = np.where(indices < 0, indices + size, indices).astype(np.int64)
    return span(places, places, size)


def block(size: int) -> Span:
    """DepthToSpace: output o reads input o // size."""
    if size > LONGEST:
        raise ValueError(f"blocks of {size} are not followed")
    return Span(np.zeros(size, np.int64), np.zeros(size, np.int64), 1)


__all__ = ["block", "picked", "resampling", "same_padding", "tiled", "transposed", "window"]
