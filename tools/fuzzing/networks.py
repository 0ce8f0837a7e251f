"""What mutants are made of: small networks of every form, and slices of the bundled and the light ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [path for path in (str(ROOT), str(ROOT / "tests")) if path not in sys.path]

import heads  # noqa: E402
from networks import Maker, bare, fp16, light, nhwc, qdq, qoperator, static_batch, tiny_cnn, with_function  # noqa: E402

from tests import toys  # noqa: E402

SIDE = 32
#: How many nodes are taken of each light network: parts of every form in them, none with weights of many megabytes.
_LIGHT = {
    "bvlc_alexnet": (4,), "densenet121": (16,), "inception_v1": (4, 9), "inception_v2": (9, 28), "resnet50": (9, 16),
    "shufflenet": (9,), "squeezenet": (9, 28), "vgg19": (4,), "zfnet512": (4,),
}  # fmt: skip
_ENDS = ("Conv", "Relu", "MaxPool", "Concat", "BatchNormalization", "Add", "Clip", "Transpose")
_HEAD = ("Gemm", "Softmax", "Dropout", "Flatten")


def _cut(model: onnx.ModelProto, count: int, side: int = SIDE, channels: int = 0) -> onnx.ModelProto:
    """The first `count` nodes of a classic network on a small picture, with a small head of its own."""
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    kept = [node for node in graph.node if node.op_type not in _HEAD]
    kept = kept[:count]
    made = {name for node in kept for name in node.output} | stored.keys()
    made |= {value.name for value in graph.input}
    kept = [node for node in kept if all(name in made for name in node.input)]
    while kept[-1].op_type not in _ENDS:
        kept.pop()
    last = kept[-1].output[0]
    image = next(value for value in graph.input if value.name not in stored)
    del graph.node[:], graph.output[:]
    graph.node.extend(kept)
    graph.output.add().CopyFrom(helper.make_tensor_value_info(last, TensorProto.FLOAT, None))
    for place, length in ((2, side), (3, side)):
        image.type.tensor_type.shape.dim[place].dim_value = length
    used = {name for node in kept for name in node.input}
    for field in (graph.input, graph.initializer):
        for place in reversed(range(len(field))):
            if field[place].name not in used:
                del field[place]
    if not channels:
        inferred = onnx.shape_inference.infer_shapes(model)
        shape = next(one for one in inferred.graph.output if one.name == last).type.tensor_type.shape
        channels = shape.dim[1].dim_value
    rng = np.random.default_rng(0)
    graph.node.extend(
        [
            helper.make_node("GlobalAveragePool", [last], ["fuzz_pool"]),
            helper.make_node("Flatten", ["fuzz_pool"], ["fuzz_flat"]),
            helper.make_node("Gemm", ["fuzz_flat", "fuzz_w", "fuzz_b"], ["fuzz_logits"], transB=1),
            helper.make_node("Softmax", ["fuzz_logits"], ["fuzz_prob"]),
        ]
    )
    for name, array in (("fuzz_w", rng.normal(size=(10, channels))), ("fuzz_b", rng.normal(size=10))):
        tensor = numpy_helper.from_array(array.astype(np.float32), name)
        graph.initializer.append(tensor)
        if model.ir_version < 4:
            graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info("fuzz_prob", TensorProto.FLOAT, (1, 10)))
    return model


def _bundled(name: str, count: int) -> onnx.ModelProto:
    return _cut(onnx.load(ROOT / "models" / f"{name}.onnx"), count)


def _slice(name: str, count: int) -> onnx.ModelProto:
    return _cut(
        light(name, width=64), count, 224 if name == "shufflenet" else SIDE
    )  # its Reshapes hold its sizes


def _kinds() -> onnx.ModelProto:
    """A branch, a loop and a pair of sizes computed from the picture's, as exporters leave them."""
    m = Maker()
    x = heads.trunk(m)
    size = m("Shape", x)
    half = m("Div", m("Slice", size, m.constant([2]), m.constant([4])), m.constant([2]))
    wanted = m("Concat", m("Slice", size, m.constant([0]), m.constant([2])), half, axis=0)
    x = m("Resize", x, "", "", wanted, mode="linear", coordinate_transformation_mode="half_pixel")
    inner = helper.make_graph(
        [helper.make_node("Relu", [x], ["then_y"], name="then_relu")], "then", [],
        [helper.make_tensor_value_info("then_y", 1, None)],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("LeakyRelu", [x], ["else_y"], name="else_relu", alpha=0.1)], "else", [],
        [helper.make_tensor_value_info("else_y", 1, None)],
    )  # fmt: skip
    condition = m("Equal", m("Gather", size, m.constant(np.int64(1))), m.constant(np.int64(8)))
    x = m("If", condition, then_branch=inner, else_branch=other)
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["state", "half"], ["next"], name="body_mul"),
            helper.make_node("Identity", ["on"], ["go"], name="body_go"),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, ()),
            helper.make_tensor_value_info("on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("state", 1, None),
        ],
        [helper.make_tensor_value_info("go", TensorProto.BOOL, ()), helper.make_tensor_value_info("next", 1, None)],
        [numpy_helper.from_array(np.float32(0.9), "half")],
    )  # fmt: skip
    x = m("Loop", m.constant(np.int64(3)), m.constant(np.array(True)), x, body=body)
    x = m("Flatten", m("GlobalAveragePool", x))
    x = m("Softmax", heads.linear(m, x, 10))
    return heads.finished(m, heads.renamed(m, x, "y"))


