"""Batch rules of the operators that rearrange: Reshape, Slice, Concat and their like (see `batch_step.py`).

These hold the fixed batch in constants, so here are the edits: a Reshape's target gets 0 or -1 in place of the
number, a Slice an open end, a constant beside the batch is repeated for each image.
"""

from __future__ import annotations

import math

import numpy as np

from onnxviz.graph.analysis.batch_step import LAST, Refused, Step, everywhere, rule
from onnxviz.graph.operators import RESIZING


@rule("Reshape")
def reshape(step: Step) -> list[int | None]:
    """The batch comes first in row-major order, so it stays whole if what stands before it stays."""
    step.only(0)
    axis, before, after = step.axis(), step.shape(), step.result
    lead = math.prod(before[:axis])
    target = step.numbers("shape", 1)
    if target is None:
        raise Refused("it has no target shape")
    places = [i for i in range(len(after)) if math.prod(after[:i]) == lead and after[i] % step.batch == 0]
    if not places:
        raise Refused(f"its target {list(after)} cuts across the images of the batch")
    at = axis if axis in places and after[axis] == before[axis] else places[0]
    if step.follows(1, at):
        return [at]
    zeros = not step.get("allowzero", 0)
    if target[at] == -1 or (target[at] == 0 and zeros and at == axis and after[at] == before[axis]):
        return [at]
    new = list(target)
    if zeros and at == axis and after[at] == before[axis]:
        new[at] = 0  # "as in the input"
    else:
        if -1 in target and step.open_size:
            raise Refused("both the batch and an open image size would have to be worked out by its target")
        new = [after[i] if t == -1 else t for i, t in enumerate(target)]
        new[at] = -1
    if step.view.input(1) is None:
        step.attributes["shape"] = new
    else:
        step.constants[1] = np.array(new, np.int64)
    return [at]


@rule("Flatten")
def flatten(step: Step) -> list[int | None]:
    """To a matrix, split before `axis`."""
    axis, shape = step.axis(), step.shape()
    cut = step.get("axis", 1)
    cut = cut + len(shape) if cut < 0 else cut
    first, at = (0, 0) if axis < cut else (cut, 1)
    if math.prod(shape[first:axis]) != 1:
        raise Refused("it mixes the batch into another axis")
    return [at]


@rule("Squeeze")
def squeeze(step: Step) -> list[int | None]:
    """Axes of size 1 go; the batch must not be among them."""
    axis, shape = step.axis(), step.shape()
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
    return [axis - sum(a < axis for a in axes)]


@rule("Unsqueeze")
def unsqueeze(step: Step) -> list[int | None]:
    """New axes of size 1."""
    rank = len(step.result)
    new = {a % rank for a in step.numbers("axes", 1) or []}
    old = [i for i in range(rank) if i not in new]
    return [old[step.axis()]]


@rule("Transpose")
def transpose(step: Step) -> list[int | None]:
    """Axes in another order."""
    rank = len(step.shape())
    perm = step.view.attributes.get("perm")
    order = [int(p) for p in perm] if perm is not None else list(reversed(range(rank)))
    return [order.index(step.axis())]


@rule("Expand")
def expand(step: Step) -> list[int | None]:
    """1 in the target leaves an axis as it is, so that is what the batch gets."""
    step.only(0)
    target = step.numbers("shape", 1) or []
    at = step.axis() + len(step.result) - len(step.shape())
    place = at - len(step.result) + len(target)
    if step.result[at] != step.shape()[step.axis()]:
        raise Refused("it stretches the batch")
    if step.follows(1, place):
        return [at]
    if 0 <= place < len(target) and target[place] != 1:
        new = list(target)
        new[place] = 1
        step.constants[1] = np.array(new, np.int64)
    return [at]


