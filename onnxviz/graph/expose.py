"""Intermediate values of a model as outputs of it."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis.dataflow import FLOATS, duplicate, lookup
from onnxviz.graph.analysis.shapes import annotate


def expose(model: ir.Model, names: Iterable[str] | None = None) -> ir.Model:
    """A copy of the model with more outputs; its own outputs stay, in front.

    names    names of values; None: every floating-point value that a node makes
    returns  a copy that shares the weights; each new output bears its value's own name, element type and,
             where it is known, shape
    raises   UnknownLayer for a name that is no value of the graph, ModelUnsuitable for a value whose
             element type cannot be told (an output must declare it)
    """
    copy = duplicate(model)
    wanted = None if names is None else lookup(copy.graph, names)
    if wanted is None or any(value.type is None for value in wanted):
        annotate(copy)
    if wanted is None:
        wanted = [value for node in copy.graph for value in node.outputs if value.name and value.dtype in FLOATS]
    add_outputs(copy.graph, wanted)
    return copy


def add_outputs(graph: ir.Graph, values: Iterable[ir.Value]) -> None:
    """Append these values to the graph's outputs, each once."""
    present = set(graph.outputs)
    for value in values:
        if value in present:
            continue
        if value.type is None:
            raise ModelUnsuitable(
                f"value {value.name!r} cannot be an output: its element type is not declared and cannot be inferred"
            )
        present.add(value)
        graph.outputs.append(value)
