"""Where the network's view lies in a picture, so that a picture with a changed view can be saved whole."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from onnxviz.errors import ImageRejected

if TYPE_CHECKING:
    from onnxviz.image.recipe import Preprocessing

_MOST_PIXELS = 1 << 26


@dataclass(frozen=True)
class Frame:
    """A picture as large as the network resizes it, and the part of it that the network sees.

    whole      (H, W, 3) uint8. Prepared once more it is neither resized nor cut elsewhere: the network sees `view`
    view       (h, w, 3) uint8
    moves      (h, w) bool, which pixels of the view are the picture's and not padding; None: all
    """

    whole: np.ndarray
    view: np.ndarray
    moves: np.ndarray | None
    _place: tuple[slice, slice]
    _inside: tuple[slice, slice]

    def with_view(self, view: np.ndarray) -> np.ndarray:
        """The whole picture with another view, (H, W, 3) uint8."""
        result = self.whole.copy()
        result[self._place] = view[self._inside]
        return result


def frame(recipe: Preprocessing, image: np.ndarray) -> Frame:
    """The frame of a picture (H, W, 3) uint8.

    raises   ImageRejected where it is so long and thin that it would be resized to gigabytes
    """
    g = recipe.geometry(*image.shape[:2])
    if g.height * g.width > _MOST_PIXELS:
        raise ImageRejected(
            f"a picture of {image.shape[1]}×{image.shape[0]} pixels is resized to {g.width}×{g.height} for this "
            "network; crop it first"
        )
    stretched = replace(recipe, size=(g.height, g.width), resize="stretch", crop_fraction=1.0)
    whole, view = stretched.view(image), recipe.view(image)
    h, w = view.shape[:2]
    padded = g.top < 0 or g.left < 0 or g.height < h or g.width < w
    if padded:
        inside = (slice(-g.top, -g.top + g.height), slice(-g.left, -g.left + g.width))
        place = (slice(0, g.height), slice(0, g.width))
        moves = np.zeros((h, w), bool)
        moves[inside] = True
        return Frame(whole, view, moves, place, inside)
    place = (slice(g.top, g.top + h), slice(g.left, g.left + w))
    return Frame(whole, view, None, place, (slice(0, h), slice(0, w)))
