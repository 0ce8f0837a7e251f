"""Which axis holds the channels, of the image and of every layer."""

from __future__ import annotations

import networks
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph.hostile import array, local, model
from onnx import TensorProto, helper

import onnxviz
from onnxviz.graph.analysis.twins import Channels, read_as
from tests.graph.running import session

WIDE = 8  # channels of the last layer


POOLS = {
    "reshaped": lambda m, x: m("Reshape", m("GlobalAveragePool", x), m.constant([-1, 1, 1, WIDE])),
    "turned": lambda m, x: m("Transpose", m("GlobalAveragePool", x), perm=[0, 2, 3, 1]),
    "squeezed": lambda m, x: m(
        "Unsqueeze", m("Squeeze", m("GlobalAveragePool", x), m.constant([2, 3])), m.constant([1, 2])
    ),
    "averaged": lambda m, x: m("ReduceMean", m("Transpose", x, perm=[0, 2, 3, 1]), axes=[1, 2], keepdims=1),
    "one place": lambda m, x: m("Reshape", m("GlobalAveragePool", x), m.constant([-1, 1, WIDE])),
}


def traced(pool, size: int = 12) -> onnx.ModelProto:
    """As tf2onnx writes it: NHWC in, turned for the convolutions, the pooled features with their channels last."""
    m = networks.Maker()
    x = m("Transpose", "image", perm=[0, 3, 1, 2])
    x = m("Relu", m("Conv", x, m.random(WIDE, 3, 3, 3), pads=[1] * 4, strides=[2, 2]))
    x = m("Relu", pool(m, x))
    y = m("MatMul", m("Reshape", x, m.constant([-1, WIDE])), m.random(WIDE, 5))
    return m.model({"image": ("N", size, size, 3)}, {y: ("N", 5)})


@pytest.mark.parametrize("pool", POOLS)
def test_traces_with_the_channels_last(pool):
    proto = traced(POOLS[pool])
    net = onnxviz.load(proto, provider="cpu")
    pooled = net.layers[-3]
    assert pooled.shape[-1] == WIDE and pooled.channels_last and pooled.channel_axis == len(pooled.shape) - 1
    turned = [layer for layer in net.layers if layer.op == "Conv"]
    assert not any(layer.channels_last for layer in turned)
    assert not net.layers[-2].channels_last  # (N, C)
    x = np.random.default_rng(0).random((2, 12, 12, 3), np.float32)
    proto.graph.output.append(helper.make_tensor_value_info(pooled.name, TensorProto.FLOAT, None))
    expected = session(proto).run([pooled.name], {"image": x})[0]
    expected = expected.reshape(2, WIDE)
    pictures = list((x * 255).astype(np.uint8))
    found = onnxviz.saliency(net, x, layer=pooled.name, channel=5)
    for one, row in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.score, row[5], rtol=1e-4, atol=1e-6)
    if len(pooled.shape) == 4:
        features = onnxviz.embed(net, pictures, layer=pooled.name).features
        assert features.shape == (2, WIDE)
        prepared = net.run(net.prepare(pictures), [pooled.name])[pooled.name].reshape(2, WIDE)
        np.testing.assert_allclose(features, prepared, rtol=1e-4)


def test_a_layer_of_one_place_keeps_its_channels_in_front():
    """(N, C, H, 1): the width is one, which says nothing of the channels."""
    m = networks.Maker()
    x = m("Relu", m("Conv", "x", m.random(8, 11, 3, 1), pads=[1, 0, 1, 0]))
    y = m("Gemm", m("Flatten", m("GlobalAveragePool", x)), m.random(8, 4))
    net = onnxviz.load(m.model({"x": ("N", 11, 60, 1)}, {y: ("N", 4)}), provider="cpu")
    assert net.input.layout == "NCHW" and net.size == (60, 1) and net.input.channels == 11
    assert [layer.channel_axis for layer in net.layers] == [1] * len(net.layers)
    assert not any(layer.channels_last for layer in net.layers)


# --- the image ------------------------------------------------------------------------------------


