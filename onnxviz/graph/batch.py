"""What a glance at the graph tells about its batch: what mixes its images, and where they stand."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import dependent, flat, image_input, subgraphs
from onnxviz.graph.analysis.probe import Prober
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.operators import (
    BATCH_FIRST,
    BY_STATISTICS,
    CONTROL,
    OWN,
    POINTWISE,
    RECURRENT,
    RESHAPING,
    RESIZING,
    WEIGHTED,
    computes,
    computing,
)

# Measured on ONNX Runtime 1.32: the averages, which the standard makes outputs, are written over those of the file, and
# the same picture gives other values in the next run.
_IN_TRAINING = (
    "it is in training mode and normalises over all images of the batch; ONNX Runtime's results then depend on what "
    "ran before, so export the network for inference"
)
_RANGE = "it measures one range over all images of the batch"
# One range or one mean over the whole tensor: so ONNX and ONNX Runtime (ContribOperators.md) define them.
_MIXING = {
    "DynamicQuantizeLinear": _RANGE,
    "DynamicQuantizeMatMul": _RANGE,
    "DynamicQuantizeLSTM": _RANGE,
}
# What cannot read across axis 0 where the results' only axis that follows the batch is the first.
_LEADING = (POINTWISE | OWN | BATCH_FIRST | WEIGHTED | RESHAPING | RESIZING | computing("split")) - (
    {"DeformConv", "Einsum"} | computing("broadcast_to")
)
# ... and over another axis than the first, as their attributes say.
_ALONG = dict.fromkeys(computing("concatenate log_softmax softmax"), 1)
# These could bring the images to another axis than the first.
_MOVERS = RECURRENT | (CONTROL - {"If"}) | computing("transpose") | {"Einsum"}


def mixing(model: ir.Model, input: str | None = None) -> str | None:
    """The first node that by definition measures or normalises over a whole batch, and what it does; None: none.

    A look at the operators alone: `independent` follows the batch.
    """
    suspects = _MIXING.keys() | BY_STATISTICS
    if not model.functions and not any(
        [node.op_type in suspects and over_batch(node) for node in model.graph.all_nodes()]
    ):
        return None
    model = flat(model)
    moved = dependent(model.graph, image_input(model, input))
    for top, node in _nodes(model.graph):
        reason = over_batch(node)
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


def over_batch(node: ir.Node) -> str | None:
    """What the node measures or normalises over all images of the batch, in words; None where it does not."""
    if node.op_type in BY_STATISTICS:  # in training: said aloud from opset 14 on, before by its outputs
        mode = node.attributes.get("training_mode")
        training = len(node.outputs) > 1 or (mode is not None and not mode.is_ref() and bool(mode.as_int()))
        return _IN_TRAINING if training else None
    return _MIXING.get(node.op_type)


def plain(model: ir.Model, shapes: Sequence[tuple[str, tuple[int | str, ...]]]) -> bool:
    """True where a glance at operators and shapes shows that the open batch stays the first axis, whole and in order.

    For most convolutional networks; False tells nothing.

    shapes   the name and shape of every layer
    """
    if any(not shape or shape[0] != "N" for _, shape in shapes):
        return False
    if any(symbol in str(size) for _, shape in shapes for size in shape[1:] for symbol in "N?"):
        return False
    named = {name for name, _ in shapes}
    touching = (
        node
        for node in flat(model).graph
        if any(value is not None and value.name in named for value in (*node.inputs, *node.outputs))
    )
    return all(node.op_type == "Shape" or _keeps_first(node) for node in touching)


def _keeps_first(node: ir.Node) -> bool:
    twin = view(node)
    if not twin.standard or node.domain not in ("", "com.microsoft") or subgraphs(node):
        return False
    if twin.op in _ALONG:
        axis = twin.attributes.get("axis", _ALONG[twin.op])
        return isinstance(axis, int) and (axis > 0 or axis == -1)
    if computes(twin.op) == "max_pool" and len(node.outputs) > 1:
        return False
    return twin.op in _LEADING


def moved_axes(model: ir.Model, input: str | None = None) -> dict[str, int]:
    """The axis of the pictures for each value that has them on another axis than 0.

    Shapes are compared at two batches, where the file leaves the batch open; else the only axis that has the batch's
    size tells. Nothing is inferred for files in which no operator could move the axis.

    input    the image input's name; None: the only one
    """
    if not any([node.op_type in _MOVERS and _moves(node) for node in model.graph.all_nodes()]):
        return {}
    model = flat(model)
    prober = Prober(model, image_input(model, input))
    if prober.layout.batch is None:
        return {}
    if prober.open_batch:
        from onnxviz.graph.analysis.probe import probes, symbolic

        base, other, _ = probes(prober, prober.facts().size)
        known = symbolic(prober, base, other, None)
        return {
            name: shape.index("N") for name, shape in known.items() if "N" in shape[1:] and shape[0] != "N"
        }
    facts = prober.facts()
    found = {}
    for name, sizes in facts.shapes.items():
        if len(sizes) > 1 and sizes[0] != facts.batch and sizes.count(facts.batch) == 1:
            found[name] = sizes.index(facts.batch)
    return found


def _moves(node: ir.Node) -> bool:
    """Whether a node of `_MOVERS` could bring the pictures to another axis."""
    if computes(node.op_type) == "transpose":
        order = node.attributes.get("perm")
        return order is None or order.is_ref() or next(iter(order.as_ints()), 0) != 0
    return True
