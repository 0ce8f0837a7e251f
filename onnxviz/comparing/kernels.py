"""Weight layers, and how alike the weights of two are, whatever they are written as.

A layer's weights are brought into one form, filters by inputs by places (O, I, K), whether they stand in a convolution,
a product from either side, or a recurrent cell. Two layers are as alike as the cosines of their filters on the mean, so
that a factor of a filter (a BatchNormalization that was folded in, an equalisation) makes no difference. A factor of an
input (the next layer of an equalised pair; a normalisation folded in from in front) makes none where all filters and
inputs are brought to the same strength first (Sinkhorn & Knopp 1967); the better of both counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxviz.comparing.values import Projector, constants, portions, size
from onnxviz.graph.analysis.cost import macs
from onnxviz.graph.analysis.dataflow import constant
from onnxviz.graph.analysis.probe import Facts
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.operators import (
    CONVOLUTIONS,
    INTEGER_SUMS,
    RECURRENT,
    RESHAPING,
    VALUE_KEPT,
    computes,
    computing,
    family,
)
from onnxviz.network import Network

#: Weights that are held as real numbers at a time, in bytes; one layer's at least.
WEIGHT_BYTES: Final = 1 << 23
_ROUNDS: Final = 20
# Elements of a matrix that are projected at a time.
_ELEMENTS: Final = 1 << 22
# Factors of channels that differ by less than this are quantised weights.
_STILL: Final = 0.1
# A few that differ by more are channels that are nearly dead, or spoilt.
_MANY: Final = 0.25
# Of factors that are taken back, so much may be left, of so many at least.
_LEFT: Final = 0.25
_MOST: Final = 0.9
# From this cosine on a filter is another's, in another order of channels; and how many of them are put in order.
_SAME_FILTER: Final = 0.95
_ORDERED: Final = 4096
# Where weights stand in the operators that have them; of a product either side may be them.
_PLACES: Final = {
    **dict.fromkeys(CONVOLUTIONS, (1,)),
    **dict.fromkeys(computing("gemm matmul"), (1, 0)),
    **dict.fromkeys(RECURRENT, (1,)),
}


class Faces(NamedTuple):
    """Projections of the filters as they are, and with all inputs brought to the same strength."""

    plain: np.ndarray
    balanced: np.ndarray


@dataclass
class Kernel:
    """An operator that multiplies, and its weights as projections.

    node       where it stands in the graph
    macs       its multiply-accumulates for one picture
    size       (filters, elements of each)
    numbers    elements of its result for one picture; 0 where that is not known
    faces      (filters, projections) of length 1 each, in the forms in which another file may have the same
    strengths  of the filters
    filters    of how strong a filter is, what is its own (up to one factor for all), and
    inputs     what is the input's
    """

    node: ir.Node
    macs: int
    size: tuple[int, int] = (0, 0)
    numbers: int = 0
    faces: list[Faces] = field(default_factory=list)
    strengths: np.ndarray = field(default_factory=lambda: np.zeros(0))
    filters: np.ndarray = field(default_factory=lambda: np.zeros(0))
    inputs: np.ndarray = field(default_factory=lambda: np.zeros(0))


def kernels(
    net: Network, model: ir.Model, moved: set[ir.Value], facts: Facts, x: np.ndarray, project: Projector
) -> list[Kernel]:
    """The operators of the graph that multiply, in order; those whose weights the file does not state have no faces.

    moved   what depends on the picture
    x       a picture as the network's input, which computed weights do not depend on
    """
    found: list[Kernel] = []
    weights: dict[int, list[ir.Value]] = {}
    for node in model.graph:
        work = macs(node, facts) // facts.batch
        values = operands(node, moved)
        if work or values:
            shape = facts.full_shape(node.outputs[0])
            weights[len(found)] = values
            found.append(Kernel(node, work, numbers=math.prod(shape) // facts.batch if shape else 0))
    sizes = [sum(map(size, values)) for values in weights.values()]
    for portion in portions(weights.items(), sizes, WEIGHT_BYTES):
        held = constants(net, model, (value for _, values in portion for value in values), x)
        for place, values in portion:
            kernel = found[place]
            arrays = [_array(kernel.node, value, held) for value in values]
            form = shaped(kernel.node, values, arrays)
            if form is not None and form.size:
                _set(kernel, form, _flattened(kernel.node, values, facts), project)
    return found


def operands(node: ir.Node, moved: set[ir.Value]) -> list[ir.Value]:
    """What the node multiplies the picture's values with; none where both sides depend on the picture."""
    twin = view(node)
    for place in _PLACES.get(twin.op, ()) if twin.standard else ():
        value, other = twin.input(place), twin.input(1 - place)
        if value is None or value in moved or other is None or other not in moved:
            continue
        if twin.op in RECURRENT:
            state = twin.input(2)
            return [] if state is None or state in moved else [value, state]
        return [value]
    return []


