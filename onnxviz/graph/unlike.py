"""What B's operators have otherwise than A's up to a value that means the same, quantisers and weights apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any, Final, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import constant
from onnxviz.graph.operators import (
    BY_STATISTICS,
    FORM,
    INTEGER_SUMS,
    SPELLINGS,
    WEIGHTED,
    computes,
    computing,
    operator,
)
from onnxviz.graph.quantisers import numbers_of, of_node
from onnxviz.graph.seams import Cut, Side, between, same, schema, setting

_SMALL: Final = 8  # numbers that are told one by one
_ALIKE: Final = 1e-3  # of a number that is written with fewer digits, or in half precision
_STEPS: Final = 1.5  # of a quantiser under 0, up to which it does a rectifier's work
_FAR: Final = 0.1  # of the size of constants: rounding to 8 bits moves them by less
_PLAIN: Final = {"B": "bias", "input_mean": "mean", "input_var": "variance", "data_0": "bound"}
_FACTORS: Final = computing("add subtract multiply divide")
# Whose inputs may stand in any order.
_COMMUTE: Final = computing("add multiply maximum minimum total mean")
_SPELLED: Final = {
    **{name: SPELLINGS[name].of for name in INTEGER_SUMS},
    **dict.fromkeys(computing("gemm"), SPELLINGS["FusedMatMul"].of),
}
(_CLIP,) = computing("clip")
# What depends on the order in which a file has its axes.
_LAYOUT: Final = frozenset({"axis", "axes", "perm"})


class Twin(NamedTuple):
    """An operator of A in the place of one of B.

    node     A's; None: A has none there
    inputs   what it reads there: values of B, and A's small constants
    """

    node: ir.Node | None
    inputs: Sequence[ir.Value | None]


@dataclass(frozen=True)
class Unlike:
    """What B's operators have otherwise.

    told      in a few words each
    twins     by B's operator, A's that does there what A does; None where they cannot be laid on each other
    laid      by B's value, operators of A that B lacks behind it
    weights   whether, where they cannot, both files have the same weights there
    numbers   constants that are no weights of a product (of a norm, of PRelu) and differ by more than rounding, each
              with the name of A's operator
    """

    told: tuple[str, ...] = ()
    twins: Mapping[ir.Node, Twin] | None = None
    laid: Mapping[ir.Value, Sequence[ir.Node]] = field(default_factory=dict)
    weights: bool = False
    numbers: tuple[tuple[str, str], ...] = ()


def unlike(a: Side, b: Side, cut: Cut) -> Unlike:
    """What stands between a cut and the nearest ones before it, A's against B's.

    No difference is what is only written otherwise: a normalisation or a bias behind a product that the other file has
    in its weights, integers that are multiplied in the place of real numbers, a rectifier that a quantiser's range does
    the work of.
    """
    nodes = (
        between(a, cut.x, [one.x for one in cut.from_a]),
        between(b, cut.y, [one.y for one in cut.from_b]),
    )
    ends = {one.x: one.y for one in (*cut.from_a, *cut.from_b)}
    own, theirs = _Part(a, nodes[0], ends), _Part(b, nodes[1], ends.values())
    gone, new = own.kinds - theirs.kinds, theirs.kinds - own.kinds
    _left_to_quantisers(gone, new, own, theirs)
    pairs, missing, besides = _pairs(own, theirs, bool(gone or new))
    told: list[str] = []
    if gone or new:
        first, second = (", ".join(sorted(one.elements())) for one in (gone, new))
        where = own.place(
            [one for one in own.nodes if own.kind(one) in gone and one not in _same(pairs, own)]
        )
        told.append(f"{second or 'nothing'} in the place of {first}{where}" if gone else f"{second} besides")
    known = dict(ends)
    known |= {x: y for one, two in pairs for x, y in zip(one.outputs, two.outputs, strict=False)}
    turned = any(one.axes is not None for one in (cut, *cut.from_a))
    twins = {}
    for one, two in pairs:
        other, order = own.kind(one) != theirs.kind(two), _order(one, two, known, own, theirs)
        differing = [] if other else list(_settings(one, two, turned))
        where = own.place([one])
        told += [f"{name} of {one.op_type} is {y}, in A {x}{where}" for name, x, y in differing]
        if order is not None:
            told.append(f"the inputs of {one.op_type} stand in another order{where}")
        if other or differing or order is not None:
            spelt = {_SPELLED.get(node.op_type, node.op_type) for node in (one, two)}
            twins[two] = _twin(one, two, order, own, theirs, other) if other or len(spelt) == 1 else None
    numbers = (
        () if turned else tuple((pair[0].name or "", text) for pair in pairs for text in _numbers(*pair))
    )
    if not told:
        return Unlike(numbers=numbers)
    told = list(dict.fromkeys(told))
    laid: dict[ir.Value, list[ir.Node]] = {}
    for node in missing:
        y = _stands_for(node, known, own, theirs)
        if y is not None:
            known[node.outputs[0]] = y
            laid.setdefault(y, []).append(node)
    twins |= {node: Twin(None, [one for one in node.inputs if theirs.real(one)]) for node in besides}
    aligned = all(map(own.bends, missing)) and all(map(theirs.bends, besides))
    aligned &= sum(map(len, laid.values())) == len(missing) and None not in twins.values()
    if not aligned or turned or cut.x.dtype != cut.y.dtype:
        return Unlike(tuple(told), None, weights=_same_weights(*nodes), numbers=numbers)
    kept = {node: twin for node, twin in twins.items() if twin is not None}
    return Unlike(tuple(told), kept, laid, numbers=numbers)


class _Part:
    """The operators between cuts that compute something.

    nodes   without what gives numbers another form, quantisers and the scales that these measure
    kinds   how many there are of each; what may as well stand in the weights is not counted
    """

    def __init__(self, side: Side, nodes: Sequence[ir.Node], ends: Collection[ir.Value]) -> None:
        self._moved = side.moved
        self._ends = set(ends)
        self._scales: set[ir.Value] = set()
        self.rectifying = sum(map(_from_zero, nodes))
        self.nodes = [node for node in nodes if not self._scaling(node) and node.op_type not in FORM]
        self._bounds = dict(self._bounded())
        self.kinds = Counter(kind for node in self.nodes if (kind := self.kind(node)))

    def _scaling(self, node: ir.Node) -> bool:
        """Whether a node measures a scale, or multiplies by one."""
        if computes(node.op_type) == "quantize_measured":
            self._scales.update(node.outputs[1:])
        elif computes(node.op_type) != "multiply" or self._scales.isdisjoint(filter(None, node.inputs)):
            return False
        elif not any(map(self.real, node.inputs)):
            self._scales.update(node.outputs)
        return True

    def real(self, value: ir.Value | None) -> bool:
        """Whether a value depends on the picture, and is no scale."""
        return value is not None and value in self._moved and value not in self._scales

    def kind(self, node: ir.Node) -> str:
        """What an operator is, '' for what another file may have in the weights of the product in front of it."""
        if (node.op_type in BY_STATISTICS or self._factor(node)) and self._behind_product(node):
            return ""
        if node in self._bounds.values():
            return ""
        return _CLIP if node in self._bounds else _SPELLED.get(node.op_type, node.op_type)

    def _bounded(self) -> Iterator[tuple[ir.Node, ir.Node]]:
        """Upper bounds with what holds to 0 in front of them, a Relu or a quantiser: both are what Clip(0, bound) is in
        one; of an equalised layer each channel has its own bound."""
        for node in self.nodes:
            if computes(node.op_type) != "minimum" or sum(map(self.real, node.inputs)) != 1:
                continue
            maker = next(value for value in node.inputs if value is not None and self.real(value)).producer()
            while maker is not None and maker.op_type in FORM and not _from_zero(maker):
                maker = maker.inputs[0].producer() if maker.inputs[0] is not None else None
            if maker is not None and (computes(maker.op_type) == "relu" or _from_zero(maker)):
                yield node, maker

    def _factor(self, node: ir.Node) -> bool:
        if node.op_type not in _FACTORS or sum(map(self.real, node.inputs)) != 1:
            return False
        tensors = [numbers_of(value) for value in node.inputs if not self.real(value)]
        return all(tensor is None or tensor.size > 1 for tensor in tensors)

    def _behind_product(self, node: ir.Node) -> bool:
        at: ir.Node | None = node
        while at is not None:
            at = next(
                (value.producer() for value in at.inputs if value is not None and self.real(value)), None
            )
            if at is None or at.op_type in WEIGHTED | INTEGER_SUMS:
                return at is not None
            scaled = computes(at.op_type) == "multiply" and sum(map(self.real, at.inputs)) == 1
            if not (at.op_type in FORM or at.op_type in BY_STATISTICS or scaled or self._factor(at)):
                return False
        return False

    def source(self, value: ir.Value | None) -> ir.Value | None:
        """What a value is, in whatever form, where the layer begins or an operator gives it."""
        while value is not None and self.real(value) and value not in self._ends:
            node = value.producer()
            if node is None or node.op_type not in FORM:
                break
            value = node.inputs[0]
        return value

    def bends(self, node: ir.Node) -> bool:
        """Whether an operator does nothing but to bend one value."""
        rest = [value for value in node.inputs if value is not None and not self.real(value)]
        alone = operator(node.op_type).family == "activation" and len(node.inputs) - len(rest) == 1
        return alone and all(value.const_value is not None for value in rest)

    def place(self, nodes: Sequence[ir.Node]) -> str:
        """' (name)' of the one operator in question, where the layer goes on with others behind it."""
        if len(nodes) != 1:
            return ""
        after = self.nodes[self.nodes.index(nodes[0]) + 1 :]
        passing = ("activation", "normalisation")
        if all(operator(node.op_type).family in passing or not self.kind(node) for node in after):
            return ""
        return f" ({nodes[0].outputs[0].name})"


def _left_to_quantisers(gone: Counter[str], new: Counter[str], own: _Part, theirs: _Part) -> None:
    """Take out of what is lacking in a file the rectifiers that a quantiser may stand for."""
    rectifiers = computing("relu clip")
    for lacking, other, part in ((gone, new, theirs), (new, gone, own)):
        if not any(operator(name).family == "activation" for name in other):
            for name in rectifiers & set(lacking):
                lacking[name] -= min(lacking[name], part.rectifying)
    for one in (gone, new):
        for name in [name for name, count in one.items() if not count]:
            del one[name]


def _from_zero(node: ir.Node) -> bool:
    """Whether a quantiser holds nothing under 0, but for a step or so."""
    own = of_node(node) if computes(node.op_type) == "dequantize" else None
    if own is None or own.low is None or own.scale is None:
        return False
    return bool((own.low >= -_STEPS * own.scale).all())


_Pairs = list[tuple[ir.Node, ir.Node]]


def _pairs(own: _Part, theirs: _Part, differing: bool) -> tuple[_Pairs, list[ir.Node], list[ir.Node]]:
    """Which operator of A is which of B; and what A, and what B, has besides.

    differing   whether they are not of the same kinds: where they are, those of a kind go in their order
    """
    pairs: _Pairs = []
    missing, besides = list[ir.Node](), list[ir.Node]()
    listed = [[(part.kind(node), node) for node in part.nodes if part.kind(node)] for part in (own, theirs)]
    if differing:
        kinds = [[kind for kind, _ in one] for one in listed]
        for _, i, j, k, m in SequenceMatcher(None, kinds[0], kinds[1], autojunk=False).get_opcodes():
            first, second = ([node for _, node in one] for one in (listed[0][i:j], listed[1][k:m]))
            if len(first) == len(second):
                pairs += zip(first, second, strict=True)
            else:
                missing += first
                besides += second
    norms = [
        [(node.op_type, node) for node in part.nodes if node.op_type in BY_STATISTICS]
        for part in (own, theirs)
    ]
    for ours, others in ([] if differing else [listed]) + [norms]:
        for kind in dict(ours):
            both = [[node for name, node in one if name == kind] for one in (ours, others)]
            if len(both[0]) == len(both[1]):
                pairs += [pair for pair in zip(*both, strict=True) if pair not in pairs]
    return pairs, missing, besides


def _stands_for(
    node: ir.Node, known: Mapping[ir.Value, ir.Value], own: _Part, theirs: _Part
) -> ir.Value | None:
    """The value of B that an operator would read that B lacks; None where that cannot be told."""
    x = next((own.source(value) for value in node.inputs if own.real(value)), None)
    while x is not None and x not in known and (maker := x.producer()) is not None and not own.kind(maker):
        x = next((own.source(value) for value in maker.inputs if own.real(value)), None)
    y = known.get(x) if x is not None else None
    while y is not None:  # behind what may as well stand in the weights
        readers = [reader for reader, _ in y.uses()]
        if len(readers) != 1 or readers[0] not in theirs.nodes or theirs.kind(readers[0]):
            break
        y = readers[0].outputs[0]
    return y


def _same(pairs: _Pairs, own: _Part) -> list[ir.Node]:
    """A's operators that B has, too."""
    return [one for one, two in pairs if own.kind(one) == _SPELLED.get(two.op_type, two.op_type)]


