"""Finding the pictures in any number of files and folders, and reading them in threads, ahead of whoever uses them."""

from __future__ import annotations

import errno
import os
import re
import stat
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar, overload

from onnxviz.errors import ImageRejected
from onnxviz.image.sniff import EXTENSIONS, unread
from onnxviz.text import printable

T = TypeVar("T")
P = TypeVar("P")

__all__ = ["EXTENSIONS", "Listing", "Paths", "Skipped", "decode", "find", "natural"]

#: Pictures of formats that are not read. They are told of: somebody will miss them.
_UNREAD: Final = frozenset(
    {".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".psd", ".svg", ".eps", ".tga", ".exr", ".hdr"}
    | {".ico", ".pcx", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw"}
)


class Paths(Sequence[Path]):
    """A list of paths that keeps only their text: a `Path` takes four times the memory of its string."""

    def __init__(self, names: list[str]) -> None:
        self._names = names

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> Paths: ...
    def __getitem__(self, index: int | slice) -> Path | Paths:
        return Paths(self._names[index]) if isinstance(index, slice) else Path(self._names[index])

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[Path]:
        return map(Path, self._names)

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Paths):
            return self._names == other._names
        return list(self) == other if isinstance(other, list) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # a list, in every respect but one

    def __repr__(self) -> str:
        shown = ", ".join(repr(printable(name, 60)) for name in self._names[:3])
        return f"<{len(self)} paths: {shown}{', ...' if len(self) > 3 else ''}>"


@dataclass(frozen=True)
class Skipped:
    """A file or folder that was left out, with the reason in a few words.

    path is as the system gives it (it may hold escape sequences or not be UTF-8); str() of this is safe to show.
    """

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.path, 200)}: {self.reason}"

    def to_dict(self) -> dict[str, str]:
        """As manifests list it."""
        return {"path": printable(self.path), "reason": self.reason}


@dataclass(frozen=True)
class Listing:
    """What `find` found.

    images    the pictures, in order
    skipped   what looks like a picture or a folder of them and was left out
    ignored   the number of other files (no picture's extension, or hidden)
    endings   the extensions that were looked for in folders
    """

    images: Sequence[Path]
    skipped: list[Skipped] = field(default_factory=list)
    ignored: int = 0
    endings: Collection[str] = tuple(EXTENSIONS)

    def require(self) -> Listing:
        """This listing, if it holds a picture.

        raises   ImageRejected, saying what there was instead
        """
        if self.images:
            return self
        told = "; ".join(map(str, self.skipped[:3])) + ("; ..." if len(self.skipped) > 3 else "")
        raise ImageRejected(
            f"no picture was found: {self.ignored} other files, {len(self.skipped)} skipped"
            + (f" ({told})" if told else "")
            + f"; expected files that end in {', '.join(sorted(self.endings))}"
        )


_NUMBER: Final = re.compile("[0-9]+")


def natural(name: str) -> str:
    """The sort key of file managers: img2 before img10, whatever the case; then, after a NUL, the name itself."""
    # A number becomes 0, its number of digits as one character, its digits: text order is then number order.
    key = _NUMBER.sub(lambda m: f"0{chr(1 + len(digits := m[0].lstrip('0')))}{digits}", name.casefold())
    return f"{key}\0{name}"


def find(
    roots: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    endings: Collection[str] = EXTENSIONS,
) -> Listing:
    """The pictures in files and folders: in the order given, each folder's in natural order, each file once.

    A file that is named itself is taken whatever it is called; in a folder, those with a picture's extension
    are, but no hidden ones. Links are read only where they stay inside the named folders, since a folder from
    a stranger may point anywhere. What cannot be read is listed with a reason, never an error. Nothing is
    opened; memory holds little more than the paths.

    roots     one path or several, files and folders mixed
    endings   the extensions, in lower case, of what is taken in folders: pictures, or `Preprocessing.endings`
    """
    given = [roots] if isinstance(roots, (str, os.PathLike)) else list(roots)
    walk = _Walk([os.fsdecode(root) for root in given], endings)
    return Listing(Paths(walk.images), walk.skipped, walk.ignored, endings)


_FILE, _FOLDER, _LINK, _OTHER = range(4)
_OUTSIDE: Final = "a link that leads out of the folder; name its target too, if it is meant"


