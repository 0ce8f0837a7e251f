"""Networks that take integers, differentiated: the copy that takes floats computes the same on whole numbers."""

from __future__ import annotations

import networks
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

import onnxviz
from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.float32 import real_input
from onnxviz.synthesis.machine import Machine
from onnxviz.synthesis.updates import Ascent
from tests.graph.running import session

SIDE = 12
FLOAT, INT32 = TensorProto.FLOAT, TensorProto.INT32


def _cast(m, x):
    return m("Cast", x, to=FLOAT)


def _transpose_cast(m, x):
    return _cast(m, m("Transpose", x, perm=[0, 3, 1, 2]))


def _moves(m, x):
    """Everything that only moves values, behind one another."""
    x = m("Transpose", x, perm=[0, 3, 1, 2])
    x = m("Reshape", m("Identity", x), m.constant([0, 3, SIDE, SIDE]))
    halves = m("Split", x, axis=2, outputs=2)
    x = m("Concat", *halves, axis=2)
    x = m("Pad", x, m.constant([0, 0, 1, 1, 0, 0, 1, 1]), m.constant(np.array(7, np.uint8)))
    x = m("Slice", x, m.constant([1, 1]), m.constant([SIDE + 1, SIDE + 1]), m.constant([2, 3]))
    x = m("Unsqueeze", m("Squeeze", m("Unsqueeze", x, m.constant([1])), m.constant([1])), m.constant([1]))
    x = m("Gather", m("Squeeze", x, m.constant([1])), m.constant([2, 1, 0]), axis=1)
    return _cast(m, x)


def _joined(m, x):
    """A constant plane beside the pixels."""
    x = m("Transpose", x, perm=[0, 3, 1, 2])
    batch = m("Slice", m("Shape", x), m.constant([0]), m.constant([1]))
    size = m("Concat", batch, m.constant([1, SIDE, SIDE]), axis=0)
    plane = m("Expand", m.constant(np.full((1, 1, 1, 1), 9, np.uint8)), size)
    x = _cast(m, m("Concat", plane, x, axis=1))
    return m("Slice", x, m.constant([1]), m.constant([4]), m.constant([1]))


def _integers(m, x):
    """Pixels less 128 in int32, as embedded pipelines write it."""
    wide = m("Cast", m("Transpose", x, perm=[0, 3, 1, 2]), to=INT32)
    return m("Cast", m("Sub", wide, m.constant(np.full((1, 3, 1, 1), 128, np.int32))), to=FLOAT)


def _dequantised(m, x):
    x = m("Transpose", x, perm=[0, 3, 1, 2])
    return m("DequantizeLinear", x, m.constant(np.float32(0.5)), m.constant(np.array(3, np.uint8)))


def _by_channel(m, x):
    scale, zero = np.array([0.5, 1, 2], np.float32), np.array([0, 3, 128], np.uint8)
    x = m("DequantizeLinear", x, m.constant(scale), m.constant(zero), axis=3)
    return m("Transpose", x, perm=[0, 3, 1, 2])


