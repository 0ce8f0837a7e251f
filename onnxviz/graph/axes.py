"""Where the pictures stand in values that do not have them on axis 0, such as the (T, N, C) of a recogniser of text."""

from __future__ import annotations

import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import flat, image_input
from onnxviz.graph.analysis.probe import Prober
from onnxviz.graph.analysis.shapes import probes, symbolic

_MOVERS = frozenset({"Einsum", "GRU", "LSTM", "Loop", "RNN", "Scan"})


def moved_axes(model: ir.Model, input: str | None = None) -> dict[str, int]:
    """The axis of the pictures for each value that has them on another axis than 0.

    Shapes are compared at two batches, where the file leaves the batch open; else the only axis that has the batch's
    size tells. Nothing is inferred for files in which no operator could move the axis.

    input    the image input's name; None: the only one
    """
    if not any(_moves(node) for node in model.graph.all_nodes()):
        return {}
    model = flat(model)
    prober = Prober(model, image_input(model, input))
    if prober.layout.batch is None:
        return {}
    if prober.open_batch:
        base, other, _ = probes(prober, prober.facts().size)
        known = symbolic(prober, base, other, None)
        return {
            name: shape.index("N") for name, shape in known.items() if "N" in shape[1:] and shape[0] != "N"
        }
    facts = prober.facts()
    found = {}
    for name, sizes in facts.shapes.items():
        if len(sizes) > 1 and sizes[0] != facts.batch and sizes.count(facts.batch) == 1:
            found[name] = sizes.index(facts.batch)
    return found


def _moves(node: ir.Node) -> bool:
    """Whether the node could bring the pictures to another axis."""
    if node.op_type == "Transpose":
        order = node.attributes.get("perm")
        return order is None or order.is_ref() or next(iter(order.as_ints()), 0) != 0
    return node.op_type in _MOVERS
