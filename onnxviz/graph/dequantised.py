"""The real numbers that quantised activations stand for, as values of the graph: what a layer of an int8 file means.

A file holds a layer as integers, and as real numbers at two places of which only one is right: in front of
QuantizeLinear they are not yet cut to its range, which is where the exporter put Relu and Clip.

    QDQ         x ─ QuantizeLinear ─ codes ─ DequantizeLinear ─ real ─▶ readers
    QOperator   QLinearConv ─ codes ─▶ readers           gets        codes ─ DequantizeLinear ─ real

When a file is opened (`name_real_values`) the real values get the layers' names, those of the float file that ONNX
Runtime quantised: `stem.relu6`, not `stem.relu6_DequantizeLinear_Output` or `stem_quantized`. Nothing is computed
otherwise than before: what DequantizeLinear is added stands beside.

A gradient by such a value must see all that depends on it (`dequantised`):

    codes ─▶ readers        becomes        codes ─ DequantizeLinear ─ real ─ QuantizeLinear ─▶ readers
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import QUANTISED, constant, dependent
from onnxviz.graph.naming import ALSO, LISTED_AS, STANDS_FOR, fresh, values
from onnxviz.graph.operators import MOVING, RESIZING, SPELLINGS, computes, computing

_DOMAINS: Final = ("", "com.microsoft")
#: What makes codes real numbers.
DEQUANTISER: Final = "DequantizeLinear"
# What hands integers on as they are, with the scale of its first input.
_HANDS_ON: Final = MOVING | RESIZING | computing("max_pool clip max min relu")
# How ONNX Runtime's quantiser names what belongs to the value X.
_INPUT, _CODES, _REAL, _OPERATOR = (
    "_QuantizeLinear_Input", "_QuantizeLinear_Output", "_DequantizeLinear_Output", "_quantized",
)  # fmt: skip


class Scale(NamedTuple):
    """How codes become real: (code − zero) × scale.

    scale, zero   values of the graph; zero None: 0
    axis          the axis with a scale for each place; None: one scale
    """

    scale: ir.Value
    zero: ir.Value | None
    axis: int | None


@dataclass(frozen=True)
class Quantised:
    """What a layer of a quantised file is held as.

    codes               name of the integers
    scale, zero_point   real = (code − zero_point) × scale; None where they are measured while it runs
    """

    codes: str
    scale: float | tuple[float, ...] | None
    zero_point: int | tuple[int, ...] | None


# --- what the file says ---------------------------------------------------------------------------


def scale_of(value: ir.Value) -> Scale | None:
    """The scale of a quantised value, by what makes it; None where it is none, or its scale is not known."""
    node = value.producer()
    moved = False
    while node is not None and node.op_type in _HANDS_ON and node.inputs and node.inputs[0] is not None:
        node, moved = node.inputs[0].producer(), True
    if node is None or node.domain not in _DOMAINS:
        return None
    if computes(node.op_type) == "quantize_measured":
        return Scale(node.outputs[1], node.outputs[2], None) if moved or value is node.outputs[0] else None
    spelling = SPELLINGS.get(node.op_type)
    place = len(node.inputs) if spelling is None or spelling.scale is None else spelling.scale
    scale, zero = (*node.inputs[place : place + 2], None, None)[:2]
    if scale is None or scale.shape is None or "block_size" in node.attributes:
        return None
    if all(size == 1 for size in scale.shape):
        return Scale(scale, zero, None)
    if moved or computes(node.op_type) != "quantize":
        return None
    return Scale(scale, zero, node.attributes.get_int("axis", 1))


def told(real: ir.Value) -> Quantised:
    """What a real value of a quantised file (`ALSO`) is held as."""
    node = real.producer()
    assert node is not None
    if computes(node.op_type) != "dequantize":  # measured while it runs: the value, and its codes beside
        return Quantised(real.meta[ALSO][0], None, None)
    codes, *rest = node.inputs
    numbers = [constant(value) for value in (*rest, None)[:2]]
    scale, zero = (None if tensor is None else tensor.numpy() for tensor in numbers)
    if zero is None and len(node.inputs) < 3:
        zero = np.zeros(() if scale is None else scale.shape, np.int64)
    return Quantised(
        codes.name or "" if codes is not None else "",
        None if scale is None else _numbers(scale.astype(float)),
        None if zero is None else _numbers(zero.astype(int)),
    )


def _numbers(array: np.ndarray) -> Any:
    return array.reshape(-1)[0].item() if array.size == 1 else tuple(array.reshape(-1).tolist())


# --- when a file is opened ------------------------------------------------------------------------


class _Names(NamedTuple):
    """The names that values have, and those that nodes have."""

    values: set[str]
    nodes: set[str]


def name_real_values(model: ir.Model) -> None:
    """Give the layers' names to their real values, in place; DequantizeLinear is added where the file has none.

    The file's own names are kept beside as further names of the layers (`Layer.also`). Outputs, inputs and whatever is
    not quantised keep their names.
    """
    graph = model.graph
    moved: set[ir.Value] = set()
    for value in graph.inputs:
        if not value.is_initializer():
            moved |= dependent(graph, value)
    names = _Names(
        {str(value.name) for value in values(graph)}, {str(node.name) for node in graph.all_nodes()}
    )
    for node in list(graph):
        if node.graph is None:  # joined with another
            continue
        for made in node.outputs if computes(node.op_type) == "split" else node.outputs[:1]:
            if made not in moved or not made.name or not (made.dtype is None or made.dtype in QUANTISED):
                continue
            scale = scale_of(made)
            if scale is not None:
                _name(graph, made, scale, names)


def _name(graph: ir.Graph, codes: ir.Value, scale: Scale, names: _Names) -> None:
    """Settle which value is the real one behind these codes, what it is called, and where it is listed."""
    node = codes.producer()
    assert node is not None
    measured = computes(node.op_type) == "quantize_measured"
    source = node.inputs[0] if measured or computes(node.op_type) == "quantize" else None
    computed = source is not None and source.producer() is not None
    also = _joined_codes(graph, node, scale) if computes(node.op_type) == "quantize" else []
    readers = [reader for reader, place in codes.uses() if place == 0 and _dequantises(reader, scale)]
    if measured and computed and not readers:
        assert source is not None  # the range is this very value's: nothing is cut off
        _note(source, [codes], None)
        return
    added = None
    if not readers:
        added = _node(node, "DequantizeLinear", codes, scale, fresh(f"{codes.name}/dequantised", names.nodes))
    real = readers[0].outputs[0] if added is None else added.outputs[0]
    twins = [reader.outputs[0] for reader in readers[1:]]
    also += [real.name] if real.name else []
    origin: ir.Value | None
    if source is None:  # an operator that gives codes
        _rename(real, codes, (codes.name or "").removesuffix(_OPERATOR).removesuffix(_CODES), _CODES, names)
        hidden, origin = [codes, *twins], codes
    elif computed and not measured and len(source.uses()) == 1 and not source.is_graph_output():
        _rename(real, source, (source.name or "").removesuffix(_INPUT), _INPUT, names)
        hidden, origin = [codes, *twins, source], source
    else:  # the image itself, or a value that others read uncut: both are layers
        if not real.name:
            real.name = fresh(f"{source.name if source is not None else codes.name}{_REAL}", names.values)
        hidden, origin = [codes, *twins], None if computed else codes
    if added is not None:
        real.dtype, real.shape = scale.scale.dtype or ir.DataType.FLOAT, codes.shape
        graph.insert_after(node, [added])
    _note(real, hidden, origin)
    real.meta[ALSO] = [name for name in dict.fromkeys([*real.meta[ALSO], *also]) if name != real.name]


def _joined_codes(graph: ir.Graph, node: ir.Node, scale: Scale) -> list[str]:
    """Let one QuantizeLinear stand for all of the same value by the same scale, in place; the names that go.

    Some exporters write one for each reader.
    """
    source, gone = node.inputs[0], []
    for other, place in list(source.uses()) if source is not None else ():
        alike = computes(other.op_type) == "quantize" and other.domain == node.domain
        if other is node or place != 0 or not alike:
            continue
        codes, own = other.outputs[0], scale_of(other.outputs[0])
        alike = own is not None and own.axis == scale.axis and _same(own.scale, scale.scale)
        if own is None or not alike or not _same(own.zero, scale.zero) or codes.is_graph_output():
            continue
        gone.append(str(codes.name))
        codes.replace_all_uses_with(node.outputs[0])
        graph.remove(other, safe=True)
    return gone


def _rename(real: ir.Value, other: ir.Value, wanted: str, suffix: str, names: _Names) -> None:
    """Give the real value the name `wanted`; where `other` has it, that is called with the suffix from now on."""
    if not real.is_graph_output():
        if other.name == wanted:
            other.name = fresh(f"{wanted}{suffix}", names.values)
            names.values.discard(wanted)
        if wanted not in names.values or not real.name:
            real.name = fresh(wanted, names.values)


def _note(real: ir.Value, hidden: Sequence[ir.Value], origin: ir.Value | None) -> None:
    for value in hidden:
        value.meta[STANDS_FOR] = real.name
        real.meta.setdefault(ALSO, []).append(str(value.name))
    if origin is not None:
        origin.meta[LISTED_AS] = real.meta[STANDS_FOR] = real.name


def _dequantises(node: ir.Node, scale: Scale) -> bool:
    if computes(node.op_type) != "dequantize" or node.domain not in _DOMAINS:
        return False
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    alike = _same(node.inputs[1], scale.scale) and _same(zero, scale.zero)
    return alike and scale.axis in (None, node.attributes.get_int("axis", 1))


def _same(one: ir.Value | None, other: ir.Value | None) -> bool:
    """Whether two values hold the same numbers; no zero point is a zero point of 0."""
    if one is other:
        return True
    arrays = (
        np.zeros(1) if v is None else None if (t := constant(v)) is None else t.numpy() for v in (one, other)
    )
    first, second = arrays
    return first is not None and second is not None and np.array_equal(first.reshape(-1), second.reshape(-1))


def _node(like: ir.Node, op: str, x: ir.Value, scale: Scale, name: str) -> ir.Node:
    inputs = [x, scale.scale] if scale.zero is None else [x, scale.scale, scale.zero]
    attributes = [] if scale.axis is None else [ir.AttrInt64("axis", scale.axis)]
    domain = like.domain if computes(like.op_type) in ("quantize", "dequantize") else ""
    return ir.Node(domain, op, inputs, attributes, name=name)


def drop_unread(model: ir.Model) -> None:
    """Take out again the DequantizeLinear nodes that `name_real_values` added and nothing reads, in place."""
    for node in list(model.graph):
        real = node.outputs[0] if computes(node.op_type) == "dequantize" else None
        if real is not None and ALSO in real.meta and not real.uses() and not real.is_graph_output():
            model.graph.remove(node, safe=True)


# --- for gradients --------------------------------------------------------------------------------


def dequantised(graph: ir.Graph, value: ir.Value) -> ir.Value | None:
    """Put the real numbers behind a quantised value, in place; None where it is no quantised activation.

    Requires DequantizeLinear and QuantizeLinear in place of fused quantised operators (graph/fused.py). Values
    quantised along an axis are left alone.
    """
    node, scale = value.producer(), scale_of(value)
    if node is None or scale is None or scale.axis is not None or value.dtype is None:
        return None
    name = value.name or "quantised"
    made = _node(node, "DequantizeLinear", value, scale, f"{name}/real")
    # The real numbers take the value's name: under it they are given out.
    value.name, made.outputs[0].name = f"{name}/quantised", name
    made.outputs[0].dtype, made.outputs[0].shape = scale.scale.dtype or ir.DataType.FLOAT, value.shape
    graph.insert_after(node, [made])
    through(graph, made.outputs[0])
    return made.outputs[0]


def through(graph: ir.Graph, real: ir.Value) -> None:
    """Let whatever reads the codes of a real value read what follows from the real value, in place.

    Every number of the codes comes back as it was, so the graph computes what it did.
    """
    node = real.producer()
    if node is None or computes(node.op_type) != "dequantize" or node.inputs[0] is None:
        return
    codes, scale = node.inputs[0], scale_of(node.inputs[0])
    others = [(reader, place) for reader, place in codes.uses() if reader is not node]
    if scale is None or not others or not _dequantises(node, scale) or codes.dtype is None:
        return
    others = [(reader, place) for reader, place in others if not _joined(reader, place, real, scale)]
    if others:
        again = _node(node, "QuantizeLinear", real, scale, f"{real.name}/again")
        out = again.outputs[0]
        out.name, out.dtype, out.shape = f"{real.name}/again", codes.dtype, codes.shape
        graph.insert_after(node, [again])
        for reader, place in others:
            reader.replace_input_with(place, out)
    graph.sort()


def _joined(reader: ir.Node, place: int, real: ir.Value, scale: Scale) -> bool:
    """A second DequantizeLinear of the same codes: its readers read the first."""
    if place != 0 or not _dequantises(reader, scale) or reader.outputs[0].is_graph_output():
        return False
    reader.outputs[0].replace_all_uses_with(real)
    return True
