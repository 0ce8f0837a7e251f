"""The two graphs that callers want: the gradient model, and value with gradient of an objective."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, OnnxVizError, UnknownLayer, UsageError, near
from onnxviz.grad import backward
from onnxviz.grad.overrides import PLAIN
from onnxviz.grad.table import Table
from onnxviz.graph import half
from onnxviz.graph.analysis.dataflow import clone, prune
from onnxviz.graph.dequantised import dequantised, through
from onnxviz.graph.infer import infer
from onnxviz.graph.naming import name_nodes, publish
from onnxviz.graph.normalise import normalise
from onnxviz.graph.symbols import name_lengths
from onnxviz.graph.tape import Tape, dims
from onnxviz.objectives import Objective


def gradient_model(
    model: ir.Model, of: str | None = None, wrt: str | None = None, rules: Table = PLAIN, *, cpu: bool = False
) -> ir.Model:
    """The model plus its vector–Jacobian product, in operators of the standard domain.

    of       output (or any other float value of the graph) to differentiate; None: the only float output
    wrt      input (or any other float value) to differentiate by; None: the only float input
    rules    how operators are differentiated (see overrides.py)
    cpu      it will run on ONNX Runtime's CPU provider: take what is fastest there (see Tape)
    returns  a new model with one more input, `<of>.cotangent`, of the shape of `of`, and one more output,
             `<wrt>.gradient`, of the shape of `wrt`; the original outputs are kept, a dynamic batch stays dynamic. Its
             meta['rectifiers'] is the number of rectifiers that rules other than PLAIN acted on
    raises   UnknownLayer, ModelUnsuitable (no such float value, no way from one to the other), UnsupportedOperator
    """
    of = of or _only(model.graph.outputs, "output", "of")
    wrt = wrt or _only([v for v in model.graph.inputs if not v.is_initializer()], "input", "wrt")
    model, values = prepare(model, [of, wrt], keep=True)
    graph = model.graph
    target, source = values[of], values[wrt]
    if target.shape is None:
        raise ModelUnsuitable(
            f"the rank of {of!r} cannot be told, so its cotangent cannot be declared: choose another output"
        )
    tape = Tape(graph, cpu=cpu)
    cotangent = ir.Value(
        name=tape.fresh("cotangent"), type=ir.TensorType(real_type(target)), shape=target.shape
    )
    publish(graph, {_free(graph, f"{of}.cotangent"): cotangent})
    (gradient,) = differentiate(tape, {target: cotangent}, [source], rules)
    graph.inputs.append(cotangent)
    model = finish(model, [*graph.outputs, named(tape, gradient, f"{wrt}.gradient", source)], tape.pairs)
    model.meta["rectifiers"] = None if rules is PLAIN else len(tape.rectified)
    return model


def value_and_gradient(
    model: ir.Model,
    objective: Objective,
    wrt: str | Sequence[str] | None = None,
    *,
    also: Sequence[str] = (),
    rules: Table = PLAIN,
    cpu: bool = False,
) -> ir.Model:
    """A model that gives an objective's value for each picture, and its gradient; whatever these do not need is gone.

    objective   see onnxviz.objectives
    wrt         input, or any other float value, or several; None: the only float input
    also        further values to give out (the activations of a layer beside its gradient)
    cpu         it will run on ONNX Runtime's CPU provider: take what is fastest there (see Tape)
    returns     a model with the inputs of the given one that are needed (and those that the objective feeds), and
                the outputs `objective`, (N,), `<wrt>.gradient` for each of `wrt`, of its shape, then `also`; its
                meta['rectifiers'] is the number of rectifiers that rules other than PLAIN acted on
    raises      UnknownLayer, UnknownLabel, UsageError, ModelUnsuitable, UnsupportedOperator
    """
    inputs = [v for v in model.graph.inputs if not v.is_initializer()]
    sources = (
        [wrt] if isinstance(wrt, str) else list(wrt) if wrt is not None else [_only(inputs, "input", "wrt")]
    )
    _distinct(sources, also)
    layers = objective.layers(model, sources[0])
    original, names = model, list(dict.fromkeys([*sources, *layers, *also]))
    model, values = prepare(model, names, keep=False)
    graph = model.graph
    tape = Tape(graph, cpu=cpu)
    with tape.named("objective"):
        value = objective.append(tape, original, sources[0], values)
        infer(model)
        ones = tape.Expand(tape.cast_like(1.0, value), tape.Shape(value))
    gradients = differentiate(tape, {value: ones}, [values[name] for name in sources], rules)
    outputs = [named(tape, value, "objective", value)]
    outputs += [named(tape, g, f"{n}.gradient", values[n]) for g, n in zip(gradients, sources, strict=True)]
    for name in also:
        outputs.append(
            values[name]
            if values[name].producer() is not None
            else named(tape, values[name], f"{name}.value", values[name])
        )
    model = finish(model, outputs, tape.pairs)
    model.meta["rectifiers"] = None if rules is PLAIN else len(tape.rectified)
    unused = [v for v in graph.inputs if not v.uses() and not v.is_graph_output()]
    for v in unused:
        graph.inputs.remove(v)
    return model


def prepare(model: ir.Model, names: Sequence[str], *, keep: bool) -> tuple[ir.Model, dict[str, ir.Value]]:
    """Normalise a copy in which these values have survived; the copy and the values by name.

    keep   the original outputs stay outputs; otherwise the copy has none
    """
    copy = clone(model)
    graph = copy.graph
    found = all_values(graph)
    for name in names:
        if name not in found:
            raise UnknownLayer(f"the graph has no value {name!r}{near(name, found)}")
        value = found[name]
        if value not in graph.outputs and value not in graph.inputs:
            graph.outputs.append(value)
    wanted = [value.name for value in model.graph.outputs] if keep else []
    copy = normalise(copy)
    values = {v.name or "": v for v in copy.graph.outputs} | all_values(
        copy.graph
    )  # a constant output is a weight
    outputs = [values[name or ""] for name in wanted]
    for name in names:
        real = half.computed(values[name])
        if real is not None:
            if not keep:  # what is given out under the name is float32
                publish(copy.graph, {name: real})
            values[name] = real
        dtype = values[name].dtype
        if dtype is not None and not dtype.is_floating_point():
            stands_for = None if keep else dequantised(copy.graph, values[name])
            if stands_for is not None:
                values[name] = stands_for
                continue
            raise ModelUnsuitable(
                f"{name!r} has type {dtype.name}; gradients need float values: choose a float input, output or layer"
            )
        through(copy.graph, values[name])
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(outputs)
    return copy, {name: values[name] for name in names}


def real_type(value: ir.Value) -> ir.DataType:
    """The type of a value's cotangent: float64 for float64, otherwise float32."""
    return ir.DataType.DOUBLE if value.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT


def all_values(graph: ir.Graph) -> dict[str, ir.Value]:
    """The values of the main graph that a user may mean, by name."""
    found = {v.name: v for v in graph.inputs if v.name and not v.is_initializer()}
    for node in graph:
        found.update({v.name: v for v in node.outputs if v.name})
    return found


def differentiate(
    tape: Tape, seeds: dict[ir.Value, ir.Value], sources: Sequence[ir.Value], rules: Table
) -> list[ir.Value]:
    """The cotangents of `sources`; ModelUnsuitable when the seeds do not depend on one of them differentiably."""
    found = []
    for source, gradient in zip(sources, backward.vjp(tape, seeds, sources, rules), strict=True):
        if gradient is None:
            raise ModelUnsuitable(
                f"{', '.join(repr(v.name) for v in seeds)} does not depend on {source.name!r} through differentiable "
                "operators: the gradient would be zero everywhere; choose another output, layer or input"
            )
        found.append(gradient)
    return found


def named(tape: Tape, value: ir.Value, name: str, like: ir.Value) -> ir.Value:
    """The value under a public name, declared with the shape of `like`."""
    out = tape.Identity(value)
    publish(tape.graph, {_free(tape.graph, name): out})
    out.shape, out.dtype = like.shape, value.dtype or ir.DataType.FLOAT
    return out


def finish(
    model: ir.Model, outputs: Sequence[ir.Value], pairs: Sequence[tuple[ir.Value, ir.Value]]
) -> ir.Model:
    """Set the outputs, drop what they do not need, check shapes and types.

    pairs   (cotangent, its value): a cotangent is declared with its value's shape. That is a check, and it tells the
            runtime that both have the same (dynamic) batch, without which it leaves the fast layout at every mask.
    """
    graph = model.graph
    graph.outputs.clear()
    graph.outputs.extend(outputs)
    prune(model)
    name_nodes(graph)
    declared = [(value, value.shape) for value in graph.outputs]
    known = [(g, x.shape) for g, x in pairs]
    infer(model)
    for value, shape in [*declared, *known]:
        if shape is None:
            continue
        if disagree(value, shape):
            raise OnnxVizError(
                f"internal: {value.name!r} came out as {value.shape} where {shape} was due; please report this model"
            )
        value.shape = ir.Shape(
            [b if isinstance(b, int) else a for a, b in zip(shape, value.shape or shape, strict=True)]
        )
    name_lengths(graph)  # what lies between two cotangents has their lengths
    return model


def disagree(value: ir.Value, shape: ir.Shape) -> bool:
    """Whether the inferred shape contradicts the one that is due."""
    known = dims(value)
    if known is None:
        return False
    return len(shape) != len(known) or any(
        isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(known, shape, strict=True)
    )


def _only(values: Sequence[ir.Value], what: str, argument: str) -> str:
    floats = [v.name or "" for v in values if v.dtype is None or v.dtype.is_floating_point()]
    if len(floats) != 1:
        listed = ", ".join(f"{v.name!r} ({v.dtype.name if v.dtype else '?'})" for v in values) or "none"
        raise ModelUnsuitable(
            f"the model has {len(floats)} float {what}s where one is expected "
            f"(its {what}s: {listed}): name one with {argument}="
        )
    return floats[0]


def _distinct(sources: Sequence[str], also: Sequence[str]) -> None:
    """Refuse a layer that has the name of one of the results beside which it is given out."""
    results = {"objective", *(f"{source}.gradient" for source in sources)}
    if clash := results.intersection(also):
        raise UsageError(
            f"the layer {min(clash)!r} cannot be given out beside the result of that name: choose another layer"
        )


def _free(graph: ir.Graph, name: str) -> str:
    """The name itself, or with more of the same ending where an input or output has it (a gradient of a gradient)."""
    taken = {value.name for value in (*graph.inputs, *graph.outputs)}
    ending = "." + name.rpartition(".")[2]
    while name in taken:
        name += ending
    return name
