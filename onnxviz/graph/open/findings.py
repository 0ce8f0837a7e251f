"""Odd values among a model's weights: NaN and infinities."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from onnxviz.graph.open.weights import graphs
from onnxviz.text import quoted

# Elements looked at in one go: little memory beside mapped weights, and still at the speed of memory.
_CHUNK = 1 << 20
_PACKED_BELOW = 8
_NAMED = 3  # weights that a message or a manifest names
# The bits of the exponent, all of which are set in NaN and infinities: NumPy takes 15 times as long to look at halves.
_EXPONENT = {ir.DataType.FLOAT16: 0x7C00, ir.DataType.BFLOAT16: 0x7F80}


def weights(model: ir.Model) -> list[str]:
    """One line a weight or constant that holds NaN or infinities; [] for a sound model."""
    found = []
    for graph in graphs(model):
        for value in graph.initializers.values():
            found += _odd(value.const_value, "the weight", value)
        for node in graph:
            for attribute in node.attributes.values():
                if not attribute.is_ref() and attribute.type == ir.AttributeType.TENSOR:
                    found += _odd(attribute.value, "the constant", node.outputs[0])
    return found


def told(findings: list[str]) -> Iterable[str]:
    """What is said of weights that hold NaN or infinities (see `weights`)."""
    for text in findings[:_NAMED]:
        yield f"{text}: what is computed from them says nothing, also where it comes out finite"
    if len(findings) > _NAMED:
        yield f"{len(findings) - _NAMED} weights more hold NaN or infinities; `onnxviz inspect MODEL` lists them"


def _odd(tensor: ir.TensorProtocol | None, what: str, value: ir.Value) -> list[str]:
    if tensor is None or not tensor.dtype.is_floating_point() or tensor.dtype.bitwidth < _PACKED_BELOW:
        return []
    flat = tensor.numpy().reshape(-1)
    nan = infinite = 0
    for start in range(0, flat.size, _CHUNK):
        chunk = flat[start : start + _CHUNK]
        if not _finite(chunk, tensor.dtype):
            nans = int(np.count_nonzero(np.isnan(chunk)))
            nan += nans
            infinite += int(np.count_nonzero(~np.isfinite(chunk))) - nans
    if not nan and (not infinite or _meant(flat)):
        return []
    counts = " and ".join(
        f"{count} {name}" for count, name in ((nan, "NaN"), (infinite, "infinite")) if count
    )
    return [f"{what} {quoted(value.name)} holds {counts} among its {flat.size} elements"]


def _finite(chunk: np.ndarray, dtype: ir.DataType) -> bool:
    exponent = _EXPONENT.get(dtype)
    if exponent is None or chunk.dtype.itemsize != 2:
        return bool(np.isfinite(chunk).all())
    return bool((chunk.view(np.uint16) & 0x7FFF).max() < exponent)


def _meant(flat: np.ndarray) -> bool:
    """Whether infinities are the bound of a Clip or a mask, where all that is finite is one number."""
    rest = flat[np.isfinite(flat)]
    return bool((rest == rest[:1]).all())
