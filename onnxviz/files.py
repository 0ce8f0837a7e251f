"""What results are called and are made of in files: names, and the bytes of pictures, arrays and JSON.

How they get there, whole or not at all, is file_set.py; who may write them, claims.py.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from onnxviz.errors import OutputRefused, UsageError
from onnxviz.text import json_bytes as json_bytes  # noqa: PLC0414 - a file's bytes, too

if TYPE_CHECKING:
    import numpy as np

#: What a picture can be written as; the first is what it becomes where nothing is said.
PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp")
#: What a table can be written as beside a picture; its JSON would be the manifest's name.
TABLES: Final = (".csv", ".parquet")
#: What features can be written as.
FEATURES: Final = (".npy", ".npz", *TABLES)


def destination(path: str | os.PathLike[str], default: str, kinds: Sequence[str] = PICTURES) -> Path:
    """The file that a result is written to where `path` was asked for: what the name says, or nothing.

    A folder (one that is there, or a name that ends in a slash) gets `default`; a name without an ending gets the first
    of `kinds`. No `kinds`: the result is itself a folder.

    raises   UsageError for the ending of another kind of file, naming what is possible; OutputRefused for a device, or
             a name that no file can have
    """
    target = Path(path)
    try:
        target.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:
        from onnxviz.claims import reason

        raise OutputRefused(reason(target, error)) from error
    ending = target.suffix.lower()
    if not kinds:
        from onnxviz.claims import ENDINGS

        if target.is_file() or (ending in ENDINGS and not target.is_dir()):
            raise UsageError(f"cannot write a folder as {str(target)!r}: give the name of a folder")
        return target
    if os.fspath(path).endswith(("/", os.sep)) or target.is_dir():
        return target / default
    if target.exists() and not target.is_file():
        raise OutputRefused(f"cannot write {str(target)!r}: it is no regular file; name a file or a folder")
    if ending in kinds:
        return target
    if re.fullmatch(r"\.[a-z][a-z0-9]{0,9}", ending):
        raise UsageError(
            f"cannot write {target.name!r}: this can be {_listed(kinds)}; or name a folder, with a / at the end"
        )
    return target.with_name(target.name + kinds[0])


def _listed(kinds: Sequence[str]) -> str:
    return kinds[0] if len(kinds) == 1 else f"{', '.join(kinds[:-1])} or {kinds[-1]}"


def write_atomic(path: str | os.PathLike[str], data: bytes | Iterable[bytes]) -> Path:
    """Write `data` (bytes, or pieces of them) to `path` as a whole or not at all: a set of one file.

    raises   OutputRefused, naming the path and the reason
    """
    from onnxviz.file_set import FileSet

    with FileSet(path) as files:
        return files.finish(data)


def npy_bytes(array: np.ndarray) -> bytes:
    """`array` in NumPy's own file format, never with pickled objects."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def png_bytes(picture: Any) -> bytes:
    """A PIL image as PNG bytes."""
    return picture_bytes(picture, ".png")


def picture_bytes(picture: Any, ending: str) -> bytes:
    """A PIL image as the bytes of a file with this ending (`PICTURES`); JPEG and WebP nearly without loss.

    raises   OutputRefused where the format cannot hold so many pixels
    """
    buffer = io.BytesIO()
    most = {".png": 2**31, ".webp": 16_383}.get(ending, 65_500)
    if max(picture.size) > most:
        raise OutputRefused(
            f"a picture of {picture.width}×{picture.height} pixels is too large for {ending} ({most} each way); "
            "name it NAME.png"
        )
    if ending == ".png":
        picture.save(buffer, "PNG", compress_level=4)  # half the time of Pillow's 6, 3 % larger
    elif ending == ".webp":
        picture.save(buffer, "WEBP", lossless=True)
    else:
        picture.convert("RGB").save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
