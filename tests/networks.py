"""Networks for the tests, all made on the spot: the classics of the onnx wheel with random weights, and odd forms.

Each maker gives an `onnx.ModelProto`. The same arguments give the same bytes.
"""

from __future__ import annotations

import copy
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper, numpy_helper

sys.path.append(str(Path(__file__).resolve().parent.parent / "tools"))

import quantise

Shape = Sequence[int | str | None] | None

LIGHT = (
    "bvlc_alexnet",
    "densenet121",
    "inception_v1",
    "inception_v2",
    "resnet50",
    "shufflenet",
    "squeezenet",
    "vgg19",
    "zfnet512",
)
"""The networks of `light`: opset 9, IR version 3, static batch 1, weights listed among the inputs."""

# By what the last weights are multiplied, so that the logits of a normalised photo have a spread of about 2.
_LAST = {"inception_v1": 15.0, "resnet50": 1 / 600, "shufflenet": 1 / 6000}


def bare(name: str) -> onnx.ModelProto:
    """A classic network as the onnx wheel ships it: weights made by ConstantOfShape nodes, all equal."""
    return onnx.load(Path(onnx.__file__).parent / f"backend/test/data/light/light_{name}.onnx")


def light(name: str, seed: int = 0, width: int = 4096) -> onnx.ModelProto:
    """A classic network of the onnx wheel, its weights replaced by seeded random ones.

    Weights are He-scaled, biases and batch statistics mild. width: of the hidden fully connected layers of AlexNet,
    VGG-19 and ZFNet (575 MB as it is; with 256, a fifth of that).
    """
    model = bare(name)
    graph = model.graph
    rng = np.random.default_rng(seed)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    fillers = {node.output[0]: node for node in graph.node if node.op_type == "ConstantOfShape"}
    shapes = {output: stored[node.input[0]] for output, node in fillers.items()}
    roles: dict[str, tuple[str, int]] = {}
    for node in reversed(graph.node):  # a weight that is only given another shape has the role of the result
        for place, value in enumerate(node.input):
            reshaped = node.op_type in ("Reshape", "Unsqueeze") and place == 0
            roles[value] = roles.get(node.output[0], ("", 0)) if reshaped else (node.op_type, place)

    weights: dict[str, np.ndarray] = {}
    for value in [*(i.name for i in graph.initializer), *fillers]:
        op, place = roles.get(value, ("", 0))
        if op == "ConstantOfShape":
            continue
        if value in stored and stored[value].dtype != np.float32:
            weights[value] = stored[value]
            continue
        shape = tuple(int(d) for d in (shapes[value] if value in fillers else stored[value].shape))
        shape = tuple(width if op == "Gemm" and d == 4096 else d for d in shape)
        weights[value] = _random(rng, op, place, shape)
    final = [node.input[1] for node in graph.node if node.op_type in ("Gemm", "Conv")][-1]
    made = {node.output[0]: node for node in graph.node}
    weights[made[final].input[0] if final in made and final not in weights else final] *= _LAST.get(name, 1.0)

    nodes = [node for node in graph.node if node.op_type != "ConstantOfShape"]
    images = [value for value in graph.input if value.name not in stored]
    del graph.node[:], graph.input[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.input.extend(images)
    for value, array in weights.items():
        graph.input.append(
            helper.make_tensor_value_info(value, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        )
        graph.initializer.append(numpy_helper.from_array(array, value))
    return model


def _random(rng: np.random.Generator, op: str, place: int, shape: tuple[int, ...]) -> np.ndarray:
    """Weights for input `place` of an operator. Of large ones a million are drawn and repeated, for speed."""
    if (op == "BatchNormalization" and place in (1, 4)) or op == "Mul":
        return rng.uniform(0.8, 1.2, shape).astype(np.float32)
    drawn = rng.standard_normal(min(int(np.prod(shape)), 1_000_003), np.float32)
    # Conv and Gemm weights are both (out, in, ...): light files set transB.
    drawn *= np.sqrt(2 / np.prod(shape[1:])) if op in ("Conv", "Gemm") and place == 1 else 0.05
    return np.resize(drawn, shape)


# --- small networks -------------------------------------------------------------------------------

node = helper.make_node


def from_nodes(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Shape],
    outputs: dict[str, Shape],
    weights: dict[str, np.ndarray] | list[TensorProto] = (),
    *,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
    ir: int = 8,
    imports: dict[str, int] | None = None,
    functions: Iterable[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    """A model of these nodes: inputs (of `dtype`) and outputs as name: shape (None: undeclared), weights as arrays."""
    value = helper.make_tensor_value_info
    if isinstance(weights, dict):
        weights = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(
        nodes,
        "test",
        [value(name, dtype, shape) for name, shape in inputs.items()],
        [value(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        weights,
    )
    versions = [helper.make_opsetid(*one) for one in {"": opset, **(imports or {})}.items()]
    return helper.make_model(graph, opset_imports=versions, ir_version=ir, functions=list(functions))


def edited(model: onnx.ModelProto | Path, **changes) -> onnx.ModelProto:
    """A copy of a model, or of a file, with weights changed: `edited(model, **{"fc.weight": lambda w: -w})`."""
    model = onnx.load(model) if isinstance(model, Path) else copy.deepcopy(model)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, change in changes.items():
        array = numpy_helper.to_array(tensors[name])
        changed = np.asarray(change(array.copy()), array.dtype)
        tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), name))
    return model


class Maker:
    """Writes a graph line by line: `y = m("Relu", x)`. Numbers and arrays become constants."""

    def __init__(self, opset: int = 17, seed: int = 0) -> None:
        self.opset, self.nodes, self.weights, self.count = opset, [], [], 0
        self.domains: set[str] = set()
        self.rng = np.random.default_rng(seed)

    def __call__(
        self, op: str, *inputs: str, name: str = "", domain: str = "", outputs: int = 1, **attributes
    ):
        inputs = tuple(one if isinstance(one, str) else self.constant(one) for one in inputs)
        self.count += 1
        made = [f"{op.lower()}{self.count}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.domains.add(domain)
        self.nodes.append(
            helper.make_node(
                op, inputs, made, name=name or f"node_{op}_{self.count}", domain=domain, **attributes
            )
        )
        return made[0] if outputs == 1 else made

    def constant(self, array, name: str | None = None) -> str:
        """An initialiser; floats become float32, integers int64."""
        array = np.asarray(array)
        kind = {"f": np.float32, "i": np.int64}.get(
            array.dtype.kind if array.dtype in (np.float64, np.int64) else ""
        )
        self.count += 1
        name = name or f"weight{self.count}"
        self.weights.append(numpy_helper.from_array(array.astype(kind) if kind else array, name))
        return name

    def random(self, *shape: int, name: str | None = None, positive: bool = False) -> str:
        """He-scaled random weights, or positive ones."""
        if positive:
            return self.constant(self.rng.uniform(0.5, 1.5, shape).astype(np.float32), name)
        scale = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
        return self.constant((self.rng.standard_normal(shape) * scale).astype(np.float32), name)

    def model(
        self,
        inputs: dict[str, Shape],
        outputs: dict[str, Shape],
        dtype: int = TensorProto.FLOAT,
        ir: int = 8,
    ) -> onnx.ModelProto:
        """The finished model; `inputs` and `outputs` are name: shape (None: undeclared)."""
        imports = {domain: 1 for domain in sorted(self.domains - {""})}
        return from_nodes(
            self.nodes, inputs, outputs, self.weights, opset=self.opset, dtype=dtype, ir=ir, imports=imports
        )


def nodes(text: str) -> list[onnx.NodeProto]:
    """Nodes in ONNX's own text: `a = Neg(x) y = Elu <alpha = 0.5> (a)`."""
    return list(onnx.parser.parse_graph(f"g () => () {{ {text} }}").node)


def written(
    text: str,
    inputs: dict[str, Shape],
    outputs: dict[str, Shape],
    weights: Mapping[str, Any] | None = None,
    *,
    opset: int = 17,
    dtype: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A network whose nodes are given as text; `inputs` and `outputs` are name: shape (None: undeclared).

    weights   arrays, of their own types; those that no node reads are left out
    dtype     of all inputs and outputs
    """
    read = set(re.findall(r"[\w.]+", text))
    arrays = {name: array for name, array in (weights or {}).items() if name in read}
    made = from_nodes(
        nodes(text), inputs, outputs, arrays, opset=opset, dtype=dtype, imports={"com.microsoft": 1}
    )
    for value in made.graph.output:
        value.type.tensor_type.elem_type = dtype
    return made


def tiny_cnn(
    *,
    opset: int = 17,
    batch: int | str = "N",
    size: int | str | tuple[int | str, int | str] = 32,
    channels: int = 3,
    classes: int = 10,
    softmax: bool = True,
    uint8: bool = False,
    seed: int = 0,
) -> onnx.ModelProto:
    """conv 3x3/2 - batch norm - relu - conv 3x3 - relu - max pool - global average - linear (- softmax).

    Values: conv1, norm1, relu1, conv2, relu2, pool, pooled, features (N, 16), logits, prob. Input: image.
    """
    m = Maker(opset, seed)
    height, width = size if isinstance(size, tuple) else (size, size)
    x = "image"
    if uint8:
        x = m("Mul", m("Cast", x, to=TensorProto.FLOAT), m.constant(np.float32(1 / 255)))
    x = m("Conv", x, m.random(8, channels, 3, 3), m.random(8), pads=[1] * 4, strides=[2, 2])
    statistics = [m.constant(m.rng.uniform(0.8, 1.2, 8).astype(np.float32)) for _ in range(4)]
    norm = m("BatchNormalization", x, *statistics)
    relu = m("Relu", norm)
    conv2 = m("Conv", relu, m.random(16, 8, 3, 3), m.random(16), pads=[1] * 4)
    relu2 = m("Relu", conv2)
    pool = m("MaxPool", relu2, kernel_shape=[2, 2], strides=[2, 2])
    pooled = m("GlobalAveragePool", pool)
    features = m("Flatten", pooled)
    logits = m("Gemm", features, m.random(classes, 16), m.random(classes), transB=1)
    names = {x: "conv1", norm: "norm1", relu: "relu1", conv2: "conv2", relu2: "relu2", pool: "pool",
             pooled: "pooled", features: "features", logits: "logits"}  # fmt: skip
    out = "logits"
    if softmax:
        names[m("Softmax", logits, axis=1)] = out = "prob"
    for node in m.nodes:
        node.input[:] = [names.get(value, value) for value in node.input]
        node.output[:] = [names.get(value, value) for value in node.output]
    dtype = TensorProto.UINT8 if uint8 else TensorProto.FLOAT
    return m.model({"image": (batch, channels, height, width)}, {out: (batch, classes)}, dtype)


def nhwc(*, batch: int | str = "N", size: int = 32, classes: int = 10, seed: int = 0) -> onnx.ModelProto:
    """A network as TensorFlow's exporters write it: image (N, H, W, 3), turned in front of the convolutions."""
    m = Maker(seed=seed)
    x = m("Transpose", "image", perm=[0, 3, 1, 2])
    x = m("Relu", m("Conv", x, m.random(8, 3, 3, 3), m.random(8), auto_pad="SAME_UPPER", strides=[2, 2]))
    x = m("Relu", m("Conv", x, m.random(16, 8, 3, 3), m.random(16), auto_pad="SAME_UPPER"))
    x = m("Transpose", x, perm=[0, 2, 3, 1])
    x = m("ReduceMean", x, axes=[1, 2], keepdims=0)
    x = m("Softmax", m("Add", m("MatMul", x, m.random(16, classes)), m.random(classes)))
    return m.model({"image": (batch, size, size, 3)}, {x: (batch, classes)})


def static_batch(*, batch: int = 1, size: int = 32, classes: int = 10, seed: int = 0) -> onnx.ModelProto:
    """A network for one batch size only, which it holds in the targets of two Reshapes and in a Slice."""
    m = Maker(seed=seed)
    half = size // 2
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), m.random(8), pads=[1] * 4, strides=[2, 2]))
    x = m("Reshape", x, m.constant([batch, 2, 4, half, half]))  # a channel shuffle
    x = m("Transpose", x, perm=[0, 2, 1, 3, 4])
    x = m("Reshape", x, m.constant([batch, 8, half, half]))
    x = m("Slice", x, m.constant([0]), m.constant([batch]), m.constant([0]))
    x = m("Relu", m("Conv", x, m.random(16, 8, 3, 3), m.random(16), pads=[1] * 4))
    x = m("Reshape", m("GlobalAveragePool", x), m.constant([batch, 16]))
    x = m("Softmax", m("Gemm", x, m.random(classes, 16), m.random(classes), transB=1))
    return m.model({"image": (batch, 3, size, size)}, {x: (batch, classes)})


def with_function() -> onnx.ModelProto:
    """relu(x + 1) as a function of the model, called twice. Input image (N, 3, 4, 4), outputs first and second."""
    one = node("Constant", [], ["one"], value_float=1.0)
    body = [one, node("Add", ["x", "one"], ["sum"]), node("Relu", ["sum"], ["y"])]
    function = helper.make_function("local", "Block", ["x"], ["y"], body, [helper.make_opsetid("", 17)])
    calls = [node("Block", [x], [y], domain="local") for x, y in (("image", "first"), ("first", "second"))]
    shape = ("N", 3, 4, 4)
    return from_nodes(calls, {"image": shape}, {"second": shape}, imports={"local": 1}, functions=[function])


# --- the same network in another form -------------------------------------------------------------


def fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights, activations, input and output in float16."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(quantise.copied(model), disable_shape_infer=True)


def qdq(model: onnx.ModelProto) -> onnx.ModelProto:
    """Quantised to int8 by ONNX Runtime in QDQ form."""
    return _quantised(model, "QDQ")


def qoperator(model: onnx.ModelProto) -> onnx.ModelProto:
    """Quantised to int8 by ONNX Runtime in QOperator form (QLinearConv, and QLinearAdd and others of com.microsoft)."""
    return _quantised(model, "QOperator")


def by_ort(
    model: onnx.ModelProto, arrays: Iterable[np.ndarray], form: str = "QDQ", **options: Any
) -> onnx.ModelProto:
    """Quantised by ONNX Runtime's own function as it comes, calibrated on these inputs, a run each."""
    from onnxruntime.quantization import QuantFormat, quantize_static

    feeds = quantise.Reader({model.graph.input[0].name: one} for one in arrays)
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        onnx.save(model, before)
        quantize_static(before, after, feeds, quant_format=QuantFormat[form], **options)
        return onnx.load(after)


def _quantised(model: onnx.ModelProto, form: str) -> onnx.ModelProto:
    """Per tensor, both kinds of codes int8, calibrated on two pictures of noise."""
    shape = [d.dim_value or 1 for d in model.graph.input[0].type.tensor_type.shape.dim]
    arrays = np.random.default_rng(0).standard_normal((2 * shape[0], *shape[1:]), np.float32)
    scheme = quantise.Scheme(form, per_channel=False, activations="int8")
    return quantise.quantise(model, scheme, quantise.calibrate(model, arrays))
