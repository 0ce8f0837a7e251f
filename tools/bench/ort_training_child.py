"""The child of the gradient benchmark in the environment of onnxruntime-training: FILE DATA THREADS.

Builds the gradient with GradientGraphBuilder, leaves it beside DATA, says "ready", and answers each line on standard
input with the seconds of one run. What goes wrong is the first line that it prints.
"""

import sys
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper


def main(file: str, data: str, threads: str) -> None:
    import onnxruntime
    from onnxruntime.capi._pybind_state import GradientGraphBuilder

    arrays = np.load(data)
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
    options.intra_op_num_threads = int(threads)
    builder = GradientGraphBuilder(model.SerializeToString(), {"loss"}, {source}, "loss", options)
    builder.build()
    session = onnxruntime.InferenceSession(builder.get_model(), options, providers=["CPUExecutionProvider"])
    feeds = {source: arrays["x"], "seed": arrays["cotangent"]}
    (gradient,) = session.run([f"{source}_grad"], feeds)
    np.save(Path(data).with_suffix(".gradient.npy"), gradient)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        session.run([f"{source}_grad"], feeds)
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Exception as error:
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", flush=True)
