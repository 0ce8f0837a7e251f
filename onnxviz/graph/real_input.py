"""A model that takes integers (uint8 pictures), taking float32 in their place, so that it can be differentiated."""

from __future__ import annotations

import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable

# Operators that only move values about: they work on any type.
_MOVING = frozenset({"Flatten", "Identity", "Pad", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})


def real_input(model: ir.Model, name: str) -> ir.Model:
    """The model itself where its input `name` is float already; else a copy whose input is float32.

    For whole numbers the copy computes the same: it must turn its input into floats itself (Cast), after operators
    that only move values.

    raises   ModelUnsuitable naming the operator that needs the integers
    """
    found = next(value for value in model.graph.inputs if value.name == name)
    if found.dtype is None or found.dtype.is_floating_point():
        return model
    copy = model.clone()
    source = next(value for value in copy.graph.inputs if value.name == name)
    kind = source.dtype
    open_, seen = [source], {source}
    while open_:
        value = open_.pop()
        value.dtype = ir.DataType.FLOAT
        for node, place in value.uses():
            if node.op_type == "Cast" and ir.DataType(node.attributes["to"].as_int()).is_floating_point():
                continue
            if node.op_type not in _MOVING or place != 0:
                raise ModelUnsuitable(
                    f"input {name!r} has type {kind.name if kind else '?'}, and {node.op_type} (node {node.name!r}) "
                    "needs it so: there is no gradient by integers; choose a float layer behind it"
                )
            for out in node.outputs:
                if out not in seen:
                    seen.add(out)
                    open_.append(out)
    return copy
