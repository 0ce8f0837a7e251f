"""The ort-training backend: gradients by the builder of ONNX Runtime's training packages.

Those packages (the last is onnxruntime-training-cpu 1.19.2, for Python up to 3.12 and NumPy below 2) put themselves in
the place of onnxruntime. What the builder writes is a graph with operators of com.microsoft (ConvGrad, ReluGrad) that
only such a build of ONNX Runtime runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxviz.backends import ort_training_forms as forms
from onnxviz.backends.choose import Task
from onnxviz.errors import MissingDependency, ModelUnsuitable, UnsupportedOperator, UsageError
from onnxviz.grad.forward import Forward, forward
from onnxviz.grad.model import all_values
from onnxviz.graph.naming import names
from onnxviz.graph.tape import Tape
from onnxviz.runtime import providers
from onnxviz.runtime.isolate import region
from onnxviz.runtime.ort import Program
from onnxviz.runtime.ort import compile as compile_graph

# What 1.19.2 knows.
_OPSET = 21
_IR_VERSION = 10
_DOMAINS = ("", "ai.onnx", "com.microsoft")
_LARGEST = 2**31 - 1
_LOSS = "onnxviz.loss"


def available() -> str | None:
    """The version of the ONNX Runtime that is installed, if it can train; else None."""
    builder, version = _builder()
    return version if builder is not None else None


class TrainingProgram:
    """A function of named arrays that gives the objective, its gradients and layers beside them.

    inputs, outputs   the names, in order
    """

    def __init__(
        self,
        program: Program,
        halves: Mapping[str, ir.DataType],
        gradients: Mapping[str, str],
        also: Mapping[str, str],
    ) -> None:
        self._program = program
        self._halves = {name: kind.numpy() for name, kind in halves.items()}
        # Our name -> the name in the graph that the builder wrote.
        self._names = {"objective": "objective"}
        self._names |= {f"{source}.gradient": name for source, name in gradients.items()}
        self._names |= also
        self.inputs = program.inputs
        self.outputs = list(self._names)
        self.rectifiers = None

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run once; raises LimitExceeded, ModelFailed, RuntimeFailed."""
        ready = {
            name: np.asarray(array, self._halves[name]) if name in self._halves else array
            for name, array in feeds.items()
        }
        given = {name: array for name, array in ready.items() if name in self._program.inputs}
        computed = [name for name in self._names.values() if name not in self._program.inputs]
        arrays = {**given, **self._program(given, dict.fromkeys(computed))}
        return {name: np.asarray(arrays[inner]) for name, inner in self._names.items()}


def compile(task: Task) -> TrainingProgram:
    """The gradient graph of the builder, compiled; see `backends.compile`.

    raises   MissingDependency, UsageError for rules other than plain, UnsupportedOperator, ModelUnsuitable
    """
    builder, _ = _builder()
    if builder is None:
        raise MissingDependency(
            "backend 'ort-training' needs a training build of ONNX Runtime in the place of the usual one: in a virtual "
            'environment of its own with Python 3.11 or 3.12, pip install "onnxviz[ort-training]"'
        )
    if task.rules != "plain":
        raise UsageError(
            f"backend 'ort-training' has the plain gradient only, not {task.rules!r}: use --backend native or torch"
        )
    if providers.name(task.provider) != providers.CPU:
        raise UsageError("backend 'ort-training' runs on the CPU: use --provider cpu, or --backend native")
    graph = forward(task.model, task.objective, task.sources, task.also)
    _check(graph.model)
    inner = {name: value.name or "" for name, value in graph.sources.items()}
    also = {name: value.name or "" for name, value in graph.also.items()}
    forms.spell_out(graph.model)
    forms.check(graph.model, inner.values())
    given_out = all_values(graph.model.graph)
    proto = _differentiated(builder, _with_loss(graph), sorted(set(inner.values())))
    made = {value.name for value in proto.graph.output}
    gradients = {}
    for source, name in inner.items():
        if f"{name}_grad" not in made:
            raise ModelUnsuitable(
                f"{task.objective} does not depend on {source!r} through differentiable operators: the gradient "
                "would be zero everywhere; choose another output, layer or input"
            )
        gradients[source] = f"{name}_grad"
    for name in ("objective", *also.values()):
        if name not in {value.name for value in (*proto.graph.output, *proto.graph.input)}:
            proto.graph.output.append(ir.serde.serialize_value(given_out[name]))
    program = compile_graph(
        ir.from_proto(proto),
        provider="cpu",
        threads=task.threads,
        seconds=task.seconds,
        own=names(task.model.graph),
    )
    return TrainingProgram(program, graph.halves, gradients, also)


def _builder() -> tuple[Any, str | None]:
    version = providers.version()
    if version is None:
        return None, None
    return getattr(providers.onnxruntime().capi._pybind_state, "GradientGraphBuilder", None), version


def _check(model: ir.Model) -> None:
    version = model.opset_imports[""]
    if version > _OPSET:
        raise ModelUnsuitable(
            f"the model has opset {version}; backend 'ort-training' (ONNX Runtime 1.19.2) knows up to {_OPSET}: use "
            "--backend native or torch"
        )


def _with_loss(graph: Forward) -> onnx.ModelProto:
    """The graph with one scalar output: the sum over the pictures, which do not depend on each other."""
    model = graph.model
    tape = Tape(model.graph)
    loss = tape.ReduceSum(graph.objective, keepdims=0)
    loss.name, loss.shape, loss.dtype = _LOSS, ir.Shape([]), graph.objective.dtype
    model.graph.outputs[:] = [loss]
    model.ir_version = min(model.ir_version or _IR_VERSION, _IR_VERSION)
    for domain in [d for d in model.opset_imports if d not in _DOMAINS]:
        del model.opset_imports[domain]
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    if size > _LARGEST:
        raise ModelUnsuitable(
            f"the model's weights take {size:,} bytes; backend 'ort-training' takes up to {_LARGEST:,}: "
            "use --backend native"
        )
    proto: onnx.ModelProto = ir.serde.serialize_model(model)
    return proto


def _differentiated(builder: Any, proto: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """What the builder makes of the model: the gradient of its loss by each name as output `<name>_grad`."""
    options = providers.onnxruntime().SessionOptions()
    options.log_severity_level = 4
    try:
        made = builder(proto.SerializeToString(), {_LOSS}, set(names), _LOSS, options)
        with region("differentiating the model"):
            made.build()
        return onnx.load_model_from_string(made.get_model())
    except Exception as error:  # the builder's errors have no type of their own
        text = " ".join(str(error).split())
        reason = text[text.rfind(" was false. ") + 12 :] if " was false. " in text else text
        raise UnsupportedOperator(
            f"backend 'ort-training' cannot differentiate the model ({reason[:300]}): use --backend native or torch"
        ) from error
