"""ONNX's own shape inference, mended where ONNX Runtime gives other lengths: there the runtime is the authority.

It multiplies a length with a Resize's scale in float32 (3 · 2.3333333 is 7; in double, as the inference has it, 6);
it counts no pooling window that starts behind the input and its leading pad; the pads that a pool's `auto_pad` asks for
leave dilations out of account; and a kept aspect ratio is computed in float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnx
import onnx_ir as ir

from onnxviz.errors import ModelRejected
from onnxviz.graph.operators import CONTROL, POOLS, RESIZING, by_scales_alone
from onnxviz.isolate import region, worker

Length = int | None
# Their rules in ONNX's inference read the type of an input without asking whether it is known, which ends the process.
# It is unknown behind the operators of ONNX Runtime; nothing is inferred of these four.
UNGUARDED: Final = frozenset({"DictVectorizer", "LabelEncoder", "RegexFullMatch", "TreeEnsemble"})

_WITH_BODIES: Final = CONTROL | {"SequenceMap"}


def resized(length: int, scale: float | np.floating[Any]) -> int:
    """The length of an axis that Resize or Upsample multiplies by this scale."""
    return int(np.floor(np.float32(length) * np.float32(scale)))


def common_scale(lengths: Sequence[int], sizes: Sequence[int], policy: str) -> np.float32:
    """The scale of all axes where Resize keeps the aspect ratio: 'not_larger' or 'not_smaller' than the sizes."""
    ratios = [np.float32(size) / np.float32(length) for length, size in zip(lengths, sizes, strict=True)]
    return min(ratios) if policy == "not_larger" else max(ratios)


def rounded(length: int, scale: np.float32) -> int:
    """The length of an axis under a common scale: to the nearest, halves up."""
    return int(np.floor(np.float32(np.float32(scale) * np.float32(length)) + np.float32(0.5)))


def pooled(length: int, window: tuple[int, int, int], pads: tuple[int, int], *, ceil: bool) -> int:
    """How many windows a pool has along an axis.

    window   kernel, stride, dilation
    pads     at the beginning and at the end
    ceil     whether the last window may reach beyond the end
    """
    kernel, stride, dilation = window
    room = length + sum(pads) - dilation * (kernel - 1) - 1
    if not ceil:  # ONNX Runtime rounds towards 0: a window that does not fit in once is there all the same
        return (room // stride if room >= 0 else -(-room // stride)) + 1
    count = -(-room // stride) + 1
    # One that starts behind the input does not count.
    return count - ((count - 1) * stride >= length + pads[0])


def pool_pads(length: int, kernel: int, stride: int, *, upper: bool) -> tuple[int, int]:
    """What `auto_pad` SAME_UPPER or SAME_LOWER adds before and behind an axis for a pool, whatever its dilation.

    Negative where the stride is longer than the kernel: ONNX Runtime cuts off what no window needs, half of it in
    front (of a MaxPool, it refuses that).
    """
    total = (-(-length // stride) - 1) * stride + kernel - length
    before = total if upper else total + 1
    begin = before // 2 if before >= 0 else -(-before // 2)
    return begin, total - begin


def same_pads(length: int, extent: int, stride: int, *, upper: bool) -> tuple[int, int]:
    """The same for a window of this extent, from its first tap to its last, that nothing is cut off for."""
    begin, end = pool_pads(length, extent, stride, upper=upper)
    return max(begin, 0), max(end, 0)


def pool_lengths(lengths: Sequence[Length], attributes: Mapping[str, Any]) -> list[Length]:
    """How many windows a pool has along each spatial axis; 0 or less where none fits in.

    lengths      of what it gets
    attributes   its own, by name
    """
    kernel = attributes.get("kernel_shape") or []
    n, mode = len(kernel), attributes.get("auto_pad") or "NOTSET"
    strides, dilations = (attributes.get(name) or [1] * n for name in ("strides", "dilations"))
    given = attributes.get("pads") or [0] * (2 * n)
    result: list[Length] = []
    for i, (length, k, s, d) in enumerate(zip(lengths, kernel, strides, dilations, strict=True)):
        if length is None:
            result.append(None)
            continue
        pads = (0, 0) if mode == "VALID" else (given[i], given[n + i])
        if mode.startswith("SAME"):
            pads = pool_pads(length, k, s, upper=mode == "SAME_UPPER")
        result.append(pooled(length, (k, s, d), pads, ceil=bool(attributes.get("ceil_mode"))))
    return result


def resized_shape(
    before: Sequence[Length], attributes: Mapping[str, Any], scales: Sequence[float], sizes: Sequence[int]
) -> list[Length]:
    """The lengths that a Resize or Upsample gives; None for one that it keeps, or that these do not tell.

    scales, sizes   one for each axis that is resized; [] where they are not given or not known
    """
    result: list[Length] = [None] * len(before)
    named = [int(axis) for axis in attributes.get("axes") or range(len(before))]
    axes = [axis % len(before) for axis in named]
    lengths = [before[axis] for axis in axes]
    policy = attributes.get("keep_aspect_ratio_policy", "stretch")
    if len(sizes) == len(axes) and policy != "stretch":
        known = [length for length in lengths if length is not None]
        if min(named) < 0:  # ONNX Runtime 1.32 leaves the picture as it is then
            return list(before)
        if len(known) == len(lengths):
            common = common_scale(known, sizes, policy)
            for axis, one in zip(axes, known, strict=True):
                result[axis] = rounded(one, common)
    elif len(scales) == len(axes) and not sizes:
        for axis, length, scale in zip(axes, lengths, scales, strict=True):
            result[axis] = None if length is None else resized(length, scale)
    return result


def infer_shapes(proto: onnx.ModelProto, *, strict: bool = False, propagate: bool = True) -> onnx.ModelProto:
    """ONNX's inference on the main graph, with ONNX Runtime's lengths.

    proto      may come back changed: for shapes only
    strict     raise where the graph contradicts itself
    propagate  compute shape arithmetic along
    raises     onnx.shape_inference.InferenceError, ValueError, RuntimeError
    """
    place = worker()
    if place is not None:
        return place.infer(proto, strict=strict, propagate=propagate)
    for body in (proto.graph, *proto.functions):
        _guard(body.node)
    nodes = [node for node in proto.graph.node if node.op_type in POOLS | RESIZING and not node.domain]
    while True:
        with region("inferring the shapes of the model"):
            inferred = onnx.shape_inference.infer_shapes(
                proto, check_type=strict, strict_mode=strict, data_prop=propagate
            )
        if not nodes or not _mend(proto, inferred.graph):
            return inferred


def _guard(nodes: Iterable[onnx.NodeProto]) -> None:
    """Leave nothing in a body, and in those within, that ends the process where a type is not known."""
    for node in nodes:
        if node.op_type in UNGUARDED:
            node.op_type += ", unguarded"
        elif node.op_type == "EyeLike" and not node.domain:
            # The same, too; a Cast has its lengths and its type, and is guarded.
            kind = [one for one in node.attribute if one.name == "dtype"]
            del node.attribute[:]
            node.op_type = "Cast" if kind else "Identity"
            if kind:
                node.attribute.add(name="to", type=onnx.AttributeProto.INT, i=kind[0].i)
        elif node.op_type in _WITH_BODIES:
            for attribute in node.attribute:
                _guard(attribute.g.node)


def _mend(proto: onnx.ModelProto, inferred: onnx.GraphProto) -> bool:
    """Replace nodes whose inferred lengths are wrong by a Reshape to the right ones; False where there are none.

    Those behind a wrong one are left for the next round.
    """
    graph = proto.graph
    shapes = {
        info.name: [d.dim_value if d.HasField("dim_value") else None for d in info.type.tensor_type.shape.dim]
        for info in (*inferred.input, *inferred.value_info, *inferred.output)
        if info.type.tensor_type.HasField("shape")
    }
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes |= {name: list(tensor.dims) for name, tensor in constants.items()}
    version = max((one.version for one in proto.opset_import if not one.domain), default=1)
    stale: set[str] = set()
    for place, node in enumerate(list(graph.node)):
        if not stale.isdisjoint(node.input):
            stale.update(node.output)
            continue
        before = shapes.get(node.input[0]) if node.input else None
        after = shapes.get(node.output[0]) if node.output else None
        if before is None or after is None or node.domain:
            continue
        attributes = _attributes(node)
        if node.op_type in POOLS and len(before) == len(attributes.get("kernel_shape") or []) + 2:
            right: list[Length] = [None, None, *pool_lengths(before[2:], attributes)]
        elif node.op_type in RESIZING:
            old = by_scales_alone(node.op_type, version)
            scales = attributes.get("scales") or _numbers(node, 1 if old else 2, constants)
            right = resized_shape(before, attributes, scales, [] if old else _numbers(node, 3, constants))
        else:
            continue
        wanted = [b if b is not None else a for a, b in zip(after, right, strict=True)]
        if wanted != after and 0 not in wanted:  # nothing runs on an empty map
            _replace(graph, place, before, wanted)
            stale.update(node.output)
    return bool(stale)


def _replace(graph: onnx.GraphProto, place: int, before: list[Length], wanted: list[Length]) -> None:
    """Put a Reshape to `wanted` (0 keeps a length, -1 stands for one that nobody knows) in the node's place."""
    node = graph.node[place]
    name, (first, *others) = f"{node.output[0]}/lengths", node.output
    numbers = [
        0 if b == a or (a is None and i < 2) else -1 if a is None else a
        for i, (b, a) in enumerate(zip(before, wanted, strict=True))
    ]
    graph.initializer.append(onnx.numpy_helper.from_array(np.array(numbers, np.int64), name))
    node.CopyFrom(onnx.helper.make_node("Reshape", [node.input[0], name], [first]))
    for other in others:  # the indices of a MaxPool
        cast = onnx.helper.make_node("Cast", [first], [other], to=onnx.TensorProto.INT64)
        graph.node.insert(place + 1, cast)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    found = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in found.items()}


