"""The explainer: preprocessing, network, gradient and heat map as one graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.explaining.scene import Scene
from onnxviz.explaining.techniques import TECHNIQUES
from onnxviz.grad import model as differentiation
from onnxviz.grad.tape import Tape, dims
from onnxviz.graph.analysis.dataflow import clone
from onnxviz.graph.infer import infer
from onnxviz.graph.metadata import PREPROCESSING
from onnxviz.graph.naming import fresh, names, publish
from onnxviz.graph.output import BINARY
from onnxviz.graph.real_input import real_input
from onnxviz.image.front import Number, Placement, prepare
from onnxviz.objectives import FED
from onnxviz.objectives.base import pictures_first, takes_one
from onnxviz.objectives.terms import two_classes

if TYPE_CHECKING:
    from onnxviz.graph.head import Head
    from onnxviz.image.preprocessing import Preprocessing
    from onnxviz.inputs import InputSpec

#: Where the file says what it is: JSON among its metadata.
NOTES: Final = "onnxviz.explainer"


@dataclass(frozen=True)
class Order:
    """What is to be built.

    technique       a name of TECHNIQUES
    target          class index; FED: an input `target`, (N,) int64; None: each picture's top class
    layer           the value that a class activation map is made from, where the technique takes one
    channels_last   whether that layer has its channels last
    size            (height, width) of the network's input, None where each picture keeps its own
    fixed           pictures come at that size: nothing is resized
    whole           the heat map is laid over the whole picture, not over what the network sees of it
    """

    technique: str
    target: int | str | None
    layer: str | None
    channels_last: bool
    size: tuple[int, int] | None
    fixed: bool
    whole: bool


def build(
    model: ir.Model,
    spec: InputSpec,
    recipe: Preprocessing,
    head: Head,
    order: Order,
    notes: Mapping[str, Any],
) -> ir.Model:
    """A model from pictures to classes and heat maps, in operators of the standard domain.

    notes    what the file says about itself
    raises   ModelUnsuitable, UnsupportedOperator
    """
    model = _sized(real_input(model, spec.name), spec, order.size)
    names = [spec.name, head.logits, head.scores, *([order.layer] if order.layer else ())]
    built, values = differentiation.prepare(model, list(dict.fromkeys(names)), keep=False)
    graph = built.graph
    x = values[spec.name]
    op = Tape(graph)
    with op.named("class"):
        single = takes_one(model, spec.name)
        scores, logits = (pictures_first(op, values[name], 0, single) for name in (head.scores, head.logits))
        probabilities = _probabilities(op, scores, head)
        top = op.ArgMax(probabilities, axis=1, keepdims=0)
        shown = {
            "class": top,
            "probability": op.ReduceMax(probabilities, [1], keepdims=0),
            "probabilities": probabilities,
        }
        score, target = _score(op, logits, order.target, top, head.kind == BINARY)
    infer(built)  # rules read shapes
    maps = values[order.layer] if order.layer else None
    scene = Scene(op, x, spec.layout, score, maps, order.channels_last, order.size)
    shown["heatmap"] = TECHNIQUES[order.technique].build(scene)
    batch = (dims(x) or ("N",))[0] or "N"
    height, width = order.size or ("height", "width")
    if target is not None:
        target.shape = ir.Shape([batch])
    declared = [[batch], [batch], [batch, _classes(probabilities)], [batch, height, width]]
    for value, shape in zip(shown.values(), declared, strict=True):
        value.shape = ir.Shape(shape)
    built = differentiation.finish(built, list(shown.values()), op.pairs)
    own = order.fixed or recipe.fixed is None
    sides = (order.size if own else None) or ("picture_height", "picture_width")
    image = ir.Value(name="image", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape([batch, *sides, 3]))
    front = ir.Graph([image], [], nodes=[], opset_imports={"": op.opset}, name="preprocessing")
    tensor, placement = prepare(
        Tape(front), image, recipe, dtype=x.dtype or ir.DataType.FLOAT, size=order.size, fixed=order.fixed
    )
    put_in_front(graph, x, front, tensor)
    if order.whole and placement is not None:
        tape = Tape(graph)
        with tape.named("placement"):
            shown["heatmap"] = place_back(tape, shown["heatmap"], placement, recipe.fixed or (0, 0))
        shown["heatmap"].dtype = ir.DataType.FLOAT
        shown["heatmap"].shape = ir.Shape([batch, *sides])
    graph.outputs.clear()
    graph.outputs.extend(shown.values())
    publish(graph, {"image": image, **({"target": target} if target is not None else {}), **shown})
    graph.name = "explainer"
    built.metadata_props.pop(PREPROCESSING, None)  # it is inside now
    built.metadata_props[NOTES] = json.dumps(notes, ensure_ascii=False, sort_keys=True)
    _standard_only(built)
    return built


def _sized(model: ir.Model, spec: InputSpec, size: tuple[int, int] | None) -> ir.Model:
    """A copy whose image input has the size that its pictures come in: known sizes are planned better."""
    copy = clone(model)
    value = next(v for v in copy.graph.inputs if v.name == spec.name)
    if size is not None and value.shape is not None:
        sides = dict(zip("HW", size, strict=True))
        value.shape = ir.Shape([sides.get(k, d) for k, d in zip(spec.layout, value.shape, strict=True)])
    return copy


def _probabilities(op: Any, scores: ir.Value, head: Head) -> ir.Value:
    """(N, K) float32."""
    flat = op.Cast(op.Flatten(scores, axis=1), to=int(ir.DataType.FLOAT))
    if head.activation in ("log_softmax", "log_sigmoid"):
        flat = op.Exp(flat)
    elif head.activation is None:
        flat = op.Sigmoid(flat) if head.kind == BINARY else op.Softmax(flat, axis=1)
    return op.Concat(op.Sub(1.0, flat), flat, axis=1) if head.kind == BINARY else flat


def _classes(probabilities: ir.Value) -> int | str:
    known = dims(probabilities)
    return (known[1] if known else None) or "classes"


def _score(
    op: Any, logits: ir.Value, target: int | str | None, top: ir.Value, binary: bool
) -> tuple[ir.Value, ir.Value | None]:
    """What is differentiated, (N,), and the input `target`, where there is one."""
    flat = op.Flatten(logits, axis=1)
    flat = two_classes(op, flat) if binary else flat
    if isinstance(target, int):
        return op.Squeeze(op.Gather(flat, [target], axis=1), [1]), None
    fed = None
    if target == FED:
        fed = ir.Value(name=op.fresh("target"), type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["N"]))
        op.graph.inputs.append(fed)
    index = op.Unsqueeze(fed if fed is not None else top, [1])
    return op.Squeeze(op.GatherElements(flat, index, axis=1), [1]), fed


def _standard_only(model: ir.Model) -> None:
    for node in model.graph.all_nodes():
        if node.domain not in ("", "ai.onnx"):
            raise ModelUnsuitable(
                f"the network has the operator {node.domain}.{node.op_type} (node {node.name!r}), which is not of the "
                "standard and which only some runtimes have; an explainer is made of standard operators only: export "
                "the network without it"
            )
    model.opset_imports.pop("ai.onnx", None)
    for domain in [domain for domain in model.opset_imports if domain]:
        del model.opset_imports[domain]


def put_in_front(graph: ir.Graph, x: ir.Value, front: ir.Graph, tensor: ir.Value) -> None:
    """`tensor` of `front` computes `x`, until now an input of `graph`; the picture is the first input instead."""
    taken = names(graph)
    (image,) = front.inputs
    nodes = list(front)
    front.remove(nodes)
    for node in nodes:
        node.name = fresh(f"preprocessing/{node.op_type}", taken)
        for value in node.outputs:
            value.name = fresh(f"preprocessing/{node.op_type}", taken)
    for name, value in list(front.initializers.items()):
        del front.initializers[name]
        value.name = fresh("preprocessing/constant", taken)
        graph.register_initializer(value)
    front.inputs.clear()
    tensor.shape, tensor.type = x.shape, x.type
    ir.convenience.replace_all_uses_with(x, tensor)
    graph.insert_before(next(iter(graph)), nodes)
    graph.inputs.remove(x)
    image.name = fresh("preprocessing/image", taken)
    graph.inputs.insert(0, image)


def place_back(op: Any, heat: ir.Value, at: Placement, size: tuple[int, int]) -> ir.Value:
    """The heat map over the whole picture, (N, H, W): 0 where the network did not see it."""
    h, w = size
    planes = op.Unsqueeze(heat, [1])
    if at.padded:
        ends = [op.Add(at.top, at.height), op.Add(at.left, at.width)]
        planes = op.Slice(planes, op.vector([at.top, at.left]), op.vector(ends), [2, 3])
    else:
        bottom, right = _less(op, at.height, h, at.top), _less(op, at.width, w, at.left)
        planes = op.Pad(planes, op.vector([0, 0, at.top, at.left, 0, 0, bottom, right]), 0.0)
    sizes = op.Concat(op.Shape(planes, end=2), op.vector([at.rows, at.columns]), axis=0)
    planes = op.Resize(planes, None, None, sizes, mode="linear", antialias=1, exclude_outside=1)
    return op.Squeeze(planes, [1])


def _less(op: Any, whole: Number, kept: int, before: Number) -> Number:
    """whole − kept − before."""
    if isinstance(whole, int) and isinstance(before, int):
        return whole - kept - before
    return op.Sub(op.Sub(whole, kept), before)
