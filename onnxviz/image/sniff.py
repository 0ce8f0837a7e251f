"""What a file is by its first bytes, and what it claims to hold, before any decoder runs."""

from __future__ import annotations

import errno
import re
from typing import Final

from PIL import (
    BmpImagePlugin,
    GifImagePlugin,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

#: The formats that are read, each with the only Pillow class that reads it. The classes are called directly:
#: `Image.open` warns or fails by a process-wide pixel limit, ours is an argument.
FORMATS: Final[dict[str, type[ImageFile.ImageFile]]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
}

#: The names that files of these formats go by.
EXTENSIONS: Final[dict[str, str]] = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    ".webp": "WebP",
    **dict.fromkeys((".bmp", ".dib"), "BMP"),
    ".gif": "GIF",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
}

_MAGIC: Final = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
    (b"II+\x00", "TIFF"),
    (b"MM\x00+", "TIFF"),
    *((b"P%d" % digit, "PPM") for digit in range(1, 7)),
    # What strangers call .jpg, named so that the reason helps.
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript document (EPS)"),
    (b"8BPS", "a Photoshop document"),
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL picture"),
    (b"\x00\x00\x01\x00", "an icon (ICO)"),
    (b"DDS ", "a DirectDraw texture"),
    (b"v/1\x01", "an OpenEXR picture"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x93NUMPY", "a NumPy array (read it with numpy.load and give the array)"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
)


def sniff(data: bytes) -> str:
    """The key of `FORMATS` that `data` belongs to, or in words what it seems to be instead."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if data[4:8] == b"ftyp":
        brand = data[8:12]
        if brand in (b"avif", b"avis"):
            return "an AVIF picture"
        return "a HEIF picture" if brand in (b"heic", b"heix", b"mif1", b"msf1", b"hevc") else "a video"
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in head:
        return "an SVG drawing"
    if head.startswith((b"<!doctype html", b"<html")):
        return "a web page"
    shown = bytes([9, 10, 12, 13, *range(32, 127)])
    return "a text file" if head and not head.translate(None, shown) else "an unknown kind of file"


def declared_size(kind: str, data: bytes) -> tuple[int, int] | None:
    """(width, height) that a WebP file claims; None for other formats, or where the header is cut off.

    libwebp's decoder allocates its canvas when it is created, before Pillow tells its size.
    """
    if kind != "WebP" or len(data) < 30:
        return None
    chunk = data[12:16]
    if chunk == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def frames(kind: str, data: bytes, enough: int) -> int:
    """The number of frames of a GIF, counted no further than `enough` + 1; 1 for other formats.

    Walks over the blocks by their lengths; nothing is decoded. A broken file counts up to its break.
    """
    if kind != "GIF":
        return 1
    end, count = len(data), 0
    at = 13 + (3 << (data[10] & 7) + 1 if end > 10 and data[10] & 0x80 else 0)
    while at < end and count <= enough:
        block = data[at]
        if block == 0x21:  # an extension: its label, then sub-blocks
            at += 2
        elif block == 0x2C and at + 10 <= end:  # a frame: box, perhaps a palette, code size, sub-blocks
            flags = data[at + 9]
            at += 11 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
            count += 1
        else:
            break
        while at < end and data[at]:
            at += data[at] + 1
        at += 1
    return max(count, 1)


# In coded data FF is stuffed with 00, and RST markers are part of it.
_MARKER: Final = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def scans(data: bytes, enough: int) -> int:
    """The number of passes that decoding a JPEG takes, counted no further than `enough` + 1.

    A progressive file may repeat its last scan thousands of times, a few bytes each, and every one costs a
    pass over all pixels. A file with one scan for all components (most are so) is not walked through.
    """
    at, count, components, progressive = 2, 0, 0, False
    while at + 4 <= len(data) and data[at] == 0xFF and count <= enough:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            components = data[at + 9] if at + 9 < len(data) else 0
            progressive = marker in (0xC2, 0xC6, 0xCA, 0xCE)
        at += 2 + length
        if marker == 0xDA:
            count += 1
            if not progressive and data[at - length + 2] == components:
                break
            found = _MARKER.search(data, at)
            if found is None:
                break
            at = found.start()
        elif marker == 0xD9:
            break
    return count


def unread(error: OSError, missing: str) -> str:
    """Why a file can't be read, in words; `missing` where there is none."""
    return {
        errno.ENOENT: missing,
        errno.ENOTDIR: missing,
        errno.EACCES: "it may not be read by this user",
        errno.EPERM: "it may not be read by this user",
        errno.ELOOP: "the link leads in a circle",
        errno.ENAMETOOLONG: "its name is too long",
    }.get(error.errno or 0, error.strerror or type(error).__name__)
