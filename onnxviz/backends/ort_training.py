"""The ort-training backend: gradients by the builder of ONNX Runtime's training packages.

Those packages (the last is onnxruntime-training-cpu 1.19.2, for Python up to 3.12 and NumPy below 2) put themselves in
the place of onnxruntime. What the builder writes is a graph with operators of com.microsoft (ConvGrad, ReluGrad) that
only such a build of ONNX Runtime runs.

It has no gradient of many operators; of some it has one that is wrong, or that ends the process: AveragePool's kernel
divides by zero; where an output of Split is not used, the cotangents of the others are put together as if there were
no such part; a broadcast side of Where is not summed; the exponent of Pow gets nothing. So only operators and forms are
handed to it that the tests hold against native gradients, one by one (`TRAINED` of the operator table); others are
spelled out first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxviz.backends.choose import Task
from onnxviz.errors import MissingDependency, ModelUnsuitable, UnsupportedOperator, UsageError
from onnxviz.grad import rules, table
from onnxviz.grad.model import Forward, all_values, forward, independent
from onnxviz.graph.analysis.dataflow import reads
from onnxviz.graph.naming import names
from onnxviz.graph.operators import TRAINED
from onnxviz.graph.shapes import infer
from onnxviz.graph.tape import Tape, array, dims
from onnxviz.isolate import region
from onnxviz.programs import compile as compile_graph
from onnxviz.runtime import providers
from onnxviz.runtime.ort import Program

assert rules  # importing the package fills the table of operators without a derivative

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
    version = graph.model.opset_imports[""]
    if version > _OPSET:
        raise ModelUnsuitable(
            f"the model has opset {version}; backend 'ort-training' (ONNX Runtime 1.19.2) knows up to {_OPSET}: use "
            "--backend native or torch"
        )
    inner = {name: value.name or "" for name, value in graph.sources.items()}
    also = {name: value.name or "" for name, value in graph.also.items()}
    spell_out(graph.model)
    check(graph.model, inner.values())
    given_out = all_values(graph.model.graph)
    proto = _differentiated(builder, _with_loss(graph), sorted(set(inner.values())))
    made = {value.name for value in proto.graph.output}
    gradients = {}
    for source, name in inner.items():
        if f"{name}_grad" not in made:
            raise independent(task.objective, source)
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


# --- what the builder can be trusted with, and other forms for what it cannot ---------------------


def spell_out(model: ir.Model) -> None:
    """Write operators that the builder lacks or gets wrong in others, in place."""
    tape = Tape(model.graph)
    for node in list(model.graph):
        step = _STEPS.get(node.op_type) if not node.domain else None
        if step is not None:
            step(tape, node)
    infer(model)


def check(model: ir.Model, sources: Collection[str]) -> None:
    """See that only trusted operators lie between the sources, value names, and the graph's outputs.

    raises   UnsupportedOperator naming the first that does not
    """
    values = all_values(model.graph)
    reached = {values[name] for name in sources}
    for node in model.graph:
        if table.is_zero(node.op_type, node.domain) or not any(x in reached for x in reads(node)):
            continue
        known = table.key(node.op_type, node.domain) in TRAINED
        if not known or (node.op_type in _FORMS and not _FORMS[node.op_type](node, reached)):
            layer = next((y.name for y in node.outputs if y.name), "?")
            trust = "in a form" if known else "one"
            raise UnsupportedOperator(
                f"operator {table.key(node.op_type, node.domain)} (node {node.name or '?'!r}, layer {layer!r}) is "
                f"{trust} that backend 'ort-training' is not trusted with: use --backend native or torch, or take "
                "a gradient that does not pass this layer"
            )
        reached.update(node.outputs)


def _one_shape(node: ir.Node, reached: Collection[ir.Value]) -> bool:
    """What is differentiated is not broadcast."""
    y = dims(node.outputs[0])
    alike = all(dims(x) == y for x in node.inputs if x in reached and x is not None)
    return y is not None and None not in y and alike


def _forwards(node: ir.Node, reached: Collection[ir.Value]) -> bool:
    """Every step is positive."""
    if len(node.inputs) < 5 or node.inputs[4] is None:
        return True
    steps = array(node.inputs[4])
    return steps is not None and bool((steps > 0).all())


# Forms in which the builder is wrong (the exponent of Pow, a broadcast side of Where) or fails.
_FORMS: dict[str, Callable[[ir.Node, Collection[ir.Value]], bool]] = {
    # no operand is a vector
    "MatMul": lambda node, reached: all(len(dims(x) or ()) > 1 for x in node.inputs if x is not None),
    "Pad": lambda node, reached: len(node.inputs) < 4 or node.inputs[3] is None,
    "Pow": lambda node, reached: node.inputs[1] not in reached,
    "Slice": _forwards,
    "Where": _one_shape,
}


def _sum(tape: Tape, node: ir.Node) -> None:
    total = node.inputs[0]
    for x in node.inputs[1:]:
        total = tape.before(node).Add(total, x)
    assert total is not None
    tape.become(node).Identity(total)


def _split(tape: Tape, node: ir.Node) -> None:
    """As Slices, one for each output, where the lengths are known."""
    x, axis = node.inputs[0], node.attributes.get_int("axis", 0)
    assert x is not None
    known = dims(x)
    length = known[axis] if known is not None else None
    given = array(node.inputs[1]) if len(node.inputs) > 1 else None
    if given is not None:
        sizes = [int(size) for size in given]
    elif isinstance(length, int) and (len(node.inputs) < 2 or node.inputs[1] is None):
        part = -(-length // len(node.outputs))
        sizes = [max(0, min(part, length - i * part)) for i in range(len(node.outputs))]
    else:
        return
    start = 0
    for y, size in zip(node.outputs, sizes, strict=True):
        if y.uses() or y.is_graph_output():
            place = [tape.const([v]) for v in (start, start + size, axis)]
            cut = tape.before(node).Slice(x, *place)
            twin = tape.before(node).Identity(cut)
            y.replace_all_uses_with(twin, replace_graph_outputs=True)
            twin.shape, twin.type = y.shape, y.type
            twin.name, y.name = y.name, tape.fresh("unused")
        start += size
    assert node.graph is not None
    node.graph.remove(node)


def _layer_normalization(tape: Tape, node: ir.Node) -> None:
    """With a bias and all three outputs: the builder asks for them."""
    scale = array(node.inputs[1])
    if len(node.inputs) < 3 and scale is not None:
        zeros = tape.const(np.zeros(scale.shape), scale.dtype)
        node.resize_inputs(3)
        node.replace_input_with(2, zeros)
    first = len(node.outputs)
    node.resize_outputs(3)
    for y in node.outputs[first:]:
        y.name = tape.fresh(f"{node.name}/statistics")


def _average_pool(tape: Tape, node: ir.Node) -> None:
    """The mean of the whole map, or a convolution of each map with equal weights."""
    x = node.inputs[0]
    assert x is not None
    known = dims(x)
    kernel = [int(k) for k in node.attributes["kernel_shape"].as_ints()]
    n = len(kernel)
    pads = [int(p) for p in node.attributes.get_ints("pads", [0] * 2 * n)]
    ceil, include = (node.attributes.get_int(name, 0) for name in ("ceil_mode", "count_include_pad"))
    dilations = [int(d) for d in node.attributes.get_ints("dilations", [1] * n)]
    if known is None or not all(isinstance(d, int) for d in known[1:]):
        return
    if list(known[2:]) == kernel and not any(pads) and dilations == [1] * n:
        tape.become(node).Identity(tape.before(node).GlobalAveragePool(x))
        return
    if ceil or (any(pads) and not include):
        return
    channels = int(known[1] or 0)
    weights = np.full((channels, 1, *kernel), 1 / np.prod(kernel), np.float32)
    kept: dict[str, Any] = {"pads": pads, "dilations": dilations, "kernel_shape": kernel, "group": channels}
    kept["strides"] = [int(s) for s in node.attributes.get_ints("strides", [1] * n)]
    tape.become(node).Identity(tape.before(node).Conv(x, tape.const(weights, np.float32), **kept))


def _batch_normalization(tape: Tape, node: ir.Node) -> None:
    """A scale and a shift of each channel, where the statistics are constants."""
    x, *rest = node.inputs
    arrays = [array(value) for value in rest]
    assert x is not None
    known = dims(x)
    if known is None or any(a is None for a in arrays) or node.attributes.get_int("training_mode"):
        return
    scale, bias, mean, var = (np.asarray(a, np.float64) for a in arrays)
    factor = scale / np.sqrt(var + node.attributes.get_float("epsilon", 1e-5))
    shape = (-1, *([1] * (len(known) - 2)))
    arrays = [v.reshape(shape).astype(np.float32) for v in (factor, bias - mean * factor)]
    parts = [tape.const(v, np.float32) for v in arrays]
    tape.become(node).Identity(tape.before(node).Add(tape.before(node).Mul(x, parts[0]), parts[1]))


def _ramp(tape: Tape, node: ir.Node, alpha: float, beta: float) -> ir.Value:
    """alpha·x + beta between 0 and 1."""
    numbers = [tape.const(v, np.float32) for v in (alpha, beta, 0.0, 1.0)]
    line = tape.before(node).Add(tape.before(node).Mul(node.inputs[0], numbers[0]), numbers[1])
    return tape.before(node).Clip(line, numbers[2], numbers[3])


def _hard_sigmoid(tape: Tape, node: ir.Node) -> None:
    alpha, beta = (node.attributes.get_float(k, usual) for k, usual in (("alpha", 0.2), ("beta", 0.5)))
    tape.become(node).Identity(_ramp(tape, node, alpha, beta))


def _hard_swish(tape: Tape, node: ir.Node) -> None:
    tape.become(node).Identity(tape.before(node).Mul(node.inputs[0], _ramp(tape, node, 1 / 6, 0.5)))


_STEPS: dict[str, Callable[[Any, Any], None]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LayerNormalization": _layer_normalization,
    "Split": _split,
    "Sum": _sum,
}
