"""Which axis of each value is the batch, and what must change in a node when the batch may have any size.

A file exported for a fixed batch of B holds that number in constants: the target of a Reshape, the end of a
Slice. This module walks such a graph with one invariant: along the batch axis of a value, image 0's part comes
first, then image 1's, and so on, and no node reads across images. A rule tells, for an operator, whether it keeps
that invariant, where its result's batch axis is, and what to edit. What it cannot prove it refuses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxviz.graph.analysis.twins import View

Shape = tuple[int, ...]
LAST = (1 << 31) - 1
"""The end of an axis, whatever its size."""


class Refused(Exception):
    """Why the node does not let the batch change."""


class Mixes(Refused):
    """What the node computes for one image depends on the others of its batch."""


@dataclass
class Step:
    """One node on the way: its inputs' batch axes, and the edits that its rule asks for.

    `view` is the node as a standard operator; `axes` tells for each of the view's inputs which axis is the
    batch, None where it has none.
    """

    node: ir.Node
    view: View
    axes: list[int | None]
    shapes: list[Shape | None]
    results: list[Shape | None]
    values: Callable[[ir.Value | None], np.ndarray | None]
    batch: int
    opset: int
    open_size: bool = False
    """The file leaves height or width open, so shapes other than the batch are stand-ins."""
    moving: dict[int, np.ndarray] = field(default_factory=dict)
    """Inputs that the graph computes from an open image size: their contents at twice the batch."""
    constants: dict[int, np.ndarray] = field(default_factory=dict)
    """Edit: new contents for the input at this place of the node."""
    attributes: dict[str, object] = field(default_factory=dict)
    """Edit: new attributes."""
    repeated: dict[int, int] = field(default_factory=dict)
    """Edit: repeat the constant input at this place once for each image, along this axis."""
    sized: dict[int, int] = field(default_factory=dict)
    """Edit: in the sizes that are input `place`, put the data's true batch at this index."""

    def axis(self, place: int = 0) -> int:
        """The batch axis of an input that must have one."""
        found = self.axes[place] if place < len(self.axes) else None
        if found is None:
            raise Refused("it mixes the images with a constant in a way that is not known here")
        return found

    def shape(self, place: int = 0) -> Shape:
        """The shape of an input."""
        found = self.shapes[place] if place < len(self.shapes) else None
        if found is None:
            raise Refused("the shape of its input cannot be inferred")
        return found

    @property
    def result(self) -> Shape:
        """The shape of the first result."""
        if self.results[0] is None:
            raise Refused("its result's shape cannot be inferred")
        return self.results[0]

    @property
    def carriers(self) -> list[int]:
        """The places of the inputs that carry the batch."""
        return [place for place, axis in enumerate(self.axes) if axis is not None]

    def follows(self, place: int, at: int) -> bool:
        """True where input `place` is computed by the graph and gives the true batch at index `at` by itself."""
        twice = self.moving.get(place)
        if twice is None:
            return False
        once = self.values(self.view.input(place))
        if once is None or len(once) != len(twice):
            return False
        grown = once.copy()
        if at < len(grown) and grown[at] != -1:
            grown[at] *= 2
        if not np.array_equal(grown, twice):
            raise Refused("it computes sizes in which the batch is fixed")
        return True

    def beside(self, place: int, at: int, size: int) -> None:
        """A constant input that broadcasting lays beside a batch axis of this size, with its own axis `at`.

        Of size 1 (or absent) it is the same for every image. Of the whole size, in a batch of one, it is one
        image's share (16 windows, say), to be repeated for each.
        """
        shape = self.shape(place)
        if at < 0 or shape[at] == 1:
            return
        if self.batch != 1 or shape[at] != size or not self.view.exact:
            raise Refused(f"it has a constant of size {shape[at]} along the batch")
        self.repeated[place] = at

    def only(self, *allowed: int) -> None:
        """Refuse where an input other than these carries the batch."""
        if any(place not in allowed for place in self.carriers):
            raise Refused("a weight or parameter of it depends on the image")

    def get(self, name: str, default: int) -> int:
        """An integer attribute."""
        found = self.view.attributes.get(name, default)
        return int(found) if isinstance(found, int) else default

    def numbers(self, name: str, place: int) -> list[int] | None:
        """Integers given as an attribute in old opsets and as input `place` in new ones; None if not given."""
        found = self.view.attributes.get(name)
        if found is None:
            value = self.view.input(place)
            if value is None:
                return None
            found = self.values(value)
            if found is None:
                raise Refused(f"its {name} are computed while it runs")
        return [int(v) for v in np.asarray(found).reshape(-1)]


# Measured on ONNX Runtime 1.32: the averages, which the standard makes outputs, are written over those of the file, and
# the same picture gives other values in the next run.
IN_TRAINING = (
    "it is in training mode and normalises over all images of the batch; ONNX Runtime's results then depend on what "
    "ran before, so export the network for inference"
)


def in_training(node: ir.Node) -> bool:
    """Whether a BatchNormalization normalises by the batch at hand: said aloud from opset 14 on, before by outputs."""
    mode = node.attributes.get("training_mode")
    return len(node.outputs) > 1 or (mode is not None and not mode.is_ref() and bool(mode.as_int()))


Rule = Callable[[Step], list[int | None]]
RULES: dict[str, Rule] = {}


def rule(*operators: str) -> Callable[[Rule], Rule]:
    """Enter a rule into the table."""

    def enter(function: Rule) -> Rule:
        for operator in operators:
            if operator in RULES:
                raise ValueError(f"two batch rules for {operator}")
            RULES[operator] = function
        return function

    return enter


def everywhere(step: Step, axis: int) -> list[int | None]:
    """The same axis for every result."""
    return [axis] * len(step.results)
