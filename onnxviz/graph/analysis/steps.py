"""All nodes of a graph as one list in an order of computation, those of If, Loop and Scan bodies among them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Final, NamedTuple

import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import subgraphs
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.operators import SHAPE_ONLY, computes, computing, family, operator

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
