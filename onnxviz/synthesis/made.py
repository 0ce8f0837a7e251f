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
_FULL = 99.5  # percentile of the differences from the middle that becomes black or white


@dataclass
class Made(Result):
    """Pictures that were made.

    values     (N, H, W, 3) float32, 0 to 1
    labels     what each shows
    captions   one line more for each, or none
    title      what stands above the sheet
    shown      the pictures as they are shown, where that is not as they were made (`stretched`)
    """

    labels: list[str]
    captions: list[str] = field(default_factory=list)
    title: str = ""
    shown: np.ndarray | None = field(default=None, repr=False)

    def pictures(self) -> np.ndarray:
        """(N, H, W, 3) uint8, as they are shown."""
        shown = self.values if self.shown is None else self.shown
        assert shown is not None
        return as_bytes(shown)

    def picture(self) -> Image.Image:
        """The picture itself where there is one as it was made; otherwise a sheet of all with what each shows."""
        from PIL import Image

        from onnxviz.figures import sheet

        pictures = list(self.pictures())
        if len(pictures) == 1 and self.shown is None:
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


def stretched(pictures: np.ndarray, middle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each picture's contrast stretched until it fills black to white: (pictures, the factor of each).

    As Yosinski et al. 2015 show theirs: `middle` becomes middle grey, all colours share one factor. The largest half
    per cent of the differences run into black or white, so that single pixels do not decide how dark the rest is.

    pictures   (N, H, W, 3), 0 to 1
    middle     (3,), the network's mean colour
    """
    apart = np.asarray(pictures, np.float64) - np.asarray(middle, np.float64)
    reach = np.percentile(np.abs(apart), _FULL, axis=(1, 2, 3))
    factors = 0.5 / np.maximum(reach, 1e-12)
    return np.clip(0.5 + apart * factors[:, None, None, None], 0, 1).astype(np.float32), factors


def clipped(pictures: np.ndarray) -> np.ndarray:
    """The share of each picture's values, (N, H, W, 3) of 0 to 1, that are black or white in 256 levels. (N,)"""
    levels = as_bytes(pictures).reshape(len(pictures), -1)
    share: np.ndarray = ((levels == 0) | (levels == 255)).mean(axis=1)
    return share


def rounded(number: Any, digits: int = 6) -> float:
    """A float for a manifest, to so many significant digits."""
    return float(f"{float(number):.{digits}g}")
