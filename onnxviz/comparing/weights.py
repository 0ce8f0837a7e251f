"""How far the weights of B are from A's, and whether that is what their bits explain."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxviz.auditing.statistics import Likeness
from onnxviz.comparing.kernels import operands, shaped
from onnxviz.comparing.match import Matching
from onnxviz.comparing.sketch import constants
from onnxviz.graph.analysis.dataflow import constant, dependent, duplicate, image_input
from onnxviz.graph.dequantised import QUANTISING
from onnxviz.graph.fold import batch_norms
from onnxviz.graph.operators import FORM, VALUE_KEPT, operator
from onnxviz.graph.quantisers import Quantiser, behind, of_node
from onnxviz.network import Network

_INTEGERS: Final = ("ConvInteger", "MatMulInteger")
_LAST: Final = 2**31 - 1  # of int32, which biases are held as
# What stands between an int32 bias and its reader: DequantizeLinear, or a Cast and the product with both scales.
_OF_A_BIAS: Final = FORM | {"Mul"}
# From this factor on a filter counts as scaled: rounding to 4 bits alone gives about 1.01.
_SCALED: Final = 1.05
_SHORT: Final = (
    6.0  # dB under what is predicted that are worth a sentence; `compare.weights` has its own threshold
)
_UNEVEN: Final = 8.0
# A filter weaker than so many parts of the median one computes nothing: trained networks have dead ones, of 1e-7.
_DEAD: Final = 1e-3
_BETWEEN: Final = 6  # operators between a product and the BatchNormalization of its result


@dataclass(frozen=True)
class WeightFigures:
    """The weights of one layer. What belongs to a quantiser is None where B holds real numbers.

    node_a, node_b   the nodes that read them
    sqnr             in decibels: 20·log10(‖A‖ / ‖A − B‖), BatchNormalization folded in where one of both has it so
    predicted        the same as bits and granularity predict: an error of Δ²/12 for each weight, Δ the step that A's
                     weights need
    codes, bits      type of B's codes, and bits of each; 7 where the file keeps to 7 bits of 8
    granularity      'per tensor', 'per channel', 'block of 32'
    symmetric        whether 0 is the middle code
    spread           range of A's largest filter by the median filter's
    constant         filters of one value in B, and not in A
    filters          how many there are
    gain             the factor of B's filter to A's that is furthest from 1
    gain_at          of which filter, from 0
    gain_middle      the median factor of all filters
    overflow         biases that int32 does not hold in B's steps; None where B's bias is no int32
    """

    node_a: str
    node_b: str
    sqnr: float
    predicted: float | None = None
    codes: str | None = None
    bits: int | None = None
    granularity: str | None = None
    symmetric: bool | None = None
    spread: float | None = None
    constant: int = 0
    filters: int = 0
    gain: float | None = None
    gain_at: int | None = None
    gain_middle: float | None = None
    overflow: int | None = None

    @property
    def short(self) -> float | None:
        """By how many decibels they are under what is predicted; negative where they are better."""
        return None if self.predicted is None else self.predicted - self.sqnr

    def sentences(self) -> list[str]:
        """What stands out, for a reader."""
        told = []
        if self.short is not None and self.short > _SHORT:
            told.append(
                f"its weights are {self.sqnr:.1f} dB above their error, where {self.codes} {self.granularity} predicts "
                f"{self.predicted:.1f} dB"
            )
        faulty = self.short is None or self.short > _SHORT  # rounding moves weak filters, too
        if faulty and self.gain_middle is not None and _far(self.gain_middle):
            told.append(f"half of its filters are {self.gain_middle:.2f} times A's or more")
        elif faulty and self.gain is not None and _far(self.gain):
            told.append(f"filter {self.gain_at} is {self.gain:.2f} times A's")
        if self.granularity == "per tensor" and self.spread is not None and self.spread > _UNEVEN:
            told.append(
                f"its largest filter's range is {self.spread:.1f} times the median filter's, and all share one scale: "
                "quantise per channel"
            )
        if self.constant:
            told.append(f"{self.constant} of {self.filters} filters became constant")
        if self.overflow:
            told.append(f"{self.overflow} biases do not fit into int32 in B's steps")
        return told


def _far(gain: float) -> bool:
    return gain <= 0 or max(gain, 1 / gain) > _SCALED


def weight_figures(
    a: Network, b: Network, matching: Matching, x: np.ndarray, xb: np.ndarray
) -> tuple[list[tuple[str, WeightFigures]], bool]:
    """The figures of each weight layer that was matched by its weights, with the first matched value of A that depends
    on it ('' for none), in A's order; and whether all 8-bit weights of B keep to 7 bits.

    x, xb   a picture as the input of A and of B; weights that are computed in the graph do not depend on it
    """
    one, other = _Side(a, matching.a, x), _Side(b, matching.b, xb)
    chosen: list[tuple[_Reads, _Reads]] = []
    for name, twin in matching.kernels:
        reads, twin_reads = one.plain.get(name), other.plain.get(twin)
        if reads is None or twin_reads is None:
            continue
        if reads.normalised != twin_reads.normalised:  # folded into the weights of the other
            reads, twin_reads = one.folded_in(reads), other.folded_in(twin_reads)
        chosen.append((reads, twin_reads))
    one.compute([reads for reads, _ in chosen])
    other.compute([reads for _, reads in chosen])
    narrow = _keeps_to_seven([reads for _, reads in chosen])
    depends = _first_values(matching, [reads.name for reads, _ in chosen])
    found = []
    for reads, twin_reads in chosen:
        figures = _figures(one, other, reads, twin_reads, narrow)
        if figures is not None:
            found.append((depends.get(reads.name, ""), figures))
    return found, narrow


def _first_values(matching: Matching, names: Sequence[str]) -> dict[str, str]:
    """By the name of a node, the first matched value that depends on it."""
    graph = matching.a.graph
    nodes = {node.name: node for node in graph}
    values = {value.name: value for node in graph for value in node.outputs}
    order = [(pair.a, values[pair.a]) for pair in matching.pairs if pair.a in values]
    found = {}
    for name in names:
        made = nodes[name].outputs[0]
        below = dependent(graph, made) | {made}
        found[name] = next((called for called, value in order if value in below), "")
    return found


# --- the weights of one file ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reads:
    """A node with the weights that it reads.

    values       the weights; of a recurrent cell also those of its state
    bias         its bias; None: it has none
    quantiser    how the weights are held as integers; None: as real numbers
    normalised   whether a BatchNormalization follows that is not folded in
    """

    node: ir.Node
    values: tuple[ir.Value, ...]
    bias: ir.Value | None
    quantiser: Quantiser | None
    normalised: bool

    @property
    def name(self) -> str:
        return self.node.name or ""


class _Side:
    """One file: its nodes that have weights, as they are and with BatchNormalization folded in."""

    def __init__(self, net: Network, model: ir.Model, x: np.ndarray) -> None:
        self._net, self._model, self._x = net, model, x
        self._held: dict[str, np.ndarray] = {}
        self.plain = self._nodes(model)

    @cached_property
    def _folded(self) -> dict[str, _Reads]:
        copy = duplicate(self._model)
        batch_norms(copy)
        return self._nodes(copy)

    def folded_in(self, reads: _Reads) -> _Reads:
        """The same node with the BatchNormalization behind it in its weights."""
        return self._folded.get(reads.name, reads) if reads.normalised else reads

    def _nodes(self, model: ir.Model) -> dict[str, _Reads]:
        moved = dependent(model.graph, image_input(model, self._net.input.name))
        found = {}
        for node in model.graph:
            values = operands(node, moved)
            if values:
                place = 2 if operator(node.op_type).weights else len(node.inputs)
                found[node.name or ""] = _Reads(
                    node,
                    tuple(values),
                    node.inputs[place] if place < len(node.inputs) else None,
                    _quantiser(node, values[0]),
                    _normalised(node),
                )
        return found

    def compute(self, chosen: Sequence[_Reads]) -> None:
        """Run what weights are computed by: DequantizeLinear, Transpose and the like."""
        values = [value for one in chosen for value in (*one.values, *((one.bias,) if one.bias else ()))]
        names = [str(value.name) for value in values if constant(value) is None]
        self._held = constants(self._net, self._model, list(dict.fromkeys(names)), self._x)

    def array(self, value: ir.Value) -> np.ndarray | None:
        """The numbers of a weight, as float32."""
        tensor = constant(value)
        array = self._held.get(value.name or "") if tensor is None else tensor.numpy()
        return None if array is None else array.astype(np.float32)

    def rows(self, one: _Reads) -> np.ndarray | None:
        """The weights as (filters, elements of each)."""
        arrays = [self.array(value) for value in one.values]
        if any(array is None for array in arrays):
            return None
        own = one.quantiser
        if one.node.op_type in _INTEGERS and own is not None and arrays[0] is not None:
            if own.scale is None or own.zero is None:
                return None
            place = 0 if one.node.op_type == "ConvInteger" else arrays[0].ndim - 1
            sizes = [-1 if axis == place else 1 for axis in range(arrays[0].ndim)]
            arrays[0] = (arrays[0] - own.zero.reshape(sizes)) * own.scale.reshape(sizes)
        formed = shaped(one.node, list(one.values), [array for array in arrays if array is not None])
        return None if formed is None or not formed.size else formed.reshape(len(formed), -1)


def _normalised(node: ir.Node) -> bool:
    """Whether a BatchNormalization follows, behind the bias and the scales of an integer product at most."""
    for _ in range(_BETWEEN):
        readers = set(node.outputs[0].consumers())
        if any(reader.op_type == "BatchNormalization" for reader in readers):
            return True
        if len(readers) != 1:
            return False
        (node,) = readers
        if node.op_type not in VALUE_KEPT | {"Add", "Mul"}:
            return False
    return False


def _quantiser(node: ir.Node, weight: ir.Value) -> Quantiser | None:
    """How a node's weights are held."""
    if node.op_type not in _INTEGERS:
        source = behind(weight)
        return None if source is None else of_node(source)
    tensor = constant(weight)
    if tensor is None:
        return None
    zero = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    origin = np.zeros(1, np.int64) if zero is None else zero.numpy().reshape(-1).astype(np.int64)
    scale = _factor(node)
    several = max(origin.size, 0 if scale is None else scale.size) > 1
    return Quantiser(ir.DataType(tensor.dtype), scale, origin, 0 if several else None)


