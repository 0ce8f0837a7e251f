"""Which of several equal forms of an adjoint is used, and why: the only place where speed decides.

Measured on ONNX Runtime's CPU provider (the reasons hold on others as far as they are known):

masks           `Where(y > 0, g, 0)` is slow; HardSigmoid(2^100·y) is exactly 0 at y = 0 and 1 above, vectorised,
                threaded, and keeps the blocked layout (NCHWc) that convolutions run in. For Clip(0, h) one of
                y − y²/h, made by a Conv that fuses with it, takes two thirds of the time of two; on the CPU only,
                since a device that rounds what it convolves (TF32) would let values at h through.
Conv, stride 1  a Conv with flipped, transposed weights runs at forward speed, grouped and depthwise too.
Conv, strided   dense kernels: ConvTranspose. It is a serial loop over batch × group, so grouped and depthwise ones
                take zero-stuffing, then a stride-1 Conv.
                1×1 kernels: convolve first, on the small map, and stuff after.
AveragePool     its adjoint is a box sum, which AveragePool itself computes in the blocked layout; windows that tile
                the input need no more than a nearest Resize.
MaxPool         its `Indices` leave the blocked layout for a scalar kernel, and the adding scatter behind runs on one
                thread; on the CPU, maxima.py does without, in 2.5 to 5 times less time. Files take a form of slices.
Gelu            the forward node gives way to x·Φ(x): Φ is needed anyway, and the product takes a fifth of its time.
LRN             sums over channels by a 1×1 Conv with a band of weights; ONNX Runtime's own kernels for LRN and for
                pools along the channels take 5 to 20 times as long.

A rule may also put a mask elsewhere (Tape.masked): behind a MaxPool's scatter or a Concat's cut, the Relu in front
masks before these, where there is less to mask and the layout is still blocked.

Blocked layout  what keeps a cotangent in it, or brings it there, is in layout.py.

Files that are written run anywhere, so a form that some runtime misreads is not taken (`_NEXT_TO_ZERO`, `shared`,
Tape.size, Tape.cast_like, maxima.by_slices, backward.sum_to); tests/runtimes holds them to the runtimes at hand.

Weights are transposed and flipped by operators in the graph: every runtime folds them at load, and the
file does not carry the weights twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.grad.backward import NoRule
from onnxviz.grad.layout import blocked, channels_second, in_layout, stuffed
from onnxviz.grad.windows import Window
from onnxviz.graph.tape import Tape, dims

_STEEP = 2.0**100  # a power of two: products with it are exact
# In place of a beta of 0, which OpenVINO 2025 reads as an attribute that is not there, that is as 0.5: every mask would
# be 0.5 at 0, without an error. Next to _STEEP·y it counts for nothing, and at y = 0 it gives 0 as well.
_NEXT_TO_ZERO = -(2.0**-100)
_MOST_CHANNELS = 512  # beyond, a band of weights for all pairs of channels costs more than it saves
_WIDEST = 64  # a larger stride is a global pool in disguise; stuffing by it would take gigabytes
_FIRST = -(2**63) + 1  # "before the first element" for a Slice that runs backwards
_LAST = 2**62  # "to the end" for one that runs forwards


# --- masks ------------------------------------------------------------------------------------


def step(op: Tape, y: ir.Value, at: float = 0.0) -> ir.Value:
    """1 where y > at, 0 elsewhere (0 at y = at), in y's type."""
    if y.dtype != ir.DataType.FLOAT:  # the kernel is for float32 only
        return op.cast_like(op.Greater(y, at), y)
    return _steep(op, y, _STEEP, -at * _STEEP)


def _steep(op: Tape, y: ir.Value, alpha: float, beta: float) -> ir.Value:
    """alpha·y + beta between 0 and 1, beta never written as 0."""
    return op.HardSigmoid(y, alpha=alpha, beta=beta or _NEXT_TO_ZERO)


def between(op: Tape, y: ir.Value, low: float | None, high: float | None) -> ir.Value | None:
    """1 where low < y < high, 0 elsewhere; None (no mask needed) when neither bound cuts."""
    above = None if low is None or low == -math.inf or low < -3e38 else step(op, y, low)
    if high is None or high > 3e38:
        return above
    if low == 0.0 and 1e-3 < high < 1e15:
        parabola = _between_zero(op, y, high)
        if parabola is not None:
            return parabola
    if y.dtype != ir.DataType.FLOAT:
        below = op.cast_like(op.Less(y, high), y)
    else:
        below = _steep(op, y, -_STEEP, high * _STEEP)
    return below if above is None else op.Mul(above, below)


