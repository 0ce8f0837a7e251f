"""The program as it is started: a thin parent that only waits, and a child that does the work (`cli.main`).

Whatever a stranger's model does to the native code that reads and runs it, the parent lives, and says in one line what
happened. Both share a `Board` (`onnxviz.isolate`), from which the parent knows what the child is at and for how long
that may take. Streams, terminal and process group are the child's as they are the parent's; the parent hands on what
signals it alone was sent, and ends as the child ended.

Nothing heavy is imported here: the fork comes first, so the parent costs some milliseconds and a few megabytes.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import mmap
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from importlib.machinery import PathFinder
from typing import Any, Final, NoReturn

from onnxviz import isolate

# Seconds between two looks at the board.
_LOOK: Final = 0.25
# After Ctrl-C, how long what runs may take to be left: an operator cannot be stopped in its middle. Where a command
# holds a result that is worth keeping, it is given longer.
_ANSWER, _ANSWER_KEEPING = 0.6, 10.0
# By then a child that got the terminal's Ctrl-C has noticed; one that has not is in native code, or was not sent it.
_NOTICED: Final = 0.1
# What is sent to a program to end it; nohup and a shell's `&` have some ignored, and so they stay.
_HANDED_ON: Final = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2") if hasattr(signal, name)
)


def main() -> None:
    """Run the command line and exit with the code that the README lists."""
    _fill()
    try:
        started = _start()
        if started is None:
            work = _load()
            _hear()
            work()
    except KeyboardInterrupt:  # before there was a command to answer it
        _say("interrupted")
        _leave(130)
        sys.exit(130)
    except SystemExit as stop:
        if stop.code is None or isinstance(stop.code, int):
            _leave(stop.code or 0)
        raise
    if started is not None:
        _Parent(*started).wait()


def _leave(code: int) -> None:
    """End the child at once; returns in no child, and where what was printed cannot be written: the interpreter tells.

    Its own end waits for threads that may be in native code, and takes libraries down beside them.
    """
    if not isolate.watched():
        return
    import atexit

    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            return
    os._exit(code)


def _fill() -> None:
    """Open what is closed of stdin, stdout and stderr: a file would take its place, and what is printed go there.

    What is written to stdout then fails, as it should: it is the result. What is written to stderr has no reader.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_RDWR)


def _load() -> Callable[[], NoReturn]:
    """Import what does the work, the most of a short command's time; Ctrl-C meanwhile ends it, see `__main__`."""
    # A graph of 10^5 nodes is millions of objects that live to the end: looked through so often, a fifth of the time.
    gc.set_threshold(100_000, 50, 100)
    sys.meta_path.insert(0, _Late)
    from onnxviz.cli.main import main as work

    return work


class _Late:
    """Imports when it is first used what onnx_ir imports at its start and hardly ever needs: a quarter of a second."""

    _NAMES: Final = ("sympy", "onnx_ir._symbolic_shapes")

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> Any:
        """As any finder; of the modules of these names alone."""
        spec = PathFinder.find_spec(name, path, target) if name in cls._NAMES else None
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


def _hear() -> None:
    """From here on Ctrl-C is answered by the command, unless it is ignored."""
    if callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if isolate.watched():
        isolate.answer_interrupts()


def _start() -> tuple[int, isolate.Board] | None:
    """Fork: in the parent, the child and the board that it writes; None in the child, or where there is no parent."""
    threading = sys.modules.get("threading")
    if not hasattr(os, "fork") or (threading is not None and threading.active_count() > 1):
        return None
    signals = {*_HANDED_ON, signal.SIGINT, signal.SIGCHLD, signal.SIGTSTP}
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, signals
    )  # none is lost between the fork and its handler
    try:
        board = isolate.Board(mmap.mmap(-1, isolate.SIZE))
        alive, held = os.pipe()  # the parent holds one end for as long as it lives
        child = os.fork()
    except OSError:  # no process or no memory left: the work may still be done here
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    if child == 0:
        os.close(held)
        isolate.end_with(alive)
        isolate.serve(board)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return None
    os.close(alive)
    return child, board


