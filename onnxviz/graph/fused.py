"""Write fused and quantised operators as those of the standard that they were made of.

ONNX Runtime's optimiser fuses what it finds, and saves files so: a convolution with the addition and the activation
behind it, a Gelu of five operators. The two mean the same up to the rounding of a last place (and ONNX Runtime fuses
them again when it runs), but of the parts each has a gradient rule, a shape and a place in the tables. Semantics: ONNX
Runtime's ContribOperators.md. QOperator forms (QLinearConv and its kind) become DequantizeLinear, the float operator,
QuantizeLinear, whose range, which is where the exporter put Relu and Clip, can be seen.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelRejected
from onnxviz.graph.analysis.twins import channels_first, channels_last
from onnxviz.graph.lift import GROUPED
from onnxviz.graph.operators import SPELLINGS, computes, computing
from onnxviz.graph.shapes import infer
from onnxviz.graph.tape import Tape, Writer
from onnxviz.text import printable

_MICROSOFT = "com.microsoft"
#: Activation that a fused operator carries -> the names of its parameters, in the order of `activation_params`.
ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Celu": ("alpha",),
    "Clip": ("min", "max"),
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "HardSwish": (),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Selu": ("alpha", "gamma"),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Tanh": (),
    "ThresholdedRelu": ("alpha",),
}
_OTHER_FLOATS = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_POOL = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")


def split(model: ir.Model) -> None:
    """Rewrite every fused operator of the model, in place; forms that are unknown stay, to be refused by name."""
    _rewrite(model, lambda node: (_STEPS if node.domain == _MICROSOFT else _EARLY).get(node.op_type))


def as_qdq(model: ir.Model) -> None:
    """Rewrite the QOperator nodes, in place; ONNX Runtime's own quantisers get the standard's domain."""
    _rewrite(model, lambda node: QUANTISED.get((node.domain, node.op_type)))


def _rewrite(model: ir.Model, step_for: Callable[[ir.Node], Step | None]) -> None:
    parts: _Parts | None = None
    for node in list(model.graph.all_nodes()):
        step = step_for(node)
        if step is not None:
            parts = parts or _Parts(model, node)
            parts.node = node
            step(parts)


class _Parts:
    """The node at hand on its way to its parts."""

    def __init__(self, model: ir.Model, node: ir.Node) -> None:
        self.model, self.tape, self.node = model, Tape(model.graph), node
        self.opset = model.opset_imports.get("", model.opset_imports.get("ai.onnx", 1))

    @functools.cached_property
    def _single(self) -> bool:
        """Whether all the file's floats are of single precision, so that nothing needs to be inferred."""
        sources = (*self.model.graph.inputs, *self.model.graph.initializers.values())
        return not any(v.dtype in _OTHER_FLOATS for v in sources)

    def input(self, place: int) -> ir.Value | None:
        return self.node.inputs[place] if place < len(self.node.inputs) else None

    @property
    def op(self) -> Writer:
        return self.tape.before(self.node)

    @property
    def become(self) -> Writer:
        return self.tape.become(self.node)

    def kept(self, *names: str) -> dict[str, Any]:
        """The node's own attributes of these names."""
        return {k: a.value for k, a in self.node.attributes.items() if k in names}

    def but(self, *names: str) -> dict[str, Any]:
        """The node's own attributes of other names."""
        return {k: a.value for k, a in self.node.attributes.items() if k not in names}

    def get(self, name: str, default: Any) -> Any:
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def number(self, value: float) -> ir.Value:
        """A constant of the type that the node computes in."""
        x = self.node.inputs[0]
        assert x is not None
        if x.dtype is None and not self._single:
            infer(self.model)  # what an earlier fused operator gives has its type only now
        return self.tape.const(value, np.float32 if x.dtype is None else x.dtype.numpy())

    def activation(self, name: str, parameters: dict[str, float], y: Callable[[], ir.Value]) -> None:
        """The node becomes this activation of y; where the name is unknown it stays as it is."""
        if name == "Clip" and self.opset >= 11:
            bounds = [self.number(v) for v in (parameters["min"], parameters["max"])]
            self.become.Clip(y(), *bounds)
        else:
            (getattr(self.become, name) if name else self.become.Identity)(y(), **parameters)

    def named(self, name: str) -> dict[str, float] | None:
        """The activation's parameters, which are attributes of their own; None where it is unknown."""
        if name and (name not in ACTIVATIONS or name == "Clip"):
            return None
        given = {p: self.node.attributes.get(f"activation_{p}") for p in ACTIVATIONS.get(name, ())}
        return {p: a.as_float() for p, a in given.items() if a is not None}

    def mapped(self, x: Any, rank: int, last: bool, write: Callable[[Any], ir.Value]) -> ir.Value:
        """What is written of maps; `last`: which lie as (N, *spatial, C), and so does the result."""
        if not last:
            return write(x)
        y = write(self.op.Transpose(x, perm=channels_first(rank)))
        turned: ir.Value = self.op.Transpose(y, perm=channels_last(rank))
        return turned


