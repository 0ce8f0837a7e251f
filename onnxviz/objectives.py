"""Differentiable scalars over layer values, one a picture; they add up and scale.

An objective is maximised; a loss is its negative. `2 * logit(285) - 0.01 * tv()` is an objective again.

Each appends its scalar, (N,), to the graph as operators of the standard domain, so that the gradient is one graph with
the network. Layers are named by their value names; None stands for the input that the gradient is taken by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, UnknownLabel, UsageError

if TYPE_CHECKING:
    from onnxviz.grad.tape import Tape

# Stands for a class index that is fed at run time: a graph input `target`, (N,) int64.
FED = "fed"


@dataclass(frozen=True)
class Objective:
    """A sum of weighted terms. Made by the functions below; `+`, `-` and `*` by a number compose them."""

    terms: tuple[tuple[float, Term], ...]

    def __add__(self, other: Objective) -> Objective:
        if not isinstance(other, Objective):
            return NotImplemented
        return Objective(self.terms + other.terms)

    def __sub__(self, other: Objective) -> Objective:
        return self + -other

    def __mul__(self, factor: float) -> Objective:
        if isinstance(factor, bool) or not isinstance(factor, (int, float, np.floating, np.integer)):
            return NotImplemented
        return Objective(tuple((float(factor) * weight, term) for weight, term in self.terms))

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> Objective:
        return self * (1.0 / divisor)

    def __neg__(self) -> Objective:
        return self * -1.0

    def __str__(self) -> str:
        return " + ".join(f"{weight:g} × {term.label}" for weight, term in self.terms)

    def layers(self, model: ir.Model, source: str) -> tuple[str, ...]:
        """The value names that the terms read, in this model."""
        return tuple(dict.fromkeys(term.locate(model, source) for _, term in self.terms))

    def append(self, op: Tape, model: ir.Model, source: str, values: Mapping[str, ir.Value]) -> ir.Value:
        """Append the operators; the value, (N,).

        model    the model as it was given (before normalising), to find the layers in
        values   the layers' values in the tape's graph
        """
        total = None
        for weight, term in self.terms:
            value = term.build(op, values[term.locate(model, source)])
            value = value if weight == 1.0 else op.Mul(value, weight)
            total = value if total is None else op.Add(total, value)
        assert total is not None
        return total


@dataclass(frozen=True)
class Term:
    """One scalar over one layer.

    layer   value name; None: the input that the gradient is taken by; LOGITS: the class scores before softmax
    build   (tape, the layer's value) -> (N,)
    """

    label: str
    layer: str | None
    build: Callable[[Any, ir.Value], ir.Value]

    def locate(self, model: ir.Model, source: str) -> str:
        """The name of the value that it reads."""
        if self.layer is None:
            return source
        return class_scores(model) if self.layer == LOGITS else self.layer


LOGITS = "\0logits"


def _objective(label: str, layer: str | None, build: Callable[[Any, ir.Value], ir.Value]) -> Objective:
    return Objective(((1.0, Term(label, layer, build)),))


def class_scores(model: ir.Model) -> str:
    """The value name of the class scores before Softmax, LogSoftmax or Sigmoid, where the model ends in one.

    raises   ModelUnsuitable when no output, or more than one, looks like class scores
    """
    from onnxviz.graph.head import head

    return head(model).logits


# --- the terms --------------------------------------------------------------------------------


def logit(target: int | str | None = None, layer: str | None = None) -> Objective:
    """A class score before softmax.

    target   class index; None: each picture's own top class; FED: a graph input `target`, (N,) int64
    layer    the value that holds the scores, (N, K) or (N, K, 1, 1); None: found in front of the final activation
    raises   UnknownLabel when building, for an index outside the classes
    """
    if isinstance(target, str) and target != FED:
        raise UsageError(
            f"logit takes a class index, None or FED, not the label {target!r}: look the label up first"
        )

    def build(op: Any, value: ir.Value) -> ir.Value:
        flat = op.Flatten(value, axis=1)  # (N, K)
        if target is None:
            return _picked(op, flat, op.ArgMax(flat, axis=1, keepdims=1))
        if target == FED:
            return _picked(op, flat, op.Unsqueeze(_fed(op, "target", ir.DataType.INT64, ["N"]), [1]))
        classes = None if value.shape is None else value.shape[1]
        index = int(target)
        if isinstance(classes, int) and not -classes <= index < classes:
            raise UnknownLabel(f"class {index} was asked for; the model has classes 0 to {classes - 1}")
        return op.Squeeze(op.Gather(flat, [index], axis=1), [1])

    name = "top class" if target is None else str(target)
    return _objective(f"logit({name})", layer or LOGITS, build)


def _picked(op: Any, flat: ir.Value, index: ir.Value) -> ir.Value:
    return op.Squeeze(op.GatherElements(flat, index, axis=1), [1])


def channel(layer: str, index: int) -> Objective:
    """The mean of one channel of a layer, (N, C, ...)."""

    def build(op: Any, value: ir.Value) -> ir.Value:
        _bounded(value, 1, index, layer)
        return _mean(op, op.Gather(value, [index], axis=1))

    return _objective(f"channel({layer}, {index})", layer, build)


def neuron(layer: str, index: int, y: int | None = None, x: int | None = None) -> Objective:
    """One unit of a channel of a layer, (N, C, H, W); y and x default to the middle of the map."""

    def build(op: Any, value: ir.Value) -> ir.Value:
        if value.shape is None or len(value.shape) != 4:
            raise ModelUnsuitable(
                f"neuron needs a layer of rank 4, {layer!r} has shape {value.shape}: use part()"
            )
        _bounded(value, 1, index, layer)
        unit = op.Gather(value, [index], axis=1)
        for axis, at in ((2, y), (3, x)):
            if at is None:
                middle = op.Div(op.shape(value, axis, axis + 1), 2)
                unit = op.Gather(unit, middle, axis=axis)
            else:
                _bounded(value, axis, at, layer)
                unit = op.Gather(unit, [at], axis=axis)
        return _mean(op, unit)

    return _objective(f"neuron({layer}, {index}, {y}, {x})", layer, build)


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
                _bounded(value, axis, at, layer)
                value = op.Gather(value, [at], axis=axis)
        return op.ReduceSum(op.Flatten(value, axis=1), [1], keepdims=0)

    return _objective(f"part({layer}, {index})", layer, build)


def match(layer: str, target: np.ndarray | None = None) -> Objective:
    """Minus half the mean squared distance of a layer to given activations (feature inversion, embeddings).

    target   the activations, of the layer's shape with a batch of 1 or N, or without batch; None: a graph
             input `<layer>.target` of the layer's shape
    """

    def build(op: Any, value: ir.Value) -> ir.Value:
        if target is None:
            wanted: Any = _fed(op, f"{layer}.target", ir.DataType.FLOAT, value.shape)
        else:
            wanted = np.asarray(target, dtype=np.float32)
            if value.shape is not None and wanted.ndim == len(value.shape) - 1:
                wanted = wanted[None]
        gap = op.Sub(value, wanted)
        return op.Mul(_mean(op, op.Mul(gap, gap)), -0.5)

    return _objective(f"match({layer})", layer, build)


def gram(layer: str, target: np.ndarray | None = None) -> Objective:
    """Minus the mean squared distance of a layer's Gram matrix to a given one (Gatys, Ecker & Bethge 2015).

    The Gram matrix is (C, C), the channels' inner products over the map, divided by C·H·W (`gram_matrix`).

    target   (C, C) float; None: a graph input `<layer>.gram`
    """

    def build(op: Any, value: ir.Value) -> ir.Value:
        wanted = target if target is not None else _fed(op, f"{layer}.gram", ir.DataType.FLOAT, ["C", "C"])
        wanted = np.asarray(wanted, dtype=np.float32) if isinstance(wanted, np.ndarray) else wanted
        gap = op.Sub(gram_matrix(op, value), wanted)
        return op.Neg(_mean(op, op.Mul(gap, gap)))

    return _objective(f"gram({layer})", layer, build)


def gram_matrix(op: Any, value: ir.Value) -> ir.Value:
    """(N, C, H, W) -> (N, C, C), divided by C·H·W."""
    rows = op.Reshape(value, [0, 0, -1])  # (N, C, HW)
    size = op.Cast(op.ReduceProd(op.shape(value, 1), keepdims=0), to=int(ir.DataType.FLOAT))
    return op.Div(op.MatMul(rows, op.Transpose(rows, perm=[0, 2, 1])), size)


def tv(layer: str | None = None) -> Objective:
    """Total variation: the mean squared difference of neighbouring pixels (subtract it to smooth).

    layer   (N, C, H, W); None: the input
    """

    def build(op: Any, value: ir.Value) -> ir.Value:
        total = None
        for axis in (2, 3):
            gap = op.Sub(op.Slice(value, [1], [2**62], [axis]), op.Slice(value, [0], [-1], [axis]))
            term = _mean(op, op.Mul(gap, gap))
            total = term if total is None else op.Add(total, term)
        assert total is not None
        return total

    return _objective(f"tv({layer or 'input'})", layer, build)


def l2(layer: str | None = None) -> Objective:
    """The mean square of a layer (DeepDream maximises it), or of the input (subtract it to keep it small)."""
    return _objective(f"l2({layer or 'input'})", layer, lambda op, value: _mean(op, op.Mul(value, value)))


# --- helpers ----------------------------------------------------------------------------------


def _mean(op: Any, value: ir.Value) -> ir.Value:
    """Over everything but the batch."""
    return op.ReduceMean(op.Flatten(value, axis=1), [1], keepdims=0)


def _bounded(value: ir.Value, axis: int, index: int, layer: str) -> None:
    length = value.shape[axis] if value.shape is not None and axis < len(value.shape) else None
    if isinstance(length, int) and not -length <= index < length:
        raise UsageError(f"index {index} on axis {axis} of layer {layer!r}, which has length {length}")


def _fed(op: Any, name: str, dtype: ir.DataType, shape: Any) -> ir.Value:
    """A graph input of this name (the same one for every term that asks for it)."""
    for value in op.graph.inputs:
        if value.name == name:
            return value
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(list(shape)))
    op.graph.inputs.append(value)
    return value
