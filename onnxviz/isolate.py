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
import os
import signal
import struct
import sys
import time
import weakref
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import Any, Final, NamedTuple, Protocol

#: Bytes of memory that a board takes: a header, regions, and what is claimed.
SIZE: Final = (1 << 15) + (1 << 14)
#: The seconds of a region that opens a model rather than runs it: what `--limit load_seconds` says (see `allow`).
OPENING: Final = -1.0
#: A run is told to stop at its limit (`runtime.endings`), and has so many seconds to do so, and this part of its limit.
GRACE: Final = 1.0
GRACE_PART: Final = 0.05

#: How the outermost region of an isolated network's process begins, before the number of what it was asked.
REQUEST: Final = "#"

# The word for it in glibc's malloc.h; and from how many bytes on.
_M_MMAP_THRESHOLD: Final = -3
_LARGE: Final = 1 << 20

_HEADER: Final = 64
_SLOT: Final = struct.Struct(
    "dd?239s"
)  # when it was entered (0: free), the most seconds, whether it opens, what it is
_TIME: Final = struct.Struct("d")
_COUNT: Final = struct.Struct("I")
_ANSWERS, _KEEPS = 0, 4  # where they stand in the header
_CLAIMS: Final = 1 << 15  # where they stand: their length, then the paths, parted by NUL
_SLOTS: Final = (_CLAIMS - _HEADER) // _SLOT.size
_NOTHING: Final = nullcontext()
_JUST_NOW: Final = 0.5


class Region(NamedTuple):
    """What the child is at.

    since    when it was entered, as `time.monotonic` says in every process of the machine
    seconds  how long it may take; infinity: any time
    opening  whether the limit is load_seconds rather than run_seconds
    what     what it does, as it stands after 'while': 'running the model'
    """

    since: float
    seconds: float
    opening: bool
    what: str


class Board:
    """The regions that are under way, in memory that the child writes and its parent reads.

    memory   SIZE bytes that both share, zero at first: an anonymous or a file's `mmap`
    """

    def __init__(self, memory: Any) -> None:
        self._memory = memory
        self._free = deque(range(_SLOTS))  # its append and pop hold under threads

    def enter(self, what: str, seconds: float, opening: bool = False) -> int:
        """Announce a region; the slot that `leave` takes, or -1 where more are under way than there is room for."""
        try:
            slot = self._free.pop()
        except IndexError:
            return -1
        at = _HEADER + slot * _SLOT.size
        _SLOT.pack_into(self._memory, at, 0.0, seconds, opening, what.encode("utf-8", "replace")[:238])
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
            Region(since, seconds, opening, what.rstrip(b"\0").decode("utf-8", "ignore"))
            for since, seconds, opening, what in found
            if since
        ]
        return sorted(regions, reverse=True)

    @property
    def answers(self) -> int:
        """How many Ctrl-C the child has noticed in Python."""
        (count,) = _COUNT.unpack_from(self._memory, _ANSWERS)
        return int(count)

    def answered(self) -> None:
        """The child noticed Ctrl-C."""
        _COUNT.pack_into(self._memory, _ANSWERS, (self.answers + 1) % 2**32)

    @property
    def keeps(self) -> bool:
        """Whether the child holds part of a result that it keeps at Ctrl-C."""
        return bool(self._memory[_KEEPS])

    @keeps.setter
    def keeps(self, keeps: bool) -> None:
        self._memory[_KEEPS] = keeps

    @property
    def claims(self) -> list[str]:
        """The files that the child removes when it is done, and that it leaves behind where it is killed."""
        (length,) = _COUNT.unpack_from(self._memory, _CLAIMS)
        text = bytes(self._memory[_CLAIMS + _COUNT.size : _CLAIMS + _COUNT.size + length])
        return [os.fsdecode(path) for path in text.split(b"\0") if path]

    @claims.setter
    def claims(self, paths: Iterable[str]) -> None:
        room, start = SIZE - _CLAIMS - _COUNT.size, _CLAIMS + _COUNT.size
        text = b"\0".join(map(os.fsencode, paths))
        _COUNT.pack_into(self._memory, _CLAIMS, 0)  # whoever reads meanwhile finds none
        if len(text) <= room:
            self._memory[start : start + len(text)] = text
            _COUNT.pack_into(self._memory, _CLAIMS, len(text))


