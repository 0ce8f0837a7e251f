"""What a technique gives back: arrays first, then a picture, then a manifest."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.files import json_bytes, npy_bytes, png_bytes, write_atomic

if TYPE_CHECKING:
    from PIL import Image


@dataclass
class Result:
    """The base of every result.

    values     the raw numbers, float32, or None where a technique has none
    manifest   the run manifest: model digest, versions, provider, preprocessing, parameters, seed, figures
    """

    values: np.ndarray | None
    manifest: dict[str, Any] = field(repr=False)

    def picture(self) -> Image.Image:
        """The result drawn as a picture (a PIL image, RGB)."""
        raise TypeError(f"{type(self).__name__} has no picture")

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture to `path` (PNG), and beside it NAME.npy (raw values) and NAME.json (manifest).

        Each file appears whole or not at all; the picture comes last, so where it is, the others are.

        raises   OutputRefused
        """
        target = Path(path)
        if target.suffix.lower() != ".png":
            target = target.with_name(target.name + ".png")
        picture = png_bytes(self.picture())
        if self.values is not None:
            write_atomic(target.with_suffix(".npy"), npy_bytes(self.values))
        write_atomic(target.with_suffix(".json"), json_bytes(self.manifest))
        return write_atomic(target, picture)

    def _repr_png_(self) -> bytes:
        return png_bytes(self.picture())


@dataclass
class Attribution(Result):
    """A map over the input that says how much each place matters to one objective.

    values   (H, W) float32; larger is more important, negative speaks against the objective
    image    (H, W, 3) uint8, the picture as the network sees it
    target   the class index, or None for another objective
    label    what `target` is called
    method   the technique's name
    score    the objective's value on the whole image (a probability for a class)
    signed   whether negative values mean something: drawn in a diverging colour map
    percentile   of the magnitudes that is drawn in the deepest colour, with all that lies above; None: the method's own
    """

    image: np.ndarray = field(repr=False)
    target: int | None
    label: str
    method: str
    score: float | None = None
    signed: bool = False
    percentile: float | None = None

    def picture(self) -> Image.Image:
        """The map over the photo, deeper where it matters more, with a scale."""
        from onnxviz.image.attribution import draw

        return draw(self)
