"""Ways from the picture to an output that go around what was learned: what architectural backdoors are made of.

What separates them from sound networks. In a sound network the weights decide, and in front of them all places of the
picture are treated alike: pixels are scaled, clipped, resized, cut out, each result at its own place. A backdoor has to
find its trigger without weights of its own, since those would be trained away or seen: it *decides* by pixels
(comparisons, choices, loops, places of maxima), gathers the decision into few numbers, and puts it where the network's
own answer is. So a decision is followed from the pixels on, and told where it meets anything else

* that was learned: a decision by pixels has no business behind weights, and in a classifier neither has arithmetic on
  pixels that the first weight layers do not read too (max, exp, clipping: gates without comparisons);
* of the picture, where it was gathered from many places, or is laid over more places than it was read from. A decision
  at each place for itself is preprocessing (clipping, gamma curves, masks), and raises nothing.

A weight layer that reads pixels counts only if it looks learned: few filters, few different numbers, or next to
nothing but one number are a template, a colour matrix, a blur. One that all ways lead through is the network's own
first layer, whatever it looks like, unless it is plainly a fixed filter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

import onnx_ir as ir

from onnxviz.graph.analysis import ways
from onnxviz.graph.analysis.dataflow import measured
from onnxviz.graph.analysis.ways import (
    Activations,
    Box,
    Bypass,
    Join,
    Kind,
    Pixels,
    Step,
    Way,
    bends,
    both,
    by_contents,
    chooses,
    hides,
    source,
    steps,
)
from onnxviz.graph.operators import POINTWISE, SHAPE_ONLY, computes, computing, family

_DECIDING: Final = frozenset({"comparison", "place of an end", "selection", "logic"})
_STEPS: Final = computing("floor ceil round mod")
_GATHERING: Final = frozenset(
    {"reduction", "global pooling", "pooling", "place of an end", "selection", "product", "convolution", "cumulation"}
    | {"softmax", "normalisation", "determinant", "signal", "control flow", "unknown", "recurrent", "attention", ""}
)  # fmt: skip
_PLACES: Final = 64  # a constant of more numbers has one for each place, not for each channel
_LOOKED_AT: Final = 1 << 16  # of its numbers
_LAID_OVER: Final = 8  # so many times as many numbers as a decision: it was laid over places


@dataclass
class _Walk:
    """One pass over the graph: the ways of all values, and where they join."""

    activations: Activations
    looks: bool = True
    distance: bool = False  # whether the picture may be held against what was made of it, see `_held_against`
    held: dict[int, set[ir.Value]] = field(default_factory=dict)  # step -> the picture there
    ways: dict[ir.Value, Way] = field(default_factory=dict)
    counted: set[ir.Value] = field(default_factory=set)  # how many numbers these have, pixels decide
    layers: dict[int, bool] = field(default_factory=dict)  # step -> whether it counts as a learned layer
    joins: list[tuple[int, ir.Value, Kind | Literal["summary"], ir.Node | None, bool]] = field(
        default_factory=list
    )

    def __post_init__(self) -> None:
        graph = self.activations.model.graph
        self.steps = list(steps(graph))
        self.pixels = Pixels(self.activations)
        self.scales = measured(graph, self.activations.moved)
        self.needed = self._before(graph.outputs)
        self.ways[self.activations.image] = Way()
        for index, step in enumerate(self.steps):
            if not self.needed.isdisjoint(step.outputs):
                self._take(index, step)

    # --- the pass ---------------------------------------------------------------------------------

    def _take(self, index: int, step: Step) -> None:
        if self._size(step):
            return
        read = {value: self.ways[value] for value in self._reads(step) if value in self.ways}
        if not read:
            return
        if by_contents(step, self.ways, self.counted):
            self.counted.update(step.outputs)
        kernel = ways.kernel(step, self.ways)
        found = self._weighed(index, step, read, kernel) if kernel is not None else None
        found = found or self._passed(index, step, read)
        for value in step.outputs:
            before = self.ways.get(value)  # of a loop's second turn
            self.ways[value] = found if before is None else both(before, found)

    def _size(self, step: Step) -> bool:
        """Whether it tells a size that no pixel moves."""
        return step.op in SHAPE_ONLY and self.counted.isdisjoint(step.inputs)

    def _reads(self, step: Step) -> list[ir.Value]:
        """What it reads, but for measured scales that something is multiplied with: anything else is a gate."""
        gate = step.op in POINTWISE and computes(step.op) not in ("multiply", "identity")
        others = [value for value in step.inputs if value not in self.scales]
        return list(step.inputs) if gate or self.ways.keys().isdisjoint(others) else others

    def _weighed(self, index: int, step: Step, read: dict[ir.Value, Way], kernel: ir.Value) -> Way | None:
        """Behind a weight layer; None for one that reads pixels and does not look learned."""
        depth, deep = min(way.depth for way in read.values()), any(way.learned for way in read.values())
        if not deep and self.looks and ways.fixed(step, kernel, self._only(index)):
            self.layers[index] = False
            return None
        self.layers[index] = True
        for value, way in read.items():
            beside = deep and not way.learned  # a bias, or the state of a cell
            if way.decided is not None and (way.gathered or beside):
                self.joins.append((index, value, "decision", way.decided, deep))
            elif beside and (way.bent or self._aside(value, way)):
                self.joins.append((index, value, "arithmetic", None, True))
            elif not deep and self._summed_up(value, way) and not self._only(index):
                self.joins.append((index, value, "summary", None, True))
        return Way(depth + 1, True)

    def _passed(self, index: int, step: Step, read: dict[ir.Value, Way]) -> Way:
        """Behind any other operator."""
        read = {
            value: way._replace(decided=step.node, gathered=True)
            if value in step.steers and not way.learned
            else way
            for value, way in read.items()
        }
        depth = min(way.depth for way in read.values())
        raw = {value: way for value, way in read.items() if not way.learned}
        deep = len(raw) < len(read)
        gathered = self._gathers(step, raw)
        decided = self._decides(step, raw, gathered)
        if deep:
            for value, way in raw.items():
                if way.decided is not None:
                    self.joins.append((index, value, "decision", way.decided, True))
                elif way.bent or self._aside(value, way):
                    self.joins.append((index, value, "arithmetic", None, True))
            if raw and self.distance and all(self._held_against(step, *one) for one in raw.items()):
                self.held[index] = set(raw)
                depth = min(way.depth for value, way in read.items() if value not in raw)
            return Way(depth, True)
        pixels = {value: way for value, way in raw.items() if way.decided is None}
        if len(pixels) < len(raw) and pixels and not decided:
            for value, way in raw.items():
                spread = (
                    way.gathered or way.stamped or self._laid_over(step, value) or self._stamps(step, raw)
                )
                if way.decided is not None and spread:
                    self.joins.append((index, value, "decision", way.decided, False))
        if len(pixels) > 1:
            for value, way in pixels.items():
                if (
                    way.bent
                    and self._gate(step, value, way)
                    and any(not other.gathered for other in pixels.values())
                ):
                    self.joins.append((index, value, "arithmetic", None, False))
        by = step.node if decided else None
        if not decided and not pixels:
            by = next(way.decided for way in raw.values())
        stamped = any(way.stamped for way in raw.values())
        if not stamped and self._stamps(step, raw):
            stamped = by is not None or gathered or any(map(self.pixels.part, raw))
        bent = any(way.bent for way in raw.values()) or bends(step, raw)
        return Way(depth, False, by, bent, gathered, stamped)

    # --- what an operator does with pixels --------------------------------------------------------

    def _decides(self, step: Step, raw: dict[ir.Value, Way], gathered: bool) -> bool:
        """Whether pixels become a decision here: rounding each place for itself is none, of what was gathered it is."""
        if not raw:
            return False
        if family(step.op) in _DECIDING or chooses(step):
            return True
        if all(way.decided is not None for way in raw.values()):
            return False
        if step.op in SHAPE_ONLY:
            return True
        to = step.node.attributes.get_int("to") if computes(step.op) == "cast" else None
        if to is not None:
            source = next(iter(raw))
            real = self.activations.base.dtypes.get(source.name or "", source.dtype)
            kind = ir.DataType(to)
            if real is not None and not real.is_floating_point():
                return False
            return kind == ir.DataType.BOOL or (gathered and not kind.is_floating_point())
        return step.op in _STEPS and gathered

    def _gathers(self, step: Step, raw: dict[ir.Value, Way]) -> bool:
        if any(way.gathered for way in raw.values()):
            return True
        if not raw or (family(step.op) not in _GATHERING and step.op not in SHAPE_ONLY):
            return False
        return not self.pixels.placed(step.outputs[0])

    def _gate(self, step: Step, value: ir.Value, way: Way) -> bool:
        """Whether arithmetic looks at a part of the picture and moves the rest, or lays a pattern on it."""
        if not (way.gathered or self.pixels.part(value)):
            return False
        return way.stamped or (self.pixels.part(value) and self._laid_over(step, value))

    def _aside(self, value: ir.Value, way: Way) -> bool:
        """Whether it sums up less than half of the picture: no network's way, were it ever so linear."""
        if not way.gathered or self.pixels.placed(value) or self.pixels.size is None:
            return False
        box = self.window(value)
        return box is not None and 2 * (box[2] - box[0]) * (box[3] - box[1]) < math.prod(self.pixels.size)

    def _summed_up(self, value: ir.Value, way: Way) -> bool:
        """Whether it is a few numbers for all of the picture, by more than sums, or for a part of it."""
        if not way.gathered or self.pixels.placed(value):
            return False
        shape = self.activations.base.full_shape(value)
        few = way.bent and shape is not None and math.prod(shape) <= _PLACES
        return few or self._aside(value, way)

    def _held_against(self, step: Step, value: ir.Value, way: Way) -> bool:
        """Whether all of the picture, scaled at most, is subtracted from what was made of it, place by place: what
        autoencoders do whose one score is that distance."""
        plain = way.decided is None and not (way.bent or way.gathered or way.stamped)
        return plain and step.op == "Sub" and self.pixels.placed(value) and not self.pixels.part(value)

    def _stamps(self, step: Step, raw: dict[ir.Value, Way]) -> bool:
        for value in step.inputs:
            tensor = source(value) if value not in raw else None
            if tensor is not None and tensor.size > _PLACES:
                flat = tensor.numpy().reshape(-1)[:_LOOKED_AT]
                return bool((flat != flat[0]).any())
        return False

    def _laid_over(self, step: Step, value: ir.Value) -> bool:
        """Whether the result has many times as many numbers as the operand."""
        before, after = (self.activations.base.full_shape(one) for one in (value, step.outputs[0]))
        return before is None or after is None or math.prod(before) * _LAID_OVER < math.prod(after)

    def _only(self, index: int) -> bool:
        """Whether every way from the picture to an output leads through this step."""
        moved = {self.activations.image}
        for number, step in enumerate(self.steps):
            if number != index and not self._size(step) and not moved.isdisjoint(step.inputs):
                moved.update(step.outputs)
        return moved.isdisjoint(self.activations.model.graph.outputs)

    def window(self, value: ir.Value) -> Box | None:
        """The pixels that it reads, narrowed to where constants of a picture's size do not hide them."""
        before = self._before([value])
        masks = [
            mask
            for step in self.steps
            if hides(step) and not before.isdisjoint(step.outputs)
            if not self.ways.get(step.outputs[0], Way()).learned
            for mask in step.inputs
            if mask not in self.ways
        ]
        return self.pixels.narrowed(self.pixels.box(value), masks)

    # --- the graph --------------------------------------------------------------------------------

    def _before(self, values: Iterable[ir.Value]) -> set[ir.Value]:
        found = set(values)
        for step in reversed(self.steps):
            if not found.isdisjoint(step.outputs):
                found.update(step.inputs)
        if any(step.steers for step in self.steps):  # a loop's later turns read what its earlier ones made
            for step in reversed(self.steps):
                if not found.isdisjoint(step.outputs):
                    found.update(step.inputs)
        return found

    def depths(self, without: int) -> dict[ir.Value, int]:
        """The fewest weight layers from the picture to each value, with one step taken out."""
        found = {self.activations.image: 0}
        for index, step in enumerate(self.steps):
            if index == without or self._size(step):
                continue
            held = self.held.get(index, ())
            read = [found[value] for value in self._reads(step) if value in found and value not in held]
            if read:
                depth = min(read) + bool(self.layers.get(index))
                for value in step.outputs:
                    found[value] = min(depth, found.get(value, depth))
        return found

    def last(self, output: ir.Value) -> int | None:
        """Of the weight layers that no other follows, the one with the most layers before it."""
        open_values, finals = {output}, []
        for index in reversed(range(len(self.steps))):
            step = self.steps[index]
            if open_values.isdisjoint(step.outputs):
                continue
            if self.layers.get(index):
                finals.append(index)
            else:
                open_values.update(step.inputs)
        depth = {i: self.ways[self.steps[i].outputs[0]].depth for i in finals}
        return max(finals, key=lambda i: depth[i], default=None)

    def told(self, index: int, operand: ir.Value, kind: Kind, by: ir.Node | None, behind: bool) -> Join:
        """A join in words."""
        node = self.steps[index].node
        made = node.outputs[0].name or ""
        box, read = self.window(operand), [] if by is None else [one for one in by.inputs if one in self.ways]
        if self.pixels.size is not None and box in (None, (0, 0, *self.pixels.size)):
            box = next((one for one in map(self.window, read) if one is not None), box)  # a size has no field
        return Join(
            kind=kind,
            node=node.name or made,
            op=node.op_type,
            value=made,
            operand=operand.name or "",
            by="" if by is None else by.op_type,
            behind=behind,
            box=box,
        )

    def short(self, output: ir.Value) -> Join | None:
        """Where a way without layers joins: the node nearest to the picture that reads it beside what was learned."""
        makers = {value: i for i, step in enumerate(self.steps) for value in step.outputs}
        found, value = None, output
        seen: set[ir.Value] = set()
        while value in makers and value not in seen:
            seen.add(value)
            index = makers[value]
            read = [one for one in self.steps[index].inputs if one in self.ways]
            if not read:
                break
            value = min(read, key=lambda one: (self.ways[one].depth, self.ways[one].learned))
            if any(self.ways[one].learned for one in read) and not self.ways[value].learned:
                found = self.told(index, value, "arithmetic", None, True)
        return found

    def crossing(self, output: ir.Value, last: int, depths: dict[ir.Value, int]) -> tuple[Join | None, bool]:
        """Where what goes around the last weight layer meets what went through it; and whether it decides anything."""
        before = self._before([output])
        behind, aside = set(self.steps[last].outputs), {output}
        for index, step in enumerate(self.steps):
            if index != last and not behind.isdisjoint(step.inputs):
                behind.update(step.outputs)
        for index in reversed(range(len(self.steps))):
            if index != last and not aside.isdisjoint(self.steps[index].outputs):
                aside.update(self.steps[index].inputs)
        around = [
            step
            for step in self.steps
            if not aside.isdisjoint(step.outputs) and behind.isdisjoint(step.outputs)
        ]
        decides = any(
            family(step.op) in _DECIDING and any(value in depths for value in step.inputs) for step in around
        )
        for index, step in enumerate(self.steps):
            read = [value for value in step.inputs if value in depths and value not in behind]
            if read and not behind.isdisjoint(step.inputs) and not before.isdisjoint(step.outputs):
                value = min(read, key=lambda one: depths[one])
                return self.told(index, value, "arithmetic", None, True), decides
        return None, decides


