"""Right pixels from every way of storing them: each expectation is computed here, not by Pillow."""

from __future__ import annotations

import struct
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from onnxviz.errors import ImageRejected
from onnxviz.image.io import _over_white, read
from tests.image.made import png

RNG = np.random.default_rng(7)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """By fractions, one pixel after the other, halves up: nothing in common with the code under test."""
    result = np.empty_like(colour)
    for index, value in np.ndenumerate(colour):
        a = int(alpha[index[:2]])
        result[index] = int(Fraction(int(value) * a + 255 * (255 - a), 255) + Fraction(1, 2))
    return result


def save(tmp_path, data: bytes, name: str = "x.png"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


# --- PNG: every colour type and depth of the standard -----------------------------------------


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("clear", [False, True])
def test_grey_of_every_depth(tmp_path, depth, clear):
    white = 2**depth - 1
    samples = RNG.integers(0, white + 1, (5, 9, 1))
    key = int(samples[2, 3, 0])
    data = png(samples, depth, 0, clear=struct.pack(">H", key) if clear else None)
    expected = (samples >> 8) if depth == 16 else samples * 255 // white
    if clear:
        expected = np.where(samples == key, 255, expected)
    assert np.array_equal(read(save(tmp_path, data)), np.repeat(expected, 3, axis=2))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("clear", [False, True])
def test_rgb(tmp_path, depth, clear):
    samples = RNG.integers(0, 2**depth, (5, 9, 3))
    key = samples[1, 1]
    data = png(samples, depth, 2, clear=struct.pack(">3H", *key) if clear else None)
    expected = samples >> (depth - 8)
    if clear:
        expected = np.where((samples == key).all(axis=2, keepdims=True), 255, expected)
    assert np.array_equal(read(save(tmp_path, data)), expected)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    ramp = (np.arange(256) * 257).reshape(1, 256, 1)
    assert np.array_equal(read(save(tmp_path, png(ramp, 16, 0)))[0, :, 0], np.arange(256))


def test_one_pixel(tmp_path):
    assert read(save(tmp_path, png(np.array([[[1, 2, 3]]]), 8, 2))).tolist() == [[[1, 2, 3]]]


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
@pytest.mark.parametrize("clear", [False, True])
def test_palette_with_alpha(tmp_path, depth, clear):
    count = 2**depth
    palette = RNG.integers(0, 256, (count, 3))
    alpha = RNG.integers(0, 256, count)
    samples = RNG.integers(0, count, (5, 9, 1))
    data = png(samples, depth, 3, palette=palette, clear=alpha.astype(np.uint8).tobytes() if clear else None)
    expected = palette[samples[..., 0]].astype(np.uint8)
    if clear:
        expected = over_white(expected, alpha[samples[..., 0]])
    assert np.array_equal(read(save(tmp_path, data)), expected)


@pytest.mark.parametrize(("colour", "channels"), [(4, 2), (6, 4)])
@pytest.mark.parametrize("depth", [8, 16])
def test_alpha_is_shown_over_white(tmp_path, depth, colour, channels):
    samples = RNG.integers(0, 2**depth, (5, 9, channels))
    high = (samples >> (depth - 8)).astype(np.uint8)
    expected = over_white(high[..., :-1], high[..., -1])
    expected = np.repeat(expected, 3, axis=2) if channels == 2 else expected
    assert np.array_equal(read(save(tmp_path, png(samples, depth, colour))), expected)


@given(st.integers(0, 255), st.integers(0, 255))
@example(200, 0)  # what is fully clear is white whatever lies beneath
@settings(max_examples=300, deadline=None)
def test_compositing_is_exactly_rounded(colour, alpha):
    pixel = np.array([[[colour, colour, colour, alpha]]], np.uint8)
    expected = over_white(np.full((1, 1, 3), colour, np.uint8), np.array([[alpha]]))
    assert np.array_equal(_over_white(pixel), expected)
    assert np.array_equal(read(Image.fromarray(pixel, "RGBA")), expected)


# --- other formats ----------------------------------------------------------------------------


def test_cmyk(tmp_path):
    ink = RNG.integers(0, 256, (6, 5, 4)).astype(np.uint8)
    path = tmp_path / "x.tif"
    Image.fromarray(ink, "CMYK").save(path)
    light = 255 - ink.astype(int)
    expected = light[..., :3] * light[..., 3:] / 255
    assert np.abs(read(path) - expected).max() <= 1


def test_cmyk_jpeg_is_not_inverted(tmp_path):
    path = tmp_path / "x.jpg"
    red = np.zeros((16, 16, 4), np.uint8)
    red[..., 1:3] = 255  # magenta and yellow ink
    Image.fromarray(red, "CMYK").save(path, quality=95)
    assert np.abs(read(path).astype(int) - [255, 0, 0]).max() <= 8


@pytest.mark.parametrize(
    "mode", ["1", "L", "P", "RGB", "RGBA", "LA", "YCbCr", "HSV", "PA", "La", "RGBa", "RGBX"]
)
def test_every_mode_of_a_pil_image(mode):
    rgb = np.zeros((4, 4, 3), np.uint8)
    rgb[:2] = 255
    through = {"RGBa": "RGBA", "La": "LA", "PA": "LA"}.get(mode, mode)
    assert np.array_equal(read(Image.fromarray(rgb).convert(through).convert(mode)), rgb)


def tiff(samples: bytes, *, bits: int, photometric: int, order: str) -> bytes:
    """One strip of 4 × 3 pixels, one channel, uncompressed."""
    tags = [(256, 4, 4), (257, 4, 3), (258, 3, bits), (259, 3, 1), (262, 3, photometric)]
    tags += [(273, 4, 8 + 2 + 9 * 12 + 4), (277, 3, 1), (278, 4, 3), (279, 4, len(samples))]
    body = struct.pack(order + "H", len(tags))
    for tag, kind, value in tags:
        field = struct.pack(order + "H", value) + b"\0\0" if kind == 3 else struct.pack(order + "I", value)
        body += struct.pack(order + "HHI", tag, kind, 1) + field
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(order + "I", 8) + body + struct.pack(order + "I", 0) + samples


# Pillow has no decoder for big-endian, white-is-zero.
@pytest.mark.parametrize(
    ("bits", "order", "photometric"), [(16, "<", 0), (16, "<", 1), (16, ">", 1), (12, "<", 1)]
)
def test_tiff_of_more_than_eight_bits(tmp_path, bits, order, photometric):
    values = RNG.integers(0, 2**bits, (3, 4))
    samples = values.astype(order + "u2").tobytes()
    if bits == 12:
        samples = int("".join(format(int(v), "012b") for v in values.ravel()), 2).to_bytes(18, "big")
    path = save(tmp_path, tiff(samples, bits=bits, photometric=photometric, order=order), "x.tif")
    expected = values >> (bits - 8)
    assert np.array_equal(read(path)[..., 0], 255 - expected if photometric == 0 else expected)


def test_pgm_of_sixteen_bits(tmp_path):
    values = (np.arange(12).reshape(3, 4) * 21 * 257).astype(">u2")
    path = save(tmp_path, b"P5 4 3 65535\n" + values.tobytes(), "x.pgm")
    assert np.array_equal(read(path)[..., 2], np.arange(12).reshape(3, 4) * 21)


@pytest.mark.parametrize("array", [np.zeros((2, 2), np.float32), np.zeros((2, 2), np.int32)])
def test_samples_without_an_agreed_white_are_refused(tmp_path, array):
    path = tmp_path / "x.tif"
    Image.fromarray(array).save(path)
    with pytest.raises(ImageRejected, match="save it"):
        read(path)


# --- EXIF rotation ----------------------------------------------------------------------------

UPRIGHT = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 10
# How a camera that was held so stores the upright picture: row 0 of the file, as the EXIF standard words it.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],  # row 0 top, column 0 right
    3: UPRIGHT[::-1, ::-1],  # bottom, right
    4: UPRIGHT[::-1],  # bottom, left
    5: UPRIGHT.transpose(1, 0, 2),  # row 0 left, column 0 top
    6: UPRIGHT.transpose(1, 0, 2)[::-1],  # right, top: row 0 is the right side
    7: UPRIGHT.transpose(1, 0, 2)[::-1, ::-1],  # right, bottom
    8: UPRIGHT.transpose(1, 0, 2)[:, ::-1],  # left, bottom
}


