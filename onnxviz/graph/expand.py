"""Standard operators that are defined by others are written out by their own definition (Attention and its like)."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis.dataflow import inline
from onnxviz.graph.infer import infer
from onnxviz.graph.naming import fresh, names

#: Operators whose definition in the standard is a function of operators that have gradient rules.
EXPANDED = frozenset({
    "Attention", "CausalConvWithState", "LinearAttention", "NegativeLogLikelihoodLoss", "RotaryEmbedding",
    "SoftmaxCrossEntropyLoss", "SwiGLU", "BlackmanWindow", "HammingWindow", "HannWindow",
})  # fmt: skip
_DOMAIN = "onnxviz.expanded"


def expand(model: ir.Model) -> None:
    """Replace every such operator by its definition, in place.

    raises   ModelUnsuitable where the standard has no definition for the node's form
    """
    nodes = [n for n in model.graph.all_nodes() if n.op_type in EXPANDED and not n.domain]
    if not nodes:
        return
    version = model.opset_imports[""]
    infer(model)
    taken = names(model.graph)
    for count, node in enumerate(nodes):
        for y in node.outputs:
            y.name = y.name or fresh(f"{node.name}/left_out", taken)
        function = _definition(node, version)
        function.name, function.domain = f"{node.op_type}_{count}", _DOMAIN
        found = ir.serde.deserialize_function(function)
        model.functions[found.identifier()] = found
        node.domain, node.op_type = _DOMAIN, function.name
    for graph in model.graphs():
        graph.opset_imports[_DOMAIN] = 1
    inline(model)
    for graph in model.graphs():
        graph.opset_imports.pop(_DOMAIN, None)


def _definition(node: ir.Node, version: int) -> onnx.FunctionProto:
    """The function that the standard gives for this node; its shape depends on inputs and attributes."""
    schema: Any = onnx.defs.get_schema(node.op_type, version, "")  # its type stubs miss the functions
    versions = schema.context_dependent_function_opset_versions or schema.function_opset_versions
    fitting = [v for v in versions if v <= version]
    if not fitting:
        raise ModelUnsuitable(
            f"the standard does not define {node.op_type} of opset {version} (node {node.name!r}) by other operators"
        )
    for name, formal in schema.attributes.items():
        if name not in node.attributes and formal.default_value.name:
            node.attributes[name] = ir.serde.deserialize_attribute(formal.default_value)
    if schema.has_context_dependent_function:
        proto = ir.serde.serialize_node(node).SerializeToString()
        body = schema.get_context_dependent_function_with_opset_version(
            max(fitting), proto, [_type(x) for x in node.inputs]
        )
    else:
        body = schema.get_function_with_opset_version(max(fitting))
    function = onnx.FunctionProto()
    function.ParseFromString(body)
    made = {name for inner in function.node for name in inner.output} | set(function.input)
    for name in function.output:  # what the form at hand does not give, and nothing may read
        if name not in made:
            nothing = onnx.helper.make_tensor("nothing", onnx.TensorProto.FLOAT, [0], [])
            function.node.append(onnx.helper.make_node("Constant", [], [name], value=nothing))
    del function.output[len(node.outputs) :]  # optional outputs that the node leaves out are not computed
    return function


def _type(value: ir.Value | None) -> bytes:
    kind = onnx.TypeProto() if value is None else ir.serde.serialize_value(value).type
    return bytes(kind.SerializeToString())
