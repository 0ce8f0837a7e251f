"""Which part of the image each unit of a value sees, and the few moves that every operator comes down to.

A value's *map coordinate* along the image's height (and likewise its width) is a number Y; a `Span` says
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
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxviz.graph.analysis.span import IDENTITY, LONGEST, Span, compose, span, spread, window

Y, X = 0, 1


@dataclass(frozen=True)
class Atom:
    """A factor of an axis: `size` steps, each moving the map coordinate of `direction` by `coefficient`."""

    direction: int | None  # Y, X, or None for what has no place in the image (channels, batch)
    coefficient: int
    size: int


Axis = tuple[Atom, ...]


@dataclass(frozen=True)
class Reach:
    """What the units of one value see. `lengths`: how many map coordinates there are in each direction."""

    axes: tuple[Axis, ...]
    lengths: tuple[int, int]
    full: tuple[Span, Span]
    local: tuple[Span, Span]

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


def image(shape: Sequence[int], y: int | None, x: int | None) -> Reach:
    """The image itself: each pixel sees itself. Without axes `y` and `x` there is one place only."""
    axes = [plain(size) for size in shape]
    lengths = [1, 1]
    for direction, axis in ((Y, y), (X, x)):
        if axis is not None:
            axes[axis] = (Atom(direction, 1, shape[axis]),)
            lengths[direction] = shape[axis]
    still = window(0, 0, 1)
    spans = (IDENTITY if y is not None else still, IDENTITY if x is not None else still)
    return Reach(tuple(axes), (lengths[0], lengths[1]), spans, spans)


# --- summing over ---------------------------------------------------------------------------------


def mix(reach: Reach, axes: Sequence[int], keep: bool = False) -> Reach:
    """Every unit now reads all positions along these axes: matrix products, pools, reductions.

    The axes lose their atoms. keep: it reads them as context only (a normalisation), so that the result
    still has its places, and `local` stays.
    """
    removed = [atom for axis in axes for atom in reach.axes[axis] if atom.direction is not None]
    full = _spread(reach.full, removed, reach.lengths)
    if keep:
        return replace(reach, full=full)
    local = _spread(reach.local, removed, reach.lengths)
    left = list(reach.axes)
    for axis in axes:
        left[axis] = plain(math.prod(atom.size for atom in reach.axes[axis]))
    return settled(Reach(tuple(left), reach.lengths, full, local))


def _spread(spans: tuple[Span, Span], removed: Sequence[Atom], lengths: tuple[int, int]) -> tuple[Span, Span]:
    pair = list(spans)
    for atom in removed:
        if atom.direction is not None and atom.size > 1:
            d = atom.direction
            pair[d] = spread(pair[d], atom.coefficient, atom.size, lengths[d])
    return pair[0], pair[1]


def resize(reach: Reach, axis: int, size: int) -> Reach:
    """The axis, which must have no place in the image, gets another size."""
    axes = list(reach.axes)
    axes[axis] = plain(size)
    return replace(reach, axes=tuple(axes))


# --- moving along one axis ------------------------------------------------------------------------


def move(reach: Reach, axis: int, how: Span | None, size: int) -> Reach:
    """Unit i along `axis` of the result reads the positions `how` tells of the old ones; there are `size` units.

    None: all of them. An axis whose units are no run of places in the image (tokens of both directions,
    digits that belong together with another axis) is read as a whole: never less than the truth.
    """
    directions = {atom.direction for atom in reach.axes[axis] if atom.direction is not None}
    if not directions:
        return resize(reach, axis, size)
    straight = purify(reach, axis) if len(directions) == 1 and how is not None else None
    if straight is None or how is None:
        return resize(mix(reach, [axis]), axis, size)
    d = directions.pop()
    atom = Atom(d, 1, size)
    axes, lengths = list(straight.axes), list(straight.lengths)
    axes[axis], lengths[d] = (atom,), size
    full, local = list(straight.full), list(straight.local)
    full[d], local[d] = compose(how, full[d]), compose(how, local[d])
    return Reach(tuple(axes), (lengths[0], lengths[1]), (full[0], full[1]), (local[0], local[1]))


def purify(reach: Reach, axis: int) -> Reach | None:
    """The same with the axis as one atom, coordinate = index.

    None where the axis tells places of both directions or of none, or other axes hold some of its digits.
    Digits without a place (channels that a pixel shuffle moved in) stand for the same place again.
    """
    atoms = reach.axes[axis]
    directions = {atom.direction for atom in atoms if atom.direction is not None}
    if len(directions) != 1:
        return None
    d = directions.pop()
    if any(atom.direction == d for i, a in enumerate(reach.axes) if i != axis for atom in a):
        return None
    size = math.prod(atom.size for atom in atoms)
    if atoms == (Atom(d, 1, size),) and reach.lengths[d] == size:
        return reach
    if size > LONGEST:
        return None
    steps = [[atom.coefficient * i for i in range(atom.size)] for atom in atoms]
    places = np.array([sum(digits) for digits in itertools.product(*steps)])
    step = int(places[1]) if size > 1 else 1
    if np.array_equal(places, step * np.arange(size)):
        how = window(step, 0, 1)
    else:  # a table of every unit
        how = span(places, places, reach.lengths[d])
    axes, lengths = list(reach.axes), list(reach.lengths)
    axes[axis], lengths[d] = (Atom(d, 1, size),), size
    full, local = list(reach.full), list(reach.local)
    full[d], local[d] = compose(how, full[d]), compose(how, local[d])
    return Reach(tuple(axes), (lengths[0], lengths[1]), (full[0], full[1]), (local[0], local[1]))


# --- rearranging ----------------------------------------------------------------------------------


def permute(reach: Reach, order: Sequence[int]) -> Reach:
    """The axes in another order."""
    return replace(reach, axes=tuple(reach.axes[axis] for axis in order))


def insert(reach: Reach, axis: int) -> Reach:
    """A new axis of size 1."""
    return replace(reach, axes=(*reach.axes[:axis], (), *reach.axes[axis:]))


def remove(reach: Reach, axis: int) -> Reach:
    """Without this axis, of which one position was taken."""
    left = mix(reach, [axis])
    return replace(left, axes=(*left.axes[:axis], *left.axes[axis + 1 :]))


def reshape(reach: Reach, shape: Sequence[int]) -> Reach:
    """The same numbers in row-major order under another shape."""
    if tuple(shape) == reach.shape:
        return reach
    axes: list[Axis] = [()] * len(shape)
    for old, new in _groups(reach.shape, shape):
        parts = _deal([atom for axis in old for atom in reach.axes[axis]], [shape[axis] for axis in new])
        if parts is None:  # boundaries that cut through an atom: those places are no longer told apart
            reach = mix(reach, old)
            parts = [plain(shape[axis]) for axis in new]
        for axis, part in zip(new, parts, strict=True):
            axes[axis] = part
    return settled(replace(reach, axes=tuple(axes)))


def settled(reach: Reach) -> Reach:
    """A direction that no axis tells apart any more has one place, 0, and spans that do not move."""
    full, local, lengths = list(reach.full), list(reach.local), list(reach.lengths)
    for d in (Y, X):
        if not reach.has(d) and (full[d].shift or local[d].shift):
            full[d], local[d] = (_still(spans[d]) for spans in (full, local))
        if not reach.has(d):
            lengths[d] = 1
    return Reach(reach.axes, (lengths[0], lengths[1]), (full[0], full[1]), (local[0], local[1]))


def _still(moving: Span) -> Span:
    low, high = moving.at(0)
    return window(0, low, high - low + 1)


def _groups(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of axes, old and new, that hold the same number of elements each."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) or j < len(new):
        left, right = [], []
        a = b = 1
        if i < len(old):
            left.append(i)
            a, i = old[i], i + 1
        if j < len(new):
            right.append(j)
            b, j = new[j], j + 1
        while a != b:
            if (a < b or j >= len(new)) and i < len(old):
                left.append(i)
                a, i = a * old[i], i + 1
            elif j < len(new):
                right.append(j)
                b, j = b * new[j], j + 1
            else:
                break
        groups.append((left, right))
    return groups


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
