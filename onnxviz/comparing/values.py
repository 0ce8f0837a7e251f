"""Values of a file as it computes them, of one picture after another, so many at a time as may be held; and values that
B holds in other units than A, a factor for each channel, which the next layers take back (`gains`). Values and weights,
each reduced to a few random projections as it appears: enough to tell which are the same (`sketches`).

Cross-layer equalisation (Nagel, van Baalen, Blankevoort & Welling 2019, arXiv:1906.04721) scales a layer's filters, and
the inputs of the next layer's by the inverse. Nothing is wrong with such a value, but nobody can put it in the other
file's place without the factors.

A projection adds up the elements with signs drawn by chance; the same signs for the same number of elements, so that
equal tensors have equal projections, and the cosine of two tensors is about that of their projections: exactly so near
1, and within 1/16 anywhere (Charikar, Chen & Farach-Colton 2002, "Finding frequent items in data streams").
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import constant
from onnxviz.graph.analysis.probe import Facts
from onnxviz.graph.operators import WEIGHTED
from onnxviz.graph.seams import Seam
from onnxviz.graph.surgery import cut
from onnxviz.network import Network
from onnxviz.programs import filled
from onnxviz.progress import Progress, silent

T = TypeVar("T")
Ends = Sequence[tuple[float, float]]  # the smallest and the largest value of each picture
# Elements of a value whose sizes the graph does not tell.
_UNKNOWN: Final = 1 << 20
# Bytes of values that are held at the same time, of one picture.
_BYTES: Final = 1 << 25


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


def widest(ends: Ends) -> tuple[float, float]:
    """The ends of all."""
    return min(map(min, ends)), max(map(max, ends))


def used(ends: Ends, low: float, high: float) -> float:
    """Share of a range, 0 to 1, that lies between these ends."""
    least, most = widest(ends)
    return max(0.0, min(most, high) - max(least, low)) / max(high - low, 1e-30)


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


def gains(
    nets: tuple[Network, Network],
    models: tuple[ir.Model, ir.Model],
    listed: Sequence[Seam],
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


def beside(model: ir.Model, layers: Collection[str]) -> set[str]:
    """The values that these layers give or read, with none but operators without weights between."""
    found: set[str] = set()
    for nodes, way in ((list(model.graph), 1), (list(reversed(model.graph)), -1)):
        reached: set[ir.Value | None] = set()
        for node in nodes:
            start, end = (node.inputs, node.outputs)[::way]
            passes = node.op_type not in WEIGHTED and not reached.isdisjoint(start)
            if passes or node.name in layers:
                reached.update(end)
        found.update(value.name or "" for value in reached if value is not None)
    return found


class _Sums:
    """Products of A's value and B's, channel by channel, for either place that channels may have."""

    def __init__(self) -> None:
        self._sums: dict[int, np.ndarray] = {}  # axis -> (3, channels): A·A, A·B, B·B
        self._rank = 0

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
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


# --- projections ----------------------------------------------------------------------------------

#: Projections of a value or a filter.
SIZE: Final = 256
# With fewer elements than this the mean is a good part of what a value says, and stays.
_FEW: Final = 16

Axes = tuple[int, ...] | None


class Projector:
    """The signs, by the number of elements; those of `seed`."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self._signs: dict[int, np.ndarray] = {}

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """(n, elements) as (n, SIZE) float32; the elements themselves, with signs, where they are no more."""
        count = rows.shape[1]
        if count not in self._signs:
            drawn = np.random.default_rng((self._seed, count)).integers(0, 2, count, np.int8)
            self._signs[count] = 2 * drawn - 1
        signed = rows.astype(np.float32, copy=False) * self._signs[count]
        if count <= SIZE:
            return signed
        whole = count // SIZE * SIZE
        folded = signed[:, :whole].reshape(len(rows), -1, SIZE).sum(axis=1)
        folded[:, : count - whole] += signed[:, whole:]
        return folded


