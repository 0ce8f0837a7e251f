"""What mixes the images of a batch, and the networks of open batch that are proven to keep them apart."""

from __future__ import annotations

import networks
import numpy as np
import onnx_ir as ir
import pytest
from networks import Maker

import onnxviz
from onnxviz.graph.dynamic_batch import Mixes, Refused, independent
from onnxviz.graph.surgery import mixing, plain
from onnxviz.running import Running
from tests.grad.oracle import session


def conv(m, x="image"):
    return m("Relu", m("Conv", x, m.random(4, 3, 3, 3), pads=[1] * 4))


def head(m, x):
    return m("Gemm", m("Flatten", m("GlobalAveragePool", x)), m.random(5, 4), m.random(5), transB=1)


def dynamically_quantised(m):
    q, scale, zero = m("DynamicQuantizeLinear", conv(m), outputs=3)
    return head(m, m("DequantizeLinear", q, scale, zero))


def fused_dynamic_product(m):
    x = m("Flatten", m("GlobalAveragePool", conv(m)))
    weights = m.constant(np.arange(-10, 10).reshape(4, 5).astype(np.int8))
    return m("DynamicQuantizeMatMul", x, weights, m.constant(np.float32([0.1])), domain="com.microsoft")


def trained(m):
    numbers = [m.random(4, positive=True) for _ in range(4)]
    return head(m, m("BatchNormalization", conv(m), *numbers, outputs=3, training_mode=1)[0])


def hidden_in_a_branch(m):
    inner = Maker(m.opset)
    x = conv(m)
    q, scale, zero = inner("DynamicQuantizeLinear", x, outputs=3)
    y = inner("DequantizeLinear", q, scale, zero)
    body = inner.model({}, {y: None}).graph
    return head(m, m("If", m("Not", m.constant(np.bool_(False))), then_branch=body, else_branch=body))


def over_the_batch(m):
    return m("Softmax", head(m, conv(m)), axis=0)


def less_the_batchs_mean(m):
    x = head(m, conv(m))
    return m("Sub", x, m("ReduceMean", x, axes=[0]))


def attention_over_the_batch(m):
    """A transformer that expects (steps, batch, features) and is given the batch first."""
    x = m("Flatten", m("GlobalAveragePool", conv(m)))
    weights = m("Softmax", m("MatMul", x, m("Transpose", x, perm=[1, 0])), axis=-1)
    return m("MatMul", weights, x)


def mean_over_everything(m):
    return head(m, m("MeanVarianceNormalization", conv(m), axes=[0, 2, 3]))


def opened(build, batch="N", opset=17):
    m = Maker(opset)
    out = build(m)
    return onnxviz.load(m.model({"image": (batch, 3, 16, 16)}, {out: None}), preprocess="imagenet"), m


MIXED = [
    dynamically_quantised, fused_dynamic_product, trained, hidden_in_a_branch, over_the_batch, less_the_batchs_mean,
    attention_over_the_batch, mean_over_everything,
]  # fmt: skip


@pytest.mark.parametrize("batch", ["N", 3])
@pytest.mark.parametrize("build", MIXED)
def test_what_mixes_goes_one_at_a_time(build, batch):
    """Every run of several gives what runs of one give, and the network says so once."""
    net, _ = opened(build, batch)
    name = net.model.graph.outputs[0].name
    x = net.prepare([picture(seed, light) for seed, light in ((0, 0.1), (1, 1.0), (2, 0.5))])
    together = net.run(x, [name], batch=3)[name]
    one_by_one = np.concatenate([net.run(x[i : i + 1], [name])[name][:1] for i in range(3)])
    np.testing.assert_array_equal(together, one_by_one)
    assert net.batch_size(8) == 1
    said = [warning for warning in net.warnings if "one at a time" in warning]
    assert len(said) == 1
    assert net.manifest("x")["warnings"] == net.warnings


def picture(seed: int, light: float) -> np.ndarray:
    return (np.random.default_rng(seed).integers(0, 256, (16, 16, 3)) * light).astype(np.uint8)


def test_alone_is_what_the_file_gives_for_one_image():
    """The oracle: ONNX Runtime on the file itself, one image a run."""
    net, m = opened(dynamically_quantised)
    (name,) = (value.name for value in net.model.graph.outputs)
    alone = session(m.model({"image": ("N", 3, 16, 16)}, {m.nodes[-1].output[0]: None}))
    x = net.prepare([picture(0, 0.1), picture(1, 1.0)])
    found = net.run(x, [name])[name]
    for i in range(2):
        np.testing.assert_allclose(found[i], alone.run(None, {"image": x[i : i + 1]})[0][0], atol=1e-6)
    assert not np.allclose(found, alone.run(None, {"image": x})[0], atol=1e-6)


