"""Files that ONNX Runtime runs and no exporter writes: what is asked of them works, or is refused typed."""

import networks
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper

import onnxviz
from onnxviz.errors import (
    GradientNotFinite,
    LimitExceeded,
    ModelRejected,
    ModelUnsuitable,
)
from onnxviz.objectives import channel, logit

PHOTO = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)


def network(odd) -> onnx.ModelProto:
    """image (N, 3, 8, 8) -> Conv, Relu, `odd`(maker, map), mean, Gemm -> scores (N, 5)."""
    m = networks.Maker()
    x = m("Relu", m("Conv", "image", m.random(6, 3, 3, 3), pads=[1] * 4))
    y = m("Gemm", m("Flatten", m("GlobalAveragePool", odd(m, x))), m.random(6, 5))
    return m.model({"image": ("N", 3, 8, 8)}, {y: ("N", 5)})


def load(proto: onnx.ModelProto) -> onnxviz.Network:
    return onnxviz.load(proto, preprocess="unit", provider="cpu")


def scales(m, x):
    """Scales of two by two, which are to be a row."""
    return m("Resize", x, "", m.constant(np.array([[1, 1], [2, 2]], np.float32)), mode="linear")


def nothing(m, x):
    """Added to it, the mean of a RoiAlign of no rows; times 0, since it is NaN."""
    boxes, batch = m.constant(np.array([[0, 0, 4, 4]], np.float32)), m.constant(np.zeros(1, np.int64))
    empty = m("ReduceSum", m("RoiAlign", x, boxes, batch, output_height=0, output_width=2), keepdims=0)
    return m("Add", x, empty)


def twice(m, x):
    """A Constant of two values, of which ONNX Runtime takes one."""
    return m("Mul", x, m("Constant", value_float=1.5, value_int=3))


@pytest.mark.parametrize("odd", [scales, nothing, twice])
def test_it_works(odd):
    proto = network(odd)
    net = load(proto)
    x = net.prepare(PHOTO)
    (wanted,) = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"image": x})
    name = net.end.scores
    np.testing.assert_allclose(net.run(x, [name])[name], wanted, rtol=1e-5, atol=1e-6)
    assert onnxviz.inspect(net).lines()
    value, gradient = net.value_and_gradient(logit(2))(x)
    assert value[0] == pytest.approx(wanted[0, 2], rel=1e-4)
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


def test_a_grid_of_nan_is_no_index():
    """Its gradient asked for element -2^63 of the map, which was told as a mistake of ours."""
    net = load(
        network(lambda m, x: m("GridSample", x, m.constant(np.full((1, 4, 4, 2), np.nan, np.float32))))
    )
    with pytest.raises(GradientNotFinite, match="holds 32 NaN"):
        net.value_and_gradient(logit(0))(net.prepare(PHOTO))


def test_rows_that_are_not_the_pictures_are_not_cut_to_them():
    net = load(network(lambda m, x: m("PRelu", x, m.constant(np.ones((4, 6, 1, 1), np.float32)))))
    with pytest.raises(ModelUnsuitable, match="4 rows for 1 pictures"):
        net.predict(PHOTO)


def test_scores_of_no_classes():
    m = networks.Maker()
    x = m("Flatten", m("GlobalAveragePool", m("Conv", "image", m.random(6, 3, 3, 3))))
    ends = [m.constant(np.array([n], np.int64)) for n in (0, 0, 1)]
    y = m("Slice", x, *ends)
    net = load(m.model({"image": ("N", 3, 8, 8)}, {y: ("N", 0)}))
    for technique in (onnxviz.predict, onnxviz.saliency, onnxviz.cam, onnxviz.occlusion):
        with pytest.raises(ModelUnsuitable, match="holds no numbers"):
            technique(net, PHOTO)


def test_a_channel_of_a_single_number():
    m = networks.Maker()
    y = m("ReduceMean", m("Conv", "image", m.random(6, 3, 3, 3)), keepdims=0)
    net = load(m.model({"image": (1, 3, 8, 8)}, {y: ()}))
    with pytest.raises(ModelUnsuitable, match="no axis 1"):
        net.value_and_gradient(channel(y, 0))


