"""The oracle of the gradient tests: graphs in normal form on the torch backend's executor, which knows no rule of ours.

That the normal form computes what the file does is held against ONNX Runtime, on the file as it came.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch

from onnxviz.backends.torch.executor import Executor
from onnxviz.graph.normalise import normalise
from tests.grad.oracle import session

_SMALL = 2**20


def _executor(model: onnx.ModelProto, precision: torch.dtype | None) -> Executor:
    graph = ir.from_proto(model)
    graph.graph.outputs[:] = [value for node in graph.graph for value in node.outputs if value.name]
    return Executor(normalise(graph), precision=precision)


@functools.lru_cache(maxsize=4)
def _same_executor(content: bytes, precision: torch.dtype | None) -> Executor:
    return _executor(onnx.load_model_from_string(content), precision)


def run(
    model: onnx.ModelProto, feeds: dict[str, torch.Tensor], precision: torch.dtype | None = None
) -> dict[str, Any]:
    """Every value of the graph by name."""
    small = model.ByteSize() < _SMALL  # central differences run one many times
    executor = _same_executor(model.SerializeToString(), precision) if small else _executor(model, precision)
    found = {**feeds, **executor(feeds)}
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.input}
    if onnx.TensorProto.DOUBLE in kinds.values():  # of which ONNX Runtime has next to no kernels
        return found
    engine = session(model)
    given = {
        name: value.detach().numpy().astype(onnx.helper.tensor_dtype_to_np_dtype(kinds[name]))
        for name, value in feeds.items()
        if name in kinds
    }
    # Of quantised networks single codes are a step off, where the order of additions rounds them the other way.
    limit = 1e-2 if any("Quantize" in n.op_type or "QLinear" in n.op_type for n in model.graph.node) else 1e-3
    names = [value.name for value in engine.get_outputs()]
    for name, array in zip(names, engine.run(names, given), strict=True):
        expected = np.asarray(array, np.float64)
        error = np.linalg.norm(found[name].detach().numpy() - expected) / max(np.linalg.norm(expected), 1e-6)
        assert error < limit, f"{name}: the normal form is {error:.1e} away from ONNX Runtime"
    return found
