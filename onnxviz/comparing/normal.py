"""The form that both files of a comparison are brought into, and what of it can be compared.

Nearer to the file than `graph.normalise`, which is for gradients: BatchNormalization stays apart, half precision stays
half, weights stay as they are stored. What is computed is what the file computes.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx_ir as ir

from onnxviz import isolate
from onnxviz.graph.analysis.dataflow import FLOATS, dependent, duplicate, is_tensor, measured, prune
from onnxviz.graph.dequantised import ALSO, through
from onnxviz.graph.naming import name_nodes
from onnxviz.graph.normalise import standard
from onnxviz.graph.operators import computes
from onnxviz.graph.shapes import infer
from onnxviz.network import Network

#: Note on a value: names of the file's values that were the same numbers once more, and are left out (`ir.Value.meta`).
SAME = "onnxviz.same"


def normal(net: Network) -> ir.Model:
    """A copy of the network's graph that every part of a comparison works on, with the batch of `net.batched`.

    Functions are inlined, fused operators of com.microsoft and QOperator forms are written out, so that every real
    value of a quantised file stands behind a DequantizeLinear that all its readers read. Identity, Dropout and Cast to
    the same type are left out. Values keep their names; of quantised files, `graph.dequantised.name_real_values` gave
    them: they are those of `Network.layers`. The opset is 18 or later.

    raises   ModelUnsuitable for an opset under 7, or a form that cannot be lifted
    """
    with isolate.on(net.worker):
        model = duplicate(net.batched[0])
        standard(model, whole=False)
        _collapse(model.graph)
        for value in [value for node in model.graph for value in node.outputs if ALSO in value.meta]:
            through(model.graph, value)
        prune(model)
        name_nodes(model.graph)
        infer(model)
    return model


def _collapse(graph: ir.Graph) -> None:
    """Leave out what hands its input on as it is, in place; where it is an output of the graph, it stays."""
    for node in list(graph):
        if node.domain not in ("", "ai.onnx") or computes(node.op_type) not in ("identity", "cast"):
            continue
        x, y = node.inputs[0], node.outputs[0]
        if x is None or y.is_graph_output() or not is_tensor(x):
            continue
        if computes(node.op_type) == "cast" and (
            x.dtype is None or int(x.dtype) != node.attributes["to"].as_int()
        ):
            continue
        x.meta.setdefault(SAME, []).extend([y.name, *y.meta.get(SAME, ())])
        y.replace_all_uses_with(x)
        graph.remove(node, safe=True)


def real_values(model: ir.Model, image: ir.Value) -> Iterator[ir.Value]:
    """The values of a graph in normal form that can be compared, in topological order, the image input first.

    Floating-point tensors that depend on the picture: no scales that are measured of it, and nothing that is cut to a
    quantiser's range only afterwards.
    """
    moved = dependent(model.graph, image)
    scales = measured(model.graph, moved)
    yield image
    for node in model.graph:
        for value in node.outputs:
            if not value.name or value not in moved or value in scales or not is_tensor(value):
                continue
            if value.dtype in FLOATS and not _uncut(value):
                yield value


def _uncut(value: ir.Value) -> bool:
    """Whether all that reads it is a quantiser whose codes are made real again."""
    if value.is_graph_output() or not value.uses():
        return False
    for reader, place in value.uses():
        if place != 0 or computes(reader.op_type) not in ("quantize", "quantize_measured"):
            return False
        codes = reader.outputs[0]
        if not any(computes(other.op_type) == "dequantize" for other, _ in codes.uses()):
            return False
    return True


def stored(model: ir.Model) -> bytes:
    """A graph in normal form as a file has it, its weights within."""
    message: onnx.ModelProto = ir.serde.serialize_model(model)
    return message.SerializeToString()


def restored(message: bytes) -> ir.Model:
    """The graph that `stored` gave."""
    return ir.from_proto(onnx.ModelProto.FromString(message))
