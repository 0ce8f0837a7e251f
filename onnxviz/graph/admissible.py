"""Which picture sizes a network can take up to some of its layers, by inference of shapes: nothing is run.

A pyramid adds maps of two strides, a Focus layer lays slices of odd and even rows side by side, a recogniser of text
squeezes a height of one: each works at some sizes only, and none says so in the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import dependent, image_input
from onnxviz.graph.analysis.probe import Facts, Prober
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.operators import POINTWISE, POOLS, WEIGHTED, computing
from onnxviz.graph.surgery import cut, fits

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
        where = self._prober.layout
        shape = self._image.shape or ()
        self._own = tuple(
            size if axis is not None and isinstance(size := shape[axis], int) else None
            for axis in (where.y, where.x)
        )

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
        ):  # made for one size: not at another one of its height, but at any that its layers take
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
            outputs = [
                value
                for value in node.outputs
                if value in moved and (value.uses() or value.is_graph_output())
            ]
            for value in outputs:
                before, after = self._base.full_shape(value), facts.full_shape(value)
                shape = facts.shape(value) or ()
                if any(size is not None and size <= 0 for size in shape):
                    return Misfit(f"nothing of it is left at {value.name!r}", True)
                told = before is not None or _told_by_shapes(node, facts)
                if told and (after is None or len(after) != len(before or after) or not _stands(node, facts)):
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
    return twin.op in _BY_SHAPE and all(
        facts.full_shape(value) is not None for value in twin.inputs if value is not None
    )


def _stands(node: ir.Node, facts: Facts) -> bool:
    twin = view(node)
    shapes = [facts.full_shape(value) for value in twin.inputs if value is not None]
    known = [shape for shape in shapes if shape is not None]
    result = facts.full_shape(node.outputs[0])
    return len(known) < len(shapes) or result is None or fits(twin.op, known, result, twin.attributes)


def _rounded(side: int, step: int) -> int:
    return max(step, round(side / step) * step)
