"""The files that every runtime is held to, each with what to feed it and what ONNX Runtime's CPU provider gives.

Gradient files of small networks, one for each form that the rules write; gradient and explainer files of the bundled
network.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

import onnxviz
from tests import networks

TOLERANCE = 2e-5  # of the norm; what was measured is below 3e-6
MODEL = Path(__file__).parents[2] / "models" / "efficientnet-lite0.onnx"
Arrays = dict[str, np.ndarray]


@dataclass
class Held:
    """A written file, what it is fed, and what it should give."""

    model: onnx.ModelProto
    feeds: Arrays
    expected: Arrays


def natively(model: onnx.ModelProto, feeds: Arrays, level: str = "ORT_ENABLE_ALL") -> Arrays:
    """What ONNX Runtime's CPU provider gives, at this level of optimisation."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def hold_all(cases: dict[str, Held], found: Mapping[str, Arrays | str], tolerance: float = TOLERANCE) -> None:
    """What a runtime gave for each case; errors are told first."""
    assert {name: told for name, told in found.items() if isinstance(told, str)} == {}
    for name, case in cases.items():
        given = found[name]
        assert not isinstance(given, str)
        hold(case.expected, given, tolerance, name)


def hold(expected: Arrays, found: Arrays, tolerance: float = TOLERANCE, name: str = "") -> None:
    """Every output within the tolerance; the relative error and the cosine of those that are not are told."""
    wrong = {}
    for output, array in expected.items():
        assert found[output].shape == array.shape, (name, output)
        a, b = (np.asarray(v, np.float64).ravel() for v in (array, found[output]))
        size = np.linalg.norm(a)
        assert size > 0, f"{name}: {output} is zero, which says nothing"
        relative = float(np.linalg.norm(a - b) / size)
        if not relative <= tolerance:
            cosine = float(a @ b / (size * np.linalg.norm(b)))
            wrong[output] = f"relative error {relative:.2g}, cosine {cosine:.6f}"
    assert not wrong, (name, wrong)


def gradient_file(model: onnx.ModelProto, rules: str = "plain", shape: tuple[int, ...] | None = None) -> Held:
    """The gradient file of a network with one output, of two pictures, by a random cotangent."""
    (source,), (output,) = model.graph.input, model.graph.output
    rng = np.random.default_rng(1)
    known = [d.dim_value or 2 for d in source.type.tensor_type.shape.dim]
    kind = onnx.helper.tensor_dtype_to_np_dtype(source.type.tensor_type.elem_type)
    x = rng.standard_normal(shape or known).astype(kind)
    made = onnxviz.gradient_model(model, rules=rules)
    y = natively(model, {source.name: x})[output.name]
    feeds = {source.name: x, f"{output.name}.cotangent": rng.standard_normal(y.shape).astype(np.float32)}
    return Held(made, feeds, natively(made, feeds))


# --- one network a form ---------------------------------------------------------------------------


def network(
    write: Callable[[networks.Maker], str], shape: tuple[Any, ...] = ("N", 8, 12, 10)
) -> onnx.ModelProto:
    m = networks.Maker(opset=18)
    made = m.model({"x": shape}, {write(m): None})
    return onnx.shape_inference.infer_shapes(made, strict_mode=True)


def _convolutions(m: networks.Maker) -> str:
    """Stride 1, dense and grouped; strided dense (ConvTranspose), 1×1 and depthwise (stuffed)."""
    x = m("Relu", m("Conv", "x", m.random(16, 8, 3, 3), m.random(16), pads=[1] * 4))
    x = m("Relu", m("Conv", x, m.random(16, 8, 3, 3), pads=[1] * 4, group=2))
    x = m("Relu", m("Conv", x, m.random(12, 16, 3, 3), pads=[1] * 4, strides=[2, 2]))
    x = m("Relu", m("Conv", x, m.random(12, 1, 3, 3), pads=[1] * 4, strides=[2, 2], group=12))
    return m("Conv", x, m.random(8, 12, 1, 1), strides=[2, 2])


def _squares(m: networks.Maker) -> str:
    """Weights of as many outputs as inputs, which a runtime may take for their own transposes."""
    x = m("Tanh", m("Conv", "x", m.random(8, 8, 3, 3), pads=[1] * 4, strides=[2, 2]))
    x = m("Tanh", m("ConvTranspose", x, m.random(8, 8, 3, 3), pads=[1] * 4))
    x = m("Tanh", m("Conv", x, m.random(8, 8, 2, 2), strides=[2, 2]))
    x = m("Flatten", m("Conv", x, m.random(8, 8, 1, 1)))
    x = m("Tanh", m("Gemm", x, m.random(48, 48), transB=1))
    return m("MatMul", m("Tanh", m("Gemm", x, m.random(48, 48))), m.random(48, 48))


