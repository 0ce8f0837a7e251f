"""Operators that move, repeat or drop entries, read and write at given places, or give shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from onnxviz.backends.torch.table import CannotRun, enter, numbers, operator, select, single, torch_type


@operator("Reshape")
def reshape(x: Any, shape: Any, *, allowzero: int = 0) -> Any:
    """0 keeps a length, −1 is what is left."""
    wanted = numbers(shape)
    return x.reshape(wanted if allowzero else [x.shape[i] if d == 0 else d for i, d in enumerate(wanted)])


@operator("Flatten")
def flatten(x: Any, *, axis: int = 1) -> Any:
    """Two axes: all before `axis`, all from it on."""
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Unsqueeze")
def unsqueeze(x: Any, axes: Any) -> Any:
    """Put in axes of length 1, counted in the result."""
    rank = x.ndim + len(numbers(axes))
    for axis in sorted(a % rank for a in numbers(axes)):
        x = x.unsqueeze(axis)
    return x


@operator("Split")
def split(x: Any, split: Any = None, *, outputs: int, axis: int = 0, num_outputs: int | None = None) -> Any:
    """In parts of the given or of equal lengths, the last one shorter."""
    if split is not None:
        return tuple(torch.split(x, numbers(split), axis))
    length = x.shape[axis]
    part = math.ceil(length / outputs)
    sizes = [max(0, min(part, length - i * part)) for i in range(outputs)]
    return tuple(torch.split(x, sizes, axis))


@operator("Slice")
def slice_(x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    """From start to end in steps, backwards too."""
    first, last = numbers(starts), numbers(ends)
    where = list(range(len(first))) if axes is None else numbers(axes)
    stride = [1] * len(first) if steps is None else numbers(steps)
    for start, end, axis, step in zip(first, last, where, stride, strict=True):
        length = x.shape[axis]
        if step > 0:
            x = x[(slice(None),) * (axis % x.ndim) + (slice(start, end, min(step, max(1, length))),)]
            continue
        low = max(start + length, -1) if start < 0 else min(start, length - 1)
        stop = max(end + length, -1) if end < 0 else min(end, length - 1)
        x = select(x, axis, list(range(low, stop, step)))
    return x


@operator("Pad")
def pad(x: Any, pads: Any, value: Any = 0.0, axes: Any = None, *, mode: str = "constant") -> Any:
    """Around any axes, in any mode; negative amounts cut off."""
    amounts = numbers(pads)
    where = list(range(x.ndim)) if axes is None else [a % x.ndim for a in numbers(axes)]
    if mode == "constant":
        flat = [0] * (2 * x.ndim)
        for i, axis in enumerate(where):
            flat[2 * (x.ndim - 1 - axis)] = amounts[i]
            flat[2 * (x.ndim - 1 - axis) + 1] = amounts[len(where) + i]
        fill = 0.0 if value is None else single(value)
        return torch.nn.functional.pad(x, flat, value=fill)
    if mode not in ("reflect", "edge", "wrap"):
        raise CannotRun(f"has the mode {mode!r}")
    for i, axis in enumerate(where):
        begin, end = amounts[i], amounts[len(where) + i]
        kept = np.arange(x.shape[axis])[max(0, -begin) : x.shape[axis] + min(0, end)]
        around: Any = (max(0, begin), max(0, end))
        if around != (0, 0) or len(kept) != x.shape[axis]:
            x = select(x, axis, np.pad(kept, around, mode=mode))  # type: ignore[call-overload]
    return x


@operator("DepthToSpace")
def depth_to_space(x: Any, *, blocksize: int, mode: str = "DCR") -> Any:
    """Channels into blocks of pixels."""
    n, c, h, w = x.shape
    b = blocksize
    if mode == "DCR":
        y = x.reshape(n, b, b, c // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, c // b**2, b, b, h, w).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c // b**2, h * b, w * b)


@operator("SpaceToDepth")
def space_to_depth(x: Any, *, blocksize: int, mode: str = "DCR") -> Any:
    """Blocks of pixels into channels."""
    n, c, h, w = x.shape
    b = blocksize
    y = x.reshape(n, c, h // b, b, w // b, b)
    y = y.permute(0, 3, 5, 1, 2, 4) if mode == "DCR" else y.permute(0, 1, 3, 5, 2, 4)
    return y.reshape(n, c * b**2, h // b, w // b)


@operator("ReverseSequence")
def reverse_sequence(x: Any, lengths: Any, *, batch_axis: int = 1, time_axis: int = 0) -> Any:
    """The first entries of each sequence in reverse."""
    rows = x.movedim((batch_axis, time_axis), (0, 1))
    parts = [
        torch.cat([row[:length].flip(0), row[length:]])
        for row, length in zip(rows, numbers(lengths), strict=True)
    ]
    return torch.stack(parts).movedim((0, 1), (batch_axis, time_axis))


@operator("CenterCropPad")
def center_crop_pad(x: Any, shape: Any, *, axes: Sequence[int] | None = None) -> Any:
    """Cut or fill with zeros around the middle."""
    where = range(x.ndim) if axes is None else [a % x.ndim for a in axes]
    for axis, wanted in zip(where, numbers(shape), strict=True):
        length = x.shape[axis]
        if wanted <= length:
            x = x.narrow(axis, (length - wanted) // 2, wanted)
        else:
            front = (wanted - length) // 2
            x = pad(x, [front, wanted - length - front], axes=[axis])
    return x


# --- reading and writing at given places ----------------------------------------------------------

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _wrapped(index: Any, length: int) -> Any:
    """Indices from the end made ones from the start."""
    index = index.long()
    return torch.where(index < 0, index + length, index)


@operator("Gather")
def gather(x: Any, index: Any, *, axis: int = 0) -> Any:
    """Whole entries of one axis."""
    axis %= max(x.ndim, 1)
    places = _wrapped(index, x.shape[axis])
    y = torch.index_select(x, axis, places.reshape(-1))
    return y.reshape((*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]))


def _flat(x: Any, index: Any, first: int) -> tuple[Any, int]:
    """Multi-dimensional indices as one number, and the number of axes that they count through."""
    depth = index.shape[-1]
    flat = torch.zeros(index.shape[:-1], dtype=torch.int64, device=x.device)
    for i in range(depth):
        length = x.shape[first + i]
        flat = flat * length + _wrapped(index[..., i], length)
    return flat, depth


@operator("GatherND")
def gather_nd(x: Any, index: Any, *, batch_dims: int = 0) -> Any:
    """Whole entries by indices of several axes."""
    flat, depth = _flat(x, index, batch_dims)
    rest = x.shape[batch_dims + depth :]
    lead = x.shape[:batch_dims]
    rows = x.reshape(lead.numel(), -1, rest.numel())
    places = flat.reshape(rows.shape[0], -1, 1).expand(-1, -1, rows.shape[2])
    return torch.gather(rows, 1, places).reshape((*flat.shape, *rest))


def _scatter(x: Any, axis: int, index: Any, updates: Any, reduction: str) -> Any:
    if reduction == "add":
        return x.scatter_add(axis, index, updates)
    if reduction not in _REDUCTIONS:  # "none", and what ONNX Runtime takes for it: any other word
        return x.scatter(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, _REDUCTIONS[reduction], include_self=True)


@operator("ScatterND")
def scatter_nd(x: Any, index: Any, updates: Any, *, reduction: str = "none") -> Any:
    """Whole entries written by indices of several axes."""
    flat, depth = _flat(x, index, 0)
    rows = x.reshape(x.shape[:depth].numel(), -1)
    places = flat.reshape(-1, 1).expand(-1, rows.shape[1])
    return _scatter(rows, 0, places, updates.reshape(places.shape), reduction).reshape(x.shape)


@operator("Compress")
def compress(x: Any, condition: Any, *, axis: int | None = None) -> Any:
    """The entries where the condition holds; it may be shorter than the axis."""
    x, axis = (x.reshape(-1), 0) if axis is None else (x, axis)
    return torch.index_select(x, axis, condition.nonzero().reshape(-1))


@operator("OneHot")
def one_hot(index: Any, depth: Any, values: Any, *, axis: int = -1) -> Any:
    """values[1] at the index, values[0] elsewhere; out of range: nowhere."""
    count = int(single(depth))
    axis = axis + index.ndim + 1 if axis < 0 else axis
    places = torch.where(index < 0, index + count, index).unsqueeze(axis)
    shape = [1] * places.ndim
    shape[axis] = count
    hit = places == torch.arange(count, device=index.device).reshape(shape)
    return torch.where(hit, values[1], values[0])


@operator("Unique")
def unique(x: Any, *, outputs: int, axis: int | None = None, sorted: int = 1) -> Any:
    """Each value once, where it first lay, which one each entry is, and how often it lies there."""
    x = x.reshape(-1) if axis is None else x
    dim = 0 if axis is None else axis
    values, inverse, counts = torch.unique(x, dim=dim, sorted=True, return_inverse=True, return_counts=True)
    places = torch.arange(len(inverse), device=x.device)
    first = torch.full((len(counts),), len(inverse), device=x.device).scatter_reduce(
        0, inverse, places, "amin"
    )
    if not sorted:  # in the order in which they first lie
        order = first.argsort()
        rank = order.argsort()
        values, first, counts = torch.index_select(values, dim, order), first[order], counts[order]
        inverse = rank[inverse]
    found = (torch.index_select(x, dim, first), first, inverse, counts)  # gathered: differentiable
    return found[0] if outputs == 1 else found[:outputs]


@operator("TensorScatter")
def tensor_scatter(x: Any, update: Any, write: Any = None, *, axis: int = -2, mode: str = "linear") -> Any:
    """A stretch written into each entry of a cache, from the place given for it on, round its end if circular."""
    axis %= x.ndim
    starts = [0] * x.shape[0] if write is None else numbers(write)
    rows = []
    for row, new, start in zip(x, update, starts, strict=True):
        places = torch.arange(start, start + new.shape[axis - 1], device=x.device)
        places = places % x.shape[axis] if mode == "circular" else places
        rows.append(row.index_copy(axis - 1, places, new))
    return torch.stack(rows)


@operator("NonMaxSuppression")
def non_max_suppression(
    boxes: Any,
    scores: Any,
    most: Any = None,
    overlap: Any = None,
    threshold: Any = None,
    *,
    center_point_box: int = 0,
) -> Any:
    """The boxes kept, best first, as (image, class, box): (count, 3)."""
    limit = 0 if most is None else int(single(most))
    allowed = 0.0 if overlap is None else float(single(overlap))
    boxes, scores = boxes.detach(), scores.detach()
    if center_point_box:
        half = boxes[..., 2:] / 2
        low, high = boxes[..., :2] - half, boxes[..., :2] + half
    else:
        low, high = (f(boxes[..., :2], boxes[..., 2:]) for f in (torch.minimum, torch.maximum))
    area = (high - low).prod(-1)
    kept: list[list[int]] = []
    for image in range(scores.shape[0]):
        for label in range(scores.shape[1]):
            row = scores[image, label]
            order = torch.argsort(row, descending=True, stable=True)
            if threshold is not None:
                order = order[row[order] > float(single(threshold))]
            count = 0
            while len(order) and count < limit:
                best, order = order[0], order[1:]
                kept.append([image, label, int(best)])
                count += 1
                corner = torch.minimum(high[image, best], high[image, order])
                sides = (corner - torch.maximum(low[image, best], low[image, order])).clamp(min=0)
                shared = sides.prod(-1)
                whole = area[image, best] + area[image, order] - shared
                order = order[shared <= allowed * whole]
    return torch.tensor(kept, dtype=torch.int64, device=boxes.device).reshape(-1, 3)


# --- out of nothing but shapes and numbers --------------------------------------------------------


@operator("Constant")
def constant(
    *, value: Any = None, value_float: Any = None, value_floats: Any = None, value_int: Any = None,
    value_ints: Any = None,
) -> Any:  # fmt: skip
    """In whichever form it is given; what a graph gives out stays such a node."""
    if value is not None:
        return value
    real = value_float if value_float is not None else value_floats
    if real is not None:
        return torch.tensor(real, dtype=torch.float32)
    whole = value_int if value_int is not None else value_ints
    if whole is None:
        raise CannotRun("holds strings")
    return torch.tensor(whole, dtype=torch.int64)


@operator("ConstantOfShape")
def constant_of_shape(shape: Any, *, value: Any = None) -> Any:
    """The same number everywhere."""
    filler = torch.zeros(1) if value is None else value.reshape(-1)
    return torch.full(numbers(shape), filler[0].item(), dtype=filler.dtype, device=shape.device)


@operator("Range")
def range_(start: Any, limit: Any, delta: Any) -> Any:
    """From start up to limit."""
    first, last, step = (single(v) for v in (start, limit, delta))
    count = max(0, -int((first - last) // step))
    return first + step * torch.arange(count, dtype=start.dtype, device=start.device)


@operator("EyeLike")
def eye_like(x: Any, *, dtype: int | None = None, k: int = 0) -> Any:
    """1 on a diagonal."""
    kind = x.dtype if dtype is None else torch_type(dtype)
    rows, columns = (torch.arange(n, device=x.device) for n in x.shape)
    return (columns[None, :] == rows[:, None] + k).to(kind)


@operator("DFT")
def dft(
    x: Any,
    length: Any = None,
    where: Any = None,
    *,
    axis: int | None = None,
    inverse: int = 0,
    onesided: int = 0,
) -> Any:
    """The Fourier transform of one axis, until opset 20 an attribute; complex numbers are a last axis of two."""
    axis = int(single(where)) if where is not None else (-2 if axis is None else axis)
    axis = axis % x.ndim
    count = None if length is None else int(single(length))
    if inverse and onesided:
        y = torch.fft.irfft(torch.view_as_complex(x.contiguous()), count, axis)
        return y.unsqueeze(-1)
    signal = torch.view_as_complex(x.contiguous()) if x.shape[-1] == 2 else x[..., 0]
    if onesided:
        return torch.view_as_real(torch.fft.rfft(signal, count, axis))
    found = (torch.fft.ifft if inverse else torch.fft.fft)(signal, count, axis)
    return torch.view_as_real(found)


@operator("STFT")
def stft(signal: Any, step: Any, window: Any = None, length: Any = None, *, onesided: int = 1) -> Any:
    """Fourier transforms of stretches: signal (N, time, 1 or 2) -> (N, stretches, frequencies, 2)."""
    size = int(single(length)) if length is not None else window.shape[0]
    value = torch.view_as_complex(signal.contiguous()) if signal.shape[-1] == 2 else signal[..., 0]
    frames = value.unfold(1, size, int(single(step)))
    frames = frames if window is None else frames * window
    found = torch.fft.rfft(frames) if onesided and not value.is_complex() else torch.fft.fft(frames)
    return torch.view_as_real(found)


# --- what is one expression -----------------------------------------------------------------------

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "Concat": lambda *xs, axis: torch.cat(xs, axis),
    "Expand": lambda x, shape: x.expand(torch.broadcast_shapes(x.shape, tuple(numbers(shape)))),
    "GatherElements": lambda x, index, *, axis=0: torch.gather(x, axis, _wrapped(index, x.shape[axis])),
    "NonZero": lambda x: x.detach().reshape(x.shape or (1,)).nonzero().T,  # (rank, count)
    "ScatterElements": lambda x, index, updates, *, axis=0, reduction="none": _scatter(
        x, axis, _wrapped(index, x.shape[axis]), updates, reduction
    ),
    "Shape": lambda x, *, start=0, end=None: torch.tensor(
        [*x.shape][start:end], dtype=torch.int64, device=x.device
    ),
    "Size": lambda x: torch.tensor(x.numel(), dtype=torch.int64, device=x.device),
    # An axis named twice, or from both ends, is one, as in ONNX Runtime.
    "Squeeze": lambda x, axes=None: (
        x.squeeze() if axes is None else x.squeeze(tuple({axis % x.ndim for axis in numbers(axes)}))
    ),
    "Tile": lambda x, repeats: x.repeat(numbers(repeats)),
    "Transpose": lambda x, *, perm=None: x.permute(tuple(perm or range(x.ndim)[::-1])),
    "Trilu": lambda x, k=0, *, upper=1: (torch.triu if upper else torch.tril)(x, int(single(k))),
}
enter(_FUNCTIONS)
