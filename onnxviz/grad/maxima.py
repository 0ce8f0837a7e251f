"""The adjoint of MaxPool without indices: one form for ONNX Runtime's CPU provider, one for any runtime.

MaxPool with its `Indices` output leaves the blocked layout for a scalar kernel (5 ms against 0.1 ms without, on
(1, 64, 112, 112)), and the scatter that follows runs on one thread. Here everything is pools, products and depthwise
convolutions with a single 1, which stay blocked and threaded: 2.5 times as fast in all.

A window's maximum is the maximum over its rows of the maxima over their columns, and the first maximum in row-major
order lies in the first row that has it, there in the first column. So the axes are taken one after the other, each
with k taps at stride s: with T_t[o] = x[s·o + t − pad], tap t of window o,

    n_t = 1 where T_t < y, else 0                  (a step of y − T_t)
    G_t = g·n_0·…·n_t                              what goes past taps 0 … t
    h_0 = g − G_0,  h_t = G_(t−1) − G_t,  h_(k−1) = G_(k−2)      exactly one of them is g, the others 0

and the cotangent of x[i] is the sum of h_t[o] over s·o + t − pad = i. The selections are exact in float32 only:
on a device that rounds a convolution's inputs (TF32) T_t would not equal the y that it made. Hence `Tape.cpu`.

The form for any runtime (`by_slices`) is the same walk with slices for taps. It is there because the indices are not
the same everywhere: WebGPU's kernel gives none, onnx.reference others.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.grad.backward import NoRule
from onnxviz.grad.forms import step
from onnxviz.grad.layout import blocked, woven
from onnxviz.grad.windows import Window
from onnxviz.graph.tape import Tape, dims

_TAPS = 5  # beyond, the indices are as fast
# A node a tap: what no network has would never come to an end.
_MOST_TAPS = 4096
_LOWEST = float(np.finfo(np.float32).min)


def fits(op: Tape, x: ir.Value, y: ir.Value, win: Window) -> bool:
    """Whether this form is there for such a pool, and fast."""
    known, outs = dims(x), dims(y)
    if known is None or outs is None or not blocked(op, x, x) or any(d != 1 for d in win.dilations):
        return False
    for i, (k, s, b, e) in enumerate(zip(win.kernel, win.strides, win.begin, win.end, strict=True)):
        fixed = isinstance(known[2 + i], int) and isinstance(outs[2 + i], int)
        if k > _TAPS or s > 2 or b >= k or e >= k or (s == 2 and (k == 1 or not fixed)):
            return False
    return True


def by_slices(op: Tape, g: ir.Value, y: ir.Value, x: ir.Value, win: Window, ceil: bool) -> ir.Value:
    """The cotangent of a MaxPool's input, to the first of the largest elements of each window, 1-D to 3-D.

    g, y   (N, C, *out)
    x      (N, C, *in)
    ceil   windows may hang over the end
    """
    n = len(win.kernel)
    if max(win.kernel) > _MOST_TAPS:
        raise NoRule(
            f"has windows of {max(win.kernel)} places along an axis; up to {_MOST_TAPS} are differentiated"
        )
    axes = [i for i in reversed(range(n)) if win.kernel[i] > 1 or win.strides[i] > 1 or any(win.pads[i::n])]
    real = op.cast_like(x, g), op.cast_like(y, g)  # codes of a quantised file: exact in float32
    levels, value = [], real[0]
    for i in axes:
        taps = _taps(op, value, win, i, op.extent(y, 2 + i), ceil)
        value = op.Max(*taps) if i != axes[-1] else real[1]
        levels.append((i, taps, value))
    for i, taps, top in reversed(levels):
        # The axes before this one have been led back already, those behind it not yet.
        lengths = [op.extent(x if a <= 2 + i else y, a) for a in range(2 + n)]
        g = _along(op, g, top, taps, win, i, lengths, op.extent(y, 2 + i))
    return g


def _padded(
    op: Tape, value: ir.Value, axis: int, rank: int, before: int, after: int, fill: float
) -> ir.Value:
    if not before and not after:
        return value
    amounts = [0] * (2 * rank)
    amounts[axis], amounts[rank + axis] = before, after
    return op.Pad(value, amounts, fill)


def _taps(op: Tape, x: ir.Value, win: Window, i: int, out: int | ir.Value, ceil: bool) -> list[ir.Value]:
    """T_0 … T_(k−1) along the (2 + i)-th axis; `out` windows lie along it."""
    s, axis, rank = win.strides[i], 2 + i, 2 + len(win.kernel)
    dtype = x.dtype.numpy() if x.dtype is not None else np.dtype(np.float32)
    # ONNX Runtime rounds towards 0: of a stride above 1, a window larger than all there is counts once, and hangs over.
    length = (dims(x) or (None,) * rank)[axis]
    short = not isinstance(length, int) or win.begin[i] + length + win.end[i] <= win.reach[i]
    after = win.end[i] + (s - 1 if ceil or short else 0)
    wide = _padded(op, x, axis, rank, win.begin[i], after, float(np.finfo(dtype).min))
    found = []
    for place in range(0, win.reach[i] + 1, win.dilations[i]):
        end: Any = [place + s * out] if isinstance(out, int) else op.Add(op.Mul(out, s), [place])
        found.append(op.Slice(wide, [place], end, [axis], [s]))
    return found


def _along(
    op: Tape, g: ir.Value, y: ir.Value, taps: list[ir.Value], win: Window, i: int,
    lengths: list[int | ir.Value], out: int | ir.Value,
) -> ir.Value:  # fmt: skip
    """One axis of `by_slices`, the (2 + i)-th: from the cotangent of its maxima to that of what they were taken from.

    y         the largest of the taps
    lengths   of the result, axis by axis
    out       the length of y along the axis
    """
    s, begin, axis, rank = win.strides[i], win.begin[i], 2 + i, len(lengths)
    length = lengths[axis]
    phases: list[list[tuple[int, ir.Value]]] = [[] for _ in range(s)]
    for t, tap in enumerate(taps):
        place, part = win.dilations[i] * t, g
        if t < len(taps) - 1:
            past = op.Mul(g, op.cast_like(op.Less(tap, y), g))  # (a Where takes five times as long)
            part, g = op.Sub(g, past), past
        phases[place % s].append((place // s, part))
    # What lies at s·o + place − begin: the parts of each phase (place mod s) side by side, the phases woven together.
    most = win.reach[i] // s
    spare, exact = 1, False
    if isinstance(length, int) and isinstance(out, int):
        spare = max(0, -(-(begin + length) // s) - out - most)
        exact = not begin and s * (out + most + spare) == length
    woven: list[ir.Value] = []
    for phase in phases:
        moved = [_padded(op, part, axis, rank, shift, most - shift + spare, 0.0) for shift, part in phase]
        woven.append(functools.reduce(op.Add, moved) if moved else op.Mul(woven[0], 0.0))
    total = woven[0]
    if s > 1:
        total = op.Concat(*(op.Unsqueeze(one, [axis + 1]) for one in woven), axis=axis + 1)
        total = op.Reshape(total, op.vector([-1 if a == axis else v for a, v in enumerate(lengths)]))
    if exact:
        return total
    end: Any = [begin + length] if isinstance(length, int) else op.Add(length, [begin])
    return op.Slice(total, [begin], end, [axis])


def max_to_input(
    op: Tape, g: ir.Value, y: ir.Value, x: ir.Value, win: Window, *, positive: bool = False
) -> ir.Value:
    """The cotangent of a MaxPool's input: to the first of the largest elements of each window.

    g, y       (N, C, Ho, Wo)
    x          (N, C, H, W)
    positive   x ≥ 0, and g is 0 wherever y = 0: then zero padding cannot be taken for a maximum
    """
    known, outs = dims(x) or (), dims(y) or ()
    channels = known[1]
    assert isinstance(channels, int)
    columns = _Axis(op, channels, 3, win, known[3], outs[3], known[2], positive)
    rows = _Axis(op, channels, 2, win, known[2], outs[2], outs[3], positive)
    if columns.trivial:
        return rows.back(g, y, x)
    if rows.trivial:
        return columns.back(g, y, x)
    widest = columns.pool(x)
    return columns.back(rows.back(g, y, widest), widest, x)


class _Axis:
    """One axis of the pool: k taps, stride s, `begin` pads, lengths of input and output (None: unknown, stride 1).

    other   the length of the other axis where this one is led back, as far as it is known
    """

    def __init__(
        self, op: Tape, channels: int, axis: int, win: Window, length: Any, out: Any, other: Any, positive: bool
    ) -> None:  # fmt: skip
        self.op, self.channels, self.axis, self.other, self.positive = op, channels, axis, other, positive
        i = axis - 2
        self.k, self.s, self.begin, self.end = win.kernel[i], win.strides[i], win.begin[i], win.end[i]
        if self.s == 2:  # as many as the windows need: ceil_mode may reach further, a surplus less far
            self.length, self.out = length, out
            self.end = max(0, 2 * (out - 1) + self.k - length - self.begin)

    @property
    def trivial(self) -> bool:
        return self.k == 1 and self.s == 1 and not self.begin and not self.end

    def _along(self, on_axis: Any, other: Any) -> list[Any]:
        return [on_axis, other] if self.axis == 2 else [other, on_axis]

    def _pads(self, begin: int, end: int) -> list[int]:
        return [begin, 0, end, 0] if self.axis == 2 else [0, begin, 0, end]

    def pool(self, x: ir.Value) -> ir.Value:
        """The maxima along this axis only."""
        steps = {"strides": self._along(self.s, 1), "pads": self._pads(self.begin, self.end)}
        y: ir.Value = self.op.MaxPool(x, kernel_shape=self._along(self.k, 1), **steps)
        return y

    def _pick(
        self, x: ir.Value, tap: int, size: int, begin: int, end: int, stride: int = 1, factor: float = 1.0,
        bias: float = 0.0,
    ) -> ir.Value:  # fmt: skip
        """bias + factor · x[stride·o + tap − begin], zeros outside: a depthwise Conv with `size` weights."""
        weights = np.zeros(size, np.float32)
        weights[tap] = factor
        weights = np.tile(weights, self.channels).reshape(self.channels, 1, *self._along(size, 1))
        offset = np.full(self.channels, bias, np.float32) if bias else None
        steps = {"strides": self._along(stride, 1), "pads": self._pads(begin, end)}
        picked: ir.Value = self.op.Conv(x, weights, offset, group=self.channels, **steps)
        return picked

    def _minus(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """a − b, which ONNX Runtime fuses where it would leave the layout for Sub."""
        return self.op.Add(self._pick(b, 0, 1, 0, 0, factor=-1.0), a)

    def back(self, g: ir.Value, y: ir.Value, x: ir.Value) -> ir.Value:
        """From the cotangent of this axis's maxima to that of what they were taken from."""
        op = self.op
        begin = self.begin
        if self.s == 2 and begin and not self.positive:  # a zero of the padding must not pass for a maximum
            pads = [0, 0, *self._pads(begin, 0)[:2], 0, 0, 0, 0]
            x, begin = op.Pad(x, pads, _LOWEST), 0
        parts: list[ir.Value] = []
        past = g
        for t in range(self.k - 1):
            before, past = past, op.Mul(past, self._below(t, begin, y, x))
            parts.append(self._minus(before, past))
        parts.append(past)
        if self.s == 2:
            return self._interleaved(parts)
        return self._sum(self._shifted(part, t) for t, part in enumerate(parts))

    def _below(self, t: int, begin: int, y: ir.Value, x: ir.Value) -> ir.Value:
        """n_t."""
        op, k = self.op, self.k
        if self.s == 2:
            fewer = max(self.end - 1, 0)  # the last tap is never asked for
            fits_so = (self.length + self.begin + fewer - k + 1) // 2 + 1 == self.out
            size, end = (k - 1, fewer) if fits_so else (k, self.end)
            tap = self._pick(x, t, size, begin, end, stride=2, factor=-1.0)
            return step(op, op.Add(tap, y))
        if t == begin and k - 1 == begin + self.end:
            return step(op, op.Add(self._pick(x, 0, 1, 0, 0, factor=-1.0), y))
        # Compared where x lies, so that what is outside x never counts: equal[i] = 1 where x[i] = y[i − t + begin].
        against = self._shifted(y, t, factor=-1.0)
        equal = op.HardSigmoid(op.Add(against, x), alpha=2.0**100, beta=1.0)
        # And brought to where y lies: 1 − equal[o + t − begin], 1 outside.
        return self._pick(equal, t, k, begin, self.end, factor=-1.0, bias=1.0)

    def _shifted(self, h: ir.Value, t: int, factor: float = 1.0) -> ir.Value:
        """h[i − t + begin] over the positions i of x, stride 1: the adjoint of picking tap t."""
        k = self.k
        if t == self.begin and k - 1 == self.begin + self.end and factor == 1.0:
            return h
        return self._pick(h, k - 1 - t, k, k - 1 - self.begin, k - 1 - self.end, factor=factor)

    def _interleaved(self, parts: list[ir.Value]) -> ir.Value:
        """Σ of h_t[o] at 2·o + t − begin: even and odd positions apart, then woven into each other."""
        op = self.op
        pairs = -(-(self.length + self.begin) // 2)  # pairs of positions, pads included
        halves = []
        for first in (0, 1):
            # part[q − j] for q < pairs
            ends = ((j, part, pairs - self.out - j) for j, part in enumerate(parts[first::2]))
            halves.append(self._sum(self._moved(part, j, end) for j, part, end in ends))
        wide = woven(op, halves, self.axis, [None, self.channels, *self._along(pairs, self.other)])
        # A Conv that cuts to x's length brings it back into the blocked layout.
        return self._pick(wide, self.begin, 2 * pairs - self.length + 1, 0, 0)

    def _moved(self, part: ir.Value, by: int, end: int) -> ir.Value:
        size = max(-end, 0) + 1
        return self._pick(part, 0, size, by, end + size - 1) if by or end else part

    def _sum(self, parts: Iterable[ir.Value]) -> ir.Value:
        return functools.reduce(lambda total, part: self.op.Add(part, total), parts)
