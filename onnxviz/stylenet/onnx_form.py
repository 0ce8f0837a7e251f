"""A style network as an ONNX graph of standard operators, with open batch, height and width."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxviz._version import __version__
from onnxviz.stylenet.network import CENTRE, SPAN, Convolution, StyleNetwork

_OPSET, _IR = 17, 8


def to_onnx(network: StyleNetwork) -> onnx.ModelProto:
    """The network from `image`, (N, 3, H, W) RGB of 0 to 255, to `styled`, the same kind, each side the next multiple
    of four, clipped to 0 to 255.
    """
    graph = _Graph()
    x = "image"
    for place, layer in enumerate(network.down):
        x = graph.add("Relu", [graph.convolution(f"down.{place}", layer, x)], f"down.{place}.relu")
    for place, block in enumerate(network.middle):
        y = graph.add(
            "Relu",
            [graph.convolution(f"block.{place}.first", block.first, x)],
            f"block.{place}.first.relu",
        )
        y = graph.convolution(f"block.{place}.second", block.second, y)
        x = graph.add("Add", [x, y], f"block.{place}")
    for place, layer in enumerate(network.up):
        x = graph.add("Relu", [graph.convolution(f"up.{place}", layer, x)], f"up.{place}.relu")
    x = graph.add("Tanh", [graph.convolution("out", network.out, x)], "out.tanh")
    x = graph.add("Mul", [x, graph.weight("span", np.float32(SPAN))], "out.span")
    x = graph.add("Add", [x, graph.weight("centre", np.float32(CENTRE))], "out.centred")
    black, white = graph.weight("black", np.float32(0)), graph.weight("white", np.float32(255))
    graph.add("Clip", [x, black, white], "styled")
    return graph.model()


class _Graph:
    """Nodes and weights, one after the other."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def weight(self, name: str, value: Any) -> str:
        """A constant; torch tensors and arrays."""
        array = value.detach().cpu().numpy() if hasattr(value, "detach") else np.asarray(value)
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, op: str, inputs: list[str], name: str, **attributes: Any) -> str:
        """A node; the name of its output, which is its own."""
        self._nodes.append(helper.make_node(op, inputs, [name], name=name, **attributes))
        return name

    def convolution(self, name: str, layer: Convolution, x: str) -> str:
        """Upsampling, padding, convolution and normalisation of one layer."""
        if layer.up > 1:
            scales = self.weight(f"{name}.scales", np.array([1, 1, layer.up, layer.up], np.float32))
            x = self.add(
                "Resize",
                [x, "", scales],
                f"{name}.larger",
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
        p = layer.pad
        pads = self.weight(f"{name}.pads", np.array([0, 0, p, p, 0, 0, p, p], np.int64))
        x = self.add("Pad", [x, pads], f"{name}.padded", mode="reflect")
        kernel = self.weight(f"{name}.weight", layer.convolution.weight)
        bias = self.weight(f"{name}.bias", layer.convolution.bias)
        x = self.add("Conv", [x, kernel, bias], f"{name}.conv", strides=[layer.stride] * 2)
        if layer.norm is None:
            return x
        scale = self.weight(f"{name}.norm.scale", layer.norm.weight)
        shift = self.weight(f"{name}.norm.shift", layer.norm.bias)
        return self.add(
            "InstanceNormalization", [x, scale, shift], f"{name}.norm", epsilon=float(layer.norm.eps)
        )

    def model(self) -> onnx.ModelProto:
        """The whole, checked."""
        form: list[str | int | None] = ["N", 3, "H", "W"]
        graph = helper.make_graph(
            self._nodes,
            "style",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, form)],
            [helper.make_tensor_value_info("styled", TensorProto.FLOAT, ["N", 3, "height", "width"])],
            self._weights,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR,
            producer_name="onnxviz",
            producer_version=__version__,
        )
        onnx.checker.check_model(model, full_check=True)
        return model
