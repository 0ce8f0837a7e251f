"""Sizes that a network can take, against running it; and what is made of pictures of any size with such networks."""

from __future__ import annotations

import networks
import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxviz
from onnxviz.errors import ImageRejected, ModelUnsuitable
from onnxviz.graph.picture_sizes import Admissible
from onnxviz.synthesis.layers import feature_maps
from onnxviz.synthesis.machine import Machine
from onnxviz.synthesis.updates import Ascent
from tests.graph.running import session

RNG = np.random.default_rng(0)


def _conv(m, x, inside, out, kernel=3, stride=1, pad=None):
    pads = [kernel // 2 if pad is None else pad] * 4
    return m("Relu", m("Conv", x, m.random(out, inside, kernel, kernel), pads=pads, strides=[stride] * 2))


def pyramid(height="H", width="W"):
    """Two strides, the deeper map enlarged twice and added: not at every size."""
    m = networks.Maker()
    fine = _conv(m, _conv(m, "x", 3, 6, stride=2), 6, 6, stride=2)
    deep = _conv(m, fine, 6, 6, stride=2, pad=0, kernel=2)
    large = m("Resize", deep, "", m.constant(np.array([1, 1, 2, 2], np.float32)), mode="nearest")
    y = m("Add", fine, large, name="merge")
    z = m("Relu", y)
    return m.model({"x": ("N", 3, height, width)}, {z: None}), z


def focus():
    """Odd and even rows and columns side by side: even sides only."""
    m = networks.Maker()
    end = 2**31 - 1
    cut = [
        m("Slice", "x", m.constant([i, j]), m.constant([end, end]), m.constant([2, 3]), m.constant([2, 2]))
        for j in (0, 1)
        for i in (0, 1)
    ]
    z = _conv(m, m("Concat", *cut, axis=1, name="focus"), 12, 8)
    return m.model({"x": ("N", 3, "H", "W")}, {z: None}), z


def recogniser(height="H"):
    """A height of 32 becomes 1, which is squeezed away."""
    m = networks.Maker()
    x = "x"
    for inside, out in ((3, 6), (6, 6), (6, 6), (6, 6)):
        x = m("MaxPool", _conv(m, x, inside, out), kernel_shape=[2, 1], strides=[2, 1])
    x = m("Relu", m("Conv", x, m.random(8, 6, 2, 2), strides=[1, 2]))
    flat = m("Squeeze", x, m.constant([2]), name="flat")
    z = m("Relu", m("MatMul", m("Transpose", flat, perm=[0, 2, 1]), m.random(8, 5)))
    return m.model({"x": ("N", 3, height, "W")}, {z: None}), z


NETWORKS = {"pyramid": pyramid, "focus": focus, "recogniser": recogniser}


def runs(model: onnx.ModelProto, size: tuple[int, int]) -> bool:
    try:
        return 0 not in session(model).run(None, {"x": np.zeros((1, 3, *size), np.float32)})[0].shape
    except Exception:
        return False


SIZES = "32x40 33x40 32x41 30x30 24x24 47x64 48x80 64x96 36x36 4x50"


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_told_of_sizes_is_what_runs(name):
    model, layer = NETWORKS[name]()
    sizes = Admissible(ir.from_proto(model), "x", [layer])
    for text in SIZES.split():
        height, width = map(int, text.split("x"))
        assert (sizes.misfit((height, width)) is None) == runs(model, (height, width)), text
    for size in [(75, 113), (200, 130), (53, 97), (100, 100)]:
        near = sizes.nearest(size)
        assert near is not None and runs(model, near)
        if name != "recogniser":  # which takes one height
            assert max(abs(a - b) for a, b in zip(near, size, strict=True)) <= 4


def loaded(model):
    return onnxviz.load(model, provider="cpu")


def photo(height, width):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", NETWORKS)
def test_dreams_of_any_photo(name):
    """Octaves are rounded to what the network takes; what is made has the photo's size."""
    model, layer = NETWORKS[name]()
    net, picture = loaded(model), photo(101, 151)
    made = onnxviz.dream(net, picture, layer, octaves=3, steps=2, jitter=2)
    assert made.values.shape == (101, 151, 3)
    sizes = [tuple(one["size"]) for one in made.manifest["figures"]["octaves"]]
    assert sizes and all(runs(model, size) for size in sizes)
    assert name == "recogniser" or len(sizes) == 3
    assert np.abs(made.values - picture / 255).mean() > 1e-3
    if name == "recogniser":  # of which no shape is known at the usual size
        return
    guided = onnxviz.dream(net, picture, layer, guide=picture[::-1], octaves=1, steps=1)
    assert guided.values.shape == (101, 151, 3)


def test_a_fixed_height():
    net = loaded(recogniser(32)[0])
    early = next(one.name for one in net.layers if one.op == "MaxPool")
    made = onnxviz.dream(net, photo(40, 150), early, octaves=2, steps=2)
    assert made.values.shape == (40, 150, 3)


def test_textures_and_styles():
    net, picture = loaded(pyramid()[0]), photo(61, 83)
    layers = [net.layers[-1].name]
    made = onnxviz.texture(net, picture, size=(45, 51), layers=layers, steps=2)
    assert made.values.shape == (45, 51, 3)
    painted = onnxviz.style(
        net, picture, picture[::-1], layers=layers, content_layers=layers, steps=2, size=(61, 83)
    )
    assert painted.values.shape == (61, 83, 3)


def test_a_mismatch_is_not_called_small():
    net = loaded(pyramid()[0])
    layer = net.layers[-1].name
    objective = onnxviz.objectives.channel(layer, 0)
    with pytest.raises(ModelUnsuitable, match=r"sizes do not match at node 'merge'.*27×27.*26×26") as caught:
        Machine(net, objective, size=(105, 105), optimiser=Ascent(0.1))
    with pytest.raises(ImageRejected, match=r"sizes do not match at node 'merge'.*fits") as refused:
        feature_maps(net, np.zeros((105, 105, 3)), [layer])
    assert "small" not in f"{caught.value}{refused.value}"


def test_nothing_left_is_still_called_small():
    model, layer = recogniser()
    net = loaded(model)
    objective = onnxviz.objectives.channel([one.name for one in net.layers if one.op == "Relu"][4], 0)
    with pytest.raises(ModelUnsuitable, match="too small"):
        Machine(net, objective, size=(9, 9), optimiser=Ascent(0.1))
    misfit = Admissible(ir.from_proto(model), "x", [layer]).misfit((9, 9))
    assert misfit is not None and misfit.empty
