"""Which picture sizes a network takes: a model freed of the file's own size, and the sizes at which everything fits.

A pyramid adds maps of two strides, a Focus layer lays slices of odd and even rows side by side, a recogniser of text
squeezes a height of one: each works at some sizes only, and none says so in the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis.dataflow import FLOATS, dependent, duplicate, image_input, reads
from onnxviz.graph.analysis.probe import Facts, Prober, layout
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.naming import own_length
from onnxviz.graph.operators import BY_STATISTICS, POINTWISE, POOLS, WEIGHTED, computes, computing, operator
from onnxviz.graph.surgery import add_outputs, cut, prune_inputs

_FURTHER = (96, 160)
"""By how many pixels the trial size of `free_size` is larger: different both ways, and multiples of 32."""


def free_size(model: ir.Model, input: str | None = None) -> tuple[ir.Model, str | None]:
    """A copy that takes images of any height and width, up to the first layer that forbids it.

    A fully connected layer, a Reshape or an addition that holds the image size in its weights or constants forbids it;
    such layers and all behind them are cut off, and the values that fed them become outputs.

    returns  the copy, and the name of the first value that could not be kept; None where all could
    raises   ModelUnsuitable where not even the first layer allows another size
    """
    copy = duplicate(model)
    image = image_input(copy, input)
    where = layout(image)
    if image.shape is None or where.y is None or where.x is None:
        if image.shape is not None:
            raise ModelUnsuitable(
                f"input {image.name!r} of shape {list(image.shape)} is no image: it has no size to free"
            )
        return copy, None
    prober = Prober(copy, image)
    axes = [axis for axis in (where.y, where.x) if not prober.is_open(axis)]
    if not axes:
        return copy, None
    base = prober.facts()
    height, width = base.size or (0, 0)
    further = tuple(by if axis in axes else 0 for axis, by in zip((where.y, where.x), _FURTHER, strict=True))
    larger = prober.facts(size=(height + further[0], width + further[1]))
    outputs, first = _free_part(copy.graph, image, base, larger)
    if not outputs:
        raise ModelUnsuitable(
            f"no layer of this model takes images of another size: {first!r}, the first, forbids it"
        )
    names = {where.y: own_length(copy.graph, "H"), where.x: own_length(copy.graph, "W")}
    image.shape = ir.Shape([names[i] if i in axes else d for i, d in enumerate(image.shape)])
    for node in copy.graph:  # what the file declared was for its own size
        for value in node.outputs:
            value.shape = None
    copy.graph.outputs.clear()
    add_outputs(copy, outputs)
    prune_inputs(copy)
    return copy, first


def _free_part(
    graph: ir.Graph, image: ir.Value, base: Facts, larger: Facts
) -> tuple[list[ir.Value], str | None]:
    """The outputs of the part that stands the larger size, and the first value that does not."""
    moved = dependent(graph, image)
    bad: set[ir.Value] = set()
    frontier: dict[ir.Value, None] = {}
    first: str | None = None
    for node in graph:
        if moved.isdisjoint(node.outputs):
            continue
        read = reads(node)
        if any(value in bad for value in read) or not _stands(node, base, larger):
            frontier |= {v: None for v in read if v in moved and v not in bad and v is not image}
            bad.update(node.outputs)
            first = first or node.outputs[0].name
    kept = [value for value in graph.outputs if value not in bad]
    fed = [value for value in frontier if base.dtypes.get(value.name or "", value.dtype) in FLOATS]
    return list(dict.fromkeys([*kept, *fed])), first


def _stands(node: ir.Node, base: Facts, larger: Facts) -> bool:
    """True where the node gives, for a larger image, what the same layer gives for this one."""
    for value in node.outputs:
        if not value.name or not (value.uses() or value.is_graph_output()):
            continue
        before, after = base.full_shape(value), larger.full_shape(value)
        if before is None or after is None or len(before) != len(after):
            return False
        if before and before[0] == base.batch and after[0] != before[0]:
            return False  # pixels have become images
    return _fit(node, larger) is True


def _fit(node: ir.Node, facts: Facts) -> bool | None:
    """Whether the node's shapes go together; None where not all are known."""
    twin = view(node)
    shapes = [facts.full_shape(value) for value in twin.inputs if value is not None]
    known = [shape for shape in shapes if shape is not None]
    result = facts.full_shape(node.outputs[0])
    if len(known) < len(shapes) or result is None:
        return None
    return fits(twin.op, known, result, twin.attributes)


