"""The same network in another form, for which `compare` has known answers. (fp16 and int8: tests/networks.py.)"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

_FIRST, _LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # to channels first, and to channels last
_POINTWISE = ("Add", "Clip", "Mul", "Relu", "HardSwish", "HardSigmoid", "Sigmoid")


class _Edit:
    """A copy of a model whose nodes are written anew."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        self.graph = self.model.graph
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        self.old = list(self.graph.node)
        self.nodes: list[onnx.NodeProto] = []
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.old:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def add(self, op: str, inputs: list[str], output: str, **attributes) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{output}/{op}", **attributes))
        return output

    def finished(self) -> onnx.ModelProto:
        if self.nodes:
            nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
            del self.graph.node[:]
            self.graph.node.extend(nodes)
        del self.graph.initializer[:], self.graph.value_info[:]
        self.graph.initializer.extend(
            numpy_helper.from_array(array, name) for name, array in self.weights.items()
        )
        return self.model


def pruned(model: onnx.ModelProto, share: float = 0.3) -> onnx.ModelProto:
    """Of each layer's weights this share, the smallest ones, is zero."""
    edit = _Edit(model)
    for node in edit.old:
        if node.op_type in ("Conv", "Gemm", "MatMul", "ConvTranspose") and node.input[1] in edit.weights:
            weights = edit.weights[node.input[1]]
            least = np.quantile(np.abs(weights), share)
            edit.weights[node.input[1]] = np.where(np.abs(weights) < least, 0, weights).astype(weights.dtype)
    return edit.finished()


def unfolded(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """Each convolution's bias, and a part of its filters' scale, is a BatchNormalization behind it."""
    edit = _Edit(model)
    rng = np.random.default_rng(seed)
    for node in edit.old:
        if node.op_type != "Conv" or node.input[1] not in edit.weights:
            edit.nodes.append(node)
            continue
        weights = edit.weights[node.input[1]]
        count, eps = len(weights), 1e-5
        bias = edit.weights.pop(node.input[2]) if len(node.input) > 2 else np.zeros(count, np.float32)
        scale, var = (rng.uniform(0.5, 2, count).astype(np.float32) for _ in range(2))
        mean = rng.standard_normal(count).astype(np.float32)
        factor = scale / np.sqrt(var + eps)
        out = node.output[0]
        edit.weights[node.input[1]] = (weights.T / factor).T.astype(np.float32)
        parts = {"scale": scale, "bias": bias + mean * factor, "mean": mean, "var": var}
        edit.weights |= {f"{out}/norm.{part}": array.astype(np.float32) for part, array in parts.items()}
        bare = onnx.NodeProto()
        bare.CopyFrom(node)
        del bare.input[2:]
        bare.output[0] = f"{out}/bare"
        edit.nodes.append(bare)
        statistics = [f"{out}/norm.{part}" for part in parts]
        edit.add("BatchNormalization", [f"{out}/bare", *statistics], out, epsilon=eps)
    return edit.finished()


def nhwc(model: onnx.ModelProto) -> onnx.ModelProto:
    """Input and maps are channels-last, with a Transpose on each side of what is not, as tf2onnx writes at first.

    For networks whose maps are all of rank 4 up to one Flatten or Reshape.
    """
    edit = _Edit(model)
    image = edit.graph.input[0]
    maps = {image.name}  # values that are channels-last now
    for node in edit.old:
        if node.op_type in _POINTWISE and all(
            name in maps or name in edit.weights or not name for name in node.input
        ):
            edit.nodes.append(node)
            maps.update(node.output)
            continue
        turned = onnx.NodeProto()
        turned.CopyFrom(node)
        for place, name in enumerate(node.input):
            if name in maps:
                turned.input[place] = edit.add(
                    "Transpose", [name], f"{node.output[0]}/nchw{place}", perm=_FIRST
                )
        still = node.op_type in ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization")
        if still:
            turned.output[0] = f"{node.output[0]}/nchw"
        edit.nodes.append(turned)
        if still:
            edit.add("Transpose", [turned.output[0]], node.output[0], perm=_LAST)
            maps.add(node.output[0])
    sides = [
        onnx.TensorShapeProto.Dimension.FromString(d.SerializeToString())
        for d in image.type.tensor_type.shape.dim
    ]
    del image.type.tensor_type.shape.dim[:]
    image.type.tensor_type.shape.dim.extend([sides[place] for place in _LAST])
    _forget_layout(edit.model)
    return edit.finished()


def _forget_layout(model: onnx.ModelProto) -> None:
    """What onnxviz wrote about the input's layout would be wrong."""
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"NCHW"', '"NHWC"')


def equalised(model: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """Cross-layer equalisation (Nagel et al. 2019): a layer's filters scaled, the next layer's by the inverse.

    Wherever a convolution's result is read by another alone, directly or through BatchNormalization (which is scaled
    instead), Relu or Clip(0, b), whose bound is scaled, too. By powers of two: the same
    numbers come out.
    """
    edit = _Edit(model)
    rng = np.random.default_rng(seed)
    ends = {value.name for value in edit.graph.output}
    edit.nodes = list(edit.old)
    for node in edit.old:
        if node.op_type != "Conv" or node.output[0] in ends:
            continue
        norm, between, reader = None, None, edit.readers.get(node.output[0], [])
        if len(reader) == 1 and reader[0].op_type == "BatchNormalization":
            norm, reader = reader[0], edit.readers.get(reader[0].output[0], [])
        if len(reader) == 1 and reader[0].op_type in ("Relu", "Clip"):
            between, reader = reader[0], edit.readers.get(reader[0].output[0], [])
        if len(reader) != 1 or reader[0].op_type != "Conv":
            continue
        after = reader[0]
        if between is not None and between.op_type == "Clip" and float(edit.weights[between.input[1]]) != 0:
            continue
        count = len(edit.weights[node.input[1]])
        scale = 2.0 ** rng.integers(-2, 3, count).astype(np.float32)
        for name in node.input[1:3] if norm is None else norm.input[1:3]:
            edit.weights[name] = (edit.weights[name].T * scale).T
        weights = edit.weights[after.input[1]]
        if weights.shape[1] == 1 and len(weights) == count:  # depthwise
            edit.weights[after.input[1]] = (weights.T / scale).T
        else:
            edit.weights[after.input[1]] = weights / scale[None, :, None, None]
        if between is not None and between.op_type == "Clip":
            at, out = edit.nodes.index(between), between.output[0]
            edit.weights[f"{out}.bound"] = edit.weights[between.input[2]] * scale[:, None, None]
            edit.nodes[at : at + 1] = [
                helper.make_node("Relu", [between.input[0]], [f"{out}/low"], name=f"{out}/low"),
                helper.make_node("Min", [f"{out}/low", f"{out}.bound"], [out], name=f"{out}/high"),
            ]
    return edit.finished()
