"""Fold what is constant: Constant nodes, shape arithmetic, branches, Dropout, BatchNormalization behind a Conv."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from onnxviz.errors import ModelRejected, ModelUnsuitable
from onnxviz.graph.analysis.dataflow import clone, duplicate, release, weight
from onnxviz.graph.analysis.known_values import fold as known_values
from onnxviz.graph.naming import fresh, name_nodes, names
from onnxviz.graph.operators import BY_STATISTICS, SHAPE_ONLY, computes, computing
from onnxviz.graph.shapes import infer
from onnxviz.graph.tape import Tape, array, tensor

# ConstantOfShape with a constant shape becomes a weight up to this many elements (AlexNet's largest has 38 million).
_LARGEST = 1 << 27
_KEPT = computing("quantize dequantize quantize_measured")


def constants(model: ir.Model) -> None:
    """Constant and small ConstantOfShape nodes become initialisers, in place."""
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    graph = model.graph
    for node in list(graph):
        y = node.outputs[0] if len(node.outputs) == 1 else None
        if y is None or y.is_graph_output() or node.domain:
            continue
        if any(tensor(x) is None for x in node.inputs):
            continue
        result = _evaluate(node, [array(x) for x in node.inputs])
        if result is not None:
            _to_initialiser(graph, node, y, result)


def shapes(model: ir.Model) -> None:
    """Fold what exporters compute from constants only (pads built by Concat, Slice, Transpose...), in place.

    By onnxscript's folder, with its limits of size, and only where there is something to fold: loading it takes time,
    and 24 MB. Weights that stand as codes it leaves as they are.
    """
    known = (node for node in model.graph if node.inputs and all(tensor(x) is not None for x in node.inputs))
    if all(node.op_type in _KEPT for node in known):
        return
    from onnxscript.optimizer import fold_constants

    fold_constants(model, onnx_shape_inference=False)
    constants(model)


def lengths(model: ir.Model) -> bool:
    """What follows from known lengths (shape arithmetic) becomes constants, in place; whether there was any.

    ONNX Runtime folds it too. Requires inferred shapes.
    """
    graph = model.graph
    if not any(node.op_type in SHAPE_ONLY and not node.domain for node in graph):
        return False
    known = _known(graph)
    found = False
    for node in list(graph):
        # Only what is read by others: the nodes before it have no use then.
        for y in node.outputs:
            if y.name in known and any(z.name not in known for user in y.consumers() for z in user.outputs):
                _to_initialiser(graph, node, y, ir.tensor(known[y.name], name=y.name))
                found = True
    return found


def _evaluate(node: ir.Node, operands: list[Any]) -> ir.TensorProtocol | None:
    """The few operators that exporters leave around constants."""
    name = node.outputs[0].name
    if computes(node.op_type) == "full":
        shape = [int(d) for d in operands[0].reshape(-1)]  # ONNX Runtime takes a shape of any rank
        if min(shape, default=0) < 0 or int(np.prod(shape, dtype=object)) > _LARGEST:
            return None
        value = node.attributes.get("value")
        fill = np.zeros(1, np.float32) if value is None else value.as_tensor().numpy()
        # A broadcast view: no memory until somebody reads it as bytes.
        return ir.tensor(np.broadcast_to(fill.reshape(()), shape), name=name)
    if computes(node.op_type) == "identity":
        return ir.tensor(operands[0], name=name)
    return None


def _to_initialiser(graph: ir.Graph, node: ir.Node, y: ir.Value, contents: ir.TensorProtocol) -> None:
    """Let whoever reads y read a weight; the node goes where it is of no more use."""
    contents.name = y.name or "constant"
    shown = y.is_graph_output() or len(node.outputs) > 1
    if shown:
        contents.name = fresh(f"{contents.name}/constant", names(graph))
    new = weight(graph, contents)
    for user, place in tuple(y.uses()):  # an output of the graph stays one
        user.replace_input_with(place, new)
    if not shown:
        graph.remove(node, safe=True)


def branches(model: ir.Model, known: Mapping[str, np.ndarray] | None = None) -> bool:
    """An If whose condition is constant is replaced by the branch taken, in place; whether there was one.

    known   values that follow from lengths, by name
    """
    found = False
    while (choice := _first_decided(model.graph, known or {})) is not None:  # a branch may hold further ones
        node, branch = choice
        _splice(model.graph, node, node.attributes[branch].as_graph())
        found = True
    return found


def _first_decided(graph: ir.Graph, known: Mapping[str, np.ndarray]) -> tuple[ir.Node, str] | None:
    for node in graph:
        if computes(node.op_type) != "branch" or node.domain or node.inputs[0] is None:
            continue
        condition = array(node.inputs[0])
        if condition is None:
            condition = known.get(node.inputs[0].name or "")
        if condition is not None:
            return node, "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"
    return None


def decided(model: ir.Model) -> ir.Model:
    """`model` itself, or a copy in which every If whose condition follows from known lengths is the branch taken.

    Exporters write `If(channels == 1, Squeeze, Identity)` where torch's code asked for a shape: until that is decided
    not even the rank of what comes is known.
    """
    if not any(computes(node.op_type) == "branch" and not node.domain for node in model.graph):
        return model
    copy = duplicate(model)
    found = False
    try:
        while branches(copy, _known(_inferred(copy))):
            found = True
    except ModelRejected:  # it contradicts itself somewhere: whoever runs it is told
        pass
    if not found:
        return model
    name_nodes(copy.graph)
    return copy


def _inferred(model: ir.Model) -> ir.Graph:
    other = clone(model)
    infer(other)
    return other.graph


def _known(graph: ir.Graph) -> dict[str, np.ndarray]:
    """What follows from the lengths that the graph's values have."""
    shapes = {
        value.name or "": tuple(d if isinstance(d, int) else None for d in value.shape)
        for value in (
            *graph.inputs,
            *graph.initializers.values(),
            *(y for node in graph for y in node.outputs),
        )
        if value.shape is not None
    }
    return known_values(graph, shapes)


