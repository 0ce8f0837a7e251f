"""Write the fused operators of com.microsoft as the operators of the standard that they were made of.

ONNX Runtime's optimiser fuses what it finds, and saves files so: a convolution with the addition and the activation
behind it, a Gelu of five operators. The two mean the same up to the rounding of a last place (and ONNX Runtime fuses
them again when it runs), but of the parts each has a gradient rule, a shape and a place in the tables. Semantics: ONNX
Runtime's ContribOperators.md. Standard operators that are defined by others (Attention and its like) are written out by
their own definition.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis.dataflow import inline
from onnxviz.graph.naming import fresh, names
from onnxviz.graph.shapes import infer
from onnxviz.graph.tape import Tape, Writer

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
    parts: _Parts | None = None
    for node in list(model.graph.all_nodes()):
        step = _STEPS.get(node.op_type) if node.domain == _MICROSOFT else _EARLY.get(node.op_type)
        if step is not None:
            parts = parts or _Parts(model, node)
            parts.node = node
            step(parts)


def channels_first(rank: int) -> list[int]:
    """The order of axes that makes (N, *spatial, C) to (N, C, *spatial)."""
    return [0, rank - 1, *range(1, rank - 1)]


def channels_last(rank: int) -> list[int]:
    """The order of axes that makes (N, C, *spatial) to (N, *spatial, C)."""
    return [0, *range(2, rank), 1]


class _Parts:
    """The fused node at hand on its way to its parts."""

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

    def kept(self, names: Sequence[str]) -> dict[str, Any]:
        """The node's own attributes of these names."""
        return {k: a.value for k, a in self.node.attributes.items() if k in names}

    def get(self, name: str, default: Any) -> Any:
        attribute = self.node.attributes.get(name)
        return default if attribute is None else attribute.value

    def number(self, value: float) -> ir.Value:
        """A constant of the type that the node computes in."""
        return self.tape.const(value, self.kind())

    def kind(self) -> Any:
        """The numpy type of the node's data."""
        x = self.node.inputs[0]
        assert x is not None
        if x.dtype is None and not self._single:
            infer(self.model)  # what an earlier fused operator gives has its type only now
        return np.float32 if x.dtype is None else x.dtype.numpy()

    def activation(self, name: str, parameters: dict[str, float], y: Callable[[], ir.Value]) -> None:
        """The node becomes this activation of y; where the name is unknown it stays as it is."""
        if name == "Clip" and self.opset >= 11:
            bounds = [self.number(v) for v in (parameters["min"], parameters["max"])]
            self.become.Clip(y(), *bounds)
        else:
            (getattr(self.become, name) if name else self.become.Identity)(y(), **parameters)


def _listed(to: _Parts) -> tuple[str, dict[str, float]] | None:
    """The activation in the attributes `activation` and `activation_params`; None where it is unknown."""
    name, values = to.get("activation", ""), to.get("activation_params", ())
    if name and (name not in ACTIVATIONS or (name == "Clip" and len(values) != 2)):
        return None
    return name, dict(zip(ACTIVATIONS.get(name, ()), map(float, values), strict=False))


def _conv(to: _Parts) -> None:
    """Conv, then the addition of a fourth input, then an activation."""
    found = _listed(to)
    if found is None:
        return
    last = to.node.op_type.startswith("Nhwc")
    w, z = to.input(1), to.input(3)
    rank = 0 if w is None or w.shape is None else len(w.shape)
    if last and not rank:
        return

    def y() -> ir.Value:
        x = to.node.inputs[0]
        conv = to.op.Conv(
            to.op.Transpose(x, perm=channels_first(rank)) if last else x,
            w,
            to.input(2),
            **to.kept(_CONV),
        )
        y = to.op.Transpose(conv, perm=channels_last(rank)) if last else conv
        return y if z is None else to.op.Add(y, z)

    if not found[0] and z is None and not last:
        to.become.Conv(*[v for v in (to.node.inputs[0], w, to.input(2)) if v is not None], **to.kept(_CONV))
    else:
        to.activation(*found, y)


def _max_pool(to: _Parts) -> None:
    """MaxPool of (N, *spatial, C)."""
    rank = len(to.get("kernel_shape", ())) + 2
    x = to.op.Transpose(to.node.inputs[0], perm=channels_first(rank))
    to.become.Transpose(to.op.MaxPool(x, **to.kept(_POOL)), perm=channels_last(rank))


