"""The weights that one file holds, as real numbers in one form, and the integers that it holds them as."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxviz.comparing.kernels import operands, shaped
from onnxviz.comparing.values import constants
from onnxviz.graph.analysis.dataflow import constant, dependent, image_input
from onnxviz.graph.operators import (
    BY_STATISTICS,
    FORM,
    INTEGER_SUMS,
    QUANTISING,
    RECURRENT,
    VALUE_KEPT,
    computes,
    computing,
    family,
    operator,
)
from onnxviz.graph.quantisers import Quantiser, behind, factor, of_node
from onnxviz.network import Network

# What stands between an int32 bias and its reader: DequantizeLinear, or a Cast and the product with both scales.
_OF_A_BIAS: Final = FORM | computing("multiply")
_AFFINE: Final = ("add", "subtract", "multiply", "divide")
_BEHIND: Final = 16  # operators that are looked through behind a product


class Step(NamedTuple):
    """An operator, and what it reads that depends on no picture."""

    node: ir.Node
    constants: tuple[ir.Value, ...]


@dataclass(frozen=True)
class Reads:
    """A node with the weights that it reads.

    values      the weights; of a recurrent cell also those of its state
    bias        its bias; None: it has none
    quantiser   how the weights are held as integers; None: as real numbers
    behind      the operators that multiply its filters' results by constants, or add some (BatchNormalization, Mul,
                Add), and those that move the axes between
    result      the last value that these give
    """

    node: ir.Node
    values: tuple[ir.Value, ...]
    bias: ir.Value | None
    quantiser: Quantiser | None
    behind: tuple[Step, ...]
    result: ir.Value

    @property
    def normalised(self) -> bool:
        """Whether a BatchNormalization follows that is not folded in."""
        return any(step.node.op_type in BY_STATISTICS for step in self.behind)

    @property
    def rounded(self) -> bool:
        """Whether constants behind it stand as codes, not as the numbers that they are."""
        return any(constant(value) is None for step in self.behind for value in step.constants)

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name or ""


def frequent(codes: Iterable[str | None]) -> tuple[str, ...]:
    """Types of codes, the most frequent first."""
    known = [one for one in codes if one is not None]
    return tuple(sorted(set(known), key=lambda one: -known.count(one)))


@dataclass(frozen=True)
class Codes:
    """What one file multiplies.

    activations, weights   the types of their codes, the most frequent first
    reduce_range           whether all its 8-bit weights keep to 7 bits
    written                whether the products are written as integers (QOperator): in QDQ files ONNX Runtime makes
                           uint8 of int8 activations on x86, and computes with these
    """

    activations: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    reduce_range: bool = False
    written: bool = False

    @property
    def overflow(self) -> bool:
        """Whether sums of two products may be more than 16 bits hold, as ONNX Runtime multiplies on x86."""
        held = {"uint8"} if self.written else {"uint8", "int8"}
        return bool(held & {*self.activations}) and "int8" in self.weights and not self.reduce_range


class Stored:
    """One file: its nodes that have weights."""

    def __init__(self, net: Network, model: ir.Model, x: np.ndarray) -> None:
        self._net, self._model, self._x = net, model, x
        self._held: dict[str, np.ndarray] = {}
        self.nodes = self._nodes()

    def _nodes(self) -> dict[str, Reads]:
        moved = dependent(self._model.graph, image_input(self._model, self._net.input.name))
        found = {}
        for node in self._model.graph:
            values = operands(node, moved)
            if values:
                place = 2 if operator(node.op_type).weights else len(node.inputs)
                found[node.name or ""] = Reads(
                    node,
                    tuple(values),
                    node.inputs[place] if place < len(node.inputs) else None,
                    _quantiser(node, values[0]),
                    *_behind(node, moved),
                )
        return found

    def compute(self, chosen: Sequence[Reads]) -> None:
        """Run what the weights of these are computed by, DequantizeLinear, Transpose and the like; those of others are
        forgotten."""
        values = (
            value
            for one in chosen
            for value in (*one.values, one.bias, *(x for step in one.behind for x in step.constants))
            if value is not None
        )
        self._held = constants(self._net, self._model, values, self._x)

    def array(self, value: ir.Value) -> np.ndarray | None:
        """The numbers of a weight, as float32."""
        tensor = constant(value)
        array = self._held.get(value.name or "") if tensor is None else tensor.numpy()
        return None if array is None else array.astype(np.float32)

    def form(self, one: Reads) -> np.ndarray | None:
        """The weights as (filters, inputs, places)."""
        arrays = [self.array(value) for value in one.values]
        if any(array is None for array in arrays):
            return None
        own = one.quantiser
        if one.node.op_type in INTEGER_SUMS and own is not None and arrays[0] is not None:
            if own.scale is None or own.zero is None:
                return None
            place = 0 if family(one.node.op_type) == "convolution" else arrays[0].ndim - 1
            sizes = [-1 if axis == place else 1 for axis in range(arrays[0].ndim)]
            arrays[0] = (arrays[0] - own.zero.reshape(sizes)) * own.scale.reshape(sizes)
        formed = shaped(one.node, list(one.values), [array for array in arrays if array is not None])
        return None if formed is None or not formed.size else formed

    def behind(self, one: Reads, count: int) -> tuple[np.ndarray, np.ndarray]:
        """What the results of so many filters are multiplied by behind the layer, and then shifted by."""
        factor, shift = np.ones(count), np.zeros(count)
        weights = self.array(one.values[0])
        if weights is None:
            return factor, shift
        left = one.values[0] is one.node.inputs[0]
        axis = 1 - weights.ndim if family(one.node.op_type) == "convolution" else -2 if left else -1
        for node, constants_read in one.behind:
            kind = computes(node.op_type)
            if kind == "transpose":
                turn = node.attributes.get_ints("perm", ())
                if len(turn) < -axis:
                    break
                axis = list(turn).index(axis % len(turn)) - len(turn)
                continue
            by_channel = node.op_type in BY_STATISTICS
            read = [_along(self.array(x), -1 if by_channel else axis, count) for x in constants_read]
            if any(array is None for array in read):
                break
            numbers = [array for array in read if array is not None]
            if by_channel:
                scale, bias, mean, variance = numbers
                gain = scale / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
                factor, shift = factor * gain, (shift - mean) * gain + bias
            elif kind in ("add", "subtract"):
                shift = shift + numbers[0] if kind == "add" else shift - numbers[0]
            else:
                gain = numbers[0] if kind == "multiply" else 1 / numbers[0]
                factor, shift = factor * gain, shift * gain
        return factor, shift


def _along(array: np.ndarray | None, axis: int, count: int) -> np.ndarray | None:
    """A constant as one number for each channel of the axis; None where it is no such thing."""
    if array is None:
        return None
    if array.size == 1:
        return np.full(count, float(array.reshape(-1)[0]))
    alone = array.ndim >= -axis and array.shape[axis] == array.size == count
    return array.reshape(-1).astype(float) if alone else None


def _behind(node: ir.Node, moved: set[ir.Value]) -> tuple[tuple[Step, ...], ir.Value]:
    """The operators behind a product that multiply its filters' results by constants, or add some, whatever quantisers
    and the like stand between; and the last value that these give."""
    scales = node.op_type in INTEGER_SUMS  # the first product gives the sums their scales
    found: list[Step] = []
    value = last = node.outputs[0]
    for _ in range(_BEHIND if node.op_type not in RECURRENT else 0):
        if value.is_graph_output() or len(value.uses()) != 1:
            break
        ((reader, place),) = value.uses()
        kind = computes(reader.op_type)
        if scales and kind == "multiply":
            scales = False
        elif kind in _AFFINE or reader.op_type in BY_STATISTICS:
            others = tuple(x for x in reader.inputs if x is not None and x is not value)
            turned = place > 0 and kind in ("subtract", "divide")
            if turned or len(reader.outputs) > 1 or not moved.isdisjoint(others):
                break
            found.append(Step(reader, others))
            last = reader.outputs[0]
        elif kind == "transpose":
            found.append(Step(reader, ()))
        elif reader.op_type not in VALUE_KEPT:
            break
        value = reader.outputs[0]
    return tuple(found), last


def _quantiser(node: ir.Node, weight: ir.Value) -> Quantiser | None:
    if node.op_type not in INTEGER_SUMS:
        source = behind(weight)
        return None if source is None else of_node(source)
    tensor = constant(weight)
    if tensor is None:
        return None
    zero = constant(node.inputs[3]) if len(node.inputs) > 3 else None
    origin = np.zeros(1, np.int64) if zero is None else zero.numpy().reshape(-1).astype(np.int64)
    scale = factor(node)
    several = max(origin.size, 0 if scale is None else scale.size) > 1
    return Quantiser(ir.DataType(tensor.dtype), scale, origin, 0 if several else None)


def _stored(one: Reads) -> np.ndarray | None:
    """The codes of a weight, where the file holds them, or of the real numbers that it rounds when it runs."""
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
    return np.clip(np.rint(held / own.scale.reshape(sides)) + own.zero.reshape(sides), *own.ends)


def keeps_to_seven(chosen: Sequence[Reads]) -> bool:
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


def int32_codes(value: ir.Value | None) -> np.ndarray | None:
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


# --- values ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """How B holds a value: what the file says, and the names of scale and zero point where it measures them."""

    quantiser: Quantiser
    measured: tuple[str, ...] = ()


def held_as(value: ir.Value) -> Held | None:
    """B's quantiser of a real value: the one that it comes from, or that measures its range as it is read."""
    node = behind(value)
    if node is not None:
        own = of_node(node)
        if own is None or (own.scale is not None and own.zero is not None):
            return None if own is None else Held(own)
        return Held(own, tuple(str(one.name) for one in node.inputs[1:3] if one is not None))
    for reader, place in value.uses():
        if place == 0 and computes(reader.op_type) == "quantize_measured":
            own = of_node(reader)
            return None if own is None else Held(own, tuple(str(one.name) for one in reader.outputs[1:3]))
    return None
