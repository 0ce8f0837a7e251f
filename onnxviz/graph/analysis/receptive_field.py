"""Receptive fields from the graph's own attributes: which pixels each unit of each value sees.

`receptive_rules.py` says for each operator which units of its inputs a unit reads, `units.py` carries that from the
image to every value, exactly. Places are followed without clipping to the maps' borders, so padding counts
as places outside the image. Nothing is left out (an operator without a rule reads all of its inputs) but the scales
that a dynamically quantised file measures: they count as constants here, as in gradients and as in a file that has them
as constants, since otherwise every unit would see the whole image, by a rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import onnx_ir as ir

from onnxviz.graph.analysis import units as to
from onnxviz.graph.analysis.dataflow import dependent, measured, reads
from onnxviz.graph.analysis.intervals import Intervals
from onnxviz.graph.analysis.probe import Facts, Layout
from onnxviz.graph.analysis.receptive_rules import RULES
from onnxviz.graph.analysis.twins import channels_first, channels_last, view
from onnxviz.graph.analysis.units import Call, Units, Unplaced, X, Y, context, merge


@dataclass(frozen=True, eq=False)
class Field:
    """What unit (y, x) of a value sees. `axes`: the value's axis for y and for x, None where it has none."""

    full: tuple[Intervals, Intervals]
    local: tuple[Intervals, Intervals]
    axes: tuple[int | None, int | None]

    @property
    def placed(self) -> tuple[bool, bool]:
        """Whether the value has an axis for y, for x."""
        return self.axes[0] is not None, self.axes[1] is not None

    def same(self, other: Field) -> bool:
        """True where both tell the same of every unit."""
        pairs = zip((*self.full, *self.local), (*other.full, *other.local), strict=True)
        return self.axes == other.axes and all(one.same(two) for one, two in pairs)


def fields(graph: ir.Graph, image: ir.Value, layout: Layout, facts: Facts) -> dict[str, Field]:
    """The field of each value that depends on the image; values of unknown shape are left out."""
    whole = facts.full_shape(image)
    if whole is None:
        return {}
    seen: dict[ir.Value, Units] = {image: to.image(whole, layout.y, layout.x)}
    opset = graph.opset_imports.get("", 1)
    moved = dependent(graph, image)
    moved -= measured(graph, moved)
    for node in graph:
        if any(value in moved for value in node.outputs):
            for value, found in zip(node.outputs, _visit(node, seen, moved, facts, opset), strict=True):
                if found is not None and value in moved:
                    seen[value] = found
    return {value.name: _placed(found) for value, found in seen.items() if value.name}


def _visit(
    node: ir.Node, seen: dict[ir.Value, Units], moved: set[ir.Value], facts: Facts, opset: int
) -> list[Units | None]:
    read = [value for value in reads(node) if value in moved]
    results = [facts.full_shape(value) for value in node.outputs]
    if any(value not in seen for value in read):
        return [None] * len(results)
    twin = view(node)
    call = Call(
        twin,
        [None if v is None else seen.get(v) for v in twin.inputs],
        [facts.full_shape(v) for v in twin.inputs],
        results,
        lambda place: facts.value(twin.input(place)),
        opset,
    )
    parts = [seen[value] for value in read]
    aside = [seen[value] for value in read if value not in twin.inputs]
    found = [
        None if shape is None else by_rule(replace(call, result=i)) or everything(parts, shape)
        for i, shape in enumerate(results)
    ]
    return [None if one is None else _beside(one, aside) for one in found]


def _beside(found: Units, aside: Sequence[Units]) -> Units:
    """With inputs that the view leaves out: a fused summand of the same shape, a measured scale."""
    for other in aside:
        found = merge(found, other, found.shape) if other.shape == found.shape else context(found, other)
    return found


def by_rule(call: Call) -> Units | None:
    """What the units of a result see; None where no rule tells, or it lacks a shape or a constant."""
    rule = RULES.get(call.view.op) if call.view.standard else None
    if rule is None:
        return None
    try:
        turned = call.view.channels_last
        found = to.permute(rule(_turned(call)), channels_last(len(call.shape))) if turned else rule(call)
    except (Unplaced, IndexError, ValueError):
        return None
    return found if found.shape == call.shape else None


def _turned(call: Call) -> Call:
    """A channels-last call with its data and results in channels-first order."""
    front = channels_first(len(call.input()))
    operands = [r if r is None or i else to.permute(r, front) for i, r in enumerate(call.operands)]
    shapes = [s if s is None or i else tuple(s[a] for a in front) for i, s in enumerate(call.shapes)]
    results = [None if s is None else tuple(s[a] for a in front) for s in call.results]
    return replace(call, operands=operands, shapes=shapes, results=results)


def everything(parts: Sequence[Units], shape: tuple[int, ...]) -> Units:
    """Every unit of a value of this shape reads all units of all parts."""
    mixed = [to.mix(part, range(len(part.axes))) for part in parts]
    axes = to.image(shape, None, None).axes
    found = replace(mixed[0], axes=axes)
    for part in mixed[1:]:
        found = merge(found, replace(part, axes=axes), shape)
    return found


def _placed(units: Units) -> Field:
    """The spans by the index along the axes that tell places apart; digits elsewhere are read as a whole."""
    kept: dict[int, int] = {}
    for d in (Y, X):
        sizes = {
            i: math.prod(atom.size for atom in axis if atom.direction == d)
            for i, axis in enumerate(units.axes)
            if {atom.direction for atom in axis} - {None} == {d}
        }
        if sizes:
            kept[d] = max(sizes, key=lambda i: sizes[i])
    units = to.mix(units, [i for i in range(len(units.axes)) if i not in kept.values()])
    for d, axis in list(kept.items()):
        pure = to.purify(units, axis)
        if pure is None:
            units = to.mix(units, [axis])
            del kept[d]
        else:
            units = pure
    return Field(units.full, units.local, (kept.get(Y), kept.get(X)))