class _Parent:
    """Waits for the child.

    child  its process
    board  what it is at
    """

    def __init__(self, child: int, board: isolate.Board) -> None:
        self._child = child
        self._board = board
        self._handed_on: set[int] = set()
        self._interrupts: list[float] = []
        self._answers = 0  # of the child, before the last of them
        self._noticed = True  # the last of them, or none is left
        self._pauses: list[
            tuple[float, float]
        ] = []  # when the program went on, and the seconds it had stood still
        self._killed: tuple[str, int] | None = None  # why we did, and the exit code

    def wait(self) -> NoReturn:
        """Wait for the child, and end as it ended."""
        wake, wakes = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(wakes, False)
        taken = [*_HANDED_ON, signal.SIGINT, signal.SIGTSTP]
        taken = [one for one in taken if signal.getsignal(one) != signal.SIG_IGN]
        for one in (*taken, signal.SIGCHLD):
            signal.signal(one, lambda *_: None)  # what counts is the byte that the signal writes
        signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*taken, signal.SIGCHLD})
        looked = time.monotonic()
        while True:
            done, status = os.waitpid(self._child, os.WNOHANG)
            if done:
                self._end(status)
            # How long nothing has to be looked at.
            ready, _, _ = select.select([wake], [], [], _NOTICED if self._interrupts else _LOOK)
            now = time.monotonic()
            if now - looked > 4 * _LOOK + 1.0:  # stopped by Ctrl-Z, or the machine slept
                self._pauses.append((now, now - looked))
            looked = now
            for number in os.read(wake, 4096) if ready else b"":
                self._signalled(number)
            self._look(now)

    def _signalled(self, number: int) -> None:
        if number == signal.SIGINT:
            now = time.monotonic()
            if not self._interrupts or now - self._interrupts[-1] > _NOTICED:
                self._interrupts.append(now)
                self._noticed = False
        elif number == signal.SIGTSTP:
            self._stop()
        elif number != signal.SIGCHLD:
            self._handed_on.add(number)
            self._send(number)

    def _stop(self) -> None:
        """Stand still with the child, until both are told to go on."""
        self._send(signal.SIGTSTP)
        own = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, own)
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._child, number)

    # --- deadlines ------------------------------------------------------------------------------

    def _look(self, now: float) -> None:
        """Kill a child that outlives what it may take, or does not answer Ctrl-C."""
        if self._killed is not None:
            return
        regions = self._board.under_way()
        if self._noticed:
            self._answers = self._board.answers
        if self._interrupts:
            self._interrupted(now, regions)
        for region in regions:
            end = region.since + region.seconds * (1 + isolate.GRACE_PART) + isolate.GRACE
            if now > end + sum(stood for then, stood in self._pauses if then > region.since):
                self._kill(isolate.overran(region._replace(what=regions[0].what)), 4)
                return

    def _interrupted(self, now: float, regions: list[isolate.Region]) -> None:
        last = self._interrupts[-1]
        if not self._noticed and now - last >= _NOTICED:
            self._noticed = True
            if self._board.answers == self._answers:
                # In native code, or the parent alone was sent it. Two that Python has not looked at count as one.
                self._send(signal.SIGINT)
        answer = _ANSWER_KEEPING if self._board.keeps else _ANSWER
        for region in regions:
            meant = [one for one in self._interrupts if one > region.since]
            if len(meant) > 1 or (meant and now - meant[0] > answer):
                self._kill("interrupted", 130)
                return
        if now - last > _ANSWER_KEEPING:  # answered, and the command went on
            self._interrupts.clear()

    def _kill(self, text: str, code: int) -> None:
        if self._killed is None:
            self._killed = text, code
            self._send(signal.SIGKILL)

    # --- the end --------------------------------------------------------------------------------

    def _end(self, status: int) -> NoReturn:
        if os.WIFEXITED(status):
            os._exit(os.WEXITSTATUS(status))
        number = os.WTERMSIG(status)
        self._tidy()
        if self._killed is not None:
            text, code = self._killed
        elif number == signal.SIGINT:
            text, code = "interrupted", 130
        elif number in self._handed_on or number == signal.SIGPIPE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            os._exit(128 + number)
        else:
            regions = self._board.under_way()
            text, code = isolate.died(regions[0].what if regions else None, number), 4
        _say(text)
        os._exit(code)

    def _tidy(self) -> None:
        """Remove what the child had no time to: the markers of the outputs that it held."""
        if claims := self._board.claims:
            from onnxviz.claims import sweep

            sweep(claims)


def _say(text: str) -> None:
    """One line on stderr, past what a progress bar of the child has left there."""
    with contextlib.suppress(OSError):  # closed, or full
        bar = "\r\x1b[K\x1b[?25h" if os.isatty(2) else ""
        os.write(2, f"{bar}onnxviz: {text}\n".encode())
