"""Exact maps from the index of a unit to the interval of input pixels that it sees, along one axis.

A convolution of stride s, padding p and kernel k makes unit i see the positions s·i - p ... s·i - p + k - 1
of its input. Upsampling by 2 makes it see position floor(i / 2): no longer s·i + c for any s and c. Both are
*quasi-affine*: from some period on they repeat, shifted. So a map is a table of `period` intervals and the
`shift` by which the next period lies further on; stacking two maps gives another, in integers, exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

LONGEST = 1 << 14
"""A period longer than this (many resizes by unlike fractions) is given up; see `compose`."""
_MOST = 1 << 21  # positions looked at in one step; only absurd kernels and maps come near it


@dataclass(frozen=True, eq=False)
class Span:
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

    def same(self, other: Span) -> bool:
        """True where both see the same at every index."""
        return (
            self.shift == other.shift
            and np.array_equal(self.low, other.low)
            and np.array_equal(self.high, other.high)
        )


def window(stride: int, start: int, extent: int) -> Span:
    """Unit i sees stride·i + start and the extent - 1 positions that follow."""
    return Span(np.array([start]), np.array([start + extent - 1]), stride)


def span(low: list[int] | np.ndarray, high: list[int] | np.ndarray, shift: int) -> Span:
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
            return Span(first[:shorter], last[:shorter], by)
    return Span(first, last, shift)


IDENTITY = window(1, 0, 1)


def compose(outer: Span, inner: Span) -> Span:
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
    reach = first[:, None] + np.arange(widest)  # (period, widest): every position that is seen
    reach = np.minimum(reach, last[:, None])
    low, high = inner.table(reach)
    shift = outer.shift * (period // outer.period) * inner.shift // inner.period
    return span(low.min(axis=1), high.max(axis=1), shift)


def _loose(outer: Span, inner: Span) -> Span:
    """A map of short period that sees at least as much as the exact one."""
    step = outer.step * inner.step
    near = step.limit_denominator(LONGEST // 4)
    period = near.denominator
    first, last = outer.table(np.arange(period))
    ends = np.stack([*inner.table(first), *inner.table(last)])
    return span(ends.min(axis=0) - 1, ends.max(axis=0) + 1, near.numerator)


def union(one: Span, other: Span, length: int) -> Span:
    """What either sees. `length`: how many units there are, needed where the two strides differ."""
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


def _union(one: Span, other: Span, period: int, shift: int) -> Span:
    units = np.arange(period)
    (low, high), (low2, high2) = one.table(units), other.table(units)
    return span(np.minimum(low, low2), np.maximum(high, high2), shift)


def spread(inner: Span, coefficient: int, size: int, length: int) -> Span:
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
    return span(low.min(axis=1), high.max(axis=1), shift)


def _hull(seen: list[tuple[int, int]]) -> Span:
    """Every unit sees all of these intervals."""
    low = min(first for first, _ in seen)
    return window(0, low, max(last for _, last in seen) - low + 1)


def _divisors(number: int) -> list[int]:
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    return small + [number // d for d in reversed(small) if d * d != number]
