"""What techniques give that make pictures: the pictures, what each shows, and a sheet of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.optimise.shot import as_bytes
from onnxviz.results import Result

if TYPE_CHECKING:
    from PIL import Image

# A picture alone is shown at least this large; more of them than this stand as small tiles.
_LEAST_SIDE = 224
_MOST_CARDS = 24


@dataclass
class Made(Result):
    """Pictures that were made.

    values     (N, H, W, 3) float32, 0 to 1
    labels     what each shows
    captions   one line more for each, or none
    title      what stands above the sheet
    """

    labels: list[str]
    captions: list[str] = field(default_factory=list)
    title: str = ""

    def pictures(self) -> np.ndarray:
        """(N, H, W, 3) uint8."""
        assert self.values is not None
        return as_bytes(self.values)

    def picture(self) -> Image.Image:
        """The picture itself where there is one; otherwise a sheet of all with what each shows."""
        from PIL import Image

        from onnxviz.image import sheet

        pictures = list(self.pictures())
        if len(pictures) == 1:
            alone = Image.fromarray(pictures[0])
            times = -(-_LEAST_SIDE // max(alone.size))
            if times > 1:
                alone = alone.resize((alone.width * times, alone.height * times), Image.Resampling.BICUBIC)
            return alone
        if len(pictures) > _MOST_CARDS:
            return sheet.tiles(pictures, labels=self.labels, title=self.title)
        texts = [
            "\n".join(lines) for lines in zip(self.labels, self.captions or [""] * len(pictures), strict=True)
        ]
        return sheet.side_by_side(list(zip(pictures, texts, strict=True)), title=self.title)


def clipped(pictures: np.ndarray) -> np.ndarray:
    """The share of each picture's values, (N, H, W, 3) of 0 to 1, that are black or white in 256 levels. (N,)"""
    levels = as_bytes(pictures).reshape(len(pictures), -1)
    share: np.ndarray = ((levels == 0) | (levels == 255)).mean(axis=1)
    return share


def rounded(number: Any, digits: int = 6) -> float:
    """A float for a manifest, to so many significant digits."""
    return float(f"{float(number):.{digits}g}")
