"""The same network in another form, for which `compare` has known answers. (fp16 and int8: tests/networks.py.)"""

from __future__ import annotations

import copy

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.networks import edited

_FIRST, _LAST = [0, 3, 1, 2], [0, 2, 3, 1]  # to channels first, and to channels last
_POINTWISE = ("Add", "Clip", "Mul", "Relu", "HardSwish", "HardSigmoid", "Sigmoid")
_PLACED = ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization")


class _Edit:
    """A copy of a model whose nodes are written anew."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = copy.deepcopy(model)
        self.graph = self.model.graph
        self.weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        self.old = list(self.graph.node)
        self.nodes: list[onnx.NodeProto] = []

    def add(self, op: str, inputs: list[str], output: str, **attributes) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"{output}/{op}", **attributes))
        return output

    def readers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [one for one in self.old if node.output[0] in one.input]

    def finished(self) -> onnx.ModelProto:
        nodes = copy.deepcopy(self.nodes or self.old)
        del self.graph.node[:], self.graph.initializer[:], self.graph.value_info[:]
        self.graph.node.extend(nodes)
        self.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(array, order="C"), name)
            for name, array in self.weights.items()
        )
        onnx.checker.check_model(self.model, full_check=True)
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
        count, eps, out = len(weights), 1e-5, node.output[0]
        bias = edit.weights.pop(node.input[2]) if len(node.input) > 2 else np.zeros(count, np.float32)
        scale, var = (rng.uniform(0.5, 2, count).astype(np.float32) for _ in range(2))
        mean = rng.standard_normal(count).astype(np.float32)
        factor = scale / np.sqrt(var + eps)
        edit.weights[node.input[1]] = (weights.T / factor).T.astype(np.float32)
        parts = {"scale": scale, "bias": bias + mean * factor, "mean": mean, "var": var}
        edit.weights |= {f"{out}/norm.{part}": array.astype(np.float32) for part, array in parts.items()}
        bare = copy.deepcopy(node)
        del bare.input[2:]
        bare.output[0] = f"{out}/bare"
        edit.nodes.append(bare)
        statistics = [f"{out}/norm.{part}" for part in parts]
        edit.add("BatchNormalization", [f"{out}/bare", *statistics], out, epsilon=eps)
    return edit.finished()


def folded(model: onnx.ModelProto) -> onnx.ModelProto:
    """Each BatchNormalization is in the weights of the convolution in front of it."""
    model = copy.deepcopy(model)
    numbers = {one.name: numpy_helper.to_array(one).astype(float) for one in model.graph.initializer}
    makers = {node.output[0]: node for node in model.graph.node}
    for node in [node for node in model.graph.node if node.op_type == "BatchNormalization"]:
        conv = makers[node.input[0]]
        scale, bias, mean, var = (numbers[name] for name in node.input[1:5])
        gain = scale / np.sqrt(var + 1e-5)
        changes = {
            conv.input[1]: lambda w, gain=gain: w.astype(float) * gain[:, None, None, None],
            conv.input[2]: lambda b, gain=gain, bias=bias, mean=mean: bias + (b.astype(float) - mean) * gain,
        }
        conv.output[0] = node.output[0]
        model.graph.node.remove(node)
        model = edited(model, **changes)
        makers = {node.output[0]: node for node in model.graph.node}
    return model


def spelt_out(model: onnx.ModelProto) -> onnx.ModelProto:
    """Each BatchNormalization is a Mul and an Add."""
    model = copy.deepcopy(model)
    numbers = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            nodes.append(node)
            continue
        scale, bias, mean, var = (numbers[name] for name in node.input[1:5])
        gain, y = scale / np.sqrt(var + np.float32(1e-5)), node.output[0]
        for name, array in ((f"{y}/gain", gain), (f"{y}/shift", bias - mean * gain)):
            model.graph.initializer.append(numpy_helper.from_array(array.reshape(-1, 1, 1), name))
        nodes += [
            helper.make_node("Mul", [node.input[0], f"{y}/gain"], [f"{y}/scaled"], f"{y}/mul"),
            helper.make_node("Add", [f"{y}/scaled", f"{y}/shift"], [y], f"{y}/add"),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def written_out(model: onnx.ModelProto, as_clip: bool = False) -> onnx.ModelProto:
    """Each HardSwish is x·HardSigmoid(x), as ONNX Runtime writes it, or x·Clip(x + 3, 0, 6) / 6."""
    edit = _Edit(model)
    edit.weights |= {f"number{number}": np.float32(number) for number in ((0, 3, 6) if as_clip else ())}
    for node in edit.old:
        x, y = node.input[0], node.output[0]
        if node.op_type != "HardSwish":
            edit.nodes.append(node)
        elif as_clip:
            edit.add("Add", [x, "number3"], f"{y}/shifted")
            edit.add("Clip", [f"{y}/shifted", "number0", "number6"], f"{y}/clipped")
            edit.add("Mul", [x, f"{y}/clipped"], f"{y}/product")
            edit.add("Div", [f"{y}/product", "number6"], y)
        else:
            edit.add("HardSigmoid", [x], f"{y}/gate", alpha=1 / 6)
            edit.add("Mul", [x, f"{y}/gate"], y)
    return edit.finished()


def reordered(model: onnx.ModelProto, layer: str, following: str, seed: int = 0) -> onnx.ModelProto:
    """A layer's filters in another order, and the inputs of the one that follows, too; what stands between is called
    like the layer."""
    edit = _Edit(model)
    order = np.random.default_rng(seed).permutation(len(edit.weights[f"{layer}.weight"]))
    for name in edit.weights:
        if name.startswith((f"{layer}.", f"{layer.replace('conv', 'norm')}.")):
            edit.weights[name] = edit.weights[name][order]
    edit.weights[f"{following}.weight"] = edit.weights[f"{following}.weight"][:, order]
    return edit.finished()


def nhwc(model: onnx.ModelProto) -> onnx.ModelProto:
    """Input and maps are channels-last, with a Transpose on each side of what is not, as tf2onnx writes at first.

    For networks whose maps are all of rank 4 up to one Flatten or Reshape.
    """
    edit = _Edit(model)
    image = edit.graph.input[0]
    maps = {image.name}  # values that are channels-last now
    for node in edit.old:
        if node.op_type in _POINTWISE and maps.union(edit.weights, [""]).issuperset(node.input):
            edit.nodes.append(node)
            maps.update(node.output)
            continue
        turned = copy.deepcopy(node)
        for place, name in enumerate(node.input):
            if name in maps:
                nchw = f"{node.output[0]}/nchw{place}"
                turned.input[place] = edit.add("Transpose", [name], nchw, perm=_FIRST)
        edit.nodes.append(turned)
        if node.op_type in _PLACED:
            turned.output[0] = f"{node.output[0]}/nchw"
            edit.add("Transpose", [turned.output[0]], node.output[0], perm=_LAST)
            maps.add(node.output[0])
    sides = copy.deepcopy(list(image.type.tensor_type.shape.dim))
    del image.type.tensor_type.shape.dim[:]
    image.type.tensor_type.shape.dim.extend([sides[place] for place in _LAST])
    for entry in edit.model.metadata_props:  # what onnxviz wrote about the input's layout would be wrong
        entry.value = entry.value.replace('"NCHW"', '"NHWC"')
    return edit.finished()


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
        norm, between, reader = None, None, edit.readers(node)
        if len(reader) == 1 and reader[0].op_type == "BatchNormalization":
            norm, reader = reader[0], edit.readers(reader[0])
        if len(reader) == 1 and reader[0].op_type in ("Relu", "Clip"):
            between, reader = reader[0], edit.readers(reader[0])
        if len(reader) != 1 or reader[0].op_type != "Conv":
            continue
        clipped = between is not None and between.op_type == "Clip"
        if clipped and float(edit.weights[between.input[1]]) != 0:
            continue
        after, count = reader[0], len(edit.weights[node.input[1]])
        scale = 2.0 ** rng.integers(-2, 3, count).astype(np.float32)
        for name in node.input[1:3] if norm is None else norm.input[1:3]:
            edit.weights[name] = (edit.weights[name].T * scale).T
        weights = edit.weights[after.input[1]]
        depthwise = weights.shape[1] == 1 and len(weights) == count
        edit.weights[after.input[1]] = (
            (weights.T / scale).T if depthwise else weights / scale[None, :, None, None]
        )
        if clipped:
            at, out = edit.nodes.index(between), between.output[0]
            edit.weights[f"{out}.bound"] = edit.weights[between.input[2]] * scale[:, None, None]
            edit.nodes[at : at + 1] = [
                helper.make_node("Relu", [between.input[0]], [f"{out}/low"], name=f"{out}/low"),
                helper.make_node("Min", [f"{out}/low", f"{out}.bound"], [out], name=f"{out}/high"),
            ]
    return edit.finished()