@pytest.mark.parametrize(
    "shape", [(1, 3, 8, "N"), ("N", 3, 8, "N"), (1, 3, "H", "W"), ("N", 3, "S", "S"), (1, 3, 8, "C")]
)
def test_lengths_that_are_called_alike_are_not_taken_to_be_equal(shape):
    """A batch that is freed, called N as the file's width is: its length was the width's (seeds 733086, 734685)."""

    def made(shape):
        m = networks.Maker()
        x = m("Relu", m("Conv", "image", m.random(6, 3, 3, 3), pads=[1] * 4, strides=[2, 2]))
        x = m("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        y = m("Gemm", m("Flatten", m("GlobalAveragePool", x)), m.random(6, 5))
        return load(m.model({"image": shape}, {y: (shape[0], 5)}))

    x = np.random.default_rng(0).normal(size=(1, 3, 8, 14)).astype(np.float32)
    (value, gradient), (wanted, other) = (
        made(one).value_and_gradient(logit(2))(x) for one in (shape, ("batch", 3, "height", "width"))
    )
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_allclose(gradient, other, rtol=1e-5, atol=1e-7)


def test_a_type_of_no_kind_that_the_runtime_does_not_read():
    net = load(
        network(lambda m, x: m("LayerNormalization", x, m.constant(np.ones(8, np.float32)), stash_type=2**31))
    )
    assert np.isfinite(net.run(net.prepare(PHOTO), [net.end.scores])[net.end.scores]).all()
    with pytest.raises(ModelRejected, match="LayerNormalization.*asks for the element type"):
        net.value_and_gradient(logit(0))(net.prepare(PHOTO))


@pytest.mark.parametrize("backend", ["auto", "torch"])
def test_no_row_for_the_only_picture_is_the_files_fault(backend):
    """Every second picture from the second on (seed 739466)."""
    pytest.importorskip("torch")

    def second(m, x):
        x = m("BatchNormalization", x, *(m.constant(np.ones(6, np.float32)) for _ in range(4)))
        return m("Slice", x, *(m.constant(np.array([n], np.int64)) for n in (1, 7, 0, 2)))

    net = onnxviz.load(network(second), preprocess="unit", provider="cpu", backend=backend)
    with pytest.raises(ModelUnsuitable):
        net.value_and_gradient(logit(0))(net.prepare(PHOTO))


@pytest.mark.parametrize("declared", [None, ("N", 5), ("N", 3, 9, 9)])
@pytest.mark.parametrize("kind", [0, onnx.TensorProto.INT64])
def test_what_is_said_of_a_picture_as_an_output_is_not_read(kind, declared):
    """ONNX Runtime reads what is said of it as an input; ours was overwritten."""
    proto = network(lambda _, x: x)
    proto.graph.output.add(name="image")
    if kind or declared:
        proto.graph.output[1].CopyFrom(helper.make_tensor_value_info("image", kind or 1, declared))
    (wanted, _) = onnxruntime.InferenceSession(proto.SerializeToString()).run(
        None, {"image": load(proto).prepare(PHOTO)}
    )
    net = load(proto)
    np.testing.assert_allclose(
        net.run(net.prepare(PHOTO), [net.end.scores])[net.end.scores], wanted, rtol=1e-5
    )


def test_a_picture_that_is_taken_for_the_scores_is_occluded():
    """It is of no known shape, and a class is a number of it (seed 752853)."""
    proto = network(lambda _, x: x)
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    proto.graph.output.append(proto.graph.input[0])
    net = onnxviz.load(proto, preprocess="unit", provider="cpu", size=8, output="image")
    found = onnxviz.occlusion(net, PHOTO, target=9, window=4, stride=4, fill="zero").values
    assert (
        found[:4, :4] != found[4:, 4:]
    ).any()  # the window over row 1, column 1 of the first colour, number 9
    assert (found[:4, :4] == found[0, 0]).all()


def test_what_is_computed_behind_a_map_of_no_places_is_the_files_fault():
    """ONNX Runtime normalises one of no rows; no convolution of ours, as in its gradient, goes over it."""

    def nothing(m, x):
        ends = [m.constant(np.array([n], np.int64)) for n in (0, 0, 2)]
        return m("Add", x, m("ReduceSum", m("LRN", m("Slice", x, *ends), size=3), keepdims=0))

    net = load(network(nothing))
    assert len(net.predict(PHOTO)) == 1
    with pytest.raises(ModelUnsuitable, match="no places"):
        net.value_and_gradient(logit(0))(net.prepare(PHOTO))


def test_a_technique_whose_memory_ends_says_so():
    m = networks.Maker()
    y = m(
        "Gemm", m("Flatten", m("GlobalAveragePool", m("Conv", "image", m.random(6, 3, 1, 1)))), m.random(6, 5)
    )
    net = load(m.model({"image": ("N", 3, 1, 2**24)}, {y: ("N", 5)}))
    with pytest.raises(LimitExceeded, match="cam ran out of memory"):
        onnxviz.cam(net, np.zeros((1, 2**24, 3), np.uint8), target=0)
