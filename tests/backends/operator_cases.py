"""One small network an operator: image (N, 3, 8, 8) - convolution (N, 4, 8, 8) - the operator."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx

import onnxviz
from onnxviz import objectives
from onnxviz.backends.choose import Task, compile
from tests.networks import Maker


def network(name: str) -> tuple[onnx.ModelProto, str]:
    """The network of one case, and its output."""
    m = Maker(18)
    x = m("Conv", "image", m.random(4, 3, 3, 3), m.random(4), pads=[1] * 4)
    y = CASES[name](m, x)
    return m.model({"image": ("N", 3, 8, 8)}, {y: None}), y


def gradients(name: str, backend: str) -> dict[str, np.ndarray]:
    """By the image, of the distance of the operator's output to random numbers.

    Two pictures in one run, also where an operator mixes them: the backends themselves, not what `Network` does of it.
    """
    model, y = network(name)
    net = onnxviz.load(model, provider="cpu", preprocess="unit")
    x = np.random.default_rng(0).standard_normal((2, 3, 8, 8)).astype(np.float32)
    shape = net.program([y])({"image": x})[y].shape
    wanted = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    task = Task(
        model=net.model,
        objective=objectives.match(y, wanted),
        sources=("image",),
        also=(y,),
        rules="plain",
        provider="cpu",
        threads=None,
        seconds=None,
    )
    return compile(task, backend).program({"image": x})


def worst(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The largest relative difference of an array."""
    assert set(found) == set(expected)
    return max(
        float(np.linalg.norm(found[k] - v) / max(float(np.linalg.norm(v)), 1e-12))
        for k, v in expected.items()
    )


def _f(m: Maker, value: float) -> str:
    return m.constant(np.float32(value))


def _of(op: str, **attributes) -> Callable[[Maker, str], str]:
    return lambda m, x: m(op, x, **attributes)


def _positive(op: str) -> Callable[[Maker, str], str]:
    return lambda m, x: m(op, m("Add", m("Mul", x, x), _f(m, 0.5)))


def _four(m: Maker) -> list[str]:
    return [m.random(4, positive=True) for _ in range(4)]


def _qdq(m: Maker, x: str) -> str:
    scale, zero = m.constant(np.float32(0.02)), m.constant(np.uint8(60))
    return m("DequantizeLinear", m("QuantizeLinear", x, scale, zero), scale, zero)


def _qdq_16(m: Maker, x: str) -> str:
    """In ONNX Runtime's own domain, of a type that the standard's had not at opset 18."""
    scale, zero = m.constant(np.float32(0.001)), m.constant(np.uint16(3000))
    codes = m("QuantizeLinear", x, scale, zero, domain="com.microsoft")
    return m("DequantizeLinear", codes, scale, zero, domain="com.microsoft")


