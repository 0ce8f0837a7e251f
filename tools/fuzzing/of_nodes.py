"""Mutations of nodes: their inputs, outputs, attributes and operators, where they stand, what they hold."""

from __future__ import annotations

import contextlib
import random
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from fuzzing.parts import (
    MICROSOFT,
    Misses,
    Model,
    graphs,
    imported,
    odd_array,
    odd_type,
    odd_value,
    operators,
    schema_attributes,
    some,
    some_node,
    values,
    weight,
)

# --- inputs and outputs of nodes ------------------------------------------------------------------


def inputs_edited(model: Model, chance: random.Random) -> None:
    """One of a node's inputs dropped, emptied, doubled, swapped, added or taken from elsewhere."""
    graph, place = some_node(model, chance)
    node = graph.node[place]
    names = list(node.input)
    what = chance.choice(
        ("drop", "last", "empty", "double", "swap", "add", "rewire", "rewire", "none", "turn")
    )
    if what == "add":
        names.insert(chance.randrange(len(names) + 1), some(chance, [*values(graph), ""]))
    elif what == "none":
        names = []
    elif not names:
        raise Misses
    else:
        at = chance.randrange(len(names))
        if what == "drop":
            del names[at]
        elif what == "last":
            names.pop()
        elif what == "empty":
            names[at] = ""
        elif what == "double":
            names.insert(at, names[at])
        elif what == "swap":
            other = chance.randrange(len(names))
            names[at], names[other] = names[other], names[at]
        elif what == "turn":
            names.reverse()
        else:
            before = values(graph)
            names[at] = some(chance, before)
    node.input[:] = names


def outputs_edited(model: Model, chance: random.Random) -> None:
    """One of a node's outputs dropped, emptied, added or swapped."""
    graph, place = some_node(model, chance)
    node = graph.node[place]
    names = list(node.output)
    what = chance.choice(("drop", "empty", "add", "add", "swap", "front"))
    if what in ("add", "front"):
        names.insert(len(names) if what == "add" else 0, chance.choice(["", f"extra{chance.randrange(99)}"]))
    elif what == "swap":
        other = some(chance, graph.node)
        if not names or not other.output:
            raise Misses
        node.output[0], other.output[0] = other.output[0], node.output[0]
        return
    elif not names:
        raise Misses
    elif what == "drop":
        names.pop(chance.randrange(len(names)))
    else:
        names[chance.randrange(len(names))] = ""
    node.output[:] = names


# --- attributes ----------------------------------------------------------------------------------


def attribute_set(model: Model, chance: random.Random) -> None:
    """An attribute of a node gets another value, one that the operator may have and has not is added."""
    graph, place = some_node(model, chance)
    node = graph.node[place]
    known = schema_attributes(node.op_type, node.domain)
    present = [one.name for one in node.attribute]
    names = present if present and chance.random() < 0.6 else [*known, *present]
    name = some(chance, names or ["axis"])
    kind = known.get(name) if chance.random() < 0.8 else None
    if kind is not None and kind.endswith("S") and name in present and chance.random() < 0.6:
        old = next(one for one in node.attribute if one.name == name)
        with contextlib.suppress(Exception):
            entries = list(helper.get_attribute_value(old))
            change = chance.choice(("entry", "drop", "add", "turn"))
            if change == "entry":
                entries[chance.randrange(len(entries))] = odd_value(chance, kind[:-1])
            elif change == "drop":
                entries.pop()
            elif change == "add":
                entries.append(odd_value(chance, kind[:-1]))
            else:
                chance.shuffle(entries)
            old.CopyFrom(helper.make_attribute(name, entries, attr_type=old.type))
            return
    value = odd_value(chance, kind)
    kinds = {"INTS": AttributeProto.INTS, "FLOATS": AttributeProto.FLOATS, "STRINGS": AttributeProto.STRINGS}
    kind = kind or (None if value != [] else "INTS")
    made = helper.make_attribute(name, value, attr_type=kinds.get(kind or ""))
    for one in node.attribute:
        if one.name == name:
            one.CopyFrom(made)
            return
    node.attribute.append(made)


def attribute_broken(model: Model, chance: random.Random) -> None:
    """An attribute dropped, doubled, renamed, of no type, of a type that is not that of its value, or a reference."""
    graph, place = some_node(model, chance)
    node = graph.node[place]
    if not len(node.attribute):
        raise Misses
    at = chance.randrange(len(node.attribute))
    what = chance.choice(("drop", "drop", "double", "rename", "untyped", "type", "refer"))
    if what == "drop":
        del node.attribute[at]
    elif what == "double":
        node.attribute.add().CopyFrom(node.attribute[at])
    elif what == "rename":
        known = schema_attributes(node.op_type, node.domain)
        node.attribute[at].name = some(chance, [*known, "", "unknown"])
    elif what == "untyped":
        node.attribute[at].ClearField("type")
    elif what == "type":
        node.attribute[at].type = chance.randrange(1, 15)
    else:
        names = [name for function in model.functions for name in function.attribute]
        node.attribute[at].ref_attr_name = some(chance, [*names, "nowhere"])


