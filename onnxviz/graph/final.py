"""The final activation of an output: softmax or sigmoid, however the exporter wrote it down.

Everything here is algebra on the graph: exp(x) / Σ exp(x), with or without the largest taken off first, is a softmax
whether one node says so or five. What stands behind it without changing what it means (a Clip to 0…1, a Cast, another
shape, times one) is looked through.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import onnx_ir as ir

from onnxviz.graph.analysis.dataflow import constant
from onnxviz.graph.analysis.probe import Facts
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.operators import FORM, VALUE_KEPT, computes, computing

_PLAIN = VALUE_KEPT | computing("dropout")
_ACTIVATIONS = ("softmax", "sigmoid", "log_softmax")
_LOGARITHM = {"softmax": "log_softmax", "sigmoid": "log_sigmoid"}
_POWER = {log: plain for plain, log in _LOGARITHM.items()}
# Sums are laid beside the numbers that they divide by these.
_SPREAD = FORM | computing("broadcast_to tile")
_NEGLIGIBLE = 1e-3  # an epsilon against division by zero, a factor of nearly one
_DEEPEST = 8  # nodes that two spellings of the same value are compared over


class Final(NamedTuple):
    """How an output ends.

    logits      the value in front of the activation; the output itself where there is none
    activation  'softmax', 'sigmoid', their logarithms 'log_softmax' and 'log_sigmoid', or None
    over        how many entries a softmax makes sum to 1; None where it is none, or where that cannot be told
    sound       whether it holds for large logits too: exp(x) / Σ exp(x) of float32 overflows from 89 on
    lossy       whether the output is the logarithm's negative, -log p: the smaller, the more probable
    """

    logits: ir.Value
    activation: str | None = None
    over: int | None = None
    sound: bool = True
    lossy: bool = False


def final(output: ir.Value, facts: Facts, opset: int) -> Final:
    """The activation that an output ends in, and the value in front of it."""
    return _Reader(facts, opset).final(output)


def complement(output: ir.Value) -> ir.Value | None:
    """s, where the output lays 1 - s and s side by side: what speaks against class 1, and for it."""
    node = _made_by(output, "concatenate")
    if node is None or len(node.inputs) != 2:
        return None
    against = _made_by(node.inputs[0], "subtract", through=FORM)
    if against is None or not _near(1)(number(against.inputs[0])):
        return None
    same = _same(_core(against.inputs[1], FORM), _core(node.inputs[1], FORM))
    return node.inputs[1] if same else None


class _Reader:
    def __init__(self, facts: Facts, opset: int) -> None:
        self._facts = facts
        self._opset = opset

    def final(self, output: ir.Value) -> Final:
        value: ir.Value | None = output
        bounds: list[tuple[float, float]] = []  # of the Clips passed
        while value is not None and (node := value.producer()) is not None:
            found = self._activation(value, node)
            if found is not None:
                if found.activation in (
                    "softmax",
                    "log_softmax",
                ):  # a softmax of probabilities has their order
                    inner = self.final(found.logits)
                    same = inner.activation == "softmax" and inner.over == found.over
                    if same and found.sound and inner.sound:
                        found = found._replace(logits=inner.logits)
                low, high = (-5.0, -_NEGLIGIBLE) if found.activation in _POWER else (0.01, 0.99)
                kept = all(least <= low and most >= high for least, most in bounds)
                return found if kept else Final(output)
            op = view(node).op
            if computes(op) in ("clip", "maximum", "minimum"):
                bounds.append(_bounds(node, op))
                value = _operand(node, lambda _: True)
            elif computes(op) in ("add", "subtract"):
                value = _operand(node, lambda c: abs(c) <= _NEGLIGIBLE, first=computes(op) == "subtract")
            elif computes(op) in ("multiply", "divide"):
                value = _operand(node, lambda c: abs(c - 1) <= _NEGLIGIBLE, first=computes(op) == "divide")
            else:
                value = view(node).input(0) if op in FORM else None
        return Final(output)

    # --- one node or several ---------------------------------------------------------------------

    def _activation(self, value: ir.Value, node: ir.Node) -> Final | None:
        """The activation whose last node this is."""
        twin = view(node)
        source = twin.input(0)
        name = computes(twin.op)
        if name in _ACTIVATIONS and source is not None:
            return Final(source, name, None if name == "sigmoid" else self._over(node, source))
        for read in (self._changed, self._normalised, self._log_softmax, self._sigmoid):
            if (found := read(value, node)) is not None:
                return found
        return None

    def _changed(self, value: ir.Value, node: ir.Node) -> Final | None:
        """Log of a softmax, Exp of a log-softmax, −Softplus(−x)."""
        op, source = view(node).op, view(node).input(0)
        table = {"log": _LOGARITHM, "exp": _POWER}.get(computes(op) or "")
        if source is None:
            return None
        if table is not None:
            inner = self.final(source)
            return inner._replace(activation=table[inner.activation]) if inner.activation in table else None
        if computes(op) == "negative" and (soft := _made_by(source, "softplus")) is not None:
            x = _negated(soft.inputs[0])
            return Final(x, "log_sigmoid") if x is not None else None
        if (turned := _negated(value)) is not None:
            inner = self.final(turned)
            return inner._replace(lossy=True) if inner.activation == "log_softmax" else None
        return None

    def _normalised(self, value: ir.Value, node: ir.Node) -> Final | None:
        """x / Σ x of exponentials, or of what is a softmax already."""
        numbers, total = _quotient(node)
        if numbers is None or total is None:
            return None
        summed, over = self._total(total)
        if summed is None or not _same(numbers, summed):
            return None
        raised = _made_by(numbers, "exp")
        if raised is not None and raised.inputs[0] is not None:
            x = _unshifted(raised.inputs[0])
            return Final(x, "softmax", over, sound=x is not raised.inputs[0])
        inner = self.final(numbers)
        return inner if inner.activation == "softmax" else None

    def _log_softmax(self, value: ir.Value, node: ir.Node) -> Final | None:
        """x − log Σ exp x, where the largest may be taken off x first and added again behind the logarithm."""
        twin = view(node)
        x, taken = twin.input(0), twin.input(1)
        if computes(twin.op) != "subtract" or x is None or taken is None:
            return None
        whole = _made_by(taken, "log_sum_exp", through=_SPREAD)
        if whole is not None and _same(x, whole.inputs[0]):
            return Final(_unshifted(x), "log_softmax", self._ratio(whole.inputs[0], whole.outputs[0]))
        for logarithm, largest in self._sums(taken):
            summed, over = self._total(logarithm.inputs[0])
            raised = _made_by(summed, "exp")
            if raised is None or raised.inputs[0] is None:
                continue
            inside = raised.inputs[0]
            if _same(inside, x) if largest is None else _same(_unshifted(inside), x):
                return Final(_unshifted(x), "log_softmax", over, sound=_unshifted(inside) is not inside)
        return None

    def _total(self, value: ir.Value | None) -> tuple[ir.Value | None, int | None]:
        """What a sum is of, and over how many: a reduction, a product with ones, or a mean times their number."""
        value = _past_guard(value)
        reduced = _made_by(value, "sum", "l1", through=_SPREAD)
        if reduced is not None:
            return reduced.inputs[0], self._ratio(reduced.inputs[0], reduced.outputs[0])
        product = _made_by(value, "matmul", "gemm", through=_SPREAD)
        if product is not None:
            return _of_ones(product)
        times = _made_by(value, "multiply", through=_SPREAD)
        for mean, other in _either(times, "mean"):
            over = self._ratio(mean.inputs[0], mean.outputs[0])
            if over and _near(over)(number(other)):
                return mean.inputs[0], over
        return None, None

    def _sums(self, value: ir.Value) -> list[tuple[ir.Node, ir.Value | None]]:
        """`value` as a logarithm, or as one plus something else."""
        alone = _made_by(value, "log", through=_SPREAD)
        if alone is not None:
            return [(alone, None)]
        return _either(_made_by(value, "add", through=_SPREAD), "log")

    def _sigmoid(self, value: ir.Value, node: ir.Node) -> Final | None:
        """1 / (1 + exp(−x)), exp(x) / (1 + exp(x)), ½ + ½ tanh(x / 2)."""
        numbers, total = _quotient(node)
        if total is not None:
            both = _made_by(total, "add")
            raised = _made_by(_operand(both, _near(1)), "exp") if both is not None else None
            if raised is not None and raised.inputs[0] is not None:
                if numbers is None:
                    x = _negated(raised.inputs[0])
                else:
                    x = raised.inputs[0] if _same(numbers, raised.outputs[0]) else None
                return Final(x, "sigmoid", sound=numbers is None) if x is not None else None
        op = view(node).op
        if computes(op) in ("multiply", "divide"):  # ½ (1 + tanh), (1 + tanh) / 2
            inner = _made_by(_half(node), "add")
            tangent = _made_by(_operand(inner, _near(1)), "tanh") if inner is not None else None
        elif computes(op) == "add":  # ½ + ½ tanh
            inner = _made_by(_operand(node, _near(0.5)), "multiply", "divide")
            tangent = _made_by(_half(inner), "tanh") if inner is not None else None
        else:
            return None
        if tangent is None or tangent.inputs[0] is None:
            return None
        halved = _made_by(tangent.inputs[0], "multiply", "divide")
        x = _half(halved) if halved is not None else None
        return Final(x, "sigmoid") if x is not None else None

    # --- over how many ---------------------------------------------------------------------------

    def _over(self, node: ir.Node, source: ir.Value) -> int | None:
        shape = self._facts.full_shape(source)
        if not shape:
            return None
        axis = view(node).attributes.get("axis")
        if self._opset >= 13:
            place = int(axis) if axis is not None else -1
            return shape[place] if -len(shape) <= place < len(shape) else None
        # before opset 13: all axes from there on
        return math.prod(shape[int(axis) if axis is not None else 1 :])

    def _ratio(self, whole: ir.Value | None, part: ir.Value | None) -> int | None:
        before, after = self._facts.full_shape(whole), self._facts.full_shape(part)
        return math.prod(before) // max(1, math.prod(after)) if before and after is not None else None


# --- matching ------------------------------------------------------------------------------------


def _core(value: ir.Value | None, through: frozenset[str] = _PLAIN) -> ir.Value | None:
    """The value behind what changes only its type."""
    while value is not None and (node := value.producer()) is not None and view(node).op in through:
        value = view(node).input(0)
    return value


def _made_by(value: ir.Value | None, *words: str, through: frozenset[str] = _PLAIN) -> ir.Node | None:
    """The node behind `value` where it computes what one of these words says (`Operator.computes`)."""
    value = _core(value, through)
    node = value.producer() if value is not None else None
    fits = node is not None and node.domain == "" and computes(node.op_type) in words
    return node if fits else None


def number(value: ir.Value | None) -> float | None:
    """The one number that a constant holds, whatever its shape and however it is stored."""
    node = value.producer() if value is not None else None
    if node is not None and computes(node.op_type) in ("cast", "identity"):
        return number(node.inputs[0])
    if node is not None and computes(node.op_type) == "dequantize":
        code, scale, *zero = (number(one) for one in node.inputs)
        return None if code is None or scale is None else (code - ((zero[0] if zero else 0) or 0)) * scale
    tensor = constant(value)
    return float(tensor.numpy().reshape(-1)[0]) if tensor is not None and tensor.size == 1 else None


def _of_ones(product: ir.Node) -> tuple[ir.Value | None, int | None]:
    """x and n of x · 1 with a constant of ones, (n, ...): each row's sum."""
    tensor = constant(product.inputs[1])
    attributes = view(product).attributes
    plain = len(product.inputs) == 2 and not attributes.get("transA") and attributes.get("alpha", 1.0) == 1.0
    if tensor is None or not plain or tensor.size == 0 or not (tensor.numpy() == 1).all():
        return None, None
    sizes = [int(size) for size in tensor.shape.numpy()]
    turned = bool(attributes.get("transB"))
    return product.inputs[0], sizes[-1 if turned or len(sizes) == 1 else -2]


