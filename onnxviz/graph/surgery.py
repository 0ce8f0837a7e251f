"""Operations on the model as a whole: a part of it, more outputs; what mixes its pictures, and where they stand.

Most give copies that share the weights with the model they were given, and never change that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis.dataflow import (
    FLOATS,
    dependent,
    duplicate,
    flat,
    image_input,
    lookup,
    prune,
    subgraphs,
    weight,
)
from onnxviz.graph.analysis.probe import Prober, annotate, layout, probes, symbolic
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.naming import own_length, real_name
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
from onnxviz.graph.output import BEST, before, ranked
from onnxviz.graph.shapes import infer


def cut(model: ir.Model, outputs: Sequence[str]) -> ir.Model:
    """A copy whose outputs are these values, in this order, with only the nodes, weights and inputs they need.

    raises   UnknownLayer for a name that is no value of the graph, ModelUnsuitable where an element type
             cannot be told
    """
    copy = duplicate(model)
    values = lookup(copy.graph, outputs)
    copy.graph.outputs.clear()
    add_outputs(copy, values)
    prune_inputs(copy)
    return copy


def prune_inputs(model: ir.Model) -> None:
    """Drop what no output needs: nodes, weights, and inputs other than one at least."""
    prune(model)
    inputs = model.graph.inputs
    inputs[:] = [value for value in inputs if value.uses() or value.is_graph_output()] or list(inputs)


# --- values as outputs ----------------------------------------------------------------------------


def expose(model: ir.Model, names: Iterable[str] | None = None) -> ir.Model:
    """A copy of the model with more outputs; its own outputs stay, in front.

    names    names of values; None: every floating-point value that depends on an input
    returns  a copy that shares the weights; each new output bears its value's own name, element type and,
             where it is known, shape
    raises   UnknownLayer for a name that is no value of the graph, ModelUnsuitable for a value whose
             element type cannot be told (an output must declare it)
    """
    copy = duplicate(model)
    if names is None:
        annotate(copy)
        moved = set().union(*(dependent(copy.graph, value) for value in copy.graph.inputs))
        made = [value for node in copy.graph for value in node.outputs if value.name and value in moved]
        wanted = [value for value in made if value.dtype in FLOATS]
    else:
        wanted = lookup(copy.graph, names)
    add_outputs(copy, wanted)
    return copy


def with_scores(model: ir.Model) -> tuple[ir.Model, list[str]]:
    """A copy that also gives out the scores of which all outputs only tell where the largest is, or how large.

    returns  the copy, and the names of these scores; the model itself and none where an output tells more
    """
    ends = {value: ranked(value) for value in model.graph.outputs}
    sources = {end: None for end in ends.values() if end is not None and end.producer() is not None}
    numbers = [value for value in ends if value.dtype is None or value.dtype.is_floating_point()]
    if any(ends[value] is None and ranked(value, ("ReduceMax",)) not in sources for value in numbers):
        return model, []
    if not numbers:  # something else may be made of the places, such as another answer chosen
        behind = {one for value in ends for one in before(value)}
        inner = (one for node in model.graph for one in node.outputs if one in behind)
        found = (ranked(one, BEST) for one in inner)
        sources |= {end: None for end in found if end is not None and end.producer() is not None}
    names = [real_name(source) for source in sources]
    if not names:
        return model, []
    copy = duplicate(model)
    add_outputs(copy, lookup(copy.graph, names))
    return copy, names


def add_outputs(model: ir.Model, values: Iterable[ir.Value]) -> None:
    """Append these values to the model's outputs, each once, with element type and shape declared. Edits `model`."""
    present = set(model.graph.outputs)
    model.graph.outputs.extend(value for value in dict.fromkeys(values) if value not in present)
    declare_outputs(model)


def declare_outputs(model: ir.Model) -> None:
    """Fill in the element types and shapes that the outputs lack. Edits `model`.

    Raises ModelUnsuitable where an element type cannot be told; a shape that cannot be told is left out.
    """
    if any(value.type is None or value.shape is None for value in model.graph.outputs):
        annotate(model)
    for value in model.graph.outputs:
        if value.type is None:
            raise ModelUnsuitable(
                f"value {value.name!r} cannot be an output: its element type is not declared and cannot be inferred"
            )


# --- its batch: what a glance tells, and what keeps it open ---------------------------------------

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


def keep_batch(model: ir.Model, input: str | None = None) -> ir.Model:
    """A copy whose Squeeze nodes without axes never drop an open batch, as they would where it is one picture.

    They become Reshapes to what is left at any batch. A model without such a node is given back as it is.
    """
    if not any([computes(node.op_type) == "squeeze" and not _names_axes(node) for node in model.graph]):
        return model
    copy = duplicate(model)
    image = image_input(copy, input)
    if image.shape is None or isinstance(image.shape[0], int):
        return model
    if image.shape[0].value is None:
        image.shape = ir.Shape([own_length(copy.graph, "N"), *list(image.shape)[1:]])
    infer(copy)
    for node in copy.graph:
        if computes(node.op_type) != "squeeze" or _names_axes(node) or node.inputs[0] is None:
            continue
        first, *rest = node.inputs[0].shape or (None,)
        if first != image.shape[0] or not all(isinstance(size, int) for size in rest):
            continue
        sizes = np.array([0, *(size for size in rest if size != 1)], np.int64)
        kept = ir.tensor(sizes, name=f"{node.outputs[0].name}.kept")
        node.op_type = "Reshape"
        node.resize_inputs(2)
        node.replace_input_with(1, weight(copy.graph, kept))
    infer(copy)
    return copy


def _names_axes(node: ir.Node) -> bool:
    return "axes" in node.attributes or (len(node.inputs) > 1 and node.inputs[1] is not None)


def single(model: ir.Model, input: str | None = None) -> ir.Model:
    """A copy of a model of open batch that takes one image at a time."""
    copy = duplicate(model)
    image = image_input(copy, input)
    axis = layout(image).batch
    if image.shape is not None and axis is not None:
        image.shape = ir.Shape([1 if i == axis else size for i, size in enumerate(image.shape)])
    return copy
