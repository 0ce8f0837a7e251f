"""Arrays as pictures: feature maps and kernels, on one common scale or on a scale each."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from onnxviz.errors import UsageError
from onnxviz.image.colour import MAPS, NOT_A_NUMBER, diverging, normalise, sequential


class Drawn(NamedTuple):
    """Pictures of arrays.

    pictures   (N, h, w, 3) uint8
    low, high  the values at the ends of the colours, with a scale for each picture (N,) float32
    colours    (256, 3) uint8 from low to high, for a scale bar
    """

    pictures: np.ndarray
    low: np.ndarray
    high: np.ndarray
    colours: np.ndarray


def draw_maps(
    maps: np.ndarray,
    *,
    signed: bool | None = None,
    common: bool = False,
    percentile: float = 100.0,
    name: str = "viridis",
) -> Drawn:
    """Feature maps as pictures.

    maps         (N, h, w) float
    signed       zero is the middle of a blue-white-red map; else the smallest value is the darkest. None: signed
                 where there are negative values
    common       one scale for all, so that strong and weak channels are seen as such; else one each
    percentile   of the magnitudes; what lies beyond is clipped
    name         the colour map where they are not signed
    raises       UsageError for another shape
    """
    maps = np.asarray(maps, np.float32)
    if maps.ndim != 3 or not maps.size:
        raise UsageError(f"expected feature maps (N, h, w), got {maps.shape}")
    if signed is None:
        signed = bool(np.nanmin(maps) < 0) if np.isfinite(maps).any() else False
    groups = [maps] if common else [maps[i : i + 1] for i in range(len(maps))]
    pictures, lows, highs = [], [], []
    for group in groups:
        if signed:
            scaled, limit = normalise(group, signed=True, percentile=percentile)
            low, high, colours = -limit, limit, diverging(scaled)
        else:
            finite = group[np.isfinite(group)]
            low = float(finite.min()) if finite.size else 0.0
            scaled, span = normalise(group - low, percentile=percentile)
            high, colours = low + span, sequential(scaled, name)
        colours[np.isnan(group)] = NOT_A_NUMBER
        pictures.append(colours)
        lows += [low] * len(group)
        highs += [high] * len(group)
    table = MAPS["diverging" if signed else name]
    return Drawn(np.concatenate(pictures), np.array(lows, np.float32), np.array(highs, np.float32), table)


def draw_kernels(kernels: np.ndarray, *, common: bool = True, bgr: bool = False) -> Drawn:
    """Kernels over three colours as RGB pictures: zero is mid-grey, a weight of a colour is more or less of it.

    kernels   (N, 3, h, w) float
    common    one scale for all kernels, so that dead ones look flat; else one each
    bgr       the network takes blue first
    raises    UsageError for another shape
    """
    kernels = np.asarray(kernels, np.float32)
    if kernels.ndim != 4 or kernels.shape[1] != 3 or not kernels.size:
        raise UsageError(f"expected kernels (N, 3, h, w), got {kernels.shape}")
    finite = np.nan_to_num(kernels, posinf=0, neginf=0)
    limits = np.abs(finite).reshape(len(kernels), -1).max(axis=1)
    if common:
        limits = np.full_like(limits, limits.max())
    divisors = np.where(limits > 0, limits, 1).reshape(-1, 1, 1, 1)
    pictures = np.rint(127.5 + 127.5 * finite / divisors).astype(np.uint8).transpose(0, 2, 3, 1)
    if bgr:
        pictures = pictures[..., ::-1]
    pictures = np.ascontiguousarray(pictures)
    pictures[~np.isfinite(kernels).all(axis=1)] = NOT_A_NUMBER
    return Drawn(pictures, -limits, limits, MAPS["grey"])
