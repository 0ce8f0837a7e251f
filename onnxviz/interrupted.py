"""Ctrl-C in a long run, with what was done so far. Light, since the command line imports it at its start."""

from __future__ import annotations

from typing import Any


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a long run; `.partial` is the result of what was done, its manifest marked incomplete.

    Of several pictures one after the other: the list of results so far, the last of them incomplete.
    """

    def __init__(self, partial: Any) -> None:
        super().__init__("interrupted")
        self.partial = partial
