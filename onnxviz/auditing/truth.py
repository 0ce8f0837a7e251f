"""What the pictures really show: classes from a table, or from the folders that they lie in; and masks, found by the
pictures' names, held to their sizes, cut as the network sees them."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from onnxviz.auditing import accept
from onnxviz.errors import ImageRejected, UnknownLabel, UsageError
from onnxviz.image.folder import find
from onnxviz.image.io import read as read_picture
from onnxviz.image.preprocessing import Preprocessing
from onnxviz.labels import find_label
from onnxviz.limits import Limits
from onnxviz.text import quoted

#: In place of a table: each picture's class is called as its folder.
FOLDERS: Final = "folders"
# What the first line of a table may say of its columns.
_NAMES: Final = frozenset({"file", "filename", "image", "img", "name", "path", "picture", "id"})
_EXPECTED: Final = "expected lines of picture and class, such as photos/cat.jpg,285, or 'folders'"


def read_truth(
    source: Any,
    pictures: Sequence[Any],
    labels: Sequence[str] | None,
    classes: int | None,
    limits: Limits | None = None,
) -> list[int | None]:
    """The class index of each picture, None where it is not known.

    source     a CSV file of picture and class (an index or a label), with or without a head; 'folders': the name of
               each picture's folder; {path or file name: class}; or a class for each picture in their order
    pictures   paths, or anything else, which has no name
    labels     the classes' names, where there are any
    raises     UsageError: no such file, a class that there is none of, no picture that has one
    """
    named: list[Any]
    if isinstance(source, Mapping):
        named = _looked_up({os.fspath(name): one for name, one in source.items()}, pictures, Path())
    elif not isinstance(source, (str, os.PathLike)):
        named = list(source)
        if len(named) != len(pictures):
            raise UsageError(
                f"{len(named)} true classes were given for {len(pictures)} pictures; give one for each"
            )
    elif os.fspath(source) == FOLDERS:
        named = [None if path is None else Path(path).parent.name for path in _paths(pictures)]
    else:
        named = _looked_up(_table(Path(source), limits or Limits()), pictures, Path(source).parent)
    known: dict[Any, int] = {}
    for one in named:
        if one is not None and one not in known:
            try:
                known[one] = find_label(one, labels, classes)
            except UnknownLabel as error:
                raise UnknownLabel(f"true class {quoted(one)}: {error}") from error
    if not known:
        raise UsageError(f"none of the {len(pictures)} pictures has a true class there; {_EXPECTED}")
    return [None if one is None else known[one] for one in named]


def _looked_up(table: Mapping[str, Any], pictures: Sequence[Any], beside: Path) -> list[Any]:
    """What a table says of each picture: by its path, from where the table lies too, or by its file name alone.

    A name counts that the table has without a folder, or that is there once in the table and among the pictures.
    """
    paths = {os.path.normpath(name): one for name, one in table.items()}
    paths |= {os.path.normpath(beside / name): one for name, one in table.items()}
    own = _paths(pictures)
    often = Counter(_last(path) for path in own if path is not None)
    called = Counter(map(_last, table))
    short = {
        _last(name): one
        for name, one in table.items()
        if name == _last(name) or called[_last(name)] == often[_last(name)] == 1
    }
    return [path and paths.get(os.path.normpath(path), short.get(_last(path))) for path in own]


def _paths(pictures: Sequence[Any]) -> list[str | None]:
    return [os.fspath(one) if isinstance(one, (str, os.PathLike)) else None for one in pictures]


def _last(path: str) -> str:
    """The file's name in a path, whichever system wrote it."""
    return re.split(r"[/\\]", path)[-1]


def _table(path: Path, limits: Limits) -> dict[str, str]:
    try:
        text = accept.read_text(path, "true classes", limits.text_bytes)
    except UsageError as error:
        raise UsageError(f"{error}; {_EXPECTED}") from error
    separator = next((one for one in ("\t", ";", ",") if one in text.partition("\n")[0]), ",")
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(map(str.strip, row))]
    except csv.Error as error:
        raise UsageError(f"{quoted(path)} is no table: {error}; {_EXPECTED}") from error
    if rows and rows[0][0].strip().casefold() in _NAMES:
        rows = rows[1:]
    short = next((row for row in rows if len(row) < 2), None)
    if short is not None or not rows:
        raise UsageError(f"{quoted(path)} is no table of picture and class; {_EXPECTED}")
    return {row[0].strip(): row[1].strip() for row in rows}


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
    named = {at: Path(one) for at, one in enumerate(_paths(pictures)) if one is not None}
    beside, alone = _once(masks, _beside), _once(masks, lambda path: path.stem)
    own = _once(list(named.values()), lambda path: path.stem)
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
        pixels = read_picture(path, limits=limits).max(axis=2)
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
