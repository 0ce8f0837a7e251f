"""What an objective is: a sum of weighted terms, each of which appends its scalar to a graph."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, UsageError
from onnxviz.graph.naming import publish
from onnxviz.text import printable

if TYPE_CHECKING:
    from onnxviz.graph.tape import Tape

# Stands for a class index that is fed at run time: a graph input `target`, (N,) int64.
FED = "fed"

P = ParamSpec("P")


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
        """As `--objective` takes it, where all its terms are of those that can be written there."""
        text = ""
        for weight, term in self.terms:
            sign = " - " if weight < 0 else " + "
            text += sign if text else sign.strip(" +")
            text += term.label if abs(weight) == 1 else f"{abs(weight):g}*{term.label}"
        return text

    def __repr__(self) -> str:
        return f"<Objective {printable(str(self), 200)}>"

    def layers(self, model: ir.Model, source: str) -> tuple[str, ...]:
        """The value names that the terms read, in this model."""
        return tuple(dict.fromkeys(term.locate(model, source) for _, term in self.terms))

    def _each(self, change: Callable[[Term], Term]) -> Objective:
        return Objective(tuple((weight, change(term)) for weight, term in self.terms))

    def at(self, scores: str) -> Objective:
        """The same with the class scores read from the value of this name."""
        return self._each(lambda term: replace(term, layer=scores) if term.layer == LOGITS else term)

    def laid_out(self, last: Callable[[str], bool]) -> Objective:
        """The same, with channels looked for where each layer has them.

        last   whether the layer of this name is (N, ..., C)
        """
        return self._each(
            lambda term: replace(term, last=last(term.layer)) if term.last is None and term.layer else term
        )

    def renamed(self, names: Mapping[str, str]) -> Objective:
        """The same, reading other values: by old name, the new one."""
        return self._each(lambda term: replace(term, layer=names.get(term.layer or "", term.layer)))

    def append(self, op: Tape, model: ir.Model, source: str, values: Mapping[str, ir.Value]) -> ir.Value:
        """Append the operators; the value, (N,).

        model    the model as it was given (before normalising), to find the layers in
        values   the layers' values in the tape's graph
        """
        total = None
        axes, single = moved_axes(model, source), takes_one(model, source)
        for weight, term in self.terms:
            name = term.locate(model, source)
            value = term.value(op, pictures_first(op, values[name], axes.get(name, 0), single))
            value = value if weight == 1.0 else op.Mul(value, weight)
            total = value if total is None else op.Add(total, value)
        assert total is not None
        return total


@dataclass(frozen=True)
class Term:
    """One scalar over one layer.

    layer    value name; None: the input that the gradient is taken by; LOGITS: the class scores before softmax
    build    (tape, the layer's value) -> (N,); with `across` (tape, the layer's value, draws) -> (N,)
    across   it compares the pictures of a batch with each other; of `draws` views of each, those of the same draw
    last     of a build that counts channels on axis 1: whether the layer is (N, ..., C); None: as a network tells
    call     the function that made it and what it was given, from which it is made again where it is unpickled
    """

    label: str
    layer: str | None
    build: Callable[..., ir.Value]
    across: bool = False
    last: bool | None = False
    call: tuple[Callable[..., Objective], Any, Any] | None = field(default=None, repr=False, compare=False)

    def __reduce__(self) -> Any:
        # `build` is a function inside a function, which no other process could find by its name.
        if self.call is None:
            return super().__reduce__()
        return _again, (self.call, self.layer, self.last)

    def value(self, op: Tape, value: ir.Value, draws: int = 1) -> ir.Value:
        """Append the operators; (N,), with all pictures of the first draw before those of the second."""
        if self.last and value.shape is not None and len(value.shape) > 2:
            value = moved(op, value, len(value.shape) - 1, 1)
        return self.build(op, value, draws) if self.across else self.build(op, value)

    def locate(self, model: ir.Model, source: str) -> str:
        """The name of the value that it reads."""
        if self.layer is None:
            return source
        return class_scores(model) if self.layer == LOGITS else self.layer


LOGITS = "\0logits"


def objective(
    label: str,
    layer: str | None,
    build: Callable[..., ir.Value],
    across: bool = False,
    last: bool | None = False,
) -> Objective:
    """One term with weight 1."""
    return Objective(((1.0, Term(label, layer, build, across, last)),))


def named(factory: Callable[P, Objective]) -> Callable[P, Objective]:
    """A function whose objectives, of one term each, can be pickled and copied: they remember its call."""

    @functools.wraps(factory)
    def wrapper(*args: P.args, **options: P.kwargs) -> Objective:
        ((weight, term),) = factory(*args, **options).terms
        return Objective(((weight, replace(term, call=(wrapper, args, options))),))

    return wrapper


def _again(call: tuple[Callable[..., Objective], Any, Any], layer: str | None, last: bool | None) -> Term:
    """The term of this call; it may have been moved to another layer, or laid out, since."""
    function, args, options = call
    ((_, term),) = function(*args, **options).terms
    return replace(term, layer=layer, last=last)


def class_scores(model: ir.Model) -> str:
    """The value name of the class scores before Softmax, LogSoftmax or Sigmoid, where the model ends in one.

    raises   ModelUnsuitable when no output, or more than one, looks like class scores
    """
    from onnxviz.graph.head import head
    from onnxviz.graph.output import NUMBERS

    found = head(model)
    if not found.scored and found.kind != NUMBERS:
        raise ModelUnsuitable(found.refusal())
    return found.logits


def moved_axes(model: ir.Model, source: str) -> dict[str, int]:
    """The axis of the pictures in values that have them on another axis than 0 (`graph.surgery`)."""
    from onnxviz.graph.surgery import moved_axes as found

    return found(model, source) if any(v.name == source for v in model.graph.inputs) else found(model)


def takes_one(model: ir.Model, source: str) -> bool:
    """Whether the graph takes exactly one picture, by its input `source`, or its only one of that size."""
    named = [value for value in model.graph.inputs if value.name == source] or model.graph.inputs
    return any(value.shape is not None and len(value.shape) > 2 and value.shape[0] == 1 for value in named)


def pictures_first(op: Any, value: ir.Value, axis: int, single: bool = False) -> ir.Value:
    """The value with its pictures on axis 0.

    single   the graph takes one picture: a row of numbers, or one number, is what its output is once that axis is
             squeezed away
    """
    if single and value.shape is not None and len(value.shape) < 2 and value.shape != (1,):
        row = op.Unsqueeze(value, [0])
        row.shape = ir.Shape([1, *value.shape])
        return row
    return value if axis == 0 or value.shape is None else moved(op, value, axis, 0)


def moved(op: Any, value: ir.Value, axis: int, to: int) -> ir.Value:
    """The value with one of its axes at another place, the others in their order."""
    assert value.shape is not None
    order = [i for i in range(len(value.shape)) if i != axis]
    order.insert(to, axis)
    turned = op.Transpose(value, perm=order)
    turned.shape = ir.Shape([value.shape[i] for i in order])
    return turned


# --- helpers of the terms ------------------------------------------------------------------------


def mean(op: Any, value: ir.Value) -> ir.Value:
    """Over everything but the batch, (N,)."""
    return op.ReduceMean(op.Flatten(value, axis=1), [1], keepdims=0)


def total(op: Any, value: ir.Value) -> ir.Value:
    """The sum over everything but the batch, (N,)."""
    return op.ReduceSum(op.Flatten(value, axis=1), [1], keepdims=0)


def rank(value: ir.Value, layer: str) -> int:
    """How many axes a layer with channels has; raises ModelUnsuitable for fewer than two."""
    if value.shape is None or len(value.shape) < 2:
        raise ModelUnsuitable(f"the layer {layer!r} has shape {value.shape}; expected (N, C) or (N, C, ...)")
    return len(value.shape)


def gram_matrix(op: Any, value: ir.Value) -> ir.Value:
    """(N, C, H, W) -> (N, C, C), divided by C·H·W."""
    rows = op.Reshape(value, [0, 0, -1])  # (N, C, HW)
    size = op.Cast(op.ReduceProd(op.shape(value, 1), keepdims=0), to=int(ir.DataType.FLOAT))
    return op.Div(op.MatMul(rows, op.Transpose(rows, perm=[0, 2, 1])), size)


def bounded(value: ir.Value, axis: int, index: int, layer: str) -> None:
    """Refuse an index outside an axis of known length (UsageError), and one that it lacks (ModelUnsuitable)."""
    if value.shape is not None and axis >= len(value.shape):
        raise ModelUnsuitable(
            f"the layer {layer!r} of shape {value.shape} has no axis {axis} to take an entry of"
        )
    length = None if value.shape is None else value.shape[axis]
    if isinstance(length, int) and not -length <= index < length:
        raise UsageError(f"index {index} on axis {axis} of layer {layer!r}, which has length {length}")


def fed(op: Any, name: str, dtype: ir.DataType, shape: Any) -> ir.Value:
    """A graph input of this name (the same one for every term that asks for it)."""
    for value in op.graph.inputs:
        if value.name == name:
            return value
    value = ir.Value(type=ir.TensorType(dtype), shape=ir.Shape(list(shape)))
    publish(op.graph, {name: value})
    op.graph.inputs.append(value)
    return value
