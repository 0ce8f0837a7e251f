"""B's operators without its quantisers, and where that is asked for, A's in the place of what they have otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.graph.operators import INTEGER_SUMS, MOVING, computes, computing, family
from onnxviz.graph.quantisers import of_node
from onnxviz.graph.seams import Joint, Known, Side
from onnxviz.graph.unlike import Unlike

# What codes pass on their way from a quantiser to where they are made real.
_HANDS_ON = MOVING | computing("max_pool")
_STEPS = 0.5  # of a quantiser under 0, up to which its range begins there


class Bare:
    """Writes B's operators without the quantisers of what depends on the picture.

    What a quantiser alone cut off at 0 between them is cut off.

    b, h   the model, and the graph that is written into
    end    the value up to which they are written: a quantiser in front of it is left out whole
    other  what is written as A has it; an empty one: nothing
    """

    def __init__(self, b: Side, h: Joint, end: ir.Value, other: Unlike) -> None:
        self._h = h
        self._moved = b.moved
        self._end = end
        self._other = other
        self._codes: set[ir.Value] = set()  # integers in B, and the real value itself here
        self._real: set[ir.Value] = set()  # the same, in ranges that are measured, and the scales of these

    def __call__(self, node: ir.Node, known: Known) -> bool:
        """Write a node and say so; False: it is to be copied."""
        first = node.inputs[0] if node.inputs else None
        if first is None or first not in self._moved:
            return False
        op, y = self._h.tape, node.outputs[0]
        measured = computes(node.op_type) == "quantize" and node.inputs[1] in self._real
        if measured or (computes(node.op_type) == "quantize" and all(_passes_on(one) for one, _ in y.uses())):
            self._codes.add(y)
            if measured:
                self._real.add(y)
            known[y] = known[first] if measured else self._cut_off(node, known[first])
        elif computes(node.op_type) == "dequantize" and first in self._codes:
            known[y] = self.laid(y, known[first])
        elif computes(node.op_type) == "quantize_measured":
            self._codes.add(y)
            self._real.update(node.outputs)
            known[y] = known[first]
            known[node.outputs[1]], known[node.outputs[2]] = op.const(np.float32(1)), op.const(np.float32(0))
        else:
            if first in self._codes and node.op_type in _HANDS_ON:
                self._codes.update(node.outputs)
            return self._operator(node, known)
        return True

    def _operator(self, node: ir.Node, known: Known) -> bool:
        twins, y = self._other.twins or {}, node.outputs[0]
        if node.op_type in INTEGER_SUMS:
            if node.inputs[0] not in self._real:
                return False
            known[y] = self._product(node, known)
        elif node in twins:
            (other, inputs), first = twins[node], twins[node].inputs[0]
            if other is None and first is not None:
                known[y] = self._h.value(first, known)
            else:
                self._h.copy(node, known, other, inputs)
        elif y in self._other.laid:
            self._h.copy(node, known)
        else:
            return False
        known[y] = self.laid(y, known[y])
        return True

    def laid(self, y: ir.Value, value: ir.Value) -> ir.Value:
        """What stands for a value of B, behind the operators of A that B lacks there."""
        for node in self._other.laid.get(y, ()):
            made: Known = {one: value for one in node.inputs[:1] if one is not None}
            self._h.copy(node, made)
            value = made[node.outputs[0]]
        return value

    def _cut_off(self, node: ir.Node, value: ir.Value) -> ir.Value:
        """A value less what lies under a range that begins at 0, where no seam is."""
        own = of_node(node)
        if own is None or own.low is None or own.scale is None or (own.low < -_STEPS * own.scale).any():
            return value
        if any(one.outputs[0] is self._end for one, _ in node.outputs[0].uses()):
            return value
        return self._h.tape.Relu(value)

    def _product(self, node: ir.Node, known: Known) -> ir.Value:
        """The product of integers, of the real value instead."""
        op, (x, weights, _, zero) = self._h.tape, [*node.inputs, None, None][:4]
        assert x is not None and weights is not None
        real = op.Cast(self._h.value(weights, known), to=int(ir.DataType.FLOAT))
        convolves = family(node.op_type) == "convolution"
        if zero is not None:
            origin = op.Cast(self._h.value(zero, known), to=int(ir.DataType.FLOAT))
            if convolves and weights.shape is not None:
                origin = op.Reshape(origin, [-1, *[1] * (len(weights.shape) - 1)])
            real = op.Sub(real, origin)
        twin = (self._other.twins or {}).get(node)
        like = node if twin is None or twin.node is None else twin.node
        attributes: dict[str, Any] = {name: attribute.value for name, attribute in like.attributes.items()}
        return (op.Conv if convolves else op.MatMul)(known[x], real, **attributes)


def _passes_on(node: ir.Node) -> bool:
    return computes(node.op_type) == "dequantize" or node.op_type in _HANDS_ON
