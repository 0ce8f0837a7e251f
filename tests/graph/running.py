"""What ONNX Runtime computes of a model, however it is held: the oracle of these tests and of the gradients'."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime

from onnxviz.graph.analysis.dataflow import flat, image_input
from onnxviz.graph.analysis.probe import Prober, Size, Symbolic, probes, symbolic

onnxruntime.set_default_logger_severity(4)


def session(model: onnx.ModelProto | ir.Model) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    proto = ir.to_proto(model) if isinstance(model, ir.Model) else model
    return onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def outputs(model: onnx.ModelProto | ir.Model, **feeds: Any) -> dict[str, np.ndarray]:
    """Every output by its name."""
    engine = session(model)
    return dict(zip([v.name for v in engine.get_outputs()], engine.run(None, feeds), strict=True))


def checked(model: ir.Model, **feeds: Any) -> dict[str, np.ndarray]:
    """The same, of a model that the standard's own checker accepts."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return outputs(proto, **feeds)


def shapes(model: ir.Model, size: Size | None = None) -> dict[str, Symbolic]:
    """What is told of them without a run: the shape of every value, in symbols where the file leaves it open."""
    model = flat(model)
    prober = Prober(model, image_input(model))
    return symbolic(prober, *probes(prober, size))