def _between_zero(op: Tape, y: ir.Value, high: float) -> ir.Value | None:
    """The mask of Clip(0, high) as one step at y − y²/high, which ONNX Runtime fuses: a depthwise 1×1 Conv of y² takes
    the Add and the HardSigmoid along. None where it would not run in the blocked layout.

    y²/high is rounded up a little, so that it is 0 at y = high for certain; the last two or three floats below count
    as clipped.
    """
    if not blocked(op, y, y):
        return None
    channels = int((dims(y) or ())[1])  # type: ignore[arg-type]
    slope = np.nextafter(np.nextafter(np.float32(1.0 / high), np.float32(np.inf)), np.float32(np.inf))
    curve = op.Conv(op.Mul(y, y), np.full((channels, 1, 1, 1), -slope, np.float32), group=channels)
    return step(op, op.Add(curve, y))


def normal_cdf(op: Tape, u: ir.Value, x: ir.Value, y: ir.Value) -> ir.Value:
    """Φ(x) = (1 + erf u)/2 with u = x/√2; on the CPU y, the Gelu of x, is had from it, and Φ by one kernel, not two."""
    error = op.Erf(u)
    if not op.cpu or x.dtype != ir.DataType.FLOAT:
        return op.Mul(op.Add(error, 1.0), 0.5)
    cdf = op.HardSigmoid(error, alpha=0.5, beta=0.5)
    op.replace(y, op.Mul(x, cdf))
    return cdf


def identity(op: Tape, x: ir.Value, axis: int, like: ir.Value) -> ir.Value:
    """The identity matrix as long as x is along the axis, in the type of `like`."""
    side = op.shape(x, axis, axis + 1)
    zero = ir.tensor(np.zeros(1, dtype=like.dtype.numpy() if like.dtype is not None else np.float32))
    square: ir.Value = op.EyeLike(op.ConstantOfShape(op.Concat(side, side, axis=0), value=zero))
    return square


# --- convolution ------------------------------------------------------------------------------


def conv_to_input(
    op: Tape, g: ir.Value, w: ir.Value, x: ir.Value, y: ir.Value, group: int, win: Window
) -> Any:
    """The cotangent of a convolution's input.

    g, y   (N, M, *out), the output's cotangent and the output
    w      (M, C/group, *kernel)
    x      (N, C, *in), the input, for its size
    """
    lengths, outs = _spatial(x, win), _spatial(y, win)
    surplus = win.surplus(lengths, outs)
    full = all(b <= r and e <= r for b, e, r in zip(win.begin, win.end, win.reach, strict=True))
    if not win.strided and full:
        return _full_conv(op, g, w, group, win, _full_pads(win))
    if win.pointwise:
        small = op.Conv(g, _adjoint_weights(op, w, group), group=group)
        # Zeros that stuffing leaves over at the end.
        spare = [None if r is None else s - 1 - r for s, r in zip(win.strides, surplus, strict=True)]
        return crop(op, stuff(op, small, y, win, x), x, win, spare)
    if group > 1 and full:
        return _stuffed_conv(op, g, w, x, y, group, win, surplus)
    if shared(op, w) and group == 1:
        g, w = op.Neg(g), op.Neg(w)
    begin, end = win.begin, win.end
    if not op.cpu:  # ONNX Runtime's CUDA provider leaves one of unequal pads to the CPU
        begin = end = tuple(map(min, begin, end))
    steps = {"strides": list(win.strides), "dilations": list(win.dilations)}
    more = [s - 1 if r is None else r for s, r in zip(win.strides, surplus, strict=True)]
    out = op.ConvTranspose(g, w, group=group, pads=[*begin, *end], output_padding=more, **steps)
    uneven = [i for i in range(len(begin)) if (win.begin[i], win.end[i]) != (begin[i], end[i])]
    if uneven:
        ends = [begin[i] - win.end[i] or _LAST for i in uneven]
        out = op.Slice(out, [win.begin[i] - begin[i] for i in uneven], ends, [win.axes[i] for i in uneven])
    return crop(op, out, x, win, [None if r is None else 0 for r in surplus])


