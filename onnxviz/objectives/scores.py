"""Objectives that are scores of the network: a class, a channel, a neuron, a direction, a whole layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, UnknownLabel, UsageError
from onnxviz.objectives.base import FED, LOGITS, Objective, bounded, fed, mean, named, objective


@named
def logit(target: int | str | None = None, layer: str | None = None) -> Objective:
    """A class score before softmax.

    target   class index; None: each picture's own top class; FED: a graph input `target`, (N,) int64
    layer    the value that holds the scores, (N, K) or (N, K, 1, 1); None: found in front of the final activation
    raises   UnknownLabel when building, for an index outside the classes

    Where one score stands for two classes, (N,) or (N, 1), `logit(0)` is this score. As a target, class 1 is the score
    and class 0 its negative.
    """
    if isinstance(target, str) and target != FED:
        raise UsageError(
            f"logit takes a class index, None or FED, not the label {target!r}: look the label up first"
        )

    def build(op: Any, value: ir.Value) -> ir.Value:
        flat, classes = _rows(op, value), columns(value)  # (N, K)
        if target is None or target == FED:
            flat = two_classes(op, flat) if classes == 1 else flat
            return _of_target(op, flat, target)
        index = int(target)
        if classes is not None and not -classes <= index < classes:
            if classes == 1:
                raise UnknownLabel(
                    f"logit({index}) was asked for, and the model has one score for two classes: logit(0) is class 1, "
                    "-logit(0) is class 0"
                )
            raise UnknownLabel(f"class {index} was asked for; the model has classes 0 to {classes - 1}")
        return op.Squeeze(op.Gather(flat, [index], axis=1), [1])

    name = "top class" if target is None else str(target)
    return objective(f"logit({name})", layer or LOGITS, build)


@named
def step(layer: str, index: int, target: int | str | None = None, *, axis: int = 2) -> Objective:
    """A class score at one step of a sequence, (N, steps, classes).

    index    the step, from 0
    target   class index; None: each picture's best class at this step; FED: a graph input `target`, (N,) int64
    axis     of the classes, where they do not come last
    """

    def build(op: Any, value: ir.Value) -> ir.Value:
        rank = _rank(value, layer)
        sizes = [None if value.shape is None else value.shape[i] for i in range(rank)]
        along = next((i for i in range(1, rank) if i != axis and sizes[i] != 1), 1 if axis != 1 else 2)
        bounded(value, along, index, layer)
        row = op.Flatten(op.Gather(value, [index], axis=along), axis=1)  # (N, K)
        if target is None or target == FED:
            return _of_target(op, row, target)
        bounded(value, axis, int(target), layer)
        return op.Squeeze(op.Gather(row, [int(target)], axis=1), [1])

    name = "best class" if target is None else str(target)
    return objective(f"step({layer}, {index}, {name})", layer, build)


def _rows(op: Any, value: ir.Value) -> ir.Value:
    """(N, K), also of what has lost the axis of a single picture, where only the run tells whether it has."""
    image = next((one for one in op.graph.inputs if one.shape is not None and len(one.shape) > 2), None)
    if value.shape is not None or image is None:
        return op.Flatten(value, axis=1)
    return op.Reshape(value, op.Concat(op.Gather(op.Shape(image), [0]), np.array([-1]), axis=0))


def two_classes(op: Any, score: ir.Value) -> ir.Value:
    """One score of two classes, (N, 1), as one for each, (N, 2)."""
    return op.Concat(op.Neg(score), score, axis=1)


def columns(value: ir.Value) -> int | None:
    """How many numbers a picture has; None where that is not known."""
    sizes = [None] if value.shape is None else list(value.shape)[1:]
    known = [size for size in sizes if isinstance(size, int)]
    return math.prod(known) if len(known) == len(sizes) else None


def _of_target(op: Any, flat: ir.Value, target: str | None) -> ir.Value:
    """The entry of the largest, or of the class that is fed."""
    if target is None:
        return _picked(op, flat, op.ArgMax(flat, axis=1, keepdims=1))
    return _picked(op, flat, op.Unsqueeze(fed(op, "target", ir.DataType.INT64, ["N"]), [1]))


def _picked(op: Any, flat: ir.Value, index: ir.Value) -> ir.Value:
    return op.Squeeze(op.GatherElements(flat, index, axis=1), [1])


def _given_channel(op: Any) -> ir.Value:
    return op.Unsqueeze(fed(op, "channel", ir.DataType.INT64, ["N"]), [1])


def _over_places(op: Any, value: ir.Value, layer: str) -> ir.Value:
    """(N, C, ...) -> (N, C): the mean over all places."""
    rank = _rank(value, layer)
    return value if rank == 2 else op.ReduceMean(value, list(range(2, rank)), keepdims=0)


def _channels_first(op: Any, value: ir.Value, layer: str) -> ir.Value:
    """(N, ..., C) -> (N, C, ...), its shape told."""
    rank = _rank(value, layer)
    order = [0, rank - 1, *range(1, rank - 1)]
    turned = op.Transpose(value, perm=order)
    if value.shape is not None:
        turned.shape = ir.Shape([value.shape[i] for i in order])
    return turned


def _rank(value: ir.Value, layer: str) -> int:
    if value.shape is None or len(value.shape) < 2:
        raise ModelUnsuitable(f"the layer {layer!r} has shape {value.shape}; expected (N, C) or (N, C, ...)")
    return len(value.shape)


@named
def channel(layer: str, index: int | str, *, last: bool | None = None) -> Objective:
    """The mean of one channel of a layer, (N, C, ...).

    index   from 0; FED: a graph input `channel`, (N,) int64
    last    whether the layer is (N, ..., C); None: as a `Network` tells of this layer, without one False
    """

    def first(op: Any, value: ir.Value) -> ir.Value:
        if index == FED:
            return _picked(op, _over_places(op, value, layer), _given_channel(op))
        bounded(value, 1, int(index), layer)
        return mean(op, op.Gather(value, [int(index)], axis=1))

    return _either(f"channel({layer}, {index})", layer, first, last)


@named
def neuron(
    layer: str, index: int | str, y: int | None = None, x: int | None = None, *, last: bool | None = None
) -> Objective:
    """One unit of a channel of a layer, (N, C, H, W); y and x default to the middle of the map.

    index   from 0; FED: a graph input `channel`, (N,) int64
    last    whether the layer is (N, H, W, C); None: as a `Network` tells of this layer, without one False
    """

    def first(op: Any, value: ir.Value) -> ir.Value:
        if value.shape is None or len(value.shape) != 4:
            raise ModelUnsuitable(
                f"neuron needs a layer of rank 4, {layer!r} has shape {value.shape}: use part()"
            )
        unit = value
        if index != FED:
            bounded(value, 1, int(index), layer)
            unit = op.Gather(value, [int(index)], axis=1)
        for axis, at in ((2, y), (3, x)):
            if at is None:
                middle = op.Div(op.shape(value, axis, axis + 1), 2)
                unit = op.Gather(unit, middle, axis=axis)
            else:
                bounded(value, axis, at, layer)
                unit = op.Gather(unit, [at], axis=axis)
        return _picked(op, op.Flatten(unit, axis=1), _given_channel(op)) if index == FED else mean(op, unit)

    return _either(f"neuron({layer}, {index}, {y}, {x})", layer, first, last)


def _either(label: str, layer: str, first: Callable[..., ir.Value], last: bool | None) -> Objective:
    """A term on (N, C, ...), or on (N, ..., C); None: the network tells."""

    def turned(op: Any, value: ir.Value) -> ir.Value:
        if value.shape is None or len(value.shape) < 2:
            return first(op, value)
        return first(op, _channels_first(op, value, layer))

    return objective(label, layer, turned if last else first, turned=turned if last is None else None)


@named
def part(layer: str, *index: int | slice | None) -> Objective:
    """The sum of any part of a layer: `part("boxes", 3, 4)`, `part("mask", 7, slice(10, 20))`, `part("scores")`.

    index   for each axis after the batch an index, a slice, or None for the whole axis
    """

    def build(op: Any, value: ir.Value) -> ir.Value:
        rank = None if value.shape is None else len(value.shape)
        if rank is not None and len(index) > rank - 1:
            raise UsageError(
                f"layer {layer!r} has {rank - 1} axes after the batch, {len(index)} indices were given"
            )
        for axis, at in enumerate(index, start=1):
            if at is None:
                continue
            if isinstance(at, slice):
                stop = 2**62 if at.stop is None else at.stop
                value = op.Slice(value, [at.start or 0], [stop], [axis], [at.step or 1])
            else:
                bounded(value, axis, at, layer)
                value = op.Gather(value, [at], axis=axis)
        return op.ReduceSum(op.Flatten(value, axis=1), [1], keepdims=0)

    shown = (
        f"slice({at.start}, {at.stop}{f', {at.step}' if at.step else ''})" if isinstance(at, slice) else at
        for at in index
    )
    return objective(f"part({', '.join(map(str, (repr(layer), *shown)))})", layer, build)


@named
def direction(layer: str, vector: np.ndarray, power: float = 0.0) -> Objective:
    """How far a layer goes in one direction of its channels: the mean over places of ⟨a, v⟩·max(0.1, cos(a, v))^power.

    Olah, Mordvintsev & Schubert 2017 (lucid's direction and cosine objectives).

    vector   (C,) float; its length scales the value
    power    0: the dot product alone; 2 or so: pictures that show this and nothing else
    """
    wanted = np.asarray(vector, np.float32).ravel()
    if not (wanted.size and np.isfinite(wanted).all() and np.abs(wanted).max() > 0):
        raise UsageError(f"a direction needs finite numbers that are not all zero, got shape {wanted.shape}")
    if not 0 <= power <= 16:
        raise UsageError(f"cosine power {power:g}: expected 0 to 16")

    def build(op: Any, value: ir.Value) -> ir.Value:
        rank = _rank(value, layer)
        channels = value.shape[1] if value.shape is not None else None
        if isinstance(channels, int) and channels != wanted.size:
            raise UsageError(
                f"the direction has {wanted.size} numbers, layer {layer!r} has {channels} channels"
            )
        along = wanted.reshape(-1, *[1] * (rank - 2))
        dot = op.ReduceSum(op.Mul(value, along), [1], keepdims=1)
        if power:
            length = op.Sqrt(op.Add(op.ReduceSum(op.Mul(value, value), [1], keepdims=1), 1e-12))
            cosine = op.Div(dot, op.Mul(length, float(np.linalg.norm(wanted))))
            dot = op.Mul(dot, op.Pow(op.Max(cosine, 0.1), float(power)))
        return mean(op, dot)

    return objective(f"direction({layer})", layer, build)


@named
def layer(name: str) -> Objective:
    """½‖a‖² of a whole layer, whose gradient by the layer is the activation itself (DeepDream, Mordvintsev 2015)."""

    def build(op: Any, value: ir.Value) -> ir.Value:
        return op.Mul(op.ReduceSum(op.Flatten(op.Mul(value, value), axis=1), [1], keepdims=0), 0.5)

    return objective(f"layer({name})", name, build)
