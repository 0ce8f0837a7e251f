"""The gradient by onnxruntime-training's GradientGraphBuilder, in the environment of that package."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

THREADS = 2


def gradient(file: str, data: str) -> Callable[[], np.ndarray]:
    """One input gradient of the file's network for the pictures and the cotangent in `data`."""
    import onnxruntime
    from onnxruntime.capi._pybind_state import GradientGraphBuilder

    arrays = dict(np.load(data))
    model = onnx.load(file)
    stored = {tensor.name for tensor in model.graph.initializer}
    source = next(value.name for value in model.graph.input if value.name not in stored)
    images = [value for value in model.graph.input if value.name == source]
    del model.graph.input[:], model.graph.value_info[:]
    model.graph.input.extend(images)
    output = model.graph.output[0].name
    model.graph.input.append(
        helper.make_tensor_value_info("seed", TensorProto.FLOAT, arrays["cotangent"].shape)
    )
    new = model.opset_import[0].version >= 13
    model.graph.node.append(helper.make_node("Mul", [output, "seed"], ["weighted"]))
    model.graph.node.append(helper.make_node("ReduceSum", ["weighted"], ["loss"], keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("loss", TensorProto.FLOAT, []))
    kept = [o for o in model.opset_import if o.domain in ("", "com.microsoft")]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    model.ir_version = min(model.ir_version, 9) if new else max(model.ir_version, 4)

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = THREADS
    builder = GradientGraphBuilder(model.SerializeToString(), {"loss"}, {source}, "loss", options)
    builder.build()
    session = onnxruntime.InferenceSession(builder.get_model(), options, providers=["CPUExecutionProvider"])
    feeds = {source: arrays["x"], "seed": arrays["cotangent"]}
    return lambda: session.run([f"{source}_grad"], feeds)[0]
