"""Operators that move, repeat or drop entries, or give shapes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from onnxviz.backends.torch.table import CannotRun, operator
from onnxviz.backends.torch.tensors import numbers, select, single


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


@operator("Transpose")
def transpose(x: Any, *, perm: Sequence[int] | None = None) -> Any:
    """Axes in another order; reversed where none is given."""
    return x.permute(tuple(perm) if perm is not None else tuple(range(x.ndim))[::-1])


@operator("Squeeze")
def squeeze(x: Any, axes: Any = None) -> Any:
    """Drop axes of length 1."""
    if axes is None:
        return x.squeeze()
    return x.squeeze(tuple(numbers(axes)))


@operator("Unsqueeze")
def unsqueeze(x: Any, axes: Any) -> Any:
    """Put in axes of length 1, counted in the result."""
    rank = x.ndim + len(numbers(axes))
    for axis in sorted(a % rank for a in numbers(axes)):
        x = x.unsqueeze(axis)
    return x


@operator("Expand")
def expand(x: Any, shape: Any) -> Any:
    """Broadcast both ways."""
    return x.expand(torch.broadcast_shapes(x.shape, tuple(numbers(shape))))


@operator("Tile")
def tile(x: Any, repeats: Any) -> Any:
    """Repeat along each axis."""
    return x.repeat(numbers(repeats))


@operator("Concat")
def concat(*xs: Any, axis: int = 1) -> Any:
    """One after the other."""
    return torch.cat(xs, axis)


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
    """From start to end in steps, backwards too; attributes before opset 10."""
    first, last = numbers(starts), numbers(ends)
    where = list(range(len(first))) if axes is None else numbers(axes)
    stride = [1] * len(first) if steps is None else numbers(steps)
    for start, end, axis, step in zip(first, last, where, stride, strict=True):
        length = x.shape[axis]
        if step > 0:
            x = x[(slice(None),) * (axis % x.ndim) + (slice(start, end, step),)]
            continue
        low = max(start + length, -1) if start < 0 else min(start, length - 1)
        stop = max(end + length, -1) if end < 0 else min(end, length - 1)
        x = select(x, axis, list(range(low, stop, step)))
    return x


@operator("Pad")
def pad(x: Any, pads: Any, value: Any = 0.0, axes: Any = None, *, mode: str = "constant") -> Any:
    """Around any axes, in any mode; negative amounts cut off. Attributes before opset 11."""
    amounts = numbers(pads)
    where = list(range(x.ndim)) if axes is None else [a % x.ndim for a in numbers(axes)]
    if mode == "constant":
        flat = [0] * (2 * x.ndim)
        for i, axis in enumerate(where):
            flat[2 * (x.ndim - 1 - axis)] = amounts[i]
            flat[2 * (x.ndim - 1 - axis) + 1] = amounts[len(where) + i]
        fill = 0.0 if value is None else single(value)
        return torch.nn.functional.pad(x, flat, value=fill)
    modes = {"reflect": "reflect", "edge": "edge", "wrap": "wrap"}
    if mode not in modes:
        raise CannotRun(f"has the mode {mode!r}")
    for i, axis in enumerate(where):
        begin, end = amounts[i], amounts[len(where) + i]
        kept = np.arange(x.shape[axis])[max(0, -begin) : x.shape[axis] + min(0, end)]
        around: Any = (max(0, begin), max(0, end))
        if around != (0, 0) or len(kept) != x.shape[axis]:
            x = select(x, axis, np.pad(kept, around, mode=modes[mode]))  # type: ignore[call-overload]
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


@operator("Trilu")
def trilu(x: Any, k: Any = 0, *, upper: int = 1) -> Any:
    """One side of a diagonal."""
    return (torch.triu if upper else torch.tril)(x, int(single(k)))


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


@operator("Shape")
def shape(x: Any, *, start: int = 0, end: int | None = None) -> Any:
    """The lengths of the axes."""
    return torch.tensor(list(x.shape)[start:end], dtype=torch.int64, device=x.device)


@operator("Size")
def size(x: Any) -> Any:
    """The number of entries."""
    return torch.tensor(x.numel(), dtype=torch.int64, device=x.device)