NAMED = [
    (dynamically_quantised, "DynamicQuantizeLinear"),
    (trained, "BatchNormalization"),
    (hidden_in_a_branch, "Dyn"),
]


@pytest.mark.parametrize(("build", "node"), NAMED)
def test_operators_that_mix_are_named(build, node):
    reason = mixing(opened(build)[0].model)
    assert node in reason
    assert "all images of the batch" in reason


def test_old_training_form_is_told_by_its_outputs():
    def build(m):
        numbers = [m.random(4, positive=True) for _ in range(4)]
        return head(m, m("BatchNormalization", conv(m), *numbers, outputs=5)[0])

    told = mixing(opened(build, opset=9)[0].model)
    assert "normalises over all images" in told
    assert "export the network for inference" in told  # what it gives changes from run to run


def test_a_range_that_does_not_depend_on_the_image_mixes_nothing():
    def build(m):
        q, scale, zero = m("DynamicQuantizeLinear", m.random(5, 4), outputs=3)
        weights = m("DequantizeLinear", q, scale, zero)
        return m("Gemm", m("Flatten", m("GlobalAveragePool", conv(m))), weights, transB=1)

    net, _ = opened(build)
    assert mixing(net.model) is None
    assert net.alone is None
    assert net.warnings == []


@pytest.mark.parametrize("build", [over_the_batch, mean_over_everything, attention_over_the_batch])
def test_reading_across_the_batch_is_proven_too(build):
    """Though every layer has the batch in front: the glance sees no more than it should."""
    net, _ = opened(build)
    assert not plain(net.model, [(layer.name, layer.shape) for layer in net.layers])
    with pytest.raises(Mixes):
        independent(net.model)


APART = [networks.tiny_cnn, networks.nhwc, networks.with_function, lambda: networks.qdq(networks.tiny_cnn()),
         lambda: networks.qoperator(networks.tiny_cnn()), lambda: networks.fp16(networks.tiny_cnn())]  # fmt: skip


@pytest.mark.parametrize("build", APART)
def test_ordinary_networks_are_proven_to_keep_images_apart(build, monkeypatch):
    net = onnxviz.load(build(), preprocess="imagenet")
    monkeypatch.setattr(Running, "_tried", lambda *_: pytest.fail("it had to be tried"))
    assert net.alone is None
    assert net.batch_size(8) == 8


def test_a_plain_network_costs_a_glance(monkeypatch, net):
    from onnxviz.graph import dynamic_batch

    monkeypatch.setattr(dynamic_batch, "independent", lambda *_: pytest.fail("the whole graph was walked"))
    net.__dict__.pop("alone", None)
    assert net.alone is None


def test_what_cannot_be_proven_is_tried():
    """An operator of which the batch rules know nothing, and which keeps the images apart."""

    def turned(m):
        x = head(m, conv(m))
        count = m("Slice", m("Shape", x), m.constant([0]), m.constant([1]))
        lengths = m("Expand", m.constant([5]), count)
        return m("ReverseSequence", x, lengths, batch_axis=0, time_axis=1)

    net, _ = opened(turned)
    with pytest.raises(Refused):
        independent(net.model)
    assert net.alone is None
    assert net.warnings == []


def test_a_batch_that_fails_is_found_out():
    """The file says N and holds a 1: exports whose Reshape was traced."""

    def build(m):
        x = m("Reshape", m("GlobalAveragePool", conv(m)), m.constant([1, 4]))
        return m("Gemm", x, m.random(5, 4), transB=1)

    net, _ = opened(build)
    x = net.prepare([picture(0, 1.0), picture(1, 1.0)])
    (name,) = (value.name for value in net.model.graph.outputs)
    assert net.run(x, [name])[name].shape == (2, 5)
    assert "a batch of 2 fails" in net.alone


def test_nothing_is_written_to_the_callers_model():
    net, _ = opened(dynamically_quantised)
    before = ir.to_proto(net.model).SerializeToString()
    assert net.alone
    assert ir.to_proto(net.model).SerializeToString() == before
    assert net.batched[1] == 1
