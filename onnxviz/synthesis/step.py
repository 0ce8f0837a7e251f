"""A step as one graph: parameters → picture → transforms → network → objective, its gradient, and the update."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, UnsupportedOperator
from onnxviz.grad.model import differentiate, finish, prepare
from onnxviz.grad.table import Table
from onnxviz.graph.analysis.dataflow import prune
from onnxviz.graph.naming import publish
from onnxviz.graph.shapes import infer
from onnxviz.graph.tape import Tape, dims
from onnxviz.image.front import centre, enter
from onnxviz.objectives import LOGITS, Objective, Term
from onnxviz.objectives.base import moved_axes, pictures_first, takes_one
from onnxviz.synthesis.parametrise import Fourier, Parametrisation
from onnxviz.synthesis.transforms import RULES, Blur, Transform, Window

if TYPE_CHECKING:
    from onnxviz.image.preprocessing import Preprocessing
    from onnxviz.network import Network


@dataclass(frozen=True)
class Plan:
    """What is put together.

    count, height, width   how many pictures, and their size in pixels
    draws                  how often a step shows each picture to the network, differently transformed
    prune                  the percentage of pixels whose gradient, the smallest, is cleared
    planes                 3 colours, or 1 where the network sees grey
    """

    count: int
    height: int
    width: int
    parametrise: Parametrisation
    transforms: Sequence[Transform] = ()
    draws: int = 1
    prune: float = 0.0
    planes: int = 3

    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) in front of each transform, and behind the last."""
        found = [(self.height, self.width)]
        for transform in self.transforms:
            found.append(transform.size(*found[-1]))
        return found

    def shown(self) -> tuple[int, int]:
        """(height, width) of what the network gets."""
        return self.sizes()[-1]

    def shape(self) -> tuple[int, ...]:
        """The parameters'."""
        return self.parametrise.shape(self.count, self.height, self.width, self.planes)

    def feeds(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """What the transforms of one step are fed, by the names of the graph's inputs."""
        found: dict[str, np.ndarray] = {}
        for draw in range(self.draws):
            for place, (transform, size) in enumerate(zip(self.transforms, self.sizes(), strict=False)):
                drawn = transform.draw(rng, *size)
                found |= {fed_name(draw, place, name): array for name, array in drawn.items()}
        return found


def fed_name(draw: int, place: int, name: str) -> str:
    """The graph input for what a transform is fed in one draw."""
    return f"draw{draw}.{place}.{name}"


def fitted(net: Network, plan: Plan, layers: Sequence[str | None]) -> ir.Model:
    """The network with a float input, a free batch, and a free size where it is shown another than its own.

    layers   the values that the objective reads; None stands for the picture
    raises   ModelUnsuitable for a batch that stays fixed, a layer that exists at the network's own size only, or an
             input that is needed as integers
    """
    from onnxviz.graph.float32 import real_input

    model, fixed = net.batched
    together = plan.count * plan.draws
    if together > 1 and fixed in (None, 1) and net.alone is not None:
        raise ModelUnsuitable(
            f"images go through this network one at a time ({net.alone}); {plan.count} pictures × {plan.draws} draws "
            "were asked for: make one picture at a time, with one draw"
        )
    if fixed not in (None, together):
        raise ModelUnsuitable(
            f"this file takes {fixed} images at once and no other number; {plan.count} pictures × {plan.draws} draws "
            "were asked for"
        )
    model = real_input(model, net.input.name)
    return at_size(net, model, plan.shown(), [name for name in layers if name is not None])


def at_size(net: Network, model: ir.Model, size: tuple[int, int], names: Sequence[str]) -> ir.Model:
    """The network as it stands in `model`, for pictures of (height, width): of a free size where that is not its own.

    raises   ModelUnsuitable where one of these values exists at the network's own size only
    """
    own = (net.input.height, net.input.width)
    if all(a is None or a == b for a, b in zip(own, size, strict=True)):
        return model
    from onnxviz.grad.model import all_values
    from onnxviz.graph.picture_sizes import free_size

    model, barrier = free_size(model)
    there = all_values(model.graph)
    lost = [name for name in names if name not in there]
    if barrier is not None and lost:
        raise ModelUnsuitable(
            f"at {size[1]}×{size[0]} pixels this network ends before {barrier!r}, and {lost[0]!r} lies behind it: "
            f"show the network {own[1]}×{own[0]} pixels, or take an earlier layer"
        )
    return model


def views(tape: Tape, parameters: ir.Value, picture: ir.Value, plan: Plan, recipe: Preprocessing) -> ir.Value:
    """The network's input for all draws: the picture through its transforms, or, where these begin with a window on
    waves, a view drawn from the parameters without the whole picture."""
    parts = []
    for draw in range(plan.draws):
        value, size = picture, (plan.height, plan.width)
        chain: list[tuple[Transform, dict[str, ir.Value]]] = []
        for place, (transform, at) in enumerate(zip(plan.transforms, plan.sizes(), strict=False)):
            sample = transform.draw(np.random.default_rng(0), *at)
            # Those that nothing reads are dropped in the end.
            fed = {
                name: graph_input(
                    tape, fed_name(draw, place, name), array.shape, ir.DataType.from_numpy(array.dtype)
                )
                for name, array in sample.items()
            }
            chain.append((transform, fed))
        if chain and isinstance(chain[0][0], Window) and isinstance(plan.parametrise, Fourier):
            (window, fed), *chain = chain
            assert isinstance(window, Window)
            sigma = None
            if chain and isinstance(chain[0][0], Blur):
                sigma = tape.Mul(chain[0][1]["sigma"], fed["step"])  # in pixels of the picture
                chain = chain[1:]
            size, at = (window.height, window.width), (plan.height, plan.width)
            places = window.places(tape, fed)
            value = plan.parametrise.window(tape, parameters, *at, centre(recipe), places, sigma)
            value = shaped(tape, value, (plan.count, plan.planes, *size))
        for transform, fed in chain:
            value = transform.append(tape, value, fed, *size)
            size = transform.size(*size)
            value = shaped(tape, value, (plan.count, plan.planes, *size))
        parts.append(value)
    seen = enter(tape, parts[0] if plan.draws == 1 else tape.Concat(*parts, axis=0), recipe)
    many, size, channels = plan.count * plan.draws, plan.shown(), len(recipe.scale)
    return shaped(tape, seen, (many, *size, channels) if recipe.layout == "NHWC" else (many, channels, *size))


def graph_input(
    tape: Tape, name: str, shape: Sequence[Any], dtype: ir.DataType = ir.DataType.FLOAT
) -> ir.Value:
    """A new input of the graph, which has this very name: a value of the network's that is called so gets another."""
    value = ir.Value(type=ir.TensorType(dtype), shape=ir.Shape(shape))
    publish(tape.graph, {name: value})
    tape.graph.inputs.append(value)
    return value


def shaped(tape: Tape, value: ir.Value, shape: Sequence[int]) -> ir.Value:
    """The same value with its shape told, which random offsets hide from inference; nothing where it is known."""
    if value.shape is not None and list(value.shape) == list(shape):
        return value
    out = tape.Reshape(value, list(shape))
    out.shape = ir.Shape(shape)
    out.dtype = value.dtype
    return out


PARAMETERS, GRADIENT, NORM, PICTURE = "parameters", "gradient", "norm", "picture"


def step_model(
    model: ir.Model,
    input: str,
    recipe: Preprocessing,
    objective: Objective,
    plan: Plan,
    *,
    logits: str | None = None,
    update: Any = None,
    gradient: bool = False,
    rules: Table,
) -> ir.Model:
    """The graph of one step.

    model     the network with a free batch, and of a size that `plan.shown()` suits
    input     its image input
    logits    the value that terms over class scores read
    update    an optimiser of updates.py; None: no new parameters
    gradient  whether the gradient by the parameters is given out
    returns   inputs: parameters, the state's names, the scalars' names, what transforms and objective are fed;
              outputs: `value` (N,), `term.<i>` (N,) for each, `norm` (N,), and `gradient`, `parameters.next`,
              `<state>.next`
    raises    UnknownLayer, UnknownLabel, UsageError, ModelUnsuitable, UnsupportedOperator
    """
    located = [_layer(term, logits) for _, term in objective.terms]
    names = list(dict.fromkeys(name for name in located if name not in (None, input)))
    axes, single = moved_axes(model, input), takes_one(model, input)
    model, values = prepare(model, [name for name in names if name is not None], keep=False)
    graph = model.graph
    entry = next(value for value in graph.inputs if value.name == input)
    # What the objective does not need is dropped: the fixed-size head, the other outputs.
    graph.outputs.clear()
    graph.outputs.extend(values.values())
    prune(model)
    graph.outputs.clear()
    tape = Tape(graph)
    shape, colour = plan.shape(), centre(recipe)
    parameters = graph_input(tape, PARAMETERS, shape)
    with tape.named("picture"):
        picture = plan.parametrise.picture(tape, parameters, plan.height, plan.width, colour)
        picture = shaped(tape, picture, (plan.count, plan.planes, plan.height, plan.width))
        seen = views(tape, parameters, picture, plan, recipe)
    # Every reader of the network's input reads the transformed pictures instead, which are float32.
    for node, index in list(entry.uses()):
        node.replace_input_with(index, seen)
    graph.inputs.remove(entry)
    graph.sort()
    infer(model)
    _large_enough(graph, values, plan)
    with tape.named("objective"):
        first = {
            name: pictures_first(tape, value, axes.get(name, 0), single) for name, value in values.items()
        }
        read = {**first, input: seen}
        terms, of_picture, of_views = _terms(tape, objective, located, read, picture, plan)
        infer(model)
    seeds = {}
    if of_views:  # the variants of backpropagation are about the network alone
        seeds[seen] = _gradient(tape, of_views, seen, rules)
    with tape.named("picture"):
        if of_picture:
            total = functools.reduce(tape.Add, of_picture)
            seeds[total] = _ones(tape, total)
        infer(model)
        (g,) = differentiate(tape, seeds, [parameters], RULES)
        g = shaped(tape, g, shape)
        if plan.prune:
            g = _pruned(tape, g, plan.prune, shape[2] * shape[3])
        norm = tape.ReduceL2(tape.Flatten(g, axis=1), [1], keepdims=0)
    sums = {"value": functools.reduce(tape.Add, terms), **{f"term.{i}": term for i, term in enumerate(terms)}}
    outputs = [_told(tape, value, name, (plan.count,)) for name, value in {**sums, NORM: norm}.items()]
    with tape.named("update"):
        if gradient:
            outputs.append(_told(tape, g, GRADIENT, shape))
        if update is not None:
            state = [graph_input(tape, name, shape) for name in update.state]
            scalars = {name: graph_input(tape, name, ()) for name in update.scalars(0)}
            moved, after = update.append(tape, parameters, g, state, scalars)
            bounds = plan.parametrise.bounds(colour)
            if bounds is not None:
                moved = tape.Min(tape.Max(moved, bounds[0]), bounds[1])
            named = [(PARAMETERS, moved), *zip(update.state, after, strict=True)]
            outputs += [_told(tape, value, f"{name}.next", shape) for name, value in named]
    model = finish(model, outputs, tape.pairs)
    for value in [v for v in graph.inputs if not v.uses() and not v.is_graph_output()]:
        graph.inputs.remove(value)
    return model


def picture_model(recipe: Preprocessing, plan: Plan) -> ir.Model:
    """The way from `parameters` to `picture`, (N, H, W, 3) of 0 to 1, as a graph of its own."""
    graph = ir.Graph([], [], nodes=[], name="picture", opset_imports={"": 18})
    model = ir.Model(graph, ir_version=8)
    tape = Tape(graph)
    with tape.named("picture"):
        parameters = graph_input(tape, PARAMETERS, plan.shape())
        colour = centre(recipe)
        picture = plan.parametrise.picture(tape, parameters, plan.height, plan.width, colour)
        whole = tape.Clip(tape.Add(picture, colour[:, None, None]), 0.0, 1.0)
        out = tape.Transpose(whole, perm=[0, 2, 3, 1])
        out = tape.Concat(out, out, out, axis=3) if plan.planes == 1 else out
    out.name, out.shape = PICTURE, ir.Shape((plan.count, plan.height, plan.width, 3))
    graph.outputs.append(out)
    return model


# --- the pieces -----------------------------------------------------------------------------------


def _layer(term: Term, logits: str | None) -> str | None:
    if term.layer != LOGITS:
        return term.layer
    if logits is None:
        raise ModelUnsuitable("the objective is a class score, and this network has none")
    return logits


def _large_enough(graph: ir.Graph, values: dict[str, ir.Value], plan: Plan) -> None:
    """Refuse pictures of which nothing is left at a layer, or whose size does not suit the network."""
    for name, value in values.items():
        left = value.shape is not None and all(not isinstance(d, int) or d > 0 for d in value.shape)
        if not left:
            height, width = plan.shown()
            reason = None if value.shape is not None else _unmatched(graph)
            if reason is not None:
                raise ModelUnsuitable(
                    f"pictures of {width}×{height} pixels do not suit this network: {reason}; take another --size, a "
                    "multiple of 32 each way mostly"
                )
            raise ModelUnsuitable(
                f"{width}×{height} pixels are too small for this network: nothing of them is left at layer {name!r}; "
                "take a larger --size, or an earlier layer"
            )


def _unmatched(graph: ir.Graph) -> str | None:
    """The first node whose inputs' sizes are known and do not go together; None where something is left of nothing."""
    from onnxviz.graph.picture_sizes import unmatched

    for node in graph:
        shapes = [dims(value) for value in node.inputs if value is not None]
        known = [[d for d in shape if isinstance(d, int)] for shape in shapes if shape is not None]
        if any(d <= 0 for shape in known for d in shape):
            return None
        whole = len(known) == len(shapes) and all(
            len(one) == len(shape or ()) for one, shape in zip(known, shapes, strict=True)
        )
        if whole and any(dims(value) is None for value in node.outputs):
            return unmatched(node, known)
    return None


def _terms(
    tape: Tape,
    objective: Objective,
    located: Sequence[str | None],
    values: dict[str, ir.Value],
    picture: ir.Value,
    plan: Plan,
) -> tuple[list[ir.Value], list[ir.Value], list[ir.Value]]:
    """Each term's weighted value, (N,), and what is differentiated: by the picture, and by the network's input."""
    terms, of_picture, of_views = [], [], []
    for (weight, term), name in zip(objective.terms, located, strict=True):
        if name is None:
            value = tape.Mul(term.value(tape, picture), weight)
            of_picture.append(value)
        else:
            views = tape.Mul(term.value(tape, values[name], plan.draws), weight / plan.draws)
            of_views.append(views)
            value = tape.ReduceSum(tape.Reshape(views, [plan.draws, plan.count]), [0], keepdims=0)
        terms.append(value)
    return terms, of_picture, of_views


def _gradient(tape: Tape, parts: list[ir.Value], source: ir.Value, rules: Table) -> ir.Value:
    """The cotangent of `source` from a sum of terms."""
    total = functools.reduce(tape.Add, parts)
    try:
        (found,) = differentiate(tape, {total: _ones(tape, total)}, [source], rules)
    except UnsupportedOperator as reason:
        raise UnsupportedOperator(
            reason.what,
            "; images are made on native gradients only: choose a layer in front of it",
            reason.operator,
        ) from reason
    return found


def _ones(tape: Tape, value: ir.Value) -> ir.Value:
    return tape.Expand(tape.cast_like(1.0, value), tape.Shape(value))


def _pruned(tape: Tape, g: ir.Value, percent: float, places: int) -> ir.Value:
    """The gradient, (N, C, H, W), with 0 at those of its places where it is smallest."""
    size = tape.ReduceL2(g, [1], keepdims=1)
    flat = tape.Flatten(size, axis=1)
    kept = max(1, round(places * (1 - percent / 100)))
    largest, _ = tape.TopK(flat, [kept], axis=1, largest=1, sorted=1, _outputs=2)
    limit = tape.Reshape(tape.Slice(largest, [kept - 1], [kept], [1]), [-1, 1, 1, 1])
    return tape.Where(tape.Less(size, limit), 0.0, g)


def _told(tape: Tape, value: ir.Value, name: str, shape: Sequence[int]) -> ir.Value:
    """The value as an output of this name and shape."""
    out = tape.Identity(value)
    publish(tape.graph, {name: out})
    out.shape, out.dtype = ir.Shape(shape), ir.DataType.FLOAT
    return out
