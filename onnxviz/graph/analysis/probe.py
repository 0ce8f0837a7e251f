"""The shape of every value, by ONNX's own inference on a graph without weights: at concrete sizes, and in symbols."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import onnx
import onnx_ir as ir

from onnxviz.errors import ModelRejected, ModelUnsuitable, UsageError
from onnxviz.graph.analysis import known_values, twins
from onnxviz.graph.analysis.dataflow import constant, image_input
from onnxviz.graph.analysis.twins import read_as
from onnxviz.graph.operators import computes
from onnxviz.graph.shapes import infer_shapes

Shape = tuple[int | None, ...]
Size = tuple[int, int]

# Stand-ins for what the file leaves open. Batches divide by 2, 3, 4, 6 and 8 (video models fold frames into
# the batch); sizes divide by 32, as skip connections demand; the three ratios differ, so that each is known again.
BATCHES = (24, 72)
SIZES = ((224, 224), (288, 320))
_KEEP = (
    64  # constants up to this many elements stay in the stripped graph: they may be shapes, scales or axes
)
_ROUNDS = 12
#: Where opening a model notes, on its image input, the layout that it settled on (`ir.Value.meta`).
SETTLED = "onnxviz.layout"


@dataclass(frozen=True)
class Layout:
    """Which axis of the image input is what; None where it has none."""

    batch: int | None
    channel: int | None
    y: int | None
    x: int | None

    @property
    def name(self) -> str:
        """NCHW, NHWC, CHW, HWC, or '' for an input that is no image."""
        letters = ((self.batch, "N"), (self.channel, "C"), (self.y, "H"), (self.x, "W"))
        named = sorted((axis, letter) for axis, letter in letters if axis is not None)
        return "".join(letter for _, letter in named) if self.y is not None else ""


@dataclass(frozen=True)
class Facts:
    """What is known of every value at one concrete batch and image size."""

    shapes: Mapping[str, Shape]
    dtypes: Mapping[str, ir.DataType]
    values: Mapping[str, np.ndarray]
    """Small constants and the results of shape arithmetic."""
    batch: int
    size: Size | None

    def shape(self, value: ir.Value | None) -> Shape | None:
        """Its shape, None where even the rank is unknown."""
        return None if value is None else self.shapes.get(value.name or "")

    def full_shape(self, value: ir.Value | None) -> tuple[int, ...] | None:
        """Its shape where every dimension is known, else None."""
        shape = self.shape(value)
        known = tuple(d for d in shape or () if d is not None)
        return known if shape is not None and len(known) == len(shape) else None

    def value(self, value: ir.Value | None) -> np.ndarray | None:
        """Its contents, where they are small and follow from constants and shapes."""
        return None if value is None else self.values.get(value.name or "")


def layout(value: ir.Value) -> Layout:
    """Where the image input has its batch, channels, height and width: as was settled when the model was opened, or
    as its first convolution or pool takes it; where nothing does, by its sizes (see `InputSpec`)."""
    rank = len(value.shape) if value.shape is not None else 0
    if value.shape is None or rank not in (3, 4):
        return Layout(0 if rank else None, None, None, None)
    first = rank - 3  # the channel axis of (C, H, W) or (N, C, H, W)
    settled = value.meta.get(SETTLED)
    if settled is None:
        read = read_as(value)
        last = (
            read.axis == rank - 1 if read is not None and read.axis in (first, rank - 1) else by_size(value)
        )
    else:
        last = settled == "NHWC"
    batch = 0 if rank == 4 else None
    return Layout(batch, rank - 1, first, first + 1) if last else Layout(batch, first, first + 1, first + 2)


def by_size(value: ir.Value) -> bool:
    """Whether the channels are last, by the sizes alone: where the last axis is as small as channels are."""
    sizes = [d if isinstance(d, int) else None for d in value.shape or ()]
    front, back = sizes[-3], sizes[-1]
    return back is not None and (front is None or back < front) and back <= 16


class Prober:
    """The stripped graph, ready to be asked for `Facts` at any batch and size."""

    def __init__(self, model: ir.Model, image: ir.Value) -> None:
        self.model = model
        self.image = image
        self.layout = layout(image)
        self._stripped = strip(model, {})

    @property
    def open_batch(self) -> bool:
        """True where the file leaves the batch open."""
        return self.is_open(self.layout.batch)

    @property
    def open_size(self) -> bool:
        """True where the file leaves height or width open."""
        return self.is_open(self.layout.y) or self.is_open(self.layout.x)

    def is_open(self, axis: int | None) -> bool:
        """True where the file leaves this axis of the image open."""
        shape = self.image.shape
        return axis is not None and shape is not None and not isinstance(shape[axis], int)

    def facts(self, batch: int | None = None, size: Size | None = None) -> Facts:
        """Shapes at this batch and (height, width); None takes the file's own, or a stand-in where it is open."""
        bound = self._bind(batch, size)
        inputs = {value.name or "": self._input_shape(value, bound) for value in self.model.graph.inputs}
        values: dict[str, np.ndarray] = {}
        for _ in range(_ROUNDS):
            proto = strip(self.model, values) if values else self._stripped
            shapes, dtypes = _infer(proto, self.model.graph.inputs, inputs)
            found = known_values.fold(self.model.graph, shapes)
            named = [value.name for node in self.model.graph for value in node.outputs if value.name]
            done = len(found) == len(values) or not any([None in shapes.get(name, (None,)) for name in named])
            values = found
            if done:  # else arithmetic gave something new, by which more shapes may come out
                break
        whole = self._input_shape(self.image, bound) or ()
        axes = (self.layout.batch, self.layout.y, self.layout.x)
        first, height, width = (whole[axis] if axis is not None and whole else None for axis in axes)
        return Facts(shapes, dtypes, values, first or 1, (height, width) if height and width else None)

    def _bind(self, batch: int | None, size: Size | None) -> dict[int, int]:
        """Image axis -> size, for the axes that are open or asked for."""
        bound: dict[int, int] = {}
        asked = (
            (self.layout.batch, batch, BATCHES[0]),
            (self.layout.y, size[0] if size else None, SIZES[0][0]),
            (self.layout.x, size[1] if size else None, SIZES[0][1]),
        )
        for axis, wanted, stand_in in asked:
            if axis is not None and (wanted is not None or self.is_open(axis)):
                bound[axis] = wanted if wanted is not None else stand_in
        return bound

    def _input_shape(self, value: ir.Value, bound: Mapping[int, int]) -> Shape | None:
        if value.shape is None:
            return None
        if value is self.image:
            return tuple(bound.get(i, d if isinstance(d, int) else None) for i, d in enumerate(value.shape))
        # Another input: its open dimensions that bear the name of one of the image's are the same.
        named = {
            d.value: bound[i]
            for i, d in enumerate(self.image.shape or ())
            if not isinstance(d, int) and d.value and i in bound
        }
        return tuple(d if isinstance(d, int) else named.get(d.value or "") for d in value.shape)