def _near(wanted: float) -> Callable[[float | None], bool]:
    """Whether a number is this one, but for the rounding of a quantised constant."""
    return lambda given: given is not None and abs(given - wanted) <= 1e-5 * max(1.0, abs(wanted))


def _either(node: ir.Node | None, word: str) -> list[tuple[ir.Node, ir.Value | None]]:
    """Of the operands of a sum or a product those that compute this, through `_SPREAD`, each with the other one."""
    pairs = [] if node is None else [(node.inputs[0], node.inputs[1]), (node.inputs[1], node.inputs[0])]
    found = ((_made_by(one, word, through=_SPREAD), other) for one, other in pairs)
    return [(one, other) for one, other in found if one is not None]


def _operand(
    node: ir.Node | None, wanted: Callable[[float], bool], *, first: bool = False
) -> ir.Value | None:
    """The operand beside a constant that is as `wanted`; first: it must be the first operand."""
    if node is None or not node.inputs:
        return None
    if computes(node.op_type) == "clip":
        return node.inputs[0]
    if len(node.inputs) != 2:
        return None
    for one, other in ((0, 1),) if first else ((0, 1), (1, 0)):
        beside = number(node.inputs[other])
        if beside is not None and wanted(beside):
            return node.inputs[one]
    return None


def _half(node: ir.Node) -> ir.Value | None:
    """x of x · ½ or x / 2."""
    divides = computes(node.op_type) == "divide"
    return _operand(node, _near(2 if divides else 0.5), first=divides)


