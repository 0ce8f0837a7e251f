"""How many scenes pictures show: crops of one photo are one, wherever they were cut and however they were resized."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

_SIDE: Final = 64  # the longer side that pictures are compared at
_PATCH: Final = 24
_SCALES: Final = 2.0 ** np.arange(-1, 1.01, 0.125)  # of one picture against the other
_PLACES: Final = (0.2, 0.5, 0.8)  # of a patch, along each side
_COARSE: Final = 3.0  # pixels: what varies more slowly is alike in many pictures
_FLAT: Final = 3.0  # grey levels: patches that vary by less are alike everywhere
# Correlation of a patch with a place of the other picture. Crops of 17 photos, two of each, three draws: over it in 39
# of 51 pairs of one photo (of the others some share nothing), at most 0.78 in 1,632 pairs of different ones.
_SAME: Final = 0.8


def scenes(views: Sequence[np.ndarray], part: Any) -> int:
    """How many different scenes there are.

    views   (h, w, C), as the network sees them, all of one shape
    part    `rows` and `columns` of them that are not compared: what was pasted, or may be a mark, makes no scene
    """
    windows = [_windows(view, part) for view in views]
    found = list(range(len(views)))
    for i, view in enumerate(views):
        patches = _patches(view, part)
        for j in range(i):
            if found[i] != found[j] and _meet(windows[j], patches):
                found = [found[i] if one == found[j] else one for one in found]
    return len(set(found))


def apart(view: np.ndarray, others: Sequence[np.ndarray], part: Any) -> list[bool]:
    """Of each of the others, whether it shows another scene."""
    patches = _patches(view, part)
    return [not _meet(_windows(other, part), patches) for other in others]


def _meet(windows: np.ndarray, patches: np.ndarray) -> bool:
    return bool((windows @ patches.T).max(initial=0) > _SAME)


def _windows(view: np.ndarray, part: Any) -> np.ndarray:
    """All windows of a patch's size that do not touch the part, normalised: (n, numbers)."""
    shape = (_PATCH, _PATCH)
    grey, kept = (np.lib.stride_tricks.sliding_window_view(one, shape) for one in _small(view, part, 1.0))
    return _normalised(grey[kept.all(axis=(2, 3))])


def _patches(view: np.ndarray, part: Any) -> np.ndarray:
    """A few windows of the picture at each scale, the same way."""
    found = []
    for scale in _SCALES:
        grey, kept = _small(view, part, float(scale))
        for at in itertools.product(_PLACES, _PLACES):
            y, x = (round(place * (side - _PATCH)) for place, side in zip(at, grey.shape, strict=True))
            if min(grey.shape) >= _PATCH and kept[y : y + _PATCH, x : x + _PATCH].all():
                found.append(grey[y : y + _PATCH, x : x + _PATCH])
    return _normalised(np.array(found))


def _normalised(windows: np.ndarray) -> np.ndarray:
    """As rows of mean 0 and length 1, without those that hardly vary."""
    rows = windows.reshape(-1, _PATCH**2)
    rows = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1)
    varied = lengths > _FLAT * _PATCH
    return np.asarray(rows[varied] / lengths[varied, None], np.float32)


def _small(view: np.ndarray, part: Any, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) float32, the longer side `_SIDE` times the scale, without what varies slowly; and what is not the part."""
    from PIL import Image
    from scipy.ndimage import gaussian_filter

    grey = Image.fromarray(view.astype(np.float32).mean(axis=2))
    height, width = (max(1, round(side * scale * _SIDE / max(view.shape[:2]))) for side in view.shape[:2])
    planes = np.asarray(grey.resize((width, height), Image.Resampling.BOX))
    kept = np.ones((height, width), bool)
    rows, columns = (
        slice(one.indices(whole)[0] * side // whole, -(-one.indices(whole)[1] * side // whole))
        for one, whole, side in zip((part.rows, part.columns), view.shape[:2], kept.shape, strict=True)
    )
    kept[rows, columns] = False
    return planes - gaussian_filter(planes, _COARSE), kept