# --- settings -------------------------------------------------------------------------------------


def _settings(one: ir.Node, two: ir.Node, turned: bool) -> Iterator[tuple[str, str, str]]:
    """Attributes, and small constants that are no weights, that two nodes of one operator have otherwise.

    turned   whether B has its axes in another order
    """
    known = schema(one)
    bounds = list(map(_highest, (one, two)))
    if one.op_type != two.op_type and None not in bounds and not turned and _differ(*bounds):
        yield "upper bound", _text(bounds[0]), _text(bounds[1])
    if known is None or _SPELLED.get(one.op_type, one.op_type) != _SPELLED.get(two.op_type, two.op_type):
        return
    if "Gemm" in (one.op_type, two.op_type) and one.op_type != two.op_type:
        return
    for name in known.attributes:
        if not (turned and name in _LAYOUT):
            x, y = setting(one, name, two), setting(two, name, one)
            if _differ(x, y) and _text(x) and _text(y):
                yield name, _text(x), _text(y)
    for place, (tensor, other) in [] if turned else _constants(one, two):
        x, y = (each.numpy().ravel().tolist() for each in (tensor, other))
        if _differ(x, y):
            name = known.inputs[min(place, len(known.inputs) - 1)].name
            yield _PLAIN.get(name, name), _text(x), _text(y)