Step = Callable[[_Parts], None]


def _conv(to: _Parts) -> None:
    """Conv, then the addition of a fourth input, then an activation by `activation` and `activation_params`."""
    name, values = to.get("activation", ""), to.get("activation_params", ())
    last, w, z = to.node.op_type.startswith("Nhwc"), to.input(1), to.input(3)
    rank = 0 if w is None or w.shape is None else len(w.shape)
    unknown = name and (name not in ACTIVATIONS or (name == "Clip" and len(values) != 2))
    if unknown or (last and not rank):
        return
    if not name and z is None and not last:
        to.become.Conv(*[v for v in (to.node.inputs[0], w, to.input(2)) if v is not None], **to.kept(*_CONV))
        return

    def y() -> ir.Value:
        attributes = to.kept(*_CONV)
        y = to.mapped(to.input(0), rank, last, lambda x: to.op.Conv(x, w, to.input(2), **attributes))
        return y if z is None else to.op.Add(y, z)

    to.activation(name, dict(zip(ACTIVATIONS.get(name, ()), map(float, values), strict=False)), y)


def _max_pool(to: _Parts) -> None:
    """MaxPool of (N, *spatial, C)."""
    rank = len(to.get("kernel_shape", ())) + 2
    x = to.op.Transpose(to.node.inputs[0], perm=channels_first(rank))
    to.become.Transpose(to.op.MaxPool(x, **to.kept(*_POOL)), perm=channels_last(rank))


def _gemm(to: _Parts) -> None:
    """Gemm, then an activation whose parameters are attributes of their own."""
    name = to.get("activation", "")
    parameters = to.named(name)
    if parameters is None:
        return
    inputs = [v for v in to.node.inputs if v is not None]
    attributes = to.kept("alpha", "beta", "transA", "transB")
    if not name:
        to.become.Gemm(*inputs, **attributes)
    else:
        to.activation(name, parameters, lambda: to.op.Gemm(*inputs, **attributes))


def _matmul(to: _Parts) -> None:
    """alpha·A·B, either transposed before; a transposed batch axis is the first, moved behind the second last."""
    sides, alpha = [to.node.inputs[0], to.node.inputs[1]], float(to.get("alpha", 1.0))
    for i, side in enumerate("AB"):
        turned, moved = to.get(f"trans{side}", 0), to.get(f"transBatch{side}", 0)
        x = sides[i]
        if not (turned or moved) or x is None:
            continue
        if x.shape is None:
            infer(to.model)
        if x.shape is None:
            return
        axes = list(range(len(x.shape)))
        if moved:
            axes.insert(len(axes) - 2, axes.pop(0))
        if turned and len(axes) > 1:
            axes[-2:] = axes[:-3:-1]
        sides[i] = to.op.Transpose(x, perm=axes)
    name = to.get("activation", "")
    scaled = alpha != 1.0
    if name in ("", None):
        if scaled:
            to.become.Mul(to.op.MatMul(*sides), to.number(alpha))
        else:
            to.become.MatMul(*sides)
        return
    softmax = name == "Softmax"
    parameters: Any = {"axis": int(to.get("activation_axis", -1))} if softmax else to.named(name)
    if parameters is None:
        return
    factor = to.number(alpha) if scaled else None
    product = to.op.MatMul(*sides)
    to.become.add(name, product if factor is None else to.op.Mul(product, factor), **parameters)


def _gelu(to: _Parts) -> None:
    """x·Φ(x) of x plus a bias, in the parts that ONNX Runtime fuses again."""
    half, one, root = (to.number(v) for v in (0.5, 1.0, math.sqrt(0.5)))
    x = _biased(to)
    cdf = to.op.Add(to.op.Erf(to.op.Mul(x, root)), one)
    to.become.Mul(to.op.Mul(x, cdf), half)


def _fast_gelu(to: _Parts) -> None:
    """Gelu by tanh: x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³))) of x plus a bias."""
    half, one, root, cube = (to.number(v) for v in (0.5, 1.0, math.sqrt(2 / math.pi), 0.044715))
    x = _biased(to)
    bend = to.op.Mul(x, to.op.Add(to.op.Mul(to.op.Mul(x, x), cube), one))
    to.become.Mul(to.op.Mul(x, to.op.Add(to.op.Tanh(to.op.Mul(bend, root)), one)), half)


def _biased(to: _Parts) -> ir.Value:
    x, bias = to.node.inputs[0], to.input(1)
    assert x is not None
    return x if bias is None else to.op.Add(x, bias)


