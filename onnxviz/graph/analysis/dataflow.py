"""Small common ground of what reads or edits an `ir.Model`: copies, what a node reads, what depends on the image."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from itertools import chain

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from onnxviz.errors import ModelRejected, ModelUnsuitable, UnknownLayer, near
from onnxviz.graph.operators import CONTROL, GROWING, SHAPE_ONLY, computes, operator
from onnxviz.text import quoted

FLOATS = frozenset(t for t in ir.DataType if t.name.startswith(("FLOAT", "BFLOAT", "DOUBLE")))
"""Floating-point element types."""
QUANTISED = frozenset(
    t for t in ir.DataType if t.name in ("INT4", "UINT4", "INT8", "UINT8", "INT16", "UINT16")
)
"""Element types that quantised activations and weights are stored in."""

FED = "onnxviz.fed"
"""Marks what stands beside the pictures, fed as a constant: one picture's share, maybe (`ir.Value.meta`)."""

_BODIES = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
# How long the first takes is told by no number beforehand; the second chooses between bodies.
_ALWAYS = CONTROL & GROWING


def clone(model: ir.Model) -> ir.Model:
    """A copy whose graphs, nodes, values and types are its own; weight tensors are the caller's own objects.

    onnx-ir's clone hands on the type objects too, and `value.dtype = ...` changes these in place: what is set in the
    copy (half precision computed in float32) would be set in the original.
    """
    copy = model.clone()
    _own_types(copy)
    return copy


def inline(model: ir.Model) -> None:
    """Put the bodies of model-local functions in the place of their calls, in place.

    Every call has types of its own afterwards: one may be of float32, another of half precision.

    raises   ModelRejected where that cannot be done: a function is written in another version of an operator set than
             the model, and one of its operators is another in the two
    """
    if not model.functions:
        return
    _same_versions(model)
    try:
        passes.InlinePass()(model)
    except (ValueError, RuntimeError, ir.passes.PassError) as reason:
        raise ModelRejected(f"the model's functions cannot be inlined: {reason}") from reason
    _own_types(model)


def _same_versions(model: ir.Model) -> None:
    """Functions import what the model imports, where what they hold reads the same in both versions."""
    for function in model.functions.values():
        for domain, version in list(function.opset_imports.items()):
            wanted = model.opset_imports.get(domain, version)
            if wanted == version:
                continue
            for node in function.graph.all_nodes():
                if node.domain == domain and _form(node, version) != _form(node, wanted):
                    raise ModelRejected(
                        f"the function {quoted(function.name)} is written in version {version} of "
                        f"{quoted(domain or 'ai.onnx')} and the model in {wanted}, and {quoted(node.op_type)} is "
                        "another operator in the two; convert the model to one version (onnx.version_converter)"
                    )
            function.opset_imports[domain] = wanted


def _form(node: ir.Node, version: int) -> tuple[object, ...] | None:
    """The inputs and attributes that the operator takes in this version; later ones often only add types."""
    try:
        schema = onnx.defs.get_schema(node.op_type, version, node.domain)
    except onnx.defs.SchemaError:
        return None
    attributes = sorted((name, one.type, one.required) for name, one in schema.attributes.items())
    return (schema.deprecated, *((one.name, one.option) for one in schema.inputs), *attributes)


def _own_types(model: ir.Model) -> None:
    bodies = [function.graph for function in model.functions.values()]
    for graph in (*model.graphs(), *bodies, *(inner for body in bodies for inner in body.subgraphs())):
        made = chain.from_iterable([node.outputs for node in graph])
        for value in (*graph.inputs, *graph.initializers.values(), *made):
            known = value.type
            if isinstance(known, ir.TensorType):  # by far the most, and a deep copy takes long
                value.type = ir.TensorType(known.dtype, denotation=known.denotation)
            elif known is not None:
                value.type = deepcopy(known)


def duplicate(model: ir.Model) -> ir.Model:
    """A copy to edit (see `clone`), in which each value can be addressed.

    Calls of model-local functions are inlined, always into the same names. Files of IR version 3 demand that weights
    are listed as inputs too; the copy is raised to version 4, which does not.
    """
    copy = clone(model)
    inline(copy)
    copy.ir_version = max(copy.ir_version or 0, 4)
    return copy


def flat(model: ir.Model) -> ir.Model:
    """`model` itself where it has no model-local functions, else a copy with these inlined. Only to be read."""
    return duplicate(model) if model.functions else model


def prune(model: ir.Model) -> None:
    """Drop the nodes and weights that no output needs, in place.

    By what the outputs depend on, not by who still reads a value: onnx-ir counts the nodes inside a removed If among
    the readers of what they captured, for good.
    """
    graph = model.graph
    live: set[ir.Value] = set(graph.outputs)
    for node in reversed(graph):
        if not live.isdisjoint(node.outputs):
            live.update(reads(node))
        else:
            release(node)
            graph.remove(node)
    passes.RemoveUnusedNodesPass()(model)


def release(node: ir.Node) -> None:
    """Let the node and the nodes in its subgraphs read nothing, so that they do not count as readers any more."""
    for body in subgraphs(node):
        body.outputs.clear()
        for inner in body:
            release(inner)
    for place in range(len(node.inputs)):
        node.replace_input_with(place, None)


def is_tensor(value: ir.Value) -> bool:
    """Whether a value is a tensor as far as its type tells, and no sequence or optional one."""
    return value.type is None or isinstance(value.type, ir.TensorType)


def reads(node: ir.Node) -> list[ir.Value]:
    """What the node reads: its inputs, and what its subgraphs capture from outside."""
    found = list(filter(None, node.inputs))
    for attribute in node.attributes.values():
        if attribute.type in _BODIES:
            for graph in _graphs(attribute):
                found += _captured(graph)
    return found