def _enlarged(m, x):
    x = m("Transpose", x, perm=[0, 3, 1, 2])
    x = m("Resize", x, "", m.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    return m("MaxPool", _cast(m, x), kernel_shape=[2, 2], strides=[2, 2])


FRONTS = [_cast, _transpose_cast, _moves, _joined, _integers, _dequantised, _by_channel, _enlarged]
every_front = pytest.mark.parametrize("front", FRONTS)


def network(front, opset: int = 17) -> onnx.ModelProto:
    """Whole numbers in, a convolution, four logits; `front` makes planes (N, 3, h, w) of the pictures."""
    m = networks.Maker(opset=opset)
    x = front(m, "image")
    y = m("Relu", m("Conv", x, m.random(6, 3, 3, 3, name="w"), name="conv", pads=[1, 1, 1, 1]))
    y = m("Gemm", m("Flatten", m("GlobalAveragePool", y)), m.random(4, 6, name="v"), transB=1)
    shape = ("N", 3, SIDE, SIDE) if front is _cast else ("N", SIDE, SIDE, 3)
    model = m.model({"image": shape}, {y: ("N", 4)}, dtype=TensorProto.UINT8)
    onnx.checker.check_model(model, full_check=True)
    return model


def scores(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    return session(model).run(None, {"image": x})[0]


def ascent(net, logit: int) -> Machine:
    return Machine(net, onnxviz.objectives.logit(logit), optimiser=Ascent(0.02, "rms"))


@every_front
def test_the_copy_computes_the_same(front):
    model = network(front)
    shape = (2, 3, SIDE, SIDE) if front is _cast else (2, SIDE, SIDE, 3)
    x = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    copy = ir.serde.serialize_model(real_input(ir.serde.deserialize_model(model), "image"))
    np.testing.assert_allclose(scores(copy, x.astype(np.float32)), scores(model, x), rtol=1e-5, atol=1e-4)


@every_front
def test_pictures_are_made(front):
    """`ascent`'s machine, at the network's own size: the score that it tells is the one that ONNX Runtime gives."""
    model = network(front)
    net = onnxviz.load(model, provider="cpu")
    start = np.random.default_rng(1).integers(0, 256, (1, SIDE, SIDE, 3), dtype=np.uint8)
    steps = list(ascent(net, 2).run(8, start=start / np.float32(255)))
    x = start if net.input.layout == "NHWC" else start.transpose(0, 3, 1, 2)
    np.testing.assert_allclose(steps[0].value[0], scores(model, x)[0, 2], rtol=1e-4)
    assert steps[-1].value[0] > steps[0].value[0] + 0.05


def test_the_gradient_through_moves_is_that_of_the_float_network():
    """Against ONNX Runtime by central differences on whole numbers."""
    model = network(_transpose_cast)
    x = np.random.default_rng(2).integers(9, 246, (1, SIDE, SIDE, 3)).astype(np.float32)
    net = onnxviz.load(model, provider="cpu")
    gradient = net.gradients(onnxviz.objectives.logit(1))(x)["image.gradient"]
    for place in [(0, 3, 4, 0), (0, 7, 7, 1), (0, 11, 0, 2)]:
        step = np.zeros(x.shape, np.uint8)
        step[place] = 1
        up, down = (scores(model, y)[0, 1] for y in (x.astype(np.uint8) + step, x.astype(np.uint8) - step))
        np.testing.assert_allclose(gradient[place], (up - down) / 2, rtol=0.05, atol=2e-3)


def test_quantised_operators_that_read_the_pictures():
    """QLinearConv on the bytes themselves."""
    text = """x = Transpose <perm = [0, 3, 1, 2]> (image)
        q = QLinearConv <pads = [1, 1, 1, 1]> (x, one, zero, w, one, level, out, zero)
        y = DequantizeLinear(q, out, zero) g = GlobalAveragePool(y) scores = Flatten(g)"""
    weights = {"zero": np.uint8(0), "one": np.float32(1), "level": np.int8(0), "out": np.float32(20)}
    weights["w"] = np.random.default_rng(0).integers(-9, 9, (4, 3, 3, 3), dtype=np.int8)
    model = networks.written(text, {"image": ("N", SIDE, SIDE, 3)}, {"scores": ("N", 4)}, weights)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    steps = list(ascent(onnxviz.load(model, provider="cpu"), 0).run(8))
    assert steps[-1].value[0] > steps[0].value[0] + 1


@pytest.mark.parametrize(
    "front",
    [
        lambda m: m("Equal", "image", m.constant(np.array(3, np.uint8))),
        lambda m: m("Add", "image", m.constant(np.array(100, np.uint8))),  # 200 + 100 is 44 in eight bits
        lambda m: m("Cast", "image", to=TensorProto.BOOL),
    ],
)
def test_what_needs_the_integers(front):
    m = networks.Maker()
    y = m("Conv", m("Cast", front(m), to=FLOAT), m.random(4, 3, 1, 1))
    y = m("Flatten", m("GlobalAveragePool", y))
    model = m.model({"image": ("N", 3, SIDE, SIDE)}, {y: ("N", 4)}, dtype=TensorProto.UINT8)
    with pytest.raises(ModelUnsuitable, match="UINT8.*a float layer behind it"):
        ascent(onnxviz.load(model), 0)
