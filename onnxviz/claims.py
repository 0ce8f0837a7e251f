"""Who writes an output: one run at a time, told by a lock on a hidden file beside it."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from onnxviz import isolate
from onnxviz.errors import OutputRefused

#: Endings that can only mean a file. What differs in nothing else (a.png, a.npy, a.json) belongs together.
ENDINGS: Final = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".gif", ".pdf", ".csv", ".parquet", ".json", ".npy", ".npz", ".onnx"}
    | {".html", ".txt", ".md", ".zip", ".exe"}
)
# How long saving waits for another that saves under the same name, which takes moments; and how often it looks.
_PATIENCE, _LOOK = 10.0, 0.02
_HELD: Final = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK})
# A longer name would leave no room for what is added to it.
_LONGEST = 100
# How a marker begins, before the process and the machine.
_FIRST: Final = b"onnxviz "

_claims: dict[Path, int] = {}
_saving: set[Path] = set()
_guard = threading.Lock()


def hidden(out: str | os.PathLike[str], ending: str) -> Path:
    """The hidden name, .NAME and `ending` beside it, that all spellings of an output and all files of a set share."""
    target = Path(out)
    if target.is_dir():  # a link to a folder is that folder; a link to a file is replaced, not followed
        target = target.resolve()
    name = target.stem if target.suffix.lower() in ENDINGS and not target.is_dir() else target.name
    if len(os.fsencode(name)) > _LONGEST:
        name = f"{name[:24]}-{hashlib.sha256(os.fsencode(name.casefold())).hexdigest()[:16]}"
    try:
        return target.parent.resolve() / f".{name}{ending}"
    except OSError as error:  # the current folder is gone
        raise OutputRefused(reason(target, error)) from error


@contextlib.contextmanager
def claimed(out: str | os.PathLike[str]) -> Iterator[None]:
    """Hold `out` for this process: a second run with the same output is told so instead of mixing with it.

    The claim is a lock on a hidden file beside the output, which the operating system gives back when the
    process ends, however it ends. Names that differ in the ending alone are one output, for they share NAME.json.
    Where the file system has no locks, the file names the process that holds it.

    raises   OutputRefused when another process holds it, or the name or its folder cannot be written
    """
    target = Path(out)
    try:
        marker = hidden(target, ".lock")
        marker.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # too long a name is told now, not after the work
            os.lstat(target.with_name(f"{target.name}.npy"))
        with _guard:
            handle = None if marker in _claims else _hold(marker)
            if handle is None:
                raise _taken(target, marker)
            _claims[marker] = handle
            _announce()
    except OSError as error:
        raise OutputRefused(reason(target, error)) from error
    try:
        yield
    finally:
        with _guard:
            _release(marker, _claims.pop(marker))
            _announce()


@contextlib.contextmanager
def saving(out: str | os.PathLike[str]) -> Iterator[None]:
    """Hold `out` while it is written, as a part of this process's claim where it has one; wait a while for others.

    raises   OutputRefused where another run goes on holding it; OSError
    """
    target = Path(out)
    marker = hidden(target, ".lock")
    end = time.monotonic() + _PATIENCE
    while True:
        with _guard:
            if marker not in _saving and (handle := -1 if marker in _claims else _hold(marker)) is not None:
                _saving.add(marker)
                _announce()
                break
        if time.monotonic() > end:
            raise _taken(target, marker)
        time.sleep(_LOOK)
    try:
        yield
    finally:
        with _guard:
            _saving.discard(marker)
            if handle >= 0:
                _release(marker, handle)
            _announce()


def sweep(markers: Iterable[str]) -> None:
    """Remove the markers of a process that was killed, unless another holds them by now."""
    for marker in map(Path, markers):
        if not (marker.name.startswith(".") and marker.name.endswith(".lock") and os.path.lexists(marker)):
            continue
        with contextlib.suppress(OSError, OutputRefused):
            handle = _hold(marker)
            if handle is not None:
                _release(marker, handle)


def _announce() -> None:
    isolate.claims(str(marker) for marker in (*_claims, *_saving))


def reason(target: Path, error: OSError, after: str = "what was there before is unchanged") -> str:
    """'cannot write ...: why; ' and what is there now."""
    if error.errno == errno.ENOSPC:
        return f"cannot write {str(target)!r}: the disk is full; free some space or choose another --out; {after}"
    return f"cannot write {str(target)!r}: {error.strerror or error}; {after}"


def _taken(target: Path, marker: Path) -> OutputRefused:
    _, host = _owner(marker)
    elsewhere = f" on {host} (if it is not, remove {str(marker)!r})" if host not in (None, _here()) else ""
    return OutputRefused(
        f"another run is writing to {str(target)!r}{elsewhere}; wait for it or choose another --out"
    )


def _hold(marker: Path) -> int | None:
    """The open and locked marker; None where somebody else holds it.

    Whoever held it before removes it: a lock on a file that is no longer the one of this name holds nothing.
    """
    while True:
        handle = _opened(marker)
        try:
            if not _lock(handle, marker):
                os.close(handle)
                return None
            if os.path.samestat(status := os.fstat(handle), marker.lstat()):
                first = os.read(handle, len(_FIRST)) if stat.S_ISREG(status.st_mode) else b"a pipe"
                if not _FIRST.startswith(first):  # somebody keeps something in it
                    raise _foreign(marker)
                with contextlib.suppress(
                    OSError
                ):  # read-only for us, or a full disk: it only tells who it is
                    os.lseek(handle, 0, os.SEEK_SET)
                    os.ftruncate(handle, 0)
                    os.write(handle, b"%s%d %s\n" % (_FIRST, os.getpid(), os.fsencode(_here())))
                return handle
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _opened(marker: Path) -> int:
    # A link would have what it leads to written over, a pipe would wait.
    flags = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return os.open(marker, os.O_RDWR | os.O_CREAT | flags, 0o644)
    except PermissionError:  # another user's, which can be locked all the same
        if not marker.exists():
            raise
        return os.open(marker, os.O_RDONLY | flags)
    except OSError as error:
        if marker.is_symlink():
            raise _foreign(marker) from error
        raise


def _foreign(marker: Path) -> OutputRefused:
    return OutputRefused(
        f"{str(marker)!r} is in the way, and not of onnxviz, which names its locks so; choose another --out"
    )


def _release(marker: Path, handle: int) -> None:
    """Remove the marker while it is held, so that nobody else's goes."""
    try:
        with contextlib.suppress(OSError):
            os.unlink(marker)
    finally:
        with contextlib.suppress(OSError):
            os.close(handle)


def _lock(handle: int, marker: Path) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        try:
            # Far behind what is written, which others may read.
            os.lseek(handle, 1 << 20, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined, unused-ignore]
            os.lseek(handle, 0, os.SEEK_SET)
        except OSError:
            return False
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _HELD and not _owned(marker)
    return True


def _owned(marker: Path) -> bool:
    """Where there are no locks: whether the process that the marker names lives, or may, on another machine."""
    process, host = _owner(marker)
    if process is None:
        return False
    if host != _here():
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return process != os.getpid() or marker in _claims


def _owner(marker: Path) -> tuple[int | None, str | None]:
    try:
        _, process, host = marker.read_text("utf-8", "replace").split(maxsplit=2)
        return int(process), host.strip()
    except (OSError, ValueError):
        return None, None


def _here() -> str:
    return (os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME")) or "localhost"
