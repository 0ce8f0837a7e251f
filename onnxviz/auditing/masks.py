"""Masks of what pictures show: found by the pictures' names, held to their sizes, cut as the network sees them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from onnxviz.errors import ImageRejected, UsageError
from onnxviz.image import io
from onnxviz.image.folder import find
from onnxviz.limits import Limits
from onnxviz.text import quoted

if TYPE_CHECKING:
    from onnxviz.image.preprocessing import Preprocessing

K = TypeVar("K")


def find_masks(
    folder: str | os.PathLike[str], pictures: Sequence[Any], recipe: Preprocessing
) -> dict[int, Path]:
    """The mask of each picture that has one, by the picture's place.

    A mask is called like its picture, whatever it ends in: in a folder of the same name as the picture's, or, where
    that name is there once among the masks and once among the pictures, anywhere.

    raises   UsageError: no such folder, none of the pictures has a mask, one that cannot be read, one of another size
             than its picture
    """
    place = Path(folder)
    if not place.is_dir():
        raise UsageError(f"--masks {quoted(os.fspath(folder))} is no folder")
    masks = list(find(place).images)
    named = {at: Path(one) for at, one in enumerate(pictures) if isinstance(one, (str, os.PathLike))}
    beside, alone = _once(masks, _beside), _once(masks, _alone)
    own = _once(list(named.values()), _alone)
    found: dict[int, Path] = {}
    for at, picture in named.items():
        mask = beside.get(_beside(picture)) or (alone.get(picture.stem) if picture.stem in own else None)
        if mask is not None:
            found[at] = mask
    if not found:
        raise UsageError(
            f"none of the {len(pictures)} pictures has a mask in {quoted(os.fspath(folder))} ({len(masks)} pictures "
            "are there); a mask is called like its picture, such as masks/cat.png of photos/cat.jpg"
        )
    for at, mask in found.items():
        _hold(mask, named[at], recipe)
    return found


def _alone(path: Path) -> str:
    return path.stem


def _beside(path: Path) -> tuple[str, str]:
    return path.parent.name, path.stem


def _once(paths: Sequence[Path], key: Callable[[Path], K]) -> dict[K, Path]:
    """Those whose key no other has."""
    often = Counter(map(key, paths))
    return {key(one): one for one in paths if often[key(one)] == 1}


def _hold(mask: Path, picture: Path, recipe: Preprocessing) -> None:
    """Refuse a mask of another size; that a picture cannot be read is told elsewhere."""
    try:
        height, width = recipe.read(picture).shape[:2]
    except ImageRejected:
        return
    y, x = read_mask(mask, recipe.limits).shape
    if (y, x) != (height, width):
        raise UsageError(
            f"the mask {quoted(mask)} is {x}×{y}, its picture {quoted(picture)} {width}×{height}; a mask has "
            "the size of its picture"
        )


def read_mask(path: Path, limits: Limits | None = None) -> np.ndarray:
    """(H, W) boolean: where a channel is above half of the mask's largest value, so that masks of 0 and 1 do, too.

    raises   UsageError
    """
    try:
        pixels = io.read(path, limits=limits).max(axis=2)
    except ImageRejected as error:
        raise UsageError(f"--masks: {error}") from error
    inside: np.ndarray = pixels > int(pixels.max(initial=0)) / 2
    return inside


def seen_mask(recipe: Preprocessing, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two (h, w) booleans over what the network sees of the picture: inside the mask, and outside it; padding is
    neither."""

    def view(inside: Any) -> np.ndarray:
        grey = np.broadcast_to(np.where(inside, 255, 0).astype(np.uint8), mask.shape)
        return recipe.view(np.repeat(grey[:, :, None], 3, axis=2))[:, :, 0]

    shown = view(True) != view(False)
    inside = view(mask) > 127
    return inside & shown, ~inside & shown
