"""Reading pictures that come from strangers: right pixels, or one line that says why not.

`read` is called from many threads at once. It touches no global state of Pillow (`MAX_IMAGE_PIXELS`,
the plugin registry, `LOAD_TRUNCATED_IMAGES`): the format is told by the file's first bytes, and only the
decoders in `FORMATS` can ever run. A file is read whole before it is decoded, so that nothing maps it into
memory (a mapped file that shrinks kills the process) and a file replaced meanwhile is only a broken picture.
"""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from onnxviz.errors import ImageRejected, ways
from onnxviz.image.sniff import EXTENSIONS, FORMATS, declared_size, frames, scans, sniff, unread
from onnxviz.limits import Limits
from onnxviz.provenance import note
from onnxviz.text import printable

# Encoders write about ten scans into a progressive JPEG; each costs a pass over all pixels.
_MAX_SCANS = 100

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

#: A path, a PIL image, or an (H, W, 3), (H, W, 4), (H, W, 1) or (H, W) uint8 array.
Source = Any


def read(source: Source, *, limits: Limits | None = None) -> np.ndarray:
    """One picture as (H, W, 3) uint8 RGB, upright; a new array that shares memory with nothing.

    Grey is repeated; CMYK is converted as Pillow does; 16 bits a channel are scaled to 8; EXIF rotation is
    applied; of an animation or a document of several pages the first is taken. What is transparent is shown
    over white, as a browser or a page would: the colour stored beneath it is arbitrary, mostly black.
    JPEG, PNG, WebP, BMP, GIF, TIFF and PPM are read, whatever the file is called.

    source   a path, a PIL image, or a uint8 array (H, W, 3), (H, W, 4), (H, W, 1) or (H, W)
    limits   max_bytes holds before anything is read, max_pixels and max_frames before anything is decoded
    raises   ImageRejected, in one line that names the source, the reason and what to do
    """
    limits = limits or Limits()
    picture = None
    if isinstance(source, np.ndarray):
        picture = _from_array(source)
    elif isinstance(source, Image.Image):
        picture = _from_pillow(source, "the image", limits)
    if picture is not None:
        note(source, None, picture)
        return picture
    if isinstance(source, (str, os.PathLike)):
        try:
            path = os.fsdecode(source)
        except (TypeError, ValueError) as error:
            raise ImageRejected(f"{printable(repr(source), 200)} is no path: {error}") from error
        return _from_file(path, limits)
    if isinstance(source, (bytes, bytearray, memoryview)):
        what = f"{len(source)} bytes (open them with PIL.Image.open(io.BytesIO(...)))"
    else:
        what = f"the type {type(source).__module__}.{type(source).__qualname__}".replace("builtins.", "")
    raise ImageRejected(
        f"cannot read a picture from {what}; give a path, a PIL image or an (H, W, 3) uint8 array"
    )


# --- files ------------------------------------------------------------------------------------


def _from_file(path: str, limits: Limits) -> np.ndarray:
    name = printable(path, 200)
    data = read_bytes(path, name, limits.max_bytes, "max_bytes")
    kind = sniff(data)
    if kind not in FORMATS:
        raise ImageRejected(f"{name}: {kind}, not a picture of these formats: {', '.join(FORMATS)}")
    promised = EXTENSIONS.get(Path(path).suffix.lower(), kind)
    if promised != kind:
        # One program would read it and the next refuse it, and the reader of a report would never know: say so.
        raise ImageRejected(f"{name}: a {kind} picture under the name of a {promised} one; rename it")
    size = declared_size(kind, data)
    if size is not None:  # a format whose decoder takes memory before it tells its size
        _check_pixels(size, name, limits)
    _check_frames(frames(kind, data, limits.max_frames), name, limits)
    if kind == "JPEG" and scans(data, _MAX_SCANS) > _MAX_SCANS:
        raise ImageRejected(f"{name}: a JPEG of over {_MAX_SCANS} scans, made to be slow; save it anew")
    try:
        picture = FORMATS[kind](io.BytesIO(data), "")
    except Exception as error:
        raise _undecodable(name, kind, error) from error
    found = _from_pillow(picture, name, limits, kind)
    note(path, data, found)
    return found


