"""Appending nodes to a model: `op.Mul(a, 2.0)` on a copy of it, valid in the model's own opset.

A thin layer over onnxscript's GraphBuilder, which promotes Python numbers to constants of the right type and
infers shapes. What is added here: names that never collide with the model's; element types filled in
where the file declares none (GraphBuilder would insert CastLike, an operator of opset 15); and a check, at
the call, that the operator exists in the model's opset in the very form that is written.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis.dataflow import duplicate, lookup
from onnxviz.graph.analysis.shapes import annotate
from onnxviz.graph.expose import add_outputs
from onnxviz.graph.naming import names
from onnxviz.graph.operators import operators

# Written the same, and meaning the same, from opset 7 (or where they first appear, if that is later) to the newest.
# Not among them: Clip, Pad, Slice, Split, Squeeze, Unsqueeze, TopK, Resize, Softmax and the reductions, whose
# attributes became inputs or whose meaning changed. MatMul with ones is a sum; Reshape does for Unsqueeze.
PORTABLE = operators(lambda row: not row.changed)
"""Operators that a technique may append to a model of any opset. Of Gather, indices must not be negative."""

Operand = Any  # ir.Value, a number, a list of numbers, an array, or None for an input left out


def builder(model: ir.Model, *, portable: bool = True) -> Builder:
    """A Builder on a copy of the model, which shares the weights.

    portable   refuse operators outside PORTABLE; False where the model's opset is known
    """
    return Builder(model, portable=portable)


class Builder:
    """Appends to `model`, its own copy of the model it was made from.

    `op` makes nodes: `b.op.Relu(x)` gives the new value, with `_outputs=2` a list of values. Data is positional,
    attributes are keywords. Numbers, lists and arrays become constants of the type that the operator needs beside its
    other inputs (float16 beside float16).
    """

    def __init__(self, model: ir.Model, *, portable: bool = True) -> None:
        from onnxscript import GraphBuilder

        self.model = duplicate(model)
        self.graph = self.model.graph
        if "" not in self.graph.opset_imports:
            self.graph.opset_imports[""] = 13
        self.op = _Operators(self)
        self._portable = portable
        self._inner = GraphBuilder(self.graph)
        self._names = names(self.graph)
        self._constants: dict[tuple[bytes, str, tuple[int, ...]], ir.Value] = {}

    @property
    def opset(self) -> int:
        """The version of the standard operators that the model uses."""
        return self.graph.opset_imports[""]

    def value(self, name: str) -> ir.Value:
        """The value of this name in the copy; UnknownLayer if there is none."""
        return lookup(self.graph, [name])[0]

    def fresh(self, stem: str) -> str:
        """`stem`, or `stem.1`, `stem.2`, ...: the first that nothing in the model is called yet, now taken."""
        names = itertools.chain([stem], (f"{stem}.{n}" for n in itertools.count(1)))
        name = next(name for name in names if name not in self._names)
        self._names.add(name)
        return name

    def add_input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str | None]) -> ir.Value:
        """A new input; its final name, `.name`, differs from `name` where the model has that already."""
        value = ir.Value(name=self.fresh(name), type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.graph.inputs.append(value)
        return value

    def add_output(self, value: ir.Value, name: str | None = None) -> str:
        """Make the value an output and give its name.

        Without `name` it keeps its own. With one, a fresh Identity bears it, so that no name of the model
        changes; the name differs from `name` where the model has that already.
        """
        if name is not None and name != value.name:
            renamed = self.op.Identity(value)
            renamed.name = self.fresh(name)
            value = renamed
        self._typed([value])
        add_outputs(self.model, [value])
        return value.name or ""

    def constant(
        self, data: Any, dtype: ir.DataType | None = None, name: str = "onnxviz.constant"
    ) -> ir.Value:
        """A constant; equal ones are made once. Python floats are float32, integers int64, arrays keep their type."""
        array = np.asarray(data)
        if dtype is None:
            dtype = (
                ir.DataType.FLOAT
                if isinstance(data, float) or _floats(data)
                else ir.DataType.from_numpy(array.dtype)
            )
        array = array.astype(dtype.numpy())
        key = (array.tobytes(), dtype.name, array.shape)
        if key not in self._constants:
            tensor = ir.tensor(array, dtype, self.fresh(name))
            value = ir.Value(
                name=tensor.name, type=ir.TensorType(dtype), shape=ir.Shape(array.shape), const_value=tensor
            )
            self.graph.register_initializer(value)
            self._constants[key] = value
        return self._constants[key]

    def call(
        self, op_type: str, operands: Sequence[Operand], attributes: dict[str, Any], outputs: int
    ) -> Any:
        """One node; its value, or a list of them for more than one output."""
        schema = self._schema(op_type)
        unknown = sorted(set(attributes) - set(schema.attributes))
        if unknown or len(operands) > schema.max_input:
            what = f"attribute {unknown[0]!r}" if unknown else f"{len(operands)} inputs"
            raise TypeError(f"{op_type} of opset {self.opset} does not take {what}")
        self._typed([value for value in operands if isinstance(value, ir.Value)])
        inputs = [self._operand(schema, i, operands) for i in range(len(operands))]
        # GraphBuilder puts its own prefix before names; ours are set on the finished node.
        made = getattr(self._inner.op, op_type)(*inputs, _outputs=outputs, **attributes)
        values = [made] if isinstance(made, ir.Value) else list(made)
        node = values[0].producer()
        if node is not None:
            node.name = self.fresh(f"onnxviz.{op_type}")
            node.metadata_props.clear()
        for value in values:
            value.name = self.fresh(f"onnxviz.{op_type}.out")
        return values[0] if outputs == 1 else values

    def _schema(self, op_type: str) -> onnx.defs.OpSchema:
        if self._portable and op_type not in PORTABLE:
            raise TypeError(f"{op_type} is not written alike in all opsets (onnxviz.graph.build.PORTABLE)")
        try:
            return onnx.defs.get_schema(op_type, self.opset, "")
        except onnx.defs.SchemaError as error:
            raise ModelUnsuitable(
                f"this needs the operator {op_type}, which opset {self.opset} of the model does not have; "
                "export the model with a newer opset"
            ) from error

    def _operand(
        self, schema: onnx.defs.OpSchema, place: int, operands: Sequence[Operand]
    ) -> ir.Value | None:
        given = operands[place]
        if given is None or isinstance(given, ir.Value):
            return given
        kind = _formal(schema, place)
        if "(" not in kind:  # a type variable, as T in Add(T, T): the type of another input that shares it
            for other, value in enumerate(operands):
                if isinstance(value, ir.Value) and _formal(schema, other) == kind:
                    return self.constant(given, value.dtype)
        return self.constant(given, ir.DataType.INT64 if kind == "tensor(int64)" else None)

    def _typed(self, values: Sequence[ir.Value]) -> None:
        """See to it that the element types of these values are known."""
        if any(value.type is None for value in values):
            annotate(self.model)
        for value in values:
            if value.type is None:
                raise ModelUnsuitable(
                    f"the element type of value {value.name!r} is not declared and cannot be inferred, "
                    "so nothing can be computed from it"
                )


class _Operators:
    """Attribute access as operators: `op.Mul(a, b)`."""

    def __init__(self, owner: Builder) -> None:
        self._owner = owner

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        def node(*operands: Operand, _outputs: int = 1, **attributes: Any) -> Any:
            return self._owner.call(op_type, operands, attributes, _outputs)

        return node


def _formal(schema: onnx.defs.OpSchema, place: int) -> str:
    """The declared type of an input; the last one of Concat, Sum and their like stands for all that follow."""
    return schema.inputs[min(place, len(schema.inputs) - 1)].type_str


def _floats(data: Any) -> bool:
    return isinstance(data, list | tuple) and any(isinstance(d, float) or _floats(d) for d in data)