def _factor(node: ir.Node) -> np.ndarray | None:
    """The weights' scale of an integer product, whose sums are multiplied by both scales: (x's × the weights')."""
    value = node.outputs[0]
    for _ in range(3):  # Cast, then Mul
        readers = list(value.consumers())
        if len(readers) != 1:
            return None
        if readers[0].op_type == "Mul":
            other = next((one for one in readers[0].inputs if one is not value), None)
            product = None if other is None else other.producer()
            sources = product.inputs if product is not None and product.op_type == "Mul" else (other,)
            scales = [tensor for one in sources if (tensor := constant(one)) is not None]
            return scales[0].numpy().reshape(-1).astype(float) if len(scales) == 1 else None
        value = readers[0].outputs[0]
    return None


def _stored(one: _Reads) -> np.ndarray | None:
    """The codes of a weight, where the file holds them, or the real numbers that it rounds when it runs."""
    source, own = behind(one.values[0]), one.quantiser
    stored = one.values[0] if source is None else source.inputs[0]
    maker = None if stored is None else stored.producer()
    if maker is not None and maker.op_type in QUANTISING:
        stored = maker.inputs[0]
    tensor = constant(stored)
    if tensor is None:
        return None
    held = tensor.numpy()
    if held.dtype.kind != "f":
        return held
    if own is None or own.scale is None or own.zero is None or own.block:
        return None
    sides = [1] * held.ndim
    if own.axis is not None:
        sides[own.axis] = -1
    return np.rint(held / own.scale.reshape(sides)).clip(*own.ends) + own.zero.reshape(sides)


