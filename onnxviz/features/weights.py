"""The weights of a convolution as numbers, however the file stores them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.operators import family
from onnxviz.graph.surgery import cut
from onnxviz.network import Network

# Families of operators through which a value still belongs to the convolution before it.
_AFTER = frozenset({"activation", "form", "normalisation", "quantisation", "type"})


def convolution(net: Network, layer: str | None) -> ir.Node:
    """The convolution called `layer`, or the one whose activation is called that; None: the first in the network.

    raises   UnknownLayer; ModelUnsuitable where there is none
    """
    if layer is None:
        for first in net.model.graph:
            if _convolves(first):
                return first
        raise ModelUnsuitable("the network has no convolution, so it has no filters to show")
    found = net.layer(layer)
    node = _producer(net.model, found.name)
    while node is not None and not _convolves(node) and _belongs(node):
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    if node is None or not _convolves(node):
        other = convolution(net, None)
        raise ModelUnsuitable(
            f"layer {layer!r} ({found.op}) is not a convolution, so it has no filters; "
            f"the first convolution is {other.outputs[0].name!r}"
        )
    return node


def _convolves(node: ir.Node) -> bool:
    return family(node.op_type) == "convolution"


def _belongs(node: ir.Node) -> bool:
    return family(node.op_type) in _AFTER or view(node).op in ("Add", "Mul")


def _producer(model: ir.Model, name: str) -> ir.Node | None:
    for node in model.graph:
        if any(output.name == name for output in node.outputs):
            return node
    return None


def kernel(net: Network, node: ir.Node) -> np.ndarray:
    """A convolution's weights, float32: (out, in / group, kh, kw), or (in, out / group, kh, kw) for ConvTranspose.

    Weights behind DequantizeLinear, Cast, Constant or ConstantOfShape nodes are computed by ONNX Runtime, so what
    is shown is what the network uses.

    raises   ModelUnsuitable when they depend on the image
    """
    weight = view(node).input(1)
    array = _constant(net, weight, node)
    if node.op_type == "QLinearConv":
        scale, zero = (_constant(net, node.inputs[i], node) for i in (4, 5))
        column = (-1,) + (1,) * (array.ndim - 1)
        array = (array.astype(np.float32) - zero.reshape(column)) * scale.reshape(column)
    return array.astype(np.float32)


def _constant(net: Network, value: ir.Value | None, node: ir.Node) -> np.ndarray:
    if value is None:
        raise ModelUnsuitable(f"convolution {node.outputs[0].name!r} has no weights")
    if value.const_value is not None:
        array: np.ndarray = value.const_value.numpy()
        return array
    name = str(value.name)
    model = cut(net.model, [name])
    if any(value.uses() for value in model.graph.inputs):
        raise ModelUnsuitable(
            f"the weights of {node.outputs[0].name!r} are computed from the image, so there are no filters to show"
        )
    model.graph.inputs.clear()
    return net.compile(lambda: model, key=("constant", name))({})[name]
