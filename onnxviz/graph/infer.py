"""Shape inference on a model without carrying its weights through protobuf."""

from __future__ import annotations

import onnx
import onnx_ir as ir

from onnxviz.errors import ModelRejected
from onnxviz.graph.shapes import infer_shapes
from onnxviz.graph.symbols import name_lengths

# Constants up to this size travel along: shape inference reads the values of shape-like ones.
_SMALL = 1024


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """The model as a proto whose large weights are graph inputs: small, and of the same shapes and types."""
    graph = model.graph
    weights = [v for v in graph.initializers.values() if v.const_value is not None]
    tensors = [v.const_value for v in weights]
    known = len(graph.inputs)
    inputs = set(graph.inputs)
    try:
        for value, tensor in zip(weights, tensors, strict=True):
            if tensor is not None and tensor.nbytes > _SMALL and value not in inputs:
                value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
                graph.inputs.append(value)
                value.const_value = None
                del graph.initializers[value.name or ""]
        return ir.serde.serialize_model(model)
    finally:
        while len(graph.inputs) > known:
            graph.inputs.pop()
        for value, tensor in zip(weights, tensors, strict=True):
            value.const_value = tensor
            graph.register_initializer(value)


def infer(model: ir.Model, *, strict: bool = False) -> None:
    """Set the shape and type of every value of the main graph, as far as they can be told, in place.

    What the file declares for intermediate values of standard operators is dropped first: exporters leave stale
    batch sizes there. Declarations of inputs, and of what foreign operators give, are kept. Lengths that only the
    run will tell are named by their formulas (graph/symbols.py).

    raises   ModelRejected when the graph contradicts itself (strict only)
    """
    for value in model.graph.initializers.values():
        if value.const_value is not None and not value.is_graph_input():
            value.shape, value.dtype = ir.Shape(value.const_value.shape.numpy()), value.const_value.dtype
    for node in model.graph:
        if node.domain in ("", "ai.onnx"):
            for value in node.outputs:
                value.shape = None
    proto = skeleton(model)
    del proto.graph.value_info[:]
    kept = {}
    for node in model.graph:
        if node.domain not in ("", "ai.onnx"):
            for value in node.outputs:
                if value.type is not None and value.name:
                    kept[value.name] = value
    outputs = {value.name for value in model.graph.outputs}
    for value in kept.values():
        if value.name not in outputs:
            proto.graph.value_info.append(ir.serde.serialize_value(value))
    try:
        inferred = infer_shapes(proto, strict=strict)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as reason:
        raise ModelRejected(f"the graph contradicts itself: {str(reason).splitlines()[0]}") from reason
    found = {info.name: info for info in (*inferred.graph.value_info, *inferred.graph.output)}
    for node in model.graph:
        for value in node.outputs:
            info = found.get(value.name or "")
            if info is None or not info.HasField("type"):
                continue
            if info.type.HasField("tensor_type"):
                tensor = info.type.tensor_type
                if tensor.elem_type:
                    value.dtype = ir.DataType(tensor.elem_type)
                if tensor.HasField("shape"):
                    value.shape = ir.Shape(
                        [
                            d.dim_value if d.HasField("dim_value") else (d.dim_param or None)
                            for d in tensor.shape.dim
                        ]
                    )
    name_lengths(model.graph)
