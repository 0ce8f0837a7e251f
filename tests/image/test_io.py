"""Hostile pictures: each row of bad input gives one typed, one-line reason, quickly, and never a wrong picture."""

from __future__ import annotations

import io
import os
import socket
import struct
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from onnxviz.errors import ImageRejected
from onnxviz.image import io as image_io
from onnxviz.image.io import read
from onnxviz.image.sniff import FORMATS, frames, scans, sniff
from onnxviz.limits import Limits
from tests.image.made import gif, png

RNG = np.random.default_rng(3)
PHOTO = np.kron(RNG.integers(0, 240, (6, 8, 3)), np.ones((6, 6, 1))).astype(np.uint8)
PHOTO += RNG.integers(0, 16, PHOTO.shape).astype(np.uint8)


def encode(form: str, mode: str = "RGB", array: np.ndarray = PHOTO, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).convert(mode).save(buffer, form, **options)
    return buffer.getvalue()


SOUND = {
    "jpeg": encode("JPEG"),
    "progressive jpeg": encode("JPEG", progressive=True),
    "cmyk jpeg": encode("JPEG", "CMYK"),
    "png": encode("PNG"),
    "palette png": encode("PNG", "P"),
    "webp": encode("WEBP"),
    "lossless webp": encode("WEBP", "RGBA", lossless=True),
    "bmp": encode("BMP"),
    "gif": encode("GIF"),
    "tiff": encode("TIFF"),
    "deflate tiff": encode("TIFF", compression="tiff_deflate"),
    "ppm": encode("PPM"),
}


def refused(path, *words: str, within: float = 5.0, **options) -> str:
    """The message with which `path` is refused: one line, naming the file, in time."""
    start = time.perf_counter()
    with pytest.raises(ImageRejected) as caught:
        read(path, **options)
    assert time.perf_counter() - start < within
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 500
    for word in words:
        assert word in message
    return message


def write(tmp_path: Path, data: bytes, name: str = "photo") -> Path:
    path = tmp_path / name
    path.write_bytes(data)
    return path


# --- not a file -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("no.jpg", ["no.jpg", "no such file"]),
        ("empty/no.jpg", ["no such file"]),
        ("folder", ["folder: a folder"]),
        ("pipe.jpg", ["a pipe"]),
        ("to a device.jpg", ["a device"]),
        ("a.jpg", ["circle"]),
        ("empty", ["empty: the file is empty"]),
        *((device, [device, "a device"]) for device in ("/dev/zero", "/dev/null", "/dev/tty", "/dev/random")),
        ("/proc/self/status", ["empty"]),  # of the kernel, and claims no size
        ("a\0b.jpg", []),
        ("x" * 5000, []),
        ("", []),
    ],
)
def test_not_a_file_is_refused_without_waiting(tmp_path, monkeypatch, path, words):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("empty").touch()
    os.mkfifo("pipe.jpg")
    for link, target in (("to a device.jpg", "/dev/zero"), ("a.jpg", "b.jpg"), ("b.jpg", "a.jpg")):
        Path(link).symlink_to(target)
    if not path.startswith(("/dev", "/proc")) or Path(path).exists():
        refused(path, *words, within=3)


def test_a_fifo_that_replaces_the_file_meanwhile_is_refused_without_waiting(tmp_path, monkeypatch):
    """Between the first look at the file and its opening."""
    path = write(tmp_path, SOUND["jpeg"])
    real = os.stat

    def swap(given, *args, **kwargs):
        result = real(given, *args, **kwargs)
        if Path(given) == path:
            path.unlink()
            os.mkfifo(path)
        return result

    monkeypatch.setattr(image_io.os, "stat", swap)
    refused(path, "a pipe", within=3)