def shared(op: Tape, w: ir.Value) -> bool:
    """Whether the adjoint of an operator may not read its constant weights, (a, b, …), as they are.

    OpenVINO's CPU plugin (2025.4) keeps repacked weights by their bytes and size, not by how they lie. Where a = b,
    those of a Conv and of its ConvTranspose, or of a Gemm and of the transposed one, pass for each other, and the
    second computes with the first one's order, without an error. With the other sign they have other bytes, and
    (−g)·(−w) is g·w to the last bit.
    """
    known = dims(w)
    return not op.cpu and known is not None and known[0] == known[1]


def _stuffed_conv(
    op: Tape, g: ir.Value, w: ir.Value, x: ir.Value, y: ir.Value, group: int, win: Window, surplus: Sequence[Any]
) -> Any:  # fmt: skip
    """Zero-stuffing, then the adjoint as a stride-1 Conv whose output has x's length at once.

    A cut behind the Conv would leave the blocked layout for the mask that follows: where the surplus is known, the
    end pads make the length; where it is not, the stuffed map loses as many of its last zeros.
    """
    pads, n = _full_pads(win), len(win.kernel)
    axes, ends, spare = [], [], [0] * n
    for i, (s, r, e, reach) in enumerate(zip(win.strides, surplus, win.end, win.reach, strict=True)):
        if r is None:
            axes.append(2 + i)
            length = op.shape(x, 2 + i, 3 + i)
            ends.append(op.Add(length, [win.begin[i] + e - reach]))
        else:
            wanted = reach - e - (s - 1 - r)
            pads[n + i], spare[i] = max(wanted, 0), max(-wanted, 0)
    wide = stuff(op, g, y, win, cut=(axes, op.vector(ends)) if axes else None)
    return crop(op, _full_conv(op, wide, w, group, win, pads), x, win, spare)


def _spatial(value: ir.Value, win: Window) -> tuple[Any, ...]:
    known = dims(value)
    return (None,) * len(win.kernel) if known is None else known[2:]


def _full_pads(win: Window) -> list[int]:
    return [r - pad for r, pad in zip(win.reach * 2, win.pads, strict=True)]


def _full_conv(op: Tape, g: ir.Value, w: ir.Value, group: int, win: Window, pads: list[int]) -> ir.Value:
    return op.Conv(g, _adjoint_weights(op, w, group), group=group, dilations=list(win.dilations), pads=pads)


