"""Small networks with every kind of head, made on the spot."""

from __future__ import annotations

import numpy as np
import onnx
from networks import Maker


def trunk(m: Maker, channels: int = 8) -> str:
    """(N, channels, 8, 8) of image (N, 3, 16, 16)."""
    return m("Relu", m("Conv", "image", m.random(channels, 3, 3, 3), pads=[1] * 4, strides=[2, 2]))


def pooled(m: Maker) -> str:
    """(N, 8)"""
    return m("Flatten", m("GlobalAveragePool", trunk(m)))


def linear(m: Maker, x: str, count: int, size: int = 8, spread: float = 20.0) -> str:
    """(N, count)"""
    weights = m.constant((spread * m.rng.standard_normal((count, size)) / size).astype(np.float32))
    return m("Gemm", x, weights, m.random(count), transB=1)


def renamed(m: Maker, value: str, name: str) -> str:
    """The value, called `name`."""
    for node in m.nodes:
        node.input[:] = [name if one == value else one for one in node.input]
        node.output[:] = [name if one == value else one for one in node.output]
    return name


def finished(m: Maker, *outputs: str, batch: int | str = "N", width: int | str = 16) -> onnx.ModelProto:
    """The model with image (batch, 3, 16, width)."""
    return m.model({"image": (batch, 3, 16, width)}, dict.fromkeys(outputs))


def row(count: int, name: str = "y", end: str = "", **attributes) -> onnx.ModelProto:
    """(N, count) of a linear layer, perhaps through one more operator."""
    m = Maker()
    x = linear(m, pooled(m), count)
    return finished(m, renamed(m, m(end, x, **attributes) if end else x, name))


def one(form: str = "logit", name: str = "score") -> onnx.ModelProto:
    """One score: logit, sigmoid, pieces, squeezed, map, squeeze-all."""
    m = Maker()
    x = linear(m, pooled(m), 1)
    if form == "sigmoid":
        x = m("Sigmoid", x)
    elif form == "pieces":
        x = m("Reciprocal", m("Add", m("Exp", m("Neg", x)), m.constant(np.float32(1))))
    elif form == "squeezed":
        x = m("Squeeze", x, m.constant([1]))
    elif form == "squeeze-all":
        x = m("Squeeze", x)
    elif form == "map":
        x = m("Conv", m("GlobalAveragePool", trunk(m)), m.random(1, 8, 1, 1))
    return finished(m, renamed(m, x, name))


def sequence(
    form: str = "tnc",
    end: str = "",
    *,
    classes: int = 5,
    batch: int | str = "N",
    recurrent: bool = False,
    name: str = "y",
    width: int | str = 16,
) -> onnx.ModelProto:
    """A recogniser of text: columns of the map are steps; form 'tnc', 'ntc' or 'nct'."""
    m = Maker()
    x = m("AveragePool", trunk(m), kernel_shape=[8, 1])  # (N, 8, 1, T)
    x = m("Squeeze", x, m.constant([2]))
    if recurrent:
        x = m("Transpose", x, perm=[2, 0, 1])
        x = m("LSTM", x, m.random(1, 24, 8), m.random(1, 24, 6), hidden_size=6, outputs=1)
        x = m("Squeeze", x, m.constant([1]))
        x = m("MatMul", x, m.constant((3 * m.rng.standard_normal((6, classes))).astype(np.float32)))
        x = m("Transpose", x, perm=[1, 2, 0])
    else:
        weights = m.constant((9 * m.rng.standard_normal((classes, 8, 1))).astype(np.float32))
        x = m("Conv", x, weights, m.random(classes))
    if form != "nct":
        x = m("Transpose", x, perm=[2, 0, 1] if form == "tnc" else [0, 2, 1])
    if end:
        x = m(end, x, axis=1 if form == "nct" else 2)
    return finished(m, renamed(m, x, name), batch=batch, width=width)


