"""What a model makes certain before it runs: sizes, trips of loops, and divisions that end the process.

A light forward pass over the graph: of each node first what ONNX Runtime needs (`operands`), then what ONNX's own
inference and the values of small constants tell of its results (`known`); functions are entered at each call. So native
code is asked about no node that it is known to crash or hang on, and a graph that contradicts itself is refused by the
way.

Covered: what is certain to be in memory together (`fits`); tensors too large from constant shapes (ConstantOfShape,
Expand, Tile, Range, Resize, Pad, OneHot, Random*, Conv and pool pads, broadcasts and products of large weights, chains
of Concat); what constants together would fold into; loops whose number of trips is certain, nested ones multiplied, and
loops that never end; an integer division that overflows, and a window larger than what it gets, which kill ONNX
Runtime's process. Batch and image size are taken as 1 where they are free; `graph.open.admission` asks again, for
what is empty, when they are known.

Not covered, left to the limits of a run: whatever depends on the input's values or free sizes, states that grow
from trip to trip, operators that ONNX does not describe, sequences and text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx

from onnxviz.errors import ModelRejected
from onnxviz.graph.open import operands
from onnxviz.graph.open.fits import empty, refuse_overflow, together
from onnxviz.graph.open.known import MOST_DIMENSIONS, UNKNOWN, Call, Known, Sizes, Unsure, constant, infer
from onnxviz.graph.open.signatures import label, normal
from onnxviz.graph.open.structure import Key, Structure
from onnxviz.graph.open.tensors import check_dims
from onnxviz.graph.operators import ACTIVATIONS, SAME_SHAPE, computes
from onnxviz.isolate import region
from onnxviz.limits import Limits, exceeded
from onnxviz.text import quoted

Lookup = Callable[[onnx.TensorProto], np.ndarray | None]
Attributes = Mapping[str, onnx.AttributeProto]

# What exporters write for "until the condition ends it".
_FOREVER: Final = 2**63 - 1
# Work for one node with its inputs, over the limit of nodes: beyond, one node reads very much very often.
_WORK_PER_NODE: Final = 10


def check(model: onnx.ModelProto, structure: Structure, lookup: Lookup, weights: int, limits: Limits) -> None:
    """Refuse a model whose run is certain to be too large or too long.

    structure   of the model, as `graph.open.structure` checked it
    lookup      the elements of a small tensor of it, None for others
    weights     elements of all weights
    raises      LimitExceeded, ModelRejected
    """
    for value in model.graph.input:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.dim_value > 0]
        check_dims(dims, f"the input {quoted(value.name)}", limits)
    scope = _Scope({value.name: _declared(value) for value in model.graph.input}, None)
    whole = _Pass(structure, lookup, weights, limits)
    with region("inferring shapes"):
        try:
            whole.graph(model.graph, scope, structure.opsets, {})
        except Empty as found:
            raise ModelRejected(
                f"nothing can come out of the model at the sizes that it fixes: {found}"
            ) from None
        whole.certain = False
        for key, function in structure.functions.items():
            if key not in whole.called:
                whole.call(key, [None] * len(function.input), {}, structure.opsets)
    together(model.graph, scope.own, limits)


class Empty(Exception):
    """Nothing comes out of a node that is certain to run; the text says of which, and why."""


def empties(
    model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]], lookup: Lookup, limits: Limits
) -> None:
    """Follow these shapes of its inputs, by name, through a model that was checked before.

    lookup   the elements of a small tensor of it, None for others
    raises   Empty; LimitExceeded where the walk takes too long
    """
    functions = {
        (normal(one.domain), one.name, one.overload): one for one in model.functions
    }  # those of a checked model
    opsets = {normal(entry.domain): entry.version for entry in model.opset_import}
    walk = _Pass(Structure(opsets, functions), lookup, 0, limits, bound=True)
    own = {value.name: _declared(value) for value in model.graph.input}
    own |= {name: own.get(name, UNKNOWN)._replace(shape=tuple(shape)) for name, shape in shapes.items()}
    walk.graph(model.graph, _Scope(own, None), opsets, {})


def _declared(value: onnx.ValueInfoProto) -> Known:
    if value.type.WhichOneof("value") != "tensor_type":
        return Known(other=value.type.SerializeToString()) if value.HasField("type") else UNKNOWN
    kind = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in kind.shape.dim)
    return Known(shape if kind.HasField("shape") else None, dtype=kind.elem_type or None)


class _Scope:
    """Values by name, those of the graphs around included."""

    def __init__(self, own: dict[str, Known], outer: _Scope | None) -> None:
        self.own = own
        self.outer = outer

    def find(self, name: str) -> Known:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.own:
                return scope.own[name]
            scope = scope.outer
        return UNKNOWN


class _Pass:
    """One pass over a model.

    bound    the inputs have the sizes of one run: only what is empty at these is looked for
    certain  whether the nodes that are looked at are sure to run
    judging  whether they are refused where they contradict themselves: not if they are sure never to run
    """

    def __init__(
        self, structure: Structure, lookup: Lookup, weights: int, limits: Limits, bound: bool = False
    ) -> None:
        self.functions = structure.functions
        self.lookup = lookup
        self.limits = limits
        self.elements = weights
        self.work = 0
        self.bound = bound
        self.certain = True
        self.judging = not bound
        self.called: set[Key] = set()
        self.calls = 0  # that are gone through just now, one within the other

    # --- bodies ---------------------------------------------------------------------------------

    def graph(
        self, graph: onnx.GraphProto, scope: _Scope, opsets: Mapping[str, int], attributes: Attributes
    ) -> tuple[list[Known], int]:
        """What is known about a graph's outputs, and the trips that some node in it certainly makes."""
        self._spend(len(graph.initializer))
        for tensor in graph.initializer:
            scope.own[tensor.name] = self._tensor(tensor)
        trips = self.nodes(graph.node, scope, opsets, attributes)
        return [scope.find(value.name) for value in graph.output], trips

    def nodes(
        self,
        nodes: Iterable[onnx.NodeProto],
        scope: _Scope,
        opsets: Mapping[str, int],
        attributes: Attributes,
    ) -> int:
        """Go over nodes in order; the trips that some node certainly makes."""
        most = 1
        own = scope.own
        for node in nodes:
            if self.bound and node.op_type in _AS_IT_CAME and not node.domain:
                known = scope.find(node.input[0])
                if (
                    known.shape is not None and known.elements is None
                ):  # a map, and nothing is asked of it here
                    own[node.output[0]] = known
                    continue
            self._spend(_weight(node))
            given = {
                each.name: attributes.get(each.ref_attr_name, each) if each.ref_attr_name else each
                for each in node.attribute
            }
            inputs = [
                (own[name] if name in own else scope.find(name)) if name else None for name in node.input
            ]
            key = (normal(node.domain), node.op_type, node.overload)
            if key in self.functions:
                results, trips = self.call(key, inputs, given, opsets)
            elif node.op_type in _BODIES and not key[0]:
                bodies = {
                    name: one.g
                    for name, one in given.items()
                    if one.type == one.GRAPH and not one.ref_attr_name
                }
                operands.steers(node, inputs, bodies, opsets.get("", 1))
                at = _Body(node, inputs, given, self, scope, opsets, attributes)
                results, trips = _BODIES[node.op_type](self, at)
            else:
                call = Call(node.op_type, self.lookup, inputs, given, opsets.get(key[0], 1), len(node.output))
                results, trips = self._plain(call, node), 1
            most = max(most, trips)
            for name, known in zip(node.output, results, strict=False):
                if name:
                    if known.shape is not None and min(filter(None, known.shape), default=0) < 0:
                        self._negative(node, known.shape)
                    if not self.bound:  # what was opened passed
                        self._check(node, known)
                    own[name] = known
        return most

    def _spend(self, entries: int) -> None:
        """Count work: a function's body is gone through at each call, whatever it holds."""
        self.work += 1 + entries // 8
        allowed = self.limits.nodes * _WORK_PER_NODE
        if self.work > allowed:
            raise exceeded(
                "nodes",
                f"the nodes of the model read {allowed} values or more with its functions expanded",
                self.limits.nodes,
                2 * self.limits.nodes,
            )

    def _negative(self, node: onnx.NodeProto, shape: Sizes) -> None:
        """A size below 0. ONNX's inference of a whole graph goes on from it, and the process may end."""
        what = "×".join("?" if size is None else str(size) for size in shape)
        if self.judging:
            raise ModelRejected(f"the {label(node)} makes a value of {what} places; sizes are 0 or more")
        if self.bound and self.certain:
            raise Empty(f"the {label(node)} makes a value of {what} places")

    def _check(self, node: onnx.NodeProto, known: Known) -> None:
        if known.shape is not None and len(known.shape) > MOST_DIMENSIONS:
            raise ModelRejected(
                f"the {label(node)} makes a value of {len(known.shape)} dimensions; at most {MOST_DIMENSIONS} were "
                "expected"
            )
        elements = known.least
        if elements > self.limits.tensor_elements:
            self.limits.check("tensor_elements", elements, f"the {label(node)} makes {elements} elements")
        if known.constant and known.value is None:
            self.elements += elements
            if self.elements > self.limits.total_elements:
                what = f"weights and constants have {self.elements} elements with those of the {label(node)}"
                self.limits.check("total_elements", self.elements, what, counting=True)

    # --- nodes ----------------------------------------------------------------------------------

    def _plain(self, call: Call, node: onnx.NodeProto) -> list[Known]:
        """An operator without a body."""
        if computes(call.op) == "constant":
            if not call.attributes:
                raise ModelRejected(f"the {label(node)} has no value")
            return [self._constant(call)]
        if computes(call.op) == "divide":
            refuse_overflow(call, node)
        # `bound` walks a model that was checked before.
        if not self.bound:
            operands.check(call, node)
        if self.calls:  # outside, each node is asked about once
            self._spend(node.ByteSize() >> 7)
        if self.certain and (reason := empty(call, reductions=self.bound)) is not None:
            raise Empty(f"at the {label(node)}, {reason}")
        return infer(call, node, self.judging)

    def _tensor(self, tensor: onnx.TensorProto) -> Known:
        value = self.lookup(tensor)
        if value is not None:
            return constant(value, tensor.data_type)
        return Known(tuple(tensor.dims), constant=True, dtype=tensor.data_type)

    def _constant(self, call: Call) -> Known:
        if len(call.attributes) > 1:  # of two values ONNX Runtime takes one
            return Known(constant=True)
        tensor = call.attributes.get("value")
        if tensor is not None and not tensor.ref_attr_name:
            return self._tensor(tensor.t)
        for name, kind, dtype in (
            ("value_int", np.int64, onnx.TensorProto.INT64),
            ("value_ints", np.int64, onnx.TensorProto.INT64),
            ("value_float", np.float32, onnx.TensorProto.FLOAT),
            ("value_floats", np.float32, onnx.TensorProto.FLOAT),
        ):
            try:
                number = call.attribute(name)
            except Unsure:
                return UNKNOWN
            if number is not None:
                return constant(np.array(number, dtype=kind), dtype)
        return UNKNOWN

    def call(
        self, key: Key, inputs: list[Known | None], given: Attributes, opsets: Mapping[str, int]
    ) -> tuple[list[Known], int]:
        """What is known about the results of a call of one of the model's functions, and its trips."""
        function = self.functions[key]
        self.called.add(key)
        self._spend(len(function.attribute_proto) + len(function.input))
        own = {name: known or UNKNOWN for name, known in zip(function.input, inputs, strict=False)}
        attributes = {attribute.name: attribute for attribute in function.attribute_proto} | dict(given)
        versions = {**opsets, **{normal(entry.domain): entry.version for entry in function.opset_import}}
        scope = _Scope(own, None)
        self.calls += 1
        trips = self.nodes(function.node, scope, versions, attributes)
        self.calls -= 1
        return [scope.find(name) for name in function.output], trips

    # --- nodes with bodies ----------------------------------------------------------------------

    def _if(self, at: _Body) -> tuple[list[Known], int]:
        condition = _scalar(at.input(0))
        sides = [
            at.enter(
                at.given[name].g,
                {},
                certain=condition is not None and bool(condition) == side,
                never=condition is not None and bool(condition) != side,
            )
            for name, side in (("then_branch", True), ("else_branch", False))
        ]
        if condition is not None:
            return sides[0 if condition else 1]
        (then, first), (other, second) = sides
        results = [
            (a.type if a.type == b.type else UNKNOWN)._replace(shape=a.shape if a.shape == b.shape else None)
            for a, b in zip(then, other, strict=False)
        ]
        return results, min(first, second)

    def _loop(self, at: _Body) -> tuple[list[Known], int]:
        body, what = at.given["body"].g, f"the {label(at.node)}"
        count, started = _scalar(at.input(0)), at.input(1) is None or _scalar(at.input(1)) == 1
        names = [value.name for value in body.input]
        begun = [known or UNKNOWN for known in at.inputs[2:]]
        own = dict.fromkeys(names, UNKNOWN) | dict(zip(names[2:], [one.type for one in begun], strict=False))
        if len(names) > 1:
            own[names[0]] = Known((), dtype=onnx.TensorProto.INT64)
            # If a condition that goes in true is certain to come out true, it always is.
            condition = Known((), dtype=onnx.TensorProto.BOOL)
            own[names[1]] = constant(np.array(True), onnx.TensorProto.BOOL) if started else condition
        runs = started and (at.input(0) is None or (count is not None and count > 0))
        if self.bound:  # the first trip, with the shapes that the states begin with
            first = [one.type._replace(shape=one.shape) for one in begun]
            at.enter(body, own | dict(zip(names[2:], first, strict=False)), certain=runs)
            return [], 1
        results, trips = at.enter(body, own, certain=runs)
        always = started and bool(results) and _scalar(results[0]) == 1
        if at.input(0) is None and always:
            raise exceeded("loop_trips", f"{what} never ends", self.limits.loop_trips)
        if count is not None and (always or self.limits.loop_trips < count < _FOREVER):
            trips *= max(count, 0)
            self.limits.check("loop_trips", trips, f"{what} makes {trips} trips")
        states = len(names) - 2
        # What is known about a state holds for its first trip only.
        stacked = [
            known.type._replace(shape=(max(count, 0), *known.shape))
            if always and count is not None and known.shape is not None
            else known.type
            for known in results[1 + states :]
        ]
        return [*(one.type for one in begun[:states]), *stacked], max(1, trips)

    def _scan(self, at: _Body) -> tuple[list[Known], int]:
        body, scanned, what = at.given["body"].g, at.given["num_scan_inputs"].i, f"the {label(at.node)}"
        axes = list(at.given["scan_input_axes"].ints) if "scan_input_axes" in at.given else [0] * scanned
        states = len(at.inputs) - scanned
        begun = [known or UNKNOWN for known in at.inputs]
        first = [known.type._replace(shape=known.shape if self.bound else None) for known in begun]
        count, lengths = 1, list[int | None]()
        for place, axis in zip(range(max(states, 0), len(begun)), axes, strict=False):
            shape = begun[place].shape
            if shape and -len(shape) <= axis < len(shape):
                count, lengths = max(count, shape[axis] or 1), [*lengths, shape[axis]]
                first[place] = first[place]._replace(shape=_without(shape, axis))
        own = dict.fromkeys((value.name for value in body.input), UNKNOWN)
        if at.opsets.get("", 1) > 8 or self.bound:
            own |= dict(zip(own, first, strict=False))
        results, trips = at.enter(body, own, certain=self.bound and any(lengths))
        if self.bound:  # the first step
            return [], 1
        trips *= count
        self.limits.check("loop_trips", trips, f"{what} makes {trips} trips")
        for known in results[max(states, 0) :]:
            elements = count * known.least
            self.limits.check("tensor_elements", elements, f"{what} makes {elements} elements")
        return [], trips

    def _sequence_map(self, at: _Body) -> tuple[list[Known], int]:
        """What a sequence holds is not followed; ONNX, asked about the node, would go through the body by itself."""
        body = at.given["body"].g
        at.enter(body, dict.fromkeys((value.name for value in body.input), UNKNOWN), certain=False)
        return [], 1


