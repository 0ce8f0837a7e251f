"""Where a classifier ends: its scores, the logits before the final activation, and the last hidden features."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, UnknownLayer, near
from onnxviz.graph.analysis.dataflow import FLOATS, QUANTISED, dependent, flat, image_input
from onnxviz.graph.analysis.probe import Facts, Prober
from onnxviz.graph.analysis.twins import view

_ACTIVATIONS = {"Softmax": "softmax", "Sigmoid": "sigmoid", "LogSoftmax": "log_softmax"}
# Between logits and output, or features and classifier: what changes nothing but form or rounding.
_THROUGH = frozenset({
    "Cast", "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze",
    "Transpose", "Unsqueeze"
})  # fmt: skip
# Between the last weight layer and the logits: a bias, a pool over places, a scale, a clip.
_AFTER_WEIGHTS = _THROUGH | frozenset({
    "Add", "AveragePool", "BatchNormalization", "Clip", "Div", "GlobalAveragePool", "GlobalMaxPool",
    "LeakyRelu", "Mul", "ReduceMean", "Relu", "Sub", "Sum"
})  # fmt: skip
_WEIGHTED = frozenset({"Gemm", "MatMul", "Conv", "Einsum"})
_HINTS = ("logit", "prob", "score", "class", "softmax", "pred")


@dataclass(frozen=True)
class Head:
    """The end of a classifier, by names of values."""

    scores: str
    """The output that holds a number for each class."""
    logits: str
    """The value in front of Softmax, LogSoftmax or Sigmoid; the output itself where there is none. In a
    file of quantised operators (QLinearSoftmax) it is quantised."""
    activation: str | None
    """'softmax', 'sigmoid', 'log_softmax' (scores are then logarithms of probabilities), or None."""
    classes: int | None
    """How many classes; None where the file does not tell."""
    features: str
    """What the last weight layer reads: (N, D), or feature maps (N, C, H, W) where `pooled`."""
    pooled: bool = False
    """The features are maps: their mean over places is the feature vector (a 1x1 convolution as classifier)."""


def head(
    model: ir.Model,
    output: str | None = None,
    input: str | None = None,
) -> Head:
    """Find the end of a classifier, whoever exported it.

    output   the output that holds the scores; None: the one that looks like it
    input    the image input; None: the only one
    raises   ModelUnsuitable where no output looks like class scores, or several do (the message lists
             them); UnknownLayer for an output that the model does not have
    """
    model = flat(model)
    prober = Prober(model, image_input(model, input))
    facts = prober.facts()
    moved = dependent(model.graph, prober.image)
    scores = _chosen(model.graph, output, facts, moved)
    logits, activation = _logits(scores, moved)
    layer = _weight_layer(logits, moved)
    features = logits if layer is None else _features(layer, facts)
    shape = facts.full_shape(features)
    return Head(
        scores=scores.name or "",
        logits=logits.name or "",
        activation=activation,
        classes=_classes(scores, facts),
        features=features.name or "",
        pooled=shape is not None and len(shape) > 2,
    )


# --- which output ---------------------------------------------------------------------------------


def _chosen(graph: ir.Graph, output: str | None, facts: Facts, moved: set[ir.Value]) -> ir.Value:
    names = [value.name or "" for value in graph.outputs]
    listed = ", ".join(f"{v.name!r} {_spelled(facts, v)}" for v in graph.outputs)
    if output is not None:
        if output not in names:
            raise UnknownLayer(
                f"the model has no output named {output!r}{near(output, names)} (outputs: {listed})"
            )
        return graph.outputs[names.index(output)]
    candidates = [value for value in graph.outputs if value in moved and _is_scores(value, facts)]
    if not candidates:
        raise ModelUnsuitable(
            f"no output looks like class scores (a float tensor of shape (N, classes)); the outputs are: {listed}"
        )
    if len(candidates) > 1:
        candidates = _best(candidates, moved)
    if len(candidates) > 1:
        listed = ", ".join(f"{v.name!r} {_spelled(facts, v)}" for v in candidates)
        raise ModelUnsuitable(f"several outputs look like class scores; choose one with `output`: {listed}")
    return candidates[0]


def _is_scores(value: ir.Value, facts: Facts) -> bool:
    dtype = facts.dtypes.get(value.name or "", value.dtype)
    if dtype not in FLOATS and dtype not in QUANTISED:
        return False
    shape = facts.shape(value)
    if shape is None and value.shape is not None:
        shape = tuple(d if isinstance(d, int) else None for d in value.shape)
    if shape is None:
        return True
    rest = shape[1:]
    return len(shape) >= 2 and sum(d != 1 for d in rest) == 1


def _classes(value: ir.Value, facts: Facts) -> int | None:
    shape = facts.full_shape(value)
    return math.prod(shape[1:]) if shape is not None else None


def _best(candidates: list[ir.Value], moved: set[ir.Value]) -> list[ir.Value]:
    """Of several: the same scores once, what nothing else is made from, what ends in an activation, a telling name."""
    ends = {value: _logits(value, moved) for value in candidates}
    once: dict[ir.Value, ir.Value] = {}
    for value in candidates:  # logits and their softmax are one answer: the softmax tells more
        logits = ends[value][0]
        if logits not in once or ends[value][1] is not None:
            once[logits] = value
    left = list(once.values())
    last = [
        value for value in left if not any(value in _before(other) for other in left if other is not value)
    ]
    for narrowed in (
        last,
        [value for value in last if ends[value][1] is not None],
        [value for value in last if any(hint in (value.name or "").lower() for hint in _HINTS)],
    ):
        if len(narrowed) == 1:
            return narrowed
    return last


def _before(value: ir.Value) -> set[ir.Value]:
    """Everything that the value is computed from."""
    found: set[ir.Value] = set()
    todo = [value]
    while todo:
        node = todo.pop().producer()
        for read in node.inputs if node is not None else ():
            if read is not None and read not in found:
                found.add(read)
                todo.append(read)
    return found


def _spelled(facts: Facts, value: ir.Value) -> str:
    shape = facts.shape(value)
    return (
        "?"
        if shape is None
        else "(" + ", ".join(["N", *("?" if d is None else str(d) for d in shape[1:])]) + ")"
    )


# --- walking back ---------------------------------------------------------------------------------


def _logits(scores: ir.Value, moved: set[ir.Value]) -> tuple[ir.Value, str | None]:
    """The value in front of the final activation, and which that is; the scores themselves where there is none."""
    value = scores
    while (node := value.producer()) is not None:
        op = view(node).op
        source = _source(node, moved)
        if source is None:
            break
        if op in _ACTIVATIONS:
            return source, _ACTIVATIONS[op]
        if op not in _THROUGH:
            break
        value = source
    return scores, None


def _source(node: ir.Node, moved: set[ir.Value]) -> ir.Value | None:
    """The one input of the node that depends on the image; None where there are more."""
    found = [value for value in view(node).inputs if value is not None and value in moved]
    return found[0] if len(found) == 1 else None


def _weight_layer(logits: ir.Value, moved: set[ir.Value]) -> ir.Node | None:
    """The last product with weights before the logits."""
    value = logits
    while (node := value.producer()) is not None:
        source = _source(node, moved)
        op = view(node).op
        if source is None:
            return None
        if op in _WEIGHTED:
            return node
        if op not in _AFTER_WEIGHTS:
            return None
        value = source
    return None


def _features(layer: ir.Node, facts: Facts) -> ir.Value:
    """What the layer reads, further back for a value without Dropout, of rank 2 and in floating point."""
    values = list(_chain(layer, facts))
    for value in values:
        shape = facts.shape(value)
        if shape is not None and len(shape) == 2 and facts.dtypes.get(value.name or "") in FLOATS:
            return value
    return next((value for value in values if facts.dtypes.get(value.name or "") in FLOATS), values[0])


def _chain(layer: ir.Node, facts: Facts) -> Iterator[ir.Value]:
    """The layer's data, then what it was before each change of form; Dropout and Identity are skipped."""
    value = next((v for v in view(layer).inputs if v is not None), None)
    elements = _classes(value, facts) if value is not None else None
    while value is not None:
        node = value.producer()
        op = view(node).op if node is not None else ""
        if op not in ("Dropout", "Identity"):
            yield value
        if node is None or op not in _THROUGH or _classes(value, facts) != elements:
            return
        value = view(node).inputs[0]
