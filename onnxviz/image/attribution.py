"""An attribution as a picture: the photo, the map over it, and the scale of its colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxviz.image.colour import MAPS, normalise, overlay
from onnxviz.image.sheet import scale_bar, side_by_side

if TYPE_CHECKING:
    from PIL import Image

    from onnxviz.results import Attribution


def draw(attribution: Attribution, *, height: int = 360, percentile: float = 99.5) -> Image.Image:
    """The photo and the map over it, side by side, with a scale below.

    height       of both, in pixels
    percentile   of the map's magnitudes that has the deepest colour
    """
    signed = attribution.signed
    values = attribution.values
    if values is None:
        values = np.zeros(attribution.image.shape[:2], np.float32)
    _, limit = normalise(values, signed=signed, percentile=percentile)
    over = overlay(attribution.image, values, signed=signed, limit=limit or 1.0)
    score = f"\nscore {attribution.score:.4g}" if attribution.score is not None else ""
    meaning = "red speaks for it, blue against it" if signed else "the deeper the colour, the more it matters"
    bar = scale_bar(-limit if signed else 0.0, limit, MAPS["diverging" if signed else "ember"])
    return side_by_side(
        [(attribution.image, f"{attribution.label}{score}"), (over, f"{attribution.method}\n{meaning}")],
        height=height,
        foot=[bar] if limit > 0 else [],
    )