def _gemm(to: _Parts) -> None:
    """Gemm, then an activation whose parameters are attributes of their own."""
    name = to.get("activation", "")
    if name and (name not in ACTIVATIONS or name == "Clip"):
        return
    given = {p: to.node.attributes.get(f"activation_{p}") for p in ACTIVATIONS.get(name, ())}
    parameters = {p: a.as_float() for p, a in given.items() if a is not None}
    inputs = [v for v in to.node.inputs if v is not None]
    attributes = to.kept(("alpha", "beta", "transA", "transB"))
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
    parameters: dict[str, Any] = {}
    if name == "Softmax":
        parameters = {"axis": int(to.get("activation_axis", -1))}
    elif name in ACTIVATIONS and name != "Clip":
        given = {p: to.node.attributes.get(f"activation_{p}") for p in ACTIVATIONS[name]}
        parameters = {p: a.as_float() for p, a in given.items() if a is not None}
    else:
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
    product = (real, to.op.Mul(a_scale, b_scale))
    if bias is None:
        to.become.Mul(*product)
    else:
        to.become.Add(to.op.Mul(*product), bias)


_STEPS: dict[str, Callable[[_Parts], None]] = {
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
_EARLY: dict[str, Callable[[_Parts], None]] = {
    "SimplifiedLayerNormalization": _simplified_layer_normalization
}


# --- operators that the standard defines by others ------------------------------------------------

#: Operators whose definition in the standard is a function of operators that have gradient rules.
EXPANDED = frozenset({
    "Attention", "CausalConvWithState", "LinearAttention", "NegativeLogLikelihoodLoss", "RotaryEmbedding",
    "SoftmaxCrossEntropyLoss", "SwiGLU", "BlackmanWindow", "HammingWindow", "HannWindow",
})  # fmt: skip
_EXPANDED_DOMAIN = "onnxviz.expanded"


def expand(model: ir.Model) -> None:
    """Replace every such operator by its definition, in place.

    raises   ModelUnsuitable where the standard has no definition for the node's form
    """
    nodes = [n for n in model.graph.all_nodes() if n.op_type in EXPANDED and not n.domain]
    if not nodes:
        return
    version = model.opset_imports[""]
    infer(model)
    taken = names(model.graph)
    for count, node in enumerate(nodes):
        for y in node.outputs:
            y.name = y.name or fresh(f"{node.name}/left_out", taken)
        function = _definition(node, version)
        function.name, function.domain = f"{node.op_type}_{count}", _EXPANDED_DOMAIN
        found = ir.serde.deserialize_function(function)
        model.functions[found.identifier()] = found
        node.domain, node.op_type = _EXPANDED_DOMAIN, function.name
    for graph in model.graphs():
        graph.opset_imports[_EXPANDED_DOMAIN] = 1
    inline(model)
    for graph in model.graphs():
        graph.opset_imports.pop(_EXPANDED_DOMAIN, None)


def _definition(node: ir.Node, version: int) -> onnx.FunctionProto:
    """The function that the standard gives for this node; its shape depends on inputs and attributes."""
    schema: Any = onnx.defs.get_schema(node.op_type, version, "")  # its type stubs miss the functions
    versions = schema.context_dependent_function_opset_versions or schema.function_opset_versions
    fitting = [v for v in versions if v <= version]
    if not fitting:
        raise ModelUnsuitable(
            f"the standard does not define {node.op_type} of opset {version} (node {node.name!r}) by other operators"
        )
    for name, formal in schema.attributes.items():
        if name not in node.attributes and formal.default_value.name:
            node.attributes[name] = ir.serde.deserialize_attribute(formal.default_value)
    if schema.has_context_dependent_function:
        proto = ir.serde.serialize_node(node).SerializeToString()
        body = schema.get_context_dependent_function_with_opset_version(
            max(fitting), proto, [_type(x) for x in node.inputs]
        )
    else:
        body = schema.get_function_with_opset_version(max(fitting))
    function = onnx.FunctionProto()
    function.ParseFromString(body)
    made = {name for inner in function.node for name in inner.output} | set(function.input)
    for name in function.output:  # what the form at hand does not give, and nothing may read
        if name not in made:
            nothing = onnx.helper.make_tensor("nothing", onnx.TensorProto.FLOAT, [0], [])
            function.node.append(onnx.helper.make_node("Constant", [], [name], value=nothing))
    del function.output[len(node.outputs) :]  # optional outputs that the node leaves out are not computed
    return function


def _type(value: ir.Value | None) -> bytes:
    kind = onnx.TypeProto() if value is None else ir.serde.serialize_value(value).type
    return bytes(kind.SerializeToString())
