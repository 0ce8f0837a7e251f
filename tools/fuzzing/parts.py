"""What mutations are made with: places in a model that are drawn, and values that are odd."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, helper, numpy_helper

Model = onnx.ModelProto
NUMBERS = (0, -1, 1, 2, 3, 4, 7, -2, -3, 100, 2**31 - 1, 2**31, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, float("nan"), float("inf"), float("-inf"))
TEXTS = ("", " ", "x", "NOTSET", "SAME_UPPER", "VALID", "nearest", "linear", "cubic", "constant", "reflect", "edge",
         "ij,jk->ik", "...i->...", "->", "a" * 3000, "../../x", "\x1b[31m", "\u202edrow", "<script>", "é")  # fmt: skip
KINDS = tuple(range(26))
# What protobuf writes for no text field, and what is put into the finished bytes instead: text that is no UTF-8.
MARK, BROKEN = "\u0233\u0234", b"\xff\xfe\xc0\x80"


class Misses(Exception):
    """The network has nothing that this mutation could change."""


def graphs(model: Model) -> Iterator[Any]:
    """The main graph, every subgraph, and every function (which has nodes, too)."""
    waiting: list[Any] = [model.graph, *model.functions]
    while waiting:
        graph = waiting.pop(0)
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    waiting.append(attribute.g)


def some(chance: random.Random, things: Sequence[Any]) -> Any:
    """One of `things`."""
    if not len(things):
        raise Misses
    return chance.choice(list(things))


def some_node(model: Model, chance: random.Random) -> tuple[Any, int]:
    """A graph and the place of a node in it."""
    places = [(graph, place) for graph in graphs(model) for place in range(len(graph.node))]
    return some(chance, places)


def values(graph: Any) -> list[str]:
    """The names that a graph knows."""
    names = [one if isinstance(one, str) else one.name for one in graph.input]
    names += [tensor.name for tensor in getattr(graph, "initializer", ())]
    return [name for name in (*names, *(y for node in graph.node for y in node.output)) if name]


def some_tensor(model: Model, chance: random.Random) -> Any:
    """A weight, or the value of a Constant; small ones (shapes, axes, bounds) as often as all others."""
    tensors = [tensor for graph in graphs(model) for tensor in getattr(graph, "initializer", ())]
    tensors += [
        a.t
        for graph in graphs(model)
        for node in graph.node
        for a in node.attribute
        if a.type == AttributeProto.TENSOR
    ]
    small = [tensor for tensor in tensors if np.prod(tensor.dims, dtype=object) <= 8]
    return some(chance, small if small and chance.random() < 0.5 else tensors)


def array_of(tensor: Any) -> np.ndarray:
    """A tensor's values, or a miss."""
    try:
        return np.array(numpy_helper.to_array(tensor))
    except Exception as error:  # an earlier mutation broke it
        raise Misses from error


def put(tensor: Any, array: np.ndarray) -> None:
    """Give a tensor other values, under its name."""
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))


def weight(graph: Any, name: str, array: np.ndarray) -> None:
    """A constant in a graph or a function."""
    tensor = numpy_helper.from_array(array, name)
    if hasattr(graph, "initializer"):
        graph.initializer.append(tensor)
    else:
        graph.node.insert(0, helper.make_node("Constant", [], [name], value=tensor))


# --- odd values ----------------------------------------------------------------------------------


def odd_value(chance: random.Random, kind: Any = None) -> Any:
    """A value for an attribute: of the type that the schema wants, mostly, and out of its range."""
    kind = (
        chance.choice(("INT", "INTS", "FLOAT", "FLOATS", "STRING", "STRINGS", "TENSOR"))
        if kind is None
        else kind
    )
    if kind == "INT":
        return chance.choice(NUMBERS)
    if kind == "FLOAT":
        return float(chance.choice(FLOATS))
    if kind == "STRING":
        return chance.choice(TEXTS)
    if kind == "INTS":
        return [
            chance.choice(NUMBERS) if chance.random() < 0.5 else chance.randrange(4)
            for _ in range(count(chance))
        ]
    if kind == "FLOATS":
        return [float(chance.choice(FLOATS)) for _ in range(max(1, count(chance)))]
    if kind == "STRINGS":
        return [chance.choice(TEXTS) for _ in range(max(1, count(chance)))]
    if kind == "TENSOR":
        return numpy_helper.from_array(odd_array(chance), "odd")
    raise Misses


