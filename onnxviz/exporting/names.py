"""Readable, stable value names for a network that torch exported.

torch names values after its traced graph (`getitem_6`, `hardtanh_31`), which say nothing and shift with every
change of version. Each node also carries the module it came from; from that every value gets the name that a
reader of the torch code would look for:

    layer1.0.conv1            a module with weights: its path (a BatchNorm folded into it keeps this name)
    features.3                any other module that is called once: its path
    layer1.0.conv1.relu       an activation function, or an activation module that is called several times:
                              the value it reads, and what it does
    layer1.0.add, flatten     any other function: the module that calls it, and what it does
    layer1.0.add_1            the second of the same name

Weights keep their torch names (`layer1.0.conv1.weight`). Names of graph inputs and outputs are left alone.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, RemoveUnusedOpsetsPass

from onnxviz.graph import operators
from onnxviz.graph.operators import computes
from onnxviz.graph.tape import number

SCOPES = "pkg.torch.onnx.name_scopes"

# Values named for what they read. Elementwise, one data input.
ACTIVATIONS = operators.ACTIVATIONS | operators.computing("erf")
_SHORT = {
    "GlobalAveragePool": "avgpool",
    "AveragePool": "avgpool",
    "MaxPool": "maxpool",
    "MatMul": "matmul",
    "ReduceMean": "mean",
}
_WEIGHTED = operators.WEIGHTED | operators.BY_STATISTICS | operators.computing("instance_norm")


def readable(model: ir.Model, rename: Callable[[str], str] = lambda path: path) -> None:
    """Rename every value, node and initialiser of the main graph in place, as the module docstring says.

    rename  applied to each module path (`_blocks.1._expand_conv` → `blocks.1.expand`), and to the part of a
            weight's name before its last dot

    The scopes that nodes carry are rewritten to match and are all that is left of their metadata.
    """
    graph = model.graph
    scopes = {node: tuple(rename(part) for part in _modules(node)) for node in graph}
    paths = {node: _weight_path(node, rename) or (scopes[node][-1] if scopes[node] else "") for node in graph}
    _rename_weights(graph, rename)

    parents = {scope for stack in scopes.values() for scope in stack[:-1]} | {""}
    parents |= {path.rsplit(".", 1)[0] for path in paths.values() if "." in path}
    calls = _calls(graph, paths)
    count = Counter(paths[call[0]] for call in calls)
    last = {call[-1]: paths[call[0]] for call in calls}
    alone = {node: len(call) == 1 for call in calls for node in call}

    taken = {value.name for value in [*graph.inputs, *graph.outputs]} | set(graph.initializers)
    for node in graph:
        path = paths[node]
        whole = path and path not in parents and last.get(node) == path and count[path] == 1
        suffix = short_name(node)
        if whole:
            wanted = path
        elif node.op_type in ACTIVATIONS and (alone[node] or path in parents) and node.inputs[0] is not None:
            wanted = f"{node.inputs[0].name}.{suffix}"
        else:
            wanted = f"{path}.{suffix}" if path else suffix
        for index, value in enumerate(node.outputs):
            if value.name and not value.is_graph_output():
                value.name = _free(f"{wanted}.{index}" if index else wanted, taken)
        node.name = node.outputs[0].name
        node.metadata_props.clear()
        node.metadata_props[SCOPES] = repr(["", *_stack(scopes[node], path), suffix])


def short_name(node: ir.Node) -> str:
    """What a node does, in one lower-case word: `conv`, `relu6`, `global_average_pool`."""
    if computes(node.op_type) == "clip" and [number(end) for end in node.inputs[1:3]] == [0.0, 6.0]:
        return "relu6"
    if node.op_type in _SHORT:
        return _SHORT[node.op_type]
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", node.op_type).lower()


def _stack(scopes: tuple[str, ...], path: str) -> list[str]:
    """The modules around a node with its own, `path`, as the innermost; torch put the folded BatchNorm there."""
    stack = list(dict.fromkeys(scope for scope in scopes if scope and scope != path))
    if path and stack and not path.startswith(f"{stack[-1]}."):
        stack.pop()
    return [*stack, path] if path else stack


def _free(base: str, taken: set[str | None]) -> str:
    """The name, or with a number behind it the first that is not taken: the second of a name is NAME_1."""
    name, copy = base, 0
    while name in taken:
        copy += 1
        name = f"{base}_{copy}"
    taken.add(name)
    return name


def _modules(node: ir.Node) -> tuple[str, ...]:
    """The modules around a node, outermost first, without the root and without the traced operation."""
    try:
        stack = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    except (ValueError, SyntaxError):
        return ()
    # Nodes that torch itself inserts bear the name of the hook that did.
    return tuple(
        part for part in stack[:-1] if isinstance(part, str) and part and not part.startswith("_empty_nn")
    )


def _weight_path(node: ir.Node, rename: Callable[[str], str]) -> str | None:
    """The module that owns this node's weight: what a Conv with a folded BatchNorm is known by."""
    if node.op_type not in _WEIGHTED or len(node.inputs) < 2:
        return None
    weight = node.inputs[1]
    if weight is None or not weight.is_initializer() or not (weight.name or "").endswith(".weight"):
        return None
    return rename(str(weight.name).rsplit(".", 1)[0])


