"""Two graphs of one network in one: where they can be cut and joined, and how the joint graph is put together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import onnx
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis.dataflow import (
    by_name,
    dependent,
    image_input,
    reads,
    subgraphs,
    weight,
)
from onnxviz.graph.operators import BY_STATISTICS, MOVING, computes, computing, operator
from onnxviz.graph.quantisers import Quantiser, of_node
from onnxviz.graph.tape import Tape

Known = dict[ir.Value, ir.Value]
"""Values of a model and the values of the joint graph that stand for them."""
Instead = Callable[[ir.Node, Known], bool]
"""Writes a node's results in its own way and says so by True; False: the node is copied."""


class Joint:
    """One graph of the operators of several models, which need not agree in names, opsets or weights.

        joint = Joint(a, b)
        known = {a_input: joint.tape.input(...)}
        joint.put([a_value], known)        copies what a_value needs behind what is known already

    `known` says which value of a model is which of the joint graph; who hands in a value under another's name has put
    it in its place. Weights are shared with the models, and these are never changed.

    models   in one opset where they share operators (graph/lift.py); functions inlined, nodes in order
    """

    def __init__(self, *models: ir.Model) -> None:
        opsets: dict[str, int] = {}
        for model in models:
            for domain, version in model.opset_imports.items():
                opsets[domain] = max(version, opsets.get(domain, 0))
        graph = ir.Graph([], [], nodes=[], opset_imports=opsets, name="joint")
        self.model = ir.Model(graph, ir_version=max(model.ir_version or 0 for model in models))
        self.tape = Tape(graph, stem="joint")
        self._places = {node: place for model in models for place, node in enumerate(model.graph)}
        self._weights: Known = {}

    def put(self, wanted: Sequence[ir.Value], known: Known, instead: Instead | None = None) -> list[ir.Value]:
        """Copy what these values of a model need and the graph has not; the values that stand for them.

        known    gets what is copied
        instead  may write a node in another way
        """
        for node in sorted(behind(wanted, known), key=self._places.__getitem__):
            if instead is None or not instead(node, known):
                self.copy(node, known)
        return [self.value(value, known) for value in wanted]

    def value(self, value: ir.Value, known: Known) -> ir.Value:
        """What stands for this value of a model: known, or a weight."""
        if value in known:
            return known[value]
        if value not in self._weights:
            tensor = value.const_value
            if tensor is None:
                raise ModelUnsuitable(
                    f"the model needs its input {value.name!r} too, and only pictures are given"
                )
            name = self.tape.fresh(value.name or "weight")
            self._weights[value] = weight(self.model.graph, tensor, name)
        return self._weights[value]

    def copy(
        self,
        node: ir.Node,
        known: Known,
        like: ir.Node | None = None,
        inputs: Sequence[ir.Value | None] | None = None,
    ) -> None:
        """Write a node.

        like, inputs   another node that computes its results, and what of the models that reads; None: as it is
        """
        like, read = like or node, node.inputs if inputs is None else inputs
        made = ir.Node(
            like.domain,
            like.op_type,
            [None if value is None else self.value(value, known) for value in read],
            list(self._attributes(like, known)),
            overload=like.overload,
            num_outputs=len(node.outputs),
            name=self.tape.fresh(node.name or node.op_type),
        )
        for old, new in zip(node.outputs, made.outputs, strict=True):
            if old.name:  # an output without a name is left out
                new.name = self.tape.fresh(old.name)
            known.setdefault(old, new)
        self.model.graph.append(made)

    def _attributes(self, node: ir.Node, known: Known) -> Iterator[ir.Attr]:
        outer = {value: self.value(value, known) for value in reads(node)} if subgraphs(node) else {}
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield ir.AttrGraph(attribute.name, _body(attribute.as_graph(), outer))
            elif attribute.type == ir.AttributeType.GRAPHS:
                yield ir.AttrGraphs(attribute.name, [_body(graph, outer) for graph in attribute.as_graphs()])
            else:
                yield attribute


