"""Rectifiers: what the variants of backpropagation act on.

A rectifier is what the variants (guided, deconvnet, redirected) act on: Relu, Clip from 0 up
(ReLU6), and in a quantised file the QuantizeLinear whose range begins at 0 behind what can be negative, for there the
exporter put them. Their other spellings are brought to these before (graph/fused.py, normalise.py). No
rectifier is the ramp of a hand-written h-sigmoid or h-swish, nor an activation that lets something through below 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from onnxviz.graph.operators import VALUE_KEPT, computes, computing, operator
from onnxviz.graph.tape import number, tensor

#: Integer types of quantised tensors -> their range.
RANGES = {
    kind: (int(kind.min), int(kind.max))
    for kind in ir.DataType
    if kind.name in ("INT8", "UINT8", "INT16", "UINT16", "INT4", "UINT4")
}
_SCALING = computing("divide multiply")
_NEAR = 0.03  # quantised numbers are off by a step of the range


@dataclass(frozen=True)
class Rectifier:
    """What holds its input between 0 and `high`; None: no upper end.

    ahead   it is the range in front of another rectifier, which counts for both
    """

    high: float | None
    ahead: bool = False


def rectifier(node: ir.Node) -> Rectifier | None:
    """The rectifier that a node of a normalised graph is, None where it is none.

    Clips whose bounds only the run tells are none for certain, and so are not counted.
    """
    if node.domain:
        return None
    if computes(node.op_type) == "relu":
        return Rectifier(None)
    if computes(node.op_type) == "clip":
        found = _clip(node)
    elif computes(node.op_type) == "quantize":
        found = _range(node)
    else:
        return None
    return None if found is None or _is_ramp(node, found.high) else found


def rectifiers(model: ir.Model) -> list[ir.Node]:
    """The rectifiers of a normalised model's main graph."""
    return [n for n in model.graph if (found := rectifier(n)) is not None and not found.ahead]


def without_rectifiers(rules: str, sources: Iterable[str]) -> str:
    """What is said where rules that act on rectifiers found none on the way to these values."""
    return (
        f"no rectifier (ReLU, ReLU6) lies between {' and '.join(map(repr, sources))} and what is explained: "
        f"{rules!r} changes nothing but these, so it gives the plain gradient"
    )


def _clip(node: ir.Node) -> Rectifier | None:
    low, high = (node.inputs[place] if place < len(node.inputs) else None for place in (1, 2))
    if number(low) != 0.0:
        return None
    if high is None:
        return Rectifier(None)
    top = number(high)
    return None if top is None or not top > 0.0 else Rectifier(top)


def ends(node: ir.Node) -> tuple[float, float] | tuple[None, None]:
    """The smallest and the largest real number that a QuantizeLinear can give; None without one constant scale."""
    kind = node.outputs[0].dtype
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    scale, at = number(node.inputs[1]), 0.0 if zero is None else number(zero)
    if kind not in RANGES or scale is None or at is None:
        return None, None
    low, high = RANGES[kind]
    return (low - at) * scale, (high - at) * scale


def _range(node: ir.Node) -> Rectifier | None:
    """A range that begins at 0; and one in front of a rectifier that the exporter left, whose ends it may share."""
    low, high = ends(node)
    if low is None or high is None or not 0.0 < high < math.inf:
        return None
    readers = [user for user, _ in node.outputs[0].uses()]
    behind = [user for reader in readers for user, _ in reader.outputs[0].uses()]
    kept = all(computes(reader.op_type) == "dequantize" for reader in readers)
    bounded = (computes(user.op_type) in ("relu", "clip") and rectifier(user) is not None for user in behind)
    if behind and kept and all(bounded):
        return Rectifier(high, ahead=True)
    return Rectifier(high) if low == 0.0 and can_be_negative(node.inputs[0]) else None


def can_be_negative(value: ir.Value | None, depth: int = 64) -> bool:
    """Whether an activation may stand behind the value: a sum or product of signed numbers, as far as one can tell.

    False for pictures, for what a rectifier or a quantised range has cut off, and for what another activation gives.
    """
    if value is None or depth == 0:
        return False
    constant = tensor(value)
    if constant is not None:
        return constant.size > 0 and bool((constant.numpy() < 0).any())
    node = value.producer()
    if node is None or node.domain:
        return False
    kind = operator(node.op_type)
    if kind.negative:
        operands = node.inputs if kind.family in ("arithmetic", "joining") else node.inputs[:1]
        return kind.negative == "always" or any(can_be_negative(x, depth - 1) for x in operands)
    if node.op_type in _SCALING:  # by constants: a product of two values is a gate
        sides = [x for x in node.inputs if x is not None and x.const_value is None]
        return len(sides) == 1 and can_be_negative(sides[0], depth - 1)
    if computes(node.op_type) == "dequantize" and node.inputs[0] is not None:
        return _holds_negative(node, depth)
    return False