def fits(
    op: str, shapes: list[tuple[int, ...]], result: tuple[int, ...], attributes: dict[str, object]
) -> bool:
    """The checks that ONNX's inference leaves out."""
    first = shapes[0]
    if op in POINTWISE:
        try:
            return tuple(np.broadcast_shapes(*shapes)) == result
        except ValueError:
            return False
    if operator(op).sees == "reshape":
        return math.prod(first) == math.prod(result)
    if computes(op) == "gemm":
        inner = first[0 if attributes.get("transA") else 1], shapes[1][1 if attributes.get("transB") else 0]
        return inner[0] == inner[1]
    if computes(op) == "matmul" and not attributes and len(first) > 0:
        return first[-1] == shapes[1][-2 if len(shapes[1]) > 1 else 0]
    if computes(op) == "conv":
        group = attributes.get("group", 1)
        return isinstance(group, int) and first[1] == shapes[1][1] * group
    if op in BY_STATISTICS or computes(op) in ("conv_transpose", "instance_norm", "group_norm"):
        return first[1] == shapes[1][0]
    if computes(op) == "layer_norm":
        return len(shapes) < 2 or first[-len(shapes[1]) :] == shapes[1]
    if computes(op) == "concatenate":
        axis = attributes.get("axis", 1)
        at = int(axis) % len(result) if isinstance(axis, int) else 0
        return all(s[:at] == first[:at] and s[at + 1 :] == first[at + 1 :] for s in shapes)
    return True


Size = tuple[int, int]
_BY_SHAPE = POINTWISE | WEIGHTED | POOLS | computing("concatenate flatten squeeze transpose expand_dims")
_STEPS = (1, 2, 4, 8, 16, 32, 64, 128)  # total strides of networks, mostly
_FIXED = (32, 48, 64, 96, 128, 224)  # heights (or widths) that networks are made for


class Misfit(NamedTuple):
    """Why a size cannot be taken. `empty`: nothing of the picture is left there; else sizes do not match."""

    text: str
    empty: bool


class Admissible:
    """The sizes at which the values called `names` can be computed.

    input   the image input's name
    """

    def __init__(self, model: ir.Model, input: str, names: Sequence[str]) -> None:
        self._model = cut(model, [name for name in names if name != input])
        self._image = image_input(self._model, input)
        self._prober = Prober(self._model, self._image)
        self._base = self._prober.facts()
        self._known: dict[Size, Misfit | None] = {}
        shape = self._image.shape or ()
        sides = (
            shape[axis] if axis is not None else None
            for axis in (self._prober.layout.y, self._prober.layout.x)
        )
        self._own = tuple(side if isinstance(side, int) else None for side in sides)

    def misfit(self, size: Size) -> Misfit | None:
        """Why pictures of this (height, width) cannot go through; None where they can."""
        if size not in self._known:
            self._known[size] = self._look(self._prober.facts(size=size))
        return self._known[size]

    def nearest(self, size: Size) -> Size | None:
        """The size itself, or one near it of about its aspect, that can go through; None where none is found."""
        return next((one for one in self._candidates(*size) if self.misfit(one) is None), None)

    def _candidates(self, height: int, width: int) -> Iterator[Size]:
        for step in _STEPS:
            yield _rounded(height, step), _rounded(width, step)
        if (
            None not in self._own
        ):  # made for one size: at no other one of its height, but at any that its layers take
            return
        for side in dict.fromkeys((*(own for own in self._own if own is not None), *_FIXED)):
            for step in (4, 32):
                if self._own[1] is None:
                    yield side, _rounded(round(width * side / height), step)
                if self._own[0] is None:
                    yield _rounded(round(height * side / width), step), side

    def _look(self, facts: Facts) -> Misfit | None:
        moved = dependent(self._model.graph, self._image)
        for node in self._model.graph:
            for value in node.outputs:
                if value not in moved or not (value.uses() or value.is_graph_output()):
                    continue
                before, after = self._base.full_shape(value), facts.full_shape(value)
                shape = facts.shape(value) or ()
                if any(size is not None and size <= 0 for size in shape):
                    return Misfit(f"nothing of it is left at {value.name!r}", True)
                told = before is not None or _told_by_shapes(node, facts)
                fits = after is not None and len(after) == len(before or after)
                if told and (not fits or _fit(node, facts) is False):
                    return Misfit(unmatched(node, [facts.full_shape(v) for v in view(node).inputs]), False)
        return None


def unmatched(node: ir.Node, shapes: Sequence[Sequence[int] | None]) -> str:
    """Words for a node whose inputs, of these shapes, do not go together."""
    told = " and ".join("×".join(map(str, shape)) for shape in shapes if shape is not None and len(shape) > 1)
    name = node.name or next((value.name for value in node.outputs if value.name), "")
    return f"sizes do not match at node {name!r} ({node.op_type}{f' of {told}' if told else ''})"


def _told_by_shapes(node: ir.Node, facts: Facts) -> bool:
    """Whether the result's shape follows from shapes that are all known, so that a missing one means a mismatch."""
    twin = view(node)
    known = (facts.full_shape(value) is not None for value in twin.inputs if value is not None)
    return twin.op in _BY_SHAPE and all(known)


def _rounded(side: int, step: int) -> int:
    return max(step, round(side / step) * step)
