"""Values of a file as it computes them, of one picture after another, so many at a time as may be held; and values that
B holds in other units than A, a factor for each channel, which the next layers take back (`gains`).

Cross-layer equalisation (Nagel, van Baalen, Blankevoort & Welling 2019, arXiv:1906.04721) scales a layer's filters, and
the inputs of the next layer's by the inverse. Nothing is wrong with such a value, but nobody can put it in the other
file's place without the factors.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import onnx_ir as ir

from onnxviz.graph.surgery import cut
from onnxviz.network import Network
from onnxviz.programs import filled

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


# A file is said to hold other units where the factors differ from channel to channel by more than this (of the
# logarithm), and explain the difference but for so much of its power. What a fault does is no factor (clipping,
# rounding), or one for all channels, or for a few.
_SPREAD: Final = 0.1
_LEFT: Final = 0.15
_PICTURES: Final = 2
_BYTES: Final = 1 << 25


@dataclass(frozen=True)
class Value:
    """A value of A and of B, by their names, and B's axes in A's order."""

    a: str
    b: str
    axes: tuple[int, ...] | None


def gains(
    nets: tuple[Network, Network],
    models: tuple[ir.Model, ir.Model],
    listed: Sequence[Value],
    arrays: tuple[np.ndarray, np.ndarray],
) -> dict[str, np.ndarray]:
    """By A's names the factors, to be multiplied to A's value, of those values that B holds in other units.

    listed   the values
    models   the networks in normal form
    arrays   (N, ...) float32, the pictures as the input of A and of B
    """
    found: dict[str, np.ndarray] = {}
    sizes = {y.name: size(y) for node in models[0].graph for y in node.outputs}
    for portion in portions(listed, [sizes.get(one.a, 0) for one in listed], _BYTES):
        sums = {one.a: _Sums() for one in portion}
        names = [one.a for one in portion], [one.b for one in portion]
        pictures = [x[:_PICTURES] for x in arrays]
        sides = [values(*side) for side in zip(nets, models, names, pictures, strict=True)]
        for ours, theirs in zip(*sides, strict=True):
            for one in portion:
                y = theirs[one.b]
                sums[one.a].add(ours[one.a], y if one.axes is None else y.transpose(one.axes))
            ours.clear()
            theirs.clear()
        factors = {one.a: sums[one.a].factors() for one in portion}
        found |= {name: factor for name, factor in factors.items() if factor is not None}
    return found


class _Sums:
    """Products of A's value and B's, channel by channel, for either place that channels may have."""

    def __init__(self) -> None:
        self._sums: dict[int, np.ndarray] = {}  # axis -> (3, channels): A·A, A·B, B·B
        self._rank = 0

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """One picture."""
        if a.shape != b.shape or a.ndim < 2:
            return
        self._rank = a.ndim
        wide = a.astype(np.float64), b.astype(np.float64)
        products = wide[0] * wide[0], wide[0] * wide[1], wide[1] * wide[1]
        for axis in {1, a.ndim - 1}:
            others = tuple(place for place in range(a.ndim) if place != axis)
            sums = np.stack([product.sum(axis=others) for product in products])
            self._sums[axis] = self._sums.get(axis, 0) + sums

    def factors(self) -> np.ndarray | None:
        """One for each channel, shaped to be multiplied; None where B does not hold other units."""
        best: tuple[float, np.ndarray] | None = None
        for axis, (own, both, other) in self._sums.items():
            alive = (own > 0) & (both > 0)
            before = float((other - 2 * both + own).sum())
            if not alive.any() or not np.isfinite(before) or before <= 0:
                continue
            # What is always 0 in B is 0 in any unit; where A is, none can be told.
            factor = np.where(own > 0, 0.0, 1.0)
            np.divide(both, own, out=factor, where=alive)
            left = float((other - 2 * factor * both + factor**2 * own).sum()) / before
            logs = np.log(factor[alive])
            spread = float(np.median(np.abs(logs - np.median(logs))))
            if left < _LEFT and spread > _SPREAD and (best is None or left < best[0]):
                form = [-1 if place == axis else 1 for place in range(self._rank)]
                best = left, factor.astype(np.float32).reshape(form)
        return None if best is None else best[1]
