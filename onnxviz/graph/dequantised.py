"""The real numbers that a quantised activation stands for, as a value of the graph.

    q ─▶ readers        becomes        q ─ DequantizeLinear ─▶ real ─ QuantizeLinear ─▶ readers

Every number of q comes back as it was, so the graph computes what it did; but `real` can be an objective, be given out
as activations, and gradients by it are in the layer's own units, whoever reads q.
"""

from __future__ import annotations

import onnx_ir as ir

# What hands integers on as they are, with the scale of its first input.
_HANDS_ON = frozenset({
    "DepthToSpace", "Expand", "Flatten", "Gather", "Identity", "MaxPool", "Relu", "Reshape", "Slice", "SpaceToDepth",
    "Squeeze", "Transpose", "Unsqueeze",
})  # fmt: skip


def dequantised(graph: ir.Graph, value: ir.Value) -> ir.Value | None:
    """Put the real numbers behind a quantised value, in place; None where it is no quantised activation.

    Requires DequantizeLinear and QuantizeLinear in place of fused quantised operators (graph/quantised.py). Values
    quantised along an axis are left alone.
    """
    source = value.producer()
    while source is not None and source.op_type in _HANDS_ON and source.inputs[0] is not None:
        source = source.inputs[0].producer()
    node = value.producer()
    if node is None or source is None or source.op_type != "QuantizeLinear":
        return None
    scale = source.inputs[1]
    if scale is None or scale.shape is None or value.dtype is None or any(size != 1 for size in scale.shape):
        return None
    name = value.name or "quantised"
    real = ir.Node("", "DequantizeLinear", [value, *source.inputs[1:]], name=f"{name}/real")
    again = ir.Node("", "QuantizeLinear", [real.outputs[0], *source.inputs[1:]], name=f"{name}/again")
    # The real numbers take the value's name: under it they are given out.
    value.name, real.outputs[0].name, again.outputs[0].name = f"{name}/quantised", name, f"{name}/again"
    real.outputs[0].dtype = scale.dtype or ir.DataType.FLOAT
    again.outputs[0].dtype = value.dtype
    for made in (real, again):
        made.outputs[0].shape = value.shape
    readers = list(value.uses())
    graph.insert_after(node, [real, again])
    for reader, place in readers:
        if reader is not real:
            reader.replace_input_with(place, again.outputs[0])
    return real.outputs[0]
