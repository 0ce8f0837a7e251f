"""An objective's value for each picture as a graph, without a gradient: for techniques that only run forwards."""

from __future__ import annotations

import onnx_ir as ir

from onnxviz.grad.model import finish, named, prepare
from onnxviz.graph.infer import infer
from onnxviz.graph.tape import Tape
from onnxviz.objectives import Objective

VALUE = "objective"


def value_model(model: ir.Model, objective: Objective, input: str) -> ir.Model:
    """A model whose only output, `objective`, (N,) float32, is the objective's value.

    input    the image input's name; what terms over "the input" read
    returns  a copy of `model` with the inputs that are needed, and those that the objective feeds
    raises   UnknownLayer, UnknownLabel, UsageError, ModelUnsuitable
    """
    copy, values = prepare(model, list(objective.layers(model, input)), keep=False)
    tape = Tape(copy.graph)
    with tape.named(VALUE):
        value = objective.append(tape, model, input, values)
        infer(copy)
    copy = finish(copy, [named(tape, value, VALUE, value)], [])
    for unused in [v for v in copy.graph.inputs if not v.uses() and v.name != input]:
        copy.graph.inputs.remove(unused)
    return copy