def count(chance: random.Random) -> int:
    """How many entries."""
    return chance.choice((0, 1, 1, 2, 2, 3, 4, 4, 5, 8, 1000))


def odd_array(chance: random.Random) -> np.ndarray:
    """A small array of any rank and type."""
    shape = [chance.choice((0, 1, 1, 2, 3, 4)) for _ in range(chance.randrange(5))]
    dtype = chance.choice(
        (np.float32, np.int64, np.int32, np.float16, np.float64, np.bool_, np.uint8, np.int8)
    )
    return np.full(shape, chance.choice((0, 1, 2, 3)), dtype)


def odd_type(kind: Any, chance: random.Random) -> None:
    """Change a value's type: dims, rank, element type, or what kind of value it is at all."""
    what = chance.choice(
        ("dim", "dim", "dim", "name", "rank", "less", "element", "open", "bare", "sequence", "optional")
    )
    dims = kind.tensor_type.shape.dim
    if what == "element":
        kind.tensor_type.elem_type = chance.choice(KINDS)
    elif what == "open":
        kind.tensor_type.ClearField("shape")
    elif what == "bare":
        kind.Clear()
    elif what in ("sequence", "optional"):
        inner = onnx.TypeProto()
        inner.CopyFrom(kind)
        kind.Clear()
        (kind.sequence_type if what == "sequence" else kind.optional_type).elem_type.CopyFrom(inner)
    elif what == "rank" or not len(dims):
        dims.add(dim_value=chance.choice((1, 2, 3)))
    elif what == "less":
        del dims[chance.randrange(len(dims))]
    elif what == "name":
        dims[chance.randrange(len(dims))].dim_param = chance.choice(
            ("N", "", "H", "N*2", "-1", "a b", "batch", "é" * 40)
        )
    else:
        dim = dims[chance.randrange(len(dims))]
        if chance.random() < 0.2:
            dim.Clear()
        else:
            dim.dim_value = chance.choice((0, -1, 1, 2, 3, 5, 8, 16, 17, 31, 64, 2**31, 2**62))


# --- what operators there are -------------------------------------------------------------------


MICROSOFT = ("FusedConv", "Gelu", "QuickGelu", "FastGelu", "BiasGelu", "QLinearAdd", "QLinearMul", "QGemm", "FusedGemm",
             "QLinearGlobalAveragePool", "QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax", "QLinearConcat",
             "SkipLayerNormalization", "NhwcMaxPool", "FusedMatMul", "Inverse", "GridSample", "Attention")  # fmt: skip


@cache
def operators(arity: int | None = None) -> tuple[tuple[str, str], ...]:
    """(operator, domain) of every schema; of those that take `arity` inputs, if given."""
    found = {
        (one.name, one.domain)
        for one in onnx.defs.get_all_schemas()
        if arity is None or one.min_input <= arity <= one.max_input
    }
    return tuple(sorted(found))


@cache
def schema_attributes(op: str, domain: str) -> dict[str, str]:
    """The attributes that an operator may have, with their types."""
    try:
        return {
            name: one.type.name for name, one in onnx.defs.get_schema(op, domain=domain).attributes.items()
        }
    except onnx.defs.SchemaError:
        return {}


def imported(model: Model, domain: str) -> None:
    """The file imports the operator set of `domain`."""
    if all(one.domain != domain for one in model.opset_import):
        model.opset_import.add(domain=domain, version={"ai.onnx.ml": 3}.get(domain, 1))
