"""Files that belong together: all written beside, then put in place together, so that a reader sees old or new.

Several renames are no single step. So the head of the set (the manifest, or the graph that names its weights) goes
first and comes last: while the others are exchanged, the manifest says that the set is incomplete. Whatever fails
on the way is undone where the file system can keep the old files meanwhile (hard links).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from onnxviz import claims
from onnxviz.errors import OutputRefused
from onnxviz.text import json_bytes, printable

#: In a manifest: the files of its set, the one that was asked for first; those that were written while the run went.
#: A * at the start is the manifest's own name without its ending, so that a set can be renamed as one.
WRITTEN: Final = "written"
CHECKPOINTS: Final = "checkpoints"
#: The manifest of a result that is a folder.
FOLDER_HEAD: Final = "manifest.json"
_OURS: Final = "onnxviz."
# These commands make a sheet of several maps where several are asked for.
_SHEETS: Final = {"attributions": ("saliency", "cam")}
# What the results that are folders hold.
_IN_FOLDERS: Final = (".csv", ".html", ".json", ".npy", ".parquet", ".png", ".sarif", ".webp", ".xml")
# One write may hold no more than 2 GiB.
_CHUNK: Final = 1 << 28
# What file systems answer that cannot flush; all else that flushing fails with is a failure to write.
_NO_SYNC: Final = {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EROFS}
_SAVING: Final = "a run ended while it saved: some files may be of an earlier run, some missing; run it again"


@dataclass(frozen=True)
class _Step:
    """One exchange, to be undone: `staged` takes the place of `target`; `aside` is what was there."""

    target: Path
    staged: Path | None
    aside: Path | None
    existed: bool


class FileSet:
    """Files of one result. Use it as a context: leaving it puts all of them in place, an exception none.

    head     the file that makes the set whole, put in place last: a JSON manifest, or a file that names the others
    named    the file that the user asked for by name, which may be there already and be replaced
    raises   OutputRefused, saying what is there now; or that the names belong to another technique's result
    """

    def __init__(self, head: str | os.PathLike[str], named: str | os.PathLike[str] | None = None) -> None:
        self._head = Path(head)
        self._named = self._head if named is None else Path(named)
        self._files: dict[Path, Path] = {}  # where each goes: where it is staged
        self._made: list[Path] = []
        self._stages: list[Path] = []
        self._count = 0
        self._schema: str | None = None
        self._written: list[str] = []
        self._kept: set[Path] = set()
        self._held = contextlib.ExitStack()

    def __enter__(self) -> FileSet:
        try:
            with self._writing(self._head):
                self._folder(self._head.parent)
                self._held.enter_context(claims.saving(self._head))
                self._stage(self._head.parent)
        except BaseException:
            self._end()
            raise
        return self

    def add(self, path: str | os.PathLike[str], data: bytes | Iterable[bytes]) -> Path:
        """Stage a file: `data` is bytes, or pieces of them.

        raises   OutputRefused
        """
        target = Path(path)
        self._files[target] = self._write(target, data)
        return target

    def finish(self, data: bytes | Iterable[bytes]) -> Path:
        """Stage the head, as `add`."""
        return self.add(self._head, data)

    def describe(
        self,
        manifest: dict[str, Any],
        more: Mapping[str, Any] | None = None,
        checkpoints: Sequence[Path] = (),
    ) -> Path:
        """Stage the head as a manifest, to which the names of the set's files are added.

        more         what the file alone tells
        checkpoints  what this run has put in place already; the next run under this name removes them
        """
        self._schema = str(manifest.get("schema"))
        self._written = [self._noted(path) for path in self._files]
        self._kept = set(checkpoints)
        listed = {WRITTEN: self._written, CHECKPOINTS: [self._noted(path) for path in checkpoints]}
        for key, names in listed.items():
            manifest.pop(key, None)
            if names and self._schema.startswith(_OURS):
                manifest[key] = names
        return self.finish(json_bytes({**manifest, **(more or {})}))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._put()
        finally:
            self._end()

    # --- staging --------------------------------------------------------------------------------

    def _write(self, target: Path, data: bytes | Iterable[bytes]) -> Path:
        with self._writing(target):
            if target.is_dir():
                raise OutputRefused(f"cannot write {str(target)!r}: it is a folder; name a file")
            with contextlib.suppress(FileNotFoundError):
                os.lstat(target)  # a name that is too long, or leads through a file
            self._folder(target.parent)
            staged = self._new(target.parent)
            handle = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        try:
            for piece in (data,) if isinstance(data, bytes) else data:
                view = memoryview(piece)
                while len(view) > 0:
                    with self._writing(target):
                        view = view[os.write(handle, view[:_CHUNK]) :]
            with self._writing(target):
                _flush(handle)
        except BaseException:
            with contextlib.suppress(OSError):
                os.close(handle)
            raise
        with self._writing(target):
            os.close(handle)
        return staged

    @contextlib.contextmanager
    def _writing(self, target: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OutputRefused(claims.reason(target, error)) from error

    def _folder(self, folder: Path) -> None:
        missing = []
        while not folder.exists():
            missing.append(folder)
            folder = folder.parent
        for one in reversed(missing):
            with contextlib.suppress(FileExistsError):
                one.mkdir()
                self._made.append(one)
        if not folder.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))

    def _new(self, folder: Path) -> Path:
        """A free name for what goes to `folder`, from where it can be renamed: beside the head, or on its own disk."""
        stage = self._stages[0]
        if folder.stat().st_dev != stage.stat().st_dev:
            stage = self._stage(folder)
        self._count += 1
        return stage / str(self._count)

    def _stage(self, folder: Path) -> Path:
        """The hidden folder of this set's name; what it holds is of a dead run, for this name is held by us."""
        stage = folder / claims.hidden(self._head, ".onnxviz.part").name
        if stage not in self._stages:
            _empty(stage)
            with contextlib.suppress(FileExistsError):
                stage.mkdir(0o700)
            if stage.is_symlink():
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(stage))
            self._stages.append(stage)
        return stage

    def _end(self) -> None:
        with self._held:
            for stage in self._stages:
                _empty(stage)
            for folder in reversed(self._made):
                with contextlib.suppress(OSError):
                    folder.rmdir()

    # --- putting in place -----------------------------------------------------------------------

    def _put(self) -> None:
        old = _manifest(self._head) if self._schema is not None else {}
        refuse_foreign(self._head, self._files, self._schema, self._named)
        stale = self._stale(old)
        others = [(target, staged) for target, staged in self._files.items() if target != self._head]
        marker, before = self._marker(stale) if others and self._schema is not None else (None, None)
        done: list[_Step] = []
        target = self._head
        try:
            if others:
                self._exchange(done, self._head, marker, before)
            for target, staged in others:
                self._exchange(done, target, staged)
            for target in stale:
                self._exchange(done, target)
            target = self._head
            os.replace(self._files[target], target)
        except BaseException as error:
            if not os.path.lexists(self._files[self._head]):
                raise  # Ctrl-C when all was in place
            whole = _undo(done)
            if isinstance(error, OSError):
                raise OutputRefused(claims.reason(target, error, self._told(whole))) from error
            raise
        for folder in {one.parent for one in (*self._files, *stale)}:
            _flush_folder(folder)
        for path in stale:
            if path.parent != self._head.parent:
                with contextlib.suppress(OSError):
                    path.parent.rmdir()

    def _exchange(
        self, done: list[_Step], target: Path, staged: Path | None = None, aside: Path | None = None
    ) -> None:
        """Put `staged` in the place of `target`, or nothing, and keep what was there to be brought back.

        aside   a copy of what was there; None: a second name for it, where the file system has that
        """
        existed = os.path.lexists(target)
        if existed and aside is None:
            aside = self._new(target.parent)
            if staged is not None:  # the old file is to be seen under its name until the new one is
                try:
                    os.link(target, aside, follow_symlinks=False)
                except (OSError, NotImplementedError):  # a file system without hard links
                    aside = None
        done.append(_Step(target, staged, aside, existed))
        if staged is not None:
            os.replace(staged, target)
        elif existed and aside is not None:
            os.replace(target, aside)

    def _marker(self, stale: list[Path]) -> tuple[Path, Path | None]:
        """The manifest that stands there while files are exchanged, naming those of both runs; the old one's copy."""
        names = dict.fromkeys([*self._written, *map(self._noted, stale)])
        value = {"schema": self._schema, "incomplete": True, "note": _SAVING, WRITTEN: list(names)}
        marker = self._write(self._head, (json.dumps(value, indent=2) + "\n").encode())
        with self._writing(self._head):
            before = self._head.read_bytes() if self._head.exists() else None
        return marker, None if before is None else self._write(self._head, before)

    def _told(self, whole: bool) -> str:
        if whole:
            return "what was there before is unchanged"
        if self._schema is None:
            return f"{self._head.name!r} was removed, since other files of it are new already; run the command again"
        return (
            f"some files beside it are new and some old, and {self._head.name!r} says that they are incomplete; "
            "run the command again"
        )

    def _stale(self, old: Mapping[str, Any] | None) -> list[Path]:
        """What an earlier run under this name wrote and this one does not: sheets, pages, checkpoints."""
        if not old:
            return []
        written = _names(old, WRITTEN, self._head)
        asked = [name for name in written[:1] if PurePosixPath(name).stem == self._head.stem]
        folder = self._head.parent
        home = folder.resolve()
        found = []
        for name in dict.fromkeys([*written, *_names(old, CHECKPOINTS, self._head)]):
            path = folder / name
            new = path in self._files or path in self._kept
            if name in asked or new or not self._could_be_ours(name):
                continue
            if path.is_file() and not path.is_symlink() and path.parent.resolve() == (home / name).parent:
                found.append(path)
        return found

    def _could_be_ours(self, name: str) -> bool:
        """A stranger's manifest may name anything: files of a set share its name, or lie in the folder that it is."""
        if self._head.name == FOLDER_HEAD:
            return name == "SHA256SUMS" or PurePosixPath(name).suffix in _IN_FOLDERS
        return name.startswith((f"{self._head.stem}.", f"{self._head.stem}-"))

    def _noted(self, path: Path) -> str:
        name = Path(os.path.relpath(path, self._head.parent)).as_posix()
        own = name.startswith(self._head.stem)
        return f"*{name.removeprefix(self._head.stem)}" if own else name