def _numbers(node: onnx.NodeProto, place: int, constants: Mapping[str, onnx.TensorProto]) -> list[Any]:
    name = node.input[place] if len(node.input) > place else ""
    return onnx.numpy_helper.to_array(constants[name]).reshape(-1).tolist() if name in constants else []


# Constants up to this size travel along: shape inference reads the values of shape-like ones.
_SMALL = 1024


def skeleton(model: ir.Model) -> onnx.ModelProto:
    """The model as a proto whose large weights are graph inputs: small, and of the same shapes and types."""
    graph = model.graph
    weights = [v for v in graph.initializers.values() if v.const_value is not None]
    tensors = [v.const_value for v in weights]
    known = len(graph.inputs)
    inputs = set(graph.inputs)
    try:
        for value, tensor in zip(weights, tensors, strict=True):
            if tensor is None or tensor.dtype == ir.DataType.STRING:  # text has no bytes to count
                continue
            if tensor.nbytes > _SMALL and value not in inputs:
                value.shape, value.dtype = ir.Shape(tensor.shape.numpy()), tensor.dtype
                graph.inputs.append(value)
                value.const_value = None
                del graph.initializers[value.name or ""]
        return ir.serde.serialize_model(model)
    finally:
        while len(graph.inputs) > known:
            graph.inputs.pop()
        for value, tensor in zip(weights, tensors, strict=True):
            value.const_value = tensor
            graph.register_initializer(value)