class _Entered:
    __slots__ = ("_board", "_given", "_slot")

    def __init__(self, board: Board, *given: Any) -> None:
        self._board = board
        self._given = given

    def __enter__(self) -> None:
        self._slot = self._board.enter(*self._given)

    def __exit__(self, *_: object) -> None:
        self._board.leave(self._slot)


class _Process:
    """What this process knows of its own parent."""

    def __init__(self) -> None:
        self.board: Board | None = None  # None: nobody watches
        self.opening = math.inf
        self.wake: int | None = None  # where a signal's number can be read as soon as it comes
        self.interrupted = -math.inf  # when Python last noticed Ctrl-C
        self.memory: tuple[int, int] | None = None  # the limits on memory that were there before ours


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
    if seconds == OPENING:
        return _Entered(board, what, _HERE.opening, True)
    return _Entered(board, what, math.inf if seconds is None else seconds)


def limit_memory(most: int | None) -> None:
    """Let this process allocate no more than `most` bytes; a parent's limit is never raised.

    What is counted is what can be written to, touched or not, shared memory aside (RLIMIT_DATA): files that are mapped,
    weights among them, cost nothing, and libraries little. (onnxruntime and torch map 1.0 GB and write to 0.4.)

    most  None: what the machine has, or the container. Reserved memory that is never touched counts, too, so nothing
          is set aside for others
    """
    import resource

    before = _HERE.memory or resource.getrlimit(resource.RLIMIT_DATA)
    wanted = min(most if most is not None else machine_memory(), 2**62)
    soft = min([wanted, *(one for one in before if one != resource.RLIM_INFINITY)])
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_DATA, (soft, before[1]))
        _HERE.memory = before


def free_memory() -> None:
    """Undo `limit_memory`: drivers of graphics cards reserve many times what they use."""
    if _HERE.memory is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, _HERE.memory)
        _HERE.memory = None


def give_back() -> None:
    """Hand memory that was freed back to the system, of which glibc keeps what lies between blocks in use.

    In a process that does one command alone large blocks are the system's own from then on, and go back when they are
    freed: glibc would keep ever larger ones.
    """
    if sys.platform == "linux":
        import ctypes

        libc = ctypes.CDLL(None)
        if hasattr(libc, "malloc_trim"):
            libc.malloc_trim(0)
        if watched() and hasattr(libc, "mallopt"):
            libc.mallopt(_M_MMAP_THRESHOLD, _LARGE)


def memory_is_limited() -> bool:
    """Whether `limit_memory` holds in this process, or in that of an isolated network."""
    return _HERE.memory is not None or bool(_workers)


def memory_is_guarded() -> bool:
    """Whether this system can hold a process to a limit on its memory: Linux from 4.7 on does."""
    return sys.platform == "linux"


def machine_memory() -> int:
    """Bytes of memory that this machine has, or that its container may take."""
    if not hasattr(os, "sysconf"):  # Windows
        import psutil

        return int(psutil.virtual_memory().total)
    found = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    folders = [""]
    with suppress(OSError):
        for line in _read("/proc/self/cgroup").splitlines():
            path = line.split(":", 2)[-1].strip("/")
            parts = path.split("/") if path else []
            folders += ["/".join(parts[: i + 1]) for i in range(len(parts))]
    for folder in folders:
        inside = f"/{folder}" if folder else ""
        for file in (f"{inside}/memory.max", f"/memory{inside}/memory.limit_in_bytes"):
            with suppress(OSError, ValueError):  # 'max': none
                found.append(int(_read(f"/sys/fs/cgroup{file}")))
    return min(one for one in found if one > 0)


def _read(path: str) -> str:
    with open(path, encoding="ascii", errors="replace") as file:  # noqa: PTH123 - pathlib is not light
        return file.read()


def keeps(keeps: bool) -> None:
    """Whether this child holds part of a result that it keeps at Ctrl-C, and so gets longer to leave its region."""
    if _HERE.board is not None:
        _HERE.board.keeps = keeps


def claims(paths: Iterable[str]) -> None:
    """Which files this child removes when it is done: where it is killed, its parent does (`claims.sweep`)."""
    if _HERE.board is not None:
        _HERE.board.claims = paths


