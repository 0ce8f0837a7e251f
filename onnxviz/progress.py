"""How a long computation tells how far it is, how that is shown, and what Ctrl-C leaves of it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeVar

from onnxviz.errors import UsageError

#: Called with (done, total, what); `total` is None where it is not known. The computation never draws anything.
Progress = Callable[[int, int | None, str], None]
#: What a technique takes: such a function, or a bar on a terminal and in a notebook, and silence where stderr is piped;
#: None: silence everywhere.
Shown = Progress | Literal["auto"] | None

# Seconds until a bar comes; where there is no terminal, until the first line comes, and from line to line.
_PATIENCE, _FIRST, _LINE = 1.0, 30.0, 10.0
_REDRAWN = 0.1  # from one drawing in a notebook to the next


def silent(done: int, total: int | None, what: str) -> None:
    """The progress that nobody watches."""


def told(progress: Shown) -> Progress:
    """The function itself; of None, or of 'auto' that nobody has made a bar of (`provenance.recorded` does), silence.

    raises   UsageError for anything else
    """
    if progress is None or progress == "auto":
        return silent
    if not callable(progress):
        raise UsageError(f"progress is a function (done, total, what), 'auto' or None, got {progress!r}")
    return progress


class _Cell:
    """A bar below a notebook's cell, as HTML that every front end shows; rich's own needs ipywidgets, and warns."""

    def __init__(self, title: str) -> None:
        from IPython.display import display

        self._title, self._last = title, 0.0
        self._handle = display({"text/plain": ""}, raw=True, display_id=True)

    def show(self, done: int, total: int | None, rate: str) -> None:
        """Draw it, at most ten times a second."""
        from html import escape

        now = time.monotonic()
        if self._handle is not None and (now - self._last >= _REDRAWN or done == total):
            self._last = now
            part = "" if total is None else f' value="{done}" max="{total}"'
            text = f"{self._title}: {done}{'' if total is None else f' of {total}'}  {rate}"
            bar = f"<progress{part}></progress> <code>{escape(text)}</code>"
            self._handle.update({"text/plain": text, "text/html": bar}, raw=True)

    def stop(self) -> None:
        """Leave nothing of it."""
        if self._handle is not None:
            self._handle.update({"text/plain": "", "text/html": ""}, raw=True)


class Bar:
    """Rate and time left on stderr, of whatever takes longer than a second: a `Progress`, to be closed at its end.

    title    what stands in front
    lines    called with one line every ten seconds, of what takes longer than 30, where stderr is no terminal
    enabled  False: nothing is shown
    detail   stands beside the rate: the objective's value
    """

    def __init__(self, title: str, lines: Callable[[str], None] | None = None, enabled: bool = True) -> None:
        self.detail = ""
        self._title = title
        self._lines = lines
        self._notebook = "ipykernel" in sys.modules
        self._drawn = enabled and (self._notebook or (sys.stderr is not None and sys.stderr.isatty()))
        self._said = enabled and not self._drawn and lines is not None
        self._since = self._called = time.monotonic()  # since when it does this; when it was heard of last
        self._line, self._first = self._called + _FIRST, self._called + _PATIENCE
        self._what, self._done = "", 0
        self._shown: Any = None
        self._task: Any = None

    def __call__(self, done: int, total: int | None, what: str) -> None:
        """Show how far it is."""
        if not self._drawn and not self._said:
            return
        now = time.monotonic()
        if what != self._what or done < self._done:  # something else, or the next one
            self._since = self._called
        if what != self._what:
            self._what = what
            self.close()
        self._called, self._done = now, done
        rate = f"{done / max(1e-9, now - self._since):.1f} {what}/s"
        if self._said:
            if self._lines is not None and now >= self._line:
                self._line = now + _LINE
                self._lines(f"{self._title}: {done}{'' if total is None else f' of {total}'} {what}, {rate}")
        elif self._shown is not None or now >= self._first:
            try:
                self._draw(done, total, f"{rate}  {self.detail}".rstrip())
            except OSError:  # the terminal is gone: the work goes on without a bar
                self._drawn = False
                self.close()

    def _draw(self, done: int, total: int | None, rate: str) -> None:
        if self._notebook:
            self._shown = self._shown or _Cell(self._title)
            self._shown.show(done, total, rate)
            return
        if self._shown is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self._shown = Progress(
                TextColumn(self._title),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._shown.start()
            self._task = self._shown.add_task(self._title, total=None, rate="")
        self._shown.update(self._task, completed=done, total=total, rate=rate)

    def close(self) -> None:
        """Take the bar off the screen."""
        if self._shown is not None:
            with contextlib.suppress(OSError):
                self._shown.stop()
            self._shown = None

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# --- Ctrl-C in a long run, with what was done so far ----------------------------------------------


R = TypeVar("R")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a long run; `.partial` is the result of what was done, its manifest marked incomplete.

    Of several pictures one after the other: the list of results so far, the last of them incomplete.
    """

    def __init__(self, partial: Any) -> None:
        super().__init__("interrupted")
        self.partial = partial


class Ending:
    """How what ran inside `until_interrupted` ended.

    stop   the Ctrl-C that ended it, or None
    """

    stop: KeyboardInterrupt | None = None

    def given(self, result: R) -> R:
        """The result of what was done; after Ctrl-C it is raised as `Interrupted`, its manifest marked incomplete."""
        if self.stop is not None:
            made: Any = result
            made.manifest["incomplete"] = True
            raise Interrupted(result) from self.stop
        return result

    def nothing(self) -> None:
        """Nothing was done yet: after Ctrl-C it goes on as it came."""
        if self.stop is not None:
            raise self.stop


@contextlib.contextmanager
def until_interrupted() -> Iterator[Ending]:
    """Ctrl-C ends what is inside, and nothing else: what was done so far is made a result of and `given`."""
    ending = Ending()
    try:
        yield ending
    except KeyboardInterrupt as stop:
        ending.stop = stop
