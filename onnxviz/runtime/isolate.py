"""Where native code runs that a stranger's model can crash or hang: announced to the process that watches over it.

The command line is a thin parent over a child that does the work (`cli.parent`). Both share a `Board`: a few pages of
memory where the child writes what it is at and for how long that may take. Nothing is sent, so a region costs a
microsecond or two, and what was written outlives the child. In a plain Python process nobody watches: a region is
nothing at all.

Isolated networks (`load(isolate=True)`) have a process of their own (runtime/worker.py) that does the same for them,
and shape inference, which knows no network, asks here which process is to do it.

Light: the standard library only, and little of it, since the parent imports it before anything else.
"""

from __future__ import annotations

import math
import signal
import struct
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from onnxviz.runtime.worker import Worker

#: Bytes of memory that a board takes.
SIZE: Final = 1 << 15
#: The seconds of a region that opens a model rather than runs it: what `--limit load_seconds` says (see `allow`).
OPENING: Final = -1.0

_HEADER: Final = 64
_SLOT: Final = struct.Struct("dd240s")  # when it was entered (0: free), the most seconds, what it is
_TIME: Final = struct.Struct("d")
_SLOTS: Final = (SIZE - _HEADER) // _SLOT.size
_NOTHING: Final = nullcontext()


class Region(NamedTuple):
    """What the child is at.

    since    when it was entered, as `time.monotonic` says in every process of the machine
    seconds  how long it may take; infinity: any time
    what     what it does, as it stands after 'while': 'running the model'
    """

    since: float
    seconds: float
    what: str


class Board:
    """The regions that are under way, in memory that the child writes and its parent reads.

    memory   SIZE bytes that both share, zero at first: an anonymous or a file's `mmap`
    """

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self._free = deque(range(_SLOTS))  # its append and pop hold under threads

    def enter(self, what: str, seconds: float) -> int:
        """Announce a region; the slot that `leave` takes, or -1 where more are under way than there is room for."""
        try:
            slot = self._free.pop()
        except IndexError:
            return -1
        at = _HEADER + slot * _SLOT.size
        _SLOT.pack_into(self._memory, at, 0.0, seconds, what.encode("utf-8", "replace")[:239])
        _TIME.pack_into(self._memory, at, time.monotonic())  # last: from here on it counts
        return slot

    def leave(self, slot: int) -> None:
        """The region was left."""
        if slot >= 0:
            _TIME.pack_into(self._memory, _HEADER + slot * _SLOT.size, 0.0)
            self._free.append(slot)

    def under_way(self) -> list[Region]:
        """What the child is at, the innermost (latest entered) first."""
        found = (_SLOT.unpack_from(self._memory, _HEADER + i * _SLOT.size) for i in range(_SLOTS))
        regions = [
            Region(since, seconds, what.rstrip(b"\0").decode("utf-8", "ignore"))
            for since, seconds, what in found
            if since
        ]
        return sorted(regions, reverse=True)


class _Entered:
    __slots__ = ("_board", "_seconds", "_slot", "_what")

    def __init__(self, board: Board, what: str, seconds: float) -> None:
        self._board = board
        self._what = what
        self._seconds = seconds

    def __enter__(self) -> None:
        self._slot = self._board.enter(self._what, self._seconds)

    def __exit__(self, *_: object) -> None:
        self._board.leave(self._slot)


class _Process:
    """What this process knows of its own parent."""

    def __init__(self) -> None:
        self.board: Board | None = None  # None: nobody watches
        self.opening = math.inf


_HERE: Final = _Process()


def watched() -> bool:
    """Whether a parent watches over this process."""
    return _HERE.board is not None


def serve(board: Board | None) -> None:
    """This process is a child from now on, and announces its regions on `board`; None: no longer."""
    _HERE.board = board


def allow(opening: float | None) -> None:
    """How many seconds a region may take that opens a model; None: any time."""
    _HERE.opening = math.inf if opening is None else opening


def region(what: str, seconds: float | None = OPENING) -> AbstractContextManager[None]:
    """Around a call of native code that a model can crash or hang; may be nested, and entered by several threads.

    what     what it does, as it stands after 'while': 'running the model'
    seconds  the longest that it may take: a parent kills the process somewhat later. None: any time
    """
    board = _HERE.board
    if board is None:
        return _NOTHING
    if seconds is None:
        seconds = math.inf
    return _Entered(board, what, _HERE.opening if seconds == OPENING else seconds)


def died(what: str | None, number: int) -> str:
    """The words of `WorkerCrashed` for a child that a signal ended.

    what     its innermost region; None: it was in none
    number   the signal
    """
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    cause = ", as systems do that run out of memory" if name == "SIGKILL" else ""
    where = f"while {what}" if what else "in native code"
    return (
        f"the process that did the work was ended by {name}{cause}, {where}; what was written before is whole"
    )


# --- the processes of isolated networks -----------------------------------------------------------

# Those that are open, the newest last.
_workers: list[Any] = []
_STAYS: Final = object()
_chosen: ContextVar[Any] = ContextVar("chosen", default=None)


def add(worker: Worker) -> None:
    """From now on, shape inference goes to this worker, until it is closed or nobody holds it any more."""
    _workers.append(weakref.ref(worker, _workers.remove))


def remove(worker: Worker) -> None:
    """The worker was closed."""
    _workers[:] = [reference for reference in _workers if reference() not in (None, worker)]


@contextmanager
def on(worker: Worker | None) -> Iterator[None]:
    """Around what is done to the graph of one network: shape inference goes to its worker, or stays here for None."""
    token = _chosen.set(_STAYS if worker is None else worker)
    try:
        yield
    finally:
        _chosen.reset(token)


def worker() -> Worker | None:
    """Where shapes are inferred: in the worker of the network at hand (`on`).

    Of a graph whose network nobody named, in the newest worker that is open: it may be a stranger's.
    """
    chosen = _chosen.get()
    if chosen is not None:
        return None if chosen is _STAYS else chosen
    for reference in reversed(_workers):
        found: Worker | None = reference()
        if found is not None:
            return found
    return None
