"""An isolated network's own process: what a stranger's model crashes, hangs or fills with memory is that process.

`Worker` starts it (a fresh interpreter, so that scripts without a main guard, notebooks and threads may), asks it over
channels, ends what takes too long, and starts another after a crash. What the process does: `isolated.serve`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import math
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import numpy as np

from onnxviz import isolate
from onnxviz.errors import LimitExceeded, UsageError, WorkerCrashed
from onnxviz.runtime.channel import CONTROL, Channel, Closed, restored, shared

if TYPE_CHECKING:
    import onnx

    from onnxviz.limits import Limits

T = TypeVar("T")

# What ends so soon after Ctrl-C, between two operators, leaves its process alive; it has longer where a state is held
# there, which is the result so far. It is told to end so often.
_GRACE, _GRACE_KEEPING, _TELL = 0.8, 10.0, 0.1
_SECONDS_TO_START: Final = 120.0
_START: Final = """
import sys
sys.path[:] = {path!r}
from {program} import serve
serve({control}, {lifeline}, {board}, {memory})
"""
_LAST_WORDS: Final = 4096
# So many graphs that are no larger than this are not sent twice for their shapes: one ascent asks for some six times.
_INFERRED, _LARGE = 32, 2**20


def lacking() -> str | None:
    """Why networks cannot be isolated on this system; None where they can."""
    if sys.platform in ("win32", "emscripten", "wasi") or not hasattr(socket, "send_fds"):
        return f"{sys.platform} hands no open files from one process to another"
    return None


class NotBegun(WorkerCrashed):
    """The process died of something else before it came to this."""


def again(work: Callable[[], T]) -> T:
    """Do it, and once more where the process turned out to be dead already."""
    try:
        return work()
    except NotBegun:
        return work()


class Life:
    """One process from its start to its end.

    program  the module whose `serve` it runs
    memory   the bytes that it may take; None: what the machine has
    pid      the process that started it: a forked copy of that one must leave it alone
    ended    why it was ended on purpose, None where it was not; `interrupted`, whether that was Ctrl-C
    sent     the weights that it was given, by number
    dropped  what is no longer needed there, by number
    states   what is held there and nowhere else
    """

    def __init__(self, program: str, memory: int | None) -> None:
        self.pid = os.getpid()
        self.ended: str | None = None
        self.interrupted = False
        self.sent: set[int] = set()
        self.dropped: deque[int] = deque()
        self.states: weakref.WeakSet[Any] = weakref.WeakSet()
        self._idle: list[Channel] = []
        self._control, theirs = socket.socketpair()
        reading, self._lifeline = os.pipe()
        self._words = os.memfd_create("onnxviz") if hasattr(os, "memfd_create") else None
        board, pages = shared(isolate.SIZE)
        self._board = isolate.Board(pages)
        try:
            with theirs:
                self.process = _started(program, theirs.fileno(), reading, board, self._words, memory)
        except BaseException:
            self._control.close()
            for descriptor in (self._lifeline, self._words):
                if descriptor is not None:
                    os.close(descriptor)
            raise
        finally:
            os.close(reading)
            os.close(board)
        descriptors = [self._lifeline, *([] if self._words is None else [self._words])]
        self._end = weakref.finalize(
            self, _end, self.process, self._control, self._idle, descriptors, os.getpid()
        )
        self._lock = threading.Lock()
        try:
            self._control.settimeout(_SECONDS_TO_START)
            ready = self._control.recv(1)
            self._control.settimeout(None)
        except OSError:
            ready = b""
        except BaseException:
            self.end("it was not needed")
            raise
        if not ready:
            words = self.last_words()
            self.end("it did not start")
            raise WorkerCrashed(
                f"the process of an isolated network could not be started{words}; leave out isolate=True to run in "
                "this process"
            )

    @property
    def alive(self) -> bool:
        """Whether it runs, as far as is known."""
        return self._end.alive and self.process.poll() is None

    def channel(self) -> Channel:
        """A channel that nobody else uses; give it back with `release`.

        raises   Closed
        """
        with self._lock:
            if self._idle:
                return self._idle.pop()
            ours, theirs = socket.socketpair()
            try:
                with theirs:
                    socket.send_fds(self._control, [CONTROL.pack(0)], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise Closed(str(error)) from error
            return Channel(ours)

    def release(self, channel: Channel) -> None:
        """The channel's last message was answered."""
        if self._end.alive:
            self._idle.append(channel)
        else:
            channel.close()

    def end(self, why: str) -> None:
        """End it, whatever it is doing."""
        if self.ended is None and self.process.poll() is None:
            self.ended = why
        self._end()

    def was_at(self) -> str | None:
        """What native code it was in last, as it stands after 'while'."""
        regions = [one.what for one in self._board.under_way() if not one.what.startswith(isolate.REQUEST)]
        return regions[0] if regions else None

    def began(self, request: int) -> bool:
        """Whether it died in the middle of this, rather than before."""
        return any(one.what == f"{isolate.REQUEST}{request}" for one in self._board.under_way())

    @property
    def grace(self) -> float:
        """How many seconds what it does may go on after Ctrl-C."""
        return _GRACE_KEEPING if self.states else _GRACE

    def stop(self, request: int) -> None:
        """Tell it to stop this between two operators, or not to begin it; harmless where it ended long ago."""
        with contextlib.suppress(OSError):  # gone, or deaf
            self._control.send(CONTROL.pack(request), socket.MSG_DONTWAIT)

    def interrupt(self) -> None:
        """End it because of Ctrl-C."""
        self.interrupted = True
        self.end("it was ended by Ctrl-C")

    def last_words(self) -> str:
        """The last line that it wrote to stderr, in brackets behind a blank; empty where there is none."""
        if self._words is None or not self._end.alive:
            return ""
        size = os.fstat(self._words).st_size
        text = os.pread(self._words, _LAST_WORDS, max(0, size - _LAST_WORDS)).decode("utf-8", "replace")
        from onnxviz.text import printable

        lines = text.strip().splitlines()
        return f" ({printable(lines[-1], 200)})" if lines else ""