def _rename_weights(graph: ir.Graph, rename: Callable[[str], str]) -> None:
    """`module.weight` keeps its name (renamed); a folded bias becomes `module.bias`; the rest `const_N`."""
    values = list(graph.initializers.values())
    wanted: dict[ir.Value, str] = {}
    for node in graph:
        for index, value in enumerate(node.inputs):
            if value is None or not value.is_initializer() or value in wanted:
                continue
            name = str(value.name)
            path, dot, leaf = name.rpartition(".")
            if computes(node.op_type) in ("conv", "conv_transpose", "gemm") and index == 2 and path:
                wanted[value] = f"{rename(path)}.bias"
            elif dot and leaf.isidentifier():
                wanted[value] = f"{rename(path)}.{leaf}"
    names = {value.name for value in [*graph.inputs, *graph.outputs]}
    constants = 0
    for value in values:
        if value not in wanted:
            wanted[value], constants = f"const_{constants}", constants + 1
        wanted[value] = _free(wanted[value], names)
    graph.initializers.clear()
    for value in values:
        value.name = wanted[value]
        graph.initializers[wanted[value]] = value


def _calls(graph: ir.Graph, paths: dict[ir.Node, str]) -> list[list[ir.Node]]:
    """Group nodes into calls: a node joins a predecessor of the same module, for one call may be many nodes."""
    call_of: dict[ir.Node, list[ir.Node]] = {}
    calls: list[list[ir.Node]] = []
    for node in graph:
        producers = [value.producer() for value in node.inputs if value is not None]
        joined = next((call_of[p] for p in producers if p in call_of and paths[p] == paths[node]), None)
        if joined is None:
            joined = []
            calls.append(joined)
        joined.append(node)
        call_of[node] = joined
    return calls


# --- fit to be given away: no paths of the machine, no traces, simple operators ------------------


# ONNX 1.15 and ONNX Runtime 1.17: what browsers and edge builds of the last years read.
MAX_IR_VERSION = 10


def tidy(model: ir.Model, name: str) -> None:
    """Strip, simplify and label `model` in place.

    - Stack traces, source paths and torch's own notes are removed from model, graph, nodes and values: they
      hold paths of the exporting machine. Only each node's module scopes stay.
    - A mean over height and width becomes GlobalAveragePool, which every runtime has a kernel for.
    - Sizes of inner values stay where they are plain numbers or names.
    - The graph is called `name`; the IR version is at most 10.
    """
    _strip(model)
    model.graph.name = name
    model.graph.doc_string = None
    model.ir_version = min(model.ir_version, MAX_IR_VERSION)
    graphs: list[ir.Graph | ir.Function] = [model.graph, *model.functions.values()]
    for graph in graphs:
        graph.metadata_props.clear()
        nodes = list(graph.all_nodes())
        for one in (*nodes, *graph.inputs, *(value for node in nodes for value in node.outputs)):
            _strip(one)
    for value in model.graph.initializers.values():
        value.metadata_props.clear()
        if value.const_value is not None:
            value.const_value.metadata_props.clear()
    _global_pools(model.graph)
    RemoveUnusedNodesPass()(model)
    RemoveUnusedOpsetsPass()(model)


def _strip(one: Any) -> None:
    """Leave it our own notes, and a node its scopes."""
    one.doc_string = None
    for key in [key for key in one.metadata_props if key != SCOPES and not key.startswith("onnxviz.")]:
        del one.metadata_props[key]


def _global_pools(graph: ir.Graph) -> None:
    """ReduceMean over exactly the last two of four axes, kept as size 1, is GlobalAveragePool."""
    for node in list(graph):
        if computes(node.op_type) != "mean" or node.domain not in ("", "ai.onnx"):
            continue
        data = node.inputs[0]
        if (
            data is None
            or data.shape is None
            or len(data.shape) != 4
            or not node.attributes.get_int("keepdims", 1)
        ):
            continue
        axes = _axes(node)
        if axes is None or sorted(axis % 4 for axis in axes) != [2, 3]:
            continue
        pool = ir.Node(
            "", "GlobalAveragePool", [data], num_outputs=1, metadata_props=dict(node.metadata_props)
        )
        old, new = node.outputs[0], pool.outputs[0]
        new.shape, new.type, new.name = old.shape, old.type, old.name
        graph.insert_before(node, pool)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove(node, safe=True)


def _axes(node: ir.Node) -> list[int] | None:
    if "axes" in node.attributes:
        return list(node.attributes["axes"].as_ints())
    if len(node.inputs) > 1 and node.inputs[1] is not None and node.inputs[1].const_value is not None:
        return [int(axis) for axis in np.ravel(node.inputs[1].const_value.numpy())]
    return None
