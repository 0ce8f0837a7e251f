"""Which part of the image each unit of a value sees, and the few moves that every operator comes down to.

A value's *map coordinate* along the image's height (and likewise its width) is a number Y; a `Intervals` says
which pixels a unit at Y sees. Where Y stands in the value's axes is told by *atoms*: in a plain feature map
(N, C, H, W) axis 2 is one atom, Y = index. A Reshape to (N, C, H/7, 7, W) splits it into two, Y = 7·i + j; a
Reshape to (N, C, H·W) puts atoms of both directions into one axis; a Transpose carries them along. A sum over
an axis (a channel mix, an attention) removes its atoms and widens the spans by what was summed. That is all
that is needed to follow channel shuffles, pixel shuffles, patch merging and window attention exactly.

Each value has two spans a direction. *full* is everything that it depends on. *local* leaves out what
reaches it only as context: statistics of the whole map (instance norm), a gate made of a global pool
(squeeze and excite), an attention. A unit of a network with such gates does depend on every pixel, so `full` is
the honest field; `local` is the part that its own position selects, and the patch worth looking at.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from onnxviz.graph.analysis.intervals import (
    IDENTITY,
    LONGEST,
    Intervals,
    compose,
    reshaped,
    shortest,
    spread,
    union,
    window,
)
from onnxviz.graph.analysis.twins import View

Y, X = 0, 1


@dataclass(frozen=True)
class Atom:
    """A factor of an axis: `size` steps, each moving the map coordinate of `direction` by `coefficient`."""

    direction: int | None  # Y, X, or None for what has no place in the image (channels, batch)
    coefficient: int
    size: int


Axis = tuple[Atom, ...]
Pair = tuple[Intervals, Intervals]


@dataclass(frozen=True)
class Units:
    """What the units of one value see. `lengths`: how many map coordinates there are in each direction."""

    axes: tuple[Axis, ...]
    lengths: tuple[int, int]
    full: Pair
    local: Pair

    @property
    def shape(self) -> tuple[int, ...]:
        """The value's shape."""
        return tuple(math.prod(atom.size for atom in axis) for axis in self.axes)

    def has(self, direction: int, axis: int | None = None) -> bool:
        """True where some axis, or this one, tells places along `direction` apart."""
        axes = self.axes if axis is None else (self.axes[axis],)
        return any(atom.direction == direction for a in axes for atom in a)


def plain(size: int) -> Axis:
    """An axis that has no place in the image."""
    return (Atom(None, 0, size),) if size != 1 else ()


def image(shape: Sequence[int], y: int | None, x: int | None) -> Units:
    """The image itself: each pixel sees itself. Without axes `y` and `x` there is one place only."""
    axes = [plain(size) for size in shape]
    lengths = [1, 1]
    for direction, axis in ((Y, y), (X, x)):
        if axis is not None:
            axes[axis] = (Atom(direction, 1, shape[axis]),)
            lengths[direction] = shape[axis]
    still = window(0, 0, 1)
    spans = (IDENTITY if y is not None else still, IDENTITY if x is not None else still)
    return Units(tuple(axes), (lengths[0], lengths[1]), spans, spans)


# --- summing over ---------------------------------------------------------------------------------


def mix(units: Units, axes: Sequence[int], keep: bool = False) -> Units:
    """Every unit now reads all positions along these axes: matrix products, pools, reductions.

    The axes lose their atoms. keep: it reads them as context only (a normalisation), so that the result
    still has its places, and `local` stays.
    """
    removed = [atom for axis in axes for atom in units.axes[axis] if atom.direction is not None]
    full = _spread(units.full, removed, units.lengths)
    if keep:
        return replace(units, full=full)
    local = _spread(units.local, removed, units.lengths)
    left = list(units.axes)
    for axis in axes:
        left[axis] = plain(math.prod(atom.size for atom in units.axes[axis]))
    return settled(Units(tuple(left), units.lengths, full, local))


def _spread(spans: Pair, removed: Sequence[Atom], lengths: tuple[int, int]) -> Pair:
    pair = list(spans)
    for atom in removed:
        if atom.direction is not None and atom.size > 1:
            d = atom.direction
            pair[d] = spread(pair[d], atom.coefficient, atom.size, lengths[d])
    return pair[0], pair[1]


