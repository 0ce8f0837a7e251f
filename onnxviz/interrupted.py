"""Ctrl-C in a long run, with what was done so far. Light, since the command line imports it at its start."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxviz.results import Result


class Interrupted(KeyboardInterrupt):
    """Ctrl-C in a long run; `.partial` is the result of what was done, its manifest marked incomplete."""

    def __init__(self, partial: Result) -> None:
        super().__init__("interrupted")
        self.partial = partial
