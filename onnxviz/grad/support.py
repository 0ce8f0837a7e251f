"""Which operators on the way to a model's input have a gradient rule."""

from __future__ import annotations

import onnx_ir as ir

from onnxviz.grad import table
from onnxviz.grad.backward import reads
from onnxviz.grad.overrides import PLAIN
from onnxviz.graph.normalise import normalise


def support(model: ir.Model, wrt: str | None = None) -> dict[str, bool]:
    """Operator -> whether gradients pass it, for the operators that depend on the input, most used first.

    Operators without a derivative (Shape, ArgMax...) are no obstacle and are left out. A rule may still refuse a
    rare form of its operator; taking the gradient tells.

    wrt      the input; None: any of them
    raises   ModelUnsuitable, ModelRejected when the model cannot be normalised
    """
    graph = normalise(model).graph
    reached = {v for v in graph.inputs if wrt is None or v.name == wrt}
    counts: dict[str, int] = {}
    for node in graph:
        if table.is_zero(node.op_type, node.domain) or not any(x in reached for x in reads(node)):
            continue
        reached.update(node.outputs)
        name = table.key(node.op_type, node.domain)
        counts[name] = counts.get(name, 0) + 1
    return {name: name in PLAIN for name in sorted(counts, key=lambda n: (-counts[n], n))}
