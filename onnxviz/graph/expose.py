"""Intermediate values of a model as outputs of it."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis.dataflow import FLOATS, dependent, duplicate, lookup


def expose(model: ir.Model, names: Iterable[str] | None = None) -> ir.Model:
    """A copy of the model with more outputs; its own outputs stay, in front.

    names    names of values; None: every floating-point value that depends on an input
    returns  a copy that shares the weights; each new output bears its value's own name, element type and,
             where it is known, shape
    raises   UnknownLayer for a name that is no value of the graph, ModelUnsuitable for a value whose
             element type cannot be told (an output must declare it)
    """
    copy = duplicate(model)
    if names is None:
        from onnxviz.graph.analysis.shapes import annotate

        annotate(copy)
        moved = set().union(*(dependent(copy.graph, value) for value in copy.graph.inputs))
        made = [value for node in copy.graph for value in node.outputs if value.name and value in moved]
        wanted = [value for value in made if value.dtype in FLOATS]
    else:
        wanted = lookup(copy.graph, names)
    add_outputs(copy, wanted)
    return copy


def add_outputs(model: ir.Model, values: Iterable[ir.Value]) -> None:
    """Append these values to the model's outputs, each once, with element type and shape declared. Edits `model`."""
    present = set(model.graph.outputs)
    model.graph.outputs.extend(value for value in dict.fromkeys(values) if value not in present)
    declare_outputs(model)


def declare_outputs(model: ir.Model) -> None:
    """Fill in the element types and shapes that the outputs lack. Edits `model`.

    Raises ModelUnsuitable where an element type cannot be told; a shape that cannot be told is left out.
    """
    if any(value.type is None or value.shape is None for value in model.graph.outputs):
        from onnxviz.graph.analysis.shapes import annotate

        annotate(model)
    for value in model.graph.outputs:
        if value.type is None:
            raise ModelUnsuitable(
                f"value {value.name!r} cannot be an output: its element type is not declared and cannot be inferred"
            )