def _holds_negative(node: ir.Node, depth: int) -> bool:
    """Whether the real numbers of a DequantizeLinear may be negative."""
    x, zero = node.inputs[0], node.inputs[2] if len(node.inputs) > 2 else None
    assert x is not None
    if x.const_value is not None:
        return True  # weights
    at = 0.0 if zero is None else number(zero)
    if x.dtype in RANGES and at == RANGES[x.dtype][0]:
        return False
    source = x.producer()
    if source is not None and computes(source.op_type) == "quantize":
        return can_be_negative(source.inputs[0], depth - 1)
    return True


_Fits = Callable[[float, float], bool]


# The ramp of h-sigmoid, Clip(x + 3, 0, 6) / 6, and of h-swish, which is x times that; Howard et al. 2019,
# arXiv:1905.02244. Exporters may have folded the 3 into a bias, and put the 6 before or behind the product.


def _is_ramp(node: ir.Node, high: float | None) -> bool:
    """Whether what lies between 0 and `high` is a gate: shifted by half of its height, or brought to 1 and a factor."""
    if high is None:
        return False
    source, shift = _shifted(node.inputs[0])
    if shift is not None and _close(shift, high / 2):
        return True
    fits = _at_most if computes(node.op_type) == "quantize" else _close
    return _gates(node.outputs[0], 1.0 / high, source, fits)


def _shifted(value: ir.Value | None) -> tuple[ir.Value | None, float | None]:
    """(x, c) where the value is x + c for a number c."""
    total = _before(value)
    node = None if total is None else total.producer()
    if node is not None and computes(node.op_type) in ("add", "subtract"):
        for place, x in enumerate(node.inputs):
            shift = _known(node.inputs[1 - place])
            if shift is not None and (place == 0 or computes(node.op_type) == "add"):
                return _before(x), shift if computes(node.op_type) == "add" else -shift
    return None, None


def _gates(value: ir.Value, share: float, source: ir.Value | None, fits: _Fits, depth: int = 8) -> bool:
    """Whether the value, times constants that bring its height to 1, is a factor of another value.

    share    what is left to be multiplied with
    source   what the ramp was made of: as the other factor it is one whatever the height
    fits     whether a constant is the share: a range that was measured may be lower than the ramp it stands for
    """
    for user, place in value.uses() if depth else ():
        factor = _factor(user, place)
        if factor is not None:
            left = 1.0 if factor != 1.0 and fits(factor, share) else share / factor
            if _gates(user.outputs[0], left, source, fits, depth - 1):
                return True
        elif computes(user.op_type) == "multiply" and not user.domain:
            other = user.inputs[1 - place]
            if source is not None and _before(other) is source:
                return True
            if other is not value and (_close(share, 1.0) or _brought_to_1(user.outputs[0], share, fits)):
                return True
    return False


def _brought_to_1(value: ir.Value, share: float, fits: _Fits, depth: int = 4) -> bool:
    """Whether the value goes on times the constant `share`."""
    for user, place in value.uses() if depth else ():
        factor = _factor(user, place)
        if factor == 1.0 and _brought_to_1(user.outputs[0], share, fits, depth - 1):
            return True
        if factor is not None and factor != 1.0 and fits(factor, share):
            return True
    return False


def _factor(user: ir.Node, place: int) -> float | None:
    """By what constant the node multiplies its operand at this place; None where it does anything else."""
    if user.domain:
        return None
    if user.op_type in VALUE_KEPT and place == 0:
        return 1.0
    known = _known(user.inputs[1 - place]) if user.op_type in _SCALING else None
    if not known or not math.isfinite(known) or not math.isfinite(1.0 / known):
        return None
    return known if computes(user.op_type) == "multiply" else 1.0 / known if place == 0 else None


def _before(value: ir.Value | None) -> ir.Value | None:
    """What the value was before it was quantised or cast."""
    for _ in range(8):
        node = None if value is None else value.producer()
        if node is None or node.op_type not in VALUE_KEPT or node.domain:
            return value
        value = node.inputs[0]
    return value


def _known(value: ir.Value | None) -> float | None:
    """A constant number, quantised or not."""
    node = None if value is None else value.producer()
    if node is None or computes(node.op_type) != "dequantize" or node.domain:
        return number(value)
    code, scale, zero = (*map(number, node.inputs), 0.0)[:3]
    return None if code is None or scale is None or zero is None else (code - zero) * scale


def _close(a: float, b: float) -> bool:
    return math.isclose(a, b, rel_tol=_NEAR)


def _at_most(factor: float, share: float) -> bool:
    return 0.0 < factor <= share * (1.0 + _NEAR)
