"""Names: values and nodes have a namespace each, and what is given out has the name that was promised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from operator import attrgetter

import onnx_ir as ir

_NAME = attrgetter("name")


def values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value of the graph and of the graphs in it."""
    for part in (graph, *graph.subgraphs()):
        yield from part.inputs
        yield from part.initializers.values()
        for node in part:
            yield from node.outputs


def names(graph: ir.Graph) -> set[str]:
    """Every name in the graph and in the graphs in it, of values and of nodes."""
    found: set[str | None] = set()
    for part in (graph, *graph.subgraphs()):
        found.update(map(_NAME, part.inputs))
        found.update(map(_NAME, part.initializers.values()))
        for node in part:
            found.add(node.name)
            found.update(map(_NAME, node.outputs))
    return {name for name in found if name}


def fresh(name: str, taken: set[str]) -> str:
    """The name, or with a number behind it the first that is not taken; now it is."""
    found, count = name, 1
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found


def name_nodes(graph: ir.Graph) -> None:
    """Give each node a name that no other node has, in place: what has none gets that of its first output.

    An output may well have the name of another node: files number both alike. ONNX Runtime refuses two nodes of one
    name, and errors and profiles point at nodes by them.
    """
    nodes = list(graph.all_nodes())
    owners = Counter([node.name for node in nodes])
    taken = {name for name in owners if name}
    seen: set[str] = set()
    for node in nodes:
        if not node.name or node.name in seen:
            made = [value.name for value in node.outputs if value.name]
            node.name = fresh(node.name or (made or [node.op_type])[0], taken)
        seen.add(node.name)


def publish(graph: ir.Graph, shown: Mapping[str, ir.Value]) -> None:
    """Give these values their public names; what has such a name in the network is called 'network/NAME'."""
    own = set(shown.values())
    others = [value for value in values(graph) if value.name in shown and value not in own]
    taken = names(graph) if others else set()
    for value in others:
        if value.const_value is not None and value.is_initializer():
            # A tensor shares its name with the network's.
            value.const_value = ir.tensor(value.const_value.numpy(), name=value.name)
        value.name = fresh(f"network/{value.name}", taken)
    for name, value in shown.items():
        value.name = name
