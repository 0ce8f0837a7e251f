"""What a quantised file is: how each activation and each weight is held as integers, and in which of the forms.

Read from a copy in which QOperator forms are written as DequantizeLinear, the float operator, QuantizeLinear
(`graph.fused`), so that there is one spelling to read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import QUANTISED, constant, dependent, duplicate, image_input
from onnxviz.graph.dequantised import DEQUANTISER
from onnxviz.graph.fused import as_qdq
from onnxviz.graph.naming import ALSO
from onnxviz.graph.operators import (
    CASTS,
    INTEGER_SUMS,
    MOVING,
    QUANTISING,
    SHAPE_ONLY,
    SPELLINGS,
    computes,
    computing,
)

# Where operators that take integers and give sums or real numbers have a weight, its scale and its zero point.
_WEIGHTS: Final[Mapping[str, tuple[int, int | None, int | None]]] = {
    **dict.fromkeys(INTEGER_SUMS, (1, None, 3)),
    "DynamicQuantizeMatMul": (1, 2, 3),
    "MatMulIntegerToFloat": (1, 3, 5),
}
_MEASURING: Final = computing("quantize_measured") | {"DynamicQuantizeMatMul", "DynamicQuantizeLSTM"}
_MEASURED: Final = ir.DataType.UINT8  # what DynamicQuantizeLinear gives
#: Marks a file as one that holds anything as integers.
MARKS: Final = QUANTISING | _MEASURING | frozenset(_WEIGHTS) | {DEQUANTISER, "MatMulNBits"}


@dataclass(frozen=True)
class Quantiser:
    """How a tensor is held as integers: real = (code − zero) × scale.

    dtype   element type of the codes
    scale   (k,) float64; None where it is measured while the network runs, or stands nowhere as such
    zero    (k,) int64; likewise
    axis    the axis that has a scale for each place; None: one scale
    block   so many neighbours along the axis share a scale; 0: no blocks
    width   bits of a code where the element type holds several; 0: those of the type
    """

    dtype: ir.DataType
    scale: np.ndarray | None
    zero: np.ndarray | None
    axis: int | None = None
    block: int = 0
    width: int = 0

    @property
    def codes(self) -> str:
        """The type of the codes: 'uint8'."""
        return f"uint{self.width}" if self.width else self.dtype.name.lower()

    @property
    def bits(self) -> int:
        """Of each code."""
        return self.width or int(self.dtype.bitwidth)

    @property
    def granularity(self) -> str:
        """'per tensor', 'per channel' or 'block of 32'."""
        if self.block:
            return f"block of {self.block}"
        return "per tensor" if self.axis is None else "per channel"

    @property
    def ends(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        if self.width:
            return 0, 2**self.width - 1
        return int(self.dtype.min), int(self.dtype.max)

    @property
    def symmetric(self) -> bool | None:
        """Whether 0 is the middle code, so that the range reaches as far down as up; None: measured."""
        if self.zero is None:
            return None
        low, high = self.ends
        return bool((self.zero == (0 if low < 0 else (high + 1) // 2)).all())

    @property
    def low(self) -> np.ndarray | None:
        """(k,) the smallest real numbers that the codes hold; None where scale and zero point do not tell."""
        return self._real(self.ends[0])

    @property
    def high(self) -> np.ndarray | None:
        """(k,) the largest."""
        return self._real(self.ends[1])

    def _real(self, code: int) -> np.ndarray | None:
        scale, zero = self.scale, self.zero
        if scale is None or zero is None or not scale.size or zero.size not in (1, scale.size):
            return None
        return (code - zero) * scale

    def to_dict(self) -> dict[str, Any]:
        """As plain values; a number where there is one scale, else its smallest and largest."""
        return {
            "codes": self.codes,
            "bits": self.bits,
            "granularity": self.granularity,
            "symmetric": self.symmetric,
            "scale": _span(self.scale),
            "zero_point": _span(self.zero),
            "low": None if self.low is None else float(self.low.min()),
            "high": None if self.high is None else float(self.high.max()),
        }


def _span(array: np.ndarray | None) -> Any:
    if array is None or not array.size:
        return None
    ends = [array.min().item(), array.max().item()]
    return ends[0] if ends[0] == ends[1] else ends


def of_node(node: ir.Node) -> Quantiser | None:
    """What a QuantizeLinear, DequantizeLinear or DynamicQuantizeLinear says; None where the codes' type is not told."""
    if computes(node.op_type) == "quantize_measured":
        return Quantiser(_MEASURED, None, None)
    codes = node.outputs[0] if computes(node.op_type) == "quantize" else node.inputs[0]
    zero = _input(node, 2)
    if codes is not None and (maker := codes.producer()) is not None and maker.op_type in _MEASURING:
        return Quantiser(_MEASURED, None, None)
    dtypes = (value.dtype for value in (codes, zero) if value is not None)
    dtype = next((kind for kind in dtypes if kind is not None), None)
    usual = computes(node.op_type) == "quantize" and node.attributes.get_int("output_dtype", 0) == 0
    if dtype is None and usual:
        dtype = ir.DataType.UINT8  # the standard's default
    if dtype is None or not dtype.is_integer():
        return None
    scale, origin = _numbers(node.inputs[1], float), _numbers(zero, int)
    if zero is None and scale is not None:
        origin = np.zeros(scale.size, np.int64)
    several = node.inputs[1] is not None and any(size != 1 for size in node.inputs[1].shape or ())
    axis = node.attributes.get_int("axis", 1) if several else None
    return Quantiser(dtype, scale, origin, axis, node.attributes.get_int("block_size", 0) if several else 0)


