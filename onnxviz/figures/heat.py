"""Numbers as colours: perceptually uniform maps that colour-blind readers can use, and heat over a photo.

`inferno` and `viridis` are control points of the maps of that name by Nathaniel Smith and Stéfan van der Walt
(CC0). `ember` and `diverging` were made for this library with equal steps in the OKLab colour space (Björn
Ottosson 2020); the two ends of `diverging` differ in blue against yellow, which nearly everybody tells apart,
and in no other way that matters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from PIL import Image

from onnxviz.errors import UsageError

_POINTS: Final = {
    # From black by purple and orange to pale yellow: on a dark ground, the more the brighter.
    "inferno": "000004 0b0724 210c4a 3c0965 57106d 70196e 89226a a32b61 bb3755 d14644 e35932 f1711e f98d0a"
    " fcab0f f9ca32 f2e865 fcffa4",
    "viridis": "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26818e 21908c 1f9f88 28ae80 3ebc74 5dc963"
    " 82d34c abdc32 d5e21a fde725",
    # From near white by orange to dark red: over a photo or on white, the more the deeper.
    "ember": "fcfce5 fbf7bd fceb92 ffd969 ffc753 ffb33a ff9e22 fe8905 fa7300 f25e09 e54818 d7321f c71622"
    " b40026 9e0129 880028 740024",
    "grey": "000000 ffffff",
    # From blue (−1) by white (0) to red (+1), equally dark at both ends.
    "diverging": "144097 224fa8 305fb9 3d6fca 4480d9 4993e5 52a5f0 63b6f8 7bc6fa 97d5fb b6e2fc d5edfc f5f7f8"
    " ffe3d4 ffd1b6 ffbc96 ffa779 fb9060 f27a4d e56440 d64f39 c63a30 b32722 9d1a17 861210",
}


def _table(points: str) -> np.ndarray:
    """(256, 3) uint8 through the control points."""
    colours = np.array([list(bytes.fromhex(point)) for point in points.split()], np.float64)
    places = np.linspace(0, len(colours) - 1, 256)
    columns = [np.interp(places, np.arange(len(colours)), column) for column in colours.T]
    table: np.ndarray = np.rint(np.stack(columns, axis=1)).astype(np.uint8)
    table.flags.writeable = False
    return table


#: The maps by name, each (256, 3) uint8.
MAPS: Final[Mapping[str, np.ndarray]] = {name: _table(points) for name, points in _POINTS.items()}

#: What a value that is not a number is drawn as: a colour of no map.
NOT_A_NUMBER: Final = (255, 0, 255)


def _looked_up(places: np.ndarray, name: str) -> np.ndarray:
    if name not in MAPS:
        raise UsageError(f"no colour map is called {name!r}; there are {', '.join(MAPS)}")
    missing = np.isnan(places)
    indices = np.rint(np.clip(np.where(missing, 0, places), 0, 1) * 255).astype(np.intp)
    colours = MAPS[name][indices]
    if missing.any():
        colours[missing] = NOT_A_NUMBER
    return colours


def sequential(values: np.ndarray, name: str = "inferno") -> np.ndarray:
    """Colours (..., 3) uint8 of values 0 to 1; outside is clipped, NaN is magenta.

    name     'inferno', 'viridis', 'ember', 'grey'
    raises   UsageError for an unknown map
    """
    return _looked_up(np.asarray(values, np.float32), name)


def diverging(values: np.ndarray) -> np.ndarray:
    """Colours (..., 3) uint8 of values −1 (blue) by 0 (white) to 1 (red); outside is clipped, NaN is magenta."""
    return _looked_up((np.asarray(values, np.float32) + 1) / 2, "diverging")


def normalise(
    heat: np.ndarray,
    *,
    signed: bool = False,
    percentile: float = 99.0,
    limit: float | None = None,
) -> tuple[np.ndarray, float]:
    """Values scaled for drawing, and the value that was scaled to 1.

    A few extreme pixels would leave everything else pale, so what lies beyond the percentile is clipped to it.

    heat         any shape, float
    signed       scale to −1...1, zero in the middle; else to 0...1, what is negative becoming 0
    percentile   the part of all magnitudes that is told apart; 100 scales by the maximum
    limit        the value that becomes 1, so that several pictures have one scale; None: found by `percentile`
    returns      float32 of heat's shape (0 where it was NaN), and the limit (0 where nothing is to be drawn)
    """
    finite = np.nan_to_num(np.asarray(heat, np.float32), posinf=np.inf, neginf=-np.inf)
    magnitudes = np.abs(finite) if signed else np.maximum(finite, 0)
    if limit is None:
        bounded = magnitudes[np.isfinite(magnitudes)]
        limit = _percentile(bounded, percentile) if bounded.size else 0.0
        if limit <= 0 and bounded.size:  # nearly everything is zero: the few that are not still show
            limit = float(bounded.max())
    if not (limit > 0 and np.isfinite(limit)):
        return np.zeros_like(finite), 0.0
    scaled = np.clip(finite, -limit if signed else 0.0, limit) / np.float32(limit)
    return np.clip(scaled, -1, 1, out=scaled), limit


def _percentile(values: np.ndarray, percent: float) -> float:
    """As numpy's, which imports numpy.ma for that and for a median."""
    place = percent / 100 * (values.size - 1)
    low, high = math.floor(place), math.ceil(place)
    least, most = np.partition(values, (low, high), axis=None)[[low, high]].astype(np.float64)
    return float(np.float32(least + (most - least) * (place - low)))


