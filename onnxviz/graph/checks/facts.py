"""What is known about a value before the model runs, and about the node that is looked at (for `static`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx

#: Sizes of a shape, None where one depends on the input.
Sizes = tuple[int | None, ...]
#: Values of so many elements are computed: shapes, axes, scales.
MOST_ELEMENTS: Final = 1024
_MAX_RANK: Final = 64


@dataclass(frozen=True)
class Known:
    """What is certain about a value.

    shape      None where not even the rank is known
    value      its elements, where there are few and they follow from constants
    constant   whether it follows from constants alone, so that ONNX Runtime computes it when it loads the model
    """

    shape: Sizes | None = None
    value: np.ndarray | None = None
    constant: bool = False

    @property
    def least(self) -> int:
        """The fewest elements that it can have, if no size that the input decides is 0."""
        return math.prod(size for size in self.shape if size is not None) if self.shape is not None else 0


UNKNOWN: Final = Known()


def constant(value: np.ndarray) -> Known:
    """What is known about an array."""
    return Known(value.shape, value if value.size <= MOST_ELEMENTS else None, constant=True)


@dataclass
class Call:
    """One node with what is known about its inputs.

    lookup       the elements of a small constant tensor, None for others
    inputs       one an input; None for one left out
    attributes   by name; those that refer to an attribute of the function are already replaced
    version      of the operator set
    outputs      how many it has
    """

    op: str
    lookup: Callable[[onnx.TensorProto], np.ndarray | None]
    inputs: Sequence[Known | None]
    attributes: Mapping[str, onnx.AttributeProto]
    version: int
    outputs: int

    def known(self, place: int) -> Known:
        """The input at `place`; UNKNOWN for one left out."""
        found = self.inputs[place] if place < len(self.inputs) else None
        return UNKNOWN if found is None else found

    def given(self, place: int) -> bool:
        """Whether the input at `place` is not left out."""
        return place < len(self.inputs) and self.inputs[place] is not None

    def shape(self, place: int = 0) -> Sizes:
        """The shape of an input.

        raises   Unsure when it is not known
        """
        shape = self.known(place).shape
        if shape is None:
            raise Unsure
        return shape

    def value(self, place: int) -> np.ndarray:
        """The elements of an input.

        raises   Unsure when they are not known
        """
        value = self.known(place).value
        if value is None:
            raise Unsure
        return value

    def whole(self, place: int) -> list[int]:
        """The elements of an input as whole numbers, flattened.

        raises   Unsure
        """
        return [int(number) for number in self.value(place).reshape(-1).tolist()]

    def attribute(self, name: str, default: Any = None) -> Any:
        """The value of an attribute: a number, bytes, a list of these, or the array of a small tensor.

        raises   Unsure when it is a large tensor, or comes from outside a function
        """
        found = self.attributes.get(name)
        if found is None:
            return default
        if found.ref_attr_name:
            raise Unsure
        value = onnx.helper.get_attribute_value(found)
        if isinstance(value, onnx.TensorProto):
            value = self.lookup(value)
            if value is None:
                raise Unsure
        return value if isinstance(value, (int, float, bytes, np.ndarray)) else list(value)

    def option(self, place: int, name: str) -> list[int]:
        """Whole numbers that are an input in newer opsets (at `place`) and an attribute in older ones.

        raises   Unsure when they are an input and not known, or nowhere
        """
        if self.given(place):
            return self.whole(place)
        found = self.attribute(name)
        if found is None:
            raise Unsure
        return found if isinstance(found, list) else [found]


class Unsure(Exception):
    """The answer depends on what is not known before the model runs."""


def axis(number: int, rank: int) -> int:
    """An axis counted from the front.

    raises   Unsure when there is no such axis
    """
    if not -rank <= number < rank:
        raise Unsure
    return number % rank if rank else 0


def sizes(shape: Sequence[int | None]) -> Sizes:
    """A shape made of computed sizes; what came out negative is not known.

    raises   Unsure when it has too many dimensions to be meant
    """
    if len(shape) > _MAX_RANK:
        raise Unsure
    return tuple(None if size is None or size < 0 else size for size in shape)


def broadcast(shapes: Sequence[Sizes]) -> Sizes:
    """The shape that these shapes give together, as NumPy has it."""
    rank = max(map(len, shapes), default=0)
    result: list[int | None] = []
    for place in range(-rank, 0):
        here = {shape[place] for shape in shapes if len(shape) >= -place}
        certain = {size for size in here if size is not None and size != 1}
        if len(certain) == 1:
            result.append(certain.pop())
        else:
            result.append(1 if here == {1} else None)
    return tuple(result)