# --- operators -----------------------------------------------------------------------------------


def operator_swapped(model: Model, chance: random.Random) -> None:
    """A node becomes one of another operator that takes as many inputs, its attributes kept or dropped."""
    graph, place = some_node(model, chance)
    node = graph.node[place]
    node.op_type, node.domain = some(chance, operators(len(node.input)))
    if chance.random() < 0.7:
        del node.attribute[:]
    imported(model, node.domain)


def operator_inserted(model: Model, chance: random.Random) -> None:
    """Any operator there is, between a value and those that read it, or beside them as one more output."""
    graph = some(chance, list(graphs(model)))
    if chance.random() < 0.12:
        op, domain, least, most = chance.choice(MICROSOFT), "com.microsoft", 1, 4
        made, known = 1, {}
    else:
        op, domain = some(chance, operators())
        schema = onnx.defs.get_schema(op, domain=domain)
        least, most, made = schema.min_input, schema.max_input, max(1, schema.min_output)
        known = schema_attributes(op, domain)
    if not len(graph.node):
        raise Misses
    place = chance.randrange(len(graph.node))
    value = some(chance, list(graph.node[place].output))
    reals = [value, *values(graph)]
    inputs = [value]
    wanted = chance.randint(least, max(least, min(most, least + 2)))
    initialiser = getattr(graph, "initializer", None)
    while len(inputs) < wanted:
        if initialiser is not None and chance.random() < 0.6:
            name = f"odd{len(initialiser)}_{len(inputs)}"
            initialiser.append(numpy_helper.from_array(odd_array(chance), name))
            inputs.append(name)
        else:
            inputs.append(chance.choice(reals) if chance.random() < 0.9 else "")
    if chance.random() < 0.15:
        chance.shuffle(inputs)
    outputs = [f"inserted{len(graph.node)}_{place}_{i}" for i in range(made)]
    node = helper.make_node(
        op, inputs[:wanted], outputs, domain=domain, name=f"inserted{chance.randrange(1000)}"
    )
    for name, kind in known.items():
        required = (
            domain != "com.microsoft" and onnx.defs.get_schema(op, domain=domain).attributes[name].required
        )
        if required or chance.random() < 0.3:
            with contextlib.suppress(Misses):
                given = odd_value(chance, kind)
                if given != []:
                    node.attribute.append(helper.make_attribute(name, given))
    imported(model, domain)
    graph.node.insert(place + 1, node)
    if chance.random() < 0.75:
        for other in graph.node[place + 2 :]:
            other.input[:] = [outputs[0] if name == value else name for name in other.input]
    elif hasattr(graph, "initializer"):
        graph.output.add(name=outputs[0])
        if chance.random() < 0.5:
            graph.output[-1].type.tensor_type.elem_type = TensorProto.FLOAT


def types_swapped(model: Model, chance: random.Random) -> None:
    """Two nodes of the file change operators."""
    one, other = some_node(model, chance), some_node(model, chance)
    a, b = one[0].node[one[1]], other[0].node[other[1]]
    a.op_type, b.op_type = b.op_type, a.op_type
    a.domain, b.domain = b.domain, a.domain


# --- the graph ------------------------------------------------------------------------------------


def node_moved(model: Model, chance: random.Random) -> None:
    """A node goes, is passed by, doubled, or stands elsewhere."""
    graph, place = some_node(model, chance)
    node = graph.node[place]
    what = chance.choice(("go", "pass", "pass", "double", "move", "twice"))
    if what == "pass" and node.input and node.output:
        for other in graph.node:
            other.input[:] = [node.input[0] if name == node.output[0] else name for name in other.input]
        for value in graph.output:
            if not isinstance(value, str) and value.name == node.output[0] and chance.random() < 0.8:
                value.name = node.input[0]
    if what in ("go", "pass"):
        del graph.node[place]
        return
    copy = onnx.NodeProto.FromString(node.SerializeToString())
    if what == "move":
        del graph.node[place]
    else:
        copy.output[:] = [f"{name}_again" if name else "" for name in copy.output]
    graph.node.insert(chance.randrange(len(graph.node) + 1), copy)
    if what == "twice":
        for other in graph.node[place + 1 :]:
            if other.input and other.input[0] in node.output:
                other.input[0] = f"{other.input[0]}_again"