def _bounds(node: ir.Node, op: str) -> tuple[float, float]:
    """The range that Clip, Max or Min cuts to."""
    ends = [-math.inf, math.inf]
    if computes(op) == "clip":
        for place, name in enumerate(("min", "max")):
            given = number(node.inputs[place + 1]) if place + 1 < len(node.inputs) else None
            given = view(node).attributes.get(name) if given is None else given
            ends[place] = ends[place] if given is None else float(given)
    else:
        place = 0 if computes(op) == "maximum" else 1
        ends[place] = next((c for c in map(number, node.inputs) if c is not None), ends[place])
    return ends[0], ends[1]


def _quotient(node: ir.Node) -> tuple[ir.Value | None, ir.Value | None]:
    """(a, b) of a / b, a·(1/b), a·b⁻¹; (None, b) of 1 / b; (None, None) of anything else."""
    if node.domain != "":
        return None, None
    if computes(node.op_type) == "divide":
        above = None if _near(1)(number(node.inputs[0])) else node.inputs[0]
        return above, node.inputs[1]
    if (below := _inverted(node)) is not None:
        return None, below
    if computes(node.op_type) == "multiply":
        for one, other in ((0, 1), (1, 0)):
            turned = _core(node.inputs[other], _SPREAD)
            maker = turned.producer() if turned is not None else None
            below = _inverted(maker) if maker is not None else None
            if below is not None:
                return node.inputs[one], below
    return None, None


