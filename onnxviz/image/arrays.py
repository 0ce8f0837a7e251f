"""Pictures that are no RGB pictures: arrays of any number of channels, given as such or as .npy files."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz.errors import ImageRejected
from onnxviz.limits import Limits
from onnxviz.text import printable

if TYPE_CHECKING:
    from onnxviz.image.recipe import Recipe

#: The ending of the files that hold an array.
SUFFIX: Final = ".npy"


def is_file(source: Any) -> bool:
    """Whether `source` is the path of an array's file, by its name."""
    return isinstance(source, (str, os.PathLike)) and Path(os.fsdecode(source)).suffix.lower() == SUFFIX


def load(path: str | os.PathLike[str], *, limits: Limits | None = None) -> np.ndarray:
    """The array in a .npy file; nothing in it is ever executed, and no more is read than it holds.

    limits   max_bytes
    raises   ImageRejected
    """
    from onnxviz.image.io import read_bytes

    name = printable(path, 200)
    data = read_bytes(os.fsdecode(path), name, (limits or Limits()).max_bytes, "max_bytes")
    try:
        file = io.BytesIO(data)
        version = np.lib.format.read_magic(file)
        header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = header(file)
        if dtype.hasobject:
            raise ImageRejected(f"{name}: it holds Python objects, not numbers; save a plain array")
        array = np.frombuffer(data, dtype, offset=file.tell())
        found: np.ndarray = array.reshape(shape, order="F" if fortran else "C")
    except ImageRejected:
        raise
    except (
        Exception
    ) as error:  # a stranger's header: SyntaxError, ValueError, OverflowError, UnicodeError, ...
        raise ImageRejected(f"{name}: not a sound .npy file ({printable(error, 120)})") from error
    return found


def read(source: Any, recipe: Recipe) -> np.ndarray:
    """One picture of `recipe.count` channels, (H, W, C): uint8, or float32 in the units of pixels.

    What is no uint8 holds the network's own values (see `Preprocessing.read`); they are brought to the units that
    pixels have, 0 to 255 before `mean` and `std`, so that nothing behind this tells the two apart.

    raises   ImageRejected
    """
    name = "the array"
    if is_file(source):
        name = printable(source, 200)
        source = load(source, limits=recipe.limits)
    if not isinstance(source, np.ndarray):
        what = printable(source, 200) if isinstance(source, (str, os.PathLike)) else "a picture"
        raise ImageRejected(f"{what}: {_wanted(recipe)}")
    array = source[0] if source.ndim == 4 and len(source) == 1 else source
    given = f"{name} of shape {source.shape}, {source.dtype}"
    if array.dtype.kind not in "uif":
        raise ImageRejected(f"{given}, holds no numbers; {_wanted(recipe)}")
    if array.ndim == 2 and recipe.count == 1:
        array = array[:, :, None]
    if array.ndim != 3:
        raise ImageRejected(f"{given}: {_wanted(recipe)}")
    first, last = array.shape[0] == recipe.count, array.shape[2] == recipe.count
    if first and array.dtype != np.uint8 and (not last or recipe.layout == "NCHW"):
        array = np.moveaxis(array, 0, 2)
    elif not last:
        cure = "; channels come last: array.transpose(1, 2, 0)" if first else ""
        raise ImageRejected(f"{given}: {_wanted(recipe)}{cure}")
    if 0 in array.shape:
        raise ImageRejected(f"{given} is empty")
    if array.dtype == np.uint8:
        return np.array(array, order="C")
    if not np.isfinite(array).all():
        raise ImageRejected(f"{given} holds values that are not finite")
    pixels = (array.astype(np.float64) - recipe.bias) / recipe.scale
    return np.ascontiguousarray(pixels, dtype=np.float32)


def _wanted(recipe: Recipe) -> str:
    count = recipe.count
    return (
        f"this network takes {count} channel{'s' if count > 1 else ''} given as numbers, not pictures; give an array "
        f"(H, W, {count}) of uint8 pixels, or (H, W, {count}) or ({count}, H, W) of the network's own values, or "
        "its .npy file"
    )


def shown(view: np.ndarray) -> np.ndarray:
    """An array (h, w, C) in the units of pixels as a picture, (h, w, 3) uint8: the mean of its channels, in grey.

    Where that leaves 0 to 255 it is stretched from its least to its greatest value.
    """
    grey = view.astype(np.float32).mean(axis=2)
    low, high = float(grey.min()), float(grey.max())
    if low < -0.5 or high > 255.5 or (view.dtype != np.uint8 and high - low < 8):
        grey = (grey - low) * (255 / (high - low) if high > low else 0.0)
    pixels = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return np.repeat(pixels[:, :, None], 3, axis=2)
