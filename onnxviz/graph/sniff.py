"""What a file that is not an ONNX model is instead, and what to do with it."""

from __future__ import annotations

from typing import Final

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
