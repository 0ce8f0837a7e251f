"""From any mode that Pillow decodes to upright 8-bit RGB: alpha, palettes, 16 bits, CMYK, EXIF rotation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from onnxviz.errors import ImageRejected

_ORIENTATION = 0x0112  # EXIF and TIFF alike
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # TIFF tags
_WHITE_IS_ZERO = 0

# What brings the picture upright, by the EXIF value: where row 0 and column 0 of the stored pixels belong.
_UPRIGHT = {
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


# Pixels that are converted at a time: a band stays in the cache (a 1-megapixel picture takes 3.6 ms instead
# of 9.3 ms), and a 100-megapixel one does not stand in memory four times over.
_BAND = 1 << 16


def to_rgb(picture: Image.Image) -> np.ndarray:
    """The pixels of a PIL image as a new (H, W, 3) uint8 array: upright, opaque over white.

    Decodes the picture if that is still to be done; whatever its decoder raises comes out unchanged.

    raises   ImageRejected for sample types without an agreed black and white (float, signed, 32 bits)
    """
    raw = _raw_mode(picture)  # known only until the picture is decoded
    picture.load()
    convert = _converter(picture, raw)
    width, height = picture.size
    rows = max(1, _BAND // width)
    array = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        whole = rows >= height
        band = picture if whole else picture.crop((0, top, width, min(top + rows, height)))
        array[top : top + rows] = convert(band)
    turn = _UPRIGHT.get(_orientation(picture))
    return array if turn is None else np.ascontiguousarray(turn(array))


def _converter(picture: Image.Image, raw: str) -> Callable[[Image.Image], np.ndarray]:
    """What turns a band of rows of `picture` into (h, W, 3) or (h, W, 1) uint8."""
    mode = picture.mode
    if mode.startswith("I"):
        return _wide(picture)
    if mode in ("F", "LAB"):
        what = "float samples" if mode == "F" else "CIELAB colours"
        raise ImageRejected(f"it holds {what}; save it as 8- or 16-bit RGB or grey")
    if mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        return lambda band: _over_white(_with_alpha(band, raw))
    if mode == "RGB":
        return np.asarray
    return lambda band: np.asarray(band.convert("RGB"))


def _raw_mode(picture: Image.Image) -> str:
    """How the file stores a pixel ('L;4', 'RGB;16B'...), or '' where the picture is already decoded."""
    tile = getattr(picture, "tile", None)
    arguments = tile[0][3] if tile else ""
    if isinstance(arguments, tuple):
        arguments = arguments[0] if arguments else ""
    return arguments if isinstance(arguments, str) else ""


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:
        # Damaged EXIF data raises nearly anything; the pixels are sound and stay as they are stored.
        return 1


# --- more than 8 bits -------------------------------------------------------------------------


def _wide(picture: Image.Image) -> Callable[[Image.Image], np.ndarray]:
    """Grey of 9 to 16 bits: the eight high bits, as Pillow itself does for RGB of 16 bits."""
    tags: Any = getattr(picture, "tag_v2", {})
    if picture.mode == "I" and picture.format not in ("PPM", "PNG"):  # those two hold 0 to 65535
        raise ImageRejected("it holds signed or 32-bit samples; save it with 8 or 16 bits")
    bits = 16 if picture.mode == "I" else int(tags.get(_BITS_PER_SAMPLE, (16,))[0])
    inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO  # Pillow turns these round for 8 bits only
    clear = picture.info.get("transparency")

    def convert(band: Image.Image) -> np.ndarray:
        samples = np.asarray(band).astype(np.uint16)
        grey = (samples >> (bits - 8)).astype(np.uint8)
        if inverted:
            grey = 255 - grey
        if isinstance(clear, int):
            grey[samples == clear] = 255
        return grey[:, :, None]

    return convert


# --- transparency -----------------------------------------------------------------------------


def _with_alpha(picture: Image.Image, raw: str) -> np.ndarray:
    clear = picture.info.get("transparency")
    if picture.mode in ("1", "L") and isinstance(clear, int):
        # PNG names the clear grey in the file's own depth, Pillow has already spread the pixels to 0...255.
        depth = 1 if picture.mode == "1" else int(raw.partition(";")[2] or 8) if raw.startswith("L") else 8
        grey = np.asarray(picture.convert("L"))
        alpha = np.where(grey == clear * 255 // (2**depth - 1), 0, 255).astype(np.uint8)
        return np.stack([grey, grey, grey, alpha], axis=2)
    if picture.mode == "RGB" and isinstance(clear, tuple):
        if raw.startswith("RGB;16") or max(clear) > 255:
            clear = tuple(value >> 8 for value in clear)
        rgb = np.asarray(picture)
        alpha = np.where((rgb == np.array(clear, np.uint8)).all(axis=2), 0, 255).astype(np.uint8)
        return np.dstack([rgb, alpha])
    return np.asarray(picture.convert("LA") if picture.mode == "La" else picture.convert("RGBA"))


def _over_white(rgba: np.ndarray) -> np.ndarray:
    """`rgba` (H, W, 4 or 2) uint8 composited over white, exactly rounded."""
    colour, alpha = rgba[:, :, :-1], rgba[:, :, -1:]
    if int(alpha.min()) == 255:
        return colour
    weight = alpha.astype(np.uint16)  # colour·alpha + 255·(255 − alpha) is at most 65025: it fits
    solid: np.ndarray = ((colour * weight + 255 * (255 - weight) + 127) // 255).astype(np.uint8)
    return solid
