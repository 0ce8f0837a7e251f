"""What `bypass` asks of a graph: its nodes in order, what they multiply with, what pixels a value reads; its words."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np
import onnx_ir as ir

from onnxviz.graph.analysis import receptive_field
from onnxviz.graph.analysis.dataflow import constant, subgraphs
from onnxviz.graph.analysis.probe import Facts, Prober
from onnxviz.graph.analysis.receptive_field import Field
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.operators import RENAMING, SHAPE_ONLY, computes, computing, family, operator

_BENDING: Final = frozenset(
    {"activation", "function", "softmax", "comparison", "choice", "logic", "signal", "recurrent", "unknown"}
)
_LINEAR: Final = computing("negative mean sum")
# Of ai.onnx.ml, those that decide nothing.
_SCALING: Final = frozenset({"Scaler", "Normalizer", "Imputer", "FeatureVectorizer", "CastMap"})
# How many numbers they make is told by what they read.
_COUNTING: Final = frozenset({"NonZero", "Compress", "Unique", "NonMaxSuppression", "StringSplit"})
_ENDS: Final = computing("maximum minimum mod power")


class Step(NamedTuple):
    """A node, or a hand-over between a control operator and its bodies.

    steers   the inputs that choose a body, or how often one runs
    """

    node: ir.Node
    op: str
    inputs: tuple[ir.Value, ...]
    outputs: tuple[ir.Value, ...]
    steers: tuple[ir.Value, ...] = ()


def steps(graph: Iterable[ir.Node]) -> Iterator[Step]:
    """All nodes in an order of computation, those of bodies before what they give; a loop's body comes twice."""
    for node in graph:
        bodies = subgraphs(node)
        if bodies:
            yield from _control(node, bodies)
            continue
        twin = view(node)
        op = twin.op if twin.standard else node.op_type
        yield Step(node, op, tuple(value for value in node.inputs if value is not None), tuple(node.outputs))


def _control(node: ir.Node, bodies: list[ir.Graph]) -> Iterator[Step]:
    given = [value for value in node.inputs if value is not None]
    if computes(node.op_type) == "branch":
        for body in bodies:
            yield from steps(body)
        for place, value in enumerate(node.outputs):
            ends = tuple(body.outputs[place] for body in bodies if place < len(body.outputs))
            yield Step(node, "If", (*given, *ends), (value,), tuple(given))
        return
    body = bodies[0]
    loop = computes(node.op_type) == "loop"  # trips and condition stand before what is carried
    offset = 2 if loop else 0
    carried = list(node.inputs)[offset:]
    inner, made = list(body.inputs)[offset:], list(body.outputs)[1 if loop else 0 :]
    feeds = [(value, inside) for value, inside in zip(carried, inner, strict=False) if value is not None]
    states = len(carried) if loop else len(node.inputs) - node.attributes.get_int("num_scan_inputs", 0)
    for value, inside in feeds:
        yield Step(node, "Identity", (value,), (inside,))
    yield from steps(body)
    for value, inside in zip(made[:states], inner, strict=False):
        yield Step(node, "Identity", (value,), (inside,))
    yield from steps(body)
    steers = tuple(value for value in node.inputs[:offset] if value is not None)
    steers += tuple(body.outputs[:1]) if loop else ()
    for place, value in enumerate(node.outputs):
        read = [made[place]] if place < len(made) else []
        start = [one for one in carried[:states][place : place + 1] if one is not None]
        yield Step(node, node.op_type, (*steers, *start, *read), (value,), steers)


def bends(step: Step, moved: Container[ir.Value]) -> bool:
    """Whether the result is no linear function of the pixels, on which those `moved` depend."""
    kind = family(step.op)
    if step.op in _LINEAR:
        return False
    if kind in _BENDING or step.op in _ENDS or kind == "reduction":
        return True
    if computes(step.op) == "cast":
        return not ir.DataType(step.node.attributes.get_int("to")).is_floating_point()  # it cuts off
    if computes(step.op) == "divide":
        return any(value in moved for value in step.inputs[1:])
    operands = sum(value in moved for value in step.inputs)
    return kind in ("arithmetic", "product") and operands > 1 and not operator(step.op).negative


def by_contents(step: Step, moved: Container[ir.Value], counted: Container[ir.Value]) -> bool:
    """Whether the contents of what it reads tell how many numbers it makes.

    moved      what depends on the picture
    counted    what has such a size already
    """
    if step.op in _COUNTING or any(value in counted for value in step.inputs):
        return step.op not in SHAPE_ONLY
    places = (1, 2, 3, 4) if computes(step.op) == "slice" else operator(step.op).sizes
    return any(value in moved for place, value in enumerate(step.node.inputs) if place in places)


def chooses(step: Step) -> bool:
    """Whether it decides as comparisons do: signs, and of ai.onnx.ml trees, support vectors and tables."""
    return computes(step.op) in ("sign", "hardmax") or (
        step.node.domain == "ai.onnx.ml" and step.op not in _SCALING
    )


