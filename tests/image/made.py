"""Files that the tests write by hand, byte by byte, so that Pillow does not check itself."""

from __future__ import annotations

import struct
import zlib

import numpy as np


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def pack(samples: np.ndarray, depth: int) -> bytes:
    """Rows of (H, W·channels) samples, each row with filter byte 0, `depth` bits a sample, the highest first."""
    weights = 1 << np.arange(depth - 1, -1, -1)
    bits = (samples[..., None] & weights > 0).reshape(len(samples), -1)
    return zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.packbits(bits, axis=1)))


def png(
    samples: np.ndarray,
    depth: int,
    colour: int,
    *,
    palette: np.ndarray | None = None,
    clear: bytes | None = None,
    size: tuple[int, int] | None = None,
    extra: bytes = b"",
) -> bytes:
    """A PNG file. samples (H, W, channels); colour: 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA."""
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", *(size or (width, height)), depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra
    if palette is not None:
        body += chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    if clear is not None:
        body += chunk(b"tRNS", clear)
    body += chunk(b"IDAT", pack(samples.reshape(height, -1), depth)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def gif(frames: int) -> bytes:
    """A sound GIF of 1×1 with so many frames: one red, the others green."""
    head = b"GIF89a\1\0\1\0\x80\0\0" + b"\xff\0\0" + b"\0\xff\0"
    red = b"\x2c\0\0\0\0\1\0\1\0\0" + b"\2\2\x44\1\0"
    green = b"\x2c\0\0\0\0\1\0\1\0\0" + b"\2\2\x4c\1\0"
    return head + red + green * (frames - 1) + b";"