@dataclass(frozen=True)
class _Body:
    """A node with subgraphs, and how to enter one of them with what is known about its inputs."""

    node: onnx.NodeProto
    inputs: list[Known | None]
    given: Attributes
    outer: _Pass
    scope: _Scope
    opsets: Mapping[str, int]
    attributes: Attributes

    def enter(
        self, graph: onnx.GraphProto, own: dict[str, Known], certain: bool, never: bool = False
    ) -> tuple[list[Known], int]:
        """What is known about the outputs of a subgraph if this is known about its inputs, and its trips.

        certain   whether it is sure to run where its node does
        never     whether it is sure not to
        """
        outer = self.outer
        before = outer.certain, outer.judging
        outer.certain, outer.judging = outer.certain and certain, outer.judging and not never
        try:
            return outer.graph(graph, _Scope(own, self.scope), self.opsets, self.attributes)
        finally:
            outer.certain, outer.judging = before

    def input(self, place: int) -> Known | None:
        """The input at `place`, None for one left out."""
        return self.inputs[place] if place < len(self.inputs) else None


# Of the shape and type of their first input, and nothing that can be empty by itself.
_AS_IT_CAME: Final = ACTIVATIONS & SAME_SHAPE
_BODIES: Final = {
    "If": _Pass._if,
    "Loop": _Pass._loop,
    "Scan": _Pass._scan,
    "SequenceMap": _Pass._sequence_map,
}


def _without(shape: Sizes, axis: int) -> Sizes:
    """A shape without one axis, which may be counted from the end."""
    return tuple(size for place, size in enumerate(shape) if place not in (axis, axis + len(shape)))


def _weight(node: onnx.NodeProto) -> int:
    """The entries of a node's fields."""
    entries = len(node.input) + len(node.output)
    for attribute in node.attribute:
        entries += 1 + len(attribute.ints) + len(attribute.floats) + len(attribute.strings) + len(attribute.s)
    return entries


def _scalar(known: Known | None) -> int | None:
    if known is None or known.value is None or known.value.size != 1 or known.value.dtype.kind not in "iub":
        return None
    return int(known.value.reshape(-1)[0])