def behind(wanted: Iterable[ir.Value], known: Mapping[ir.Value, object]) -> set[ir.Node]:
    """The nodes that these values need behind what is known."""
    found: set[ir.Node] = set()
    todo = list(wanted)
    while todo:
        value = todo.pop()
        node = value.producer()
        if node is None or node in found or value in known:
            continue
        found.add(node)
        todo += reads(node)
    return found


def _body(graph: ir.Graph, outer: Mapping[ir.Value, ir.Value]) -> ir.Graph:
    """A copy of a body that reads other values from outside."""
    copy = graph.clone(allow_outer_scope_values=True)
    _rewire(copy, outer)
    return copy


def _rewire(graph: ir.Graph, outer: Mapping[ir.Value, ir.Value]) -> None:
    for node in graph:
        for place, value in enumerate(node.inputs):
            if value is not None and value in outer:
                node.replace_input_with(place, outer[value])
        for body in subgraphs(node):
            _rewire(body, outer)
    for place, value in enumerate(graph.outputs):
        if value is not None and value in outer:
            graph.outputs[place] = outer[value]


# --- seams: values that mean the same, and what stands between them -------------------------------


MOVES: Final = MOVING | computing("max_pool")
_QUANTISERS: Final = computing("quantize dequantize")
# What an operator does by its text, at each place, where it states no such attribute.
_UNSTATED: Final = {"dilations": 1, "strides": 1, "pads": 0, "output_padding": 0}


class Seam(NamedTuple):
    """A value of A and the value of B that means the same, by their names.

    axes   B's axes in A's order; None: the same layout
    """

    a: str
    b: str
    axes: tuple[int, ...] | None = None


@dataclass(eq=False)
class Cut:
    """A seam where the graphs are really cut.

    x, y     the value of A and that of B
    from_a   the nearest cuts that x is computed from in A,
    from_b   and y in B
    alike    whether both files compute it in the same way, with the same weights, from these; or only move what B holds
             in the same codes already
    gain     what A's value is multiplied by to be B's, in A's layout; None: nothing
    """

    x: ir.Value
    y: ir.Value
    axes: tuple[int, ...] | None
    from_a: list[Cut] = field(default_factory=list)
    from_b: list[Cut] = field(default_factory=list)
    alike: bool = False
    gain: np.ndarray | None = None

    @property
    def name(self) -> str:
        """That of A's value."""
        return self.x.name or ""


class Side:
    """One of the two models, as it is read here.

    image    the image input
    moved    what depends on it
    values   by name
    places   of the values in the order of computation
    """

    def __init__(self, model: ir.Model, image: str | None) -> None:
        self.model = model
        self.image = image_input(model, image)
        self.moved = dependent(model.graph, self.image)
        self.values = by_name(model.graph)
        self.places = dict.fromkeys(model.graph.inputs, 0)
        for place, node in enumerate(model.graph, 1):
            self.places |= dict.fromkeys(node.outputs, place)


def cuts(a: Side, b: Side, seams: Iterable[Seam]) -> list[Cut]:
    """The seams that the graphs are cut at, in A's order.

    A convolution and the activation behind it are cut behind the latter. Where B's picture goes through a quantiser,
    the cut is behind that.
    """
    listed = list(seams)
    taken = {seam.b for seam in listed}
    by_x: dict[ir.Value, Cut] = {}
    by_y: dict[ir.Value, Cut] = {}
    for seam in listed:
        x, y = a.values.get(seam.a), b.values.get(seam.b)
        if x is None or y is None or x not in a.moved or y not in b.moved:
            continue
        real = _held(y) if y is b.image else y
        y = y if real.name in taken else real
        if x not in by_x and y not in by_y:
            by_x[x] = by_y[y] = Cut(x, y, seam.axes)
    for cut in [cut for cut in by_x.values() if _inner(cut, by_x)]:
        del by_x[cut.x], by_y[cut.y]
    for cut in by_x.values():
        # Only such as come before in the other file, too: no graph may go round in circles.
        in_a = {one for one in by_x.values() if a.places[one.x] < a.places[cut.x]}
        in_b = {one for one in by_x.values() if b.places[one.y] < b.places[cut.y]}
        cut.from_a, cut.from_b = _nearest(cut.x, by_x, in_b), _nearest(cut.y, by_y, in_a)
        cut.alike = _alike(a, b, cut, by_x) or handed_on(a, b, cut)
    return sorted(by_x.values(), key=lambda cut: a.places[cut.x])


