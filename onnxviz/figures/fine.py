"""Maps whose neighbouring pixels differ, as gradients are: drawn as they are, and smoothed over the photo.

Stretched over a photo such a map is a rash of specks that hides what lies under it. By itself it shows the edges that
the network responds to; smoothed over a few pixels it shows where they are many.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from onnxviz.figures.colour import diverging, normalise, overlay, sequential

#: Of all magnitudes, drawn in the deepest colour with what lies above, so that a few pixels do not pale the rest.
PERCENTILE: Final = 99.0
_LEVEL: Final = 1e-4
_SPREAD: Final = 1 / 56  # the smoothing's standard deviation as a part of the shorter side: 4 pixels of 224


def bare(values: np.ndarray, *, signed: bool, percentile: float = PERCENTILE) -> np.ndarray:
    """The map alone, (H, W, 3) uint8: bright on black, or red and blue on white where it is signed."""
    scaled, _ = normalise(values, signed=signed, percentile=percentile)
    return diverging(scaled) if signed else sequential(scaled, "inferno")


def over(photo: np.ndarray, values: np.ndarray, *, percentile: float = PERCENTILE) -> np.ndarray:
    """The smoothed magnitudes over the photo, (H, W, 3) uint8, coloured from their median up."""
    smooth = smoothed(values)
    return overlay(photo, smooth, percentile=percentile)


def smoothed(values: np.ndarray) -> np.ndarray:
    """Where the magnitudes lie thick: (H, W) float32, less their median, since noise is everywhere."""
    from scipy.ndimage import gaussian_filter

    magnitudes = np.nan_to_num(np.abs(np.asarray(values, np.float32)), posinf=0.0)
    smooth: np.ndarray = gaussian_filter(magnitudes, min(magnitudes.shape) * _SPREAD, mode="nearest")
    above = smooth - np.median(smooth)
    above[np.abs(above) < _LEVEL * smooth.max(initial=0)] = 0  # rounding, where the map is as good as level
    return above
