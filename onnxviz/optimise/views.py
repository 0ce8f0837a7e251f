"""From picture or parameters to what the network is shown: every draw's transforms, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxviz.grad.tape import Tape
from onnxviz.graph.naming import publish
from onnxviz.optimise.entrance import centre, enter
from onnxviz.optimise.parametrise import Fourier
from onnxviz.optimise.plan import Plan, fed_name
from onnxviz.optimise.transforms import Blur, Transform, Window

if TYPE_CHECKING:
    from onnxviz.image.recipe import Preprocessing


def views(
    tape: Tape, parameters: ir.Value, picture: ir.Value, plan: Plan, recipe: Preprocessing
) -> tuple[ir.Value, Any]:
    """The network's input for all draws, and what takes its cotangent back: to the picture, or to the parameters
    where a view is drawn from them without the whole picture."""
    parts, ways = [], []
    for draw in range(plan.draws):
        value, back = picture, []
        size = plan.height, plan.width
        chain = [
            (place, one, _inputs(tape, draw, place, one, plan)) for place, one in enumerate(plan.transforms)
        ]
        whole = True
        if chain and isinstance(chain[0][1], Window) and isinstance(plan.parametrise, Fourier):
            window = chain[0][1]
            value, to_parameters, chain = _sampled(tape, parameters, plan, recipe, chain)
            size, whole = (window.height, window.width), False
        for _, transform, fed in chain:
            value, way = transform.append(tape, value, fed, *size)
            back.append((way, (plan.count, plan.planes, *size)))
            size = transform.size(*size)
            value = shaped(tape, value, (plan.count, plan.planes, *size))
        parts.append(value)
        ways.append((back, None if whole else to_parameters))
    joined = parts[0] if plan.draws == 1 else tape.Concat(*parts, axis=0)
    seen, leave = enter(tape, joined, recipe)
    many, size = plan.count * plan.draws, plan.shown()
    channels = len(recipe.scale)
    seen = shaped(tape, seen, (many, *size, channels) if recipe.layout == "NHWC" else (many, channels, *size))

    def to_front(g: ir.Value, by_picture: list[ir.Value], by_parameters: list[ir.Value]) -> None:
        with tape.named("picture"):
            g = leave(g)
            pieces = [g]
            if plan.draws > 1:
                pieces = list(tape.Split(g, axis=0, num_outputs=plan.draws, _outputs=plan.draws))
            for piece, (back, to_parameters) in zip(pieces, ways, strict=True):
                there = shaped(tape, piece, (plan.count, plan.planes, *size))
                for way, before in reversed(back):
                    there = shaped(tape, way(there), before)
                if to_parameters is None:
                    by_picture.append(there)
                else:
                    by_parameters.append(to_parameters(there))

    return seen, to_front


def _inputs(tape: Tape, draw: int, place: int, transform: Transform, plan: Plan) -> dict[str, ir.Value]:
    """Graph inputs for what a transform is fed; those that nothing reads are dropped in the end."""
    size = plan.height, plan.width
    for before in plan.transforms[:place]:
        size = before.size(*size)
    sample = transform.draw(np.random.default_rng(0), *size)
    return {
        name: graph_input(
            tape.graph, fed_name(draw, place, name), array.shape, ir.DataType.from_numpy(array.dtype)
        )
        for name, array in sample.items()
    }


def _sampled(
    tape: Tape, parameters: ir.Value, plan: Plan, recipe: Preprocessing, chain: list[Any]
) -> tuple[ir.Value, Any, list[Any]]:
    """A view drawn from the waves themselves, with the blur that may follow; the transforms that are left."""
    (_, window, fed), *rest = chain
    sigma = None
    if rest and isinstance(rest[0][1], Blur):
        sigma = tape.Mul(rest[0][2]["sigma"], fed["step"])  # in pixels of the picture
        rest = rest[1:]
    fourier = plan.parametrise
    assert isinstance(fourier, Fourier)
    value, to_parameters = fourier.window(
        tape, parameters, plan.height, plan.width, centre(recipe), window.places(tape, fed), sigma
    )
    return shaped(tape, value, (plan.count, plan.planes, window.height, window.width)), to_parameters, rest


def graph_input(
    graph: ir.Graph, name: str, shape: Sequence[Any], dtype: ir.DataType = ir.DataType.FLOAT
) -> ir.Value:
    """A new input of the graph."""
    value = ir.Value(type=ir.TensorType(dtype), shape=ir.Shape(shape))
    publish(graph, {name: value})
    graph.inputs.append(value)
    return value


def shaped(tape: Tape, value: ir.Value, shape: Sequence[int]) -> ir.Value:
    """The same value with its shape told, which random offsets hide from inference; nothing where it is known."""
    if value.shape is not None and list(value.shape) == list(shape):
        return value
    out = tape.Reshape(value, list(shape))
    out.shape = ir.Shape(shape)
    out.dtype = value.dtype
    return out