def _keeps_to_seven(chosen: Sequence[_Reads]) -> bool:
    """Whether all 8-bit weights keep to 7 bits, as quantisers do for processors whose sums would overflow."""
    largest = 0
    for one in chosen:
        own = one.quantiser
        if own is None or own.bits != 8 or own.zero is None:
            continue
        codes = _stored(one)
        if codes is None:
            return False
        # Around the zero point: signed codes reach from −64 to 64, unsigned ones from 0 to 127.
        middle = 0 if own.ends[0] < 0 else 64
        largest = max(largest, int(np.abs(codes.astype(np.int64) - middle).max(initial=0)))
    return 32 < largest <= 64


# --- one layer --------------------------------------------------------------------------------------


def _figures(one: _Side, other: _Side, reads: _Reads, twin: _Reads, narrow: bool) -> WeightFigures | None:
    a, b = one.rows(reads), other.rows(twin)
    if a is None or b is None or a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    likeness = Likeness()
    likeness.add(a, b)
    ranges = np.ptp(a, axis=1) if a.shape[1] > 1 else np.abs(a[:, 0])
    middle = float(np.median(ranges))
    strengths = np.linalg.norm(a, axis=1)
    alive = strengths > _DEAD * float(np.median(strengths))
    constant_now = (np.ptp(b, axis=1) == 0) & (np.ptp(a, axis=1) > 0) & alive
    gains = np.where(alive, _gains(a, b), 1.0)
    at = int(np.argmax(np.abs(np.log(np.maximum(np.abs(gains), 1e-12))))) if gains.size else None
    own = twin.quantiser
    bits = None if own is None else 7 if narrow and own.bits == 8 else own.bits
    return WeightFigures(
        reads.name,
        twin.name,
        likeness.sqnr,
        None if own is None or bits is None else _predicted(a, own, bits),
        None if own is None else own.codes,
        bits,
        None if own is None else own.granularity,
        None if own is None else own.symmetric,
        float(ranges.max()) / middle if middle > 0 else None,
        int(constant_now.sum()),
        len(a),
        None if at is None else float(gains[at]),
        at,
        float(np.median(gains[alive])) if alive.any() else None,
        _overflow(one, other, reads, twin),
    )


