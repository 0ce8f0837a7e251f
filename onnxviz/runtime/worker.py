"""An isolated network's own process: what a stranger's model crashes, hangs or fills with memory is that process.

`Worker` starts it (a fresh interpreter, so that scripts without a main guard, notebooks and threads may), asks it over
channels, ends what takes too long, and starts another after a crash. What the process does: `isolated.serve`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import itertools
import math
import os
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import numpy as np

from onnxviz import isolate
from onnxviz.errors import LimitExceeded, UsageError, WorkerCrashed
from onnxviz.runtime.process import GRACE, Channel, Closed, Life, Message, restored

if TYPE_CHECKING:
    import onnx

    from onnxviz.limits import Limits

T = TypeVar("T")

_TELL: Final = 0.1  # how often what is to stop is told so
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
        digest: str,
        seconds: float | None = None,
        opening: bool = False,
        life: Life | None = None,
        keep: bool = False,
    ) -> Message:
        """Have the process do something, and wait for it.

        what     what it is, as it stands after 'while': 'running the model'
        digest   of what is run: it is refused from then on if the process dies of it
        seconds  how long it may take before the process is ended; None: any time
        opening  whether it opens a model rather than runs it, and so may take what the limit on that says
        life     the process that must do it; None: whichever runs
        keep     whether the process keeps the arrays
        returns  its answer, and arrays that are the caller's own
        raises   WorkerCrashed, LimitExceeded, and what doing it raises; NotBegun where it is worth another try
        """
        if (before := self._refused.get(digest)) is not None:
            raise copy.copy(before)
        seconds = self.limits.load_seconds if opening else seconds
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
            with contextlib.suppress(IndexError):  # other threads take from it, too
                while True:
                    drop.append(life.dropped.popleft())
            channel.send({**message, "request": request, "drop": drop}, arrays, keep=keep)
            wait = None if seconds is None else seconds * (1 + isolate.GRACE_PART) + isolate.GRACE
            answer, given = channel.receive(wait)
            waiting = False
            own = {name: np.array(array) for name, array in given.items()}
        except Closed:
            channel.close()
            raise self._death(life, what, request, digest) from None
        except TimeoutError:
            channel.close()
            life.end(f"it was ended because {what} took over {seconds:g} s")
            limit = "load_seconds" if opening else "run_seconds"
            error = LimitExceeded(
                f"{what} took over {seconds:g} s, and its process was ended; raise it with --limit {limit}=…"
            )
            if opening:  # the same again would take as long
                self._refused[digest] = error
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

    def _death(self, life: Life, what: str, request: int, digest: str) -> WorkerCrashed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            life.process.wait(10)
        code, why = life.process.returncode, life.ended
        begun = life.began(request)
        if why is None and begun:
            at = life.was_at() or what
            why = f"it {_how(code)} while {what if what.startswith(at) else at}{life.last_words()}"
            self._refused[digest] = WorkerCrashed(
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

    def open(self, source: Any, name: str) -> None:
        """Open a model there, as `graph.open.load.load` does: a path, or the bytes of the file.

        raises   what that raises, WorkerCrashed, LimitExceeded
        """
        path = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        arrays = {} if path is not None else {"bytes": np.frombuffer(source, np.uint8)}
        message = {"do": "load", "path": path, "limits": vars(self.limits)}
        self.ask(message, arrays, what=f"opening {name}", digest=f"open {path}", opening=True)

    def infer(self, proto: onnx.ModelProto, *, strict: bool, propagate: bool) -> onnx.ModelProto:
        """`graph.shapes.infer_shapes` there.

        raises   what that raises, WorkerCrashed, LimitExceeded
        """
        import onnx

        data = proto.SerializeToString()
        name = hashlib.sha256(data).hexdigest()
        key = name, strict, propagate
        found = self._inferred.get(key)
        if found is None:
            _, given = again(
                lambda: self.ask(
                    {"do": "infer", "strict": strict, "propagate": propagate},
                    {"model": np.frombuffer(data, np.uint8)},
                    what="inferring the shapes of the model",
                    digest=name,
                    opening=True,
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
                if taken > GRACE and not life.began(request):
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
    return f"was {isolate.signalled(-code)}"