def test_socket(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("photo.jpg")
        refused("photo.jpg", "a socket")


@pytest.mark.parametrize("name", ["\x1b[31mred\x1b[0m.jpg", "a\nb.jpg", "\u202egpj.exe.jpg", "a\x07.jpg"])
def test_a_hostile_name_is_harmless_in_the_message(tmp_path, name):
    refused(write(tmp_path, b"", name), "empty")


def test_a_name_that_is_not_utf8(tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    Path(os.fsdecode(name)).write_bytes(SOUND["png"])
    assert np.array_equal(read(os.fsdecode(name)), PHOTO)
    assert np.array_equal(read(Path(os.fsdecode(name))), PHOTO)
    refused(os.fsdecode(name) + "x", "\\udcff")


@pytest.mark.parametrize("source", [None, 3, SOUND["png"], [PHOTO], object()])
def test_what_is_no_picture_at_all(source):
    with pytest.raises(ImageRejected, match="give a path, a PIL image or an"):
        read(source)


# --- broken files -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", list(SOUND))
def test_truncated_anywhere(tmp_path, kind, capfd):
    """A cut file is refused, or the cut took nothing that shows: never half a picture."""
    whole = SOUND[kind]
    full = read(write(tmp_path, whole))
    cuts = sorted({*range(0, len(whole), max(1, len(whole) // 60)), len(whole) - 1, len(whole) // 2, 1})
    survived = 0
    for cut in cuts:
        try:
            got = read(write(tmp_path, whole[:cut]))
        except ImageRejected:
            continue
        survived += 1
        assert np.array_equal(got, full), f"cut at {cut} of {len(whole)}"
    assert survived <= 2 + len(cuts) // 4
    capfd.readouterr()  # libtiff talks to stderr itself


@given(data=st.data())
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_damage_gives_a_picture_or_a_reason(tmp_path, capfd, data):
    kind = data.draw(st.sampled_from([kind for kind in SOUND if "tiff" not in kind]))
    damaged = bytearray(SOUND[kind])
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, min(len(damaged) - 1, 300)))] = data.draw(st.integers(0, 255))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            image = read(write(tmp_path, bytes(damaged)), limits=Limits(max_pixels=1_000_000))
        except ImageRejected as error:
            assert str(error).isprintable()
        else:
            assert image.dtype == np.uint8
            assert image.shape[2:] == (3,)
    capfd.readouterr()


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes(tmp_path, data):
    refused(write(tmp_path, data))


# --- something else under a picture's name ----------------------------------------------------

OTHERS = {
    "PCX, which Pillow itself would open": (encode("PCX"), "unknown"),
    "EPS": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    "EPS with preview": (b"\xc5\xd0\xd3\xc6" + bytes(40), "PostScript"),
    "PSD": (b"8BPS\0\1" + bytes(60), "Photoshop"),
    "PDF": (b"%PDF-1.7\n", "PDF"),
    "SVG": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "SVG with prolog": (b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- x -->\n<SVG width="1"/>', "SVG"),
    "HTML": (b"<!DOCTYPE html><p>404 Not Found", "web page"),
    "text": (b"a line of text\n", "text file"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(40), "HEIF"),
    "AVIF": (b"\0\0\0\x18ftypavif" + bytes(40), "AVIF"),
    "ICO": (b"\0\0\1\0\1\0" + bytes(40), "icon"),
    "ZIP": (b"PK\x03\x04" + bytes(40), "ZIP"),
    "npy": (b"\x93NUMPY\1\0" + bytes(40), "numpy.load"),
    "noise": (bytes(range(128, 228)), "unknown"),
}


@pytest.mark.parametrize("what", list(OTHERS))
def test_something_else_named_jpg(tmp_path, what):
    data, word = OTHERS[what]
    refused(write(tmp_path, data), word, *FORMATS)


@pytest.mark.parametrize("kind", list(SOUND))
@pytest.mark.parametrize("name", ["photo.txt", "photo"])
def test_a_sound_picture_is_read_under_a_name_that_promises_nothing(tmp_path, kind, name):
    assert read(write(tmp_path, SOUND[kind], name)).shape == PHOTO.shape


@pytest.mark.parametrize("kind", list(SOUND))
@pytest.mark.parametrize("name", ["photo.jpg", "photo.PNG"])
def test_a_picture_under_the_name_of_another_format(tmp_path, kind, name):
    """ImageNet itself holds a PNG that is called .JPEG."""
    promised = "JPEG" if name.endswith("jpg") else "PNG"
    path = write(tmp_path, SOUND[kind], name)
    if promised.lower() in kind:
        assert read(path).shape == PHOTO.shape
    else:
        refused(path, f"under the name of a {promised} one", "rename it")


# --- bombs ------------------------------------------------------------------------------------


def test_the_pixel_limit_is_an_argument_and_not_pillows(tmp_path, monkeypatch):
    """Pillow's is process-wide, warns at one size and fails at another; neither reaches our caller."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    path = write(tmp_path, png(np.zeros((1200, 1200, 1), np.uint8), 1, 0))
    refused(path, "1200×1200", "max_pixels=1000000", limits=Limits(max_pixels=1_000_000))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read(path, limits=Limits(max_pixels=1_440_000)).shape == (1200, 1200, 3)
    assert Image.MAX_IMAGE_PIXELS == 100_000
    with pytest.raises(ImageRejected, match="max_pixels=10"):
        read(Image.new("RGB", (4, 4)), limits=Limits(max_pixels=10))


def webp_header(width: int, height: int) -> bytes:
    box = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + box + bytes(60)
    return b"RIFF" + struct.pack("<I", len(body)) + body


@pytest.mark.parametrize(
    "data",
    [
        png(np.zeros((1, 1, 1), np.int64), 1, 0, size=(50_000, 50_000)),
        b"GIF89a\xff\xff\xff\xff\0\0\0" + b"\x2c\0\0\0\0\1\0\1\0\0" + b"\2\2\x44\1\0;",
        webp_header(16_777_216, 255),
        b"P6 50000 50000 255\n",
        b"BM" + struct.pack("<IIIIiiHHI", 99, 0, 54, 40, 50_000, 50_000, 1, 24, 0) + bytes(20),
        b"RIFF\x24\0\0\0WEBPVP8L\x18\0\0\0\x2f\xff\xff\xff\xff" + bytes(30),
    ],
)
def test_huge_pictures(tmp_path, data):
    refused(write(tmp_path, data), f"max_pixels={Limits().max_pixels}", within=3)


@pytest.mark.parametrize("form", ["jpeg", "png", "gif", "webp", "lossless webp", "bmp", "tiff", "ppm"])
def test_every_format_is_measured_before_it_is_decoded(tmp_path, form, monkeypatch):
    def load(self):
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    refused(write(tmp_path, SOUND[form]), "48×36", "max_pixels=1727", limits=Limits(max_pixels=48 * 36 - 1))


def test_a_gif_of_a_million_frames(tmp_path):
    refused(write(tmp_path, gif(1_000_000), "film.gif"), "max_frames=10000", within=3)
    path = write(tmp_path, gif(5), "film.gif")
    assert read(path).tolist() == [[[255, 0, 0]]]
    refused(path, "max_frames=4", limits=Limits(max_frames=4))


@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_the_first_of_several_pictures(tmp_path, form):
    pages = [Image.fromarray(np.full((4, 4, 3), 40 * i, np.uint8)) for i in range(4)]
    buffer = io.BytesIO()
    pages[0].save(buffer, form, save_all=True, append_images=pages[1:], lossless=True)
    path = write(tmp_path, buffer.getvalue())
    assert not read(path).any()
    if form != "TIFF":
        refused(path, "max_frames=3", limits=Limits(max_frames=3))


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("colours", [2, 256])
def test_gif_frames_are_counted_as_pillow_counts_them(count, colours):
    pages = [Image.fromarray(RNG.integers(0, colours, (9, 9)).astype(np.uint8)) for _ in range(count)]
    buffer = io.BytesIO()
    pages[0].save(buffer, "GIF", save_all=True, append_images=pages[1:], duration=20, comment=b"x" * 300)
    assert frames("GIF", buffer.getvalue(), 100) == Image.open(buffer).n_frames == count


def scan_bomb(repeats: int) -> bytes:
    sound = SOUND["progressive jpeg"]
    last = sound[sound.rindex(b"\xff\xda") : -2]
    return sound[:-2] + last * repeats + b"\xff\xd9"


def test_a_jpeg_of_thousands_of_scans(tmp_path):
    refused(write(tmp_path, scan_bomb(5000)), "scans")
    assert read(write(tmp_path, scan_bomb(20))).shape == PHOTO.shape


def test_scans_are_counted_by_markers_and_not_by_bytes():
    plain, sound = SOUND["jpeg"], SOUND["progressive jpeg"]
    count = sound.count(b"\xff\xda")
    comment = b"\xff\xfe" + struct.pack(">H", 402) + b"\xff\xda" * 200
    scan = plain[plain.index(b"\xff\xda") : -2]
    assert count >= 2
    for data, wanted in (
        (sound, count),
        (sound + b"\xff\xda" * 500, count),  # a film behind the picture, as telephones write
        (sound[:2] + comment + sound[2:], count),
        (sound[:-2].replace(b"\xff\xda", b"\xff\xff\xff\xda"), count),  # fill bytes before a marker
        (scan_bomb(50), count + 50),
        (plain, 1),
        # One scan for all colours: the decoder stops after it, and what follows costs nothing and refuses nothing.
        (plain[:-2] + scan * 300 + b"\xff\xd9", 1),
    ):
        assert scans(data, 1000) == wanted


@pytest.mark.parametrize("form", ["BMP", "PPM", "TIFF"])
def test_nothing_is_mapped_into_memory(tmp_path, monkeypatch, form):
    """A mapped file that another process cuts short kills us with a bus error."""
    import mmap

    def refuse(*_, **__):
        raise AssertionError("mapped")

    path = write(tmp_path, encode(form, "L"))
    monkeypatch.setattr(mmap, "mmap", refuse)
    Image.open(io.BytesIO(SOUND["png"])).load()
    with pytest.raises(AssertionError, match="mapped"):
        Image.open(path).load()  # Pillow would
    assert read(path).shape == PHOTO.shape


def test_a_file_over_the_byte_limit_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "photo.jpg"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a sparse terabyte
    refused(path, "max_bytes=", within=3)
    refused(write(tmp_path, SOUND["png"]), "max_bytes=1000", limits=Limits(max_bytes=1000))
    monkeypatch.setattr(image_io, "_check_kind", lambda *_: None)  # it grows while it is read
    refused(write(tmp_path, SOUND["png"]), "max_bytes=1000", limits=Limits(max_bytes=1000))


@pytest.mark.parametrize(
    ("where", "name", "error", "words"),
    [
        (image_io.os, "open", PermissionError(13, "Permission denied"), "may not be read"),
        (ImageFile.ImageFile, "load", MemoryError(), "memory"),
    ],
)
def test_what_the_system_lacks_is_a_reason_too(tmp_path, monkeypatch, where, name, error, words):
    path = write(tmp_path, SOUND["bmp"])

    def fail(*_):
        raise error

    monkeypatch.setattr(where, name, fail)
    refused(path, words)


# --- arrays -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.full((4, 4, 3), 0.5, np.float32), ["float32", "* 255"]),
        (np.full((4, 4, 3), 99.5), ["float64", "round()"]),
        (np.full((4, 4, 3), -3.0), ["-3", "scale them"]),
        (np.full((4, 4, 3), np.nan), ["float64"]),
        (np.ones((4, 4), bool), ["bool", "* 255"]),
        (np.full((4, 4, 3), 9000, np.uint16), ["uint16", "/ 257"]),
        (np.full((4, 4, 3), 7, np.int64), ["int64", "astype(np.uint8)"]),
        (np.zeros((3, 9, 8), np.uint8), ["(3, 9, 8)", "transpose(1, 2, 0)"]),
        (np.zeros((3, 9, 8), np.float32), ["* 255", "transpose(1, 2, 0)"]),
        (np.zeros((2, 9, 8, 3), np.uint8), ["list of pictures"]),
        (np.zeros((9, 8, 2), np.uint8), ["(9, 8, 2)"]),
        (np.zeros(5, np.uint8), ["(5)"]),
        (np.zeros((0, 8, 3), np.uint8), ["empty"]),
        (np.array([["a"]]), ["<U1"]),
        (np.empty((0, 2), np.float32), ["float32"]),
    ],
)
@pytest.mark.filterwarnings("ignore:All-NaN")
def test_an_array_that_is_no_picture_gets_its_cure(array, words):
    with pytest.raises(ImageRejected) as caught:
        read(array)
    message = str(caught.value)
    for word in [*words, "(H, W, 3) uint8"]:
        assert word in message


# --- from many threads ------------------------------------------------------------------------


def test_many_threads_at_once(tmp_path, capfd):
    """No file disturbs another, whatever their formats, and nothing global has changed afterwards."""
    before = dict(Image.OPEN), list(Image.ID), Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    paths = {kind: write(tmp_path, data, f"{i}.bin") for i, (kind, data) in enumerate(SOUND.items())}
    alone = {kind: read(path) for kind, path in paths.items()}
    broken = write(tmp_path, SOUND["png"][:900], "broken")
    barrier = threading.Barrier(8)

    def work(offset: int) -> bool:
        barrier.wait()
        kinds = list(paths)
        for step in range(40):
            kind = kinds[(offset + step) % len(kinds)]
            if not np.array_equal(read(paths[kind]), alone[kind]):
                return False
            with pytest.raises(ImageRejected):
                read(broken)
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    after = dict(Image.OPEN), list(Image.ID), Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES
    assert before == after


def test_no_file_stays_open(tmp_path):
    if not Path("/proc/self/fd").exists():
        return
    path, broken = write(tmp_path, SOUND["tiff"]), write(tmp_path, b"GIF89a", "broken")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        read(path)
        with pytest.raises(ImageRejected):
            read(broken)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# --- what is large is converted in bands ------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_bands_join_to_the_same_picture(monkeypatch, mode):
    if mode == "I;16":
        picture = Image.fromarray(RNG.integers(0, 65536, (37, 23)).astype(np.uint16))
    else:
        rgba = Image.fromarray(RNG.integers(0, 256, (37, 23, 4)).astype(np.uint8), "RGBA")
        picture = rgba if mode == "RGBA" else rgba.convert("RGB").convert(mode)
    if mode == "P":
        picture.info["transparency"] = bytes(range(256))
    whole = read(picture)
    for band in (23 * 5, 1):
        monkeypatch.setattr(image_io, "_BAND", band)
        assert np.array_equal(read(picture), whole)


def test_sniffing_is_total():
    for length in range(40):
        assert isinstance(sniff(bytes(length)), str)
        assert isinstance(sniff(b"\xff\xd8\xff"[:length]), str)
