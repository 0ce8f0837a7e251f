"""Lift a model of an older opset to opset 18, operator by operator.

Only what changed its form between opset 7 and 18 is rewritten; the rest means the same in both. onnxscript's
`ConvertVersionPass` leaves opsets under 18 to onnx's C++ converter: native code on a stranger's file in the caller's
process, 324 modules and 0.6 s to import, and 10 to 90 times the time (SqueezeNet 89 ms for 1, DenseNet-121 0.66 s for
0.06), with a warning on stderr; it wants static shapes for some steps and writes float32 bounds into float16 models.

Operators that the standard itself defines by others (Attention and its like) are written out by that definition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis.dataflow import constant, inline
from onnxviz.graph.naming import fresh, names
from onnxviz.graph.operators import computing
from onnxviz.graph.shapes import infer
from onnxviz.graph.tape import Tape

TARGET = 18
OLDEST = 7
GROUPED = 21


def lift(model: ir.Model) -> None:
    """Bring the standard domain to at least opset 18, in place; a newer opset is left as it is.

    raises   ModelUnsuitable for an opset older than 7, or an operator whose old form cannot be lifted
    """
    version = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))
    _spell_out(model)
    if version >= TARGET:
        _group_normalization(model, version)
        return
    if version < OLDEST:
        raise ModelUnsuitable(
            f"the model has opset {version}; gradients need {OLDEST} or later: export it again with a newer opset, "
            "or convert it with onnx.version_converter"
        )
    tape = Tape(model.graph)
    for node in list(model.graph.all_nodes()):
        if node.domain:
            continue
        for since, step in _STEPS.get(node.op_type, ()):
            if version < since:
                step(tape, node)
                if node.graph is None:  # the step replaced the node
                    break
        else:
            _same_form(node, version)
        node.version = None
    for graph in model.graphs():
        graph.opset_imports[""] = TARGET
        graph.opset_imports.pop("ai.onnx", None)


def _spell_out(model: ir.Model) -> None:
    """A default that onnx's own shape inference trips over; axes that x has not are none, as in ONNX Runtime."""
    for node in model.graph.all_nodes():
        if node.op_type == "MeanVarianceNormalization" and not node.domain:
            axes = node.attributes.get_ints("axes", [0, 2, 3])
            x = node.inputs[0]
            rank = len(x.shape) if x is not None and x.shape is not None else None
            kept = [axis for axis in axes or () if rank is None or -rank <= axis < rank]
            Tape.attributes(node, axes=kept)


