"""The one builder: `op.Mul(g, 2.0)` appends a node to a graph, `tape.before(node).Cast(x, to=1)` puts one in front.

A thin layer on onnx_ir. onnxscript's GraphBuilder is not used because the graph is foreign and may already be a
gradient model: every name must be fresh, each node bears the name of the forward layer it belongs to, an
operator or attribute that the standard does not know must fail at once, and no protobuf round trip
a node may be spent (hundreds of nodes in well under a second).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis.dataflow import weight
from onnxviz.graph.naming import Dims as Dims  # noqa: PLC0414 - lengths are read from here, too
from onnxviz.graph.naming import dims as dims  # noqa: PLC0414
from onnxviz.graph.naming import fresh, names, taken_apart
from onnxviz.graph.operators import operators

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Written the same, and meaning the same, from opset 7 (or where they first appear, if that is later) to the newest.
#: Not among them: Clip, Pad, Slice, Split, Squeeze, Unsqueeze, TopK, Resize, Softmax and the reductions, whose
#: attributes became inputs or whose meaning changed. MatMul with ones is a sum; Reshape does for Unsqueeze. Of Gather,
#: indices must not be negative.
PORTABLE = operators(lambda row: not row.changed)

# What a rule may hand to an operator: a value of the graph, a constant, or nothing (an omitted input).
Operand: TypeAlias = "ir.Value | np.ndarray | Sequence[int] | Sequence[float] | int | float | bool | None"


@functools.cache
def schema(op_type: str, version: int, domain: str = "") -> onnx.defs.OpSchema:
    """The operator's schema; onnx.defs.SchemaError when the standard does not know it."""
    return onnx.defs.get_schema(op_type, version, domain)


@functools.cache
def _signature(
    op_type: str, version: int
) -> tuple[tuple[str, ...], bool, tuple[str, ...], bool, frozenset[str]]:
    found = schema(op_type, version)
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    # A variable that allows one type only ("T1" of Shape: int64) is as good as that type.
    only = {
        c.type_param_str: c.allowed_type_strs[0]
        for c in found.type_constraints
        if len(c.allowed_type_strs) == 1
    }
    return (
        tuple(only.get(formal.type_str, formal.type_str) for formal in found.inputs),
        bool(found.inputs) and found.inputs[-1].option == variadic,
        tuple(only.get(formal.type_str, formal.type_str) for formal in found.outputs),
        bool(found.outputs) and found.outputs[-1].option == variadic,
        frozenset(found.attributes),
    )


@functools.cache
def _concrete(type_str: str) -> ir.DataType | None:
    """'tensor(int64)' -> INT64; a type variable such as 'T' -> None."""
    if not type_str.startswith("tensor("):
        return None
    return ir.DataType[type_str[len("tensor(") : -1].upper()]


def tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The constant behind a value, not read yet, or None where it is no constant."""
    return None if value is None or value.is_graph_input() else value.const_value


def array(value: ir.Value | None) -> np.ndarray | None:
    """The constant behind a value, or None where it is no constant."""
    found = tensor(value)
    return None if found is None else found.numpy()


def number(value: ir.Value | None) -> float | None:
    """The number behind a constant of one element, of whatever rank; None where it is no such constant."""
    found = tensor(value)
    return None if found is None or found.size != 1 else float(found.numpy().reshape(-1)[0])


class Writer:
    """What writes nodes: `op.Mul(...)` is `op.add("Mul", ...)`; underscored names are never operators."""

    def __init__(self, add: Callable[..., Any]) -> None:
        self.add = add

    def __getattr__(self, op_type: str) -> Callable[..., Any]:
        if op_type.startswith("_") or not op_type[0].isupper():
            raise AttributeError(op_type)
        return functools.partial(self.add, op_type)


class Tape(Writer):
    """Appends operators of the standard domain to a graph, promoting Python constants.

    graph     in any opset; an operator that this has not is refused
    cpu       the graph will run on ONNX Runtime's CPU provider: rules may take forms that are fast there, and exact
              only where convolutions are (not in TF32 or float16)
    stem      what the names of new nodes begin with
    portable  refuse operators outside PORTABLE: the graph may be of any opset

    What the reverse walk and its rules tell each other (grad/backward.py):

    pairs       cotangent and the value it belongs to, in the order of the walk: they have one shape (model.finish)
    replaced    values of the forward graph -> the same, computed by the backward one too, and cheaper
    masked      cotangent -> how it is had, times the mask of the Relu that made its value, cheaper than by masking it
    rectifiers  the forward graph's, as it was before anything was appended (graph/rectifiers.py)
    rectified   those of them that a cotangent has passed
    """

    def __init__(
        self, graph: ir.Graph, *, cpu: bool = False, stem: str = "gradient", portable: bool = False
    ) -> None:
        self.graph = graph
        self.cpu = cpu
        self.opset: int = graph.opset_imports.get("", graph.opset_imports.get("ai.onnx", 1))
        self.layer = ""
        self.pairs: list[tuple[ir.Value, ir.Value]] = []
        self.replaced: dict[ir.Value, ir.Value] = {}
        self.masked: dict[ir.Value, Callable[[], ir.Value]] = {}
        self.rectifiers: dict[ir.Node, Any] = {}
        self.rectified: set[ir.Node] = set()
        self._stem = stem
        self._portable = portable
        self._constants: dict[tuple[Any, ...], ir.Value] = {}
        self._shapes: dict[tuple[Any, ...], ir.Value] = {}
        self._lengths: dict[str, ir.Value | None] = {}
        self._count = 0

    @functools.cached_property
    def _names(self) -> set[str]:
        return names(
            self.graph
        )  # looked through where the first node is written: most tapes that rewrite write none

    @contextmanager
    def named(self, layer: str) -> Iterator[None]:
        """Nodes added inside bear this layer's name, so that a profile reads by layer."""
        before, self.layer = self.layer, layer
        try:
            yield
        finally:
            self.layer = before

    def fresh(self, stem: str) -> str:
        """A name that nothing in the graph has, starting with `stem`."""
        while True:
            self._count += 1
            name = f"{stem}_{self._count}"
            if name not in self._names:
                self._names.add(name)
                return name

    def add(self, op_type: str, /, *operands: Operand, _outputs: int = 1, **attributes: Any) -> Any:
        """Append one node; its output, or a tuple where `_outputs` is over 1. Attributes of None are left out."""
        if self._portable and op_type not in PORTABLE:
            raise AssertionError(f"{op_type} is not written alike in all opsets (PORTABLE)")
        try:
            formal_in, variadic_in, formal_out, variadic_out, known = _signature(op_type, self.opset)
        except onnx.defs.SchemaError:
            raise ModelUnsuitable(
                f"this needs the operator {op_type}, which opset {self.opset} of the model does not have; "
                "export the model with a newer opset"
            ) from None
        attributes = {k: v for k, v in attributes.items() if v is not None}
        if unknown := set(attributes) - known:
            raise AssertionError(f"{op_type} (opset {self.opset}) has no attribute {sorted(unknown)}")
        if len(operands) > len(formal_in) and not variadic_in:
            raise AssertionError(f"{op_type} takes {len(formal_in)} inputs, {len(operands)} given")
        types = [formal_in[min(i, len(formal_in) - 1)] for i in range(len(operands))]
        bound: dict[str, ir.DataType] = {}
        for operand, type_str in zip(operands, types, strict=True):
            if isinstance(operand, ir.Value) and operand.dtype is not None:
                bound.setdefault(type_str, operand.dtype)
        inputs = [
            self._operand(operand, _concrete(type_str) or bound.get(type_str))
            for operand, type_str in zip(operands, types, strict=True)
        ]
        for value, type_str in zip(inputs, types, strict=True):
            if value is not None and value.dtype is not None:
                bound.setdefault(type_str, value.dtype)
        stem = f"{self.layer}/{self._stem}/{op_type}" if self.layer else f"{self._stem}/{op_type}"
        name = self.fresh(stem)
        outputs = [ir.Value(name=name if _outputs == 1 else self.fresh(stem)) for _ in range(_outputs)]
        for i, value in enumerate(outputs):
            type_str = formal_out[min(i, len(formal_out) - 1) if variadic_out else i]
            dtype = _concrete(type_str) or bound.get(type_str) or _result_type(op_type, attributes, inputs)
            if dtype is not None:
                value.dtype = dtype
        node = ir.node(op_type, inputs, attributes=attributes or None, outputs=outputs, name=name)
        self.graph.append(node)
        return outputs[0] if _outputs == 1 else tuple(outputs)

    def again(self, node: ir.Node, first: ir.Value) -> ir.Value:
        """Append a node's operator once more, on another first input."""
        name = self.fresh(f"{self._stem}/{node.op_type}")
        inputs, attributes = [first, *node.inputs[1:]], list(node.attributes.values())
        out = ir.Value(name=name)
        self.graph.append(ir.Node(node.domain, node.op_type, inputs, attributes, outputs=[out], name=name))
        return out

    def before(self, node: ir.Node) -> Writer:
        """Puts nodes in front of one of this graph or of one within; each gives its output, or a tuple of them.

        Nothing is checked or promoted: what rewrites old forms writes those that the model has only later.
        """

        def add(op_type: str, /, *inputs: ir.Value | None, _outputs: int = 1, **attributes: Any) -> Any:
            name = self.fresh(f"{node.name or node.op_type}/{op_type}")
            outputs = [ir.Value(name=name if i == 0 else self.fresh(name)) for i in range(_outputs)]
            node.prepend(
                ir.node(op_type, list(inputs), attributes=attributes or None, outputs=outputs, name=name)
            )
            return outputs[0] if _outputs == 1 else tuple(outputs)

        return Writer(add)

    @staticmethod
    def become(node: ir.Node) -> Writer:
        """Makes the node an operator of the standard, under its own name and that of its first output."""

        def add(op_type: str, /, *inputs: ir.Value | None, **attributes: Any) -> None:
            node.domain, node.op_type, node.overload, node.version = "", op_type, "", None
            node.attributes.clear()
            Tape.attributes(node, **attributes)
            Tape.reads(node, *inputs)
            node.resize_outputs(1)

        return Writer(add)

    @staticmethod
    def attributes(node: ir.Node, **attributes: Any) -> None:
        """Give the node these attributes; None takes one away."""
        for name, value in attributes.items():
            node.attributes.pop(name, None)
            if value is not None:
                empty = isinstance(value, list) and not value  # of whole numbers
                given = ir.AttrInt64s(name, value) if empty else value
                node.attributes[name] = ir.convenience.convert_attribute(name, given)

    @staticmethod
    def reads(node: ir.Node, *inputs: ir.Value | None) -> None:
        """Let the node have these inputs."""
        node.resize_inputs(len(inputs))
        for i, value in enumerate(inputs):
            node.replace_input_with(i, value)

    def input(self, name: str, dtype: ir.DataType, shape: Sequence[int | str | None]) -> ir.Value:
        """A new input of the graph; its final name, `.name`, differs where the graph has that already."""
        value = ir.Value(name=fresh(name, self._names), type=ir.TensorType(dtype), shape=ir.Shape(shape))
        self.graph.inputs.append(value)
        return value

    def output(self, value: ir.Value, name: str) -> ir.Value:
        """Give the value out under this name, or one like it where the graph has that already; what is given out."""
        out: ir.Value = self.Identity(value)
        out.name = fresh(name, self._names)
        self.graph.outputs.append(out)
        return out

    def replace(self, value: ir.Value, by: ir.Value) -> None:
        """`by` is the same as the forward value: let one computation do, that of `by`."""
        self.replaced[value] = by

    def cast_like(self, operand: Operand, like: ir.Value) -> ir.Value:
        """The operand in the type of `like`: a constant, the value itself, or a Cast.

        CastLike stays for a type that the file does not tell only: OpenVINO cuts the graph at each.
        """
        if like.dtype is None:
            return self.CastLike(operand, like)
        if not isinstance(operand, ir.Value):
            return self.const(np.asarray(operand, dtype=like.dtype.numpy()))
        return operand if operand.dtype == like.dtype else self.Cast(operand, to=int(like.dtype))

    # --- constants ----------------------------------------------------------------------------

    def _operand(self, operand: Operand, dtype: ir.DataType | None) -> ir.Value | None:
        if operand is None or isinstance(operand, ir.Value):
            return operand
        if isinstance(operand, np.ndarray):
            return self.const(operand)
        if dtype is None:
            sample = operand[0] if isinstance(operand, (list, tuple)) and operand else operand
            dtype = ir.DataType.FLOAT if isinstance(sample, float) else ir.DataType.INT64
        return self.const(np.asarray(operand, dtype=dtype.numpy()))

    def const(self, values: Any, dtype: Any = None) -> ir.Value:
        """An initialiser of the main graph with these values (the same one for the same values).

        dtype   of NumPy; None: an array's own, int64 of whole numbers
        """
        if dtype is None and not isinstance(values, (np.ndarray, np.generic)) and not np.size(values):
            dtype = np.int64
        values = np.asarray(values, dtype)
        values = np.ascontiguousarray(values) if values.ndim else values
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._constants:
            tensor = ir.tensor(values, name=self.fresh(f"{self._stem}/constant"))
            self._constants[key] = weight(self.graph, tensor)
        return self._constants[key]

    # --- shapes -------------------------------------------------------------------------------

    def shape(
        self, value: ir.Value, start: int = 0, end: int | None = None, *, read: ir.Value | None = None
    ) -> ir.Value:
        """The shape (or a stretch of it) as an int64 vector: a constant where the file tells it.

        On the CPU provider a length is computed from the inputs' where its name tells how: to read the shape of a value
        that lies in the blocked layout, ONNX Runtime brings all of it into the plain one.

        read   of the same shape, to be read in the place of `value`
        """
        key = (id(value), start, end)
        if key not in self._shapes:
            known = dims(value)
            part = () if known is None else known[start:end]
            lengths = [d if isinstance(d, int) else self._length(d) for d in part]
            if known is None or None in lengths:
                self._shapes[key] = self.add("Shape", read or value, start=start or None, end=end)
            else:
                self._shapes[key] = self.vector([d for d in lengths if d is not None])
        return self._shapes[key]

    def _length(self, name: str | None) -> ir.Value | None:
        """The length of this name as an int64 vector of one element, computed from an input's; None where it is not."""
        if name is None or not self.cpu:
            return None
        if name not in self._lengths:
            self._lengths[name] = self._computed(name)
        return self._lengths[name]

    def _computed(self, name: str) -> ir.Value | None:
        for value in self.graph.inputs:
            known = () if value.is_initializer() else dims(value) or ()
            if name in known:
                axis = known.index(name)
                return self.add("Shape", value, start=axis or None, end=axis + 1)
        parts = taken_apart(name)
        inner = None if parts is None else self._length(parts[0])
        if parts is None or inner is None:
            return None
        _, extra, stride = parts
        length = self.add("Add", inner, [extra]) if extra else inner
        return self.add("Add", self.add("Div", length, [stride]), [1]) if stride else length

    def size(self, value: ir.Value) -> ir.Value:
        """How many elements there are, as an int64 scalar: a constant where the file tells it.

        Not by Size: OpenVINO's provider cuts the graph at each, and then mixes up the pieces' outputs.
        """
        known = dims(value)
        if known is not None and all(isinstance(d, int) for d in known):
            return self.const(np.asarray(math.prod(known), dtype=np.int64))  # type: ignore[arg-type]
        return self.ReduceProd(self.shape(value), keepdims=0)

    def arange(self, count: ir.Value) -> ir.Value:
        """0 … count − 1, of an int64 scalar."""
        counted: ir.Value = self.Range(self.const(np.int64(0)), count, self.const(np.int64(1)))
        return counted

    def extent(self, value: ir.Value, axis: int) -> int | ir.Value:
        """The length of one axis: an int where it is known, otherwise an int64 vector of one element."""
        known = dims(value)
        if known is not None and isinstance(known[axis], int):
            return known[axis]  # type: ignore[return-value]
        return self.shape(value, axis, None if axis == -1 else axis + 1)

    def vector(self, parts: Sequence[int | ir.Value]) -> ir.Value:
        """An int64 vector of these numbers, each an int or a one-element int64 vector of the graph."""
        if all(isinstance(p, int) for p in parts):
            return self.const(np.asarray(parts, dtype=np.int64))
        pieces: list[Any] = [np.asarray([p], dtype=np.int64) if isinstance(p, int) else p for p in parts]
        return pieces[0] if len(pieces) == 1 else self.Concat(*pieces, axis=0)


def _result_type(
    op_type: str, attributes: dict[str, Any], inputs: Sequence[ir.Value | None]
) -> ir.DataType | None:
    """The type of an output whose type variable no input carries."""
    if op_type == "Cast":
        return ir.DataType(int(attributes["to"]))
    if op_type == "CastLike" and inputs[1] is not None:
        return inputs[1].dtype
    if op_type == "ConstantOfShape":
        return attributes["value"].dtype if "value" in attributes else ir.DataType.FLOAT
    if op_type == "EyeLike":
        return ir.DataType(int(attributes["dtype"])) if "dtype" in attributes else inputs[0].dtype  # type: ignore[union-attr]
    return None