def _clips(m: networks.Maker) -> str:
    """Clips with 0 as the lower bound, the upper, neither; and the other activations with a kink."""
    low, high, six = (m.constant(np.float32(v)) for v in (-0.5, 0.0, 6.0))
    x = m("Clip", m("Conv", "x", m.random(8, 8, 3, 3)), high, six)
    x = m("Clip", m("Conv", x, m.random(8, 8, 1, 1)), low, six)
    x = m("Add", x, m("Clip", x, low, high))
    for op, attributes in (
        ("LeakyRelu", {"alpha": 0.1}),
        ("HardSwish", {}),
        ("HardSigmoid", {"alpha": 0.2, "beta": 0.4}),
        ("ThresholdedRelu", {"alpha": 0.1}),
    ):
        x = m("Conv", m(op, x, **attributes), m.random(8, 8, 1, 1))
    return m("PRelu", x, m.random(8, 1, 1))


def _max_pools(m: networks.Maker) -> str:
    """Overlapping and tiling; behind a Relu and not; a global one."""
    x = m("MaxPool", m("Relu", "x"), kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    x = m("MaxPool", m("Conv", x, m.random(8, 8, 1, 1)), kernel_shape=[2, 2], strides=[2, 2])
    return m("Add", x, m("GlobalMaxPool", x))


def _overhanging(m: networks.Maker) -> str:
    """Max pools whose last windows hang over the edge, dilated ones, positions that no window reaches."""
    x = m("MaxPool", "x", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    x = m("MaxPool", m("Tanh", x), kernel_shape=[2, 3], dilations=[2, 1])
    return m("MaxPool", x, kernel_shape=[1, 2], strides=[3, 2])


def _mean_pools(m: networks.Maker) -> str:
    """Overlapping with and without the pads counted, tiling, of order 2, global."""
    x = m("AveragePool", "x", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4, count_include_pad=1)
    x = m("AveragePool", m("Tanh", x), kernel_shape=[3, 3], pads=[1] * 4)
    x = m("LpPool", x, kernel_shape=[2, 2], p=2)
    x = m("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2])
    return m("Mul", m("GlobalAveragePool", x), x)


def _resizes(m: networks.Maker) -> str:
    """By repetition, linear, cubic."""
    scales = m.constant(np.asarray([1, 1, 2, 2], np.float32))
    odd = m.constant(np.asarray([1, 1, 1.5, 0.75], np.float32))
    x = m("Resize", "x", "", scales, mode="nearest", coordinate_transformation_mode="asymmetric",
          nearest_mode="floor")  # fmt: skip
    x = m("Resize", m("Tanh", x), "", odd, mode="linear", coordinate_transformation_mode="half_pixel")
    return m("Resize", m("Tanh", x), "", scales, mode="cubic")


def norms(m: networks.Maker) -> str:
    """LRN, BatchNormalization that nothing takes up, and those that compute their own statistics."""
    x = m("LRN", "x", alpha=0.1, beta=0.75, bias=1.0, size=5)
    x = m("Relu", x)
    x = m("BatchNormalization", x, m.random(8), m.random(8), m.random(8), m.random(8, positive=True))
    x = m("InstanceNormalization", m("Relu", x), m.random(8, positive=True), m.random(8))
    x = m("LayerNormalization", m("Sigmoid", x), m.random(10, positive=True), m.random(10))
    return m("Mul", x, m("ReduceL2", x, m.constant(np.array([1])), keepdims=1))


def attention(m: networks.Maker) -> str:
    """A transformer's block over (N, tokens, 12), its parts as exporters write them."""
    x = m("LayerNormalization", "x", m.random(12, positive=True), m.random(12), epsilon=1e-6)
    q, k, v = (m("MatMul", x, m.random(12, 12)) for _ in range(3))
    scores = m("MatMul", q, m("Transpose", k, perm=[0, 2, 1]))
    x = m("Add", "x", m("MatMul", m("Softmax", m("Mul", scores, m.constant(np.float32(0.3)))), v))
    y = m("MatMul", m("LayerNormalization", x, m.random(12, positive=True)), m.random(12, 24))
    half, root = m.constant(np.float32(0.5)), m.constant(np.float32(np.sqrt(0.5)))
    gelu = m("Mul", m("Mul", y, half), m("Add", m("Erf", m("Mul", y, root)), m.constant(np.float32(1))))
    x = m("Add", x, m("MatMul", gelu, m.random(24, 12)))
    return m("Gemm", m("ReduceMean", x, m.constant(np.array([1])), keepdims=0), m.random(12, 5))


def _movement(m: networks.Maker) -> str:
    """Cutting, joining, padding, reordering, reading by index."""
    first, second = m("Split", "x", m.constant(np.array([3, 5])), axis=1, outputs=2)
    x = m("Concat", m("Relu", second), m("Tanh", first), "x", axis=1)
    x = m("Pad", x, m.constant(np.array([0, 0, 1, 2, 0, 0, 2, 1])), mode="reflect")
    x = m("Slice", m("Tanh", x), *(m.constant(np.array(v)) for v in ([0, 14], [12, 0], [2, 3], [1, -2])))
    x = m("DepthToSpace", x, blocksize=2)
    x = m("Transpose", m("Gather", x, m.constant(np.array([3, 0, 0])), axis=1), perm=[0, 2, 3, 1])
    top, _ = m("TopK", x, m.constant(np.array([5])), axis=1, outputs=2)
    return m("Einsum", top, m.random(3, 4), equation="nhwc,cd->nhd")


def _gates(m: networks.Maker) -> str:
    """Squeeze and excitation, and other lengths of 1 that broadcast."""
    gate = m("Sigmoid", m("Conv", m("Relu", m("GlobalAveragePool", "x")), m.random(8, 8, 1, 1)))
    x = m("Mul", "x", gate)
    x = m("Div", x, m("Add", m("Exp", m("ReduceMax", x, m.constant(np.array([3])))), m.random(8, 1, 1)))
    return m("Where", m("Greater", x, m.constant(np.float32(0))), m("Sqrt", m("Abs", x)), m("Sin", x))


def _form(
    write: Callable[[networks.Maker], str],
    shape: tuple[Any, ...] = ("N", 8, 12, 10),
    size: tuple[int, int] | None = None,
    rules: str = "plain",
) -> Callable[[], Held]:
    """Makes the gradient file of a network with an input of this shape; `size`: of the pictures where that is open."""
    return lambda: gradient_file(network(write, shape), rules, None if size is None else (2, 8, *size))


_WRITTEN = {
    "convolutions": _convolutions, "squares": _squares, "clips": _clips, "max pools": _max_pools,
    "overhanging pools": _overhanging, "mean pools": _mean_pools, "resizes": _resizes, "norms": norms,
    "movement": _movement, "gates": _gates,
}  # fmt: skip
_OF_ANY_SIZE = {"convolutions": (13, 14), "max pools": (11, 12), "mean pools": (11, 12), "gates": (5, 6)}
FORMS: dict[str, Callable[[], Held]] = {
    **{name: _form(write) for name, write in _WRITTEN.items()},
    **{f"{n} of any size": _form(_WRITTEN[n], ("N", 8, "H", "W"), size) for n, size in _OF_ANY_SIZE.items()},
    **{rules: _form(_convolutions, rules=rules) for rules in ("guided", "deconvnet", "redirected")},
    "attention": _form(attention, ("N", 6, 12)),
    "clips of 16 channels": lambda: gradient_file(networks.tiny_cnn(softmax=False)),
    "half precision": lambda: gradient_file(networks.fp16(networks.tiny_cnn(softmax=False))),
    "quantised": lambda: gradient_file(networks.qdq(networks.tiny_cnn(softmax=False))),
}


# Between them: plain and guided masks, a heat map over the picture, sums over channels, powers of a matrix.
TECHNIQUES = ("saliency", "guided", "grad-cam", "grad-cam++", "eigencam", "guided-grad-cam")


def bundled(net: onnxviz.Network, picture: np.ndarray) -> dict[str, Held]:
    """The gradient file of efficientnet-lite0, and its explainers, on a picture."""
    return {name: _bundled(net, picture, name) for name in ("gradient file", *TECHNIQUES)}


def _bundled(net: onnxviz.Network, picture: np.ndarray, technique: str) -> Held:
    if technique in TECHNIQUES:
        model = onnxviz.explainer_model(net, technique)
        feeds = {"image": picture[None]}
    else:
        model = onnxviz.gradient_model(MODEL)
        cotangent = np.zeros((1, 1000), np.float32)
        cotangent[0, 285] = 1
        feeds = {"image": net.prepare([picture]), "logits.cotangent": cotangent}
    return Held(model, feeds, natively(model, feeds))


# --- in other processes ---------------------------------------------------------------------------


def write(folder: Path, cases: dict[str, Held]) -> None:
    """The files, what they are fed as raw bytes, and `cases.json`, which lists them."""
    listed = []
    for place, (name, case) in enumerate(cases.items()):
        (folder / f"{place}.onnx").write_bytes(case.model.SerializeToString())
        feeds = []
        for i, (key, array) in enumerate(case.feeds.items()):
            (folder / f"{place}.in{i}").write_bytes(np.ascontiguousarray(array).tobytes())
            feeds.append([key, str(array.dtype), list(array.shape), f"{place}.in{i}"])
        listed.append({"name": name, "file": f"{place}", "feeds": feeds, "outputs": list(case.expected)})
    (folder / "cases.json").write_text(json.dumps(listed), encoding="utf-8")


def read(folder: Path) -> dict[str, Arrays | str]:
    """What a runtime gave for each, from `<n>.out<i>` and `<n>.json` (types and shapes), or its error."""
    found: dict[str, Arrays | str] = {}
    for case in json.loads((folder / "cases.json").read_text(encoding="utf-8")):
        told = json.loads((folder / f"{case['file']}.json").read_text(encoding="utf-8"))
        if isinstance(told, str):
            found[case["name"]] = told
            continue
        found[case["name"]] = {
            name: np.frombuffer((folder / f"{case['file']}.out{i}").read_bytes(), kind).reshape(shape)
            for i, (name, kind, shape) in enumerate(told)
        }
    return found