def fit(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map (h, w) at another size, (height, width) float32, smoothly: its values are samples, not squares."""
    heat = np.ascontiguousarray(heat, np.float32)
    if heat.shape == (height, width):
        return heat
    return np.asarray(Image.fromarray(heat).resize((width, height), Image.Resampling.BILINEAR))


# How the photo gives way under the heat.
_GREYED = 0.8  # how much of the photo's colour goes where there is no heat; all of it under the full heat
_OPACITY = 0.82  # of the full heat
_LIGHTENED = 0.22  # how far the photo goes towards white, so that deep colours show on its dark parts too
_RISE = 0.85  # below 1: weak heat shows a little earlier
_SHADE = 0.4  # how much of the photo's light and dark is kept in the heat's colour


def overlay(
    image: np.ndarray,
    heat: np.ndarray,
    *,
    signed: bool = False,
    percentile: float = 99.0,
    limit: float | None = None,
    noise: float = 0.0,
) -> np.ndarray:
    """A map over a photo: the more, the deeper the colour; where there is nothing, the photo. (H, W, 3) uint8.

    The photo loses colour but keeps light and dark, also under the deepest colour, so that what lies there can
    still be recognised.

    image        (H, W, 3) uint8
    heat         (h, w) float of any size, stretched over the image
    signed       draw negative values in blue; else they are not drawn
    percentile, limit   as in `normalise`
    noise        of the map's values: what is no larger is not drawn, full strength begins at three times it
    raises       UsageError for shapes that do not fit
    """
    image, heat = np.asarray(image), np.asarray(heat)
    if image.ndim != 3 or image.shape[2] != 3 or heat.ndim != 2 or not heat.size or not image.size:
        raise UsageError(
            f"expected an image (H, W, 3) and a map (h, w) over it, got {image.shape} and {heat.shape}"
        )
    scaled, top = normalise(heat, signed=signed, percentile=percentile, limit=limit)
    scaled = fit(scaled, *image.shape[:2])
    colours = (diverging(scaled) if signed else sequential(scaled, "ember")).astype(np.float32)
    amount = (np.abs(scaled) ** _RISE)[:, :, None]
    photo = image.astype(np.float32)
    grey = (photo @ np.array([0.299, 0.587, 0.114], np.float32))[:, :, None]
    faded = photo + (grey - photo) * (_GREYED + (1 - _GREYED) * amount)
    faded += (255 - faded) * _LIGHTENED
    shaded = colours * (1 - _SHADE / 2 + _SHADE * grey / 255)
    if noise > 0 and top > 0:
        amount *= np.clip((np.abs(scaled)[:, :, None] * top / noise - 1) / 2, 0, 1)
    opacity = _OPACITY * amount
    mixed = faded * (1 - opacity) + shaded * opacity
    result: np.ndarray = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return result


# --- maps whose neighbouring pixels differ, as gradients do -------------------------------------
# Stretched over a photo such a map is a rash of specks that hides what lies under it. By itself it shows the edges that
# the network responds to; smoothed over a few pixels it shows where they are many.

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
    magnitudes = np.nan_to_num(np.abs(np.asarray(values, np.float32)), posinf=0.0)
    deviation = min(magnitudes.shape) * _SPREAD
    smooth = blurred(magnitudes, deviation, deviation)
    above = smooth - np.float32(_percentile(smooth, 50))
    above[np.abs(above) < _LEVEL * smooth.max(initial=0)] = 0  # rounding, where the map is as good as level
    return above


def blurred(values: np.ndarray, down: float, across: float) -> np.ndarray:
    """A finite map (H, W) under a Gaussian of these deviations in places, float32; its edge is drawn out.

    By products of matrices: scipy's, equal to rounding, takes longer to import than the whole picture to draw.
    """
    height, width = values.shape
    halfway = (_gaussian(height, down) @ values).astype(np.float32)
    smooth: np.ndarray = (halfway @ _gaussian(width, across).T).astype(np.float32)
    return smooth


def _gaussian(side: int, deviation: float) -> np.ndarray:
    """(side, side) float64: the weights of each place's neighbours, as far as four deviations."""
    reach = int(4 * deviation + 0.5)
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (steps / deviation) ** 2)
    places = np.arange(side)[:, None]
    matrix = np.zeros((side, side))
    np.add.at(matrix, (places, np.clip(places + steps, 0, side - 1)), weights / weights.sum())
    return matrix