def hides(step: Step) -> bool:
    """Whether the operator hides with a constant what is to be left out."""
    return computes(step.op) in ("multiply", "logical_and") or family(step.op) == "product"


# --- weights: the constants that layers multiply with ---------------------------------------------


# Filters that read pixels and look like no learned layer: so few of them, of so few different numbers, ...
_FEW_FILTERS: Final = 3
_FEW_NUMBERS: Final = 8
_SMALL: Final = 4096  # ... in a kernel of up to so many weights; ternary networks have larger ones
_MOSTLY: Final = 0.9  # ... or with such a share of one and the same number
_LOOKED_AT: Final = 1 << 16
_LARGE: Final = (
    64  # numbers: where an operator's weights have no place of their own, smaller constants are none
)


def kernel(step: Step, moved: Container[ir.Value]) -> ir.Value | None:
    """The weights of a weight layer; None for any other, such as the product of two values of an attention.

    moved    what depends on the picture
    """
    if step.steers or len(step.inputs) == 1:
        return None
    twin, kind = view(step.node), family(step.op)
    places: tuple[int, ...] = operator(step.op).weights
    if kind == "product":
        places = tuple(range(len(twin.inputs) if operator(step.op).macs == "einsum" else 2))
    elif kind in ("attention", "unknown") and step.node.domain != "":
        places = (1,)  # projections, and matrices of few bits
    for place in places:
        value = twin.input(place)
        if value is None or value in moved:
            continue
        tensor = source(value)
        if kind in ("convolution", "product", "recurrent") or (tensor is not None and tensor.size > _LARGE):
            return value
    return None


def fixed(step: Step, value: ir.Value, only: bool) -> bool:
    """Whether the weights of a layer that reads pixels look like none that were learned: a template, a colour matrix.

    only   whether every way from the picture leads through it: then it is the network's own first layer, unless it is
           plainly a fixed filter
    """
    tensor = source(value)
    if tensor is None or tensor.size == 0:
        return False
    filters, window = shape(step, value, tensor)
    sample = tensor.numpy().reshape(-1)[:_LOOKED_AT]
    different, counts = np.unique(sample, return_counts=True)
    few = len(different) <= _FEW_NUMBERS and tensor.size <= _SMALL
    if only:
        return filters <= _FEW_FILTERS + 1 and (few or window == 1)
    return filters <= _FEW_FILTERS or few or bool(counts.max() >= _MOSTLY * len(sample))


def shape(step: Step, value: ir.Value, tensor: ir.TensorProtocol) -> tuple[int, int]:
    """How many numbers a weight layer makes at a place, and how many places its window has (0: all of them)."""
    twin, sizes = view(step.node), list(tensor.shape.numpy())
    if family(step.op) == "convolution":
        spread = operator(step.op).macs == "spread"
        made = sizes[1] * int(twin.attributes.get("group", 1)) if spread and len(sizes) > 1 else sizes[0]
        return made, math.prod(sizes[2:])
    if family(step.op) == "recurrent":
        return int(twin.attributes.get("hidden_size", sizes[-1])), 0
    if operator(step.op).macs == "einsum":
        equation = str(twin.attributes.get("equation", "")).replace(" ", "")
        left, arrow, right = equation.partition("->")
        kept = right if arrow else "".join(one for one in left if left.count(one) == 1)
        own = left.split(",")[twin.inputs.index(value)] if value in twin.inputs else ""
        return math.prod(size for letter, size in zip(own, sizes, strict=False) if letter in kept), 0
    if len(sizes) < 2:
        return 1, 0
    if twin.input(0) is value:
        return sizes[-2], 0
    return sizes[0] if twin.attributes.get("transB", 0) else sizes[-1], 0


def source(value: ir.Value) -> ir.TensorProtocol | None:
    """The constant that a value is made of by its first input alone: behind DequantizeLinear, Transpose and such."""
    for _ in range(8):
        tensor = constant(value)
        if tensor is not None:
            return tensor if tensor.dtype != ir.DataType.STRING else None
        node = value.producer()
        if node is None or not node.inputs or node.inputs[0] is None:
            return None
        if node.op_type not in RENAMING and family(node.op_type) not in ("type", "quantisation", "movement"):
            return None
        value = node.inputs[0]
    return None


# --- pixels: what a value reads, as one box -------------------------------------------------------


#: Top, left, bottom and right, the last two excluded.
Box = tuple[int, int, int, int]


class Activations(Protocol):
    """What is read of `layers.Activations`, which this is below."""

    model: ir.Model
    image: ir.Value
    prober: Prober
    base: Facts
    moved: set[ir.Value]


