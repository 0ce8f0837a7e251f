"""Operators that the standard writes out in others (Attention, RotaryEmbedding, AffineGrid): their bodies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import onnx_ir as ir
import torch

from onnxviz.backends.torch.tensors import torch_type


def _schema(node: ir.Node, opset: int) -> Any:  # onnx's stubs leave out its functions
    try:
        return onnx.defs.get_schema(node.op_type, opset, "" if node.domain == "ai.onnx" else node.domain)
    except onnx.defs.SchemaError:
        return None


def has_body(node: ir.Node, opset: int) -> bool:
    """Whether the standard writes the operator out."""
    schema = _schema(node, opset)
    return schema is not None and bool(schema.has_function or schema.has_context_dependent_function)


@dataclass(frozen=True)
class Body:
    """What the standard writes an operator out as.

    outputs   the operator's outputs in order; those that the function does not give are left out of the node
    defaults  the operator's own defaults of its attributes
    """

    function: ir.Function
    outputs: tuple[str, ...]
    opset: int
    defaults: Mapping[str, Any]


def written_out(node: ir.Node, types: Sequence[onnx.TypeProto], opset: int) -> Body:
    """The body of a node whose inputs have these types."""
    schema = _schema(node, opset)
    assert schema is not None  # `unknown` has looked
    if schema.has_function:
        proto = schema.function_body
    else:
        written = schema.get_context_dependent_function_with_opset_version(
            schema.context_dependent_function_opset_versions[-1],
            ir.serde.serialize_node(node).SerializeToString(),
            [t.SerializeToString() for t in types],
        )
        proto = onnx.FunctionProto.FromString(written)
    outputs = tuple(proto.output)
    made = {name for inner in proto.node for name in inner.output} | set(proto.input)
    del proto.output[:]
    proto.output.extend(name for name in outputs if name in made)
    versions = {entry.domain: entry.version for entry in proto.opset_import}
    defaults = {
        name: onnx.helper.get_attribute_value(formal.default_value)
        for name, formal in schema.attributes.items()
        if formal.default_value.name
    }
    return Body(ir.serde.deserialize_function(proto), outputs, versions.get("", opset), defaults)


_CODES = {torch_type(int(kind)): kind for kind in (
    ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.INT64,
    ir.DataType.INT32, ir.DataType.INT16, ir.DataType.INT8, ir.DataType.UINT8, ir.DataType.BOOL,
)}  # fmt: skip


def type_of(x: Any) -> onnx.TypeProto:
    """The type and shape of a tensor or a sequence; an empty one for an omitted input."""
    if isinstance(x, torch.Tensor):
        return onnx.helper.make_tensor_type_proto(int(_CODES[x.dtype]), list(x.shape))
    if isinstance(x, list) and x:
        return onnx.helper.make_sequence_type_proto(type_of(x[0]))
    return onnx.TypeProto()