def refuse_foreign(head: Path, files: Iterable[Path], schema: str | None, named: Path | None = None) -> None:
    """Refuse to write over what another technique, or the user, has under these names.

    head     the manifest of the set; for a file without one, the file
    schema   of the new manifest; None: the file has none
    named    the file that was asked for by name, which may be replaced unless another technique's manifest names it

    raises   OutputRefused
    """
    manifest = head if schema is not None else head.with_suffix(".json")
    old = _manifest(manifest)
    names = [path for path in files if path != head]
    way = "choose another --out, or remove what is there"
    if old is None:
        if schema is not None and schema.startswith(_OURS) and manifest != named:
            raise OutputRefused(f"{str(manifest)!r} is there already, and no manifest of onnxviz; {way}")
        return
    technique = _technique(old.get("schema"))
    listed = _names(old, WRITTEN, manifest)
    if schema is None:
        taken = head.name in listed or (head == manifest and WRITTEN in old)
    elif not old or not schema.startswith(_OURS) or _alike(technique, _technique(schema)):
        taken = False
    else:  # under the very name that the user gave both times, the new set replaces the old one
        taken = named is None or listed[:1] != [named.name]
    if taken:
        theirs = [manifest.name, *(one.name for one in names if one.exists() and one.parent == head.parent)]
        told = " and ".join(map(repr, dict.fromkeys(theirs)))
        raise OutputRefused(
            f"cannot write {str(named or head)!r}: {told} beside it "
            f"belong{'s' if len(theirs) == 1 else ''} to a result of {printable(technique, 40)!r}; {way}"
        )
    if schema is None or not schema.startswith(_OURS) or (old and WRITTEN not in old):
        return
    written = {manifest.parent / name for name in listed}
    for path in names:
        if path != named and path not in written and os.path.lexists(path):
            raise OutputRefused(
                f"{str(path)!r} is there already, and no manifest says that onnxviz wrote it; {way}"
            )