def _group_normalization(model: ir.Model, version: int) -> None:
    """Opsets 18 to 20 have one scale a group, a form that onnx.checker refuses since; 21 has one a channel.

    From 18 to 21 nothing else changed its meaning, so the whole model goes to 21.
    """
    nodes = [n for n in model.graph.all_nodes() if n.op_type == "GroupNormalization" and not n.domain]
    if version >= GROUPED or not nodes:
        return
    tape = Tape(model.graph)
    for node in nodes:
        x = node.inputs[0]
        if x is None or x.shape is None or not isinstance(x.shape[1], int):
            raise ModelUnsuitable(f"GroupNormalization {node.name!r} has an unknown number of channels")
        groups = node.attributes["num_groups"].as_int()
        for i in (1, 2):
            column = tape.before(node).Unsqueeze(node.inputs[i], tape.const([1]))
            wide = tape.before(node).Expand(column, tape.const([groups, x.shape[1] // groups]))
            node.replace_input_with(i, tape.before(node).Reshape(wide, tape.const([-1])))
    for graph in model.graphs():
        graph.opset_imports[""] = GROUPED


def _same_form(node: ir.Node, version: int) -> None:
    """Refuse an operator that opset 18 does not know in this form."""
    try:
        known = onnx.defs.get_schema(node.op_type, TARGET, "")
    except onnx.defs.SchemaError:
        raise ModelUnsuitable(f"operator {node.op_type} of opset {version} is not of the standard") from None
    if known.deprecated or set(node.attributes) - set(known.attributes):
        raise ModelUnsuitable(
            f"operator {node.op_type} (node {node.name!r}) has a form of opset {version} that cannot be lifted to "
            f"opset {TARGET}: export the model again with a newer opset"
        )


# --- the steps --------------------------------------------------------------------------------


def _pop(node: ir.Node, name: str, default: Any = None) -> Any:
    attribute = node.attributes.pop(name, None)
    return default if attribute is None else attribute.value


def _float(node: ir.Node) -> Any:
    """The numpy type of the node's data, float32 where the file does not tell."""
    dtype = node.inputs[0].dtype if node.inputs[0] is not None else None
    return np.float32 if dtype is None else dtype.numpy()


def _as_inputs(*names: str, dtype: Any = None, **defaults: Any) -> Step:
    """Attributes that became inputs behind the first: whole numbers as a vector, a real one in the data's type."""

    def written(tape: Tape, node: ir.Node, given: Any) -> ir.Value | None:
        if given is None:
            return None
        if isinstance(given, float):
            return tape.const(given, _float(node))
        return tape.const([given] if isinstance(given, int) else given, dtype)

    def step(tape: Tape, node: ir.Node) -> None:
        inputs = [written(tape, node, _pop(node, name, defaults.get(name))) for name in names]
        while inputs and inputs[-1] is None:
            inputs.pop()
        if inputs:
            tape.reads(node, node.inputs[0], *inputs)

    return step


def _slice(tape: Tape, node: ir.Node) -> None:
    if not node.attributes.get_ints("axes", []):  # the first ones
        Tape.attributes(node, axes=None)
    _as_inputs("starts", "ends", "axes")(tape, node)


def _split_count(tape: Tape, node: ir.Node) -> None:
    if len(node.inputs) < 2 or node.inputs[1] is None:
        Tape.attributes(node, num_outputs=len(node.outputs))


def _batch_normalization(tape: Tape, node: ir.Node) -> None:
    if not _pop(node, "spatial", 1):
        raise ModelUnsuitable(
            f"BatchNormalization {node.name!r} has spatial=0, which no later opset can express"
        )


def _one_output(tape: Tape, node: ir.Node) -> None:
    """The old training form, told by its further outputs: saved statistics, which nobody may use."""
    if len(node.outputs) == 1:
        return
    if any(y.uses() or y.is_graph_output() for y in node.outputs[1:]):
        raise ModelUnsuitable(
            f"{node.op_type} {node.name!r} is in training form, and its statistics are used: export the model for "
            "inference"
        )
    node.resize_outputs(3)
    Tape.attributes(node, training_mode=1)


def _dropout(tape: Tape, node: ir.Node) -> None:
    """The old form had the ratio as an attribute and did nothing at inference; nor does the new one."""
    _pop(node, "ratio")


def _flat_softmax(tape: Tape, node: ir.Node) -> None:
    """Before opset 13 everything from `axis` on was one axis: flatten, take it over the last axis, shape back."""
    axis = _pop(node, "axis", 1)
    x = node.inputs[0]
    assert x is not None
    Tape.attributes(node, axis=-1)
    if axis == -1 or (x.shape is not None and axis % max(len(x.shape), 1) == len(x.shape) - 1):
        return
    if axis < 0:
        if x.shape is None:
            raise ModelUnsuitable(
                f"{node.op_type} {node.name!r} counts its axis from the end of an unknown rank"
            )
        axis += len(x.shape)
    flat, shape = tape.before(node).Flatten(x, axis=axis), tape.before(node).Shape(x)
    tape.become(node).Reshape(tape.before(node).add(node.op_type, flat, axis=-1), shape)


def _old_resize(tape: Tape, node: ir.Node) -> None:
    """Upsample and Resize-10: asymmetric coordinates, region of interest not yet invented.

    The nearest place: rounded down, but up along an axis that shrinks, as ONNX Runtime has it.
    """
    mode = node.attributes.get_string("mode", "nearest")
    node.op_type = "Resize"
    Tape.attributes(node, mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    scales = node.inputs[1]
    tape.reads(node, node.inputs[0], None, scales)
    tensor = constant(scales) if scales is not None else None
    if mode != "nearest" or tensor is None:
        return
    factors = tensor.numpy().reshape(-1)
    if (factors < 1).any():
        if (factors > 1).any():
            # An axis of length 1 doubles along: alone, those that grow by too little to get longer would be left out.
            rank = tape.const([len(factors)])
            grown = tape.const([*np.maximum(factors, 1), 2], np.float32)
            attributes = {name: attribute.value for name, attribute in node.attributes.items()}
            x = tape.before(node).Unsqueeze(node.inputs[0], rank)
            x = tape.before(node).Resize(x, None, grown, **attributes)
            x = tape.before(node).Gather(x, tape.const(0), axis=len(factors))
            tape.reads(node, x, None, tape.const(np.minimum(factors, 1), np.float32))
        Tape.attributes(node, nearest_mode="ceil")


def _resize_11(tape: Tape, node: ir.Node) -> None:
    """The form of opset 11 had to give roi and scales even where unused: an empty tensor stood for 'none'."""
    text = node.attributes.get_string
    if text("coordinate_transformation_mode") == "tf_half_pixel_for_nn":
        if (text("mode", "nearest"), text("nearest_mode", "round_prefer_floor")) != ("nearest", "floor"):
            raise ModelUnsuitable(
                f"Resize {node.name!r} has coordinate mode tf_half_pixel_for_nn, dropped in opset 13"
            )
        # floor(t) is t - 1/2 rounded, halves up
        Tape.attributes(node, nearest_mode="round_prefer_ceil", coordinate_transformation_mode="half_pixel")
    for i in (1, 2):
        value = node.inputs[i] if i < len(node.inputs) else None
        if value is not None and value.const_value is not None and value.const_value.size == 0:
            node.replace_input_with(i, None)


def _scatter(tape: Tape, node: ir.Node) -> None:
    node.op_type = "ScatterElements"


def _roi_align(tape: Tape, node: ir.Node) -> None:
    Tape.attributes(node, coordinate_transformation_mode="output_half_pixel")


Step = Callable[[Tape, ir.Node], None]
_REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
_STEPS: dict[str, tuple[tuple[int, Step], ...]] = {
    "BatchNormalization": ((9, _batch_normalization), (14, _one_output)),
    **dict.fromkeys(computing("clip"), ((11, _as_inputs("min", "max")),)),
    "Dropout": ((12, _dropout),),
    "Hardmax": ((13, _flat_softmax),),
    "LogSoftmax": ((13, _flat_softmax),),
    "Pad": ((11, _as_inputs("pads", "value", value=0.0)),),
    "ReduceSum": ((13, _as_inputs("axes")),),
    "Resize": ((11, _old_resize), (13, _resize_11)),
    "RoiAlign": ((16, _roi_align),),
    "Scatter": ((11, _scatter),),
    "Slice": ((10, _slice),),
    "Softmax": ((13, _flat_softmax),),
    "Split": ((13, _as_inputs("split")), (18, _split_count)),
    "Squeeze": ((13, _as_inputs("axes")),),
    "TopK": ((10, _as_inputs("k")),),
    "Unsqueeze": ((13, _as_inputs("axes")),),
    "Upsample": ((9, _as_inputs("scales", dtype=np.float32)), (10, _old_resize)),
    **{f"Reduce{kind}": ((18, _as_inputs("axes")),) for kind in _REDUCTIONS},
}


# --- operators that the standard defines by others ------------------------------------------------

#: Operators whose definition in the standard is a function of operators that have gradient rules.
EXPANDED = frozenset({
    "Attention", "CausalConvWithState", "LinearAttention", "NegativeLogLikelihoodLoss", "RotaryEmbedding",
    "SoftmaxCrossEntropyLoss", "SwiGLU", "BlackmanWindow", "HammingWindow", "HannWindow",
})  # fmt: skip
_EXPANDED_DOMAIN = "onnxviz.expanded"


def expand(model: ir.Model) -> None:
    """Replace every such operator by its definition, in place.

    raises   ModelUnsuitable where the standard has no definition for the node's form
    """
    nodes = [n for n in model.graph.all_nodes() if n.op_type in EXPANDED and not n.domain]
    if not nodes:
        return
    version = model.opset_imports[""]
    infer(model)
    taken = names(model.graph)
    for count, node in enumerate(nodes):
        for y in node.outputs:
            y.name = y.name or fresh(f"{node.name}/left_out", taken)
        function = _definition(node, version)
        function.name, function.domain = f"{node.op_type}_{count}", _EXPANDED_DOMAIN
        found = ir.serde.deserialize_function(function)
        model.functions[found.identifier()] = found
        node.domain, node.op_type = _EXPANDED_DOMAIN, function.name
    for graph in model.graphs():
        graph.opset_imports[_EXPANDED_DOMAIN] = 1
    inline(model)
    for graph in model.graphs():
        graph.opset_imports.pop(_EXPANDED_DOMAIN, None)


def _definition(node: ir.Node, version: int) -> onnx.FunctionProto:
    """The function that the standard gives for this node; its shape depends on inputs and attributes."""
    schema: Any = onnx.defs.get_schema(node.op_type, version, "")  # its type stubs miss the functions
    versions = schema.context_dependent_function_opset_versions or schema.function_opset_versions
    fitting = [v for v in versions if v <= version]
    if not fitting:
        raise ModelUnsuitable(
            f"the standard does not define {node.op_type} of opset {version} (node {node.name!r}) by other operators"
        )
    for name, formal in schema.attributes.items():
        if name not in node.attributes and formal.default_value.name:
            node.attributes[name] = ir.serde.deserialize_attribute(formal.default_value)
    if schema.has_context_dependent_function:
        proto = ir.serde.serialize_node(node).SerializeToString()
        body = schema.get_context_dependent_function_with_opset_version(
            max(fitting), proto, [_type(x) for x in node.inputs]
        )
    else:
        body = schema.get_function_with_opset_version(max(fitting))
    function = onnx.FunctionProto()
    function.ParseFromString(body)
    made = {name for inner in function.node for name in inner.output} | set(function.input)
    for name in function.output:  # what the form at hand does not give, and nothing may read
        if name not in made:
            nothing = onnx.helper.make_tensor("nothing", onnx.TensorProto.FLOAT, [0], [])
            function.node.append(onnx.helper.make_node("Constant", [], [name], value=nothing))
    del function.output[len(node.outputs) :]  # optional outputs that the node leaves out are not computed
    return function


def _type(value: ir.Value | None) -> bytes:
    kind = onnx.TypeProto() if value is None else ir.serde.serialize_value(value).type
    return bytes(kind.SerializeToString())
