"""What an operator is, in one place: which of its operands are scalars.

Whatever else has to know it asks here, so that two rooms cannot disagree.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxviz.graph.lift import Lifter

#: Operator of the standard -> the inputs that are one number. Files have them as vectors of one element too
#: (keras2onnx, the ONNX zoo), which the standard does not have and ONNX Runtime runs.
SCALARS: dict[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "CumSum": (1,),
    "Dropout": (1, 2),
    "If": (0,),
    "Loop": (0, 1),
    "OneHot": (1,),
    "Pad": (2,),
    "Range": (0, 1, 2),
    "Trilu": (1,),
}


def number(value: ir.Value | None) -> float | None:
    """The number behind a constant of one element, of whatever rank; None where it is no such constant."""
    if value is None or value.const_value is None or value.is_graph_input() or value.const_value.size != 1:
        return None
    return float(value.const_value.numpy().reshape(-1)[0])


def scalars(model: ir.Model) -> None:
    """Give every operand that is one number the rank 0, in place; requires constants as initialisers."""
    lifter: Lifter | None = None
    for node in list(model.graph.all_nodes()):
        if node.domain not in ("", "ai.onnx"):
            continue
        for place in SCALARS.get(node.op_type, ()):
            value = node.inputs[place] if place < len(node.inputs) else None
            if value is None or _rank(value) in (0, None):
                continue
            lifter = lifter or Lifter(model)
            tensor = value.const_value
            if tensor is None or value.is_graph_input():
                scalar = lifter.before(node, "Reshape", value, lifter.const(np.zeros(0)))
            elif tensor.size != 1:
                continue
            else:
                scalar = lifter.const(tensor.numpy().reshape(()), tensor.dtype.numpy())
            node.replace_input_with(place, scalar)


def _rank(value: ir.Value) -> int | None:
    if value.const_value is not None:
        return len(value.const_value.shape)
    return None if value.shape is None else len(value.shape)