def _alike(one: str, other: str) -> bool:
    return one == other or one in _SHEETS.get(other, ()) or other in _SHEETS.get(one, ())


def _technique(schema: Any) -> str:
    return str(schema).removeprefix(_OURS).partition("/")[0]


def _manifest(path: Path) -> dict[str, Any] | None:
    """The manifest of ours at this place; {} where there is no file; None where there is another."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would wait
            return None
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (ValueError, RecursionError):
        return None
    except OSError as error:
        raise OutputRefused(claims.reason(path, error)) from error
    if not isinstance(found, dict) or not str(found.get("schema")).startswith(_OURS):
        return None
    return found


def _names(manifest: Mapping[str, Any], key: str, place: Path) -> list[str]:
    """The files that the manifest at `place` lists, as far as they lie in its folder or below."""
    found = manifest.get(key)
    noted = [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
    names = [place.stem + name[1:] if name.startswith("*") else name for name in noted]
    below = (name for name in names if name and "\0" not in name and not Path(name).is_absolute())
    return [name for name in below if ".." not in PurePosixPath(name).parts]


def _undo(done: list[_Step]) -> bool:
    """Bring back what was there, the head last; False where that cannot be, and the head is left saying so."""
    whole = True
    for step in reversed(done):
        if step is done[0] and not whole:
            return False
        try:
            if step.staged is not None and os.path.lexists(step.staged):
                continue  # it never came to the exchange
            if step.aside is not None and os.path.lexists(step.aside):
                os.replace(step.aside, step.target)
            elif not step.existed:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(step.target)
            elif step.staged is not None:
                whole = False
        except OSError:
            whole = False
    return whole


def _empty(stage: Path) -> None:
    """Remove a staging folder with the files that are named as ours are."""
    with contextlib.suppress(OSError):
        if stage.is_symlink():
            return
        for one in os.listdir(stage):
            if one.isdecimal():
                with contextlib.suppress(OSError):
                    os.unlink(stage / one)
        stage.rmdir()


def _flush(handle: int) -> None:
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _flush_folder(folder: Path) -> None:
    """So that the names are on the disk, too; where a folder cannot be flushed, the file system does it in its time."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
