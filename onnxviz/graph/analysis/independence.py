"""Whether the pictures of a batch are kept apart: whether each gives beside others what it gives alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir

from onnxviz.graph.analysis.batch_step import IN_TRAINING, Mixes, Refused, in_training
from onnxviz.graph.analysis.dataflow import dependent, duplicate, flat, image_input, subgraphs
from onnxviz.graph.analysis.probe import layout
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.operators import BATCH_FIRST, OWN, POINTWISE, WEIGHTED, operators

if TYPE_CHECKING:
    from onnxviz.graph.layers import Layer

_RANGE = "it measures one range over all images of the batch"
# One range or one mean over the whole tensor: so ONNX and ONNX Runtime (ContribOperators.md) define them.
_MIXING = {
    "DynamicQuantizeLinear": _RANGE,
    "DynamicQuantizeMatMul": _RANGE,
    "DynamicQuantizeLSTM": _RANGE,
}
# What cannot read across axis 0 where the results' only axis that follows the batch is the first.
_LEADING = (POINTWISE | OWN | BATCH_FIRST | WEIGHTED | operators(lambda row: row.sees in ("reshape", "resize"))
            | {"Split"}) - {"DeformConv", "Einsum", "Expand"}  # fmt: skip
# ... and over another axis than the first, as their attributes say.
_ALONG = {"Concat": 1, "LogSoftmax": 1, "Softmax": 1}


def mixing(model: ir.Model, input: str | None = None) -> str | None:
    """The first node that by definition measures or normalises over a whole batch, and what it does; None: none.

    A look at the operators alone: `independent` follows the batch.
    """
    found = [(top, node, reason) for top, node in _nodes(model.graph) if (reason := _over_batch(node))]
    if not found and not model.functions:
        return None
    model = flat(model)
    moved = dependent(model.graph, image_input(model, input))
    for top, node in _nodes(model.graph):
        reason = _over_batch(node)
        if reason and any(value in moved for value in top.outputs):
            return f"{node.name or top.outputs[0].name!r} ({node.op_type}): {reason}"
    return None


def _nodes(graph: ir.Graph) -> Iterator[tuple[ir.Node, ir.Node]]:
    """Every node, those of branches and loops too, with the node of the main graph that it is in."""
    for node in graph:
        yield node, node
        for body in subgraphs(node):
            for _, inner in _nodes(body):
                yield node, inner


def _over_batch(node: ir.Node) -> str | None:
    if node.op_type == "BatchNormalization" and in_training(node):
        return IN_TRAINING
    return _MIXING.get(node.op_type)


def plain(model: ir.Model, layers: Sequence[Layer]) -> bool:
    """True where a glance at operators and shapes shows that the open batch stays the first axis, whole and in order.

    For most convolutional networks; False tells nothing.
    """
    if any(not layer.shape or layer.shape[0] != "N" for layer in layers):
        return False
    if any(symbol in str(size) for layer in layers for size in layer.shape[1:] for symbol in "N?"):
        return False
    named = {layer.name for layer in layers}
    touching = (
        node
        for node in flat(model).graph
        if any(value is not None and value.name in named for value in (*node.inputs, *node.outputs))
    )
    return all(node.op_type == "Shape" or _keeps_first(node) for node in touching)


def _keeps_first(node: ir.Node) -> bool:
    twin = view(node)
    if (
        not twin.standard
        or node.domain not in ("", "com.microsoft")
        or next(subgraphs(node), None) is not None
    ):
        return False
    if twin.op in _ALONG:
        axis = twin.attributes.get("axis", _ALONG[twin.op])
        return isinstance(axis, int) and (axis > 0 or axis == -1)
    if twin.op == "MaxPool" and len(node.outputs) > 1:
        return False
    return twin.op in _LEADING


def independent(model: ir.Model, input: str | None = None) -> None:
    """Prove that a model of open batch keeps the images of a batch apart, by following its axis through every node.

    raises   Mixes where it does not, Refused where that cannot be told; both name the node
    """
    from onnxviz.graph.analysis.freeing import Freeing

    copy = duplicate(model)
    image = image_input(copy, input)
    axis = layout(image).batch
    if axis is None:
        raise Refused("its input has no batch axis")
    Freeing(copy, image, axis).walk()


__all__ = ["Mixes", "Refused", "independent", "mixing", "plain"]