def branch_made(model: Model, chance: random.Random) -> None:
    """A node goes into a branch of an If, into a Loop, a Scan or a function of the model."""
    graph, place = some_node(model, chance)
    node = graph.node[place]
    if not node.input or not node.output or not node.input[0]:
        raise Misses
    what = chance.choice(("if", "if", "loop", "function", "scan"))
    inner = onnx.NodeProto.FromString(node.SerializeToString())
    y = node.output[0]
    body = helper.make_graph([inner], f"body_{y}", [], [onnx.ValueInfoProto(name=f"{y}_in")])
    inner.output[:] = [f"{name}_in" for name in node.output]
    prefix = f"made{place}"
    if what == "if":
        other = helper.make_graph(
            [helper.make_node("Identity", [node.input[0]], [f"{y}_other"])], "other", [],
            [onnx.ValueInfoProto(name=f"{y}_other")],
        )  # fmt: skip
        for one in (body, other):
            if chance.random() < 0.12:
                del one.output[:]
        ready = _condition(model, graph, node.input[0], prefix, chance, place)
        place += ready
        made = helper.make_node("If", [f"{prefix}_c"], [y], then_branch=body, else_branch=other)
    elif what == "function":
        function = helper.make_function(
            "fuzz", prefix, [f"a{i}" for i in range(len(node.input))], [f"{y}_in"], [inner],
            [helper.make_opsetid("", chance.choice((model.opset_import[0].version if model.opset_import else 17, 13)))],
        )  # fmt: skip
        inner.input[:] = [f"a{i}" if name else "" for i, name in enumerate(node.input)]
        model.functions.append(function)
        imported(model, "fuzz")
        made = helper.make_node(prefix, list(node.input), [y], domain="fuzz")
    else:
        state = onnx.ValueInfoProto(name=f"{prefix}_state")
        inner.input[0] = state.name
        if what == "loop":
            body.input.extend([
                helper.make_tensor_value_info(f"{prefix}_i", TensorProto.INT64, ()),
                helper.make_tensor_value_info(f"{prefix}_on", TensorProto.BOOL, ()), state,
            ])  # fmt: skip
            body.node.append(helper.make_node("Identity", [f"{prefix}_on"], [f"{prefix}_go"]))
            body.output.insert(0, helper.make_tensor_value_info(f"{prefix}_go", TensorProto.BOOL, ()))
            if chance.random() < 0.1:
                del body.output[chance.randrange(2)]
            weight(graph, f"{prefix}_n", np.array(chance.choice((0, 1, 2, -1, 3)), np.int64))
            made = helper.make_node("Loop", [f"{prefix}_n", "", node.input[0]], [y], body=body)
        else:
            body.input.append(state)
            made = helper.make_node("Scan", [node.input[0]], [y], body=body, num_scan_inputs=1)
    graph.node[place].CopyFrom(made)


def _condition(model: Model, graph: Any, value: str, prefix: str, chance: random.Random, place: int) -> int:
    """A condition that is constant, or hangs on the data; how many nodes were put before `place`."""
    before = len(graph.node)
    if chance.random() < 0.4:
        weight(graph, f"{prefix}_c", np.full((1,) * chance.randrange(2), chance.random() < 0.5))
    else:
        weight(graph, f"{prefix}_zero", np.zeros((), np.float32))
        place += len(graph.node) - before
        graph.node.insert(place, helper.make_node("ReduceMax", [value], [f"{prefix}_max"], keepdims=0))
        greater = helper.make_node("Greater", [f"{prefix}_max", f"{prefix}_zero"], [f"{prefix}_c"])
        graph.node.insert(place + 1, greater)
    return len(graph.node) - before


def body_changed(model: Model, chance: random.Random) -> None:
    """Inputs and outputs of a subgraph or a function fewer, more, in another order."""
    inner = [one for one in graphs(model) if one is not model.graph]
    graph = some(chance, inner)
    side = chance.choice((graph.input, graph.output))
    plain = isinstance(graph, onnx.FunctionProto)
    what = chance.choice(("drop", "drop", "add", "turn", "type"))
    if what == "add" or not len(side):
        name = some(chance, values(graph) or ["x"])
        side.append(name if plain else onnx.ValueInfoProto(name=name))
    elif what == "drop":
        del side[chance.randrange(len(side))]
    elif what == "type" and not plain:
        odd_type(some(chance, side).type, chance)
    else:
        turned = (
            list(side) if plain else [onnx.ValueInfoProto.FromString(one.SerializeToString()) for one in side]
        )
        del side[:]
        side.extend(reversed(turned))