@dataclass
class Sketch:
    """A value for the probe pictures.

    shape    its sizes for one picture, the batch among them
    faces    axes -> (pictures, SIZE) projections of the value less its mean, with the axes in this order; None: as is
    means    (pictures,) its means
    below    (pictures,) how much of its strength lies below 0: 0 to 1
    """

    shape: tuple[int, ...]
    faces: dict[Axes, np.ndarray]
    means: np.ndarray
    below: np.ndarray

    def beside(self, other: Sketch) -> Sketch:
        """Both, one after the other; a picture for which the sizes are others counts for none."""
        if other.shape != self.shape:
            return self
        faces = {axes: np.concatenate([face, other.faces[axes]]) for axes, face in self.faces.items()}
        means, below = np.concatenate([self.means, other.means]), np.concatenate([self.below, other.below])
        return Sketch(self.shape, faces, means, below)


def orders(rank: int) -> tuple[Axes, ...]:
    """The orders of axes in which another file may hold the same: channels moved to the end, and to the front."""
    if rank not in (3, 4, 5):
        return ()
    return (0, rank - 1, *range(1, rank - 1)), (0, *range(2, rank), 1)


def turned(shape: tuple[int, ...], axes: Axes) -> tuple[int, ...]:
    """The sizes with the axes in this order."""
    return shape if axes is None else tuple(shape[axis] for axis in axes)


def sketches(
    net: Network,
    model: ir.Model,
    names: Sequence[str],
    x: np.ndarray,
    facts: Facts,
    project: Projector,
    wanted: Collection[tuple[int, ...]] = (),
    progress: Progress = silent,
) -> dict[str, Sketch]:
    """The values called `names` for the probe pictures, in memory that does not grow with their number or sizes.

    x        the network's input tensor, an entry a picture
    facts    the shapes, by which they are computed in portions
    wanted   sizes that values are turned to, too, where the order of their axes allows
    """
    made: dict[str, Sketch] = {}
    sizes = [4 * math.prod(d or 1 for d in facts.shapes.get(name) or ()) // facts.batch for name in names]
    for portion in portions(names, sizes, _BYTES):
        for name, array in _run(net, model, portion, x):
            face = _face(array, project, wanted)
            made[name] = face if name not in made else made[name].beside(face)
        progress(len(made), len(names), "values")
    return made


def constants(
    net: Network, model: ir.Model, listed: Iterable[ir.Value], x: np.ndarray
) -> dict[str, np.ndarray]:
    """Of values that depend on no picture those that the file computes: weights as they come out of DequantizeLinear,
    Transpose and the like."""
    names = list(dict.fromkeys(str(value.name) for value in listed if constant(value) is None))
    return dict(_run(net, model, names, x[:1], whole=True)) if names else {}


def _run(
    net: Network, model: ir.Model, names: Sequence[str], x: np.ndarray, whole: bool = False
) -> Iterator[tuple[str, np.ndarray]]:
    """Each value for each picture, (1, ...), as the file computes it, without what ONNX Runtime makes of it.

    whole   whether the values have no entry a picture
    """
    fixed = net.batched[1] or 1
    for arrays in values(net, model, names, x):
        for name in names:
            array = arrays.pop(name)
            alone = whole or fixed == 1 or not array.ndim or len(array) != fixed
            yield name, array if alone else array[:1]


@np.errstate(invalid="ignore", over="ignore")  # what is no number stays none, and counts for nothing
def _face(array: np.ndarray, project: Projector, wanted: Collection[tuple[int, ...]]) -> Sketch:
    wide = array.astype(np.float32, copy=False)
    mean = wide.mean(dtype=np.float64) if wide.size else 0.0
    centred = wide - np.float32(mean) if wide.size >= _FEW else wide
    faces: dict[Axes, np.ndarray] = {None: project(centred.reshape(1, -1))}
    for axes in orders(wide.ndim):
        if turned(wide.shape, axes) in wanted:
            faces[axes] = project(centred.transpose(axes).reshape(1, -1))
    strength, under = (float(np.square(part, dtype=np.float64).sum()) for part in (wide, np.minimum(wide, 0)))
    return Sketch(wide.shape, faces, np.array([mean]), np.array([under / strength if strength > 0 else 0.0]))


def similarity(a: np.ndarray, b: np.ndarray) -> float:
    """The correlation of two values by their projections, over all pictures for which both are finite."""
    a, b = a[: len(b)], b[: len(a)]
    sound = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    one, other = (side[sound].astype(np.float64).reshape(-1) for side in (a, b))
    norms = float(np.linalg.norm(one)), float(np.linalg.norm(other))
    if 0.0 in norms:
        return float(norms[0] == norms[1] and bool(sound.any()))
    return float(one @ other) / (norms[0] * norms[1])
