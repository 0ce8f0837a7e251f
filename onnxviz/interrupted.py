"""Ctrl-C in a long run, with what was done so far."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeVar

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
