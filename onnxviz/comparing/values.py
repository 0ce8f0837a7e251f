"""Values of a file as it computes them, of one picture after another, so many at a time as may be held."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, TypeVar

import numpy as np
import onnx_ir as ir

from onnxviz.graph.surgery import cut
from onnxviz.network import Network
from onnxviz.runtime.batching import filled

T = TypeVar("T")
# Elements of a value whose sizes the graph does not tell.
_UNKNOWN: Final = 1 << 20


def size(value: ir.Value) -> int:
    """Bytes of a value of one picture, or of weights, as float32."""
    if value.shape is None:
        return 4 * _UNKNOWN
    return 4 * math.prod(side for side in value.shape if isinstance(side, int))


def portions(items: Iterable[T], sizes: Iterable[int], most: int) -> Iterator[list[T]]:
    """The items in order, in lists that are no larger than `most` together, or of one item."""
    portion: list[T] = []
    held = 0
    for item, size in zip(items, sizes, strict=True):
        if portion and held + size > most:
            yield portion
            portion, held = [], 0
        portion.append(item)
        held += size
    if portion:
        yield portion


def values(
    net: Network, model: ir.Model, names: Sequence[str], x: np.ndarray
) -> Iterator[dict[str, np.ndarray]]:
    """The values called `names` for one picture after another, without what ONNX Runtime makes of the graph.

    model   the network in normal form
    x       (N, ...) the pictures as its input; a fixed batch is filled with the same one
    yields  what the caller empties when it is done with it, or it stays beside the next picture's
    """
    wanted = [name for name in dict.fromkeys(names) if name != net.input.name]
    program = net.compile(lambda: cut(model, wanted), key=None, optimise=False) if wanted else None
    for place in range(len(x)):
        fed = filled(x[place : place + 1], net.batched[1] or 1)
        arrays = program({net.input.name: fed}, wanted) if program is not None else {}
        arrays[net.input.name] = fed
        yield arrays