def _transformer() -> onnx.ModelProto:
    """Attention over the positions of a map, with layer normalisation, Gelu by pieces, and an Einsum."""
    m = Maker(opset=18)
    x = m("Reshape", heads.trunk(m), m.constant([0, 8, -1]))
    x = m("Transpose", x, perm=[0, 2, 1])
    x = m(
        "LayerNormalization",
        x,
        m.constant(np.ones(8, np.float32)),
        m.constant(np.zeros(8, np.float32)),
        axis=-1,
    )
    weights = m("Softmax", m("MatMul", x, m("Transpose", x, perm=[0, 2, 1])), axis=-1)
    y = m("Einsum", weights, x, equation="bij,bjc->bic")
    y = m("Add", x, m("Mul", y, m("Sigmoid", y)))
    y = m("Pad", y, m.constant([0, 1, 0, 0, 0, 0]), mode="constant")
    y = m("ReduceMean", y, m.constant([1]), keepdims=0)
    y = m("Clip", y, m.constant(np.float32(-3)), m.constant(np.float32(3)))
    first, second = m("Split", y, outputs=2, axis=1, num_outputs=2)
    y = m("Concat", first, m("PRelu", second, m.random(1, 4)), axis=1)
    y = m("Where", m("Greater", y, m.constant(np.float32(0))), y, m("Elu", y))
    return heads.finished(m, heads.renamed(m, heads.linear(m, y, 10), "y"))


def _upsampling() -> onnx.ModelProto:
    """An encoder and decoder: transposed convolution, pools with padding, normalisation of instances and groups."""
    m = Maker(opset=21)
    x = heads.trunk(m)
    x = m("InstanceNormalization", x, m.random(8, positive=True), m.random(8))
    x = m("AveragePool", x, kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2], count_include_pad=1)
    x = m("ConvTranspose", x, m.random(8, 4, 2, 2), m.random(4), strides=[2, 2])
    x = m("GroupNormalization", x, m.random(4, positive=True), m.random(4), num_groups=2)
    x = m("DepthToSpace", x, blocksize=2, mode="CRD")
    x = m("LRN", m("HardSwish", x), size=3)
    x = m("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    x = m("Gather", x, m.constant([0, 0]), axis=1)
    x = m("Slice", x, m.constant([1]), m.constant([7]), m.constant([2]), m.constant([2]))
    x = m("Flatten", m("ReduceMax", x, m.constant([2, 3])))
    return heads.finished(m, heads.renamed(m, m("Softmax", heads.linear(m, x, 10, 2)), "y"))


def _two_inputs() -> onnx.ModelProto:
    """A picture and a number beside it."""
    m = Maker()
    x = m("Add", heads.linear(m, heads.pooled(m), 10), m("Unsqueeze", "age", m.constant([1])))
    return m.model({"image": ("N", 3, 16, 16), "age": ("N",)}, {heads.renamed(m, x, "y"): ("N", 10)})


def _older(opset: int) -> Callable[[], onnx.ModelProto]:
    return lambda: tiny_cnn(opset=opset)


_MAKERS: dict[str, Callable[[], onnx.ModelProto | bytes]] = {
    "tiny": tiny_cnn,
    "tiny-static": lambda: tiny_cnn(batch=1),
    "tiny-open": lambda: tiny_cnn(size=("H", "W"), channels=1),
    "tiny-uint8": lambda: tiny_cnn(uint8=True),
    "tiny-old": _older(9),
    "tiny-new": _older(22),
    "fp16": lambda: fp16(tiny_cnn()),
    "qdq": lambda: qdq(tiny_cnn()),
    "qoperator": lambda: qoperator(tiny_cnn()),
    "nhwc": nhwc,
    "static-batch": static_batch,
    "function": with_function,
    "one-score": lambda: heads.one("squeezed"),
    "sequence": heads.sequence,
    "lstm": lambda: heads.sequence("ntc", "Softmax", recurrent=True),
    "nms": heads.detector,
    "topk": lambda: heads.detector("topk"),
    "anchors": lambda: heads.detector("anchors"),
    "yolo": toys.detector,
    "averaged": heads.average_of_softmaxes,
    "control-flow": _kinds,
    "transformer": _transformer,
    "decoder": _upsampling,
    "two-inputs": _two_inputs,
    "efficientnet-4": lambda: _bundled("efficientnet-lite0", 4),
    "efficientnet-16": lambda: _bundled("efficientnet-lite0", 16),
    "tissue-12": lambda: _bundled("tissue", 12),
    **{f"{name}-{n}": partial(_slice, name, n) for name, counts in _LIGHT.items() for n in counts},
    "squeezenet-bare": lambda: _cut(bare("squeezenet"), 999, channels=1000),
}  # fmt: skip
_SMALL = [name for name in _MAKERS if not name.rpartition("-")[2].isdigit() and not name.endswith("-bare")]
_SLICES = [name for name in _MAKERS if name not in _SMALL]


def draw(chance: object) -> str:
    """The name of a network: a small one, or (one in three) a slice of a large one."""
    return chance.choice(_SLICES if chance.random() < 0.33 else _SMALL)  # type: ignore[attr-defined]


@cache
def content(name: str) -> bytes:
    """The network as a file's bytes."""
    made = _MAKERS[name]()
    return made if isinstance(made, bytes) else made.SerializeToString()


NAMES = tuple(_MAKERS)