def _numbers(value: ir.Value | None, kind: type) -> np.ndarray | None:
    tensor = constant(value)
    return None if tensor is None else tensor.numpy().reshape(-1).astype(kind)


def numbers_of(value: ir.Value | None) -> np.ndarray | None:
    """The numbers of a constant, that of codes as well."""
    node = None if value is None else value.producer()
    codes = constant(value if node is None or computes(node.op_type) != "dequantize" else node.inputs[0])
    if codes is None:
        return None
    array = codes.numpy()
    own = of_node(node) if node is not None else None
    if own is None:
        return array.astype(float).ravel() if array.dtype.kind == "f" else None
    if own.scale is None or own.zero is None or own.block:
        return None
    form = [-1 if own.axis is not None and axis == own.axis % array.ndim else 1 for axis in range(array.ndim)]
    scale, zero = (each.reshape(form if each.size > 1 else -1) for each in (own.scale, own.zero))
    real: np.ndarray = (array.astype(float) - zero) * scale
    return real.ravel()


def of_input(model: ir.Model, name: str) -> Quantiser | None:
    """What the whole numbers of an input mean to the file, by whatever reads them, moved or not: DequantizeLinear,
    QLinearConv and their like; None where nothing says so, or not all alike by one scale."""
    todo = [next(value for value in model.graph.inputs if value.name == name)]
    found: list[Quantiser | None] = []
    while todo:
        for node, at in todo.pop().uses():
            if node.op_type in MOVING and at == 0:
                todo += node.outputs
            elif node.op_type not in SHAPE_ONLY:
                found.append(_read(node, at))
    told = [one for one in found if one is not None and one.low is not None and one.axis is None]
    alike = len({(_span(one.scale), _span(one.zero)) for one in told}) == 1
    return told[0] if alike and len(told) == len(found) else None


def _read(node: ir.Node, at: int) -> Quantiser | None:
    """How a node takes the codes that it reads at this place."""
    if computes(node.op_type) == "dequantize":
        return of_node(node) if at == 0 else None
    row, codes = SPELLINGS.get(node.op_type), node.inputs[at]
    if row is None or row.scale is None or at not in row.places or codes is None or codes.dtype is None:
        return None
    scale, zero = _numbers(_input(node, at + 1), float), _numbers(_input(node, at + 2), int)
    return None if scale is None or zero is None or scale.size != 1 else Quantiser(codes.dtype, scale, zero)