def _highest(node: ir.Node) -> float | None:
    """The one bound of a Clip or a Min; None where it has several, or none, or that is measured."""
    kind = computes(node.op_type)
    places = node.inputs[2:] if kind == "clip" else node.inputs if kind == "minimum" else ()
    tensors = [tensor for value in places if (tensor := constant(value)) is not None]
    return float(tensors[0].numpy().item()) if len(tensors) == 1 and tensors[0].size == 1 else None


def _constants(one: ir.Node, two: ir.Node) -> Iterator[tuple[int, tuple[Any, Any]]]:
    """Small constants that both read at one place, and are no weights."""
    if one.op_type in WEIGHTED | INTEGER_SUMS or one.op_type in BY_STATISTICS:
        return
    for place, pair in enumerate(zip(one.inputs, two.inputs, strict=False)):
        x, y = map(constant, pair)
        if x is not None and y is not None and x.size <= _SMALL and y.size <= _SMALL:
            yield place, (x, y)


def _numbers(one: ir.Node, two: ir.Node) -> Iterator[str]:
    """Constants of one operator, a number for each channel, that B has otherwise."""
    known = schema(one)
    if known is None or one.op_type != two.op_type or one.op_type in WEIGHTED | INTEGER_SUMS:
        return
    told = {place for place, _ in _constants(one, two)}
    for place, (first, second) in enumerate(zip(one.inputs, two.inputs, strict=False)):
        x, y = numbers_of(first), numbers_of(second)
        if place in told or x is None or y is None or x.size != y.size or not x.size:
            continue
        apart, signal = (float(np.linalg.norm(each)) for each in (x - y, x))
        if apart > _FAR * signal:
            name = known.inputs[min(place, len(known.inputs) - 1)].name
            decibels = f": {20 * np.log10(signal / apart):.1f} dB" if signal else ""
            yield f"{_PLAIN.get(name, name)} of {one.op_type} differs{decibels}"