def _conv(m, x, channels):
    return m("Conv", x, m.random(4, channels, 3, 1), pads=[1, 0, 1, 0])


def _plain(m, c):
    return _conv(m, "x", c)


def _grouped(m, c):
    return m("Conv", m("Relu", m("Mul", "x", m.constant(2.0))), m.random(c, 1, 3, 1), group=c)


def _normed(m, c):
    return _conv(m, m("BatchNormalization", "x", *(m.random(c, positive=True) for _ in range(4))), c)


def _last(m, c):
    return _conv(m, m("Transpose", m("Sub", "x", m.random(c)), perm=[0, 3, 1, 2]), c)


def _sliced(m, c):
    """A Focus layer: four pieces side by side, so the weights count four times the channels."""
    cut = [
        m("Slice", "x", m.constant([i, 0]), m.constant([8, 2**31]), m.constant([2, 3]), m.constant([2, 1]))
        for i in (0, 1)
    ]
    return _conv(m, m("Concat", *cut, axis=1), 2 * c)


@pytest.mark.parametrize(
    ("front", "shape", "layout", "count"),
    [
        (_plain, ("N", 11, 60, 1), "NCHW", 11),
        (_plain, ("N", 60, 20, 3), "NCHW", 60),
        (_plain, ("N", 3, 8, 3), "NCHW", 3),
        (_grouped, ("N", 6, 24, 1), "NCHW", 6),
        (_normed, ("N", 2, 24, 1), "NCHW", 2),
        (_last, ("N", 60, 4, 11), "NHWC", 11),
        (_last, ("N", 1, 60, 2), "NHWC", 2),
        (_last, ("N", 3, 60, 11), "NHWC", 11),
        (_sliced, ("N", 5, 8, 3), "NCHW", 5),
        (_plain, ("N", "C", "H", "W"), "NCHW", 13),
        (_last, ("N", "H", "W", "C"), "NHWC", 13),
    ],
)
def test_the_layout_is_read_off_the_first_reader(front, shape, layout, count):
    m = networks.Maker()
    y = m("Flatten", m("GlobalAveragePool", front(m, count)))
    proto = m.model({"x": shape}, {y: ("N", None)})
    onnx.checker.check_model(proto, full_check=True)
    net = onnxviz.load(proto, provider="cpu")
    assert (net.input.layout, net.input.channels) == (layout, count)
    assert not any("layout=" in warning for warning in net.warnings)
    said = onnxviz.load(proto, provider="cpu", layout="NHWC" if layout == "NCHW" else "NCHW")
    assert said.input.layout != layout  # the caller knows better


def test_a_model_of_functions_is_looked_into():
    made = model(
        "y = local.Block(x, w)",
        [array("w", np.ones((4, 11, 3, 1)))],
        shape=("N", 11, 60, 1),
        functions=[local("Block (a, w) => (c) { b = Relu(a) c = Conv(b, w) }")],
    )
    read = ir.from_proto(made)
    found = read_as(read.graph.inputs[0], read.functions)
    assert found in (Channels(1, 11), Channels(1, None))
    assert read_as(read.graph.inputs[0]) is None


@pytest.mark.parametrize(("channels", "clear"), [(11, False), (3, True)])
def test_sizes_that_do_not_tell_are_said(channels, clear):
    m = networks.Maker()
    y = m("MatMul", m("Flatten", "x"), m.random(channels * 60 * 2, 4))
    net = onnxviz.load(m.model({"x": ("N", channels, 60, 2)}, {y: ("N", 4)}), provider="cpu")
    said = [warning for warning in net.warnings if "layout=" in warning]
    if clear:
        assert net.input.layout == "NCHW" and not said
    else:
        assert "11×60×2" in said[0]


def test_axes_of_nothing_are_not_followed():
    """ONNX Runtime refuses them when it loads the model; until then, or within a function, they may stand there."""
    text = f"y = Unsqueeze<axes = [-2, {2**62}, 64, {2**32}]>(x)"
    assert read_as(ir.from_proto(model(text, opset=11)).graph.inputs[0]) is None
