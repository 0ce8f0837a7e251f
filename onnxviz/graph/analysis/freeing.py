"""Carrying out what the batch rules ask for, node by node, on a copy of the model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis import batch, batch_moves
from onnxviz.graph.analysis.batch_step import RULES, Refused, Step
from onnxviz.graph.analysis.dataflow import FED, by_name, reads, subgraphs
from onnxviz.graph.analysis.probe import Facts, Prober
from onnxviz.graph.analysis.twins import view

_SYMBOL = "N"
_TABLES = (batch, batch_moves)  # imported for the rules that they enter


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
        self.carried: dict[ir.Value, int] = {image: axis}
        self.fed = [self.graph.initializers[name] for name in fed]  # constants that hold one image's share
        self.carried |= dict.fromkeys(self.fed, 0)
        self.sized: set[ir.Value] = set()  # computed from the shape of something that carries the batch
        self.names = set(by_name(self.graph))
        self.made: dict[ir.Value | None, np.ndarray] = {}  # constants put in by this class
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

    def _spread(self, value: ir.Value) -> None:
        """Repeat a constant that holds one image's share, for whatever reads it."""
        del self.carried[value]
        readers = list(value.uses())
        rest = [self._constant(np.ones(1, np.int64))] * (len(value.shape or ()) - 1)
        images = self._images()
        first = self.graph.node(0)
        repeats = self._node("Concat", [images, *rest], first, axis=0)
        many = self._node("Tile", [value, repeats], first)
        for node, place in readers:
            node.replace_input_with(place, many)

    def walk(self) -> None:
        """Follow the batch through every node. Raises Refused (Mixes), naming the node, where it is lost (shared)."""
        for node in list(self.graph):
            try:
                self._visit(node)
            except Refused as reason:
                raise type(reason)(f"{_title(node)}: {reason}") from reason
            except (IndexError, ZeroDivisionError) as reason:
                raise Refused(f"{_title(node)}: its axes do not fit its input") from reason

    def _visit(self, node: ir.Node) -> None:
        if any(value.meta.get(FED) for value in node.outputs):  # a fed value, repeated for each image
            self.carried |= dict.fromkeys(node.outputs, 0)
            return
        read = list(reads(node))
        carrying = any(value in self.carried for value in read)
        if node.op_type in ("Shape", "Size") and node.domain == "":
            self.sized.update(node.outputs if carrying else ())
            return
        if not carrying:
            if not any(value in self.sized for value in read):
                return
            if all(self._value(value) is not None for value in node.outputs):
                self.sized.update(node.outputs)
                return
        moving = self._freeze(node)
        if not carrying:  # zeros of the shape of something, and the like: as they were for the fixed batch
            return
        if next(subgraphs(node), None) is not None:
            raise Refused("it is a branch or loop, in which the batch is not followed")
        twin = view(node)
        rule = RULES.get(twin.op) if twin.standard else None
        if rule is None:
            raise Refused(f"how {node.op_type} treats the batch is not known here")
        if any(
            value in self.carried for value in node.inputs if value is not None and value not in twin.inputs
        ):
            raise Refused("a scale or a fused input of it depends on the image")
        step = Step(
            node,
            twin,
            [None if v is None else self.carried.get(v) for v in twin.inputs],
            [self._shape(v) for v in twin.inputs],
            [self._shape(v) for v in node.outputs],
            self._value,
            self.batch,
            self.graph.opset_imports.get("", 1),
            self.prober.open_size,
            moving,
        )
        axes = rule(step)
        computed = any(node.inputs[place] in self.sized for place in step.constants)
        if computed or (moving and twin.op not in ("Reshape", "Expand", "Resize")):
            raise Refused("it computes sizes in which the batch is fixed")
        self._edit(step)
        self.carried |= {v: axis for v, axis in zip(node.outputs, axes, strict=False) if axis is not None}

    def _value(self, value: ir.Value | None) -> np.ndarray | None:
        return self.made[value] if value in self.made else self.facts.value(value)

    def _shape(self, value: ir.Value | None) -> tuple[int, ...] | None:
        return self.made[value].shape if value in self.made else self.facts.full_shape(value)

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

    def _edit(self, step: Step) -> None:
        node = step.node
        for place, contents in step.constants.items():
            node.replace_input_with(place, self._constant(contents))
        for name, numbers in step.attributes.items():
            if isinstance(numbers, Iterable):
                node.attributes[name] = ir.AttrInt64s(name, [int(n) for n in numbers])
        for place, axis in step.repeated.items():
            rank = len(step.shape(place))
            one = [self._constant(np.ones(1, np.int64))]
            repeats = self._node(
                "Concat", [*one * axis, self._images(), *one * (rank - 1 - axis)], node, axis=0
            )
            node.replace_input_with(place, self._node("Tile", [node.inputs[place], repeats], node))
        for place, index in step.sized.items():
            shape = self._node("Shape", [node.inputs[0]], node)
            true = self._node("Gather", [shape, self._constant(np.array([index]))], node, axis=0)
            rest = self._constant(np.arange(1, len(step.shape())))
            kept = self._node("Gather", [node.inputs[place], rest], node, axis=0)
            node.replace_input_with(place, self._node("Concat", [true, kept], node, axis=0))

    def _images(self) -> ir.Value:
        """The number of images, as a list of one, computed in front of everything."""
        if self._count is None:
            first = self.graph.node(0)
            shape = self._node("Shape", [self.image], first)
            axis = self._constant(np.array([self.carried[self.image]]))
            self._count = self._node("Gather", [shape, axis], first, axis=0)
        return self._count

    def _constant(self, contents: np.ndarray) -> ir.Value:
        name = self._fresh("onnxviz.sizes")
        tensor = ir.tensor(contents, name=name)
        value = ir.Value(
            name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(contents.shape), const_value=tensor
        )
        self.graph.register_initializer(value)
        self.made[value] = contents
        return value

    def _node(self, op: str, inputs: list[ir.Value | None], before: ir.Node, **attributes: int) -> ir.Value:
        made = ir.node(op, inputs, attributes, name=self._fresh(f"onnxviz.batch.{op}"))
        made.outputs[0].name = self._fresh(f"onnxviz.batch.{op}.out")
        self.graph.insert_before(before, made)
        return made.outputs[0]

    def _fresh(self, stem: str) -> str:
        name, number = stem, 0
        while name in self.names:
            number += 1
            name = f"{stem}.{number}"
        self.names.add(name)
        return name

    def _declare(self) -> None:
        """Write the open batch into what the file declares, and check the whole by inference at another batch."""
        for value, axis in self.carried.items():
            if value.shape is None:
                continue
            dims: list[int | str | ir.SymbolicDim | None] = list(value.shape)
            if axis < len(dims):
                dims[axis] = _SYMBOL if dims[axis] == self.batch else None
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
