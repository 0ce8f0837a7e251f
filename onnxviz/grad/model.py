"""The graphs that callers want, and which operators have rules.

gradient_model      the model plus its vector–Jacobian product
value_and_gradient  an objective's value for each picture, and its gradient
value_model         the value alone, for techniques that only run forwards
forward             network and objective, for backends that differentiate by themselves
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, OnnxVizError, UnknownLayer, UsageError, near, one_of
from onnxviz.grad import backward, table
from onnxviz.grad.rules import PLAIN
from onnxviz.graph import float32
from onnxviz.graph.analysis.dataflow import clone, prune, reads
from onnxviz.graph.naming import name_lengths, name_nodes, publish
from onnxviz.graph.normalise import normalise
from onnxviz.graph.operators import computes
from onnxviz.graph.shapes import infer
from onnxviz.graph.tape import Tape, dims
from onnxviz.objectives import Objective

VALUE = "objective"
"""The name under which an objective's value is given out."""


def rules_named(name: str) -> table.Table:
    """The rules that the command line calls so; raises UsageError."""
    if name == "plain":
        return PLAIN
    from onnxviz.grad.overrides import TABLES

    return TABLES[one_of("rules", name, TABLES)]


def gradient_model(
    model: ir.Model,
    of: str | None = None,
    wrt: str | None = None,
    rules: table.Table = PLAIN,
    *,
    cpu: bool = False,
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
    rules: table.Table = PLAIN,
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
    wrt = _only(inputs, "input", "wrt") if wrt is None else wrt
    sources = [wrt] if isinstance(wrt, str) else list(wrt)
    _distinct(sources, also)
    model, values, tape, value = _with_objective(model, objective, sources, also, cpu=cpu)
    graph = model.graph
    with tape.named(VALUE):
        ones = tape.Expand(tape.cast_like(1.0, value), tape.Shape(value))
    gradients = differentiate(tape, {value: ones}, [values[name] for name in sources], rules)
    outputs = [named(tape, value, VALUE, value)]
    outputs += [named(tape, g, f"{n}.gradient", values[n]) for g, n in zip(gradients, sources, strict=True)]
    for name, shown in ((name, values[name]) for name in also):
        own = shown.producer() is not None
        outputs.append(shown if own else named(tape, shown, f"{name}.value", shown))
    model = finish(model, outputs, tape.pairs, kept=graph.outputs)
    model.meta["rectifiers"] = None if rules is PLAIN else len(tape.rectified)
    return model


def value_model(model: ir.Model, objective: Objective, input: str) -> ir.Model:
    """A model whose only output, `objective`, (N,) float32, is the objective's value.

    input    the image input's name; what terms over "the input" read
    returns  a copy of `model` with the inputs that are needed, and those that the objective feeds
    raises   UnknownLayer, UnknownLabel, UsageError, ModelUnsuitable
    """
    copy, _, tape, value = _with_objective(model, objective, [input], source=False)
    own = [v for v in copy.graph.inputs if v.name == input]
    return finish(copy, [named(tape, value, VALUE, value)], [], kept=own)


def _with_objective(
    model: ir.Model,
    objective: Objective,
    sources: Sequence[str],
    also: Sequence[str] = (),
    *,
    source: bool = True,
    cpu: bool = False,
) -> tuple[ir.Model, dict[str, ir.Value], Tape, ir.Value]:
    """A normalised copy, its values by name, a tape on it, and the objective's value (N,), appended.

    source   the sources are wanted as values of the copy
    """
    wanted = [*(sources if source else ()), *objective.layers(model, sources[0]), *also]
    copy, values = prepare(model, list(dict.fromkeys(wanted)), keep=False, integers=not source)
    tape = Tape(copy.graph, cpu=cpu)
    with tape.named(VALUE):
        if not source:
            values = {name: _real(tape, value) for name, value in values.items()}
        value = objective.append(tape, model, sources[0], values)
        infer(copy)
    return copy, values, tape, value


def _real(tape: Tape, value: ir.Value) -> ir.Value:
    """The value as float32 where it is whole numbers: the sums of a ConvInteger."""
    if value.dtype is None or value.dtype.is_floating_point():
        return value
    real: ir.Value = tape.Cast(value, to=int(ir.DataType.FLOAT))
    real.shape = value.shape
    return real


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
    copy, values, tape, value = _with_objective(model, objective, sources, also)
    graph = copy.graph
    with tape.named(VALUE):
        value = named(tape, value, VALUE, value)
    kept = dict.fromkeys(values[name] for name in (*sources, *also))
    copy = finish(copy, [value, *(v for v in kept if v.producer() is not None)], [], kept=kept)
    halves = {}
    for taken in graph.inputs:
        if taken.dtype in float32.HALVES and taken.name is not None and taken.dtype is not None:
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


def prepare(
    model: ir.Model, names: Sequence[str], *, keep: bool, integers: bool = False
) -> tuple[ir.Model, dict[str, ir.Value]]:
    """Normalise a copy in which these values have survived; the copy and the values by name.

    keep       the original outputs stay outputs; otherwise the copy has none
    integers   whether values may be whole numbers, which have no gradients
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
        real = float32.computed(values[name])
        if real is not None:
            if not keep:  # what is given out under the name is float32
                publish(copy.graph, {name: real})
            values[name] = real
        dtype = values[name].dtype
        if dtype is not None and not dtype.is_floating_point():
            from onnxviz.graph.dequantised import dequantised

            stands_for = None if keep else dequantised(copy.graph, values[name])
            if stands_for is not None:
                values[name] = stands_for
                continue
            if integers:
                continue
            raise ModelUnsuitable(
                f"{name!r} has type {dtype.name}; gradients need float values: choose a float input, output or layer"
            )
        maker = values[name].producer()
        if maker is not None and computes(maker.op_type) == "dequantize":
            from onnxviz.graph.dequantised import through

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
    tape: Tape, seeds: dict[ir.Value, ir.Value], sources: Sequence[ir.Value], rules: table.Table
) -> list[ir.Value]:
    """The cotangents of `sources`; ModelUnsuitable when the seeds do not depend on one of them differentiably."""
    found = []
    for source, gradient in zip(sources, backward.vjp(tape, seeds, sources, rules), strict=True):
        if gradient is None:
            raise independent(", ".join(repr(v.name) for v in seeds), source.name)
        found.append(gradient)
    return found


def independent(what: object, source: str | None) -> ModelUnsuitable:
    """The error where nothing flows back to a source."""
    return ModelUnsuitable(
        f"{what} does not depend on {source!r} through differentiable operators: the gradient would be zero "
        "everywhere; choose another output, layer or input"
    )


def named(tape: Tape, value: ir.Value, name: str, like: ir.Value) -> ir.Value:
    """The value under a public name, declared with the shape of `like`."""
    out = tape.Identity(value)
    publish(tape.graph, {_free(tape.graph, name): out})
    out.shape, out.dtype = like.shape, value.dtype or ir.DataType.FLOAT
    return out


def finish(
    model: ir.Model,
    outputs: Sequence[ir.Value],
    pairs: Sequence[tuple[ir.Value, ir.Value]],
    kept: Iterable[ir.Value] | None = None,
) -> ir.Model:
    """Set the outputs, drop what they do not need, check shapes and types.

    pairs   (cotangent, its value): a cotangent is declared with its value's shape. That is a check, and it tells the
            runtime that both have the same (dynamic) batch, without which it leaves the fast layout at every mask.
    kept    inputs that nothing reads go, but for these; None: all stay
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
    if kept is not None:
        for unused in [v for v in graph.inputs if not v.uses() and v not in set(kept)]:
            graph.inputs.remove(unused)
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
