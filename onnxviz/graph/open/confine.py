"""Opening files that a stranger's model names: regular files inside the model's own folder, and nothing else.

A location is walked folder by folder from a descriptor of the model's folder, without following any link, and
what was opened is checked again on its own descriptor, so that nothing can be swapped in between. Refused are
`..`, absolute paths, symbolic links (of files and of folders), files with a second name elsewhere (hard links),
FIFOs, devices and sockets; nothing blocks. Where the system cannot open relative to a descriptor (Windows), each
folder is checked by name and the opened file is compared with the one that was checked. What is no ONNX model is told
by its kind (`describe`).
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import mmap
import os
import stat
import weakref
from pathlib import Path
from typing import Final

import numpy as np

from onnxviz.errors import ModelRejected, near
from onnxviz.text import quoted

_LONGEST_LOCATION: Final = 4096
# ONNX Runtime takes this location for an address in its own memory.
_MEMORY_MARKER: Final = "_ORT_MEM_ADDR_"
_WINDOWS_DEVICES: Final = frozenset(
    ["con", "prn", "aux", "nul", *(f"{port}{digit}" for port in ("com", "lpt") for digit in range(10))]
)
_READ: Final = (
    os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOINHERIT", 0)
)
# O_NONBLOCK: a FIFO opens at once instead of waiting for a writer. O_NOCTTY: a terminal does not become ours.
_FILE: Final = _READ | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
_NO_LINK: Final = getattr(os, "O_NOFOLLOW", 0)
_FOLDER: Final = _READ | getattr(os, "O_DIRECTORY", 0)
_WALKS: Final = bool(_NO_LINK) and os.open in os.supports_dir_fd and os.stat in os.supports_dir_fd


def open_model(path: Path) -> DataFile:
    """The file that the user named, wherever it is, links included; never blocks.

    raises   ModelRejected when it is missing, unreadable, or not a regular file
    """
    try:
        # Looked at first: opening a device may already do something (rewind a tape, raise a modem's line).
        _require_regular(path.stat(), quoted(path))
        fd = os.open(path, _FILE)
    except FileNotFoundError:
        raise ModelRejected(f"there is no file {quoted(path)}{_siblings(path)}") from None
    except (OSError, ValueError) as error:
        raise ModelRejected(f"cannot open {quoted(path)}: {_reason(error)}") from None
    return _checked(fd, quoted(path))


def _siblings(path: Path) -> str:
    """The models that may have been meant: of the folder and of the catalogue, never other files."""
    from onnxviz.catalogue import entries

    here: list[str] = []
    with contextlib.suppress(OSError):
        here = sorted(
            entry.name for entry in os.scandir(path.parent) if entry.name.lower().endswith(".onnx")
        )[:1000]
    known = [entry.name for entry in entries()]
    return (
        near(path.name, here)
        or near(path.stem, known)
        or (f"; the models of its folder are {', '.join(map(quoted, here[:5]))}" if here else "")
    )


def _require_regular(found: os.stat_result, what: str) -> None:
    mode = found.st_mode
    if stat.S_ISREG(mode):
        return
    if stat.S_ISDIR(mode):
        raise ModelRejected(f"{what} is a folder; a file was expected")
    kinds = {
        stat.S_IFIFO: "a pipe (FIFO)",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
        stat.S_IFSOCK: "a socket",
        stat.S_IFLNK: "a symbolic link",
    }
    raise ModelRejected(
        f"{what} is {kinds.get(stat.S_IFMT(mode), 'something else')}; a regular file was expected"
    )


def _checked(fd: int, what: str, expected: os.stat_result | None = None) -> DataFile:
    """`fd` as a file, if it still is a regular file (and the one that was looked at); else closed."""
    try:
        found = os.fstat(fd)
        _require_regular(found, what)
        if expected is not None:
            if (found.st_dev, found.st_ino) != (expected.st_dev, expected.st_ino):
                raise ModelRejected(f"{what} was replaced while it was being opened; try again")
            if found.st_nlink != 1:
                raise ModelRejected(_HARD_LINK.format(what=what))
    except BaseException:
        os.close(fd)
        raise
    return DataFile(fd, found)


_HARD_LINK: Final = (
    "{what} has a second name elsewhere (a hard link), so it may be any file of this machine; put plain copies of "
    "the model and its weights into one folder"
)


class Folder:
    """The folder of a model, out of which its weights may be read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, location: str) -> DataFile:
        """Open the weights file that the model calls `location`.

        location   a relative path with forward slashes, as ONNX writes it
        raises     ModelRejected when it leaves the folder, is no plain file, has links, or is missing
        """
        parts = components(location)
        what = f"the weights file {quoted(location)}"
        try:
            return self._walk(parts, what) if _WALKS else self._by_name(parts, what)
        except FileNotFoundError:
            raise ModelRejected(
                f"{what} is missing; it has to be where the model is, in {quoted(self.path)}"
            ) from None
        except (OSError, ValueError) as error:
            raise ModelRejected(f"cannot open {what}: {_reason(error)}") from None

    def _walk(self, parts: list[str], what: str) -> DataFile:
        held = os.open(self.path, _FOLDER)
        try:
            for part in parts[:-1]:
                _refuse_link(os.stat(part, dir_fd=held, follow_symlinks=False), what, part)
                below = os.open(part, _FOLDER | _NO_LINK, dir_fd=held)
                os.close(held)
                held = below
            found = os.stat(parts[-1], dir_fd=held, follow_symlinks=False)
            _refuse_link(found, what, parts[-1])
            _require_regular(found, what)
            return _checked(os.open(parts[-1], _FILE | _NO_LINK, dir_fd=held), what, found)
        finally:
            os.close(held)

    def _by_name(self, parts: list[str], what: str) -> DataFile:
        path = self.path
        for part in parts:
            path = path / part
            found = os.lstat(path)
            _refuse_link(found, what, part)
        _require_regular(found, what)
        # Junctions and mounted folders that are no links by name still lead elsewhere.
        if not path.resolve(strict=True).is_relative_to(self.path.resolve(strict=True)):
            raise ModelRejected(f"{what} lies outside the model's folder")
        return _checked(os.open(path, _FILE | _NO_LINK), what, found)