def _adjoint_weights(op: Tape, w: ir.Value, group: int) -> ir.Value:
    """(M, C/group, *kernel) -> (C, M/group, *kernel), each kernel turned by 180°."""
    known = dims(w)
    if known is None or not all(isinstance(d, int) for d in known):
        raise NoRule("has weights of unknown shape")
    m, c, *kernel = (int(d) for d in known)  # type: ignore[arg-type]
    axes = list(range(2, len(known)))
    if group == 1:
        turned = op.Transpose(w, perm=[1, 0, *axes])
    elif c == 1 and m == group:
        turned = w
    else:
        split = op.Reshape(w, [group, m // group, c, *kernel])
        split = op.Transpose(split, perm=[0, 2, 1, *(a + 1 for a in axes)])
        turned = op.Reshape(split, [group * c, m // group, *kernel])
    flip = [a for a, k in zip(axes, kernel, strict=True) if k > 1]
    if not flip:
        return turned
    return op.Slice(turned, [-1] * len(flip), [_FIRST] * len(flip), flip, [-1] * len(flip))


def conv_to_weight(op: Tape, g: ir.Value, x: ir.Value, w: ir.Value, group: int, win: Window) -> ir.Value:
    """The cotangent of a convolution's weights: x convolved with g, batch and channel in each other's role.

    dw[m, c, t] = Σ_n Σ_o g[n, m, o] · x[n, c, s·o + d·t − pad]: over t this is a convolution of x with kernel g, whose
    dilation is the stride and whose stride is the dilation. Groups move to the channels, batch to the summed axis.
    """
    known = dims(w)
    if known is None or not all(isinstance(d, int) for d in known[:2]):
        raise NoRule("has weights of unknown shape")
    m, c = int(known[0]), int(known[1])  # type: ignore[arg-type]
    axes = list(win.axes)
    if group == 1:
        images, kernels = op.Transpose(x, perm=[1, 0, *axes]), op.Transpose(g, perm=[1, 0, *axes])
    else:
        images = op.Reshape(x, op.Concat(op.shape(x, 0, 1), [group, c], op.shape(x, 2), axis=0))
        images = op.Transpose(images, perm=[2, 1, 0, *(a + 1 for a in axes)])
        images = op.Reshape(images, op.Concat([c, -1], op.shape(x, 2), axis=0))
        tail = op.Shape(g, start=2)
        kernels = op.Reshape(g, op.Concat(op.Shape(g, start=0, end=1), [group, m // group], tail, axis=0))
        kernels = op.Transpose(kernels, perm=[1, 2, 0, *(a + 1 for a in axes)])
        kernels = op.Reshape(kernels, op.Concat([m, -1], tail, axis=0))
    out = op.Conv(
        images, kernels, group=group, strides=list(win.dilations), dilations=list(win.strides), pads=win.pads
    )
    out = op.Slice(out, [0] * len(axes), list(win.kernel), axes)
    return op.Transpose(out, perm=[1, 0, *axes])


# --- sliding sums -----------------------------------------------------------------------------


def stuff(
    op: Tape, g: ir.Value, y: ir.Value, win: Window, within: ir.Value | None = None,
    cut: tuple[Sequence[int], ir.Value] | None = None,
) -> ir.Value:  # fmt: skip
    """g (of y's spatial size) with stride − 1 zeros after each element along the spatial axes.

    A length that only the run will tell is read from g: another reader of y would keep a runtime from fusing the
    convolution that made it with its activation.

    within   with g's batch and channels: stay in the blocked layout. It pays where the result goes into a residual sum;
             before a Conv the way out and in costs as little as this does
    cut      axes, and how long they are to be
    """
    if not win.strided:
        return g
    channels = (dims(y) or (0, 0))[1]
    if within is None and blocked(op, g, y) and isinstance(channels, int):
        extents = [
            d if isinstance(d, int) else op.shape(y, i, i + 1, read=g)
            for i, d in enumerate(_spatial(y, win), 2)
        ]
        last = stuffed(op, g, win.strides, channels, extents)
        if cut is not None:
            last = op.Slice(last, [0] * len(cut[0]), cut[1], [axis - 1 for axis in cut[0]])
        return channels_second(op, last)
    wide = repeat(op, g, win.strides)
    dtype = g.dtype.numpy() if g.dtype is not None else np.dtype(np.float32)
    n = len(win.strides)
    mask: Any = None
    for i, (stride, length) in enumerate(zip(win.strides, _spatial(y, win), strict=True)):
        if stride == 1:
            continue
        comb: Any = np.eye(1, stride, dtype=dtype)[0]
        along = [1] * i + [-1] + [1] * (n - 1 - i)
        if isinstance(length, int):
            comb = np.tile(comb, length).reshape([length * stride if a == -1 else 1 for a in along])
        else:
            comb = op.Reshape(op.Tile(comb, op.shape(y, i + 2, i + 3, read=g)), along)
        mask = times(op, mask, comb)
    lengths = _spatial(y, win)
    if within is not None and isinstance(mask, np.ndarray) and all(isinstance(d, int) for d in lengths):
        # A comb is 1 long where the stride is 1.
        plane = np.broadcast_to(mask, [d * s for d, s in zip(lengths, win.strides, strict=True)])
        return in_layout(op, wide, plane, within)
    wide = op.Mul(wide, mask)
    return wide if cut is None else op.Slice(wide, [0] * len(cut[0]), cut[1], cut[0])


def times(op: Tape, a: Any, b: Any) -> Any:
    """a·b, each an array or a value of the graph; a may be None: b."""
    known = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    return b if a is None else a * b if known else op.Mul(a, b)


def repeat(op: Tape, g: ir.Value, times: Sequence[int]) -> ir.Value:
    """Each element of the spatial axes this many times over."""
    scales = np.asarray([1.0, 1.0, *times], dtype=np.float32)
    return op.Resize(
        g, None, scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )


def crop(op: Tape, value: ir.Value, x: ir.Value, win: Window, spare: Sequence[int | None]) -> ir.Value:
    """Cut the end of each axis down to x's length; `spare` says by how much, None for 'not known here'."""
    axes = [a for a, s in zip(win.axes, spare, strict=True) if s != 0]
    if not axes:
        return value
    ends = op.vector([op.extent(x, a) for a in axes])
    return op.Slice(value, [0] * len(axes), ends, axes)


def box_to_input(op: Tape, h: ir.Value, x: ir.Value, y: ir.Value, win: Window) -> ir.Value:
    """Σ of h (of y's shape) over the windows that contain each position of x: the adjoint of a sliding sum."""
    lengths, outs = _spatial(x, win), _spatial(y, win)
    win = _trimmed(win, lengths, outs)
    if all(ly == 1 and lx == k for lx, ly, k in zip(lengths, outs, win.kernel, strict=True)):
        return op.Expand(h, op.shape(x))  # one window over everything
    tiled = win.strides == win.kernel and not any(win.pads)
    if tiled and all(
        isinstance(lx, int) and ly == lx / s for lx, ly, s in zip(lengths, outs, win.strides, strict=True)
    ):
        return repeat(op, h, win.strides)
    pads = _full_pads(win)
    spare: list[int | None] = []
    n = len(win.kernel)
    for i, (lx, ly, s) in enumerate(zip(lengths, outs, win.strides, strict=True)):
        if isinstance(lx, int) and isinstance(ly, int):
            wanted = lx - s * ly + win.begin[i]
            pads[n + i] = max(wanted, 0)
            spare.append(max(-wanted, 0))
        else:
            if s > _WIDEST:
                raise NoRule(f"has stride {s} over an input of unknown size: give the model a fixed size")
            spare.append(None)
    if min(pads) < 0:
        raise NoRule("has pads wider than its kernel")
    z = stuff(op, h, y, win)
    if any(d != 1 for d in win.dilations) or any(p >= k for p, k in zip(pads, win.kernel * 2, strict=True)):
        z, pads = op.Pad(z, [0, 0, *pads[:n], 0, 0, *pads[n:]], 0.0), [0] * (2 * n)
    dilations = list(win.dilations) if any(d != 1 for d in win.dilations) else None
    if dilations and op.opset < 19:
        out = _dilated_sum(op, z, win)
    else:
        kernel = {"kernel_shape": list(win.kernel), "dilations": dilations}
        mean = op.AveragePool(z, pads=pads, count_include_pad=1, **kernel)
        out = op.Mul(mean, float(np.prod(win.kernel)))
    return crop(op, out, x, win, spare)


def channel_sums(
    op: Tape, value: ir.Value, x: ir.Value, before: int, after: int, factor: float, bias: float
) -> ir.Value:
    """bias + factor · the sum of value, (N, C, ...) of x's shape, over channels c − before … c + after, zeros outside.

    As a 1×1 Conv with a band of weights: even with all those zeros it is several times as fast as a sliding sum along
    the channels, and it stays in the blocked layout.
    """
    known = dims(x)
    channels = None if known is None or len(known) < 3 else known[1]
    if isinstance(channels, int) and channels <= _MOST_CHANNELS and value.dtype is not None:
        kind = value.dtype.numpy()
        offset = np.arange(channels)[None, :] - np.arange(channels)[:, None]  # input − output
        band = np.where((offset >= -before) & (offset <= after), factor, 0.0).astype(kind)
        weights = band.reshape(channels, channels, *([1] * (len(known or ()) - 2)))
        return op.Conv(value, weights, np.full(channels, bias, kind) if bias else None)
    size = before + after + 1
    flat = op.Reshape(value, op.vector([op.extent(x, 0), 1, op.extent(x, 1), -1]))
    mean = op.AveragePool(
        flat, kernel_shape=[size, 1], pads=[before, 0, after, 0], count_include_pad=1, strides=[1, 1]
    )
    total = op.Mul(op.Reshape(mean, op.shape(x)), factor * size)
    return op.Add(total, bias) if bias else total


def _trimmed(win: Window, lengths: Sequence[Any], outs: Sequence[Any]) -> Window:
    """Along an axis of one window, only the taps within the input and no stride.

    Exporters write global pools with kernels far larger than the map; stuffing by such a stride would take gigabytes.
    """
    axes = []
    for i, (lx, ly) in enumerate(zip(lengths, outs, strict=True)):
        k, s, b, e, d = win.kernel[i], win.strides[i], win.begin[i], win.end[i], win.dilations[i]
        if isinstance(lx, int) and ly == 1 and d == 1:
            k, s, b, e = min(k - b, lx), 1, 0, 0
        axes.append((k, s, b, e, d))
    kernel, strides, begin, end, dilations = zip(*axes, strict=True)
    return Window(kernel, strides, begin, end, dilations)


def _dilated_sum(op: Tape, z: ir.Value, win: Window) -> ir.Value:
    """A sliding sum with dilations, one axis after the other, by shifted slices (AveragePool has none before 19)."""
    for axis, k, d in zip(win.axes, win.kernel, win.dilations, strict=True):
        reach = d * (k - 1)
        parts = [op.Slice(z, [d * t], [d * t - reach if d * t < reach else _LAST], [axis]) for t in range(k)]
        z = op.Sum(*parts) if k > 1 else z
    return z
