"""Putting the parts of an explainer together: one graph in front of another, and the names that it shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_ir as ir

from onnxviz.explaining.picture import Prepared


def put_in_front(graph: ir.Graph, x: ir.Value, prepared: Prepared) -> None:
    """The preprocessing computes `x`, until now an input of `graph`; its picture is the first input instead."""
    taken = {value.name for value in values(graph)} | {node.name for node in graph.all_nodes()}
    nodes = list(prepared.graph)
    prepared.graph.remove(nodes)
    for node in nodes:
        node.name = _fresh(f"preprocessing/{node.op_type}", taken)
        for value in node.outputs:
            value.name = _fresh(f"preprocessing/{node.op_type}", taken)
    for name, value in list(prepared.graph.initializers.items()):
        del prepared.graph.initializers[name]
        value.name = _fresh("preprocessing/constant", taken)
        graph.register_initializer(value)
    prepared.graph.inputs.clear()
    prepared.tensor.shape, prepared.tensor.type = x.shape, x.type
    ir.convenience.replace_all_uses_with(x, prepared.tensor)
    graph.insert_before(next(iter(graph)), nodes)
    graph.inputs.remove(x)
    prepared.image.name = _fresh("preprocessing/image", taken)
    graph.inputs.insert(0, prepared.image)


def publish(graph: ir.Graph, names: Mapping[str, ir.Value]) -> None:
    """Give these values their public names; what has such a name in the network is called 'network/NAME'."""
    shown = set(names.values())
    taken = {value.name for value in values(graph)}
    for value in list(values(graph)):
        if value in shown or value.name not in names:
            continue
        if (
            value.const_value is not None and value.is_initializer()
        ):  # a tensor shares its name with the network's
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
        value.name = _fresh(f"network/{value.name}", taken)
    for name, value in names.items():
        value.name = name


def values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value of the graph and of the graphs in it."""
    for part in (graph, *graph.subgraphs()):
        yield from part.inputs
        yield from part.initializers.values()
        for node in part:
            yield from node.outputs


def _fresh(name: str, taken: set[str | None]) -> str:
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found