def _differ(x: Any, y: Any) -> bool:
    """Whether two settings are not the same, numbers up to the digits that they are written with."""
    try:
        first, second = (np.asarray(one, float).ravel() for one in (x, y))
    except (TypeError, ValueError):
        return bool(x != y)
    same_size = first.size == second.size
    return not (same_size and np.allclose(first, second, rtol=_ALIKE, atol=0, equal_nan=True))


def _text(value: Any) -> str:
    """A setting as it is shown; '' where it is nothing that can be."""
    if isinstance(value, (list, tuple)):
        return _text(value[0]) if len(value) == 1 else f"({', '.join(map(_text, value))})"
    return f"{value:g}" if isinstance(value, (int, float)) else value if isinstance(value, str) else ""


# --- inputs ---------------------------------------------------------------------------------------


def _order(
    one: ir.Node, two: ir.Node, known: Mapping[ir.Value, ir.Value], own: _Part, theirs: _Part
) -> list[int] | None:
    """At which of B's inputs stands what A has at each of its own; None where it is the same, or cannot be told."""
    xs = [
        known.get(value) if (value := own.source(x)) is not None else None for x in one.inputs if own.real(x)
    ]
    ys = [theirs.source(y) for y in two.inputs if theirs.real(y)]
    if one.op_type in _COMMUTE or len(xs) != len(ys) or len(set(ys)) != len(ys):
        return None
    if xs == ys or None in xs or set(xs) != set(ys):
        return None
    return [ys.index(x) for x in xs]