def between(side: Side, value: ir.Value, ends: Iterable[ir.Value]) -> list[ir.Node]:
    """A model's operators between these ends and a value, in order; none that prepare weights."""
    found = behind([value], dict.fromkeys([*ends, side.image]))
    moved = [node for node in found if not side.moved.isdisjoint(node.outputs)]
    return sorted(moved, key=lambda node: side.places[node.outputs[0]])


def activations(value: ir.Value, ends: set[ir.Value]) -> list[ir.Node]:
    """The activations that a value comes out of behind these ends, the last one first, quantisers left out."""
    found: list[ir.Node] = []
    at: ir.Value | None = value
    while at is not None and (at is value or at not in ends):
        node = at.producer()
        if node is None or not (_activates(node) or node.op_type in _QUANTISERS):
            break
        if _activates(node):
            found.append(node)
        at = node.inputs[0]
    return found


def _activates(node: ir.Node) -> bool:
    return operator(node.op_type).family == "activation" and node.domain in ("", "ai.onnx")


def _held(value: ir.Value) -> ir.Value:
    """What a value becomes behind a quantiser that is all that reads it."""
    found = value
    for word in ("quantize", "dequantize"):
        readers = list(found.uses())
        if len(readers) != 1 or readers[0][1] != 0 or computes(readers[0][0].op_type) != word:
            return value
        found = readers[0][0].outputs[0]
    return found


def _inner(cut: Cut, by_x: Mapping[ir.Value, Cut]) -> bool:
    """Whether it is one layer with the activation or normalisation that alone reads it: B keeps it as it comes."""
    made = cut.y.producer()
    readers = list(cut.x.uses())
    if made is None or computes(made.op_type) == "dequantize" or len(readers) != 1 or cut.x.is_graph_output():
        return False
    node, place = readers[0]
    joins = place == 0 and (_activates(node) or node.op_type in BY_STATISTICS)
    return joins and node.outputs[0] in by_x


def _nearest(value: ir.Value, known: Mapping[ir.Value, Cut], before: set[Cut]) -> list[Cut]:
    """The cuts that a value is computed from with no other between."""
    found: dict[Cut, None] = {}
    seen: set[ir.Value] = set()
    todo = [value]
    while todo:
        at = todo.pop()
        other = known.get(at)
        if other is not None and at is not value and other in before:
            found[other] = None
            continue
        node = at.producer()
        if node is not None and at not in seen:
            seen.add(at)
            todo += reads(node)
    return list(found)


def handed_on(a: Side, b: Side, cut: Cut, moves: frozenset[str] = MOVES) -> bool:
    """Whether both files only hand one value on to this, by such operators, and B holds it in the same codes here and
    there: of what is moved its quantiser finds nothing to round or cut off that the one before has left."""
    if len(cut.from_b) != 1 or cut.from_a != cut.from_b or cut.axes != cut.from_b[0].axes:
        return False
    start, at = cut.from_b[0].y, cut.y
    made = start.producer()
    own = of_node(made) if made is not None and computes(made.op_type) == "dequantize" else None
    if own is None or own.axis is not None:
        return False
    while at is not start:
        node = at.producer()
        if node is None or not node.inputs or node.inputs[0] is None:
            return False
        if node.op_type in _QUANTISERS:
            if not _same_codes(own, of_node(node)):
                return False
        elif node.op_type not in moves:
            return False
        at = node.inputs[0]
    ours = between(a, cut.x, [other.x for other in cut.from_a])
    first, second = (
        [node for node in nodes if node.op_type not in MOVING | _QUANTISERS]
        for nodes in (ours, between(b, cut.y, [start]))
    )
    if len(first) != len(second) or not all(map(_say_the_same, first, second)):  # another pool
        return False
    return all(node.op_type in moves for node in ours)


