"""A batch of any size for files that were exported for a fixed one, and whether the pictures of a batch are kept apart.

Both rest on the rules of receptive fields, asked along the batch axis in place of the picture's rows: where each unit
of every value reads one picture, a batch keeps them apart. The invariant on the way: along the batch axis of a value,
picture 0's part comes first, then picture 1's, and so on.

A file of fixed batch B holds that number in constants: the target of a Reshape, the end of a Slice, a class token. They
are rewritten node by node, each result is followed at another batch, and in the end the whole is inferred at a third.
What cannot be proven is refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis import units
from onnxviz.graph.analysis.dataflow import (
    FED,
    duplicate,
    image_input,
    reads,
    subgraphs,
)
from onnxviz.graph.analysis.probe import Facts, Prober, layout
from onnxviz.graph.analysis.receptive_field import by_rule
from onnxviz.graph.analysis.receptive_rules import RULES
from onnxviz.graph.analysis.twins import View, view
from onnxviz.graph.analysis.units import Atom, Shape, Units, Unplaced
from onnxviz.graph.batch_constants import EDITS, Mixes, Refused, Step
from onnxviz.graph.naming import own_length
from onnxviz.graph.operators import BATCH_FIRST, OWN, POINTWISE, SHAPE_ONLY, computes, operator
from onnxviz.graph.surgery import declare_outputs, over_batch
from onnxviz.graph.tape import Tape

_TRIAL = 5  # times the file's batch: a batch at which each result is followed


def free_batch(model: ir.Model, input: str | None = None) -> ir.Model:
    """A copy whose batch is dynamic, so that N images at once give what N runs of one give.

    Reshape, Expand, Slice and Resize nodes that hold the fixed batch in a constant are rewritten; constants
    that stand beside the images (a class token) are repeated for each. Every node is proven to keep the images
    apart. A model whose batch is open already is copied as it is.

    input    the image input's name; None: the only one
    raises   ModelUnsuitable, naming the node and the reason, where something forbids it
    """
    copy = duplicate(model)
    image = image_input(copy, input)
    if image.shape is None:
        return copy
    axis = layout(image).batch
    if axis is None:
        raise ModelUnsuitable(
            f"input {image.name!r} has shape {list(image.shape)} without a batch axis; "
            "export the model for (N, C, H, W)"
        )
    batch = image.shape[axis]
    if isinstance(batch, int):
        try:
            Freeing(copy, image, axis, batch).run()
        except ModelUnsuitable:
            fed = [name for name, value in copy.graph.initializers.items() if value.meta.get(FED)]
            if not fed:
                raise
            # What was fed beside the picture is a picture's share, then, and repeated for each.
            copy = duplicate(model)
            Freeing(copy, image_input(copy, input), axis, batch, fed).run()
        declare_outputs(copy)
    return copy


def independent(model: ir.Model, input: str | None = None) -> None:
    """Prove that a model of open batch keeps the images of a batch apart, by following its axis through every node.

    raises   Mixes where it does not, Refused where that cannot be told; both name the node
    """
    copy = duplicate(model)
    image = image_input(copy, input)
    axis = layout(image).batch
    if axis is None:
        raise Refused("its input has no batch axis")
    Freeing(copy, image, axis).walk()


_IN_PLACE = POINTWISE | OWN
# The rules of these are exact where they say that a unit reads several pictures.
_SUMMING = frozenset({"cumulation", "normalisation", "place of an end", "product", "reduction", "softmax"})


# --- the whole graph ------------------------------------------------------------------------------


class Freeing:
    """Makes the batch of `image` dynamic in the graph of `model`, in place; or proves that an open one keeps images
    apart (`walk` alone)."""

    def __init__(
        self, model: ir.Model, image: ir.Value, axis: int, batch: int | None = None, fed: Iterable[str] = ()
    ) -> None:
        self.model, self.graph, self.image = model, model.graph, image
        self.prober = Prober(model, image)
        self.facts = self.prober.facts()
        self.batch = self.facts.batch if batch is None else batch
        # Sizes that the graph computes from an open batch or image size are compared at two batches.
        open_ = self.prober.open_size or self.prober.open_batch
        self.twice: Facts | None = self.prober.facts(batch=2 * self.batch) if open_ else None
        self.opset = self.graph.opset_imports.get("", 1)
        self.carried: dict[ir.Value, int] = {}
        self.seen: dict[
            ir.Value, Units
        ] = {}  # of which picture each unit is, at a batch of _TRIAL times the file's
        self.fed = [self.graph.initializers[name] for name in fed]  # constants that hold one image's share
        for value in (image, *self.fed):
            self._carry(value, axis if value is image else 0)
        self.sized: set[ir.Value] = set()  # computed from the shape of something that carries the batch
        self.tape = Tape(self.graph, stem="onnxviz.batch")
        self.made: dict[ir.Value | None, np.ndarray] = {}  # constants put in by this class
        self.shapes: dict[ir.Value | None, Shape] = {}  # of these, and where inference told none
        self._count: ir.Value | None = None

    def run(self) -> None:
        """Raises ModelUnsuitable, naming the node and why, where the batch cannot be proven free."""
        try:
            self.walk()
        except Refused as reason:
            raise ModelUnsuitable(
                f"the batch of this model is fixed to {self.batch} and cannot be made dynamic: node {reason} forbids "
                "it; export the model with a dynamic batch, or use a batch of that size"
            ) from reason
        for value in self.fed:
            self._spread(value)
        if self.fed:
            self.graph.sort()
        self._declare()

    def _carry(self, value: ir.Value, axis: int) -> None:
        """A value whose axis holds an entry for each picture."""
        self.carried[value] = axis
        shape = self.facts.full_shape(value)
        if shape is not None:
            self.seen[value] = units.image(self._grown(shape, axis), axis, None)

    def _grown(self, shape: Shape, axis: int) -> Shape:
        return (*shape[:axis], _TRIAL * shape[axis], *shape[axis + 1 :])

    def _spread(self, value: ir.Value) -> None:
        """Repeat a constant that holds one image's share, for whatever reads it."""
        del self.carried[value]
        readers = list(value.uses())
        many = self._repeat(value, 0, len(value.shape or ()), self.graph.node(0))
        for node, place in readers:
            node.replace_input_with(place, many)

    def walk(self) -> None:
        """Follow the batch through every node. Raises Refused (Mixes), naming the node, where it is lost (shared)."""
        for node in list(self.graph):
            try:
                self._visit(node)
            except Refused as reason:
                raise type(reason)(f"{_title(node)}: {reason}") from reason
            except Unplaced as reason:
                raise Refused(f"{_title(node)}: {reason}") from reason
            except (IndexError, ZeroDivisionError) as reason:
                raise Refused(f"{_title(node)}: its axes do not fit its input") from reason

    def _visit(self, node: ir.Node) -> None:
        if any(value.meta.get(FED) for value in node.outputs):  # a fed value, repeated for each image
            for value in node.outputs:
                self._carry(value, 0)
            return
        read = list(reads(node))
        carrying = any(value in self.carried for value in read)
        if node.op_type in SHAPE_ONLY and node.domain == "":
            self.sized.update(node.outputs if carrying else ())
            return
        if not carrying:
            if not any(value in self.sized for value in read):
                return
            if all(self._value(value) is not None for value in node.outputs):
                self.sized.update(node.outputs)
                return
        moving = self._freeze(node)
        if carrying:  # else zeros of the shape of something, and the like: as they were for the fixed batch
            self._follow(node, moving)

    def _follow(self, node: ir.Node, moving: dict[int, np.ndarray]) -> None:
        """Rewrite what holds the batch in a node that carries it, and tell where its results have it."""
        if subgraphs(node):
            raise Refused("it is a branch or loop, in which the batch is not followed")
        mixed = over_batch(node)
        if mixed is not None:
            raise Mixes(mixed)
        twin = view(node)
        if not twin.standard or twin.op not in RULES:
            raise Refused(f"how {node.op_type} treats the batch is not known here")
        if any(v in self.carried for v in node.inputs if v is not None and v not in twin.inputs):
            raise Refused("a scale or a fused input of it depends on the image")
        step = Step(
            twin,
            [None if v is None else self.seen.get(v) for v in twin.inputs],
            [self._shape(v) for v in twin.inputs],
            [self._shape(v) for v in node.outputs],
            lambda place: self._value(twin.input(place)),
            self.opset,
            node=node,
            axes=[None if v is None else self.carried.get(v) for v in twin.inputs],
            batch=self.batch,
            open_size=self.prober.open_size,
            moving=moving,
        )
        axis = EDITS[twin.op](step) if twin.op in EDITS else None
        computed = any(node.inputs[place] in self.sized for place in step.constants)
        if computed or (moving and computes(twin.op) not in ("reshape", "broadcast_to", "resize")):
            raise Refused("it computes sizes in which the batch is fixed")
        self._edit(step)
        if step.results[0] is None and operator(twin.op).keeps == "shape":  # ONNX tells it of some alone
            step.results[0] = self.shapes[node.outputs[0]] = step.input()
        for i, value in enumerate(node.outputs):
            if step.results[i] is not None:
                self.seen[value], self.carried[value] = self._result(step, i, axis)
            elif value.uses() or value.is_graph_output():
                raise Refused("its result's shape cannot be inferred")

    def _result(self, step: Step, index: int, known: int | None) -> tuple[Units, int]:
        """Which picture each unit of a result is of at the trial's batch, and the axis of these."""
        shape = step.results[index] or ()
        (first, *others), op = step.carriers, step.view.op
        seen, likely = self._seen(step, first), step.axis(first)
        if not others and op in BATCH_FIRST and first == likely == 0:  # by definition
            return replace(seen, axes=(seen.axes[0], *map(units.plain, shape[1:]))), 0
        if not others and op in _IN_PLACE and first == 0 and shape == step.input():
            return seen, likely
        twin = View(**{**vars(step.view), "attributes": {**step.view.attributes, **step.attributes}})
        shapes = [
            s if s is None or axis is None else self._grown(s, axis)
            for s, axis in zip(step.shapes, step.axes, strict=True)
        ]
        results = list(step.results)
        call = replace(step, view=twin, shapes=shapes, results=results, result=index)
        axes = sorted(range(len(shape)), key=lambda axis: axis != likely) if known is None else [known]
        for axis in axes:
            if shape[axis] % self.batch == 0:
                results[index] = self._grown(shape, axis)
                found = by_rule(call)
                if found is not None and self._apart(found, axis):
                    return found, axis
        raise self._lost(step)

    def _seen(self, step: Step, place: int) -> Units:
        value = step.view.input(place)
        if value not in self.seen:
            raise Refused("the shape of its input cannot be inferred")
        return self.seen[value]

    def _apart(self, found: Units, axis: int) -> bool:
        """Whether each unit is of one picture, and these stand in order along the axis."""
        first = next((atom for atom in found.axes[axis] if atom.size > 1), None)
        others = any(found.has(units.Y, i) for i in range(len(found.axes)) if i != axis)
        return (
            first == Atom(units.Y, 1, _TRIAL * self.batch) and not others and found.full[units.Y].extent == 1
        )

    def _lost(self, step: Step) -> Refused:
        op = step.view.op
        if operator(op).family in _SUMMING:
            return Mixes("it reads across the images of the batch")
        if operator(op).moves and computes(op) != "flatten":
            return Refused("it takes single images out of the batch, or repeats them")
        return Refused("it reads across the images of the batch")

    def _value(self, value: ir.Value | None) -> np.ndarray | None:
        return self.made[value] if value in self.made else self.facts.value(value)

    def _shape(self, value: ir.Value | None) -> Shape | None:
        return self.shapes[value] if value in self.shapes else self.facts.full_shape(value)

    def _freeze(self, node: ir.Node) -> dict[int, np.ndarray]:
        """Sizes that the graph computes from the fixed batch become the constants that they were.

        Where the image size is open they are left, and given back with their contents at twice the batch.
        """
        moving: dict[int, np.ndarray] = {}
        for place, value in enumerate(node.inputs):
            if value is None or value not in self.sized:
                continue
            known = self._value(value)
            if known is None:
                raise Refused("it computes sizes in a way that is not known here")
            if self.twice is None:
                node.replace_input_with(place, self._constant(known))
                continue
            again = self.twice.value(value)
            if again is None:
                raise Refused("it computes sizes in which the batch is fixed")
            if not np.array_equal(known, again):
                moving[place] = again
        return moving

    # --- editing ---------------------------------------------------------------------------------

    def _edit(self, step: Step) -> None:
        node = step.node
        for place, contents in step.constants.items():
            node.replace_input_with(place, self._constant(contents))
        for name, numbers in step.attributes.items():
            node.attributes[name] = ir.AttrInt64s(name, numbers)
        for place, axis in step.repeated.items():
            node.replace_input_with(
                place, self._repeat(node.inputs[place], axis, len(step.input(place)), node)
            )
        for place, index in step.sized.items():
            op = self.tape.before(node)
            true = op.Gather(op.Shape(node.inputs[0]), self._constant(np.array([index])), axis=0)
            rest = self._constant(np.arange(1, len(step.input())))
            kept = op.Gather(node.inputs[place], rest, axis=0)
            node.replace_input_with(place, op.Concat(true, kept, axis=0))

    def _repeat(self, value: ir.Value | None, axis: int, rank: int, before: ir.Node) -> ir.Value:
        """The value once for each image, along this axis."""
        if self._count is None:  # the number of images, as a list of one, computed in front of everything
            op = self.tape.before(self.graph.node(0))
            place = self._constant(np.array([self.carried[self.image]]))
            self._count = op.Gather(op.Shape(self.image), place, axis=0)
        one, op = [self._constant(np.ones(1, np.int64))], self.tape.before(before)
        repeats = op.Concat(*one * axis, self._count, *one * (rank - 1 - axis), axis=0)
        tiled: ir.Value = op.Tile(value, repeats)
        return tiled

    def _constant(self, contents: np.ndarray) -> ir.Value:
        value = self.tape.const(contents)
        self.made[value], self.shapes[value] = contents, contents.shape
        return value

    def _declare(self) -> None:
        """Write the open batch into what the file declares, and check the whole by inference at another batch."""
        symbol = own_length(self.model.graph, "N")
        for value, axis in self.carried.items():
            if value.shape is None:
                continue
            dims: list[int | str | ir.SymbolicDim | None] = list(value.shape)
            if axis < len(dims):
                dims[axis] = symbol if dims[axis] == self.batch else None
            value.shape = ir.Shape(dims)
        other = Prober(self.model, self.image).facts(batch=3 * self.batch)
        for value, axis in self.carried.items():
            before, after = self.facts.full_shape(value), other.full_shape(value)
            if before is None or after is None:
                continue
            expected = tuple(3 * d if i == axis else d for i, d in enumerate(before))
            if after != expected:
                raise ModelUnsuitable(
                    f"the batch of this model is fixed to {self.batch} and cannot be made dynamic: at a batch of "
                    f"{3 * self.batch} the value {value.name!r} has shape {after}, expected {expected}"
                )


def _title(node: ir.Node) -> str:
    """The node as a message names it."""
    made = node.outputs[0].name if node.outputs else ""
    return f"{node.name or made!r} ({node.op_type})"


__all__ = ["Freeing", "Mixes", "Refused", "free_batch", "independent"]