def _quick_gelu(to: _Parts) -> None:
    """x·σ(αx)."""
    x, alpha = to.node.inputs[0], to.number(float(to.get("alpha", 1.702)))
    to.become.Mul(x, to.op.Sigmoid(to.op.Mul(x, alpha)))


def _bias_add(to: _Parts) -> None:
    """x + bias + skip."""
    x, bias, skip = (to.input(place) for place in range(3))
    to.become.Add(*((x, bias) if skip is None else (to.op.Add(x, bias), skip)))


def _skip_layer_normalization(to: _Parts) -> None:
    """LayerNormalization over the last axis of a sum; the fourth output is the sum. Also by root mean square."""
    simple = "Simplified" in to.node.op_type
    x, skip, gamma = (to.input(place) for place in range(3))
    beta, bias = (None, to.input(3)) if simple else (to.input(3), to.input(4))
    if any(y.uses() or y.is_graph_output() for y in to.node.outputs[1:3]):
        return
    total = to.op.Add(x, skip)
    total = total if bias is None else to.op.Add(total, bias)
    if len(to.node.outputs) > 3:
        to.node.outputs[3].replace_all_uses_with(total, replace_graph_outputs=True)
        name, to.node.outputs[3].name = to.node.outputs[3].name, None
        total.name = name or total.name
    epsilon = float(to.get("epsilon", 1e-12))
    if simple:
        _root_mean_square(to, total, gamma, epsilon)
    else:
        parts = [total, gamma] if beta is None else [total, gamma, beta]
        to.become.LayerNormalization(*parts, axis=-1, epsilon=epsilon)


def _simplified_layer_normalization(to: _Parts) -> None:
    """RMSNormalization, which the standard has from opset 23 on."""
    x, axis = to.node.inputs[0], int(to.get("axis", -1))
    if axis >= 0 and x is not None and x.shape is not None:
        axis -= len(x.shape)
    if axis < 0 and not any(y.uses() or y.is_graph_output() for y in to.node.outputs[1:]):
        _root_mean_square(to, x, to.input(1), float(to.get("epsilon", 1e-5)), axis)


def _root_mean_square(
    to: _Parts, x: ir.Value | None, scale: ir.Value | None, epsilon: float, axis: int = -1
) -> None:
    rim, axes = to.number(epsilon), list(range(axis, 0))
    square = to.op.Mul(x, x)
    if to.opset >= 18:
        mean = to.op.ReduceMean(square, to.tape.const(axes), keepdims=1)
    else:
        mean = to.op.ReduceMean(square, axes=axes, keepdims=1)
    to.become.Mul(to.op.Div(x, to.op.Sqrt(to.op.Add(mean, rim))), scale)


def _integer_product(to: _Parts) -> None:
    """The product of integers, in units of both scales."""
    a, b, a_scale, b_scale, a_zero, b_zero, bias = (to.input(place) for place in range(7))
    _scaled_product(to, (a, b, a_zero, b_zero), a_scale, b_scale, bias)


def _dynamic_product(to: _Parts) -> None:
    """A float matrix, quantised on the way, times one of integers."""
    a, b, b_scale, b_zero, bias = (to.input(place) for place in range(5))
    units, a_scale, a_zero = to.op.DynamicQuantizeLinear(a, _outputs=3)
    _scaled_product(to, (units, b, a_zero, b_zero), a_scale, b_scale, bias)


def _scaled_product(to: _Parts, operands: Any, a_scale: Any, b_scale: Any, bias: ir.Value | None) -> None:
    while operands[-1] is None:
        operands = operands[:-1]
    real = to.op.Cast(to.op.MatMulInteger(*operands), to=int(ir.DataType.FLOAT))
    unit = to.op.Mul(a_scale, b_scale)
    if bias is None:
        to.become.Mul(real, unit)
    else:
        to.become.Add(to.op.Mul(real, unit), bias)


_STEPS: dict[str, Step] = {
    "BiasAdd": _bias_add,
    "BiasGelu": _gelu,
    "DynamicQuantizeMatMul": _dynamic_product,
    "FastGelu": _fast_gelu,
    "FusedConv": _conv,
    "FusedGemm": _gemm,
    "FusedMatMul": _matmul,
    "FusedMatMulActivation": _matmul,
    "Gelu": _gelu,
    "MatMulIntegerToFloat": _integer_product,
    "NhwcFusedConv": _conv,
    "NhwcMaxPool": _max_pool,
    "QuickGelu": _quick_gelu,
    "SimplifiedLayerNormalization": _simplified_layer_normalization,
    "SkipLayerNormalization": _skip_layer_normalization,
    "SkipSimplifiedLayerNormalization": _skip_layer_normalization,
    "TransposeMatMul": _matmul,
}
# What ONNX Runtime had in ONNX's own domain.
_EARLY: dict[str, Step] = {"SimplifiedLayerNormalization": _simplified_layer_normalization}