def _twin(
    one: ir.Node, two: ir.Node, order: list[int] | None, own: _Part, theirs: _Part, other: bool
) -> Twin | None:
    """A's operator in the place of B's; None where it does not fit there."""
    real = [value for value in two.inputs if theirs.real(value)]
    real = real if order is None else [real[place] for place in order]
    needed = sum(map(own.real, one.inputs))
    if needed != len(real) or len(one.outputs) != len(two.outputs):
        return None
    rest, taken = iter(real), []
    if other:
        inputs = [next(rest) if own.real(value) else value for value in one.inputs]
        taken = [value for value in one.inputs if not own.real(value)]
    else:
        inputs = [next(rest) if theirs.real(value) else value for value in two.inputs]
        for place, _ in _constants(one, two):
            inputs[place] = one.inputs[place]
            taken.append(one.inputs[place])
    if any(
        value is not None and (value.const_value is None or value.const_value.size > _SMALL)
        for value in taken
    ):
        return None
    return Twin(one, tuple(inputs))


def _same_weights(own: Sequence[ir.Node], theirs: Sequence[ir.Node]) -> bool:
    """Whether the same large tensors are read by both."""
    first, second = (
        [
            tensor
            for node in nodes
            for value in node.inputs
            if (tensor := constant(value)) is not None and tensor.size > _SMALL
        ]
        for nodes in (own, theirs)
    )
    for tensor in first:
        found = next((other for other in second if same(tensor, other)), None)
        if found is None:
            return False
        second.remove(found)
    return not second
