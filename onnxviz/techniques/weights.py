"""The weights of a convolution as numbers, however the file stores them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.surgery import cut
from onnxviz.network import Network

# Operators through which a value still belongs to the convolution before it.
_AFTER = frozenset(
    [
        "Relu",
        "LeakyRelu",
        "PRelu",
        "Elu",
        "Selu",
        "Celu",
        "Clip",
        "Sigmoid",
        "HardSigmoid",
        "HardSwish",
        "Mish",
        "Softplus",
        "Tanh",
        "Gelu",
        "ThresholdedRelu",
        "BatchNormalization",
        "InstanceNormalization",
        "LRN",
        "Identity",
        "Cast",
        "QuantizeLinear",
        "DequantizeLinear",
        "Add",
        "Mul",
        "Dropout",
    ]
)
# Where the kernel stands among a convolution's inputs, and the scale that belongs to it.
_KERNEL = {"Conv": 1, "ConvTranspose": 1, "FusedConv": 1, "ConvInteger": 1, "QLinearConv": 3}


def convolution(net: Network, layer: str | None) -> ir.Node:
    """The convolution called `layer`, or the one whose activation is called that; None: the first in the network.

    raises   UnknownLayer; ModelUnsuitable where there is none
    """
    if layer is None:
        for first in net.model.graph:
            if first.op_type in _KERNEL:
                return first
        raise ModelUnsuitable("the network has no convolution, so it has no filters to show")
    found = net.layer(layer)
    node = _producer(net.model, found.name)
    while node is not None and node.op_type not in _KERNEL and node.op_type in _AFTER:
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    if node is None or node.op_type not in _KERNEL:
        other = convolution(net, None)
        raise ModelUnsuitable(
            f"layer {layer!r} ({found.op}) is not a convolution, so it has no filters; "
            f"the first convolution is {other.outputs[0].name!r}"
        )
    return node


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
    weight = node.inputs[_KERNEL[node.op_type]]
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
