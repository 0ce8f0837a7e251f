"""Ending runs that take longer than they may, and those that Ctrl-C is meant for."""

from __future__ import annotations

import atexit
import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from onnxviz import isolate
from onnxviz.isolate import GRACE, GRACE_PART

# Waiting takes a second at the most: after so many the program stood still (Ctrl-Z), and so did its runs.
_STOOD_STILL = 5.0
# The watchdog looks so often, and for so long after the last run: to wake it for each costs more than the look.
_TICK, _LINGERS = 1.0, 5.0
# A thread that waits looks up so often; a run that was told to stop is given so long to do so.
_LOOK, _STOPS = 0.5, 0.3
# At the program's end those that were left behind are waited for, so long together.
_SEES_OFF = 5.0

T = TypeVar("T")


@dataclass
class _Watched:
    options: Any
    began: float
    end: float
    thread: int
    interrupted: bool = False


class Watchdog:
    """One thread for all runs: a timer a run would cost more than a small network's forward pass."""

    def __init__(self) -> None:
        self._runs: dict[int, _Watched] = {}
        self._keys = itertools.count()
        # Taken by itself, not through the condition: Ctrl-C right behind `Condition.__enter__` leaves it taken.
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._looks = math.inf  # when it looks next; infinity: when it is woken
        self._last = -math.inf  # when the last run began
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watch(self, options: Any, seconds: float | None) -> Iterator[None]:
        """Set `options.terminate` if the block is still running after `seconds`, or at Ctrl-C where that is heard.

        seconds  None: any time
        raises   KeyboardInterrupt in the place of what the run raises, where Ctrl-C ended it
        """
        if seconds is None and not isolate.watched():
            yield
            return
        key, now = next(self._keys), time.monotonic()
        end = math.inf if seconds is None else now + seconds
        watched = _Watched(options, now, end, threading.get_ident())
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="onnxviz-watchdog", daemon=True)
                self._thread.start()
                if isolate.watched():
                    threading.Thread(target=self._listen, name="onnxviz-interrupt", daemon=True).start()
            self._runs[key] = watched
            self._last = now
            if end < self._looks:
                self._wake.notify()
        try:
            yield
        except Exception:
            if watched.interrupted:
                raise KeyboardInterrupt from None
            raise
        finally:
            with self._lock:
                self._runs.pop(key, None)

    def _serve(self) -> None:
        before = time.monotonic()
        while True:
            with self._lock:
                now = time.monotonic()
                if now - before > _STOOD_STILL:
                    for run in self._runs.values():
                        run.end += now - max(before, run.began)
                for key in [key for key, run in self._runs.items() if run.end <= now]:
                    self._runs.pop(key).options.terminate = True
                next_end = min((run.end for run in self._runs.values()), default=math.inf)
                before = now
                rests = next_end == math.inf and now - self._last > _LINGERS
                self._looks = math.inf if rests else min(now + _TICK, next_end)
                self._wake.wait(None if rests else self._looks - now)
                if rests:
                    before = time.monotonic()

    def _listen(self) -> None:
        for meant in isolate.interrupts():
            self._stop(lambda run, meant=meant: run.began <= meant)  # type: ignore[misc]

    def stop(self, thread: int) -> None:
        """Ctrl-C for what this thread runs: it ends between two operators."""
        self._stop(lambda run: run.thread == thread)

    def _stop(self, meant: Callable[[_Watched], bool]) -> None:
        with self._lock:
            for run in self._runs.values():
                if meant(run):
                    run.interrupted = run.options.terminate = True


WATCHDOG = Watchdog()
_left: list[threading.Event] = []


def waited(run: Callable[[], T], options: Any, seconds: float | None) -> T:
    """What `run` gives, run by another thread: this one answers Ctrl-C, and the time being up, whatever that one is in.

    ONNX Runtime stops a run between two operators only. A run that is left behind ends there, too, and nobody reads
    what it gives.

    options  of the run; `terminate` is set where it is left behind
    seconds  the longest that it may take; None: any time
    raises   TimeoutError, what `run` raises
    """
    outcome: list[tuple[T | None, BaseException | None]] = []
    done = threading.Event()

    def work() -> None:
        try:
            outcome.append((run(), None))
        except BaseException as error:
            outcome.append((None, error))
        done.set()

    left = math.inf if seconds is None else seconds * (1 + GRACE_PART) + GRACE
    try:
        threading.Thread(
            target=work, name="onnxviz-run", daemon=True
        ).start()  # Ctrl-C here: it may have begun
        while not done.wait(min(_LOOK, left)):  # Windows answers Ctrl-C between two looks
            left -= _LOOK
            if left <= 0:
                raise TimeoutError
    except BaseException:
        options.terminate = True
        if not done.wait(_STOPS):
            _leave(done)
        raise
    ((result, error),) = outcome
    if error is not None:
        raise error
    return cast(T, result)


def _leave(done: threading.Event) -> None:
    """A run is left behind. The program's end waits a while for it.

    A thread that comes out of native code while the interpreter is taken down is ended by it (before Python 3.14), in
    the middle of C++ that aborts the process then.
    """
    if not _left:
        atexit.register(_see_off)
    _left[:] = [one for one in _left if not one.is_set()] + [done]


def _see_off() -> None:
    end = time.monotonic() + _SEES_OFF
    for done in _left:
        done.wait(max(0.0, end - time.monotonic()))