def _same_codes(one: Quantiser, other: Quantiser | None) -> bool:
    if other is None or one.codes != other.codes or other.axis is not None:
        return False
    pairs = (one.scale, other.scale), (one.zero, other.zero)
    return all(x is not None and y is not None and np.array_equal(x, y) for x, y in pairs)


# --- what both files say alike --------------------------------------------------------------------


def _alike(a: Side, b: Side, cut: Cut, by_x: Mapping[ir.Value, Cut]) -> bool:
    if cut.axes is not None or cut.x.dtype != cut.y.dtype:
        return False
    todo: list[tuple[ir.Value | None, ir.Value | None]] = [(cut.x, cut.y)]
    seen: set[tuple[ir.Value, ir.Value]] = set()
    while todo:
        x, y = todo.pop()
        if x is None or y is None:
            if x is not y:
                return False
            continue
        if (x, y) in seen:
            continue
        seen.add((x, y))
        other = by_x.get(x)
        if other is not None and other is not cut:
            if other.y is not y or other.axes is not None or x.dtype != y.dtype:
                return False
            continue
        if x is a.image or y is b.image:
            if x is not a.image or y is not b.image or x.dtype != y.dtype:
                return False
            continue
        one, two = x.producer(), y.producer()
        if one is None or two is None:
            if one is not two or not same(x.const_value, y.const_value):
                return False
            continue
        if x.index() != y.index() or not _say_the_same(one, two):
            return False
        todo += zip(one.inputs, two.inputs, strict=True)
    return True


def _say_the_same(one: ir.Node, two: ir.Node) -> bool:
    if (one.op_type, one.domain, len(one.inputs)) != (two.op_type, two.domain, len(two.inputs)):
        return False
    for name in {**one.attributes, **two.attributes}:
        both = [node.attributes.get(name) for node in (one, two)]
        if both[0] is None or both[1] is None:
            x, y = setting(one, name, two), setting(two, name, one)
            if x is None or x != y:
                return False
        elif not _same_attribute(both[0], both[1]):
            return False
    return True


def schema(node: ir.Node) -> onnx.defs.OpSchema | None:
    """What the standard says of an operator; None where it is none of the standard's."""
    try:
        return onnx.defs.get_schema(node.op_type, domain=node.domain)
    except onnx.defs.SchemaError:
        return None


def setting(node: ir.Node, name: str, other: ir.Node) -> Any:
    """What an attribute of a node is, stated or not: a number, a text, or a list of numbers; None where that cannot be
    told.

    other   a node of the same operator, which states as many numbers
    """
    if name in node.attributes:
        stated = node.attributes[name]
        listed = stated.type in (ir.AttributeType.INTS, ir.AttributeType.FLOATS, ir.AttributeType.STRINGS)
        return None if stated.is_ref() else list(stated.value) if listed else stated.value
    known = schema(node)
    default = known.attributes[name].default_value if known is not None and name in known.attributes else None
    if default is not None and default.name:
        value = onnx.helper.get_attribute_value(default)
        return value.decode(errors="replace") if isinstance(value, bytes) else value
    given = other.attributes.get(name)
    if known is None or given is None or given.type != ir.AttributeType.INTS:
        return None
    if name in _UNSTATED:
        return [_UNSTATED[name]] * len(given.as_ints())
    sizes = (
        node.inputs[1].shape if name == "kernel_shape" and len(node.inputs) > 1 and node.inputs[1] else None
    )
    return None if sizes is None else [size if isinstance(size, int) else size.value for size in sizes[2:]]


def _same_attribute(one: ir.Attr, two: ir.Attr) -> bool:
    if one.type != two.type or one.is_ref() or two.is_ref():
        return False
    if one.type == ir.AttributeType.TENSOR:
        return same(one.value, two.value)
    # A body is not looked into: it counts as another.
    return one.type not in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) and bool(one.value == two.value)


def same(one: ir.TensorProtocol | None, two: ir.TensorProtocol | None) -> bool:
    """Whether two tensors are the same, to the last bit."""
    if one is None or two is None or one.dtype != two.dtype or list(one.shape) != list(two.shape):
        return False
    return one is two or one.tobytes() == two.tobytes()
