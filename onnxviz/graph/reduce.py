"""What techniques take of a layer, made inside the graph: peaks, or a vector of features.

Of peaks: the largest value of every channel and its place.

Many images go through a network to find those that a channel answers most. Only C values and C places an image
need to leave the graph for that, not C feature maps: for the first layers of a network that is ten thousand times
less to copy.

    layer (N, C, H, W) ─┬─ GlobalMaxPool ─────────────────────▶ drive (N, C) ─ the layer's own Clip ─▶ peak (N, C)
                        └─ Reshape (N, C, H·W) ─ ArgMax ─ split ─▶ row (N, C), column (N, C)

Of features: a layer (N, D) as it is, the means over all places of one (N, C, H, W) as (N, C). Only operators whose
form has not changed since opset 7 are used (`tape.PORTABLE`; a mean by ReduceMean is none), so a model of any opset
takes them as it is.

Measured on ONNX Runtime's CPU provider (EfficientNet-Lite0 cut at its largest layer, 96×112×112): 0.6 ms an image more
than the bare network; TopK, ReduceMax and GatherElements in place of GlobalMaxPool take the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, UnknownLayer, near
from onnxviz.graph.analysis.dataflow import clone, constant, duplicate, lookup, prune
from onnxviz.graph.analysis.probe import annotate
from onnxviz.graph.analysis.twins import channels_first
from onnxviz.graph.dequantised import scale_of
from onnxviz.graph.operators import computes
from onnxviz.graph.surgery import declare_outputs
from onnxviz.graph.tape import Tape

_HIGHEST_RANK: Final = 4
FEATURES: Final = "onnxviz.features"


@dataclass(frozen=True)
class Peaks:
    """The names of the four outputs that `peaks` gives for one layer, all (N, C).

    peak     float32, the layer's own largest value
    drive    float32, the same before the layer cuts large values off (Clip); equal to `peak` elsewhere
    row      int64, where it lies, counted from 0; the first place where several are equally large
    column   int64
    """

    peak: str
    drive: str
    row: str
    column: str


@dataclass(frozen=True)
class Reduced:
    """What is to be reduced: a value by name, its number of dimensions, and where its channels are."""

    value: str
    rank: int
    channels_last: bool = False


def peaks(model: ir.Model, wanted: Sequence[Reduced]) -> tuple[ir.Model, list[Peaks]]:
    """A copy of `model` whose only outputs are the peaks of these values, and the outputs' names.

    A value of rank 4 has channels and a map (N, C, H, W), or (N, H, W, C) with `channels_last`; of rank 3 a row
    of places (N, C, L) or (N, L, C), given as row 0 and column 0 to L - 1; of rank 2 (N, C) one place, 0, 0.
    Half precision becomes float32; quantised values are given in real units where the operator that makes them
    knows its scale.

    A layer that ends in a Clip is searched before the cut: at 6, the upper end of ReLU6, every strong image of a
    channel would tie, and the first few would pass for the best.

    wanted   the values; their order is that of the returned names
    raises   UnknownLayer, ModelUnsuitable for a value of another rank
    """
    copy = clone(model)
    values = {value.name: value for node in copy.graph for value in node.outputs}
    values |= {value.name: value for value in copy.graph.inputs}
    tape = Tape(copy.graph, stem="onnxviz.peaks", portable=True)
    found = [_append(tape, _chosen(values, one), one) for one in wanted]
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(value for group in found for value in group)
    prune(copy)  # the layers behind the last one wanted
    return copy, [Peaks(*(str(value.name) for value in group)) for group in found]


def _chosen(values: Mapping[str | None, ir.Value], one: Reduced) -> ir.Value:
    if one.value not in values:
        raise UnknownLayer(f"the graph has no value {one.value!r}{near(one.value, map(str, values))}")
    if not 2 <= one.rank <= _HIGHEST_RANK:
        raise ModelUnsuitable(
            f"{one.value!r} has {one.rank} dimensions; expected channels with a map (N, C, H, W), "
            "or channels alone (N, C): choose another --layer"
        )
    return values[one.value]


def _append(tape: Tape, value: ir.Value, one: Reduced) -> tuple[ir.Value, ir.Value, ir.Value, ir.Value]:
    """The four outputs for one value."""
    clips = clipping(value)
    searched = next(v for v in clips[0].inputs if v is not None) if clips else value
    dtype = searched.dtype if searched.dtype is not None else value.dtype
    plain = tape.Cast(searched, to=int(ir.DataType.FLOAT)) if dtype != ir.DataType.FLOAT else searched
    if one.channels_last and one.rank > 2:
        plain = tape.Transpose(plain, perm=channels_first(one.rank))
    pooled = tape.GlobalMaxPool(plain) if one.rank > 2 else plain
    drive = tape.Reshape(pooled, [0, -1])
    place = tape.ArgMax(tape.Reshape(plain, [0, 0, -1]), axis=2, keepdims=0)
    row, column = _row_and_column(tape, plain, place, one.rank)
    if not clips:
        drive = _in_real_units(tape, value, drive)
        peak = tape.Identity(drive)
    else:
        # A cut is monotone, so the cut of the maximum is the maximum of what was cut.
        uncut = drive if dtype in (ir.DataType.FLOAT, None) else tape.Cast(drive, to=int(dtype))
        cut = uncut
        for clip in clips:
            cut = tape.again(clip, cut)
        peak = tape.Cast(cut, to=int(ir.DataType.FLOAT)) if uncut is not drive else cut
    own = list(value.shape.dims) if isinstance(value.shape, ir.Shape) else []
    shape = [own[0], own[-1 if one.channels_last else 1]] if len(own) == one.rank else ["N", "C"]
    for output in (peak, drive, row, column):
        kind = ir.DataType.INT64 if output in (row, column) else ir.DataType.FLOAT
        output.dtype, output.shape = kind, ir.Shape(shape)
    return peak, drive, row, column


def _row_and_column(tape: Tape, value: ir.Value, place: ir.Value, rank: int) -> tuple[ir.Value, ir.Value]:
    """A place in a flattened map as (row, column). The width is read off the value itself: it may be dynamic."""
    if rank == 2:
        return place, tape.Identity(place)
    width = tape.Gather(tape.Shape(value), [rank - 1], axis=0)
    row = tape.Div(place, width)
    return row, tape.Sub(place, tape.Mul(row, width))


def clipping(value: ir.Value) -> list[ir.Node]:
    """What makes `value` and cuts off at some upper end: a Clip, or QuantizeLinear with DequantizeLinear; else []."""
    node = value.producer()
    if node is None or node.inputs[:1] in ((), (None,)):
        return []
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    quantised = before is not None and computes(before.op_type) == "quantize"
    if before is not None and quantised and computes(node.op_type) == "dequantize":
        scale = scale_of(before.outputs[0])
        return [before, node] if scale is not None and scale.axis is None else []
    if computes(node.op_type) != "clip" or node.domain != "":
        return []
    attribute = node.attributes.get("max")  # an attribute below opset 11, the third input from then on
    if attribute is not None:
        highest = attribute.as_float()
    elif len(node.inputs) > 2 and node.inputs[2] is not None:
        tensor = constant(node.inputs[2])
        if tensor is None or tensor.size != 1:
            return []
        highest = float(tensor.numpy().reshape(-1)[0])
    else:
        return []
    # Exporters write "no upper end" as the largest number there is.
    return [node] if math.isfinite(highest) and highest < float(np.finfo(np.float16).max) else []


def _in_real_units(tape: Tape, value: ir.Value, reduced: ir.Value) -> ir.Value:
    """`reduced`, a maximum of quantised numbers as float32, as (number - zero point) * scale."""
    if value.dtype is None or value.dtype.is_floating_point():
        return reduced
    scale = scale_of(value)
    if scale is None or scale.axis is not None:
        return reduced
    if scale.zero is not None:
        reduced = tape.Sub(reduced, tape.Cast(scale.zero, to=int(ir.DataType.FLOAT)))
    return tape.Mul(reduced, scale.scale)


def appended(model: ir.Model, name: str) -> tuple[ir.Model, Tape, ir.Value]:
    """A copy of the model, which shares the weights, a tape that appends to it in any opset, and its value `name`.

    raises   UnknownLayer, ModelUnsuitable where the value's element type cannot be told
    """
    copy = duplicate(model)
    (value,) = lookup(copy.graph, [name])
    if value.dtype is None:
        annotate(copy)
    if value.dtype is None:
        raise ModelUnsuitable(
            f"the element type of value {name!r} is not declared and cannot be inferred, so nothing can be computed "
            "from it"
        )
    return copy, Tape(copy.graph, stem="onnxviz", portable=True), value


def pooled(
    model: ir.Model, value: str, rank: int, *, channels_last: bool = False, keep: Sequence[str] = ()
) -> ir.Model:
    """A copy of `model` whose first output is one vector of features an image, (N, D) float32.

    A value of rank 2 is taken as it is; of one of rank 4 each channel is averaged over all places, so that
    images of any size give vectors of one length. Half and double precision become float32; quantised numbers
    do as they are, in steps of the layer's scale.

    value           the layer's value
    rank            its number of dimensions
    channels_last   whether a value of rank 4 is (N, H, W, C)
    keep            outputs of `model` that stay; all others go, with what only they need
    raises          UnknownLayer, ModelUnsuitable for a value of another rank
    """
    if rank not in (2, 4):
        raise ModelUnsuitable(
            f"{value!r} has {rank} dimensions; features are taken from layers of channels with a map "
            "(N, C, H, W) or of channels alone (N, C): choose another --layer"
        )
    copy, op, found = appended(model, value)
    x = found if found.dtype == ir.DataType.FLOAT else op.Cast(found, to=int(ir.DataType.FLOAT))
    if rank == 4:
        if channels_last:
            x = op.Transpose(x, perm=channels_first(4))
        x = op.Flatten(op.GlobalAveragePool(x), axis=1)
    name = str(op.output(x, FEATURES).name)
    outputs = {str(output.name): output for output in copy.graph.outputs}
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(outputs[key] for key in dict.fromkeys((name, *keep)))
    declare_outputs(copy)
    prune(copy)
    return copy
