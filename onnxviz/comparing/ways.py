"""How values are made: by which operators, and by what function of which value, of the last layers that were matched.

What is made in one way in both files is the same, whatever became of its numbers.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
import onnx_ir as ir

from onnxviz.comparing.kernels import Kernel
from onnxviz.comparing.sides import Side, hands_on
from onnxviz.errors import LimitExceeded, ModelRejected, RuntimeFailed, WorkerCrashed
from onnxviz.graph.analysis.dataflow import FLOATS, by_name, constant, reads
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.operators import (
    BY_STATISTICS,
    FORM,
    INTEGER_SUMS,
    POINTWISE,
    computes,
    computing,
    operator,
)
from onnxviz.graph.quantisers import behind, of_node
from onnxviz.graph.seams import Joint

# What stands behind a layer in one file, and is in its weights and its bias in another.
_FOLDED: Final = computing("add subtract multiply divide") | BY_STATISTICS
_ACTIVATIONS: Final = frozenset({"activation", "softmax", "function", "quantisation", "unknown"})
_BOUNDING: Final = frozenset({"maximum", "minimum", "where", "quantize", "quantize_measured", "multiply"})
_RECTIFYING: Final = ("relu", "clip")
_EITHER_WAY: Final = computing("add multiply maximum minimum total total_mean")

# Where functions are asked; how far two may be apart that are the same, in parts of their size: a SiLU and a HardSwish
# stand for each other; and of how many numbers.
_GRID: Final = np.sinh(np.linspace(-2.8, 2.8, 81)).astype(np.float32)
_SAME_CURVE: Final = 0.05
_FEWEST: Final = 8

Ways = dict[ir.Value, int]


def ways(one: Side, other: Side, layers: Sequence[tuple[Kernel, Kernel, float]]) -> tuple[Ways, Ways]:
    """By which operators, whatever their attributes, each value is made of the last layers that were matched: a number,
    the same in both files where the operators are the same, or give the same function of the same value (a HardSwish
    that the other file writes out). What only renames, turns or quantises is none.

    None has what stands behind a layer that was not matched, and what the other file has folded into a layer.
    """
    numbers: dict[tuple[object, ...], int] = {}
    starts: tuple[Ways, Ways] = {}, {}
    for place, (a, b, _) in enumerate(layers):
        results = _same_results(_affine(one, a.node), _affine(other, b.node), a.node, b.node)
        for start, result in zip(starts, results or (), strict=False):
            start[result] = numbers.setdefault(("layer", place), len(numbers))
    ours, theirs = _made(one, starts[0], numbers), _made(other, starts[1], numbers)
    if {*ours.values()} == {*theirs.values()}:
        return ours, theirs
    known: dict[int, list[tuple[np.ndarray, int]]] = {}
    for value, (root, curve) in _curves(one, starts[0]).items():
        if root in ours and value in ours:
            known.setdefault(ours[root], []).append((curve, ours[value]))
    # Anew, since what stands behind such a function is made in the same way, too.
    return ours, _made(other, starts[1], numbers, {*ours.values()}, known, _curves(other, starts[1]))


def _affine(side: Side, node: ir.Node) -> list[tuple[str, ir.Value]]:
    """What could be folded into a layer: the operators behind it, one after the other, and their results; it first."""
    value = node.outputs[0]
    found = [("", value)]
    while not value.is_graph_output() and len(readers := {reader for reader, _ in value.uses()}) == 1:
        reader = readers.pop()
        if sum(x in side.moved for x in reader.inputs) != 1:
            break
        value = reader.outputs[0]
        if not hands_on(reader):
            if reader.op_type not in _FOLDED:
                break
            found.append((reader.op_type, value))
    return found


def _same_results(
    ours: list[tuple[str, ir.Value]], theirs: list[tuple[str, ir.Value]], a: ir.Node, b: ir.Node
) -> tuple[ir.Value, ir.Value] | None:
    """What is the same of two layers: their results, or, where one has in its weights and bias what stands behind the
    other, that and this; None where that cannot be told."""
    if len(ours) < len(theirs):
        turned = _same_results(theirs, ours, b, a)
        return None if turned is None else (turned[1], turned[0])
    more = len(ours) - len(theirs)
    if [word for word, _ in ours[more + 1 :]] != [word for word, _ in theirs[1:]]:
        return None
    folded = [word for word, _ in ours[1 : more + 1]]
    bare = view(a).input(2) is None and (view(b).input(2) is not None or a.op_type in INTEGER_SUMS)
    return (ours[more][1], theirs[0][1]) if bare or not more or BY_STATISTICS & set(folded) else None


def _made(
    side: Side,
    starts: Ways,
    numbers: dict[tuple[object, ...], int],
    held: Collection[int] = (),
    known: Mapping[int, Sequence[tuple[np.ndarray, int]]] = MappingProxyType({}),
    curves: Mapping[ir.Value, tuple[ir.Value, np.ndarray]] = MappingProxyType({}),
) -> Ways:
    """The ways of a file's values.

    numbers  of ways, those of the other file among them
    held     the other file's ways, and
    known    by the way of what they are a function of, its functions with their ways
    curves   this file's functions
    """
    found: Ways = {}
    weighted = {kernel.node for kernel in side.kernels if kernel.faces}
    for node in side.model.graph:
        read = [x for x in reads(node) if x in side.moved]
        for place, y in enumerate(node.outputs):
            if y in starts:
                found[y] = starts[y]
            if y in starts or y not in side.moved or node in weighted:
                continue
            parts = []
            for x in read:
                stretch = side.stretch(x)
                if stretch != side.stretch(y):
                    parts.append(numbers.setdefault(("from", *stretch), len(numbers)))
                elif x in found:
                    parts.append(found[x])
            if not read or len(parts) < len(read):
                continue
            if hands_on(node):
                found[y] = parts[0]
                continue
            ordered = sorted(parts) if node.op_type in _EITHER_WAY else parts
            way = numbers.setdefault((node.domain, node.op_type, place, *ordered), len(numbers))
            if way not in held and y in curves:
                root, curve = curves[y]
                same = [(_apart(own, curve), number) for own, number in known.get(found.get(root, -1), ())]
                apart, number = min(same, default=(1.0, way))
                way = number if apart <= _SAME_CURVE else way
            found[y] = way
    return found


def _curves(side: Side, starts: Ways) -> dict[ir.Value, tuple[ir.Value, np.ndarray]]:
    """What is made place by place of one value, and of constants of one number: that value, and the function as its
    results for `_GRID`, NaN for what the value is never, held as codes. Quantisers cut off, for a bound may be left to
    them, and do not round. Empty where ONNX Runtime does not compute these operators alone."""
    joint = Joint(side.model)
    op = joint.tape
    grid = op.input("grid", ir.DataType.FLOAT, [len(_GRID)])
    roots: dict[ir.Value, ir.Value] = {}
    known: dict[ir.Value, ir.Value] = {}
    inside: dict[ir.Value, np.ndarray] = {}
    named: dict[str, ir.Value] = {}
    for node in side.model.graph:
        y, read = node.outputs[0], [x for x in reads(node) if x in side.moved]
        of = {roots.get(x, x) for x in read}
        if y not in side.moved or y in starts or len(of) != 1 or not (hands_on(node) or _bends(node, side)):
            continue
        (root,) = of
        roots[y] = root
        if root not in known:
            known[root] = op.Cast(grid, to=int(root.dtype or ir.DataType.FLOAT))
        if hands_on(node) and computes(node.op_type) != "cast":
            known[y], ends = known[read[0]], _ends(node)
            if ends is not None and known[y] is known[root]:
                inside[root] = (ends[0] <= _GRID) & (ends[1] >= _GRID)
            elif ends is not None:
                low, high = (op.Cast(op.const(np.float32(end)), to=int(known[y].dtype or 1)) for end in ends)
                known[y] = op.Min(op.Max(known[y], low), high)
            if y.dtype in FLOATS and y.dtype != known[y].dtype:
                known[y] = op.Cast(known[y], to=int(y.dtype))
            continue
        joint.put([x for x in node.inputs if x is not None and x not in side.moved], known)
        joint.copy(node, known)
        if y.dtype in FLOATS:
            named[op.output(op.Cast(known[y], to=int(ir.DataType.FLOAT)), "curve").name or ""] = y
    curves: dict[ir.Value, tuple[ir.Value, np.ndarray]] = {}
    with contextlib.suppress(ModelRejected, LimitExceeded, RuntimeFailed, WorkerCrashed):
        program = side.net.compile(lambda: joint.model, key=None, optimise=False) if named else None
        found = program({grid.name or "": _GRID}, list(named)) if program is not None else {}
        for name, y in named.items():
            curve = found[name].reshape(-1)
            curves[y] = roots[y], np.where(inside.get(roots[y], True), curve, np.nan)
    return curves


def _bends(node: ir.Node, side: Side) -> bool:
    """Whether an operator works place by place, on one value where all else that it reads is single numbers."""
    alone = node.op_type in POINTWISE or computes(node.op_type) == "clip"
    if not alone or node.domain or len(node.outputs) != 1:
        return False
    steady = (x for x in node.inputs if x is not None and x not in side.moved)
    shapes = (side.facts.full_shape(x) if (tensor := constant(x)) is None else tensor.shape for x in steady)
    return all(shape is not None and all(side == 1 for side in shape) for shape in shapes)


def _ends(node: ir.Node | None) -> tuple[float, float] | None:
    """Where codes end that have one scale for all, as real numbers."""
    own = of_node(node) if node is not None and computes(node.op_type) == "dequantize" else None
    if own is None or own.low is None or own.high is None or own.low.size != 1:
        return None
    return float(own.low.reshape(-1)[0]), float(own.high.reshape(-1)[0])


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """How far a function is from another, in parts of its size, where both are known."""
    known = np.isfinite(one) & np.isfinite(other)
    if known.sum() < _FEWEST:
        return math.inf
    return float(np.linalg.norm((one - other)[known]) / max(float(np.linalg.norm(one[known])), 1e-30))


def in_codes(value: ir.Value) -> bool:
    """Whether a value comes out of codes, which may have cut off what an operator would."""
    node = value.producer()
    while node is not None and node.op_type in FORM and computes(node.op_type) != "dequantize":
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    return node is not None and node.op_type in FORM


def origins(side: Side, made: Ways, value: ir.Value, held: Collection[int]) -> set[int]:
    """Of which of these ways of the same stretch a value is made next, by operators whose own ways are none of them."""
    found: set[int] = set()
    ends = {kernel.node for kernel in side.kernels}
    left, seen = [value], {value}
    while left:
        node = left.pop().producer()
        for x in [] if node is None or node in ends else reads(node):
            if x in seen or x not in side.moved or side.stretch(x) != side.stretch(value):
                continue
            seen.add(x)
            if made.get(x) in held:
                found.add(made[x])
            else:
                left.append(x)
    return found


def may_bound(op: str) -> bool:
    """Whether an operator may do what an activation does, or a quantiser in its place."""
    return operator(op).family in _ACTIVATIONS or computes(op) in _BOUNDING


def rectifiers_lost(a: ir.Model, b: ir.Model, twins: Mapping[str, str]) -> dict[str, str]:
    """By the name of A's value in front of it, each Relu and Clip of A that B has nothing in the place of.

    twins   A's values and B's
    """
    theirs = by_name(b.graph)
    found = {}
    for node in a.graph:
        x, y = node.inputs[0] if node.inputs else None, node.outputs[0]
        if x is None or y.name in twins or len(x.uses()) != 1 or computes(node.op_type) not in _RECTIFYING:
            continue
        twin = theirs.get(twins.get(x.name or "", ""))
        if twin is None or behind(twin) is not None:
            continue
        if not any(may_bound(reader.op_type) for reader in twin.consumers()):
            found[x.name or ""] = y.name or ""
    return found