def detector(form: str = "nms") -> onnx.ModelProto:
    """Boxes and scores: 'raw', 'nms' (as many as there are), 'topk' (always 3), 'anchors' (softmax beside boxes)."""
    m = Maker()
    x = trunk(m)
    flat = m("Reshape", x, m.constant([0, 8, -1]))  # (N, 8, 64)
    boxes = renamed(m, m("Conv", flat, m.random(4, 8, 1)), "raw_boxes")
    scores = renamed(m, m("Sigmoid", m("Conv", flat, m.random(3, 8, 1))), "raw_scores")
    turned = m("Transpose", boxes, perm=[0, 2, 1])
    if form == "raw":
        return finished(m, renamed(m, m("Concat", boxes, scores, axis=1), "output0"))
    if form == "anchors":
        soft = m("Softmax", m("Transpose", m("Conv", flat, m.random(3, 8, 1)), perm=[0, 2, 1]), axis=2)
        return finished(m, renamed(m, soft, "scores"), renamed(m, turned, "boxes"))
    if form == "topk":
        best, where = m("TopK", m("ReduceMax", scores, axes=[1], keepdims=0), m.constant([3]), outputs=2)
        index = m("Expand", m("Unsqueeze", where, m.constant([2])), m.constant([1, 1, 4]))
        found = m("GatherElements", turned, index, axis=1)
        return finished(m, renamed(m, found, "det_boxes"), renamed(m, best, "det_scores"))
    limits = [
        m.constant(np.array([n], dtype)) for n, dtype in ((5, np.int64), (0.5, np.float32), (0.0, np.float32))
    ]
    picked = m("NonMaxSuppression", turned, scores, *limits)
    chosen = m("GatherND", scores, picked)
    place = m("Gather", picked, m.constant([0, 2]), axis=1)
    return finished(
        m, renamed(m, m("GatherND", turned, place), "det_boxes"), renamed(m, chosen, "det_scores")
    )


def segmenter() -> onnx.ModelProto:
    """A mask (N, 2, 8, 8), and no classes."""
    m = Maker()
    return finished(m, m("Conv", trunk(m), m.random(2, 8, 3, 3), pads=[1] * 4))


def average_of_softmaxes() -> onnx.ModelProto:
    """(N, 4): the mean of two softmaxes, which no algebra here knows."""
    m = Maker()
    x = pooled(m)
    both = [m("Softmax", linear(m, x, 4)) for _ in range(2)]
    return finished(m, renamed(m, m("Mul", m("Add", *both), m.constant(np.float32(0.5))), "y"))


def best_only(form: str, classes: int = 7) -> onnx.ModelProto:
    """A classifier that only tells which score is the largest: 'argmax', 'kept' (its axis), 'softmax', 'float', 'top'
    (the best three with their shares), 'sure' (with the largest share)."""
    m = Maker()
    x = linear(m, pooled(m), classes)
    if form in ("softmax", "top", "sure"):
        x = m("Softmax", x, axis=1)
    x = renamed(m, x, "scores")
    if form == "top":
        share, best = m("TopK", x, m.constant([3]), axis=1, outputs=2)
        return _of_places(finished(m, renamed(m, best, "best"), renamed(m, share, "share")))
    best = m("ArgMax", x, axis=1, keepdims=int(form == "kept"))
    if form == "float":
        return finished(m, renamed(m, m("Cast", best, to=onnx.TensorProto.FLOAT), "best"))
    more = [renamed(m, m("ReduceMax", x, axes=[1], keepdims=0), "share")] if form == "sure" else []
    return _of_places(finished(m, renamed(m, best, "best"), *more))


def labelled_map(classes: int = 5, last: bool = False) -> onnx.ModelProto:
    """A segmenter that only tells the class of each place; `last`: its channels stand last."""
    m = Maker()
    x = m("Conv", trunk(m), m.random(classes, 8, 1, 1), m.random(classes))
    x = m("Resize", x, "", m.constant(np.float32([1, 1, 2, 2])), mode="linear")
    if last:
        x = m("Transpose", x, perm=[0, 2, 3, 1])
    best = m("ArgMax", renamed(m, x, "maps"), axis=3 if last else 1)
    return _of_places(finished(m, renamed(m, best, "labels")))


def _of_places(model: onnx.ModelProto) -> onnx.ModelProto:
    """Its first output holds whole numbers."""
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.INT64
    return model


def two() -> onnx.ModelProto:
    """Two outputs that look like class scores, 'first' of five and 'second' of seven."""
    m = Maker()
    x = pooled(m)
    one, other = linear(m, x, 5), linear(m, x, 7)
    return finished(m, renamed(m, one, "first"), renamed(m, other, "second"))