def places(node: ir.Node) -> tuple[int | None, int | None]:
    """Where a node that reads codes as its weights has their scale and their zero point; None: nowhere."""
    if node.op_type in _WEIGHTS:
        return _WEIGHTS[node.op_type][1:]
    row = SPELLINGS.get(node.op_type)
    if row is None or row.scale is None or len(row.places) < 2:
        return None, None
    return row.places[1] + 1, row.places[1] + 2


def factor(node: ir.Node) -> np.ndarray | None:
    """The weights' scale of an integer product, whose sums are multiplied by both scales: (x's × the weights')."""
    value = node.outputs[0]
    for _ in range(3):  # Cast, then Mul
        readers = list(value.consumers())
        if len(readers) != 1:
            return None
        if computes(readers[0].op_type) == "multiply":
            other = next((one for one in readers[0].inputs if one is not value), None)
            product = None if other is None else other.producer()
            sources = (
                product.inputs
                if product is not None and computes(product.op_type) == "multiply"
                else (other,)
            )
            scales = [tensor for one in sources if (tensor := constant(one)) is not None]
            return scales[0].numpy().reshape(-1).astype(float) if len(scales) == 1 else None
        value = readers[0].outputs[0]
    return None


def behind(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that a value comes from as it is, or moved; None where there is none."""
    node = None if value is None else value.producer()
    while node is not None and node.op_type in MOVING | CASTS:
        node = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return node if node is not None and node.op_type == DEQUANTISER else None


# --- a whole file ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """One tensor that a file holds as integers.

    name    of an activation the layer's; of a weight the tensor's
    kind    'activation', 'weight' or 'bias'
    reader  the node that reads a weight or a bias; '' for activations
    """

    name: str
    kind: str
    quantiser: Quantiser
    reader: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {"name": self.name, "kind": self.kind, **self.quantiser.to_dict()}


@dataclass(frozen=True)
class Quantisation:
    """What a quantised file is.

    format   'QDQ', 'QOperator', 'dynamic', 'weights only', or several of these
    held     its quantised tensors, in the order of the graph
    """

    format: str
    held: tuple[Held, ...]

    @cached_property
    def activations(self) -> dict[str, Quantiser]:
        """By layer."""
        return {one.name: one.quantiser for one in self.held if one.kind == "activation"}

    @cached_property
    def weights(self) -> dict[str, Quantiser]:
        """By the node that reads them."""
        return {one.reader: one.quantiser for one in self.held if one.kind == "weight"}

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {"format": self.format, "held": [one.to_dict() for one in self.held]}

    def lines(self) -> list[str]:
        """A line for each kind: how many of which type, granularity and symmetry."""
        told = []
        for kind, plural in (("activation", "activations"), ("weight", "weights"), ("bias", "biases")):
            counts = Counter(_words(one.quantiser) for one in self.held if one.kind == kind)
            if counts:
                parts = (f"{count} {text}" for text, count in counts.most_common())
                told.append(f"{plural}: {'; '.join(parts)}")
        return told


def _words(one: Quantiser) -> str:
    known = {True: ", symmetric", False: ", asymmetric", None: ", measured while it runs"}
    return f"{one.codes}, {one.granularity}{known[one.symmetric] if one.codes != 'int32' else ''}"


def quantisation(model: ir.Model, input: str | None = None) -> Quantisation | None:
    """What a quantised file is; None for one that holds nothing as integers. `model` is only read.

    input    the image input's name; None: the only one
    """
    if not any(node.op_type in MARKS for node in model.graph.all_nodes()):
        return None
    copy = duplicate(model)
    as_qdq(copy)
    moved = dependent(copy.graph, image_input(copy, input))
    held = tuple(one for node in copy.graph for one in _held(node, moved))
    held += tuple(one for node in model.graph for one in _bias(node))
    static = any(one.kind == "activation" and one.quantiser.scale is not None for one in held)
    written = written_as_integers(model)
    forms = {
        "QDQ": static and not written,
        "QOperator": written,
        "dynamic": any(node.op_type in _MEASURING for node in model.graph),
    }
    return Quantisation(", ".join(name for name, found in forms.items() if found) or "weights only", held)


def written_as_integers(model: ir.Model) -> bool:
    """Whether any products of integers are operators of their own (QOperator), not real ones between quantisers."""
    return any(map(_is_qoperator, model.graph))


def _is_qoperator(node: ir.Node) -> bool:
    row = SPELLINGS.get(node.op_type)
    return row is not None and row.scale is not None and computes(node.op_type) != "quantize"


def _held(node: ir.Node, moved: set[ir.Value]) -> Iterator[Held]:
    """What stands behind a node's results or among its weights as integers."""
    source = node.inputs[0] if node.inputs else None
    for value in node.outputs:
        if ALSO in value.meta:  # the real value of codes; of any other operator: codes are measured of it
            own = of_node(node) if node.op_type == DEQUANTISER else Quantiser(_MEASURED, None, None)
            if own is not None:
                yield Held(str(value.name), "activation", own)
    if node.op_type == DEQUANTISER and source is not None and source not in moved:
        own = of_node(node)
        if own is not None:
            kind = "weight" if own.dtype in QUANTISED else "bias"
            yield Held(str(source.name), kind, own, _reader(node))
    elif node.op_type in _WEIGHTS:
        weight, (scale, zero) = _input(node, _WEIGHTS[node.op_type][0]), places(node)
        if weight is not None and weight.dtype in QUANTISED and weight not in moved:
            numbers = _numbers(_input(node, scale), float), _numbers(_input(node, zero), int)
            several = any(one is not None and one.size > 1 for one in numbers)
            own = Quantiser(weight.dtype, *numbers, axis=0 if several else None)
            yield Held(str(weight.name), "weight", own, node.name or "")
    elif node.op_type == "MatMulNBits" and len(node.inputs) > 1 and node.inputs[1] is not None:
        width, block = node.attributes.get_int("bits", 4), node.attributes.get_int("block_size", 0)
        own = Quantiser(ir.DataType.UINT8, _numbers(node.inputs[2], float), None, 1, block, width)
        yield Held(str(node.inputs[1].name), "weight", own, node.name or "")


def _bias(node: ir.Node) -> Iterator[Held]:
    """The bias of a QOperator node: int32 in steps of both its scales, written as no DequantizeLinear."""
    row = SPELLINGS.get(node.op_type)
    if row is None or row.scale is None or len(row.places) < 3:
        return
    bias, scale = _input(node, row.places[2]), _input(node, places(node)[0])
    if bias is not None and bias.dtype == ir.DataType.INT32:
        several = scale is not None and any(size != 1 for size in scale.shape or ())
        own = Quantiser(bias.dtype, None, np.zeros(1, np.int64), 0 if several else None)
        yield Held(str(bias.name), "bias", own, node.name or "")


def _input(node: ir.Node, place: int | None) -> ir.Value | None:
    return node.inputs[place] if place is not None and place < len(node.inputs) else None


def _reader(node: ir.Node) -> str:
    """The node that reads what this one made, through what only moves it."""
    while True:
        readers = list(node.outputs[0].consumers())
        if len(readers) != 1 or readers[0].op_type not in MOVING | CASTS:
            return readers[0].name or "" if readers else ""
        node = readers[0]


def bytes_by_type(model: ir.Model) -> dict[str, int]:
    """How many bytes of weights a file holds of each element type, the most first."""
    found: Counter[str] = Counter()
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            found[_word(value.const_value.dtype)] += value.const_value.nbytes
    for node in model.graph.all_nodes():
        if computes(node.op_type) == "constant" and node.outputs:
            tensor = constant(node.outputs[0])
            if tensor is not None:
                found[_word(tensor.dtype)] += tensor.nbytes
    return dict(found.most_common())


def _word(dtype: ir.DataType) -> str:
    """What NumPy calls an element type."""
    return {"FLOAT": "float32", "DOUBLE": "float64"}.get(dtype.name, dtype.name.lower())
