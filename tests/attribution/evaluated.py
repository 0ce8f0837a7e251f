"""A function on the graph builder, run on arrays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime

from onnxviz.graph.tape import Tape


def evaluated(function: Callable[..., ir.Value], *arrays: np.ndarray) -> np.ndarray:
    """What the function, (op, values...) -> value, makes of these arrays."""
    inputs = [
        ir.Value(name=f"x{n}", type=ir.TensorType(ir.DataType.from_numpy(a.dtype)), shape=ir.Shape(a.shape))
        for n, a in enumerate(arrays)
    ]
    graph = ir.Graph(inputs, [], nodes=[], opset_imports={"": 18}, name="function")
    graph.outputs.append(function(Tape(graph), *inputs))
    model = ir.serde.serialize_model(ir.Model(graph, ir_version=8)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    feeds = {value.name: array for value, array in zip(inputs, arrays, strict=True)}
    found: np.ndarray = session.run(None, feeds)[0]
    return found