def _gains(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The factor of each filter of B to A's that fits best; 1 for a filter of zeros."""
    squares = np.einsum("ij,ij->i", a, a, dtype=np.float64)
    products = np.einsum("ij,ij->i", a, b, dtype=np.float64)
    return np.divide(products, squares, out=np.ones_like(squares), where=squares > 0)


def _predicted(a: np.ndarray, own: Quantiser, bits: int) -> float | None:
    """Decibels of A's weights over an error of Δ²/12 each, Δ the step that so many bits leave for their range."""
    if own.block and a.shape[1] % own.block == 0:
        parts = a.reshape(-1, own.block)
    elif own.axis is None:
        parts = a.reshape(1, -1)
    else:
        parts = a
    if own.symmetric is False:
        spans = np.maximum(parts.max(axis=1), 0) - np.minimum(parts.min(axis=1), 0)
    else:
        spans = 2 * np.abs(parts).max(axis=1)
    steps = spans.astype(np.float64) / (2**bits - 1)
    noise = float(np.square(steps).sum() / 12 * parts.shape[1])
    signal = float(np.square(a, dtype=np.float64).sum())
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else None


def _overflow(one: _Side, other: _Side, reads: _Reads, twin: _Reads) -> int | None:
    """How many biases B's int32 does not hold: A's are larger than so many of B's steps, or B's stand at the end."""
    codes = None if twin.bias is None else _int32(twin.bias)
    if codes is None or twin.bias is None:
        return None
    real = other.array(twin.bias)
    ours = None if reads.bias is None else one.array(reads.bias)
    full = np.abs(codes.astype(np.int64)) >= _LAST - 1
    if real is not None and ours is not None and ours.size == codes.size == real.size:
        filled = codes != 0
        step = np.abs(np.divide(real.reshape(-1), codes, out=np.zeros(codes.size), where=filled))
        full |= filled & (step > 0) & (np.abs(ours.reshape(-1).astype(float)) > step * (_LAST + 1.0))
    return int(full.sum())


def _int32(value: ir.Value | None) -> np.ndarray | None:
    """The int32 codes that a bias is made of."""
    for _ in range(4):
        tensor = constant(value)
        if tensor is not None:
            return tensor.numpy().reshape(-1) if tensor.dtype == ir.DataType.INT32 else None
        node = None if value is None else value.producer()
        if node is None or node.op_type not in _OF_A_BIAS:
            return None
        value = node.inputs[0]
    return None
