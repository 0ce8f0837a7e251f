"""Writing files so that a reader sees the old one or the new one, never half of either."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import numbers
import os
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from onnxviz.errors import OutputRefused, UsageError
from onnxviz.image.text import json_escaped

if TYPE_CHECKING:
    import numpy as np


#: What a picture can be written as; the first is what it becomes where nothing is said.
PICTURES: Final = (".png", ".jpg", ".jpeg", ".webp")
#: What a table can be written as beside a picture; its JSON would be the manifest's name.
TABLES: Final = (".csv", ".parquet")
# The same for what is a folder: names that can only mean a file.
_FILES: Final = frozenset(
    {
        *PICTURES,
        *TABLES,
        ".json",
        ".npy",
        ".npz",
        ".onnx",
        ".html",
        ".txt",
        ".pdf",
        ".gif",
        ".zip",
        ".exe",
        ".md",
    }
)


def destination(path: str | os.PathLike[str], default: str, kinds: Sequence[str] = PICTURES) -> Path:
    """The file that a result is written to where `path` was asked for: what the name says, or nothing.

    A folder (one that is there, or a name that ends in a slash) gets `default`; a name without an ending gets the first
    of `kinds`. No `kinds`: the result is itself a folder.

    raises   UsageError for the ending of another kind of file, naming what is possible; OutputRefused for a device
    """
    target = Path(path)
    ending = target.suffix.lower()
    if not kinds:
        if target.is_file() or (ending in _FILES and not target.is_dir()):
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
    """Write `data` (bytes, or pieces of them) to `path` as a whole or not at all.

    The bytes go to a temporary file beside the target, are flushed to the disk (fsync) and renamed over it
    (`os.replace`), so a crash or a full disk leaves what was there before.

    raises   OutputRefused, naming the path and the reason
    """
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir():
            raise OutputRefused(f"cannot write {str(target)!r}: it is a folder; name a file")
        handle, temporary = tempfile.mkstemp(
            prefix=f".{target.name[:80]}.", suffix=".part", dir=target.parent
        )
    except OSError as error:
        raise OutputRefused(_reason(target, error)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in (data,) if isinstance(data, bytes) else data:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; give the result the permissions any other new file gets.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise OutputRefused(_reason(target, error)) from error
        raise
    return target


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _reason(target: Path, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return f"cannot write {str(target)!r}: the disk is full; free some space or choose another --out"
    return f"cannot write {str(target)!r}: {error.strerror or error}; what was there before is unchanged"


def json_bytes(value: Any) -> bytes:
    """`value` as indented UTF-8 JSON that ends in a newline; NaN and infinities become null.

    Letters of any script stand as they are; what hides or acts (controls, bidirectional marks, lone halves of a pair)
    is escaped.
    """
    document = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    return f"{json_escaped(document)}\n".encode()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    if isinstance(value, numbers.Rational):
        return float(value)
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if hasattr(value, "item"):
        return _plain(value.item())
    return str(value)


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
    if ending == ".png":
        picture.save(buffer, "PNG")
        return buffer.getvalue()
    most = 16_383 if ending == ".webp" else 65_500
    if max(picture.size) > most:
        raise OutputRefused(
            f"a picture of {picture.width}×{picture.height} pixels is too large for {ending} ({most} each way); "
            "name it NAME.png"
        )
    if ending == ".webp":
        picture.save(buffer, "WEBP", lossless=True)
    else:
        picture.convert("RGB").save(buffer, "JPEG", quality=95, subsampling=0)
    return buffer.getvalue()


def sha256(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def claimed(out: str | os.PathLike[str]) -> Iterator[None]:
    """Hold `out` for this process: a second run with the same output is told so instead of mixing with it.

    The claim is a lock on a hidden file beside the output, which the operating system gives back when the
    process ends, however it ends.

    raises   OutputRefused when another process holds it or the folder cannot be written
    """
    target = Path(out)
    marker = target.parent / f".{target.name[:80]}.lock"
    try:
        marker.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(marker, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise OutputRefused(_reason(target, error)) from error
    try:
        if not _lock(handle):
            raise OutputRefused(
                f"another run is writing to {str(target)!r}; wait for it or choose another --out"
            )
        yield
        with contextlib.suppress(OSError):
            marker.unlink()
    finally:
        os.close(handle)


def _lock(handle: int) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
