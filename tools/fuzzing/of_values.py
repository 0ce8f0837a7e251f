"""Mutations of what a model holds and says beside its nodes: weights, types, versions, names, metadata."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import onnx
from onnx import helper

from fuzzing.parts import (
    FLOATS,
    KINDS,
    MARK,
    NUMBERS,
    TEXTS,
    Misses,
    Model,
    array_of,
    graphs,
    odd_type,
    put,
    some,
    some_node,
    some_tensor,
    values,
)

# --- weights --------------------------------------------------------------------------------------


def weight_shaped(model: Model, chance: random.Random) -> None:
    """A weight of another rank: an axis more or fewer, flat, turned, a scalar, empty, cut or doubled."""
    tensor = some_tensor(model, chance)
    array = array_of(tensor)
    what = chance.choice(
        ("front", "back", "flat", "turn", "scalar", "empty", "cut", "double", "first", "ones")
    )
    if what == "front":
        array = array[None]
    elif what == "back":
        array = array[..., None]
    elif what == "flat":
        array = array.reshape(-1)
    elif what == "turn":
        array = array.T
    elif what == "ones":
        array = array.reshape(array.shape + (1,) * chance.choice((2, 3, 6, 60)))
    elif what == "empty":
        array = np.zeros((0, *array.shape[1:]), array.dtype)
    elif not array.ndim or not array.size:
        raise Misses
    elif what == "scalar":
        array = array.reshape(-1)[0]
    elif what == "first":
        array = array[0]
    elif what == "cut":
        array = array[: chance.randrange(len(array))]
    else:
        array = np.concatenate([array, array])
    put(tensor, np.asarray(array))


def weight_typed(model: Model, chance: random.Random) -> None:
    """A weight of another type, its values converted or not."""
    tensor = some_tensor(model, chance)
    if chance.random() < 0.2:
        tensor.data_type = chance.choice(KINDS)
        return
    dtype = chance.choice(
        (np.float32, np.float64, np.float16, np.int64, np.int32, np.uint8, np.int8, np.bool_, object)
    )
    with np.errstate(all="ignore"):
        array = array_of(tensor)
        if array.dtype == object and dtype is not object:  # of text another mutation made, its lengths
            array = np.array([len(text) for text in array.ravel()]).reshape(array.shape)
        put(tensor, array.astype(str).astype(object) if dtype is object else array.astype(dtype))


def weight_valued(model: Model, chance: random.Random) -> None:
    """Values of a weight that are odd: zero, negative, huge, NaN; one of them or all."""
    tensor = some_tensor(model, chance)
    array = array_of(tensor)
    if not array.size or array.dtype.kind not in "fiub":
        raise Misses
    odd = chance.choice(FLOATS if array.dtype.kind == "f" else NUMBERS)
    if array.dtype.kind in "iu":
        bounds = np.iinfo(array.dtype)
        odd = min(max(int(odd), bounds.min), bounds.max)
    with np.errstate(all="ignore"):
        if chance.random() < 0.6:
            array.reshape(-1)[chance.randrange(array.size)] = odd
        else:
            array[...] = odd
    put(tensor, array)


def weight_lies(model: Model, chance: random.Random) -> None:
    """Dims of a weight that do not fit its data."""
    tensor = some_tensor(model, chance)
    dims = list(tensor.dims)
    if not dims or chance.random() < 0.2:
        dims.append(chance.choice(NUMBERS))
    else:
        dims[chance.randrange(len(dims))] = chance.choice(NUMBERS)
    tensor.dims[:] = dims


def weight_moved(model: Model, chance: random.Random) -> None:
    """A weight becomes a graph input, a Constant, the copy of another one, a computed value; or goes."""
    graph = model.graph
    tensor = some(chance, graph.initializer)
    place = [one.name for one in graph.initializer].index(tensor.name)
    what = chance.choice(("input", "listed", "constant", "copy", "go", "computed", "output"))
    if what in ("input", "listed"):
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    elif what == "constant":
        graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    elif what == "copy":
        tensor.CopyFrom(some(chance, graph.initializer))
    elif what == "output":
        graph.output.add(name=tensor.name)
    elif what == "computed":
        kept = f"{tensor.name}_kept"
        graph.node.insert(0, helper.make_node("Identity", [kept], [tensor.name]))
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = kept
    if what in ("input", "constant", "go", "computed"):
        del graph.initializer[place]


# --- declarations ---------------------------------------------------------------------------------


def interface_typed(model: Model, chance: random.Random) -> None:
    """The type of an input or output is another."""
    odd_type(some(chance, [*model.graph.input, *model.graph.output]).type, chance)


def values_declared(model: Model, chance: random.Random) -> None:
    """What a value between is said to be, and is not."""
    graph = some(chance, [one for one in graphs(model) if hasattr(one, "value_info")])
    name = some(chance, values(graph))
    shape = [chance.choice((0, 1, 2, 3, 8, "N", "", None, 2**40, -1)) for _ in range(chance.randrange(6))]
    info = helper.make_tensor_value_info(name, chance.choice((1, 1, 1, 7, 8, 9, 10, 16)), shape)
    if chance.random() < 0.15:
        odd_type(info.type, chance)
    graph.value_info.append(info)


def versions_changed(model: Model, chance: random.Random) -> None:
    """Another opset or IR version, an import more, doubled or gone."""
    what = chance.choice(("near", "any", "any", "ir", "domain", "double", "gone"))
    entry = some(chance, model.opset_import)
    if what == "near":
        entry.version = max(0, entry.version + chance.choice((-1, 1, -2, 2, -5, 5)))
    elif what == "any":
        entry.version = chance.choice((*range(1, 29), 0, 100, 2**40))
    elif what == "ir":
        model.ir_version = chance.choice((*range(1, 14), 0, 2**40))
    elif what == "domain":
        model.opset_import.add(
            domain=chance.choice(("ai.onnx", "ai.onnx.ml", "com.microsoft", "x")), version=1
        )
    elif what == "double":
        model.opset_import.add(domain=entry.domain, version=entry.version + chance.choice((0, 1)))
    else:
        model.opset_import.remove(entry)


def interface_changed(model: Model, chance: random.Random) -> None:
    """Inputs and outputs of the file more, fewer, doubled, in another order, elsewhere."""
    graph = model.graph
    what = chance.choice(("output", "output", "other", "input", "double", "drop", "turn", "none", "through"))
    if what == "output":
        graph.output.add(name=some(chance, values(graph)))
        if chance.random() < 0.5:
            graph.output[-1].type.tensor_type.elem_type = chance.choice((1, 7))
    elif what == "other":
        some(chance, graph.output).name = some(chance, values(graph))
    elif what == "input":
        shape = [chance.choice((1, 2, 3, "N", 32)) for _ in range(chance.randrange(5))]
        graph.input.append(helper.make_tensor_value_info("more", chance.choice((1, 1, 7, 8, 9)), shape))
    elif what == "double":
        graph.output.add().CopyFrom(some(chance, graph.output))
    elif what == "drop":
        side = chance.choice((graph.input, graph.output))
        if len(side):
            del side[chance.randrange(len(side))]
    elif what == "turn":
        turned = [onnx.ValueInfoProto.FromString(one.SerializeToString()) for one in reversed(graph.output)]
        del graph.output[:]
        graph.output.extend(turned)
    elif what == "none":
        del graph.output[:]
    else:
        graph.output.add().CopyFrom(some(chance, graph.input))


# --- text -----------------------------------------------------------------------------------------


def names_changed(model: Model, chance: random.Random) -> None:
    """A name that is odd, taken, empty, long, or no UTF-8: of a node, a value everywhere, a graph, the producer."""
    odd = chance.choice((*TEXTS, MARK, MARK, MARK))
    what = chance.choice(
        ("node", "value", "value", "taken", "graph", "producer", "domain", "doc", "dim", "op", "weight")
    )
    graph, place = some_node(model, chance)
    node = graph.node[place]
    if what == "node":
        node.name = odd
    elif what == "domain":
        node.domain = odd
    elif what == "op":
        node.op_type = odd
    elif what == "graph":
        model.graph.name = odd
    elif what == "producer":
        model.producer_name = odd
    elif what == "doc":
        model.doc_string = odd
    elif what == "weight":
        some_tensor(model, chance).name = odd
    elif what == "dim":
        dims = some(chance, model.graph.input).type.tensor_type.shape.dim
        some(chance, dims).dim_param = odd
    else:
        name = some(chance, values(graph))
        renamed(graph, name, some(chance, values(graph)) if what == "taken" else odd)


def renamed(graph: Any, name: str, new: str) -> None:
    """A value has another name, wherever the graph names it."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if one == name else one for one in names]
    if isinstance(graph, onnx.FunctionProto):
        for names in (graph.input, graph.output):
            names[:] = [new if one == name else one for one in names]
        return
    for one in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        if one.name == name:
            one.name = new


METADATA = ("names", "stride", "imgsz", "task", "labels", "classes", "preprocessing", "onnxviz.preprocessing",
            "onnxviz.labels", "mean", "std", "Image.BitmapPixelFormat", "author", "")  # fmt: skip
SAID = ("", "{}", "[]", "null", "NaN", "[1e999]", "{0: 'a', 1: 'b'}", '{"mean": [0, 0], "std": 0}', "[640, 0]",
        "[" * 500,
        "{0: " * 50, "'" * 999, "-1", "1e400", '["a", "b"]', "\x00", '{"size": -1}', '{"channels": "XYZ"}')  # fmt: skip


def metadata_added(model: Model, chance: random.Random) -> None:
    """Metadata that says something odd about labels and preprocessing, of the model or of a node."""
    field = model.metadata_props if chance.random() < 0.8 else some_node(model, chance)[0].metadata_props
    for _ in range(chance.choice((1, 2))):
        field.add(key=chance.choice((*METADATA, MARK)), value=chance.choice((*SAID, MARK)))