def exif(orientation: int) -> bytes:
    """An EXIF block with nothing but the orientation."""
    return b"Exif\0\0II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


@pytest.mark.parametrize("orientation", list(STORED))
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF", "JPEG"])
def test_exif_rotation(tmp_path, form, orientation):
    path, upright, stored = tmp_path / "x", UPRIGHT, STORED[orientation]
    options = {"exif": exif(orientation), "lossless": True}
    if form == "TIFF":
        options = {"tiffinfo": {0x0112: orientation}}
    elif form == "JPEG":
        upright, stored = (np.kron(one, np.ones((16, 16, 1), np.uint8)) for one in (upright, stored))
        options |= {"quality": 98, "subsampling": 0}
    Image.fromarray(np.ascontiguousarray(stored)).save(path, form, **options)
    assert read(path).shape == upright.shape
    assert np.abs(read(path).astype(int) - upright).max() <= (6 if form == "JPEG" else 0)
    with Image.open(path) as opened:  # a PIL image is the same picture as its file
        assert np.array_equal(read(opened), read(path))


DAMAGED = (b"", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0" + bytes(range(99)))


@pytest.mark.parametrize("block", [*DAMAGED, *map(exif, (0, 9, 255))])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_exif_or_an_orientation_that_does_not_exist_leaves_the_pixels_alone(tmp_path, block):
    path = tmp_path / "x.png"
    Image.fromarray(UPRIGHT).save(path, exif=block)
    assert np.array_equal(read(path), UPRIGHT)


# --- arrays and PIL images --------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1)])
def test_a_grey_array_is_repeated(shape):
    grey = RNG.integers(0, 256, shape).astype(np.uint8)
    assert np.array_equal(read(grey), np.repeat(grey.reshape(4, 5, 1), 3, axis=2))


def test_an_array_is_copied_whatever_its_strides():
    image = RNG.integers(0, 256, (6, 8, 3)).astype(np.uint8)
    for view in (image, image[::-2, ::3], np.asfortranarray(image)):
        got = read(view)
        assert np.array_equal(got, view)
        assert got.flags.c_contiguous
        assert got.flags.writeable
        assert not np.shares_memory(got, image)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (6, 4)])
def test_what_comes_from_a_file_is_writeable_and_contiguous(tmp_path, colour, channels):
    got = read(save(tmp_path, png(np.full((3, 2, channels), 9), 8, colour)))
    assert got.flags.writeable
    assert got.flags.c_contiguous
    assert (got.dtype, got.shape) == (np.uint8, (3, 2, 3))


def test_an_image_is_not_changed_by_being_read():
    palette = Image.new("P", (2, 2))
    palette.info["transparency"] = 0
    before = palette.mode, palette.tobytes(), dict(palette.info)
    read(palette)
    assert (palette.mode, palette.tobytes(), dict(palette.info)) == before