def _array(node: ir.Node, value: ir.Value, held: Mapping[str, np.ndarray]) -> np.ndarray:
    """The weights as real numbers, up to a factor a filter."""
    tensor = constant(value)
    array = held[value.name or ""] if tensor is None else tensor.numpy()
    wide = array.astype(np.float32)
    if node.op_type in INTEGER_SUMS:
        zero = constant(node.inputs[3]) if len(node.inputs) > 3 else None
        if zero is not None:
            numbers = zero.numpy().astype(np.float32).reshape(-1)
            first = family(node.op_type) == "convolution"
            wide -= numbers.reshape(-1, *[1] * (wide.ndim - 1)) if first else numbers
    return wide


def shaped(node: ir.Node, values: list[ir.Value], arrays: list[np.ndarray]) -> np.ndarray | None:
    """(filters, inputs, places)."""
    if not arrays:
        return None
    twin, w = view(node), arrays[0]
    left = twin.input(0) is values[0]
    attributes: Mapping[str, Any] = twin.attributes
    if twin.op in RECURRENT:
        if len({array.shape[-2] for array in arrays}) > 1:  # quantised ones stand the other way round
            arrays = [array.swapaxes(-1, -2) for array in arrays]
        both = np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays], axis=1)
        return both[:, :, None]
    if computes(twin.op) in ("conv", "conv_transpose"):
        if w.ndim < 3:
            return None
        if computes(twin.op) == "conv":
            return w.reshape(*w.shape[:2], -1)
        group = int(attributes.get("group", 1))
        parts = w.reshape(group, w.shape[0] // group, w.shape[1], -1).swapaxes(1, 2)
        return parts.reshape(group * w.shape[1], w.shape[0] // group, -1)
    if w.ndim == 1:
        return w.reshape(1, -1, 1)
    turned = bool(attributes.get("transA" if left else "transB", 0))
    rows = w if left != turned else w.swapaxes(-1, -2)
    return rows.reshape(-1, rows.shape[-1], 1)


def _flattened(node: ir.Node, values: list[ir.Value], facts: Facts) -> tuple[int, ...]:
    """The sizes of the map whose elements a product reads in a row, without the batch; () where it reads no map."""
    twin = view(node)
    x = next((value for value in twin.inputs[:2] if value is not None and value not in values), None)
    for _ in range(4):
        source = None if x is None else x.producer()
        if source is None or not source.inputs:
            return ()
        if source.op_type in RESHAPING | VALUE_KEPT:
            x = source.inputs[0]
        shape = facts.full_shape(x)
        if shape is not None and len(shape) in (4, 5):
            return shape[1:]
    return ()


@np.errstate(invalid="ignore", over="ignore")  # weights that are no numbers have no likeness
def _set(kernel: Kernel, form: np.ndarray, flattened: tuple[int, ...], project: Projector) -> None:
    kernel.size = (form.shape[0], form.shape[1] * form.shape[2])
    group = int(view(kernel.node).attributes.get("group", 1))
    grouped = form.reshape(group, -1, *form.shape[1:])
    squares = np.einsum("goik,goik->goi", grouped, grouped)
    rows, columns = _balance(squares)
    kernel.strengths = np.sqrt(squares.sum(axis=2)).reshape(-1)
    kernel.filters, kernel.inputs = (np.sqrt(_inverse(own)).reshape(-1) for own in (rows, columns))
    orders = [np.arange(form.shape[1])]
    if form.shape[2] == 1 and len(flattened) > 1 and math.prod(flattened) == form.shape[1]:
        # Channels last in this file, perhaps.
        orders.append(np.moveaxis(np.arange(form.shape[1]).reshape(flattened), -1, 0).reshape(-1))
    # The inputs' factors alone: filters are brought to length 1 anyway.
    by = np.sqrt(columns).repeat(len(form) // group, axis=0).astype(np.float32)
    kernel.faces = [
        Faces(*(_projected(form, order, factors, project) for factors in (None, by))) for order in orders
    ]


def _projected(
    form: np.ndarray, order: np.ndarray, factors: np.ndarray | None, project: Projector
) -> np.ndarray:
    """Projections of length 1, with the inputs in this order; in portions, for a large matrix is there once already."""
    parts = []
    step = max(1, _ELEMENTS // max(1, form[0].size))
    for start in range(0, len(form), step):
        part = form[start : start + step]
        part = part if factors is None else part * factors[start : start + step, :, None]
        parts.append(project(part[:, order].reshape(len(part), -1)))
    rows = np.concatenate(parts)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def _balance(squares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors of filters and of inputs that make all of them equally strong.

    squares   (groups, filters, inputs) strengths, squared
    """
    rows, columns = np.ones(squares.shape[:2]), np.ones((squares.shape[0], squares.shape[2]))
    for _ in range(_ROUNDS):
        rows = _inverse(np.einsum("gij,gj->gi", squares, columns))
        columns = _inverse(np.einsum("gij,gi->gj", squares, rows))
    return rows, columns


def _inverse(sums: np.ndarray) -> np.ndarray:
    return np.divide(1.0, sums, out=np.zeros_like(sums), where=sums > 0)


def likeness(a: Kernel, b: Kernel) -> float:
    """0 to 1: how alike the weights of two layers are; 0 where they cannot be the same layer's.

    The mean cosine of the filters, by their strength: of a weak one quantised weights keep little.
    """
    if a.size != b.size or not a.faces or not b.faces:
        return 0.0
    if a.numbers and b.numbers and a.numbers != b.numbers:
        return 0.0
    both = [(one, other) for one in a.faces for other in b.faces]
    weights = _shares(a.strengths) + _shares(b.strengths)
    found = [_cosine(*sides, weights) for one, other in both for sides in zip(one, other, strict=True)]
    return min(1.0, max(found))


def _cosine(one: np.ndarray, other: np.ndarray, weights: np.ndarray) -> float:
    total = float(weights.sum())
    return float(np.abs(np.einsum("ij,ij->i", one, other)) @ weights) / total if total > 0 else 0.0


@np.errstate(invalid="ignore")
def _shares(filters: np.ndarray) -> np.ndarray:
    total = float(filters.sum())
    return filters / total if total > 0 else filters


def reordered(a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    """A's weights (filters, inputs, places), filters or inputs in B's order; None where B has the same, or others."""
    from scipy.optimize import linear_sum_assignment

    for axis in (0, 1):
        one, other = (np.moveaxis(side, axis, 0).reshape(side.shape[axis], -1) for side in (a, b))
        if len(one) > _ORDERED or one.shape[1] < 2:
            continue
        norms = np.linalg.norm(other, axis=1)[:, None] * np.linalg.norm(one, axis=1)
        alike = np.divide(other @ one.T, norms, out=np.zeros_like(norms), where=norms > 0)
        rows, order = linear_sum_assignment(-alike)
        if alike[rows, order].min() > _SAME_FILTER:
            return None if (rows == order).all() else a.take(order, axis)
    return None


def factors(a: Kernel, b: Kernel) -> np.ndarray | None:
    """How much stronger B's filters are than A's, as logarithms; NaN for one that is nil, None where all are."""
    return _logarithms(a.filters, b.filters)


def depthwise(kernel: Kernel) -> bool:
    """Whether each filter reads one channel, its own."""
    return len(kernel.inputs) == len(kernel.filters) and view(kernel.node).attributes.get("group", 1) > 1


def vary(found: np.ndarray) -> bool:
    """Whether such factors differ from channel to channel, of many channels by more than quantised weights do."""
    return float((np.abs(found - np.nanmedian(found)) >= _STILL).mean()) >= _MANY


def taken_back(found: np.ndarray, a: Kernel, b: Kernel) -> bool:
    """Whether a layer multiplies its inputs by the inverse of such factors: cross-layer equalisation does so."""
    back = _logarithms(a.inputs, b.inputs)
    if back is None or len(back) != len(found):
        return False
    left, before = (np.abs(values - np.nanmedian(values)) for values in (found + back, found))
    moved = before >= _STILL
    return not moved.any() or float((left[moved] <= _LEFT * before[moved]).mean()) >= _MOST


def rescaled(layers: Sequence[tuple[Kernel, Kernel, float]], reach: Sequence[int]) -> set[int]:
    """What the values behind a layer depend on, where B's are A's times a factor a channel, which the next layers take
    back: the networks compute the same, and these values are not the same.

    layers   that belong together, and how alike they are
    reach    which of them each one's result depends on, a bit each
    """
    found: set[int] = set()
    for start in range(len(reach)):
        trail: list[tuple[int, np.ndarray]] = []
        at: int | None = start
        while at is not None:
            factor = factors(*layers[at][:2])
            if factor is None or (trail and len(factor) != len(trail[-1][1])):
                break
            trail.append((reach[at], factor + (trail[-1][1] if trail else 0)))
            readers = [k for k in range(len(reach)) if reach[k] ^ (1 << k) == reach[at]]
            even = len(trail) > 1 and not vary(trail[-1][1])
            if even or (readers and all(taken_back(trail[-1][1], *layers[k][:2]) for k in readers)):
                found.update(mask for mask, factor in trail if vary(factor))
            # A depthwise layer takes back what it was given and gives its own, in one factor.
            at = readers[0] if len(readers) == 1 and depthwise(layers[readers[0]][0]) else None
    return found


def _logarithms(one: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    if len(one) != len(other) or not len(one):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log(other / one)
    found[~np.isfinite(found)] = np.nan  # a dead channel
    return None if np.isnan(found).all() else found
