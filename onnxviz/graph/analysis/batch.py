"""Batch rules of the operators that compute (see `batch_step.py`); those that rearrange are in `batch_moves.py`."""

from __future__ import annotations

import math

from onnxviz.graph.analysis.batch_step import IN_TRAINING, Mixes, Refused, Step, everywhere, in_training, rule
from onnxviz.graph.operators import BATCH_FIRST, OWN, POINTWISE, REDUCTIONS, operators

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
            step.beside(place, axis - rank + len(step.shape(place)), sizes.copy().pop())
    return everywhere(step, axis)


@rule(*OWN - BATCH_FIRST - {"Expand"})
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
    raise Mixes("it measures one range over all images of the batch")


@rule(*BATCH_FIRST)
def leading(step: Step) -> list[int | None]:
    """Operators that take axis 0 for the batch, as we must then."""
    step.only(0)
    if step.axis() != 0:
        raise Refused(f"the batch has moved to axis {step.axis()} of its input")
    if step.view.op == "BatchNormalization" and in_training(step.node):
        raise Mixes(IN_TRAINING)
    if step.view.op == "MaxPool" and len(step.node.outputs) > 1:
        indices = step.node.outputs[1]
        if indices.uses() or indices.is_graph_output():
            raise Refused("its indices count across the images of the batch")
    return everywhere(step, 0)


# --- along axes -----------------------------------------------------------------------------------


def _not_over(step: Step, axes: list[int]) -> int:
    axis = step.axis()
    if axis in axes:
        raise Mixes("it reads across the images of the batch")
    return axis


@rule(*operators(lambda row: row.sees == "softmax"))
def softmax(step: Step) -> list[int | None]:
    """Before opset 13 it ran over all axes from `axis` on."""
    rank = len(step.shape())
    if step.opset >= 13:
        axes = [step.get("axis", -1) % rank]
    else:
        axes = list(range(step.get("axis", 1) % rank, rank))
    return everywhere(step, _not_over(step, axes))


@rule(*operators(lambda row: row.sees == "trailing"))
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
            raise Mixes("it normalises over all images of the batch")
        step.attributes["axes"] = [a for a in axes if a != step.axis()]
    return everywhere(step, step.axis())


@rule(*REDUCTIONS)
def reduction(step: Step) -> list[int | None]:
    """Sums over axes other than the batch."""
    rank = len(step.shape())
    axes = step.numbers("axes", 1)
    if not axes:
        if step.get("noop_with_empty_axes", 0):
            return [step.axis()]
        axes = list(range(rank))
    return _reduced(step, [a % rank for a in axes])


@rule(*operators(lambda row: row.sees == "arg_reduction"))
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
    elif found[0] is not None and bias:
        step.beside(2, found[0] - 2 + len(bias), step.result[found[0]])
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
        step.beside(
            other, places[0] - rank + len(step.shape(other)), step.shape(1 - other)[step.axis(1 - other)]
        )
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


@rule(*operators(lambda row: row.family == "recurrent"))
def recurrent(step: Step) -> list[int | None]:
    """X is (steps, batch, size), or (batch, steps, size) with layout 1; initial states follow the batch."""
    step.only(0, 5, 6)
    if step.node.op_type == "DynamicQuantizeLSTM":
        over_all(step)
    first = step.get("layout", 0) == 1
    if step.axis() != (0 if first else 1) or step.view.input(4) is not None:
        raise Refused("its sequence lengths or its axes do not follow the batch")
    for place in (5, 6):
        if step.view.input(place) is not None and step.axes[place] is None:
            if step.batch != 1:
                raise Refused("its initial state is a constant")
            step.repeated[place] = 0 if first else 1
    found: list[int | None] = [0, 0, 0] if first else [2, 1, 1]
    return found[: len(step.results)]


@rule("GridSample", "Attention")
def all_leading(step: Step) -> list[int | None]:
    """Every input must carry the batch on axis 0."""
    if any(step.axes[place] != 0 for place in range(len(step.axes)) if step.view.input(place) is not None):
        raise Refused("one of its inputs does not follow the batch")
    return everywhere(step, 0)