class Pixels:
    """The pixels of the values of one graph; followed only when somebody asks."""

    def __init__(self, activations: Activations) -> None:
        self._activations = activations
        self.size = activations.base.size

    @cached_property
    def _fields(self) -> dict[str, Field]:
        a = self._activations
        return receptive_field.fields(a.model.graph, a.image, a.prober.layout, a.base)

    def field(self, value: ir.Value) -> Field | None:
        """What its units see; None for a value in a body, or of unknown shape."""
        return self._fields.get(value.name or "")

    def placed(self, value: ir.Value) -> bool:
        """Whether its units tell rows and columns of the picture apart."""
        seen = self.field(value)
        return seen is not None and all(seen.placed)

    def box(self, value: ir.Value) -> Box | None:
        """All the pixels that its units read, inside the picture."""
        seen, shape = self.field(value), self._activations.base.full_shape(value)
        if seen is None or shape is None or self.size is None:
            return None
        ends: list[tuple[int, int]] = []
        for spans, axis, side in zip(seen.full, seen.axes, self.size, strict=True):
            low, high = spans.table(np.arange(1 if axis is None else shape[axis]))
            ends.append((max(0, int(low.min())), min(side, int(high.max()) + 1)))
        return ends[0][0], ends[1][0], ends[0][1], ends[1][1]

    def part(self, value: ir.Value) -> bool:
        """Whether it reads a part of the picture only."""
        box = self.box(value)
        return box is not None and self.size is not None and box != (0, 0, *self.size)

    def narrowed(self, box: Box | None, masks: Iterable[ir.Value]) -> Box | None:
        """A box (None: the picture), narrowed to where the constants that it was multiplied with are not 0."""
        for mask in masks:
            if self.size is not None:
                box = _narrowed(box or (0, 0, *self.size), source(mask), self.size)
        return box


def _narrowed(box: Box, tensor: ir.TensorProtocol | None, size: tuple[int, int]) -> Box:
    """The part of a box where a constant of the picture's size, in NCHW, NHWC or flat, is not 0."""
    height, width = size
    if tensor is None or tensor.size < height * width or tensor.size % (height * width):
        return box
    shape, array = list(tensor.shape.numpy()), np.asarray(tensor.numpy()) != 0
    if shape[-2:] == [height, width]:
        plane = array.reshape(-1, height, width).any(axis=0)
    elif len(shape) > 2 and shape[-3:-1] == [height, width]:
        plane = array.reshape(-1, height, width, shape[-1]).any(axis=(0, 3))
    else:  # rows of a matrix over a flattened picture; its channels come first
        rows = array.reshape(-1, max(shape[-2:])) if shape[-1] == max(shape) else array.any(axis=-1)[None]
        if rows.shape[-1] % (height * width):
            return box
        plane = rows.any(axis=0).reshape(-1, height, width).any(axis=0)
    if not plane.any() or plane.all():
        return box
    (ys,), (xs,) = np.nonzero(plane.any(axis=1)), np.nonzero(plane.any(axis=0))
    return (
        max(box[0], int(ys[0])), max(box[1], int(xs[0])),
        min(box[2], int(ys[-1]) + 1), min(box[3], int(xs[-1]) + 1),
    )  # fmt: skip


# --- what is known of a value, and what is told ---------------------------------------------------


Kind = Literal["decision", "arithmetic"]


class Way(NamedTuple):
    """What is known of a value that depends on the picture.

    depth      the fewest weight layers on any way from the picture
    learned    whether some way goes through one
    decided    the node whose decision by pixels it is; None where it is anything else
    bent       whether it is no linear function of the pixels
    gathered   whether one of its numbers reads many places, which it no longer tells apart
    stamped    whether a constant of places was laid on what was gathered: a pattern, scaled by a gate
    """

    depth: int = 0
    learned: bool = False
    decided: ir.Node | None = None
    bent: bool = False
    gathered: bool = False
    stamped: bool = False


@dataclass(frozen=True)
class Join:
    """Where pixels that passed no learned layer meet something that they should not.

    kind      'decision' (comparisons, choices, loops), or 'arithmetic'
    node      the node that joins, by name
    op        its operator
    value     what it makes, by name
    operand   the value that came around, by name
    by        the operator that decides; '' for arithmetic
    behind    whether it meets what was learned, not only the picture
    box       the pixels that the operand reads (top, left, bottom, right), right and bottom excluded; None: unknown
    """

    kind: Kind
    node: str
    op: str
    value: str
    operand: str
    by: str
    behind: bool
    box: Box | None


@dataclass(frozen=True)
class Bypass:
    """The ways around of one output, or of all.

    fewest     weight layers on the shortest way from the picture; None: the picture does not move it
    around     the same with the last weight layer taken out; None: then the picture does not reach it
    last       the name of that layer; '' where there is none
    short      where a way joins that is no sound network's: without a learned layer; around the last; or around it
               behind the first one alone, by a decision
    joins      what was found, in topological order
    """

    fewest: int | None
    around: int | None
    last: str
    short: Join | None
    joins: tuple[Join, ...]


def both(one: Way, other: Way) -> Way:
    """What is known of a value that came by two ways."""
    return Way(
        min(one.depth, other.depth),
        one.learned or other.learned,
        one.decided or other.decided,
        one.bent or other.bent,
        one.gathered or other.gathered,
        one.stamped or other.stamped,
    )
