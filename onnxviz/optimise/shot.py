"""What a technique tells whoever watches it: one step of all, with a picture that is made when asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Shot:
    """One step.

    index     from 0, over the whole run of the technique
    total     how many steps there will be; None where that is not known
    value     the objective, averaged over the pictures that are being made
    terms     each term's weighted value, averaged, by its label
    seconds   since the technique began
    picture   makes the picture as it now stands: (H, W, 3) uint8. Only until the next step.
    """

    index: int
    total: int | None
    value: float
    terms: dict[str, float]
    seconds: float
    picture: Callable[[], np.ndarray] = field(repr=False)


#: Called after each step. It must not keep the shot's `picture` for later.
Watch = Callable[[Shot], None]


def unwatched(shot: Shot) -> None:
    """The watch that nobody keeps."""


def as_bytes(pictures: np.ndarray) -> np.ndarray:
    """Pictures of 0 to 1 as uint8 of 0 to 255, rounded."""
    whole: np.ndarray = np.rint(np.clip(pictures, 0, 1) * 255).astype(np.uint8)
    return whole


def side_by_side(pictures: np.ndarray, most: int = 4) -> np.ndarray:
    """(N, H, W, 3) as one picture, (h, w, 3) of the same type: at most `most` in a row, black where none is left."""
    count, height, width, _ = pictures.shape
    columns = min(count, most)
    rows = -(-count // columns)
    whole = np.zeros((rows * height, columns * width, 3), pictures.dtype)
    for i, picture in enumerate(pictures):
        y, x = i // columns * height, i % columns * width
        whole[y : y + height, x : x + width] = picture
    return whole
