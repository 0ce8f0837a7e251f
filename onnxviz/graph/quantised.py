"""Write QOperator forms (QLinearConv and its kind) as DequantizeLinear, the float operator, QuantizeLinear.

The two forms mean the same up to the rounding of a last place; of the second every part has a gradient rule, and
the range of QuantizeLinear, which is where the exporter put Relu and Clip, can be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir

from onnxviz.errors import ModelRejected
from onnxviz.graph.fused import channels_first, channels_last
from onnxviz.graph.lift import GROUPED
from onnxviz.graph.operators import SPELLINGS, computes, computing
from onnxviz.graph.tape import Tape, Writer
from onnxviz.text import printable

_MICROSOFT = "com.microsoft"
_MOST_INPUTS = 9  # of those that do not join any number
# How the inputs lie: every operand as (tensor, scale, zero point), then the result's scale and zero point.
_BINARY = {
    name: row.of
    for name, row in SPELLINGS.items()
    if row.scale == 6 and computes(row.of) in ("add", "multiply")
}
_UNARY = {name: row.of for name, row in SPELLINGS.items() if row.scale == 3}


def as_qdq(model: ir.Model) -> None:
    """Rewrite the QOperator nodes, in place; ONNX Runtime's own quantisers get the standard's domain."""
    tape: Tape | None = None
    for node in list(model.graph.all_nodes()):
        step = _STEPS.get((node.domain.removeprefix("ai.onnx"), node.op_type))
        if step is None:
            continue
        tape = tape or Tape(model.graph)
        step(_Rewriter(tape, node))


class _Rewriter:
    """One node on its way to another form."""

    def __init__(self, tape: Tape, node: ir.Node) -> None:
        self.node = node
        self.tape = tape
        self.inputs = list(node.inputs) + [None] * _MOST_INPUTS

    def attributes(self, *dropped: str) -> dict[str, Any]:
        """The node's attributes but these."""
        return {k: a.value for k, a in self.node.attributes.items() if k not in dropped}

    def channels_last(self) -> bool:
        """Whether the data lie as (N, *spatial, C); the weights never do."""
        return bool(self.node.attributes.get_int("channels_last", 0))

    @property
    def op(self) -> Writer:
        return self.tape.before(self.node)

    def real(self, first: int, axis: int | None = None) -> ir.Value:
        """The operand that starts at this input, dequantised."""
        x, scale, zero = self.inputs[first : first + 3]
        if x is None or scale is None:  # ONNX Runtime refuses it, too
            place, what = (first, "tensor") if x is None else (first + 1, "scale")
            name = printable(self.node.name or self.node.outputs[0].name, 80)
            raise ModelRejected(
                f"the node {name!r} ({self.node.op_type}) lacks input {place}, the {what} of an operand"
            )
        attributes = {} if axis is None or scale is None or not _vector(scale) else {"axis": axis}
        return self.op.DequantizeLinear(x, scale, zero, **attributes)

    def result(self, y: ir.Value, scale: ir.Value | None, zero: ir.Value | None) -> None:
        """The node becomes the quantiser of this value (or its stand-in where the result is float)."""
        if scale is None:
            self.tape.become(self.node).Identity(y)
        else:
            self.tape.become(self.node).QuantizeLinear(*[x for x in (y, scale, zero) if x is not None])


def _vector(scale: ir.Value) -> bool:
    return scale.shape is not None and len(scale.shape) == 1 and scale.shape[0] != 1


def _conv(to: _Rewriter) -> None:
    weights = to.inputs[3]
    last = to.channels_last()
    rank = 0 if weights is None or weights.shape is None else len(weights.shape)
    if last and not rank:
        return
    x, w = to.real(0), to.real(3, axis=0)
    if last:
        x = to.op.Transpose(x, perm=channels_first(rank))
    inputs = [x, w]
    if to.inputs[8] is not None:
        scale = to.op.Mul(to.inputs[1], to.inputs[4])  # the bias is int32 in units of both scales
        inputs.append(to.op.Mul(to.op.Cast(to.inputs[8], to=int(ir.DataType.FLOAT)), scale))
    y = to.op.Conv(*inputs, **to.attributes("channels_last"))
    if last:
        y = to.op.Transpose(y, perm=channels_last(rank))
    to.result(y, to.inputs[6], to.inputs[7])


def _matmul(to: _Rewriter) -> None:
    to.result(to.op.MatMul(to.real(0), to.real(3, axis=1)), to.inputs[6], to.inputs[7])


def _gemm(to: _Rewriter) -> None:
    transposed = to.node.attributes["transB"].as_int() if "transB" in to.node.attributes else 0
    inputs = [to.real(0), to.real(3, axis=0 if transposed else 1)]
    if to.inputs[6] is not None:
        scale = to.op.Mul(to.inputs[1], to.inputs[4])
        # The int32 bias is in units of both scales, and alpha does not touch it.
        inputs.append(to.op.Mul(to.op.Cast(to.inputs[6], to=int(ir.DataType.FLOAT)), scale))
    to.result(to.op.Gemm(*inputs, **to.attributes()), to.inputs[7], to.inputs[8])


def _binary(to: _Rewriter) -> None:
    op_type = _BINARY[to.node.op_type]
    to.result(to.op.add(op_type, to.real(0), to.real(3)), to.inputs[6], to.inputs[7])


def _unary(to: _Rewriter) -> None:
    op_type, x = _UNARY[to.node.op_type], to.inputs[0]
    last = to.channels_last()
    rank = 4 if x is None or x.shape is None else len(x.shape)  # a pool's, and those are of maps
    real = to.real(0)
    if last:
        real = to.op.Transpose(real, perm=channels_first(rank))
    y = to.op.add(op_type, real, **to.attributes("channels_last", "opset"))
    if last:
        y = to.op.Transpose(y, perm=channels_last(rank))
    to.result(y, to.inputs[3], to.inputs[4])


def _concat(to: _Rewriter) -> None:
    count = (len(to.node.inputs) - 2) // 3
    parts = [to.real(2 + 3 * i) for i in range(count)]
    to.result(to.op.Concat(*parts, **to.attributes()), to.inputs[0], to.inputs[1])


def _quantiser(to: _Rewriter) -> None:
    """It has types that the standard's had not before opset 21: the model takes that, as `lift` does for others."""
    to.node.domain, to.node.version = "", None
    for graph in (to.tape.graph, *to.tape.graph.subgraphs()):
        graph.opset_imports[""] = max(graph.opset_imports.get("", 0), GROUPED)


_STEPS: dict[tuple[str, str], Callable[[_Rewriter], None]] = {
    ("", "QLinearConv"): _conv,
    (_MICROSOFT, "QLinearConv"): _conv,
    ("", "QLinearMatMul"): _matmul,
    (_MICROSOFT, "QGemm"): _gemm,
    (_MICROSOFT, "QLinearConcat"): _concat,
    **{(_MICROSOFT, name): _quantiser for name in computing("quantize dequantize")},
    **{(_MICROSOFT, name): _binary for name in _BINARY},
    **{(_MICROSOFT, name): _unary for name in _UNARY},
}
