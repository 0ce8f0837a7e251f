"""One node as a receptive-field rule sees it (`rules.py`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxviz.graph.analysis.reach import Reach
from onnxviz.graph.analysis.twins import View

Shape = tuple[int, ...]


class Unplaced(Exception):
    """The rule lacks a shape or a constant that it needs."""


@dataclass(frozen=True)
class Call:
    """One node as a rule sees it. Inputs are in the order of its `View`; a constant's reach is None."""

    view: View
    reaches: list[Reach | None]
    shapes: list[Shape | None]
    results: list[Shape | None]
    values: Callable[[int], np.ndarray | None]
    opset: int
    result: int = 0
    """Which result is asked for."""

    @property
    def shape(self) -> Shape:
        """The shape of the result."""
        return known(self.results[self.result])

    def input(self, place: int = 0) -> Shape:
        """The shape of an input."""
        return known(self.shapes[place] if place < len(self.shapes) else None)

    def reach(self, place: int = 0) -> Reach | None:
        """What an input sees; None for a constant or an input left out."""
        return self.reaches[place] if place < len(self.reaches) else None

    @property
    def data(self) -> Reach:
        """What the first input sees; a rule that needs its places gives up where it is a constant."""
        found = self.reach()
        if found is None:
            raise Unplaced
        return found

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.view.attributes.get(name, default)

    def numbers(self, name: str, place: int) -> list[int] | None:
        """Integers that are an attribute in old opsets and input `place` in new ones; None if neither is there."""
        found = self.get(name)
        if found is None:
            if self.view.input(place) is None:
                return None
            found = self.values(place)
            if found is None:
                raise Unplaced
        return [int(v) for v in np.asarray(found).reshape(-1)]


def known(shape: Shape | None) -> Shape:
    """The shape; a rule that needs it gives up where it cannot be told."""
    if shape is None:
        raise Unplaced
    return shape


Rule = Callable[[Call], Reach]
