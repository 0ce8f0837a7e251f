"""An attribution as a picture: the photo, the map over it, and the scale of its colours."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz.image.colour import MAPS, normalise, overlay
from onnxviz.image.page import scaled
from onnxviz.image.sheet import scale_bar, side_by_side

if TYPE_CHECKING:
    from PIL import Image

    from onnxviz.results import Attribution

_PERCENTILE: Final = (
    99.5  # what lies above shares the deepest colour, so that a few pixels do not pale the rest
)
_LOWEST: Final = 50.0


@dataclass(frozen=True)
class Reading:
    """How a method's map is to be read.

    meaning    what a deep colour says; {what} is the probability or the score
    scale      what the numbers of the scale are
    zero       whether the map is coloured from 0 up; else from its median, where it has no zero of its own
    """

    meaning: str
    scale: str
    zero: bool = True


_READINGS: Final = {
    "occlusion": Reading(
        "the deeper the colour, the more the {what} falls when a window covers the place", "fall in {what}"
    ),
    "rise": Reading(
        "the deeper the colour, the higher the {what} when the place shows through a random mask",
        "mean {what} when the place shows",
        zero=False,
    ),
}
_SIGNED: Final = Reading("red speaks for it, blue against it", "")
_PLAIN: Final = Reading("the deeper the colour, the more it matters", "")


def draw(attribution: Attribution, *, height: int = 448) -> Image.Image:
    """The photo and the map over it, side by side, with a scale below.

    The photo's caption names the class and its probability. For occlusion, the window whose covering costs most is
    outlined on the photo, and what is left of the probability without it stands in the caption. RISE has no zero of
    its own, so its map is coloured from its median up.

    height   of both, in pixels
    """
    signed = attribution.signed
    reading = _READINGS.get(attribution.method, _SIGNED if signed else _PLAIN)
    parameters, figures = (attribution.manifest.get(part) or {} for part in ("parameters", "figures"))
    photo = np.asarray(scaled(attribution.image, 2 * height, height))
    values = _smooth(attribution, parameters)
    low = 0.0
    if not reading.zero and np.isfinite(values).any():
        low = float(np.median(values[np.isfinite(values)]))
    _, limit = normalise(values - low, signed=signed, percentile=_PERCENTILE)
    over = overlay(photo, values - low, signed=signed, limit=limit or 1.0)
    what = "probability" if attribution.target is not None else "score"
    percent = attribution.target is not None and bool(reading.scale)
    foot = []
    if limit > 0:
        factor = 100 if percent else 1
        label = reading.scale.format(what=what)
        if percent:
            label += " (percentage points)" if reading.zero else " (percent)"
        colours = MAPS["diverging" if signed else "ember"]
        foot.append(
            scale_bar(
                (-limit if signed else low) * factor, (low + limit) * factor, colours, label=label, width=360
            )
        )
    show = _percent if attribution.target is not None else "{:.4g}".format
    first = attribution.label
    if attribution.score is not None:
        first += f"  {show(attribution.score)}"
    window = _deepest(figures)
    if window is not None:
        photo = _outlined(photo, window, attribution.image.shape)
        left = (attribution.score or 0.0) - figures["largest_fall"]
        first += f"\nwith the marked window covered: {show(left)}"
    elif "mean_masked_score" in figures:
        first += f"\nthrough random masks: {show(figures['mean_masked_score'])} on average"
    meaning = reading.meaning.format(what=what) if limit > 0 else "nothing stands out anywhere"
    return side_by_side(
        [(photo, first), (over, f"{_name(attribution, parameters, figures)}\n{meaning}")],
        height=height,
        foot=foot,
    )


def _percent(value: float) -> str:
    """A probability as a reader wants it: 38.9%, 0.052%, 99.98%; with up to six digits near 0 and 100."""
    if not math.isfinite(value) or not 0 < value < 1:
        return f"{100 * value:.3g}%"
    digits = max(1, 1 - math.floor(math.log10(100 * min(value, 1 - value)) + 1e-9))
    return f"{100 * value:.{min(digits, 6)}f}%"


def _name(attribution: Attribution, parameters: dict[str, Any], figures: dict[str, Any]) -> str:
    """The method, with what decides its resolution, and how far it came if it was interrupted."""
    text = attribution.method
    if text == "occlusion" and "window" in parameters and "stride" in parameters:
        (h, w), (down, across) = parameters["window"], parameters["stride"]
        step = f"{across}" if down == across else f"{across} across and {down} down"
        text = f"occlusion: {parameters.get('fill', '')} windows of {w}×{h} pixels, every {step}"
    elif text == "rise":
        text = "RISE" + (f": {parameters['masks']} random masks" if "masks" in parameters else "")
    for unit in ("windows", "masks"):
        if f"{unit}_done" in figures:
            text += f" (interrupted after {figures[f'{unit}_done']} of {figures[unit]})"
    return text


def _smooth(attribution: Attribution, parameters: dict[str, Any]) -> np.ndarray:
    """The values to draw: for occlusion its samples without the edges of its windows, for others as they are."""
    values = attribution.values
    if values is None:
        return np.zeros(attribution.image.shape[:2], np.float32)
    stride = parameters.get("stride")
    if attribution.method != "occlusion" or not stride or max(stride) < 2 or not np.isfinite(values).all():
        return values
    from scipy.ndimage import gaussian_filter

    smooth: np.ndarray = gaussian_filter(values, [side / 2 for side in stride], mode="nearest")
    return smooth


def _deepest(figures: dict[str, Any]) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right) of the window whose covering lowered the score most, if one did."""
    box = figures.get("largest_fall_window")
    if not box or not figures.get("largest_fall", 0) > 0:
        return None
    return box["top"], box["left"], box["bottom"], box["right"]


def _outlined(photo: np.ndarray, box: tuple[int, int, int, int], shape: tuple[int, ...]) -> np.ndarray:
    """The photo with a frame around `box`, which counts in pixels of a picture of `shape`."""
    from PIL import Image, ImageDraw

    y, x = photo.shape[0] / shape[0], photo.shape[1] / shape[1]
    top, left, bottom, right = box
    edges = round(left * x), round(top * y), round(right * x) - 1, round(bottom * y) - 1
    picture = Image.fromarray(photo)
    canvas = ImageDraw.Draw(picture)
    # Dark around light: one of the two shows on any photo.
    canvas.rectangle(edges, outline=(20, 20, 20), width=4)
    canvas.rectangle(
        (edges[0] + 1, edges[1] + 1, edges[2] - 1, edges[3] - 1), outline=(255, 255, 255), width=2
    )
    return np.asarray(picture)
