"""Channels that do nothing, or the same: a few are usual, many are a fault of export, pruning or quantising."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxviz.auditing.finding import Check, Finding, Rule, check, columns
from onnxviz.auditing.subject import Subject
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.analysis.ways import source
from onnxviz.graph.operators import computes, family, operator
from onnxviz.graph.quantisers import behind, of_node, places
from onnxviz.text import quoted

_ROUNDED: Final = 0.5  # share of a layer of codes: rounding makes small filters zero
_NOTHING: Final = (
    1e-5  # of the layer's largest weight: a filter without a larger one answers as rounding does
)
_ALIKE: Final = 0.9999  # cosine of two filters of which one is a copy, scaled
_SHORTEST: Final = 8  # numbers: shorter filters are alike by chance, and those of one number always
_SKETCH: Final = 32  # numbers that a filter is compared by first
_MOST: Final = 16_384  # filters of a layer that are compared with each other
_FEWEST: Final = 4  # channels: a layer of fewer has no quarter
_PICTURES: Final = 20  # from which on channels that never change are counted, ...
_LOOKED_AT: Final = 64  # ... on so many; told of from twice the threshold on, since others may wake them
_COMPARE: Final = "Compare the layer with the network that this file was made from: `onnxviz compare`."


@check(
    "weights.channels",
    "Do all channels do something of their own?",
    severity="medium",
    threshold=0.25,
    measure="largest share of a layer's filters that are zero or copies (zero codes when quantised: 0.5)",
    limits="A few dead or doubled filters are usual in trained networks and no fault. With pictures given, channels "
    "that are constant over all of them count too.",
)
def channels(subject: Subject, rule: Rule) -> Check:
    """Zero filters and copies in each weight layer, as a share of its filters."""
    findings: list[Finding] = []
    rows: list[tuple[str, str, int, int, int, int]] = []
    for name, op, filters, coded, groups in layers(subject.net.model):
        peaks = np.abs(filters).max(axis=1)
        zero, faint = int((peaks == 0).sum()), int((peaks <= _NOTHING * peaks.max()).sum())
        copies = sum(map(_copies, np.split(filters, groups)))  # two groups see other channels
        rows.append((name, op, len(filters), zero, copies, faint))
        rounded = max(rule.bar, _ROUNDED) if coded else rule.bar
        kinds = (zero, rounded, "zero filters"), (copies, rule.bar, "copies of other filters")
        for count, bar, what in kinds:
            share = count / len(filters)
            if share > bar and len(filters) >= _FEWEST:
                text = f"{count} of the {len(filters)} filters of {quoted(name)} ({op}) are {what}"
                findings.append(rule.finding(round(share, 4), name, text, _COMPARE))
    table = columns(("layer", "operator", "filters", "zero", "copies", "near zero"), rows)
    zeros, doubles, faints, every = (sum(table[key]) for key in ("zero", "copies", "near zero", "filters"))
    told = f"{zeros} zero filters, {faints} near zero, {doubles} copies of {every}"
    figures = {"zero": zeros, "near_zero": faints, "copies": doubles, "layers": table}
    if len(subject.images) >= _PICTURES:
        still = _still(subject)
        told_of: set[str] = set()
        for name, (count, of, read) in still.items():
            if count >= 2 * rule.bar * of and of >= _FEWEST:
                told_of.add(name)
                if not told_of.isdisjoint(read):
                    continue  # the layer before it was told of
                text = f"{count} of the {of} channels of {quoted(name)} are one number at all places of all pictures"
                findings.append(rule.finding(round(count / of, 4), name, text, _COMPARE))
        dead, of = sum(one[0] for one in still.values()), sum(one[1] for one in still.values())
        told += f"; {dead} of {of} channels constant"
        figures["constant"] = {name: count for name, (count, *_) in still.items() if count}
    return rule.check(told, findings, figures=figures)


def _still(subject: Subject) -> dict[str, tuple[int, int, tuple[str, ...]]]:
    """Of each convolution and activation with places: how many channels are one number throughout, of how many; and the
    layers that it reads."""
    net = subject.net
    placed = [one for one in net.layers if len(one.shape) == 4 and one.channel_axis in (1, 3)]
    found = {one.name: one for one in placed if family(one.op) in ("activation", "convolution")}
    low: dict[str, np.ndarray] = {}
    high: dict[str, np.ndarray] = {}
    for place, _, seen in subject.each():
        if place >= _LOOKED_AT or not found:
            break
        for name, array in net.run(net.preprocessing.normalise(seen[None]), list(found)).items():
            axis = found[name].channel_axis or 1
            x = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
            if x.shape[1] > 1:
                least, most = x.min(axis=1), x.max(axis=1)
                low[name] = np.minimum(low.get(name, least), least)
                high[name] = np.maximum(high.get(name, most), most)
    return {name: (int((low[name] == high[name]).sum()), len(low[name]), found[name].inputs) for name in low}


def layers(model: ir.Model) -> Iterator[tuple[str, str, np.ndarray, bool, int]]:
    """Each weight layer with constant weights: the name of its result, its operator, its filters (count, numbers),
    whether they are codes, and in how many groups they read other channels.

    Codes of integers are given less their zero point; scales are left out where they are one a filter, so that
    filters keep their direction.
    """
    seen: set[ir.Value] = set()
    for node in model.graph.all_nodes():
        twin = view(node)
        if family(twin.op) not in ("convolution", "product") or not operator(twin.op).weights:
            continue
        value = twin.input(1)
        tensor = None if value is None or value in seen else source(value)
        if value is None or tensor is None or tensor.size == 0 or len(tensor.shape) < 2:
            continue
        seen.add(value)
        array = tensor.numpy()
        coded = array.dtype.kind in "iu"
        if coded:
            array = array.astype(np.float32) - _zero(node, value, array)
        if operator(twin.op).macs == "spread":
            array = np.moveaxis(array, 1, 0)
        elif family(twin.op) == "product":
            if operator(twin.op).macs == "einsum":
                continue  # which axis is the result's the equation tells
            turned = bool(twin.attributes.get("transB", 0)) != (value is not _plain(value))
            array = array.reshape(-1, *array.shape[-2:])
            array = array if turned else np.swapaxes(array, -1, -2)
            array = array.reshape(-1, array.shape[-1])
        plain = family(twin.op) == "convolution" and operator(twin.op).macs != "spread"
        groups = max(1, int(twin.attributes.get("group", 1))) if plain else 1
        yield (
            node.outputs[0].name or "",
            node.op_type,
            array.reshape(len(array), -1).astype(np.float32, copy=False),
            coded,
            groups if len(array) % groups == 0 else 1,
        )


def _plain(value: ir.Value) -> ir.Value | None:
    """The value, unless a Transpose stands between it and its constant."""
    one: ir.Value | None = value
    while one is not None and (node := one.producer()) is not None and node.inputs:
        if computes(node.op_type) == "transpose":
            return None
        one = node.inputs[0]
    return value


def _zero(node: ir.Node, value: ir.Value, array: np.ndarray) -> np.ndarray | float:
    """The zero point of weights that are codes, so that it broadcasts with them."""
    maker = behind(value)
    holder, place = (node, places(node)[1]) if maker is None else (maker, 2)
    given = holder.inputs[place] if place is not None and place < len(holder.inputs) else None
    tensor = None if given is None else source(given)
    if tensor is None:
        return 0.0
    zero = tensor.numpy().astype(np.float32)
    own = None if maker is None else of_node(maker)
    if own is not None and own.block and own.axis is not None and zero.ndim == array.ndim:
        return np.repeat(zero, own.block, own.axis)[tuple(map(slice, array.shape))]
    zero = zero.reshape(-1)
    if own is not None and own.axis is not None:
        first = own.axis % array.ndim
    else:  # one for each filter
        twin = view(node)
        rows = family(twin.op) == "convolution" or bool(twin.attributes.get("transB", 0))
        first = 0 if rows else array.ndim - 1
    for axis in (first, *range(array.ndim)):
        if zero.size == array.shape[axis] > 1:
            return zero.reshape([-1 if one == axis else 1 for one in range(array.ndim)])
    return float(zero[0]) if zero.size else 0.0


def _copies(filters: np.ndarray) -> int:
    """How many filters point where another does that comes before them."""
    if filters.shape[1] < _SHORTEST or not 1 < len(filters) <= _MOST:
        return 0
    lengths = np.linalg.norm(filters, axis=1)
    sound = np.flatnonzero(np.isfinite(lengths) & (lengths > 0))
    if len(sound) < 2:
        return 0
    unit = filters[sound] / lengths[sound, None]
    narrow = min(_SKETCH, unit.shape[1])
    sketch = unit
    if unit.shape[1] > _SKETCH:
        turned = np.random.default_rng(0).standard_normal((unit.shape[1], narrow)).astype(np.float32)
        sketch = unit @ turned
        sketch /= np.maximum(np.linalg.norm(sketch, axis=1, keepdims=True), 1e-30)
    copied = np.zeros(len(sound), bool)
    for start in range(0, len(sound), 1024):
        near = sketch[start : start + 1024] @ sketch.T > 1 - 10 * (1 - _ALIKE)
        rows, others = np.nonzero(np.tril(near, start - 1))
        for row, other in zip(rows + start, others, strict=True):
            if not copied[row]:
                copied[row] = float(unit[row] @ unit[other]) > _ALIKE
    return int(copied.sum())
