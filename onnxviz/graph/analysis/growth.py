"""Whether a graph's work follows the values that it is fed, and not their sizes alone."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import SHAPE_ONLY
from onnxviz.graph.operators import GROWING, operator

# How long the first takes is told by no number beforehand; the second chooses between bodies.
_ALWAYS: Final = frozenset({"Loop", "If"})


def follows_values(model: ir.Model) -> bool:
    """Whether two runs on inputs of the same sizes may differ in work by any factor, by the inputs' values."""
    if GROWING.isdisjoint([node.op_type for node in model.graph.all_nodes()]):
        return False
    return _follows(model.graph, set(model.graph.inputs))


def _follows(nodes: Iterable[ir.Node], fed: set[ir.Value]) -> bool:
    """`fed` gets every value that follows the contents of what is fed."""
    for node in nodes:
        reads = [value in fed for value in node.inputs]
        bodies = [a.as_graph() for a in node.attributes.values() if a.type == ir.AttributeType.GRAPH]
        if any(reads) or bodies:
            if node.op_type in _ALWAYS or any(
                reads[i] for i in operator(node.op_type).sizes if i < len(reads)
            ):
                return True
            for body in bodies:
                fed.update(body.inputs)
                if _follows(body, fed):
                    return True
            if node.op_type not in SHAPE_ONLY:
                fed.update(node.outputs)
    return False
