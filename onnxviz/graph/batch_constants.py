"""Where a node holds the fixed batch in a constant, and what to write there instead (see `dynamic_batch.py`).

The target of a Reshape gets 0 or -1 in place of the number, a Slice an open end; a constant beside the batch is
repeated for each image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxviz.graph.analysis.units import Call
from onnxviz.graph.operators import (
    BATCH_FIRST,
    POINTWISE,
    RECURRENT,
    computes,
    computing,
    operators,
)

_LAST = (1 << 31) - 1  # the end of an axis, whatever its size


class Refused(Exception):
    """Why the node does not let the batch change."""


class Mixes(Refused):
    """What the node computes for one image depends on the others of its batch."""


@dataclass(frozen=True)
class Step(Call):
    """One node on the way, and the edits that it needs. What it has no shape or constant for, it raises Unplaced for.

    node       of which `view` is the standard operator
    axes       for each of the view's inputs which axis is the batch, None where it has none
    batch      the file's
    open_size  the file leaves height or width open, so shapes other than the batch are stand-ins
    moving     inputs that the graph computes from an open image size: their contents at twice the batch

    The edits, by the place of an input of the node:

    constants   new contents
    attributes  new ones, by name
    repeated    repeat this constant input once for each image, along this axis
    sized       in the sizes that are this input, put the data's true batch at this index
    """

    node: ir.Node = field(kw_only=True)
    axes: list[int | None] = field(kw_only=True)
    batch: int = field(kw_only=True)
    open_size: bool = False
    moving: dict[int, np.ndarray] = field(default_factory=dict)
    constants: dict[int, np.ndarray] = field(default_factory=dict)
    attributes: dict[str, list[int]] = field(default_factory=dict)
    repeated: dict[int, int] = field(default_factory=dict)
    sized: dict[int, int] = field(default_factory=dict)

    def axis(self, place: int = 0) -> int:
        """The batch axis of an input that must have one."""
        found = self.axes[place] if place < len(self.axes) else None
        if found is None:
            raise Refused("it mixes the images with a constant in a way that is not known here")
        return found

    @property
    def carriers(self) -> list[int]:
        """The places of the inputs that carry the batch."""
        return [place for place, axis in enumerate(self.axes) if axis is not None]

    def follows(self, place: int, at: int) -> bool:
        """True where input `place` is computed by the graph and gives the true batch at index `at` by itself."""
        twice = self.moving.get(place)
        if twice is None:
            return False
        once = self.values(place)
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
        shape = self.input(place)
        if at < 0 or shape[at] == 1:
            return
        if self.batch != 1 or shape[at] != size or not self.view.exact:
            raise Refused(f"it has a constant of size {shape[at]} along the batch")
        self.repeated[place] = at


# --- what holds the batch -------------------------------------------------------------------------


def _reshape(step: Step) -> int:
    """The batch comes first in row-major order, so it stays whole if what stands before it stays."""
    axis, before, after = step.axis(), step.input(), step.shape
    lead = math.prod(before[:axis])
    target = step.numbers("shape", 1)
    if target is None:
        raise Refused("it has no target shape")
    places = [i for i in range(len(after)) if math.prod(after[:i]) == lead and after[i] % step.batch == 0]
    if not places:
        raise Refused(f"its target {list(after)} cuts across the images of the batch")
    at = axis if axis in places and after[axis] == before[axis] else places[0]
    if step.follows(1, at):
        return at
    zeros = not step.get("allowzero", 0)
    whole = zeros and at == axis and after[at] == before[axis]
    if target[at] == -1 or (target[at] == 0 and whole):
        return at
    if not whole and -1 in target and step.open_size:
        raise Refused("both the batch and an open image size would have to be worked out by its target")
    new = list(target) if whole else [after[i] if t == -1 else t for i, t in enumerate(target)]
    new[at] = 0 if whole else -1  # 0: "as in the input"
    if step.view.input(1) is None:
        step.attributes["shape"] = new
    else:
        step.constants[1] = np.array(new, np.int64)
    return at


def _flatten(step: Step) -> int:
    axis, shape = step.axis(), step.input()
    cut = step.get("axis", 1) % (len(shape) + 1)
    if math.prod(shape[0 if axis < cut else cut : axis]) != 1:
        raise Refused("it mixes the batch into another axis")
    return 0 if axis < cut else 1


def _unsqueeze(step: Step) -> int:
    rank = len(step.shape)
    new = {a % rank for a in step.numbers("axes", 1) or []}
    return [i for i in range(rank) if i not in new][step.axis()]


def _squeeze(step: Step) -> int:
    """Axes of size 1 go; the batch must not be among them."""
    axis, shape = step.axis(), step.input()
    axes = step.numbers("axes", 1)
    if axes is None:
        axes = [i for i, size in enumerate(shape) if size == 1]
        if axis not in axes:  # at another batch the batch itself may be of size 1: say which ones are meant
            if step.opset >= 13:
                raise Refused("it names no axes, and at a batch of one would drop the batch")
            step.attributes["axes"] = axes
    axes = [a % len(shape) for a in axes]
    if axis in axes:
        raise Refused("it drops the batch axis")
    return axis - sum(a < axis for a in axes)


def _expand(step: Step) -> None:
    """1 in the target leaves an axis as it is, so that is what the batch gets."""
    target = step.numbers("shape", 1) or []
    at = step.axis() + len(step.shape) - len(step.input())
    place = at - len(step.shape) + len(target)
    if step.shape[at] != step.input()[step.axis()]:
        raise Refused("it stretches the batch")
    if not step.follows(1, place) and 0 <= place < len(target) and target[place] != 1:
        step.constants[1] = np.array([*target[:place], 1, *target[place + 1 :]], np.int64)


def _concat(step: Step) -> None:
    """A constant piece is repeated for each image."""
    axis = step.axis(step.carriers[0])
    if step.get("axis", 1) % len(step.shape) == axis:
        raise Refused("it joins values along the batch")
    for place in range(len(step.axes)):
        if step.axes[place] is None:
            size = step.input(step.carriers[0])[axis]
            if step.batch != 1 or step.input(place)[axis] != size or not step.view.exact:
                raise Refused("it joins a constant of another batch")
            step.repeated[place] = axis


def _slice(step: Step) -> None:
    """A slice of the batch must be all of it; its end is then opened."""
    axis, size = step.axis(), step.input()[step.axis()]
    starts, ends = step.numbers("starts", 1), step.numbers("ends", 2)
    if starts is None or ends is None:
        raise Refused("its bounds are not known")
    axes = step.numbers("axes", 3) or list(range(len(starts)))
    steps = step.numbers("steps", 4) or [1] * len(starts)
    for i, a in enumerate(axes):
        if a % len(step.input()) != axis:
            continue
        if steps[i] != 1 or starts[i] not in (0, -size) or (ends[i] < size):
            raise Refused("it takes a part of the batch")
        if starts[i] != 0 or ends[i] < _LAST:
            starts[i], ends[i] = 0, _LAST
            if step.view.input(1) is None:
                step.attributes.update(starts=starts, ends=ends)
            else:
                step.constants.update({1: np.array(starts, np.int64), 2: np.array(ends, np.int64)})


def _resize(step: Step) -> None:
    """Scales leave the batch alone; sizes that name it get the true one."""
    axis, axes = step.axis(), step.get("axes")
    named = list(axes) if axes is not None else list(range(len(step.input())))
    if (
        computes(step.view.op) == "resize"
        and step.opset > 10
        and step.view.input(3) is not None
        and axis in named
    ):
        if step.follows(3, axis):
            return
        if axis != 0 or axes is not None:
            raise Refused("its sizes name the batch on another axis than the first")
        step.sized[3] = 0


def _mean_variance(step: Step) -> None:
    """Its usual axes name the batch too, which for a batch of one is no matter."""
    rank = len(step.input())
    axes = [int(a) % rank for a in step.get("axes", [0, 2, 3]) if -rank <= a < rank]
    if step.axis() in axes and step.batch == step.input()[step.axis()] == 1:
        step.attributes["axes"] = [a for a in axes if a != step.axis()]


def _recurrent(step: Step) -> None:
    """Constant first states are repeated for each image."""
    first = step.get("layout", 0) == 1
    if step.axis() != (0 if first else 1) or step.view.input(4) is not None:
        raise Refused("its sequence lengths or its axes do not follow the batch")
    for place in (5, 6):
        if step.view.input(place) is not None:
            if step.batch != 1:
                raise Refused("its initial state is a constant")
            step.repeated[place] = 0 if first else 1


def _quantise(step: Step) -> None:
    scales = step.input(1)
    if math.prod(scales) > 1 and step.get("axis", 1) % len(step.input()) == step.axis():
        raise Refused("it has a scale for each image")


def _leading(step: Step) -> None:
    """Operators that take axis 0 for the batch, as we must then."""
    if step.axis() != 0:
        raise Refused(f"the batch has moved to axis {step.axis()} of its input")
    if computes(step.view.op) == "max_pool" and len(step.node.outputs) > 1:
        indices = step.node.outputs[1]
        if indices.uses() or indices.is_graph_output():
            raise Refused("its indices count across the images of the batch")


def _pointwise(step: Step) -> None:
    """All batch axes must meet under broadcasting, and constants must be the same for every image."""
    rank = len(step.shape)
    meet = {step.axis(place) + rank - len(step.input(place)) for place in step.carriers}
    sizes = {step.input(place)[step.axis(place)] for place in step.carriers}
    if len(meet) > 1:
        raise Refused("the batch stands on different axes of its inputs")
    if len(sizes) > 1:
        raise Refused("it stretches the batch of one input over another's")
    for place, axis in enumerate(step.axes):
        if axis is None and step.view.input(place) is not None:
            step.beside(place, min(meet) - rank + len(step.input(place)), min(sizes))


def _product(step: Step) -> None:
    """The other side may be a stack of matrices, one for each image; C of Gemm is broadcast."""
    rank = len(step.shape)
    sides = [place for place in (0, 1) if step.axes[place] is not None]
    at = step.axis(sides[0]) + rank - len(step.input(sides[0]))
    if len(sides) == 1 and at < rank - 2:
        step.beside(
            1 - sides[0], at - rank + len(step.input(1 - sides[0])), step.input(sides[0])[step.axis(sides[0])]
        )
    if computes(step.view.op) == "gemm" and step.view.input(2) is not None and step.axes[2] is None:
        row = 0 if sides == [0] else 1
        step.beside(2, row - 2 + len(step.input(2)), step.shape[row])


# They give the axis of the batch where several would do: at a batch of 1 numbers of elements tell nothing.
EDITS: dict[str, Callable[[Step], int | None]] = {
    **dict.fromkeys(BATCH_FIRST, _leading),
    **dict.fromkeys(POINTWISE, _pointwise),
    **dict.fromkeys(RECURRENT, _recurrent),
    **dict.fromkeys(computing("quantize dequantize"), _quantise),
    **dict.fromkeys(computing("gemm matmul"), _product),
    **dict.fromkeys(operators(lambda row: row.sees == "mean_variance"), _mean_variance),
    **{
        op: edit
        for word, edit in (
            ("concatenate", _concat),
            ("broadcast_to", _expand),
            ("flatten", _flatten),
            ("reshape", _reshape),
            ("resize", _resize),
            ("slice", _slice),
            ("squeeze", _squeeze),
            ("expand_dims", _unsqueeze),
        )
        for op in computing(word)
    },
}
