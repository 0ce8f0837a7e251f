"""Reading and writing at given places."""

from __future__ import annotations

from typing import Any

import torch

from onnxviz.backends.torch.table import operator
from onnxviz.backends.torch.tensors import numbers, single

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


@operator("GatherElements")
def gather_elements(x: Any, index: Any, *, axis: int = 0) -> Any:
    """Single entries along one axis."""
    return torch.gather(x, axis, _wrapped(index, x.shape[axis]))


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
    if reduction == "none":
        return x.scatter(axis, index, updates)
    if reduction == "add":
        return x.scatter_add(axis, index, updates)
    return x.scatter_reduce(axis, index, updates, _REDUCTIONS[reduction], include_self=True)


@operator("ScatterElements", "Scatter")
def scatter_elements(x: Any, index: Any, updates: Any, *, axis: int = 0, reduction: str = "none") -> Any:
    """Single entries written along one axis."""
    return _scatter(x, axis, _wrapped(index, x.shape[axis]), updates, reduction)


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


@operator("NonZero")
def non_zero(x: Any) -> Any:
    """The indices of what is not 0: (rank, count)."""
    return x.detach().reshape(x.shape or (1,)).nonzero().T


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
