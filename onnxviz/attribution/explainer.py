"""The explainer: one ONNX file from a picture to a class and a heat map, to ship beside the model.

Preprocessing, network, gradient and a method of one pass (`methods`) are one graph. It is made without a runtime.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx_ir as ir

from onnxviz._version import __version__
from onnxviz.attribution.methods import LAYER, METHODS, Method
from onnxviz.attribution.targets import parse
from onnxviz.errors import ModelUnsuitable, UsageError, judged, near, one_of
from onnxviz.grad import model as differentiation
from onnxviz.graph.analysis.dataflow import clone
from onnxviz.graph.float32 import real_input
from onnxviz.graph.metadata import PREPROCESSING
from onnxviz.graph.naming import publish
from onnxviz.graph.output import BINARY
from onnxviz.graph.shapes import infer
from onnxviz.graph.tape import Tape, dims
from onnxviz.image.front import Number, Placement, prepare
from onnxviz.objectives import FED, Objective
from onnxviz.objectives.base import pictures_first, takes_one
from onnxviz.objectives.terms import two_classes

if TYPE_CHECKING:
    import onnx

    from onnxviz.graph.head import Head
    from onnxviz.graph.layers import Layer
    from onnxviz.inputs import InputSpec
    from onnxviz.network import Network

#: Where the file says what it is: JSON among its metadata.
NOTES: Final = "onnxviz.explainer"


def explainer_model(
    model: Network | str | os.PathLike[str] | bytes | Any,
    technique: str = "saliency",
    *,
    target: int | str | None = None,
    objective: Objective | str | None = None,
    layer: str | None = None,
    fixed: bool = False,
    over: str = "input",
) -> onnx.ModelProto:
    """A model that takes pictures and gives each one's class and heat map: preprocessing, network, gradient and all.

    Every operator is of the standard domain, so the file runs on stock ONNX Runtime on any provider, in other
    languages, and in a browser. A batch of one picture that the network allows only stays; else any number goes.

    Inputs    image          (N, H, W, 3) uint8 RGB of any size; all pictures of a batch have the same
              target         (N,) int64, only with target='fed': the class that is explained
    Outputs   class          (N,) int64, the top class; these three of classifiers alone
              probability    (N,) float32, of that class
              probabilities  (N, classes) float32
              heatmap        (N, h, w) float32 at the network's input resolution, as `onnxviz.saliency` and
                             `onnxviz.cam` have it

    model      an opened Network, or what `onnxviz.load` opens; its preprocessing and labels go into the file
    technique  saliency, gradient, input-x-gradient, guided, deconvnet, grad-cam, grad-cam++, layercam, hirescam,
               xgrad-cam, eigencam or guided-grad-cam
    target     the class that is explained: index or label, 'fed' (an input), or None: each picture's top class
    objective  instead of a class: any objective (`onnxviz.objectives`) or its text, for detectors, segmenters,
               embeddings
    layer      what a class activation map is made from; None: the last layer that has a map
    fixed      pictures come at the network's input size: nothing is resized, and what the network sees is bit for bit
               what `Network.prepare` gives. Otherwise single pixels differ from Pillow's by one level of 255
    over       'input': the heat map lies over what the network sees of the picture; 'picture': over the whole, at
               the picture's size, 0 where the network does not look
    returns    an onnx.ModelProto whose metadata hold the labels (`onnxviz.labels`), and technique, layer, target,
               objective, preprocessing and the network's digest (`onnxviz.explainer`, JSON)
    raises     UsageError, UnknownLabel, UnknownLayer, ModelRejected, ModelUnsuitable, UnsupportedOperator
    """
    proto: onnx.ModelProto = ir.serde.serialize_model(
        explainer_graph(
            model, technique, target=target, objective=objective, layer=layer, fixed=fixed, over=over
        )
    )
    return proto


def explainer_graph(
    model: Any,
    technique: str = "saliency",
    *,
    target: int | str | None = None,
    objective: Objective | str | None = None,
    layer: str | None = None,
    fixed: bool = False,
    over: str = "input",
) -> ir.Model:
    """As `explainer_model`, but an ir.Model, which may be larger than one file can hold."""
    from onnxviz.graph.metadata import Metadata, write
    from onnxviz.network import Network
    from onnxviz.opening import load

    rows = {key: row for key, row in METHODS.items() if row.one_pass}
    if technique not in rows:
        raise UsageError(
            f"an explainer cannot be made of {technique!r}{near(str(technique), rows)}; it takes a technique of one "
            f"pass: {', '.join(rows)}"
        )
    row = rows[technique]
    one_of("over", over, ("input", "picture"))
    net = model if isinstance(model, Network) else load(model)
    net.preprocessing.require_pictures("an explainer")
    if layer is not None and not row.layered:
        raise UsageError(
            f"{technique!r} is about the input and takes no layer: leave it out, or use grad-cam"
        )
    asked = None if target == FED and objective is None else parse(net, target, objective=objective)
    if asked is not None and len(asked) != 1:
        raise UsageError(f"an explainer explains one class in every picture, got {len(asked)}")
    head: Head | None = None
    ends: tuple[str, ...]
    if asked is None or asked.scored:
        head, wanted = net.head, None
        index, ends = (FED if asked is None else asked.classes[0]), (head.logits,)
    else:
        with contextlib.suppress(ModelUnsuitable):  # a network that has no classes
            head = net.head
        index, wanted = None, asked.objective
        ends = tuple(wanted.layers(net.model, net.input.name))
    chosen = None
    if row.layered:
        from onnxviz.attribution import cam_layers

        chosen = cam_layers.default(net.layers, ends) if layer is None else cam_layers.named(net, layer, ends)
    size = net.preprocessing.fixed or _own_size(net)
    if fixed and size is None:
        raise UsageError(
            "this network takes pictures of any size, so there is none to fix them to; give --size"
        )
    whole = over == "picture" and not fixed
    notes = {
        "schema": "onnxviz.explainer/1",
        "technique": technique,
        "layer": None if chosen is None else chosen.name,
        "target": index,
        "label": net.label(index) if isinstance(index, int) else None,
        **({"objective": str(wanted)} if wanted is not None else {}),
        "over": "picture" if whole else "input",
        "fixed": fixed,
        "network": {"name": net.name, "sha256": net.digest},
        "preprocessing": net.preprocessing.to_dict(),
        "onnxviz": __version__,
    }
    with judged(net.judge):
        graph = _build(net, row, head, index, wanted, chosen, size, notes, fixed=fixed, whole=whole)
    write(graph.metadata_props, Metadata(labels=tuple(net.labels) if net.labels else None))
    graph.producer_name, graph.producer_version = "onnxviz", __version__
    return graph


def _own_size(net: Network) -> tuple[int, int] | None:
    height, width = net.input.height, net.input.width
    if height is None and width is None and net.preprocessing.size is None:
        return None
    if height is None or width is None:
        raise ModelUnsuitable(
            "the network fixes one side of its input and leaves the other open; give --size WIDTHxHEIGHT"
        )
    return height, width


class _Whole:
    """A `methods.Stage` in the whole network: the gradients that a method asks for are appended to it."""

    signed = False

    def __init__(
        self,
        op: Tape,
        spec: InputSpec,
        score: ir.Value,
        values: Mapping[str, ir.Value],
        layer: Layer | None,
        size: tuple[int, int] | None,
    ) -> None:
        self.op: Any = op
        self._score, self._size = score, size
        self._x, self._last = values[spec.name], spec.layout == "NHWC"
        self._layer = None if layer is None else (values[layer.name], layer.channels_last)

    def given(self, name: str) -> list[ir.Value]:
        value, last = (self._x, self._last) if name not in LAYER or self._layer is None else self._layer
        if name.endswith(("gradient", "gradients")):
            value = self._gradient(value, name.rpartition("_")[0] or "plain")
        if value.dtype != ir.DataType.FLOAT:
            value = self.op.Cast(value, to=int(ir.DataType.FLOAT))
        return [self.op.Transpose(value, perm=[0, 3, 1, 2]) if last else value]

    def _gradient(self, source: ir.Value, rules: str) -> ir.Value:
        op = self.op
        with op.named("score"):
            ones = op.Expand(op.cast_like(1.0, self._score), op.Shape(self._score))
        return differentiation.differentiate(
            op, {self._score: ones}, [source], differentiation.rules_named(rules)
        )[0]

    def placed(self, maps: list[ir.Value]) -> ir.Value:
        """What speaks for the class, from the layer's grid to the input's, bilinearly."""
        op = self.op
        planes = op.Unsqueeze(op.Relu(maps[0]), [1])
        batch = op.Shape(planes, end=2)
        if self._size is not None:
            extent = op.const(np.array(self._size, np.int64))
        else:
            extent = op.shape(self._x, 1, 3) if self._last else op.shape(self._x, 2, 4)
        sizes = op.Concat(batch, extent, axis=0)
        planes = op.Resize(
            planes, None, None, sizes, mode="linear", coordinate_transformation_mode="half_pixel"
        )
        value: ir.Value = op.Squeeze(planes, [1])
        return value


def _build(
    net: Network,
    row: Method,
    head: Head | None,
    index: int | str | None,
    objective: Objective | None,
    layer: Layer | None,
    size: tuple[int, int] | None,
    notes: Mapping[str, Any],
    *,
    fixed: bool,
    whole: bool,
) -> ir.Model:
    """A model from pictures to classes and heat maps, in operators of the standard domain.

    index   of the class; FED: an input `target`, (N,) int64; None: each picture's top class
    size    (height, width) of the network's input, None where each picture keeps its own
    notes   what the file says about itself
    whole   the heat map is laid over the whole picture, not over what the network sees of it
    """
    spec, recipe = net.input, net.preprocessing
    model = _sized(real_input(net.batched[0], spec.name), spec, size)
    read = [] if objective is None else objective.layers(model, spec.name)
    ends = [] if head is None else [head.logits, head.scores]
    names = [spec.name, *ends, *read, *([] if layer is None else [layer.name])]
    built, values = differentiation.prepare(model, list(dict.fromkeys(names)), keep=False)
    graph = built.graph
    x = values[spec.name]
    op = Tape(graph)
    shown: dict[str, ir.Value] = {}
    score = target = None
    with op.named("class"):
        if head is not None:
            single = takes_one(model, spec.name)
            scores, logits = (
                pictures_first(op, values[name], 0, single) for name in (head.scores, head.logits)
            )
            probabilities = _probabilities(op, scores, head)
            top = op.ArgMax(probabilities, axis=1, keepdims=0)
            best = op.ReduceMax(probabilities, [1], keepdims=0)
            shown = {"class": top, "probability": best, "probabilities": probabilities}
        if objective is not None:
            score = objective.append(op, model, spec.name, values)
        elif head is not None:
            score, target = _score(op, logits, index, top, head.kind == BINARY)
    assert score is not None
    infer(built)  # rules read shapes
    shown["heatmap"] = row.append(_Whole(op, spec, score, values, layer, size))
    batch = (dims(x) or ("N",))[0] or "N"
    declared: dict[str, Sequence[int | str]] = {"heatmap": size or ("height", "width")}
    if head is not None:
        known = dims(probabilities)
        declared["probabilities"] = ((known[1] if known else None) or "classes",)
    for name, value in shown.items():
        value.shape = ir.Shape([batch, *declared.get(name, ())])
    if target is not None:
        target.shape = ir.Shape([batch])
    built = differentiation.finish(built, list(shown.values()), op.pairs)
    own = fixed or recipe.fixed is None
    sides = (size if own else None) or ("picture_height", "picture_width")
    front, count = Tape(graph, stem="preprocessing"), len(graph)
    image = front.input("preprocessing/image", ir.DataType.UINT8, [batch, *sides, 3])
    tensor, placement = prepare(
        front, image, recipe, dtype=x.dtype or ir.DataType.FLOAT, size=size, fixed=fixed
    )
    # What computes the input goes to the front, as the picture does.
    nodes, first = list(graph)[count:], next(iter(graph))
    graph.remove(nodes)
    graph.insert_before(first, nodes)
    tensor.shape, tensor.type = x.shape, x.type
    ir.convenience.replace_all_uses_with(x, tensor)
    graph.inputs[:] = [image, *(value for value in graph.inputs if value not in (x, image))]
    if whole and placement is not None:
        tape = Tape(graph)
        with tape.named("placement"):
            shown["heatmap"] = _place_back(tape, shown["heatmap"], placement, recipe.fixed or (0, 0))
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


def _place_back(op: Any, heat: ir.Value, at: Placement, size: tuple[int, int]) -> ir.Value:
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