class _Walk:
    """One run of `find`: what was found so far."""

    def __init__(self, roots: list[str], endings: Collection[str]) -> None:
        self.images: list[str] = []
        self.skipped: list[Skipped] = []
        self.ignored = 0
        self._endings = endings
        # What links may lead to: the roots and everything in them. A root with a NUL is refused further down.
        self._bounds = {os.path.realpath(root) for root in roots if "\0" not in root}
        # Only several roots, or links, can lead to one file or folder twice.
        self._seen: set[str] | None = set() if len(roots) > 1 else None
        self._entered: set[tuple[int, int]] = set()
        for root in roots:
            self._root(root)

    def _skip(self, path: str, reason: str) -> None:
        self.skipped.append(Skipped(Path(path), reason))

    def _root(self, path: str) -> None:
        try:
            mode = os.stat(path).st_mode  # noqa: PTH116 - as text; a Path for each file of a million is too much
        except (OSError, ValueError) as error:
            return self._skip(path, _reason(error))
        if not _is_utf8(path):
            return self._skip(path, "its name is not UTF-8; rename it")
        if stat.S_ISDIR(mode):
            return self._folders(path)
        if not stat.S_ISREG(mode):
            return self._skip(path, "a pipe, socket or device, not a regular file")
        return self._add(path, os.path.abspath(path))  # noqa: PTH100

    def _add(self, path: str, absolute: str) -> None:
        if self._seen is not None:
            if absolute in self._seen:
                return
            self._seen.add(absolute)
        self.images.append(path)

    def _folders(self, top: str) -> None:
        """`top` and what lies in it, depth first, without recursion: folders nest deeper than Python calls."""
        open_folders = [self._entries(top)]
        while open_folders:
            folder = next(open_folders[-1], None)
            if folder is None:
                open_folders.pop()
            else:
                open_folders.append(self._entries(folder))

    def _entries(self, folder: str) -> Iterator[str]:
        """Add the pictures of one folder; yield its folders where the order has them entered."""
        try:
            status = os.stat(folder)  # noqa: PTH116
            if (status.st_dev, status.st_ino) in self._entered:
                return  # named twice, or a folder of links that meet
            self._entered.add((status.st_dev, status.st_ino))
        except OSError as error:
            return self._skip(folder, _reason(error))
        absolute = os.path.join(os.path.abspath(folder), "")  # noqa: PTH100, PTH118
        for key, kind in self._sorted(folder):
            name = key.partition("\0")[2]
            path = os.path.join(folder, name)  # noqa: PTH118
            if not _is_utf8(name):
                self._skip(path, "its name is not UTF-8; rename it")
            elif kind == _FILE:
                self._add(path, absolute + name)
            elif kind == _FOLDER:
                yield path
            elif kind == _OTHER:
                self._skip(path, "a pipe, socket or device, not a regular file")
            else:
                self._link(path, absolute + name)

    def _sorted(self, folder: str) -> list[tuple[str, int]]:
        """(sort key, kind) of everything in `folder` that matters, sorted; the rest is counted."""
        found: list[tuple[str, int]] = []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    kind = _kind(entry)
                    extension = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
                    if entry.name.startswith("."):
                        self.ignored += kind != _FOLDER
                    elif kind in (_FOLDER, _LINK) or extension in self._endings:
                        found.append((natural(entry.name), kind))
                    elif extension in _UNREAD:
                        self._skip(
                            entry.path, f"{extension} pictures are not read; convert it to PNG or JPEG"
                        )
                    else:
                        self.ignored += 1
        except OSError as error:
            self._skip(folder, _reason(error))  # what was listed before the error is kept
        found.sort()
        return found

    def _link(self, path: str, absolute: str) -> None:
        picture = os.path.splitext(path)[1].lower() in self._endings  # noqa: PTH122
        try:
            target = os.path.realpath(path, strict=True)
            mode = os.stat(target).st_mode  # noqa: PTH116
        except OSError as error:
            if picture or error.errno == errno.ELOOP:
                self._skip(path, _reason(error))
            else:
                self.ignored += 1
            return
        # Whether it, or a folder above it, is one of those that were named.
        inside = target in self._bounds or not self._bounds.isdisjoint(map(str, Path(target).parents))
        if stat.S_ISDIR(mode):
            self._skip(path, "a link to a folder that is read anyway" if inside else _OUTSIDE)
        elif not picture:
            self.ignored += 1
        elif not stat.S_ISREG(mode):
            self._skip(path, "a link to a pipe, socket or device")
        elif inside:
            self._add(path, absolute)
        else:
            self._skip(path, _OUTSIDE)


def _kind(entry: os.DirEntry[str]) -> int:
    try:
        if entry.is_symlink() or getattr(entry, "is_junction", bool)():
            return _LINK
        if entry.is_dir(follow_symlinks=False):
            return _FOLDER
        return _FILE if entry.is_file(follow_symlinks=False) else _OTHER
    except OSError:
        return _FILE  # reading it will give the reason


def _is_utf8(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def _reason(error: OSError | ValueError) -> str:
    # A ValueError is a NUL in the name.
    return unread(error, "it does not exist") if isinstance(error, OSError) else printable(error, 100)


# --- reading in threads --------------------------------------------------------------------


def decode(
    paths: Iterable[P],
    read: Callable[[P], T],
    *,
    workers: int | None = None,
    ahead: int | None = None,
) -> Iterator[tuple[P, T | ImageRejected]]:
    """Read pictures in threads and give them in order: (path, what `read` gave, or why it refused).

    At most `workers` + `ahead` pictures are in memory beside the one that was given last, however many
    paths there are; `paths` may be endless and is taken from only as far as that. Reading starts with the
    first `next` and stops when the generator is closed or dropped; nothing is read after that.

    paths     anything that `read` takes, mostly paths
    read      called in several threads at once. Put all that is to be done with each picture here
              (preprocessing), so that it runs in the threads too
    workers   number of threads; None: one a core, at most 8 (decoders release Python's lock)
    ahead     how many finished pictures may wait; None: twice `workers`
    raises    whatever `read` raises other than ImageRejected
    """
    from onnxviz.programs import cores
    from onnxviz.runtime.pool import Pool

    workers = workers or min(8, cores())
    most = workers + (2 * workers if ahead is None else ahead)

    def attempt(path: P) -> T | ImageRejected:
        try:
            return read(path)
        except ImageRejected as refusal:
            # The tracebacks would keep the decoder's frames, and so the picture's bytes, alive.
            refusal.__cause__ = refusal.__context__ = None
            return refusal.with_traceback(None)

    waiting: deque[tuple[P, Future[T | ImageRejected]]] = deque()

    # No name of the generator keeps a picture after it was given.
    def popped() -> tuple[P, T | ImageRejected]:
        path, future = waiting.popleft()
        return path, future.result()

    with Pool(workers, "onnxviz-decode") as pool:
        for path in paths:
            waiting.append((path, pool.submit(attempt, path)))
            if len(waiting) >= most:
                yield popped()
        while waiting:
            yield popped()