# Those that the ort-training backend takes, in its own or another form.
TRUSTED: dict[str, Callable[[Maker, str], str]] = {
    "Abs": _of("Abs"),
    "Add": lambda m, x: m("Add", x, m("Transpose", x, perm=[0, 1, 3, 2])),
    "Add broadcast": lambda m, x: m("Add", x, m("GlobalAveragePool", x)),
    "AveragePool whole": _of("AveragePool", kernel_shape=[8, 8]),
    "AveragePool": _of("AveragePool", kernel_shape=[3, 2], strides=[2, 1]),
    "AveragePool padded": _of("AveragePool", kernel_shape=[3, 3], pads=[1, 0, 1, 1], count_include_pad=1),
    "BatchNormalization": lambda m, x: m("BatchNormalization", m("Relu", x), *_four(m)),
    "Cast": lambda m, x: m("Cast", m("Cast", x, to=11), to=1),
    "Clip": lambda m, x: m("Clip", x, _f(m, 0), _f(m, 0.5)),
    "Concat": lambda m, x: m("Concat", x, m("Neg", x), axis=1),
    "Conv 1x1": lambda m, x: m("Conv", x, m.random(6, 4, 1, 1), strides=[2, 2]),
    "Conv depthwise": lambda m, x: m(
        "Conv", x, m.random(4, 1, 3, 3), group=4, strides=[2, 2], pads=[0, 0, 1, 1]
    ),
    "Conv grouped": lambda m, x: m("Conv", x, m.random(6, 2, 3, 3), m.random(6), group=2),
    "Conv dilated": lambda m, x: m("Conv", x, m.random(5, 4, 3, 3), dilations=[2, 1], pads=[2, 1, 2, 1]),
    "Conv same": lambda m, x: m("Conv", x, m.random(5, 4, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    "Div": lambda m, x: m("Div", x, m("Add", m("Abs", x), _f(m, 1))),
    "Erf": _of("Erf"),
    "Exp": _of("Exp"),
    "Expand": lambda m, x: m("Expand", m("GlobalAveragePool", x), m.constant([1, 4, 5, 5])),
    "Flatten": lambda m, x: m("Gemm", m("Flatten", x), m.random(5, 256), m.random(5), transB=1),
    "Gather": lambda m, x: m("Gather", x, m.constant([2, 0, 2]), axis=1),
    "Gather minus": lambda m, x: m("Gather", x, m.constant(-1), axis=-1),
    "GatherElements": lambda m, x: m(
        "GatherElements", m("Flatten", x), m("ArgMax", m("Flatten", x), axis=1, keepdims=1), axis=1
    ),
    "GlobalAveragePool": _of("GlobalAveragePool"),
    "HardSigmoid": _of("HardSigmoid", alpha=0.3, beta=0.4),
    "HardSwish": _of("HardSwish"),
    "Identity": _of("Identity"),
    "LayerNormalization": lambda m, x: m(
        "LayerNormalization", x, m.random(8, positive=True), m.random(8), epsilon=1e-3
    ),
    "LayerNormalization bare": lambda m, x: m(
        "LayerNormalization", m("Transpose", x, perm=[0, 2, 3, 1]), m.random(4, positive=True)
    ),
    "LeakyRelu": _of("LeakyRelu", alpha=0.2),
    "Log": _positive("Log"),
    "LogSoftmax": _of("LogSoftmax", axis=1),
    "MatMul": lambda m, x: m("MatMul", x, m.random(8, 5)),
    "MatMul both": lambda m, x: m("MatMul", x, m("Transpose", x, perm=[0, 1, 3, 2])),
    "Max": lambda m, x: m("Max", x, m("Transpose", x, perm=[0, 1, 3, 2]), _f(m, -0.1)),
    "MaxPool": _of("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    "MaxPool ceil": _of("MaxPool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1),
    "MaxPool dilated": _of("MaxPool", kernel_shape=[2, 3], dilations=[2, 2]),
    "MaxPool same": _of("MaxPool", kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_LOWER"),
    "Min": lambda m, x: m("Min", x, _f(m, 0.3)),
    "Mul": lambda m, x: m("Mul", x, m("Sigmoid", m("GlobalAveragePool", x))),
    "Neg": _of("Neg"),
    "Pad": lambda m, x: m("Pad", x, m.constant([0, 0, 1, 2, 0, 0, 3, 0]), _f(m, 0.5)),
    "Pow": lambda m, x: m("Pow", x, _f(m, 3)),
    "ReduceMean": lambda m, x: m("ReduceMean", x, m.constant([2, -1]), keepdims=0),
    "ReduceSum": lambda m, x: m("ReduceSum", x, m.constant([1]), keepdims=1),
    "Relu": _of("Relu"),
    "Reshape": lambda m, x: m(
        "Transpose", m("Reshape", x, m.constant([0, 2, 2, 8, -1])), perm=[0, 2, 1, 3, 4]
    ),
    "Sigmoid": _of("Sigmoid"),
    "Slice": lambda m, x: m("Slice", x, m.constant([1]), m.constant([7]), m.constant([2]), m.constant([2])),
    "Softmax": _of("Softmax", axis=1),
    "Split": lambda m, x: m("Mul", *m("Split", x, axis=1, num_outputs=2, outputs=2)),
    "Split partly used": lambda m, x: m("Split", x, m.constant([1, 2, 1]), axis=1, outputs=3)[1],
    "Sqrt": _positive("Sqrt"),
    "Squeeze": lambda m, x: m("Squeeze", m("ReduceMean", x, m.constant([2])), m.constant([2])),
    "Sub": lambda m, x: m("Sub", m("GlobalAveragePool", x), x),
    "Sum": lambda m, x: m("Sum", x, m("Neg", m("Transpose", x, perm=[0, 1, 3, 2])), m("Abs", x)),
    "Tanh": _of("Tanh"),
    "Transpose": _of("Transpose", perm=[0, 3, 1, 2]),
    "Unsqueeze": lambda m, x: m("Unsqueeze", x, m.constant([1, 4])),
    "ReduceL2": lambda m, x: m("ReduceL2", x, m.constant([1])),
    "ReduceLogSumExp": lambda m, x: m("ReduceLogSumExp", x, m.constant([1, 2])),
    "Tile": lambda m, x: m("Tile", x, m.constant([1, 2, 1, 3])),
    "TopK": lambda m, x: m("TopK", x, m.constant([3]), axis=2, outputs=2)[0],
    "GatherND": lambda m, x: m("GatherND", x, m.constant([[[1, 2], [3, 4]]] * 2), batch_dims=1),
    "Where": lambda m, x: m("Where", m("Greater", x, _f(m, 0)), x, m("Mul", x, x)),
}

# The same operators in other forms: a gradient that is right in one may be wrong in another.
TRUSTED |= {
    "Add spread both ways": lambda m, x: m(
        "Add", m("ReduceMean", x, m.constant([2])), m("ReduceMean", x, m.constant([3]))
    ),
    "Clip above": lambda m, x: m("Clip", x, "", _f(m, 0.3)),
    "Clip below": lambda m, x: m("Clip", x, _f(m, -0.2)),
    "Concat minus": lambda m, x: m("Concat", x, m("Abs", x), m("Neg", x), axis=-1),
    "Conv one axis": lambda m, x: m(
        "Conv", m("Reshape", x, m.constant([0, 4, 64])), m.random(5, 4, 3), strides=[2], pads=[1, 0]
    ),
    "Div spread": lambda m, x: m("Div", m("GlobalAveragePool", x), m("Add", m("Abs", x), _f(m, 1))),
    "Gather from the end": lambda m, x: m("Gather", x, m.constant([[-1, 0], [2, -3]]), axis=2),
    "GatherElements from the end": lambda m, x: m(
        "GatherElements", x, m("Sub", m("ArgMax", x, axis=3), m.constant([8])), axis=-1
    ),
    "Gemm scaled": lambda m, x: m(
        "Gemm", m("Flatten", x), m.random(256, 5), m.random(1, 5), alpha=0.5, beta=2.0
    ),
    "LayerNormalization of two axes": lambda m, x: m(
        "LayerNormalization", x, m.random(8, 8), m.random(8, 8), axis=-2
    ),
    "LogSoftmax minus": _of("LogSoftmax", axis=-2),
    "MatMul of more": lambda m, x: m("MatMul", m.random(2, 1, 1, 6, 8), x),
    "MaxPool one axis": lambda m, x: m(
        "MaxPool", m("Reshape", x, m.constant([0, 4, 64])), kernel_shape=[3], strides=[2]
    ),
    "Min of three": lambda m, x: m("Min", x, m("GlobalAveragePool", x), _f(m, 0.1)),
    "Mul by itself": lambda m, x: m("Mul", x, x),
    "Pad less": lambda m, x: m("Pad", x, m.constant([0, 0, -1, 2, 0, 0, -2, -1])),
    "ReduceMean of all": lambda m, x: m("Mul", x, m("ReduceMean", x)),
    "ReduceSum gone": lambda m, x: m("ReduceSum", x, m.constant([1, -1]), keepdims=0),
    "ReduceL2 gone": lambda m, x: m("ReduceL2", x, m.constant([-2]), keepdims=0),
    "ReduceLogSumExp gone": lambda m, x: m("ReduceLogSumExp", x, m.constant([1]), keepdims=0),
    "Softmax minus": _of("Softmax", axis=-2),
    "Squeeze minus": lambda m, x: m("Squeeze", m("ReduceMean", x, m.constant([3])), m.constant([-1])),
    "Sub spread": lambda m, x: m("Sub", _f(m, 0.3), x),
    "TopK smallest": lambda m, x: m("TopK", x, m.constant([2]), axis=1, largest=0, outputs=2)[0],
    "Expand rank": lambda m, x: m(
        "Expand", m("Unsqueeze", m("GlobalAveragePool", x), m.constant([1])), m.constant([1, 3, 1, 2, 1])
    ),
    "Flatten 2": lambda m, x: m(
        "Reshape", m("MatMul", m("Flatten", x, axis=2), m.random(64, 3)), m.constant([-1, 12])
    ),
    "Gemm turned": lambda m, x: m(
        "Transpose", m("Gemm", m.random(256, 5), m("Flatten", x), transA=1, transB=1, alpha=0.3)
    ),
    "Transpose reversed": lambda m, x: m("Transpose", m("Tanh", m("Transpose", x))),
    "Slice forth": lambda m, x: m(
        "Slice", x, m.constant([-7, 1]), m.constant([100, -1]), m.constant([3, -3]), m.constant([2, 1])
    ),
    "Where whole": lambda m, x: m("Where", m("Greater", m("GlobalAveragePool", x), _f(m, 0)), x, m("Neg", x)),
    "Where one side": lambda m, x: m("Where", m("Greater", x, _f(m, 0)), x, _f(m, 0.1)),
    "Unsqueeze minus": lambda m, x: m("Unsqueeze", x, m.constant([-1, -4])),
}

# Those that native gradients and torch have too, and ort-training refuses.
BEYOND: dict[str, Callable[[Maker, str], str]] = {
    "MatMul with a vector": lambda m, x: m("MatMul", x, m.random(8)),
    "Pad some axes": lambda m, x: m("Pad", x, m.constant([1, 2]), _f(m, 0.5), m.constant([2])),
    "Pow of both": lambda m, x: m("Pow", m("Add", m("Abs", x), _f(m, 0.1)), m("Sigmoid", x)),
    "Slice back": lambda m, x: m(
        "Slice", x, m.constant([-1, 1]), m.constant([-9, 3]), m.constant([3, -3]), m.constant([-2, 1])
    ),
    "Where spread": lambda m, x: m(
        "Where", m("Greater", x, _f(m, 0)), m("GlobalAveragePool", x), m("ReduceMean", x, m.constant([1]))
    ),
    "AveragePool counted": _of("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, ceil_mode=1),
    "Celu": _of("Celu", alpha=0.7),
    "ConvTranspose": lambda m, x: m(
        "ConvTranspose", x, m.random(4, 2, 3, 3), strides=[2, 2], pads=[1, 0, 0, 1], output_padding=[1, 0], group=2
    ),
    "CumSum": lambda m, x: m("CumSum", x, m.constant(3), exclusive=1, reverse=1),
    "DepthToSpace": _of("DepthToSpace", blocksize=2, mode="CRD"),
    "Einsum": lambda m, x: m("Einsum", x, m.random(4, 5), equation="nchw,cd->ndhw"),
    "Elu": _of("Elu"),
    "Gelu": lambda m, x: m("Mul", x, m("Erf", x)),
    "GlobalLpPool": _of("GlobalLpPool", p=3),
    "GlobalMaxPool": _of("GlobalMaxPool"),
    "InstanceNormalization": lambda m, x: m("InstanceNormalization", x, m.random(4, positive=True), m.random(4)),
    "LRN": _of("LRN", size=3, alpha=0.5),
    "LpNormalization": _of("LpNormalization", axis=1, p=2),
    "LpPool": _of("LpPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4),
    "MeanVarianceNormalization": _of("MeanVarianceNormalization"),
    "Mish": _of("Mish"),
    "PRelu": lambda m, x: m("PRelu", x, m.random(4, 1, 1)),
    "Pad edge": lambda m, x: m("Pad", x, m.constant([0, 0, 2, -1, 0, 0, 1, 3]), mode="edge"),
    "Pad reflect": lambda m, x: m("Pad", x, m.constant([0, 0, 2, 1, 0, 0, 1, 3]), mode="reflect"),
    "QDQ": _qdq,
    "QDQ of 16 bits": _qdq_16,
    "ReduceL1": lambda m, x: m("ReduceL1", x, m.constant([1])),
    "ReduceMax": lambda m, x: m("ReduceMax", x, m.constant([1])),
    "ReduceProd": lambda m, x: m("ReduceProd", x, m.constant([1])),
    "Resize cubic": lambda m, x: m(
        "Resize", x, "", m.constant(np.float32([1, 1, 1.5, 2.25])), mode="cubic"
    ),
    "Resize linear": lambda m, x: m(
        "Resize", x, "", m.constant(np.float32([1, 1, 2, 0.6])), mode="linear", antialias=1
    ),
    "Resize nearest": lambda m, x: m("Resize", x, "", "", m.constant([2, 4, 13, 5]), mode="nearest"),
    "RoiAlign": lambda m, x: m(
        "RoiAlign", x, m.constant(np.float32([[0.3, 1, 6.2, 5], [2, 2, 7.7, 7]])), m.constant([0, 1]),
        output_height=3, output_width=2, sampling_ratio=2,
    ),
    "ScatterElements": lambda m, x: m(
        "ScatterElements", m("Flatten", x), m.constant([[3, 0, 3], [1, 1, 2]]),
        m("Slice", m("Flatten", x), m.constant([7]), m.constant([10]), m.constant([1])), axis=1, reduction="add",
    ),
    "Selu": _of("Selu"),
    "Shrink": _of("Shrink", bias=0.1, lambd=0.2),
    "Softplus": _of("Softplus"),
    "Softsign": _of("Softsign"),
    "SpaceToDepth": _of("SpaceToDepth", blocksize=2),
    "ThresholdedRelu": _of("ThresholdedRelu", alpha=0.3),
    "Trilu": _of("Trilu"),
}  # fmt: skip

CASES = {**TRUSTED, **BEYOND}