def _splice(graph: ir.Graph, node: ir.Node, body: ir.Graph) -> None:
    """Put the body's nodes in the node's place; what they make for outside has the names of the node's outputs."""
    taken = names(graph)
    stem = node.name or "if"
    for value in list(body.initializers.values()):
        body.initializers.pop(value.name or "")
        value.name = fresh(f"{stem}/{value.name}", taken)
        graph.register_initializer(value)
    inner = list(body)
    results = list(body.outputs)
    body.outputs.clear()
    own = set()
    for item in inner:
        body.remove(item)
        item.name = f"{stem}/{item.name}" if item.name else None
        for value in item.outputs:
            if value.name:
                value.name = fresh(f"{stem}/{value.name}", taken)
            own.add(value)
        node.prepend(item)
    for y, result in zip(list(node.outputs), results, strict=True):
        # The branch may hand out a value from outside, which keeps its own name: an Identity carries y's.
        if result not in own and y.is_graph_output():
            carrier = ir.Value(name=None, type=y.type, shape=y.shape)
            node.prepend(ir.node("Identity", [result], outputs=[carrier], name=f"{stem}/{y.name}"))
            own.add(carrier)
            result = carrier  # noqa: PLW2901
        name = y.name
        y.replace_all_uses_with(result, replace_graph_outputs=True)
        if result in own:
            own.remove(result)  # handed out a second time, it needs a carrier
            y.name = None  # y has let go of it
            result.name = name
    release(node)  # the other branch too
    graph.remove(node, safe=True)


def dropout(model: ir.Model) -> None:
    """Dropout at inference is the identity; one in training mode is refused, in place."""
    for node in list(model.graph):
        if computes(node.op_type) != "dropout" or node.domain:
            continue
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            training = array(node.inputs[2])
            if training is None or bool(training.reshape(-1)[0]):
                raise ModelUnsuitable(
                    f"Dropout {node.name!r} is in training mode: export the model for inference"
                )
        if len(node.outputs) > 1 and (node.outputs[1].uses() or node.outputs[1].is_graph_output()):
            continue
        if node.outputs[0].is_graph_output():
            Tape.become(node).Identity(node.inputs[0])
        else:
            x = node.inputs[0]
            assert x is not None
            node.outputs[0].replace_all_uses_with(x)
            model.graph.remove(node, safe=True)


def batch_norms(model: ir.Model) -> None:
    """Fold an inference BatchNormalization into the Conv, ConvTranspose or Gemm in front of it, in place.

    Before differentiating: afterwards the backward convolution would hold the unfolded weights.
    """
    graph = model.graph
    taken = names(graph)
    for node in list(graph):
        if node.op_type not in BY_STATISTICS or node.domain:
            continue
        x = node.inputs[0]
        conv = None if x is None else x.producer()
        if (
            x is None or conv is None or computes(conv.op_type) not in ("conv", "conv_transpose")
            or conv.domain or len(x.uses()) != 1 or x.is_graph_output() or len(node.outputs) > 1
            or bool(node.attributes.get_int("training_mode", 0))
        ):  # fmt: skip
            continue
        parameters = [array(v) for v in node.inputs[1:5]]
        weights = tensor(conv.inputs[1])
        has_bias = len(conv.inputs) > 2 and conv.inputs[2] is not None
        bias = array(conv.inputs[2]) if has_bias else np.zeros(1, dtype=np.float32)
        if weights is None or bias is None or any(p is None for p in parameters):
            continue
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        _fold(conv, node, (weights, bias), parameters, epsilon, taken)


def _fold(conv: ir.Node, node: ir.Node, own: Any, parameters: Any, epsilon: float, taken: set[str]) -> None:
    graph = conv.graph
    assert isinstance(graph, ir.Graph)
    weights, bias = own
    dtype, shape = weights.dtype.numpy(), weights.shape.numpy()
    scale, shift, mean, var = (p.astype(np.float64) for p in parameters)
    gain = scale / np.sqrt(var + epsilon)
    if computes(conv.op_type) == "conv":
        along: Any = gain.reshape(-1, *([1] * (len(shape) - 1)))
    else:  # (C_in, C_out / group, ...): the outputs of a group lie along axis 1, the groups along axis 0
        group = conv.attributes.get_int("group", 1)
        along = np.repeat(gain.reshape(group, 1, -1), shape[0] // group, axis=1)
        along = along.reshape(shape[0], -1, *([1] * (len(shape) - 2)))
    stem = node.outputs[0].name or node.name or "conv"
    kernel, moved = (fresh(f"{stem}/{what}", taken) for what in ("weight", "bias"))
    folded = ir.LazyTensor(  # whoever asks for operators alone reads none
        lambda: ir.tensor((weights.numpy() * along).astype(dtype), name=kernel),
        weights.dtype, ir.Shape(shape), cache=True, name=kernel,
    )  # fmt: skip
    shifted = ir.tensor((shift + (bias - mean) * gain).astype(dtype), name=moved)
    conv.resize_inputs(3)
    conv.replace_input_with(1, weight(graph, folded))
    conv.replace_input_with(2, weight(graph, shifted))
    # The convolution's output takes the name of what it now computes, its node that of the layer.
    y, out = node.outputs[0], conv.outputs[0]
    name, out.shape = y.name, y.shape
    y.replace_all_uses_with(out, replace_graph_outputs=True)
    graph.remove(node, safe=True)
    y.name = None
    out.name = name