def _captured(graph: ir.Graph) -> list[ir.Value]:
    """What a body reads from outside."""
    inner: set[ir.Value] = {*graph.inputs, *graph.initializers.values()}
    found: list[ir.Value] = []
    for inside in graph:
        found += [value for value in reads(inside) if value not in inner]
        inner.update(inside.outputs)
    # A branch may simply hand on a value from outside.
    return found + [value for value in graph.outputs if value not in inner]


def subgraphs(node: ir.Node) -> list[ir.Graph]:
    """The bodies of If, Loop and Scan."""
    bodies = [attribute for attribute in node.attributes.values() if attribute.type in _BODIES]
    return [graph for attribute in bodies for graph in _graphs(attribute)]


def _graphs(attribute: ir.Attr) -> Sequence[ir.Graph]:
    if attribute.type == ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    return attribute.as_graphs()


def dependent(graph: ir.Graph, image: ir.Value) -> set[ir.Value]:
    """Every value of the graph whose contents (not only whose shape) depend on `image`, with `image` itself."""
    found = {image}
    for node in graph:
        if node.op_type in SHAPE_ONLY and node.domain == "":
            continue
        if not found.isdisjoint(reads(node)):
            found.update(node.outputs)
    return found


def measured(graph: ir.Graph, moved: set[ir.Value]) -> set[ir.Value]:
    """Scales and zero points that DynamicQuantizeLinear takes from the picture, and what is computed of these alone.

    They stand for what another quantised file states as constants, and no unit means anything by them.

    moved    what depends on the image, see `dependent`
    """
    found: set[ir.Value] = set()
    for node in graph:
        if computes(node.op_type) == "quantize_measured" and node.domain == "":
            found.update(value for value in node.outputs[1:] if value in moved)
        elif found:
            read = [value for value in reads(node) if value in moved]
            if read and all(value in found for value in read):
                found.update(node.outputs)
    return found


def by_name(graph: ir.Graph) -> dict[str, ir.Value]:
    """The named values of the main graph: inputs, initialisers and results of nodes."""
    named = {value.name: value for value in (*graph.inputs, *graph.initializers.values()) if value.name}
    named |= {value.name: value for node in graph for value in node.outputs if value.name}
    return named


def lookup(graph: ir.Graph, names: Iterable[str]) -> list[ir.Value]:
    """The values with these names, doubled names once; UnknownLayer for a name that the graph does not have."""
    named = by_name(graph)
    found: dict[str, ir.Value] = {}
    for name in names:
        if name not in named:
            raise UnknownLayer(
                f"the model has no value named {name!r}{near(name, named)}; "
                "`onnxviz inspect` lists the values that it has"
            )
        found[name] = named[name]
    return list(found.values())


def constant(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initialiser or of a Constant node's result, where the file states it."""
    if value is None:
        return None
    node = value.producer()
    if node is None:
        return value.const_value
    if computes(node.op_type) != "constant" or node.domain != "":
        return None
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            return None
        if name == "value" and attribute.type == ir.AttributeType.TENSOR:
            tensor: ir.TensorProtocol = attribute.value  # `as_tensor` checks a protocol, which takes long
            return tensor
        if name in ("value_float", "value_floats"):
            return ir.tensor(attribute.value, dtype=ir.DataType.FLOAT)
        if name in ("value_int", "value_ints"):
            return ir.tensor(attribute.value, dtype=ir.DataType.INT64)
    return None


def rank(value: ir.Value | None) -> int | None:
    """How many dimensions a value has, by its constant or its shape; None where neither is there."""
    known = None if value is None else value.shape if value.const_value is None else value.const_value.shape
    return None if known is None else len(known)


def weight(graph: ir.Graph, tensor: ir.TensorProtocol, name: str | None = None) -> ir.Value:
    """A new initialiser of the graph; name: the tensor's own."""
    value = ir.Value(
        name=name or tensor.name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def image_input(model: ir.Model, name: str | None = None) -> ir.Value:
    """The input that takes the image: the one named, else the only one, else the only one of rank 4.

    Raises UnknownLayer for a name that is no input, ModelUnsuitable where there is no input or more than
    one could be meant.
    """
    graph = model.graph
    inputs = [value for value in graph.inputs if value.name not in graph.initializers]
    names = [value.name or "" for value in inputs]
    listed = ", ".join(map(repr, names)) or "none"
    if name is not None:
        if name not in names:
            raise UnknownLayer(f"the model has no input named {name!r}{near(name, names)} (inputs: {listed})")
        return inputs[names.index(name)]
    if len(inputs) > 1:
        images = [value for value in inputs if value.shape is not None and len(value.shape) == 4]
        inputs = images if len(images) == 1 else inputs
    if len(inputs) != 1:
        raise ModelUnsuitable(
            f"expected one image input, the model has these: {listed}; choose one with `input`"
        )
    return inputs[0]


def follows_values(model: ir.Model) -> bool:
    """Whether two runs on inputs of the same sizes may differ in work by any factor, by the inputs' values."""
    if GROWING.isdisjoint([node.op_type for node in model.graph.all_nodes()]):
        return False
    return _follows(model.graph, set(model.graph.inputs))


def _follows(nodes: Iterable[ir.Node], fed: set[ir.Value]) -> bool:
    """`fed` gets every value that follows the contents of what is fed."""
    for node in nodes:
        reads = [value in fed for value in node.inputs]
        bodies = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
        if any(reads) or bodies:
            if node.op_type in _ALWAYS or any(
                reads[i] for i in operator(node.op_type).sizes if i < len(reads)
            ):
                return True
            for body in bodies:
                fed.update(body.inputs)
                if _follows(body, fed):
                    return True
            if node.op_type not in SHAPE_ONLY:
                fed.update(node.outputs)
    return False
