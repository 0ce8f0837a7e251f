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

from onnxviz.comparing.sketch import Projector, constants
from onnxviz.graph.analysis.cost import macs
from onnxviz.graph.analysis.dataflow import constant
from onnxviz.graph.analysis.probe import Facts
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.operators import RECURRENT, RESHAPING, VALUE_KEPT
from onnxviz.network import Network

_ROUNDS: Final = 8
# Factors of channels that differ by less than this are quantised weights.
_STILL: Final = 0.1
# Where weights stand in the operators that have them; of a product either side may be them.
_PLACES: Final = {
    "Conv": (1,),
    "ConvTranspose": (1,),
    "Gemm": (1, 0),
    "MatMul": (1, 0),
    **dict.fromkeys(RECURRENT, (1,)),
}


class Faces(NamedTuple):
    """Projections of the filters as they are, and with all inputs brought to the same strength."""

    plain: np.ndarray
    balanced: np.ndarray


@dataclass
class Kernel:
    """An operator that multiplies, and its weights as projections.

    node     where it stands in the graph
    macs     its multiply-accumulates for one picture
    size     (filters, elements of each)
    numbers  elements of its result for one picture; 0 where that is not known
    faces    (filters, projections) of length 1 each, in the forms in which another file may have the same
    filters  the strength of each filter, and
    inputs   of what each input is multiplied with
    """

    node: ir.Node
    macs: int
    size: tuple[int, int] = (0, 0)
    numbers: int = 0
    faces: list[Faces] = field(default_factory=list)
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
    computed = {v.name: v for values in weights.values() for v in values if constant(v) is None and v.name}
    held = constants(net, model, list(computed), x)
    for place, values in weights.items():
        kernel = found[place]
        arrays = [_array(kernel.node, value, held) for value in values]
        form = shaped(kernel.node, values, arrays)
        if form is not None and form.size:
            kernel.size = (form.shape[0], form.shape[1] * form.shape[2])
            kernel.faces = _faces(form, _flattened(kernel.node, values, facts), project)
            kernel.filters, kernel.inputs = _strengths(kernel.node, form)
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
    if node.op_type in ("ConvInteger", "MatMulInteger"):
        zero = constant(node.inputs[3]) if len(node.inputs) > 3 else None
        if zero is not None:
            numbers = zero.numpy().astype(np.float32).reshape(-1)
            wide -= numbers.reshape(-1, *[1] * (wide.ndim - 1)) if node.op_type == "ConvInteger" else numbers
    return wide


def shaped(node: ir.Node, values: list[ir.Value], arrays: list[np.ndarray]) -> np.ndarray | None:
    """(filters, inputs, places)."""
    if not arrays:
        return None
    twin, w = view(node), arrays[0]
    left = twin.input(0) is values[0]
    attributes: Mapping[str, Any] = twin.attributes
    if twin.op in RECURRENT:
        both = np.concatenate([array.reshape(-1, array.shape[-1]) for array in arrays], axis=1)
        return both[:, :, None]
    if twin.op in ("Conv", "ConvTranspose"):
        if w.ndim < 3:
            return None
        if twin.op == "Conv":
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


def _faces(form: np.ndarray, flattened: tuple[int, ...], project: Projector) -> list[Faces]:
    forms = [form]
    if form.shape[2] == 1 and len(flattened) > 1 and math.prod(flattened) == form.shape[1]:
        maps = form.reshape(len(form), *flattened)  # channels last in this file, perhaps
        forms.append(np.moveaxis(maps, -1, 1).reshape(form.shape))
    return [Faces(_projected(one, project), _projected(_balanced(one), project)) for one in forms]


def _projected(form: np.ndarray, project: Projector) -> np.ndarray:
    """Projections of length 1."""
    rows = project(form.reshape(len(form), -1))
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def _strengths(node: ir.Node, form: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    squares = np.square(form, dtype=np.float64).sum(axis=2)
    group = int(view(node).attributes.get("group", 1))
    inputs = squares.reshape(group, -1, squares.shape[1]).sum(axis=1)
    return np.sqrt(squares.sum(axis=1)), np.sqrt(inputs.reshape(-1))


def _balanced(form: np.ndarray) -> np.ndarray:
    """The weights with every filter and every input brought to the same strength."""
    squares = np.square(form, dtype=np.float64).sum(axis=2)
    rows, columns = np.ones(len(squares)), np.ones(squares.shape[1])
    for _ in range(_ROUNDS):
        rows = _inverse(squares @ columns)
        columns = _inverse(rows @ squares)
    factors = np.sqrt(rows)[:, None] * np.sqrt(columns)[None, :]
    return (form * factors[:, :, None]).astype(np.float32)


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
    weights = _shares(a.filters) + _shares(b.filters)
    found = [_cosine(*sides, weights) for one, other in both for sides in zip(one, other, strict=True)]
    return min(1.0, max(found))


def _cosine(one: np.ndarray, other: np.ndarray, weights: np.ndarray) -> float:
    total = float(weights.sum())
    return float(np.abs(np.einsum("ij,ij->i", one, other)) @ weights) / total if total > 0 else 0.0


def _shares(filters: np.ndarray) -> np.ndarray:
    total = float(filters.sum())
    return filters / total if total > 0 else filters


def rescaled(made: tuple[Kernel, Kernel], readers: Sequence[tuple[Kernel, Kernel]]) -> bool:
    """Whether B's channels between two layers are A's times a factor each, which the readers take back.

    Cross-layer equalisation does so. The network computes the same, and these values do not.

    made      a layer of A and of B
    readers   those that read it
    """
    factors = _factors(made[0].filters, made[1].filters)
    if factors is None or not readers or np.ptp(factors) < _STILL:
        return False
    for a, b in readers:
        back = _factors(a.inputs, b.inputs)
        if back is None or len(back) != len(factors):
            return False
        if np.median(np.abs(_centred(factors + back))) > _STILL * np.median(np.abs(_centred(factors))):
            return False
    return True


def _factors(one: np.ndarray, other: np.ndarray) -> np.ndarray | None:
    """The logarithms of how much stronger each of the others is."""
    if len(one) != len(other) or not len(one):
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.log(other / one)
    return found if np.isfinite(found).all() else None


def _centred(values: np.ndarray) -> np.ndarray:
    return values - np.median(values)