def _started(
    program: str, control: int, lifeline: int, board: int, words: int | None, memory: int | None
) -> subprocess.Popen[bytes]:
    root = str(Path(__file__).resolve().parents[2])
    path = [os.fspath(one) for one in sys.path]
    path += [] if root in path else [root]
    code = _START.format(
        path=path, program=program, control=control, lifeline=lifeline, board=board, memory=memory
    )
    try:
        # -P: no file beside a script, or in the folder where a stranger's models lie, is taken for a module before
        # `path` is set. A session of its own: Ctrl-C on the terminal is for this process, which decides.
        return subprocess.Popen(
            [sys.executable, "-P", "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL if words is None else words,
            pass_fds=[control, lifeline, board],
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        raise WorkerCrashed(f"the process of an isolated network could not be started: {error}") from error


def _end(
    process: subprocess.Popen[bytes],
    control: socket.socket,
    idle: list[Channel],
    descriptors: list[int],
    pid: int,
) -> None:
    if os.getpid() == pid:
        process.kill()
        process.wait()
    control.close()
    while idle:
        idle.pop().close()
    for descriptor in descriptors:
        os.close(descriptor)


class Worker:
    """What an isolated network asks. It may be used by several threads, and holds no process until it is asked first.

    program  the module whose `serve` its process runs: it stands above this one, since it opens models
    limits   what the network was opened under
    """

    def __init__(self, program: str, limits: Limits) -> None:
        self._program = program
        self.limits = limits
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._life: Life | None = None
        self._closed = False
        # What a process died of, or took too long for where that hangs on no picture: the error for the next time.
        self._refused: dict[str, Exception] = {}
        self._waiting: dict[int, tuple[Life, int]] = {}  # the request, by thread
        self._inferred: dict[tuple[str, bool, bool], bytes] = {}
        self._numbers = itertools.count(1)
        self._weights: dict[int, tuple[weakref.ref[np.ndarray], int]] = {}
        isolate.add(self)

    def __deepcopy__(self, memo: object) -> Worker:
        return self

    def __reduce__(self) -> NoReturn:
        raise UsageError(
            "an isolated network belongs to the process that opened it: give the other one the path, and open it there"
        )

    def life(self) -> Life:
        """The process that runs now; another one is started where there is none.

        raises   WorkerCrashed where it cannot be started, UsageError once the network was closed
        """
        if self._pid != os.getpid():  # a forked copy: the lock may be held by a thread that it does not have
            self._lock, self._pid = threading.Lock(), os.getpid()
        with self._lock:
            if self._closed:
                raise UsageError("this network was closed: open it again with onnxviz.load")
            life = self._life
            if life is None or life.pid != os.getpid() or not life.alive:
                self._life = life = Life(self._program, self.limits.memory)
            return life

    def close(self) -> None:
        """End the process for good."""
        isolate.remove(self)
        with self._lock:
            self._closed = True
            if self._life is not None:
                self._life.end("the network was closed")
            self._life = None

    def ask(
        self,
        message: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
        *,
        what: str,
        digest: Callable[[], str],
        seconds: float | None,
        limit: str = "run_seconds",
        life: Life | None = None,
        keep: bool = False,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Have the process do something, and wait for it.

        what     what it is, as it stands after 'while': 'running the model'
        digest   of what is run: it is refused from then on if the process dies of it
        seconds  how long it may take before the process is ended; None: any time
        limit    the limit that says so
        life     the process that must do it; None: whichever runs
        keep     whether the process keeps the arrays
        returns  its answer, and arrays that are the caller's own
        raises   WorkerCrashed, LimitExceeded, and what doing it raises; NotBegun where it is worth another try
        """
        if self._refused and (before := self._refused.get(digest())) is not None:
            raise copy.copy(before)
        life = life or self.life()
        try:
            channel = life.channel()
        except Closed:
            raise self._death(life, what, 0, digest) from None
        request, waiting = next(self._numbers), True
        thread = threading.get_ident()
        try:
            self._waiting[thread] = life, request
            drop = []
            with contextlib.suppress(IndexError):
                while True:
                    drop.append(life.dropped.popleft())
            channel.send({**message, "request": request, "drop": drop}, arrays, keep=keep)
            answer, given = channel.receive(
                None if seconds is None else seconds * (1 + isolate.GRACE_PART) + isolate.GRACE
            )
            waiting = False
            own = {name: np.array(array) for name, array in given.items()}
        except Closed:
            channel.close()
            raise self._death(life, what, request, digest) from None
        except TimeoutError:
            channel.close()
            life.end(f"it was ended because {what} took over {seconds:g} s")
            error = LimitExceeded(
                f"{what} took over {seconds:g} s, and its process was ended; raise it with --limit {limit}=…"
            )
            if limit != "run_seconds":  # the same again would take as long
                self._refused[digest()] = error
            raise error from None
        except BaseException:  # Ctrl-C
            if waiting:
                _drain(life, channel, request)
            channel.close()
            raise
        finally:
            self._waiting.pop(thread, None)
        life.release(channel)
        if "error" in answer:
            raise restored(answer["error"])
        return answer, own

    def _death(self, life: Life, what: str, request: int, digest: Callable[[], str]) -> WorkerCrashed:
        """The error for a process that is gone."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            life.process.wait(10)
        code, why = life.process.returncode, life.ended
        begun = life.began(request)
        if why is None and begun:
            at = life.was_at() or what
            why = f"it {_how(code)} while {what if what.startswith(at) else at}{life.last_words()}"
            self._refused[digest()] = WorkerCrashed(
                f"this is not run again: the process of this network {why.removeprefix('it ')} before; to try once "
                "more, open the network again with onnxviz.load"
            )
        life.end("its end was noticed")
        kind = WorkerCrashed if begun or life.ended is not None else NotBegun
        return kind(
            f"the process of this network is gone: {why or f'it {_how(code)}'}; this one goes on, and the next call "
            "starts another"
        )

    # --- what it is asked -----------------------------------------------------------------------

    def open(self, source: Any, limits: Limits, name: str) -> None:
        """Open a model there, as `graph.open.load.load` does: a path, or the bytes of the file.

        raises   what that raises, WorkerCrashed, LimitExceeded
        """
        path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        arrays = {} if path is not None else {"bytes": np.frombuffer(source, np.uint8)}
        fields = {key: getattr(limits, key) for key in limits.__dataclass_fields__}
        message = {"do": "load", "path": path, "limits": fields}
        self.ask(
            message,
            arrays,
            what=f"opening {name}",
            digest=lambda: f"open {path}",
            seconds=limits.load_seconds,
            limit="load_seconds",
        )

    def infer(self, proto: onnx.ModelProto, *, strict: bool, propagate: bool) -> onnx.ModelProto:
        """`graph.shapes.infer_shapes` there.

        raises   what that raises, WorkerCrashed, LimitExceeded
        """
        import onnx

        data = proto.SerializeToString()
        name = _digest(data)
        key = name, strict, propagate
        found = self._inferred.get(key)
        if found is None:
            _, given = again(
                lambda: self.ask(
                    {"do": "infer", "strict": strict, "propagate": propagate},
                    {"model": np.frombuffer(data, np.uint8)},
                    what="inferring the shapes of the model",
                    digest=lambda: name,
                    seconds=self.limits.load_seconds,
                    limit="load_seconds",
                )
            )
            found = given["model"].tobytes()
            if len(found) < _LARGE:
                with self._lock:
                    while len(self._inferred) >= _INFERRED:
                        del self._inferred[next(iter(self._inferred))]
                    self._inferred[key] = found
        return onnx.ModelProto.FromString(found)

    def hurry(self, threads: Collection[int]) -> None:
        """Ctrl-C: what these threads wait for is given a moment to end, and then is ended with its process."""
        began, told = time.monotonic(), -math.inf
        while waiting := [one for thread, one in list(self._waiting.items()) if thread in threads]:
            try:
                now = time.monotonic()
                if now - told > _TELL:
                    told = now
                    for life, request in waiting:
                        life.stop(request)
                if now - began > max(life.grace for life, _ in waiting):
                    raise TimeoutError
                time.sleep(0.01)
            except BaseException as error:  # also a second Ctrl-C
                for life, _ in waiting:
                    life.interrupt()
                if not isinstance(error, TimeoutError):
                    raise
                return

    def number(self, weight: np.ndarray) -> int:
        """What a weight is called here, as long as somebody holds the array."""
        known = self._weights.get(id(weight))
        if known is not None and known[0]() is weight:
            return known[1]
        number = next(self._numbers)
        # No reference to this object: it would end when Python next looks for circles, and its process with it.
        forget = functools.partial(_forget, self._weights, id(weight), number)
        self._weights[id(weight)] = weakref.ref(weight, forget), number
        return number


def _forget(table: dict[int, tuple[Any, int]], key: int, number: int, _: object) -> None:
    if key in table and table[key][1] == number:
        del table[key]


def _drain(life: Life, channel: Channel, request: int) -> None:
    """After Ctrl-C: have what runs stop between two operators; where it does not soon, end the process."""
    began = time.monotonic()
    try:
        while True:
            life.stop(request)
            try:
                channel.receive(_TELL)
                return
            except TimeoutError:
                taken = time.monotonic() - began
                # Ctrl-C came before it was sent, or read there, where it is told not to begin any more.
                if taken > _GRACE and not life.began(request):
                    return
                if taken > life.grace:
                    raise
    except BaseException as error:  # also a second Ctrl-C
        life.interrupt()
        if not isinstance(error, (Closed, TimeoutError)):
            raise


def _how(code: int | None) -> str:
    if code is None:
        return "answers no longer"
    if code >= 0:
        return f"ended itself (exit code {code})"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" + (", as systems do that run out of memory," if name == "SIGKILL" else "")


def _digest(*parts: bytes | str) -> str:
    import hashlib

    state = hashlib.sha256()
    for part in parts:
        state.update(part.encode() if isinstance(part, str) else part)
    return state.hexdigest()