def _inverted(node: ir.Node) -> ir.Value | None:
    """b of 1/b."""
    if computes(node.op_type) == "reciprocal":
        return node.inputs[0]
    if computes(node.op_type) == "power" and _near(-1)(number(node.inputs[1])):
        return node.inputs[0]
    if computes(node.op_type) == "divide" and _near(1)(number(node.inputs[0])):
        return node.inputs[1]
    return None


def _negated(value: ir.Value | None) -> ir.Value | None:
    """x of −x."""
    node = _made_by(value, "negative", "multiply", "subtract", "divide")
    if node is None:
        return None
    if computes(node.op_type) == "negative":
        return node.inputs[0]
    if computes(node.op_type) == "subtract":
        return node.inputs[1] if _near(0)(number(node.inputs[0])) else None
    return _operand(node, _near(-1), first=computes(node.op_type) == "divide")


def _unshifted(value: ir.Value) -> ir.Value:
    """x of x − max x, which have one softmax; the value itself where nothing is taken off."""
    node = _made_by(value, "subtract")
    if node is None or node.inputs[0] is None:
        return value
    largest = _made_by(node.inputs[1], "max", "top_k", through=_SPREAD)
    return node.inputs[0] if largest is not None and _same(node.inputs[0], largest.inputs[0]) else value


def _past_guard(value: ir.Value | None) -> ir.Value | None:
    """The sum in front of an epsilon that keeps it from being zero."""
    node = _made_by(value, "add", "clip", "maximum", through=_SPREAD)
    if node is None:
        return value
    if computes(node.op_type) == "clip":
        return node.inputs[0] if _bounds(node, "clip")[0] <= _NEGLIGIBLE else value
    return _operand(node, lambda c: abs(c) <= _NEGLIGIBLE) or value


def _same(one: ir.Value | None, other: ir.Value | None, depth: int = _DEEPEST) -> bool:
    """Whether two values are the same, or are computed alike from the same."""
    one, other = _core(one), _core(other)
    if one is other:
        return one is not None
    if one is None or other is None or depth == 0:
        return False
    left, right = one.producer(), other.producer()
    if left is None or right is None:
        a, b = number(one), number(other)
        return a is not None and a == b
    if (left.op_type, left.domain, len(left.inputs)) != (right.op_type, right.domain, len(right.inputs)):
        return False
    a_attributes = {name: a.value for name, a in left.attributes.items() if not a.is_ref()}
    b_attributes = {name: a.value for name, a in right.attributes.items() if not a.is_ref()}
    if computes(left.op_type) == "constant" or str(a_attributes) != str(b_attributes):
        return False
    return all(_same(a, b, depth - 1) for a, b in zip(left.inputs, right.inputs, strict=True))