def _refuse_link(found: os.stat_result, what: str, part: str) -> None:
    reparse = getattr(found, "st_file_attributes", 0) & getattr(stat, "FILE_ATTRIBUTE_REPARSE_POINT", 0)
    if stat.S_ISLNK(found.st_mode) or reparse:
        raise ModelRejected(
            f"{what} is reached through the symbolic link {quoted(part)}, so it may be any file of this machine; "
            "put plain copies of the model and its weights into one folder (cp -L)"
        )


def components(location: str) -> list[str]:
    """The folders and the file that a location names, checked as text; at least one.

    raises   ModelRejected
    """
    what = f"the weights file {quoted(location)}"
    if _MEMORY_MARKER in location:
        raise ModelRejected(f"{what} is an address in memory, not a file; such a model must not be loaded")
    if not location or len(location) > _LONGEST_LOCATION or "\0" in location:
        raise ModelRejected(
            f"{what}: a relative path of 1 to {_LONGEST_LOCATION} characters without NUL was expected"
        )
    if location.startswith(("/", "\\")) or location[1:2] == ":":
        raise ModelRejected(f"{what} is an absolute path; weights are read from the model's own folder only")
    if "\\" in location:
        raise ModelRejected(f"{what} has backslashes; ONNX separates folders with forward slashes")
    parts = [part for part in location.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ModelRejected(f"{what} leads out of the model's folder; weights are read from there only")
    if not parts or location.endswith("/"):
        raise ModelRejected(f"{what} is a folder; a file was expected")
    if os.name == "nt":
        for part in parts:
            if ":" in part or part.split(".")[0].rstrip(" ").lower() in _WINDOWS_DEVICES:
                raise ModelRejected(f"{what} names a device or a stream; a regular file was expected")
    return parts


class DataFile:
    """A regular file that stays open: read in parts, or mapped. What it was when it was opened stays readable even
    if another file takes its name.

    size    in bytes, when it was opened
    close   gives the descriptor back, as dropping the file does
    """

    def __init__(self, fd: int, found: os.stat_result) -> None:
        self.size = found.st_size
        self._fd = fd
        self._changed = found.st_mtime_ns
        self._map: mmap.mmap | None = None
        self.close = weakref.finalize(self, os.close, fd)

    def __len__(self) -> int:
        return self.size

    def map(self) -> mmap.mmap | bytes:
        """The whole file as read-only memory that is paged in when touched.

        Touching what another program has cut off meanwhile ends the process: `read` where that can be afforded.
        """
        if not self.size:
            return b""
        if self._map is None:
            self._map = mmap.mmap(self._fd, self.size, access=mmap.ACCESS_READ)
        return self._map

    def read(self, start: int, length: int) -> np.ndarray:
        """(length,) uint8, read into memory of its own: ten times as fast as copying out of a fresh mapping.

        raises   ModelRejected when the file was changed after it was opened
        """
        result = np.empty(length, np.uint8)
        rest = result.data
        with io.FileIO(self._fd, closefd=False) as file:
            file.seek(start)
            while rest and (count := file.readinto(rest)):
                rest = rest[count:]
        self._require_unchanged()
        return result

    def digest(self) -> str:
        """The SHA-256 of the file, in hexadecimal.

        raises   ModelRejected when it was changed after it was opened
        """
        with io.FileIO(self._fd, closefd=False) as file:
            file.seek(0)
            result = hashlib.file_digest(file, "sha256").hexdigest()
        self._require_unchanged()
        return result

    def _require_unchanged(self) -> None:
        now = os.fstat(self._fd)
        if (now.st_size, now.st_mtime_ns) != (self.size, self._changed):
            raise ModelRejected("a file of the model was changed after it was opened; load the model again")


def _reason(error: Exception) -> str:
    if not isinstance(error, OSError):
        return str(error)[:200]
    if error.errno == errno.ELOOP:
        return "too many symbolic links, or one where none may be"
    return error.strerror or str(error)[:200]


#: How many bytes `describe` looks at.
HEAD: Final = 4096

_EXPORT: Final = "export it as ONNX first (`onnxviz export`, or torch.onnx.export)"
_CONVERT: Final = "convert it to ONNX first (for TensorFlow and Keras: tf2onnx)"
_PICTURE: Final = "the model comes first on the command line, pictures after it"
_UNPACK: Final = "unpack it and give the .onnx file inside"

# (offset, magic, what it is, what to do)
_MAGIC: Final[tuple[tuple[int, bytes, str, str], ...]] = (
    (0, b"\x89PNG\r\n\x1a\n", "a PNG picture", _PICTURE),
    (0, b"\xff\xd8\xff", "a JPEG picture", _PICTURE),
    (0, b"GIF8", "a GIF picture", _PICTURE),
    (8, b"WEBP", "a WebP picture", _PICTURE),
    (0, b"BM", "a BMP picture", _PICTURE),
    (0, b"%PDF", "a PDF document", "give an .onnx file"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the model it stands for", "run `git lfs pull`"),
    (4, b"TFL3", "a TensorFlow Lite model", "convert it to ONNX first (tf2onnx --tflite)"),
    (4, b"ORTM", "a model in ONNX Runtime's own ORT format", "give the .onnx file that it was made from"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file, perhaps a Keras model", _CONVERT),
    (0, b"GGUF", "a GGUF language model", "onnxviz opens convolutional networks in ONNX form"),
    (0, b"\x93NUMPY", "a NumPy array", "give an .onnx file"),
    (0, b"\x1f\x8b", "a gzip archive", _UNPACK),
    (0, b"BZh", "a bzip2 archive", _UNPACK),
    (0, b"\xfd7zXZ\x00", "an xz archive", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\x7fELF", "a program", "give an .onnx file"),
    (0, b"MZ", "a program", "give an .onnx file"),
    (0, b"ftrt", "a TensorRT engine", "give the .onnx file that it was built from"),
)

# Entry names near the start of a zip archive.
_ZIPPED: Final[tuple[tuple[bytes, str, str], ...]] = (
    (b"data.pkl", "a PyTorch checkpoint", _EXPORT),
    (b"constants.pkl", "a TorchScript model", _EXPORT),
    (b"config.json", "a Keras model", _CONVERT),
    (b".npy", "a NumPy archive", "give an .onnx file"),
    (b".onnx", "a zip archive with an .onnx file in it", "unpack it first"),
)

# By the ending of the name, where the bytes alone cannot tell.
_ENDINGS: Final[dict[str, tuple[str, str]]] = {
    ".pb": ("a TensorFlow graph", _CONVERT),
    ".mlmodel": ("a Core ML model", "convert it to ONNX first (onnxmltools)"),
    ".caffemodel": ("a Caffe model", "convert it to ONNX first"),
    ".pt": ("a PyTorch checkpoint", _EXPORT),
    ".pth": ("a PyTorch checkpoint", _EXPORT),
    ".bin": ("a weights file", "give the model it belongs to"),
    ".data": ("a weights file", "give the model it belongs to"),
    ".onnx_data": ("a weights file", "give the model it belongs to"),
}

_PRINTABLE: Final = bytes([9, 10, 12, 13, *range(32, 127)])


def describe(head: bytes, name: str = "") -> str:
    """'a PNG picture; …what to do…' for a file that is no ONNX model.

    head    its first bytes, `HEAD` of them where there are as many
    name    what it is called
    """
    kind, advice = _kind(head, name.lower())
    return (
        f"it looks like {kind}; {advice}" if kind else f"it is no kind of file that onnxviz knows; {advice}"
    )


def _kind(head: bytes, name: str) -> tuple[str, str]:
    if not head:
        return "an empty file", "was it fully downloaded?"
    if not head.strip(b"\0"):
        return "a file of zeros", "was it fully downloaded?"
    for offset, magic, kind, advice in _MAGIC:
        if head.startswith(magic, offset):
            return kind, advice
    if head.startswith(b"PK\x03\x04"):
        for part, kind, advice in _ZIPPED:
            if part in head:
                return kind, advice
        return "a zip archive", "give an .onnx file"
    if head[0] == 0x80 and len(head) > 1 and head[1] in (2, 3, 4, 5):
        return "a Python pickle, perhaps an old PyTorch checkpoint", _EXPORT
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000:
        return "a safetensors weights file", f"weights alone are no network: {_EXPORT}"
    if text := _text_kind(head):
        return text
    # A SavedModel begins with its schema version 1, a frozen graph with its first node.
    if head.startswith((b"\x08\x01\x12", b"\n")) and any(
        op in head for op in (b"Placeholder", b"Const", b"serve")
    ):
        return "a TensorFlow graph", _CONVERT
    for ending, kind_and_advice in _ENDINGS.items():
        if name.endswith(ending):
            return kind_and_advice
    # The IR version comes first in every file that onnx writes.
    if len(head) > 1 and head[0] == 0x08 and 3 <= head[1] < 32:
        return "an ONNX model that is cut short or damaged", "was it fully downloaded?"
    return "", "give an .onnx file"


def _text_kind(head: bytes) -> tuple[str, str] | None:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:64].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page", "the download gave a page, perhaps a log-in or an error, instead of the file"
    if start.startswith(b"<?xml"):
        return "an XML file, perhaps OpenVINO's", "give the .onnx file that it was made from"
    if head.translate(None, _PRINTABLE):
        return None
    if start.startswith((b"{", b"[")):
        return "a JSON file", "give an .onnx file"
    if start.startswith((b"ir_version", b"<")):
        return "an ONNX model in text form", "save it in binary form with onnx.save first"
    return "a text file", "give an .onnx file"