def resize(units: Units, axis: int, size: int) -> Units:
    """The axis, which must have no place in the image, gets another size."""
    axes = list(units.axes)
    axes[axis] = plain(size)
    return replace(units, axes=tuple(axes))


# --- moving along one axis ------------------------------------------------------------------------


def move(units: Units, axis: int, how: Intervals | None, size: int) -> Units:
    """Unit i along `axis` of the result reads the positions `how` tells of the old ones; there are `size` units.

    None: all of them. An axis whose units are no run of places in the image (tokens of both directions,
    digits that belong together with another axis) is read as a whole: never less than the truth.
    """
    directions = {atom.direction for atom in units.axes[axis] if atom.direction is not None}
    if not directions:
        return resize(units, axis, size)
    straight = purify(units, axis) if len(directions) == 1 and how is not None else None
    if straight is None or how is None:
        return resize(mix(units, [axis]), axis, size)
    return _through(straight, axis, directions.pop(), how, size)


def _through(units: Units, axis: int, d: int, how: Intervals, size: int) -> Units:
    """Each of the `size` units along the axis, which holds all of direction `d`, sees what `how` tells of the old."""
    axes, lengths = list(units.axes), list(units.lengths)
    axes[axis], lengths[d] = (Atom(d, 1, size),), size
    full, local = list(units.full), list(units.local)
    full[d], local[d] = compose(how, full[d]), compose(how, local[d])
    return Units(tuple(axes), (lengths[0], lengths[1]), (full[0], full[1]), (local[0], local[1]))


def purify(units: Units, axis: int) -> Units | None:
    """The same with the axis as one atom, coordinate = index.

    None where the axis tells places of both directions or of none, or other axes hold some of its digits.
    Digits without a place (channels that a pixel shuffle moved in) stand for the same place again.
    """
    atoms = units.axes[axis]
    directions = {atom.direction for atom in atoms if atom.direction is not None}
    if len(directions) != 1:
        return None
    d = directions.pop()
    if any(atom.direction == d for i, a in enumerate(units.axes) if i != axis for atom in a):
        return None
    size = math.prod(atom.size for atom in atoms)
    if atoms == (Atom(d, 1, size),) and units.lengths[d] == size:
        return units
    if size > LONGEST:
        return None
    steps = [[atom.coefficient * i for i in range(atom.size)] for atom in atoms]
    places = np.array([sum(digits) for digits in itertools.product(*steps)])
    step = int(places[1]) if size > 1 else 1
    if np.array_equal(places, step * np.arange(size)):
        how = window(step, 0, 1)
    else:  # a table of every unit
        how = shortest(places, places, units.lengths[d])
    return _through(units, axis, d, how, size)


# --- rearranging ----------------------------------------------------------------------------------


def permute(units: Units, order: Sequence[int]) -> Units:
    """The axes in another order."""
    return replace(units, axes=tuple(units.axes[axis] for axis in order))


def insert(units: Units, axis: int) -> Units:
    """A new axis of size 1."""
    return replace(units, axes=(*units.axes[:axis], (), *units.axes[axis:]))


def remove(units: Units, axis: int) -> Units:
    """Without this axis, of which one position was taken."""
    left = mix(units, [axis])
    return replace(left, axes=(*left.axes[:axis], *left.axes[axis + 1 :]))


def reshape(units: Units, shape: Sequence[int]) -> Units:
    """The same numbers in row-major order under another shape."""
    if tuple(shape) == units.shape:
        return units
    axes: list[Axis] = [()] * len(shape)
    for old, new in reshaped(units.shape, shape):
        parts = _deal([atom for axis in old for atom in units.axes[axis]], [shape[axis] for axis in new])
        if parts is None:  # boundaries that cut through an atom: those places are no longer told apart
            units = mix(units, old)
            parts = [plain(shape[axis]) for axis in new]
        for axis, part in zip(new, parts, strict=True):
            axes[axis] = part
    return settled(replace(units, axes=tuple(axes)))


