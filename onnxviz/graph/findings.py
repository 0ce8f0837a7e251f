"""Odd values among a model's weights: NaN and infinities."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxviz.graph.quoted import quoted
from onnxviz.graph.weights import graphs

# Elements looked at in one go: little memory beside mapped weights, and still at the speed of memory.
_CHUNK = 1 << 20
_PACKED_BELOW = 8


def weights(model: ir.Model) -> list[str]:
    """One line a weight or constant that holds NaN or infinities; [] for a sound model."""
    found = []
    for graph in graphs(model):
        for value in graph.initializers.values():
            found += _odd(value.const_value, f"the weight {quoted(value.name)}")
        for node in graph:
            for attribute in node.attributes.values():
                if not attribute.is_ref() and attribute.type == ir.AttributeType.TENSOR:
                    found += _odd(attribute.value, f"the constant {quoted(node.outputs[0].name)}")
    return found


def _odd(tensor: ir.TensorProtocol | None, what: str) -> list[str]:
    if tensor is None or not tensor.dtype.is_floating_point() or tensor.dtype.bitwidth < _PACKED_BELOW:
        return []
    flat = tensor.numpy().reshape(-1)
    nan = infinite = 0
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        if not np.isfinite(chunk).all():
            nans = int(np.count_nonzero(np.isnan(chunk)))
            nan += nans
            infinite += int(np.count_nonzero(~np.isfinite(chunk))) - nans
    # A single infinity is a bound of a Clip or the filling of a mask, and meant.
    if not nan and (not infinite or flat.size == 1):
        return []
    counts = " and ".join(
        f"{count} {name}" for count, name in ((nan, "NaN"), (infinite, "infinite")) if count
    )
    return [f"{what} holds {counts} among its {flat.size} elements"]
