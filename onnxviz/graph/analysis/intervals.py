"""Exact maps from the index of a unit to the interval of input pixels that it sees, along one axis.

A convolution of stride s, padding p and kernel k makes unit i see the positions s·i - p ... s·i - p + k - 1
of its input. Upsampling by 2 makes it see position floor(i / 2): no longer s·i + c for any s and c. Both are
*quasi-affine*: from some period on they repeat, shifted. So a map is a table of `period` intervals and the
`shift` by which the next period lies further on; stacking two maps gives another, in integers, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

LONGEST = 1 << 14
"""A period longer than this (many resizes by unlike fractions) is given up; see `compose`."""
_MOST = 1 << 21  # positions looked at in one step; only absurd kernels and maps come near it


@dataclass(frozen=True, eq=False)
class Intervals:
    """Unit i sees positions low[i mod p] + shift·(i div p) to high[...] + the same, both ends included."""

    low: np.ndarray  # (p,) int64
    high: np.ndarray  # (p,) int64
    shift: int

    @property
    def period(self) -> int:
        """After how many units the table repeats."""
        return len(self.low)

    @property
    def step(self) -> Fraction:
        """Input pixels from one unit to the next, on average: the stride."""
        return Fraction(self.shift, self.period)

    @property
    def extent(self) -> int:
        """The most pixels that a unit sees: the size of the receptive field."""
        return int((self.high - self.low).max()) + 1

    def at(self, index: int) -> tuple[int, int]:
        """First and last position that unit `index` sees."""
        whole, part = divmod(index, self.period)
        return int(self.low[part]) + whole * self.shift, int(self.high[part]) + whole * self.shift

    def table(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`at` for an array of indices."""
        whole, part = np.divmod(indices, self.period)
        return self.low[part] + whole * self.shift, self.high[part] + whole * self.shift

    def same(self, other: Intervals) -> bool:
        """True where both see the same at every index."""
        return (
            self.shift == other.shift
            and np.array_equal(self.low, other.low)
            and np.array_equal(self.high, other.high)
        )


def window(stride: int, start: int, extent: int) -> Intervals:
    """Unit i sees stride·i + start and the extent - 1 positions that follow."""
    return Intervals(np.array([start]), np.array([start + extent - 1]), stride)


def shortest(low: list[int] | np.ndarray, high: list[int] | np.ndarray, shift: int) -> Intervals:
    """A map from its table, brought to its shortest period."""
    first, last = np.asarray(low, np.int64), np.asarray(high, np.int64)
    period = len(first)
    for shorter in _divisors(period):
        if shorter == period or shift * shorter % period:
            continue
        by = shift * shorter // period
        if np.array_equal(first[shorter:], first[:-shorter] + by) and np.array_equal(
            last[shorter:], last[:-shorter] + by
        ):
            return Intervals(first[:shorter], last[:shorter], by)
    return Intervals(first, last, shift)


IDENTITY = window(1, 0, 1)


