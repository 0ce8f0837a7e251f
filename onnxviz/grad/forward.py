"""The forward half of a gradient: the network and an objective, for backends that differentiate by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxviz.grad.model import finish, named, prepare
from onnxviz.graph.infer import infer
from onnxviz.graph.tape import Tape
from onnxviz.objectives import Objective

_HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})


@dataclass(frozen=True)
class Forward:
    """A normalised graph and the values that matter in it.

    model       its first output is the objective, (N,); then come those of `sources` and `also` that are no inputs
    objective   that output
    sources     name -> the value to differentiate by, an input or an output
    also        the name under which it is given out -> the value to give out beside
    halves      inputs that the file takes in half precision: here they are float32, to be fed with numbers that
                half precision has, so that their gradients do not underflow
    """

    model: ir.Model
    objective: ir.Value
    sources: dict[str, ir.Value]
    also: dict[str, ir.Value]
    halves: dict[str, ir.DataType]


def forward(model: ir.Model, objective: Objective, sources: Sequence[str], also: Sequence[str]) -> Forward:
    """Normalise a copy of the model and append the objective.

    raises   UnknownLayer, UnknownLabel, UsageError, ModelUnsuitable
    """
    names = dict.fromkeys([*sources, *objective.layers(model, sources[0]), *also])
    copy, values = prepare(model, list(names), keep=False)
    graph = copy.graph
    tape = Tape(graph)
    with tape.named("objective"):
        value = objective.append(tape, model, sources[0], values)
        infer(copy)
        value = named(tape, value, "objective", value)
    kept = dict.fromkeys(values[name] for name in (*sources, *also))
    copy = finish(copy, [value, *(v for v in kept if v.producer() is not None)], [])
    for unused in [v for v in graph.inputs if not v.uses() and v not in kept]:
        graph.inputs.remove(unused)
    halves = {}
    for taken in graph.inputs:
        if taken.dtype in _HALVES and taken.name is not None and taken.dtype is not None:
            halves[taken.name] = taken.dtype
            taken.dtype = ir.DataType.FLOAT
    return Forward(
        model=copy,
        objective=value,
        sources={name: values[name] for name in sources},
        # As native gradients name them: an input that is given out as it came is `<input>.value`.
        also={
            name if values[name].producer() is not None else f"{name}.value": values[name] for name in also
        },
        halves=halves,
    )
