"""Scores of the network (a class, a channel, a neuron), and how a picture or its activations look.

To add one: a function with `@named` that returns `objective(label, layer, build)`, whose `build` appends a scalar for
each picture. With `@written` instead it can be typed on the command line too, where its parameters say what it takes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, UnknownLabel, UsageError
from onnxviz.objectives.base import (
    FED,
    LOGITS,
    Objective,
    P,
    bounded,
    fed,
    gram_matrix,
    mean,
    named,
    objective,
    rank,
    total,
)

#: What can be written as text (`objectives.text`), by name: those that need no arrays.
WRITTEN: Final[dict[str, Callable[..., Objective]]] = {}


def written(factory: Callable[P, Objective]) -> Callable[P, Objective]:
    """As `named`, and it can be written as text: NAME(arguments in order), as its parameters are annotated."""
    WRITTEN[factory.__name__] = named(factory)
    return WRITTEN[factory.__name__]


# --- scores of the network ------------------------------------------------------------------------


@written
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
            f"logit takes a class index, None or FED, not the label {target!r}: look the label up first, "
            f"net.target({target!r})"
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

    return objective(f"logit({'top class' if target is None else target})", layer or LOGITS, build)


@named
def step(layer: str, index: int, target: int | str | None = None, *, axis: int = 2) -> Objective:
    """A class score at one step of a sequence, (N, steps, classes).

    index    the step, from 0
    target   class index; None: each picture's best class at this step; FED: a graph input `target`, (N,) int64
    axis     of the classes, where they do not come last
    """

    def build(op: Any, value: ir.Value) -> ir.Value:
        sizes = [None if value.shape is None else value.shape[i] for i in range(rank(value, layer))]
        along = next((i for i in range(1, len(sizes)) if i != axis and sizes[i] != 1), 1 if axis != 1 else 2)
        bounded(value, along, index, layer)
        row = op.Flatten(op.Gather(value, [index], axis=along), axis=1)  # (N, K)
        if target is None or target == FED:
            return _of_target(op, row, target)
        bounded(value, axis, int(target), layer)
        return op.Squeeze(op.Gather(row, [int(target)], axis=1), [1])

    name = "best class" if target is None else target
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


@written
def channel(layer: str, index: int | str, *, last: bool | None = None) -> Objective:
    """The mean of one channel of a layer, (N, C, ...).

    index   from 0; FED: a graph input `channel`, (N,) int64
    last    whether the layer is (N, ..., C); None: as a `Network` tells of this layer, without one False
    """

    def build(op: Any, value: ir.Value) -> ir.Value:
        if index != FED:
            bounded(value, 1, int(index), layer)
            return mean(op, op.Gather(value, [int(index)], axis=1))
        places = list(range(2, rank(value, layer)))
        means = op.ReduceMean(value, places, keepdims=0) if places else value
        return _picked(op, means, _given_channel(op))

    return objective(f"channel({layer}, {index})", layer, build, last=last)


@written
def neuron(
    layer: str, index: int | str, y: int | None = None, x: int | None = None, *, last: bool | None = None
) -> Objective:
    """One unit of a channel of a layer, (N, C, H, W); y and x default to the middle of the map.

    index   from 0; FED: a graph input `channel`, (N,) int64
    last    whether the layer is (N, H, W, C); None: as a `Network` tells of this layer, without one False
    """

    def build(op: Any, value: ir.Value) -> ir.Value:
        if value.shape is None or len(value.shape) != 4:
            raise ModelUnsuitable(
                f"neuron needs a layer of rank 4, {layer!r} has shape {value.shape}: use part()"
            )
        unit = value
        if index != FED:
            bounded(value, 1, int(index), layer)
            unit = op.Gather(value, [int(index)], axis=1)
        for axis, at in ((2, y), (3, x)):
            if at is not None:
                bounded(value, axis, at, layer)
            place = op.Div(op.shape(value, axis, axis + 1), 2) if at is None else [at]
            unit = op.Gather(unit, place, axis=axis)
        return _picked(op, op.Flatten(unit, axis=1), _given_channel(op)) if index == FED else mean(op, unit)

    return objective(f"neuron({layer}, {index}, {y}, {x})", layer, build, last=last)


def _given_channel(op: Any) -> ir.Value:
    return op.Unsqueeze(fed(op, "channel", ir.DataType.INT64, ["N"]), [1])


@written
def part(layer: str, *index: int | slice | None) -> Objective:
    """The sum of any part of a layer: `part("boxes", 3, 4)`, `part("mask", 7, slice(10, 20))`, `part("scores")`.

    index   for each axis after the batch an index, a slice, or None for the whole axis
    """

    def build(op: Any, value: ir.Value) -> ir.Value:
        axes = None if value.shape is None else len(value.shape) - 1
        if axes is not None and len(index) > axes:
            raise UsageError(
                f"layer {layer!r} has {axes} axes after the batch, {len(index)} indices were given"
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
        return total(op, value)

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
        places = rank(value, layer) - 2
        channels = value.shape[1] if value.shape is not None else None
        if isinstance(channels, int) and channels != wanted.size:
            raise UsageError(
                f"the direction has {wanted.size} numbers, layer {layer!r} has {channels} channels"
            )
        along = wanted.reshape(-1, *[1] * places)
        dot = op.ReduceSum(op.Mul(value, along), [1], keepdims=1)
        if power:
            length = op.Sqrt(op.Add(op.ReduceSum(op.Mul(value, value), [1], keepdims=1), 1e-12))
            cosine = op.Div(dot, op.Mul(length, float(np.linalg.norm(wanted))))
            dot = op.Mul(dot, op.Pow(op.Max(cosine, 0.1), float(power)))
        return mean(op, dot)

    return objective(f"direction({layer})", layer, build, last=None)


@written
def layer(name: str) -> Objective:
    """½‖a‖² of a whole layer, whose gradient by the layer is the activation itself (DeepDream, Mordvintsev 2015)."""

    def build(op: Any, value: ir.Value) -> ir.Value:
        return op.Mul(total(op, op.Mul(value, value)), 0.5)

    return objective(f"layer({name})", name, build)


# --- how a picture or its activations look --------------------------------------------------------


@written
def tv(layer: str | None = None, beta: float = 2.0) -> Objective:
    """Total variation (subtract it to smooth): ((x[i,j+1] − x[i,j])² + (x[i+1,j] − x[i,j])²)^(beta/2), averaged over
    the places that have both neighbours: all but the last row and the last column.

    Mahendran & Vedaldi 2015, arXiv:1412.0035, section 3 (CS231n's R_Vβ), averaged where they sum, so that a weight does
    for any size.

    layer    (N, C, H, W), H and W 2 or more; None: the input
    beta     2: the squared differences; below 2 edges cost less against speckles, above 2 more
    raises   UsageError; ModelUnsuitable when building, for a layer of another rank, or of one row or column
    """
    if not 0.5 <= beta <= 8:
        raise UsageError(f"the exponent beta of total variation is {beta:g}: expected 0.5 to 8")
    name = layer or "input"

    def build(op: Any, value: ir.Value) -> ir.Value:
        shape = value.shape
        if shape is not None and (len(shape) != 4 or any(isinstance(n, int) and n < 2 for n in shape[2:])):
            raise ModelUnsuitable(
                f"total variation of {name!r}, which has shape {shape}: expected maps (N, C, H, W) of at least two "
                "rows and two columns"
            )
        here = op.Slice(value, [0, 0], [-1, -1], [2, 3])
        below = op.Sub(op.Slice(value, [1, 0], [2**62, -1], [2, 3]), here)
        right = op.Sub(op.Slice(value, [0, 1], [-1, 2**62], [2, 3]), here)
        squares = op.Add(op.Mul(below, below), op.Mul(right, right))
        return mean(op, squares if beta == 2 else op.Pow(op.Add(squares, _SMALL), beta / 2))

    return objective(f"tv({name})" if beta == 2.0 else f"tv({name}, {beta:g})", layer, build, last=None)


# Under a root, so that its slope stays finite where pixels are equal; far below what a picture of 256 levels shows.
_SMALL = 1e-8


@written
def l2(layer: str | None = None) -> Objective:
    """The mean square of a layer, or of the input (subtract it to keep it small)."""
    return objective(f"l2({layer or 'input'})", layer, lambda op, value: mean(op, op.Mul(value, value)))


@named
def norm(alpha: float = 6.0, layer: str | None = None) -> Objective:
    """The mean of |x|^alpha (subtract it to keep a picture within bounds).

    Mahendran & Vedaldi 2015, arXiv:1412.0035, equation 3, but averaged over pixels where they sum.

    layer   any; None: the input
    alpha   1 or more; 6 in the paper
    """
    if not 1 <= alpha <= 16:
        raise UsageError(f"the exponent alpha of a norm is {alpha:g}: expected 1 to 16")

    def build(op: Any, value: ir.Value) -> ir.Value:
        if alpha == 1:
            return mean(op, op.Abs(value))
        squares = op.Mul(value, value)
        return mean(op, squares if alpha == 2 else op.Pow(op.Add(squares, _TINY), alpha / 2))

    return objective(f"norm({layer or 'input'}, {alpha:g})", layer, build)


_TINY = 1e-12


# --- over the batch -------------------------------------------------------------------------------


@named
def diversity(layer: str) -> Objective:
    """How little the pictures of a batch resemble each other: minus the mean cosine of a picture's Gram matrix with
    those of the others. Zero for one picture.

    Olah, Mordvintsev & Schubert 2017: several pictures of one channel show its several sides.

    layer   (N, C, H, W)
    """

    def build(op: Any, value: ir.Value, draws: int) -> ir.Value:
        grams = op.Reshape(gram_matrix(op, value), [0, -1])  # (draws·N, C·C)
        length = op.Sqrt(op.Add(op.ReduceSum(op.Mul(grams, grams), [1], keepdims=1), _TINY))
        unit = op.Reshape(op.Div(grams, length), [draws, -1, _channels(value, layer) ** 2])
        alike = op.MatMul(unit, op.Transpose(unit, perm=[0, 2, 1]))  # (draws, N, N)
        pictures = op.Cast(op.shape(alike, 2, 3), to=int(ir.DataType.FLOAT))
        others = op.Sub(op.ReduceSum(alike, [2], keepdims=0), 1.0)
        return op.Neg(op.Reshape(op.Div(others, op.Max(op.Sub(pictures, 1.0), 1.0)), [-1]))

    return objective(f"diversity({layer})", layer, build, across=True, last=None)


@named
def alignment(layer: str | None = None, decay: float = 2.0) -> Objective:
    """How alike the neighbours in a batch are: minus the mean squared difference of each picture to those up to four
    places before and after it, a distance of k weighing 1/decay^k. Rows of pictures then change smoothly.

    Olah et al. 2018, "The Building Blocks of Interpretability" (lucid's alignment).

    layer   any; None: the input
    """
    if not 1 <= decay <= 100:
        raise UsageError(f"decay {decay:g}: expected 1 to 100")

    def build(op: Any, value: ir.Value, draws: int) -> ir.Value:
        batch = value.shape[0] if value.shape is not None else None
        if not isinstance(batch, int):
            raise ModelUnsuitable("alignment needs a batch of known size: use it where images are made")
        count = batch // draws
        rows = op.Reshape(value, [draws, count, -1])
        total = op.Mul(op.ReduceMean(rows, [2], keepdims=0), 0.0)  # (draws, N)
        for k in range(1, min(5, count)):
            gap = op.Sub(op.Slice(rows, [k], [count], [1]), op.Slice(rows, [0], [count - k], [1]))
            apart = op.Mul(op.ReduceMean(op.Mul(gap, gap), [2], keepdims=0), -0.5 / decay**k)
            total = op.Add(total, op.Add(op.Pad(apart, [0, k, 0, 0], 0.0), op.Pad(apart, [0, 0, 0, k], 0.0)))
        return op.Reshape(total, [-1])

    return objective(f"alignment({layer or 'input'})", layer, build, across=True)


def _channels(value: ir.Value, layer: str) -> int:
    channels = value.shape[1] if value.shape is not None and len(value.shape) == 4 else None
    if not isinstance(channels, int):
        raise ModelUnsuitable(f"layer {layer!r} has shape {value.shape}; expected feature maps (N, C, H, W)")
    return channels