def compose(outer: Intervals, inner: Intervals) -> Intervals:
    """Unit i of `outer` sees positions of a map whose own units see the image through `inner`."""
    if outer.shift == 0:
        period = outer.period
    else:
        period = outer.period * inner.period // math.gcd(inner.period, outer.shift)
    if period > LONGEST:
        return _loose(outer, inner)
    first, last = outer.table(np.arange(period))
    widest = int((last - first).max()) + 1
    if period * widest > _MOST:
        return _loose(outer, inner)
    seen = first[:, None] + np.arange(widest)  # (period, widest): every position that is seen
    seen = np.minimum(seen, last[:, None])
    low, high = inner.table(seen)
    shift = outer.shift * (period // outer.period) * inner.shift // inner.period
    return shortest(low.min(axis=1), high.max(axis=1), shift)


def _loose(outer: Intervals, inner: Intervals) -> Intervals:
    """A map of short period that sees at least as much as the exact one."""
    step = outer.step * inner.step
    near = step.limit_denominator(LONGEST // 4)
    period = near.denominator
    first, last = outer.table(np.arange(period))
    ends = np.stack([*inner.table(first), *inner.table(last)])
    return shortest(ends.min(axis=0) - 1, ends.max(axis=0) + 1, near.numerator)


def union(one: Intervals, other: Intervals, length: int) -> Intervals:
    """What either sees. `length`: how many units there are, needed where the two strides differ."""
    if one.same(other):
        return one
    if one.step == other.step:
        period = math.lcm(one.period, other.period)
        if period <= LONGEST:
            return _union(one, other, period, one.shift * (period // one.period))
    if length > _MOST:
        return _hull([s.at(unit) for s in (one, other) for unit in (0, length - 1)])
    units = np.arange(max(1, length))
    for still, moving in ((one, other), (other, one)):
        low, high = moving.table(units)
        if (
            still.step == 0
            and still.period == 1
            and still.low[0] <= low.min()
            and still.high[0] >= high.max()
        ):
            return still
    # Two branches that drift apart have no common period: a table of every unit instead.
    step = min(one.step, other.step, key=lambda s: (s == 0, abs(s)))
    return _union(one, other, max(1, length), round(step * max(1, length)))


def _union(one: Intervals, other: Intervals, period: int, shift: int) -> Intervals:
    units = np.arange(period)
    (low, high), (low2, high2) = one.table(units), other.table(units)
    return shortest(np.minimum(low, low2), np.maximum(high, high2), shift)


def spread(inner: Intervals, coefficient: int, size: int, length: int) -> Intervals:
    """What a unit sees when one digit of its coordinate no longer matters, because that digit was summed over.

    The coordinate Y in 0 ... length - 1 has a digit (Y // coefficient) mod size; the result at Y is the union
    over all values of the digit. With coefficient 1 and size = length this is a global pool.
    """
    top = coefficient * size >= length
    period = coefficient if top else math.lcm(inner.period, coefficient * size)
    if period * size > _MOST:  # the whole length, by its ends
        return _hull([inner.at(unit) for unit in (0, length - 1)])
    units = np.arange(period)
    base = units - units // coefficient % size * coefficient
    low, high = inner.table(base[:, None] + coefficient * np.arange(size))
    shift = 0 if top else inner.shift * (period // inner.period)
    return shortest(low.min(axis=1), high.max(axis=1), shift)


def _hull(seen: list[tuple[int, int]]) -> Intervals:
    """Every unit sees all of these intervals."""
    low = min(first for first, _ in seen)
    return window(0, low, max(last for _, last in seen) - low + 1)


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]


# --- transposed windows, resizes and the like: which input positions each output position reads ----


def transposed(stride: int, start: int, kernel: int, dilation: int) -> Intervals:
    """ConvTranspose: input i is added to outputs i·stride - start + dilation·j for j < kernel.

    So output o reads the i = (o + start - dilation·j) / stride that are whole. Where the kernel is narrower
    than the stride some outputs read nothing; these are told to read the nearest input.
    """
    if stride * kernel > LONGEST:
        raise ValueError(f"a transposed window of stride {stride} and kernel {kernel} is not followed")
    low, high = [], []
    for o in range(stride):
        whole = [
            (o + start - dilation * j) // stride
            for j in range(kernel)
            if (o + start - dilation * j) % stride == 0
        ]
        nearest = (o + start - dilation * (kernel - 1) // 2) // stride
        low.append(min(whole, default=nearest))
        high.append(max(whole, default=nearest))
    return shortest(low, high, 1)


def resampling(
    before: int,
    after: int,
    scale: float | None,
    mode: str,
    coordinates: str,
    rounding: str,
    antialias: bool,
) -> Intervals | None:
    """ONNX Resize (opset 11 and later): which inputs output o reads. None for modes without a plain formula."""
    ratio = Fraction(after, before)
    if scale is not None and scale > 0:
        ratio = Fraction(float(scale)).limit_denominator(1 << 12)
    if not ratio:  # a scale that is next to nothing
        return None
    if coordinates == "align_corners":
        step, start = (
            (Fraction(before - 1, after - 1), Fraction(0)) if after > 1 else (Fraction(0), Fraction(0))
        )
    elif coordinates == "asymmetric" or (coordinates == "pytorch_half_pixel" and after == 1):
        step, start = 1 / ratio, Fraction(0)
    elif coordinates in ("half_pixel", "pytorch_half_pixel"):
        step, start = 1 / ratio, Fraction(1, 2) / ratio - Fraction(1, 2)
    elif coordinates == "half_pixel_symmetric":
        adjustment = Fraction(after) / (ratio * before)
        centre = Fraction(before, 2)
        step, start = 1 / ratio, centre * (1 - adjustment) + Fraction(1, 2) / ratio - Fraction(1, 2)
    else:  # tf_crop_and_resize
        return None
    if step.denominator > LONGEST:
        return None
    taps = [
        _taps(start + step * o, mode, rounding, step if antialias else None) for o in range(step.denominator)
    ]
    return shortest([low for low, _ in taps], [high for _, high in taps], step.numerator)


def _taps(place: Fraction, mode: str, rounding: str, step: Fraction | None) -> tuple[int, int]:
    """First and last input that the output at this place (in input positions) is made of."""
    half = Fraction(1, 2)
    if mode == "nearest":
        nearest = {
            "round_prefer_floor": math.ceil(place - half),
            "round_prefer_ceil": math.floor(place + half),
            "floor": math.floor(place),
            "ceil": math.ceil(place),
        }[rounding]
        return nearest, nearest
    radius = 1 if mode == "linear" else 2
    if step is not None and step > 1:  # antialiasing: the filter is as wide as the shrinking asks for
        return math.floor(place - radius * step) + 1, math.ceil(place + radius * step) - 1
    if place.denominator == 1:
        return int(place), int(place)
    return math.floor(place) - radius + 1, math.floor(place) + radius


def tiled(size: int) -> Intervals:
    """Tile: output o reads input o mod size."""
    if size > LONGEST:
        raise ValueError(f"repeats of {size} are not followed")
    return Intervals(np.arange(size), np.arange(size), 0)


def picked(indices: np.ndarray, size: int) -> Intervals:
    """Gather with one list of indices: output o reads input indices[o]."""
    places = np.where(indices < 0, indices + size, indices).astype(np.int64)
    return shortest(places, places, size)


def block(size: int) -> Intervals:
    """DepthToSpace: output o reads input o // size."""
    if size > LONGEST:
        raise ValueError(f"blocks of {size} are not followed")
    return Intervals(np.zeros(size, np.int64), np.zeros(size, np.int64), 1)


def reshaped(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
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