# --- quantised: every operand as (tensor, scale, zero point), then the result's scale and zero point ---------


def _real(to: _Parts, first: int, axis: int | None = None) -> ir.Value:
    """The operand that starts at this input, dequantised."""
    x, scale, zero = (to.input(first + i) for i in range(3))
    if x is None or scale is None:  # ONNX Runtime refuses it, too
        place, what = (first, "tensor") if x is None else (first + 1, "scale")
        name = printable(to.node.name or to.node.outputs[0].name, 80)
        raise ModelRejected(
            f"the node {name!r} ({to.node.op_type}) lacks input {place}, the {what} of an operand"
        )
    several = scale.shape is not None and len(scale.shape) == 1 and scale.shape[0] != 1
    along = {"axis": axis} if several and axis is not None else {}
    real: ir.Value = to.op.DequantizeLinear(x, scale, zero, **along)
    return real


def _bias(to: _Parts, place: int) -> list[ir.Value]:
    """The int32 bias at this input, which is in units of both scales; [] where it is left out."""
    if to.input(place) is None:
        return []
    scale = to.op.Mul(to.input(1), to.input(4))
    return [to.op.Mul(to.op.Cast(to.input(place), to=int(ir.DataType.FLOAT)), scale)]


def _requantise(to: _Parts, y: ir.Value, place: int) -> None:
    """The node becomes the quantiser of y by the scale at this input; y itself where the result is float."""
    scale, zero = to.input(place), to.input(place + 1)
    if scale is None:
        to.become.Identity(y)
    else:
        to.become.QuantizeLinear(*[x for x in (y, scale, zero) if x is not None])


def _quantised_conv(to: _Parts) -> None:
    weights, last = to.input(3), bool(to.get("channels_last", 0))  # the weights never lie so
    rank = 0 if weights is None or weights.shape is None else len(weights.shape)
    if last and not rank:
        return
    x, w = _real(to, 0), _real(to, 3, axis=0)
    bias, attributes = _bias(to, 8), to.but("channels_last")
    _requantise(to, to.mapped(x, rank, last, lambda x: to.op.Conv(x, w, *bias, **attributes)), 6)


def _quantised_gemm(to: _Parts) -> None:
    """alpha does not touch the bias."""
    operands = _real(to, 0), _real(to, 3, axis=0 if to.get("transB", 0) else 1)
    _requantise(to, to.op.Gemm(*operands, *_bias(to, 6), **to.but()), 7)


def _quantised_binary(to: _Parts) -> None:
    _requantise(to, to.op.add(SPELLINGS[to.node.op_type].of, _real(to, 0), _real(to, 3)), 6)


def _quantised_unary(to: _Parts) -> None:
    op_type, x = SPELLINGS[to.node.op_type].of, to.input(0)
    rank = 4 if x is None or x.shape is None else len(x.shape)  # a pool's, and those are of maps
    attributes, last = to.but("channels_last", "opset"), bool(to.get("channels_last", 0))
    y = to.mapped(_real(to, 0), rank, last, lambda x: to.op.add(op_type, x, **attributes))
    _requantise(to, y, 3)


def _quantised_concat(to: _Parts) -> None:
    parts = [_real(to, 2 + 3 * i) for i in range((len(to.node.inputs) - 2) // 3)]
    _requantise(to, to.op.Concat(*parts, **to.but()), 0)


def _quantiser(to: _Parts) -> None:
    """It has types that the standard's had not before opset 21: the model takes that, as `lift` does for others."""
    to.node.domain, to.node.version = "", None
    for graph in (to.tape.graph, *to.tape.graph.subgraphs()):
        graph.opset_imports[""] = max(graph.opset_imports.get("", 0), GROUPED)


#: Domain and operator -> its rewriting.
QUANTISED: dict[tuple[str, str], Step] = {
    ("", "QLinearConv"): _quantised_conv,
    (_MICROSOFT, "QLinearConv"): _quantised_conv,
    ("", "QLinearMatMul"): lambda to: _requantise(to, to.op.MatMul(_real(to, 0), _real(to, 3, axis=1)), 6),
    (_MICROSOFT, "QGemm"): _quantised_gemm,
    (_MICROSOFT, "QLinearConcat"): _quantised_concat,
    **{(_MICROSOFT, name): _quantiser for name in computing("quantize dequantize")},
    **{
        (_MICROSOFT, name): _quantised_unary if row.scale == 3 else _quantised_binary
        for name, row in SPELLINGS.items()
        if row.scale == 3 or (row.scale == 6 and computes(row.of) in ("add", "multiply"))
    },
}