def settled(units: Units) -> Units:
    """A direction that no axis tells apart any more has one place, 0, and spans that do not move."""
    full, local, lengths = list(units.full), list(units.local), list(units.lengths)
    for d in (Y, X):
        if not units.has(d) and (full[d].shift or local[d].shift):
            full[d], local[d] = (_still(spans[d]) for spans in (full, local))
        if not units.has(d):
            lengths[d] = 1
    return Units(units.axes, (lengths[0], lengths[1]), (full[0], full[1]), (local[0], local[1]))


def _still(moving: Intervals) -> Intervals:
    low, high = moving.at(0)
    return window(0, low, high - low + 1)


def _deal(atoms: list[Atom], sizes: Sequence[int]) -> list[Axis] | None:
    """Deal the atoms, in order, to axes of these sizes, splitting atoms where a boundary asks for it."""
    rest = list(atoms)
    dealt: list[Axis] = []
    for size in sizes:
        taken: list[Atom] = []
        left = size  # what this axis still needs
        while left > 1:
            while rest and rest[0].size == 1:
                rest.pop(0)
            if not rest:
                return None
            atom = rest.pop(0)
            if atom.size == 0:  # nothing is there to be dealt
                return None
            if left % atom.size == 0:
                taken.append(atom)
                left //= atom.size
            elif atom.size % left == 0:  # the first digit goes here, the rest to the next axis
                inner = atom.size // left
                taken.append(Atom(atom.direction, atom.coefficient * inner, left))
                rest.insert(0, Atom(atom.direction, atom.coefficient, inner))
                left = 1
            else:
                return None
        dealt.append(_joined(taken))
    return dealt if all(atom.size == 1 for atom in rest) else None


def _joined(atoms: list[Atom]) -> Axis:
    """Neighbouring digits of one coordinate are one atom again."""
    joined: list[Atom] = []
    for atom in atoms:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.direction == atom.direction
            and (atom.direction is None or last.coefficient == atom.coefficient * atom.size)
        ):
            joined[-1] = Atom(atom.direction, atom.coefficient, last.size * atom.size)
        else:
            joined.append(atom)
    return tuple(joined)


# --- several inputs that meet in one value ---------------------------------------------------------


def merge(one: Units, other: Units, shape: Sequence[int]) -> Units:
    """Units of the broadcast result (of this shape) that read a unit of each: Add, Mul, Concat over channels.

    What comes from a side that does not tell the places of a direction apart is context (see the module's
    text): it widens `full` only.
    """
    one, other = _aligned(one, shape), _aligned(other, shape)
    for d in (Y, X):
        one, other = _agree(one, other, d)
    axes = tuple(_wider(a, b) for a, b in zip(one.axes, other.axes, strict=True))
    full, local, lengths = [], [], []
    for d in (Y, X):
        length = max(one.lengths[d], other.lengths[d])
        full.append(union(one.full[d], other.full[d], length))
        mine, theirs = _atoms(one, d), _atoms(other, d)
        if mine == theirs:
            local.append(union(one.local[d], other.local[d], length))
        else:
            local.append(one.local[d] if len(mine) >= len(theirs) else other.local[d])
        lengths.append(one.lengths[d] if mine else other.lengths[d] if theirs else 1)
    return Units(axes, (lengths[0], lengths[1]), (full[0], full[1]), (local[0], local[1]))


def stretch(units: Units, shape: Sequence[int]) -> Units:
    """Broadcast to this shape, as by a constant: stretched axes have no place in the image."""
    aligned = _aligned(units, shape)
    axes = [
        plain(size) if size != 1 and math.prod(atom.size for atom in axis) == 1 else axis
        for axis, size in zip(aligned.axes, shape, strict=True)
    ]
    return replace(aligned, axes=tuple(axes))


def context(units: Units, other: Units) -> Units:
    """`units`, reading all of `other` besides."""
    everything = mix(other, range(len(other.axes)))
    full = [union(units.full[d], everything.full[d], units.lengths[d]) for d in (Y, X)]
    return replace(units, full=(full[0], full[1]))