def strip(model: ir.Model, values: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """The graph for shape inference only: no weights, no metadata, `com.microsoft` operators by their twins.

    Weights become typed inputs; small constants stay, since they may be shapes. `values` replace the nodes
    that compute them.
    """
    proto = onnx.ModelProto(ir_version=10)
    for domain, version in model.graph.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    graph, opset = proto.graph, model.graph.opset_imports.get("", 1)
    graph.name = "stripped"
    free = _fresh(model.graph)
    for value in model.graph.initializers.values():
        if value not in model.graph.inputs:
            _strip_constant(graph, value, value.const_value)
    for node in model.graph:
        tensor = constant(node.outputs[0]) if computes(node.op_type) == "constant" and node.outputs else None
        if values and (outputs := {v.name for v in node.outputs if v.name}) and outputs <= values.keys():
            graph.initializer.extend(onnx.numpy_helper.from_array(values[name], name) for name in outputs)
        elif tensor is not None:
            _strip_constant(graph, node.outputs[0], tensor)
        elif twins.in_standard(node, opset):
            graph.node.append(_node(node))
        else:
            graph.node.extend(twins.standard_nodes(node, lambda: next(free)))
    return proto


def _fresh(graph: ir.Graph) -> Iterator[str]:
    """Names that the graph does not have."""
    taken = {v.name for node in graph for v in node.outputs} | set(graph.initializers)
    for number in itertools.count():
        if f"twin.{number}" not in taken:
            yield f"twin.{number}"


def _strip_constant(graph: onnx.GraphProto, value: ir.Value, tensor: ir.TensorProtocol | None) -> None:
    if tensor is None or not value.name:
        return
    kept = known_values.small(tensor) if tensor.size <= _KEEP else None
    if (
        kept is not None and kept.dtype.kind in "fiub"
    ):  # not the 8-bit floats and 4-bit integers, which are weights
        graph.initializer.append(onnx.numpy_helper.from_array(kept, value.name))
        return
    shape = tensor.shape.numpy()  # a tensor has no symbols
    graph.input.append(onnx.helper.make_tensor_value_info(value.name, tensor.dtype.value, shape))


def _node(node: ir.Node) -> onnx.NodeProto:
    proto = onnx.NodeProto(op_type=node.op_type, domain=node.domain)
    for value in node.inputs:
        proto.input.append("" if value is None else value.name or "")
    for value in node.outputs:
        proto.output.append(value.name or "")
    for attribute in node.attributes.values():
        ir.serde.serialize_attribute_into(proto.attribute.add(), attribute)
    return proto


def _infer(
    stripped: onnx.ModelProto, values: Sequence[ir.Value], inputs: Mapping[str, Shape | None]
) -> tuple[dict[str, Shape], dict[str, ir.DataType]]:
    """Run ONNX's inference with these inputs, and read the result."""
    proto = onnx.ModelProto()
    proto.CopyFrom(stripped)
    for value in values:
        if value.dtype is not None and value.name:
            shape = inputs.get(value.name)
            proto.graph.input.append(onnx.helper.make_tensor_value_info(value.name, value.dtype.value, shape))
    shapes: dict[str, Shape] = {}
    dtypes: dict[str, ir.DataType] = {}
    inferred = _run(proto)
    for tensor in inferred.graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
        dtypes[tensor.name] = ir.DataType(tensor.data_type)
    for info in (*inferred.graph.input, *inferred.graph.value_info):
        if not info.type.HasField("tensor_type"):
            continue
        declared = info.type.tensor_type
        if declared.elem_type:
            dtypes[info.name] = ir.DataType(declared.elem_type)
        if declared.HasField("shape"):
            sizes: list[int | None] = []
            for dim in declared.shape.dim:
                sizes.append(dim.dim_value if dim.HasField("dim_value") else None)
            shapes[info.name] = tuple(sizes)
    return shapes, dtypes


def _run(proto: onnx.ModelProto) -> onnx.ModelProto:
    failure: Exception | None = None
    for propagate in (True, False):  # data propagation itself stumbles over some odd constants
        try:
            return infer_shapes(proto, propagate=propagate)
        except UsageError:  # an isolated network that was closed
            raise
        except (RuntimeError, ValueError, onnx.shape_inference.InferenceError) as error:
            failure = error
    raise ModelRejected(
        f"no shapes can be inferred for this graph: {str(failure).strip()[:300]}"
    ) from failure


# --- whatever the exporter declared or left out ---------------------------------------------------
#
# ONNX's own shape inference runs on a copy of the graph without its weights, at concrete sizes: the batch,
# height and width that the file leaves open are filled in, and what changes when they change is then given
# back as a symbol. Concrete sizes make shape arithmetic (`Shape -> Gather -> Mul -> Reshape`) come out
# exactly; with symbols it mostly ends in "unknown".


Symbolic = tuple[int | str, ...]

UNKNOWN = "?"
"""A dimension that cannot be told without running the network."""
UNKNOWN_RANK: Symbolic = ("...",)
"""The shape of a value of which not even the rank can be told."""


def probes(prober: Prober, size: Size | None = None) -> tuple[Facts, Facts | None, Facts | None]:
    """Facts as the file stands; the same at another batch and at another size, where these are open."""
    base = prober.facts(size=size)
    other_batch = prober.facts(BATCHES[1], size) if prober.open_batch else None
    if size is not None or not prober.open_size:
        return base, other_batch, None
    kept = base.size or SIZES[0]
    height, width = (
        SIZES[1][i] if prober.is_open(axis) else kept[i]
        for i, axis in enumerate((prober.layout.y, prober.layout.x))
    )
    return base, other_batch, prober.facts(size=(height, width))


def symbolic(
    prober: Prober, base: Facts, by_batch: Facts | None, by_size: Facts | None
) -> dict[str, Symbolic]:
    """The shape of every named value: those of `base`, with a symbol for what differs in the other two.

    An open batch is 'N' (or '49N'), an open height and width 'H', 'W' and their parts, as 'H/4'; UNKNOWN stands for
    a single dimension and UNKNOWN_RANK for a whole shape that cannot be told.
    """
    graph = prober.model.graph
    names = [v.name for v in (*graph.inputs, *graph.initializers.values()) if v.name]
    names += [v.name for node in graph for v in node.outputs if v.name]
    others = [facts for facts in (by_batch, by_size) if facts is not None]
    growths = _growths(base, by_batch, by_size)
    found: dict[str, Symbolic] = {}
    for name in names:
        shape = base.shapes.get(name)
        if shape is None:
            found[name] = UNKNOWN_RANK
            continue
        seen = [other.shapes.get(name) for other in others]
        columns = [s if s is not None and len(s) == len(shape) else (None,) * len(shape) for s in seen]
        found[name] = tuple(
            _symbol(dim, [column[i] for column in columns], growths) for i, dim in enumerate(shape)
        )
    return found


def _growths(
    base: Facts, by_batch: Facts | None, by_size: Facts | None
) -> list[tuple[str, int, list[Fraction]]]:
    """What each symbol stands for in `base`, and how it grows in each of the other facts."""
    still = Fraction(1)
    known: list[tuple[str, int, list[Fraction]]] = []
    if by_batch is not None:
        growth = [Fraction(by_batch.batch, base.batch), *([still] if by_size is not None else [])]
        known.append(("N", base.batch, growth))
    if by_size is not None and by_size.size is not None and base.size is not None:
        for axis, name in enumerate("HW"):
            ratio = Fraction(by_size.size[axis], base.size[axis])
            known.append((name, base.size[axis], [*([still] if by_batch is not None else []), ratio]))
    return [(name, stand_in, growth) for name, stand_in, growth in known if set(growth) != {still}]


def _symbol(
    dim: int | None, seen: list[int | None], growths: list[tuple[str, int, list[Fraction]]]
) -> int | str:
    """`dim` itself where nothing moves it, else the symbol whose growth it shares."""
    others = [other for other in seen if other is not None]
    if dim is None or len(others) < len(seen):
        return UNKNOWN
    if all(other == dim for other in others):
        return dim
    if dim == 0:
        return UNKNOWN
    growth = [Fraction(other, dim) for other in others]
    for name, stand_in, expected in growths:
        if growth == expected:
            part = Fraction(dim, stand_in)
            times = "" if part.numerator == 1 else str(part.numerator)
            return f"{times}{name}" + ("" if part.denominator == 1 else f"/{part.denominator}")
    return UNKNOWN


def annotate(model: ir.Model) -> None:
    """Write element types and shapes onto the values that have none; open dimensions stay open. Edits `model`."""
    try:
        image = image_input(model)
    except ModelUnsuitable:  # several inputs and none chosen: any will do to learn the types
        if not model.graph.inputs:
            return
        image = model.graph.inputs[0]
    prober = Prober(model, image)
    base, by_batch, by_size = probes(prober)
    known = symbolic(prober, base, by_batch, by_size)
    axes = {"N": prober.layout.batch, "H": prober.layout.y, "W": prober.layout.x}
    named = {
        symbol: image.shape[axis]
        for symbol, axis in axes.items()
        if image.shape is not None and axis is not None
    }
    for node in model.graph:
        for value in node.outputs:
            name = value.name or ""
            if value.type is None and name in base.dtypes:
                value.type = ir.TensorType(base.dtypes[name])
            shape = known.get(name, UNKNOWN_RANK)
            if value.shape is None and shape != UNKNOWN_RANK:
                value.shape = ir.Shape([d if isinstance(d, int) else named.get(d) for d in shape])
