"""What the gradient builder of ONNX Runtime 1.19.2 can be trusted with, and other forms for what it cannot.

It has no gradient of many operators; of some it has one that is wrong, or that ends the process: AveragePool's kernel
divides by zero; where an output of Split is not used, the cotangents of the others are put together as if there were
no such part; a broadcast side of Where is not summed; the exponent of Pow gets nothing. So only operators and forms are
handed to it that the tests hold against native gradients, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.errors import UnsupportedOperator
from onnxviz.grad import rules, table
from onnxviz.grad.backward import reads
from onnxviz.grad.model import all_values
from onnxviz.graph.infer import infer
from onnxviz.graph.tape import Tape, array, dims

assert rules  # importing the package fills the table of operators without a derivative

TRUSTED = frozenset({
    "Abs", "Add", "Cast", "Clip", "Concat", "Conv", "Div", "Erf", "Exp", "Expand", "Flatten", "Gather",
    "GatherElements", "GatherND", "Gemm", "GlobalAveragePool", "Identity", "LayerNormalization", "LeakyRelu",
    "Log", "LogSoftmax", "MatMul", "Max", "MaxPool", "Min", "Mul", "Neg", "Pad", "Pow", "ReduceL2",
    "ReduceLogSumExp", "ReduceMean", "ReduceSum", "Relu", "Reshape", "Sigmoid", "Slice", "Softmax", "Sqrt",
    "Squeeze", "Sub", "Tanh", "Tile", "TopK", "Transpose", "Unsqueeze", "Where",
})  # fmt: skip


def spell_out(model: ir.Model) -> None:
    """Write operators that the builder lacks or gets wrong in others, in place."""
    tape = Tape(model.graph)
    for node in list(model.graph):
        step = _STEPS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
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
        known = table.key(node.op_type, node.domain) in TRUSTED
        if not known or not _FORMS.get(node.op_type, _any)(node, reached):
            layer = next((y.name for y in node.outputs if y.name), "?")
            trust = "in a form" if known else "one"
            raise UnsupportedOperator(
                f"operator {table.key(node.op_type, node.domain)} (node {node.name or '?'!r}, layer {layer!r}) is "
                f"{trust} that backend 'ort-training' is not trusted with: use --backend native or torch, or take "
                "a gradient that does not pass this layer"
            )
        reached.update(node.outputs)


def _any(node: ir.Node, reached: Collection[ir.Value]) -> bool:
    return True


def _one_shape(node: ir.Node, reached: Collection[ir.Value]) -> bool:
    """What is differentiated is not broadcast."""
    y = dims(node.outputs[0])
    return (
        y is not None
        and None not in y
        and all(dims(x) == y for x in node.inputs if x in reached and x is not None)
    )


def _matrices(node: ir.Node, reached: Collection[ir.Value]) -> bool:
    """No operand is a vector."""
    shapes = [dims(x) for x in node.inputs if x is not None]
    return all(shape is not None and len(shape) > 1 for shape in shapes)


def _forwards(node: ir.Node, reached: Collection[ir.Value]) -> bool:
    """Every step is positive."""
    if len(node.inputs) < 5 or node.inputs[4] is None:
        return True
    steps = array(node.inputs[4])
    return steps is not None and bool((steps > 0).all())


# Forms in which the builder is wrong (the exponent of Pow, a broadcast side of Where) or fails.
_FORMS: dict[str, Callable[[ir.Node, Collection[ir.Value]], bool]] = {
    "MatMul": _matrices,
    "Pad": lambda node, reached: len(node.inputs) < 4 or node.inputs[3] is None,
    "Pow": lambda node, reached: node.inputs[1] not in reached,
    "Slice": _forwards,
    "Where": _one_shape,
}


def _sum(tape: Tape, node: ir.Node) -> None:
    total = node.inputs[0]
    for x in node.inputs[1:]:
        total = tape.before(node, "Add", total, x)
    assert total is not None
    tape.become(node, "Identity", total)


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
            cut = tape.before(node, "Slice", x, *place)
            twin = tape.before(node, "Identity", cut)
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
        tape.become(node, "Identity", tape.before(node, "GlobalAveragePool", x))
        return
    if ceil or (any(pads) and not include):
        return
    channels = int(known[1] or 0)
    weights = np.full((channels, 1, *kernel), 1 / np.prod(kernel), np.float32)
    kept: dict[str, Any] = {"pads": pads, "dilations": dilations, "kernel_shape": kernel, "group": channels}
    kept["strides"] = [int(s) for s in node.attributes.get_ints("strides", [1] * n)]
    tape.become(node, "Identity", tape.before(node, "Conv", x, tape.const(weights, np.float32), **kept))


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
    parts = [
        tape.const(v.reshape(shape).astype(np.float32), np.float32) for v in (factor, bias - mean * factor)
    ]
    tape.become(node, "Identity", tape.before(node, "Add", tape.before(node, "Mul", x, parts[0]), parts[1]))


def _ramp(tape: Tape, node: ir.Node, alpha: float, beta: float) -> ir.Value:
    """alpha·x + beta between 0 and 1."""
    numbers = [tape.const(v, np.float32) for v in (alpha, beta, 0.0, 1.0)]
    line = tape.before(node, "Add", tape.before(node, "Mul", node.inputs[0], numbers[0]), numbers[1])
    return tape.before(node, "Clip", line, numbers[2], numbers[3])


def _hard_sigmoid(tape: Tape, node: ir.Node) -> None:
    alpha, beta = (node.attributes.get_float(k, usual) for k, usual in (("alpha", 0.2), ("beta", 0.5)))
    tape.become(node, "Identity", _ramp(tape, node, alpha, beta))


def _hard_swish(tape: Tape, node: ir.Node) -> None:
    tape.become(node, "Identity", tape.before(node, "Mul", node.inputs[0], _ramp(tape, node, 1 / 6, 0.5)))


_STEPS: dict[str, Callable[[Any, Any], None]] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_normalization,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LayerNormalization": _layer_normalization,
    "Split": _split,
    "Sum": _sum,
}