def answer_interrupts() -> None:
    """Make Ctrl-C heard while native code runs: `interrupts` reads it, whatever the main thread does.

    The main thread gets its KeyboardInterrupt as usual. To be called from there.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return  # ignored: a shell's `&`, nohup

    def noticed(number: int, frame: Any) -> None:
        _HERE.interrupted = time.monotonic()
        if _HERE.board is not None:
            _HERE.board.answered()
        signal.default_int_handler(number, frame)

    _HERE.wake, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
    signal.signal(signal.SIGINT, noticed)


def interrupts() -> Iterator[float]:
    """Each Ctrl-C as it comes, as the time before which work must have begun to be meant; see `answer_interrupts`.

    Waits in between: for a thread of its own. Ends at once where Ctrl-C is not listened for.
    """
    while _HERE.wake is not None:
        if signal.SIGINT in os.read(_HERE.wake, 1):
            # Where Python was quicker, what has begun since is the work of keeping what was done.
            now, noticed = time.monotonic(), _HERE.interrupted
            yield noticed if now - noticed < _JUST_NOW else now


def end_with(alive: int) -> None:
    """End this process when the other end of the pipe `alive` is closed: when the parent has ended, in any way.

    Where the system can, it kills the process itself: a thread of ours waits in vain for the interpreter's lock while
    native code holds it.
    """
    import fcntl

    try:
        fcntl.fcntl(alive, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(alive, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(alive, fcntl.F_SETFL, fcntl.fcntl(alive, fcntl.F_GETFL) | os.O_ASYNC)
    except (AttributeError, OSError):
        import threading

        def wait() -> None:
            os.read(alive, 1)
            os._exit(1)

        threading.Thread(target=wait, name="onnxviz-parent", daemon=True).start()


def overran(region: Region) -> str:
    """The words of `LimitExceeded` for a region that took longer than it may."""
    if region.opening:
        return (
            f"the model took longer than {region.seconds:g} s to open (it was {region.what}); if you trust it, raise "
            "the limit: --limit load_seconds=…"
        )
    return f"the model was still running after {region.seconds:g} s; raise it with --limit run_seconds=…"


def signalled(number: int) -> str:
    """How a signal ended a process, in the middle of a sentence."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"ended by {name}" + (", as systems do that run out of memory," if name == "SIGKILL" else "")


def died(what: str | None, number: int) -> str:
    """The words of `WorkerCrashed` for a child that a signal ended.

    what     its innermost region; None: it was in none
    """
    where = f"while {what}" if what else "in native code"
    return f"the process that did the work was {signalled(number)} {where}; what was written before is whole"


# --- the processes of isolated networks -----------------------------------------------------------


class Elsewhere(Protocol):
    """The process of an isolated network, as far as it matters here (runtime/worker.py)."""

    def infer(self, proto: Any, *, strict: bool, propagate: bool) -> Any:
        """`graph.shapes.infer_shapes` there: an onnx.ModelProto for another."""

    def hurry(self, threads: Collection[int]) -> None:
        """Ctrl-C: end what these threads wait for, in a moment."""


# Those that are open, the newest last.
_workers: list[Any] = []
_STAYS: Final = object()
_chosen: ContextVar[Any] = ContextVar("chosen", default=None)


def add(worker: Elsewhere) -> None:
    """From now on, shape inference goes to this worker, until it is closed or nobody holds it any more."""
    _workers.append(weakref.ref(worker, _workers.remove))


def remove(worker: Elsewhere) -> None:
    """The worker was closed."""
    _workers[:] = [reference for reference in _workers if reference() not in (None, worker)]


def hurry(threads: Collection[int]) -> None:
    """Ctrl-C: what these threads have workers do is given a moment to end, and then is ended with its process."""
    for reference in list(_workers):
        found: Elsewhere | None = reference()
        if found is not None:
            found.hurry(threads)


@contextmanager
def on(worker: Elsewhere | None) -> Iterator[None]:
    """Around what is done to the graph of one network: shape inference goes to its worker, or stays here for None."""
    token = _chosen.set(_STAYS if worker is None else worker)
    try:
        yield
    finally:
        _chosen.reset(token)


def worker() -> Elsewhere | None:
    """Where shapes are inferred: in the worker of the network at hand (`on`).

    Of a graph whose network nobody named, in the newest worker that is open: it may be a stranger's.
    """
    chosen = _chosen.get()
    if chosen is not None:
        return None if chosen is _STAYS else chosen
    return next((found for reference in reversed(_workers) if (found := reference()) is not None), None)