@rule("Concat")
def concat(step: Step) -> list[int | None]:
    """Pieces side by side along another axis; a constant piece is repeated for each image."""
    rank = len(step.result)
    found = {step.axis(place) for place in step.carriers}
    axis = found.pop()
    if found or step.get("axis", 1) % rank == axis:
        raise Refused("it joins values along the batch")
    size = step.shape(step.carriers[0])[axis]
    for place in range(len(step.axes)):
        if step.axes[place] is None:
            if step.batch != 1 or step.shape(place)[axis] != size or not step.view.exact:
                raise Refused("it joins a constant of another batch")
            step.repeated[place] = axis
    return [axis]


@rule("Split")
def split(step: Step) -> list[int | None]:
    """Pieces along another axis."""
    axis = step.axis()
    if step.get("axis", 0) % len(step.shape()) == axis:
        raise Refused("it cuts the batch into pieces")
    return everywhere(step, axis)


@rule("Slice")
def cut(step: Step) -> list[int | None]:
    """A slice of the batch must be all of it; its end is then opened."""
    axis, size = step.axis(), step.shape()[step.axis()]
    starts, ends = step.numbers("starts", 1), step.numbers("ends", 2)
    if starts is None or ends is None:
        raise Refused("its bounds are not known")
    axes = step.numbers("axes", 3) or list(range(len(starts)))
    steps = step.numbers("steps", 4) or [1] * len(starts)
    for i, a in enumerate(axes):
        if a % len(step.shape()) != axis:
            continue
        if steps[i] != 1 or starts[i] not in (0, -size) or (ends[i] < size):
            raise Refused("it takes a part of the batch")
        if starts[i] != 0 or ends[i] < LAST:
            starts[i], ends[i] = 0, LAST
            if step.view.input(1) is None:
                step.attributes |= {"starts": starts, "ends": ends}
            else:
                step.constants |= {1: np.array(starts, np.int64), 2: np.array(ends, np.int64)}
    return [axis]


@rule("Gather")
def gather(step: Step) -> list[int | None]:
    """Positions of another axis, or a table that is looked up by what carries the batch."""
    along = step.get("axis", 0) % len(step.shape())
    if step.axes[0] is None:
        return [along + step.axis(1)]
    axis = step.axis()
    if len(step.carriers) > 1 or along == axis:
        raise Refused("it takes single images out of the batch")
    return [axis + len(step.shape(1)) - 1 if axis > along else axis]


@rule("GatherElements")
def gather_elements(step: Step) -> list[int | None]:
    """Positions along another axis, the same batch on both sides."""
    axis = step.axis()
    if step.axes[1] != axis or step.get("axis", 0) % len(step.shape()) == axis:
        raise Refused("it reads across the images of the batch")
    return [axis]


@rule("Pad")
def pad(step: Step) -> list[int | None]:
    """No padding of the batch."""
    rank = len(step.shape())
    pads = step.numbers("pads", 1)
    axes = step.numbers("axes", 3) or list(range(rank))
    if pads is None:
        raise Refused("its pads are not known")
    for i, a in enumerate(axes):
        if a % rank == step.axis() and (pads[i] or pads[i + len(axes)]):
            raise Refused("it pads the batch")
    return [step.axis()]


@rule("Tile")
def tile(step: Step) -> list[int | None]:
    """No repeating of the batch."""
    repeats = step.numbers("repeats", 1)
    if repeats is None or repeats[step.axis()] != 1:
        raise Refused("it repeats the batch")
    return [step.axis()]


@rule(*RESIZING)
def resize(step: Step) -> list[int | None]:
    """Scales leave the batch alone; sizes that name it get the true one."""
    axis = step.axis()
    if step.result[axis] != step.shape()[axis]:
        raise Refused("it resizes the batch")
    axes = step.view.attributes.get("axes")
    named = list(axes) if axes is not None else list(range(len(step.shape())))
    if step.view.op == "Resize" and step.opset > 10 and step.view.input(3) is not None and axis in named:
        if step.follows(3, axis):
            return [axis]
        if axis != 0 or axes is not None:
            raise Refused("its sizes name the batch on another axis than the first")
        step.sized[3] = 0
    return [axis]