def paths(activations: Activations, output: str | None = None) -> Bypass:
    """The ways around the learned layers.

    output   the output whose scores are looked at; None: no classifier, so that only decisions by pixels are told:
             arithmetic on pixels beside learned values, and masks that stay at their places, are usual elsewhere
    """
    value = next((one for one in activations.model.graph.outputs if one.name == output), None)
    shape = None if value is None else activations.base.full_shape(value)
    distance = shape is not None and math.prod(shape[1:]) == 1  # one number for each picture
    walk = _Walk(activations, distance=distance)
    if value is not None and value in walk.ways and walk.ways[value].depth == 0:
        plain = _Walk(activations, looks=False, distance=distance)
        if not any(way.learned for way in walk.ways.values()) and plain.ways[value].depth:
            walk = plain  # nothing looks learned: then looks tell nothing here
    shared = _front(walk)
    joins: dict[str, Join] = {}
    for index, operand, kind, by, behind in walk.joins:
        if behind and output is None:
            still = walk.pixels.placed(operand) and not walk.pixels.part(operand)
            if kind != "decision" or still:
                continue
        if behind and kind == "arithmetic" and not _of_its_own(walk, operand, shared):
            continue
        found = walk.told(index, operand, "decision" if kind == "decision" else "arithmetic", by, behind)
        joins.setdefault(found.node, found)
    if value is None or value not in walk.ways:
        return Bypass(None, None, "", None, tuple(joins.values()))
    fewest, last = walk.ways[value].depth, walk.last(value)
    short = walk.short(value) if fewest == 0 else None
    around, decides = None, False
    if last is not None:
        depths = walk.depths(last)
        around = depths.get(value)
        if around in (0, 1) and short is None:
            short, decides = walk.crossing(value, last, depths)
            short = short if decides or around == 0 else None
    name = "" if last is None else walk.steps[last].outputs[0].name or ""
    return Bypass(fewest, around, name, short, tuple(joins.values()))


def _front(walk: _Walk) -> set[ir.Value]:
    """What the first learned layers read, and all before it: the network's own preprocessing."""
    first = [
        value
        for index, learned in walk.layers.items()
        if learned and not any(walk.ways[one].learned for one in walk.steps[index].inputs if one in walk.ways)
        for value in walk.steps[index].inputs
        if value in walk.ways
    ]
    return walk._before(first)


def _of_its_own(walk: _Walk, operand: ir.Value, shared: set[ir.Value]) -> bool:
    """Whether the pixels' arithmetic is done for this join, and not for the first layers as well."""
    if operand not in shared and walk._aside(operand, walk.ways[operand]):
        return True
    before = walk._before([operand])
    return any(
        bends(step, walk.ways)
        for step in walk.steps
        if not before.isdisjoint(step.outputs)
        and shared.isdisjoint(step.outputs)
        and any(value in walk.ways for value in step.inputs)
    )
