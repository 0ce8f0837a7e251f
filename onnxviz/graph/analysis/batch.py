"""Which axis of each value is the batch, and what must change in a node when the batch may have any size.

A file exported for a fixed batch of B holds that number in constants: the target of a Reshape, the end of a
Slice. This module walks such a graph with one invariant: along the batch axis of a value, image 0's part comes
first, then image 1's, and so on, and no node reads across images. A rule tells, for an operator, whether it keeps
that invariant, where its result's batch axis is, and what to edit. What it cannot prove it refuses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from onnxviz.graph.analysis.rules import OWN, POINTWISE, REDUCTIONS
from onnxviz.graph.analysis.twins import View

Shape = tuple[int, ...]
LAST = (1 << 31) - 1
"""The end of an axis, whatever its size."""


class Refused(Exception):  # noqa: N818 - becomes ModelUnsuitable, with the node's name
    """Why the node does not let the batch change."""


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


# --- place by place -------------------------------------------------------------------------------


@rule(*POINTWISE)
def pointwise(step: Step) -> list[int | None]:
    """All batch axes must meet under broadcasting, and constants must be the same for every image."""
    rank = len(step.result)
    meet = {step.axis(place) + rank - len(step.shape(place)) for place in step.carriers}
    if len(meet) > 1:
        raise Refused("the batch stands on different axes of its inputs")
    axis = meet.pop()
    sizes = {step.shape(place)[step.axis(place)] for place in step.carriers}
    if len(sizes) > 1:
        raise Refused("it stretches the batch of one input over another's")
    for place in range(len(step.axes)):
        if step.axes[place] is None and step.view.input(place) is not None:
            shape = step.shape(place)
            at = axis - rank + len(shape)
            if at >= 0 and shape[at] != 1:
                raise Refused(f"it has a constant of size {shape[at]} along the batch")
    return everywhere(step, axis)


@rule(*(op for op in OWN if op not in ("Expand", "BatchNormalization")))
def own(step: Step) -> list[int | None]:
    """Bounds and scales are the same for every image."""
    step.only(0)
    axis = step.axis()
    if step.view.op in ("QuantizeLinear", "DequantizeLinear"):
        scales = step.shape(1)
        if math.prod(scales) > 1 and step.get("axis", 1) % len(step.shape()) == axis:
            raise Refused("it has a scale for each image")
    return everywhere(step, axis)


@rule("DynamicQuantizeLinear")
def over_all(step: Step) -> list[int | None]:
    """Its scale comes from all images together."""
    raise Refused("it measures one range over all images of the batch")


@rule("Conv", "ConvTranspose", "AveragePool", "MaxPool", "LpPool", "GlobalAveragePool", "GlobalMaxPool",
      "GlobalLpPool", "LRN", "InstanceNormalization", "GroupNormalization", "BatchNormalization", "DepthToSpace",
      "SpaceToDepth")  # fmt: skip
def leading(step: Step) -> list[int | None]:
    """Operators that take axis 0 for the batch, as we must then."""
    step.only(0)
    if step.axis() != 0:
        raise Refused(f"the batch has moved to axis {step.axis()} of its input")
    if step.view.op == "BatchNormalization" and step.get("training_mode", 0):
        raise Refused("it normalises over all images of the batch")
    if step.view.op == "MaxPool" and len(step.node.outputs) > 1:
        indices = step.node.outputs[1]
        if indices.uses() or indices.is_graph_output():
            raise Refused("its indices count across the images of the batch")
    return everywhere(step, 0)


# --- along axes -----------------------------------------------------------------------------------


def _not_over(step: Step, axes: list[int]) -> int:
    axis = step.axis()
    if axis in axes:
        raise Refused("it reads across the images of the batch")
    return axis


@rule("Softmax", "LogSoftmax", "Hardmax")
def softmax(step: Step) -> list[int | None]:
    """Before opset 13 it ran over all axes from `axis` on."""
    rank = len(step.shape())
    if step.opset >= 13:
        axes = [step.get("axis", -1) % rank]
    else:
        axes = list(range(step.get("axis", 1) % rank, rank))
    return everywhere(step, _not_over(step, axes))


@rule("LayerNormalization", "RMSNormalization")
def trailing(step: Step) -> list[int | None]:
    """It runs over all axes from `axis` on."""
    step.only(0)
    rank = len(step.shape())
    return everywhere(step, _not_over(step, list(range(step.get("axis", -1) % rank, rank))))


@rule("LpNormalization", "TopK")
def along_axis(step: Step) -> list[int | None]:
    """It runs over one axis, the last one if none is given."""
    step.only(0)
    return everywhere(step, _not_over(step, [step.get("axis", -1) % len(step.shape())]))


@rule("CumSum")
def cumulative(step: Step) -> list[int | None]:
    """It runs over the axis that is its second input."""
    return everywhere(step, _not_over(step, [a % len(step.shape()) for a in step.numbers("axis", 1) or [0]]))


@rule("MeanVarianceNormalization")
def mean_variance(step: Step) -> list[int | None]:
    """Its usual axes name the batch too, which for a batch of one is no matter."""
    found = step.view.attributes.get("axes", [0, 2, 3])
    axes = [int(a) % len(step.shape()) for a in found]
    if step.axis() in axes:
        if step.batch != 1 or step.shape()[step.axis()] != 1:
            raise Refused("it normalises over all images of the batch")
        step.attributes["axes"] = [a for a in axes if a != step.axis()]
    return everywhere(step, step.axis())


@rule(*(f"Reduce{kind}" for kind in REDUCTIONS))
def reduction(step: Step) -> list[int | None]:
    """Sums over axes other than the batch."""
    rank = len(step.shape())
    axes = step.numbers("axes", 1)
    if not axes:
        if step.get("noop_with_empty_axes", 0):
            return [step.axis()]
        axes = list(range(rank))
    return _reduced(step, [a % rank for a in axes])


@rule("ArgMax", "ArgMin")
def arg_reduction(step: Step) -> list[int | None]:
    """The place of the largest along an axis."""
    return _reduced(step, [step.get("axis", 0) % len(step.shape())])


def _reduced(step: Step, axes: list[int]) -> list[int | None]:
    axis = _not_over(step, axes)
    return [axis if step.get("keepdims", 1) else axis - sum(a < axis for a in axes)]


# --- products -------------------------------------------------------------------------------------


@rule("Gemm")
def gemm(step: Step) -> list[int | None]:
    """A·B + C."""
    found = matmul(step)
    bias = step.shape(2) if step.view.input(2) is not None else ()
    if len(step.axes) > 2 and step.axes[2] is not None:
        if step.axes[2] + 2 - len(bias) != found[0]:
            raise Refused("the batch stands on different axes of its inputs")
    elif found[0] is not None and len(bias) + found[0] >= 2 and bias[found[0] - 2 + len(bias)] != 1:
        raise Refused("it has a constant along the batch")
    return found


@rule("MatMul")
def matmul(step: Step) -> list[int | None]:
    """Rows of the first with columns of the second."""
    rank, places = len(step.result), []
    for place, flag in enumerate(("transA", "transB")):
        axis = step.axes[place]
        if axis is None:
            continue
        size = len(step.shape(place))
        if size == 1:
            raise Refused("it reads across the images of the batch")
        if step.get(flag, 0) and axis >= size - 2:
            axis = 2 * size - 3 - axis
        if axis == size - 1 - place:
            raise Refused("it reads across the images of the batch")
        places.append(axis + rank - size)
    if len(set(places)) != 1:
        raise Refused("the batch stands on different axes of its inputs")
    other = next((p for p in (0, 1) if step.axes[p] is None), None)
    if other is not None and places[0] < rank - 2:
        shape = step.shape(other)
        at = places[0] - rank + len(shape)
        if at >= 0 and shape[at] != 1:
            raise Refused("it has a constant along the batch")
    return [places[0]]


@rule("Einsum")
def einsum(step: Step) -> list[int | None]:
    """The label of the batch must be in the result and in nothing constant."""
    equation = str(step.view.attributes.get("equation", "")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if not arrow or "." in equation or len(terms) != len(step.axes):
        raise Refused("the batch cannot be followed through its equation")
    labels = {terms[place][step.axis(place)] for place in step.carriers}
    label = labels.pop()
    fixed = "".join(term for place, term in enumerate(terms) if step.axes[place] is None)
    if labels or label not in right or label in fixed:
        raise Refused("it reads across the images of the batch")
    return [right.index(label)]


@rule("LSTM", "GRU", "RNN")
def recurrent(step: Step) -> list[int | None]:
    """X is (steps, batch, size), or (batch, steps, size) with layout 1; initial states follow the batch."""
    step.only(0, 5, 6)
    first = step.get("layout", 0) == 1
    if step.axis() != (0 if first else 1) or step.view.input(4) is not None:
        raise Refused("its sequence lengths or its axes do not follow the batch")
    for place in (5, 6):
        if step.view.input(place) is not None and step.axes[place] is None:
            if step.batch != 1:
                raise Refused("its initial state is a constant")
            step.repeated[place] = 0 if first else 1
    return [0, 0, 0][: len(step.results)] if first else [2, 1, 1][: len(step.results)]


@rule("GridSample", "Attention")
def all_leading(step: Step) -> list[int | None]:
    """Every input must carry the batch on axis 0."""
    if any(step.axes[place] != 0 for place in range(len(step.axes)) if step.view.input(place) is not None):
        raise Refused("one of its inputs does not follow the batch")
    return everywhere(step, 0)