def _atoms(units: Units, direction: int) -> list[tuple[int, Atom]]:
    return [(i, atom) for i, axis in enumerate(units.axes) for atom in axis if atom.direction == direction]


def _aligned(units: Units, shape: Sequence[int]) -> Units:
    """Leading axes of size 1 as broadcasting adds them; a single place that is stretched is none."""
    axes = [()] * (len(shape) - len(units.axes)) + list(units.axes)
    for i, (axis, size) in enumerate(zip(axes, shape, strict=True)):
        if size != 1 and math.prod(atom.size for atom in axis) == 1:
            axes[i] = ()
    return settled(replace(units, axes=tuple(axes)))


def _agree(one: Units, other: Units, d: int) -> tuple[Units, Units]:
    """Both with the places of this direction on the same axes, or one of them without places."""
    mine, theirs = _atoms(one, d), _atoms(other, d)
    if not mine or not theirs:
        return one, other
    smaller, larger = sorted((set(mine), set(theirs)), key=len)
    if one.lengths[d] == other.lengths[d]:
        if not smaller <= larger:  # the rows and columns of an attention: the first side's places are kept
            other = mix(other, sorted({axis for axis, atom in theirs if (axis, atom) not in mine}))
        if set(_atoms(other, d)) <= set(mine) or smaller <= larger:
            return one, other
    one_pure, other_pure = _pure_axis(one, d), _pure_axis(other, d)
    if one_pure is not None and other_pure is not None:  # other coordinates for the same places
        (a, one_new), (b, other_new) = one_pure, other_pure
        if a == b and one_new.lengths[d] == other_new.lengths[d]:
            return one_new, other_new
    return one, mix(other, sorted({axis for axis, _ in theirs}))


def _pure_axis(units: Units, d: int) -> tuple[int, Units] | None:
    axes = {axis for axis, _ in _atoms(units, d)}
    if len(axes) != 1:
        return None
    axis = axes.pop()
    pure = purify(units, axis)
    return None if pure is None else (axis, pure)


def _wider(one: Axis, other: Axis) -> Axis:
    """The axis that tells more places apart, else the longer one."""
    rank = [
        (sum(a.direction is not None for a in axis), math.prod(a.size for a in axis)) for axis in (one, other)
    ]
    return one if rank[0] >= rank[1] else other


# --- one node --------------------------------------------------------------------------------------

Shape = tuple[int, ...]


class Unplaced(Exception):
    """What a rule lacks, a shape or a constant."""


@dataclass(frozen=True)
class Call:
    """One node as a rule sees it. Inputs are in the order of its `View`; a constant's are None."""

    view: View
    operands: list[Units | None]
    shapes: list[Shape | None]
    results: list[Shape | None]
    values: Callable[[int], np.ndarray | None]
    opset: int
    result: int = 0
    """Which result is asked for."""

    @property
    def shape(self) -> Shape:
        """The shape of the result."""
        return known(self.results[self.result], "its result's shape")

    def input(self, place: int = 0) -> Shape:
        """The shape of an input."""
        return known(self.shapes[place] if place < len(self.shapes) else None)

    def operand(self, place: int = 0) -> Units | None:
        """What an input sees; None for a constant or an input left out."""
        return self.operands[place] if place < len(self.operands) else None

    @property
    def data(self) -> Units:
        """What the first input sees; a rule that needs its places gives up where it is a constant."""
        found = self.operand()
        if found is None:
            raise Unplaced("its input is a constant")
        return found

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.view.attributes.get(name, default)

    def numbers(self, name: str, place: int) -> list[int] | None:
        """Integers that are an attribute in old opsets and input `place` in new ones; None if neither is there."""
        found = self.get(name)
        if found is None:
            if self.view.input(place) is None:
                return None
            found = self.values(place)
            if found is None:
                raise Unplaced(f"its {name} are computed while it runs")
        return [int(v) for v in np.asarray(found).reshape(-1)]


def known(shape: Shape | None, what: str = "the shape of its input") -> Shape:
    """The shape; a rule that needs it gives up where it cannot be told."""
    if shape is None:
        raise Unplaced(f"{what} cannot be inferred")
    return shape


Rule = Callable[[Call], Units]
