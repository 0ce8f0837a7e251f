"""Values and weights, each reduced to a few random projections as it appears: enough to tell which are the same.

A projection adds up the elements with signs drawn by chance; the same signs for the same number of elements, so that
equal tensors have equal projections, and the cosine of two tensors is about that of their projections: exactly so near
1, and within 1/16 anywhere (Charikar, Chen & Farach-Colton 2002, "Finding frequent items in data streams").
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxviz.comparing.values import portions, values
from onnxviz.graph.analysis.dataflow import constant
from onnxviz.graph.analysis.probe import Facts
from onnxviz.network import Network
from onnxviz.progress import Progress, silent

#: Projections of a value or a filter.
SIZE: Final = 256
# Values that are held at the same time, of one picture.
_BYTES: Final = 1 << 25
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