def infer(model: ir.Model, *, strict: bool = False) -> None:
    """Set the shape and type of every value of the main graph, as far as they can be told, in place.

    What the file declares for intermediate values of standard operators is dropped first: exporters leave stale
    batch sizes there. Declarations of inputs, and of what foreign operators give, are kept. Lengths that only the
    run will tell are named by their formulas (graph/naming.py).

    raises   ModelRejected when the graph contradicts itself (strict only)
    """
    for value in model.graph.initializers.values():
        if value.const_value is not None and not value.is_graph_input():
            value.shape, value.dtype = ir.Shape(value.const_value.shape.numpy()), value.const_value.dtype
    _tell_apart(model.graph)
    for node in model.graph:
        if not node.domain:
            for value in node.outputs:
                value.shape = None
    proto = skeleton(model)
    del proto.graph.value_info[:]
    foreign = (y for node in model.graph if node.domain for y in node.outputs)
    kept = (y for y in foreign if y.type is not None and y.name and not y.is_graph_output())
    proto.graph.value_info.extend([ir.serde.serialize_value(y) for y in kept])
    try:
        inferred = infer_shapes(proto, strict=strict)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as reason:
        raise ModelRejected(f"the graph contradicts itself: {str(reason).splitlines()[0]}") from reason
    found = {info.name: info for info in (*inferred.graph.value_info, *inferred.graph.output)}
    for node in model.graph:
        for value in node.outputs:
            info = found.get(value.name or "")
            if info is None or not info.HasField("type"):
                continue
            if info.type.HasField("tensor_type"):
                tensor = info.type.tensor_type
                if tensor.elem_type:
                    value.dtype = _type(tensor.elem_type, node)
                if tensor.HasField("shape"):
                    lengths = (
                        d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim
                    )
                    value.shape = ir.Shape([None if d == "" else d for d in lengths])
    from onnxviz.graph.naming import name_lengths  # what opens a file asks for `infer_shapes` alone

    name_lengths(model.graph)


def _tell_apart(graph: ir.Graph) -> None:
    """Lengths of one input that a file calls alike are fed as they come: ONNX Runtime holds no picture to them."""
    from onnxviz.graph.naming import dims, own_length

    for value in graph.inputs:
        given, lengths = dims(value), []
        for name in given or ():
            lengths.append(own_length(graph, name) if isinstance(name, str) and name in lengths else name)
        if given is not None and tuple(lengths) != given:
            value.shape = ir.Shape(lengths)


def _type(number: int, node: ir.Node) -> ir.DataType:
    """An element type as inference tells it, of an attribute perhaps that ONNX Runtime does not read (stash_type)."""
    try:
        return ir.DataType(number)
    except ValueError:
        raise ModelRejected(
            f"node {node.name!r} ({node.op_type}) asks for the element type {number}, which ONNX does not have"
        ) from None