def read_bytes(path: str, name: str, most: int, limit: str | None = None) -> bytes:
    """The whole of a regular file; anything else is refused without ever being waited for.

    name     what the file is called in messages
    most     bytes; a larger file is refused
    limit    the name of the limit that this is, so that the message says how to raise it; None: a fixed bound
    raises   ImageRejected
    """
    try:
        _check_kind(os.stat(path), name, most, limit)  # noqa: PTH116 - before opening: opening a device may act
        # Between the two looks a FIFO may have been put there: O_NONBLOCK opens that without a writer.
        flags = os.O_RDONLY
        for flag in ("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY"):
            flags |= getattr(os, flag, 0)
        with os.fdopen(os.open(path, flags), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            _check_kind(status, name, most, limit)
            parts, size = [], 0
            # What is asked for is also allocated; a byte more than there is tells that the file grew.
            while part := file.read(min(most, max(status.st_size, 1 << 16)) + 1):
                parts.append(part)
                size += len(part)
                if size > most:
                    raise _too_large(name, size, most, limit)
            return parts[0] if len(parts) == 1 else b"".join(parts)
    except OSError as error:
        raise ImageRejected(f"{name}: {unread(error, 'there is no such file')}") from error
    except ValueError as error:  # an embedded NUL
        raise ImageRejected(f"{name}: not a possible path ({error})") from error
    except MemoryError as error:
        raise ImageRejected(f"{name}: not enough memory to read it") from error


def _check_kind(status: os.stat_result, name: str, most: int, limit: str | None) -> None:
    mode = status.st_mode
    if stat.S_ISDIR(mode):
        raise ImageRejected(f"{name}: a folder; name the pictures in it")
    if not stat.S_ISREG(mode):
        what = "a pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise ImageRejected(f"{name}: {what}, not a regular file")
    if status.st_size == 0:
        raise ImageRejected(f"{name}: the file is empty")
    if status.st_size > most:
        raise _too_large(name, status.st_size, most, limit)


def _too_large(name: str, size: int, most: int, limit: str | None) -> ImageRejected:
    if limit is None:
        return ImageRejected(f"{name}: {size} bytes; at most {most} were expected")
    raised = ways(f"if you trust it, raise it: --limit {limit}={size}")
    return ImageRejected(f"{name}: at least {size} bytes, over the limit {limit}={most}{raised}")


# --- PIL images -------------------------------------------------------------------------------


def _check_pixels(size: tuple[int, int], name: str, limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageRejected(f"{name}: {width}×{height} pixels, there is nothing to see")
    if width * height > limits.max_pixels:
        raise ImageRejected(
            f"{name}: {width}×{height} pixels, over the limit max_pixels={limits.max_pixels}"
            + ways("make it smaller first", f"raise --limit max_pixels={width * height}")
        )


def _check_frames(count: int, name: str, limits: Limits) -> None:
    if count > limits.max_frames:
        raise ImageRejected(
            f"{name}: an animation of over max_frames={limits.max_frames} frames"
            + ways("save the frame that is meant", "raise --limit max_frames=none")
        )


def _from_pillow(picture: Image.Image, name: str, limits: Limits, kind: str | None = None) -> np.ndarray:
    # A lazily opened PIL image tells its size before it decodes anything.
    _check_pixels(picture.size, name, limits)
    if kind in ("PNG", "WebP"):  # told by a header; for GIF and TIFF Pillow would walk the whole file
        _check_frames(int(getattr(picture, "n_frames", 1)), name, limits)
    try:
        return to_rgb(picture)
    except ImageRejected as error:
        raise ImageRejected(f"{name}: {error}") from error
    except Exception as error:
        # Decoders meet hostile bytes with nearly any exception (OSError, SyntaxError, struct.error,
        # IndexError, KeyError, zlib.error, OverflowError...); each of them means: not a sound picture.
        raise _undecodable(name, kind or picture.format, error) from error


def _undecodable(name: str, kind: str | None, error: Exception) -> ImageRejected:
    if isinstance(error, MemoryError):
        return ImageRejected(f"{name}: not enough memory to decode it")
    if isinstance(error, (struct.error, IndexError, KeyError, TypeError, EOFError, AttributeError)):
        reason = "truncated or damaged"  # their own words ('index out of range') tell a user nothing
    else:
        reason = printable(error, 120) or type(error).__name__
    return ImageRejected(f"{name}: a broken {kind or 'picture'} ({reason})")


# --- arrays -----------------------------------------------------------------------------------


def _from_array(array: np.ndarray) -> np.ndarray:
    shape = "(" + ", ".join(map(str, array.shape)) + ")"
    given = f"an array {shape} of {array.dtype}"
    wanted = "give (H, W, 3) uint8, 0 to 255"
    if array.dtype != np.uint8:
        raise ImageRejected(f"{given} is no picture; {wanted}{_cure(array)}{_order(array)}")
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ImageRejected(f"{given} is no picture; {wanted}{_order(array)}")
    if 0 in array.shape:
        raise ImageRejected(f"{given} is empty; {wanted}")
    if array.ndim == 2 or array.shape[2] == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    if array.shape[2] == 4:
        return to_rgb(Image.fromarray(np.ascontiguousarray(array)))
    return np.array(array, order="C")


def _order(array: np.ndarray) -> str:
    """How an array whose axes are not those of a picture becomes one."""
    if array.ndim == 4:
        return "; give a list of pictures, one array each"
    turned = array.ndim == 3 and array.shape[2] not in (1, 3, 4) and array.shape[0] in (1, 3, 4)
    return "; channels come last: array.transpose(1, 2, 0)" if turned else ""


def _cure(array: np.ndarray) -> str:
    """How an array of another type becomes uint8, by the range of its values."""
    if array.dtype == bool:
        return ": array.astype(np.uint8) * 255"
    if array.dtype.kind not in "fiu" or not array.size:
        return ""
    low, high = float(np.nanmin(array)), float(np.nanmax(array))
    if array.dtype.kind == "f" and low >= 0 and high <= 1:
        return "; its values lie in 0 to 1: (array * 255).round().astype(np.uint8)"
    if low >= 0 and high <= 255:
        return ": array.round().astype(np.uint8)" if array.dtype.kind == "f" else ": array.astype(np.uint8)"
    if array.dtype == np.uint16:
        return ": (array / 257).round().astype(np.uint8)"
    return f"; its values lie in {low:.4g} to {high:.4g}: scale them to 0 to 255 first"


# --- from any mode that Pillow decodes to upright 8-bit RGB ---------------------------------


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
