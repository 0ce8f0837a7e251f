"""A free batch against runs of one image each, a free size against the original at its own size, and cutting."""

from __future__ import annotations

import gc

import networks
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from networks import LIGHT, Maker, light, tiny_cnn

from onnxviz.errors import ModelUnsuitable, UnknownLayer
from onnxviz.graph.dynamic_batch import free_batch
from onnxviz.graph.open.load import load
from onnxviz.graph.picture_sizes import free_size
from onnxviz.graph.surgery import cut
from tests.graph.running import session


def same_in_batches(proto, shape, count=3, dtype=np.float32, tolerance=1e-5):
    """The freed model on `count` images at once gives what the original gives on each."""
    model = load(proto).model
    free = free_batch(model)
    onnx.checker.check_model(ir.to_proto(free), full_check=True)
    most = 255 if dtype == np.uint8 else 1
    images = np.random.default_rng(0).uniform(0, most, (count, *shape)).astype(dtype)
    one, many = session(proto), session(free)
    name = free.graph.inputs[0].name
    expected = [one.run(None, {name: image[None]}) for image in images]
    found = many.run(None, {name: images})
    assert len(found) == len(expected[0])
    for i, output in enumerate(found):
        wanted = np.concatenate([row[i] for row in expected])
        assert output.shape == wanted.shape
        assert np.abs(wanted - wanted[0]).max() > 0, "all images give the same: nothing is tested"
        np.testing.assert_allclose(output, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())
    return free


@pytest.mark.parametrize("name", LIGHT)
def test_classic_networks_in_batches(name):
    free = same_in_batches(
        light(name, width=256), (3, 224, 224), count=2 if name == "vgg19" else 3, tolerance=1e-4
    )
    assert free.graph.inputs[0].shape[0] == "N"
    gc.collect()


def test_the_callers_model_is_untouched_and_shares_weights():
    model = load(networks.static_batch()).model
    before = ir.to_proto(model).SerializeToString()
    free = free_batch(model)
    part = cut(model, ["relu4"])
    sized, _ = free_size(model)
    assert ir.to_proto(model).SerializeToString() == before
    weight = "weight2"
    for copy in (free, part, sized):
        assert copy.graph.initializers[weight].const_value is model.graph.initializers[weight].const_value


def test_an_open_batch_stays():
    free = free_batch(load(tiny_cnn()).model)
    assert free.graph.inputs[0].shape == ["N", 3, 32, 32]


ODD = {
    "static batch": (networks.static_batch, (3, 32, 32), np.float32),
    "uint8": (lambda: tiny_cnn(batch=1, uint8=True), (3, 32, 32), np.uint8),
    "nhwc": (lambda: networks.nhwc(batch=1), (32, 32, 3), np.float32),
    "qdq": (lambda: networks.qdq(networks.static_batch()), (3, 32, 32), np.float32),
    "qoperator": (lambda: networks.qoperator(networks.static_batch()), (3, 32, 32), np.float32),
    "float16": (lambda: networks.fp16(networks.static_batch()), (3, 32, 32), np.float16),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_forms_in_batches(name):
    make, shape, dtype = ODD[name]
    same_in_batches(make(), shape, dtype=dtype, tolerance=1e-2 if dtype == np.float16 else 1e-4)


def test_a_fixed_batch_of_several():
    """Each image of a batch of 4 comes out as it does in the fixed batch of 2."""
    proto = networks.static_batch(batch=2)
    free = free_batch(load(proto).model)
    images = np.random.default_rng(0).random((4, 3, 32, 32), np.float32)
    expected = [session(proto).run(None, {"image": images[i : i + 2]})[0] for i in (0, 2)]
    found = session(free).run(None, {"image": images})[0]
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=1e-5)


# --- one node that holds the batch ----------------------------------------------------------------


def conv(m, out=4):
    return m(
        "Conv", "image", m.random(out, 3, 3, 3), m.random(out), pads=[1] * 4, strides=[4, 4]
    )  # (1, out, 4, 4)


def shuffled(m, target, **options):
    return m("Reshape", conv(m), m.constant(target), **options)


def tokens_without_batch_axis(m):
    """(1, 4, 4, 4) -> (16, 4) @ (4, 5) -> (1, 16, 5): the batch is folded into the rows and taken out again."""
    x = m("Reshape", m("Transpose", conv(m), perm=[0, 2, 3, 1]), m.constant([16, 4]))
    return m("Reshape", m("Gemm", x, m.random(4, 5), m.random(5)), m.constant([1, 16, 5]))


def class_token(m):
    """A learned token beside those of the image, as in vision transformers, and the attention over all."""
    x = m("Transpose", shuffled(m, [1, 4, 16]), perm=[0, 2, 1])
    x = m("Add", m("Concat", m.random(1, 1, 4), x, axis=1), m.random(1, 17, 4))
    weights = m("Softmax", m("MatMul", x, m("Transpose", x, perm=[0, 2, 1])))
    return m("Gather", m("MatMul", weights, x), m.constant(np.int64(0)), axis=1)


def expanded_token(m):
    x = shuffled(m, [1, 16, 4])
    return m("Concat", m("Expand", m.random(1, 1, 4), m.constant([1, 1, 4])), x, axis=1)


def sizes(m, x):
    """The four sizes of a value, one by one."""
    shape = m("Shape", x)
    return [m("Gather", shape, m.constant([i]), axis=0) for i in range(4)]


def shape_arithmetic(m):
    """flatten written as Shape -> Gather -> Mul -> Concat -> Reshape."""
    x = conv(m)
    batch, *rest = sizes(m, x)
    return m("Reshape", x, m("Concat", batch, m("Mul", m("Mul", rest[0], rest[1]), rest[2]), axis=0))


def zeros_like(m):
    x, two = conv(m), onnx.numpy_helper.from_array(np.float32([2]))
    return m("Add", x, m("ConstantOfShape", m("Shape", x), value=two))


def lstm(m):
    """(steps, batch, size) with constant first states, as text recognisers have it."""
    x = m("Transpose", shuffled(m, [1, 16, 4]), perm=[1, 0, 2])
    states = [m.constant(m.rng.standard_normal((1, 1, 3)).astype(np.float32)) for _ in range(2)]
    y, _, _ = m("LSTM", x, m.random(1, 12, 4), m.random(1, 12, 3), "", "", *states, hidden_size=3, outputs=3)
    return m("Transpose", m("Squeeze", y, m.constant([1])), perm=[1, 0, 2])


def squeeze_and_back(m):
    x = m("Squeeze", m("GlobalAveragePool", conv(m)), m.constant([2, 3]))
    return m("Flatten", m("Unsqueeze", x, m.constant([-1])))


def split_and_sum(m):
    a, b = m("Split", conv(m), axis=1, outputs=2)
    return m("TopK", m("Add", a, m("Tile", b, m.constant([1, 1, 1, 1]))), m.constant([2]), outputs=2)[0]


HOLDING = {
    "Reshape with a rest": lambda m: shuffled(m, [1, -1]),
    "Reshape that allows zeros": lambda m: shuffled(m, [1, 2, 32], allowzero=1),
    "tokens without a batch axis": tokens_without_batch_axis,
    "class token": class_token,
    "expanded token": expanded_token,
    "Expand of the image": lambda m: m(
        "Expand", m("ReduceMean", conv(m), axes=[2, 3]), m.constant([1, 4, 3, 2])
    ),
    "sizes of Resize": lambda m: m("Resize", conv(m), "", "", m.constant([1, 4, 8, 6]), mode="linear"),
    "Slice of all": lambda m: m("Slice", conv(m), m.constant([0, 1]), m.constant([1, 3]), m.constant([0, 1])),
    "shape arithmetic": shape_arithmetic,
    "zeros like": zeros_like,
    "mean and variance": lambda m: m("MeanVarianceNormalization", conv(m)),
    "LSTM": lstm,
    "Einsum": lambda m: m("Einsum", conv(m), m.random(4, 5), equation="bchw,cd->bdhw"),
    "Squeeze and back": squeeze_and_back,
    "Split and sum": split_and_sum,
}


@pytest.mark.parametrize("form", HOLDING)
def test_nodes_that_hold_the_batch(form):
    m = Maker()
    out = HOLDING[form](m)
    same_in_batches(m.model({"image": (1, 3, 16, 16)}, {out: None}), (3, 16, 16))


def mixed_into_channels(m):
    x = m("Transpose", shuffled(m, [1, 64]), perm=[1, 0])
    return m("MatMul", m.random(5, 64), m("Transpose", m("MatMul", x, m.random(1, 64)), perm=[1, 0]))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda m: m("Gather", conv(m), m.constant(np.int64(0)), axis=0), "single images"),
        (lambda m: m("Squeeze", m("GlobalAveragePool", conv(m))), "drops the batch axis"),
        (lambda m: m("Softmax", conv(m), axis=0), "reads across"),
        (lambda m: m("ReduceMean", conv(m), keepdims=0), "reads across"),
        (mixed_into_channels, "reads across"),
        (lambda m: m("Concat", *[conv(m)] * 2, axis=0), "joins values along the batch"),
        (lambda m: m("Cast", m("DynamicQuantizeLinear", conv(m), outputs=3)[0], to=1), "one range over all"),
        (lambda m: m("NonZero", conv(m)), "not known"),
    ],
)
def test_what_forbids_a_free_batch_is_named(build, reason):
    m = Maker()
    out = build(m)
    with pytest.raises(ModelUnsuitable, match=reason) as error:
        free_batch(load(m.model({"image": (1, 3, 16, 16)}, {out: None})).model)
    assert any(node.name in str(error.value) for node in m.nodes), str(error.value)


@pytest.mark.parametrize("held", [False, True])
def test_an_image_size_that_is_open(held):
    """It stays open; where its arithmetic holds the batch, it is refused."""
    m = Maker()
    x = conv(m)
    batch, _, height, width = sizes(m, x)
    first = m.constant([1]) if held else batch
    x = m("Reshape", x, m("Concat", first, m.constant([2, 2]), height, width, axis=0))
    proto = m.model({"image": (1, 3, "H", "W")}, {x: None})
    if held:
        with pytest.raises(ModelUnsuitable, match="Reshape"):
            free_batch(load(proto).model)
        return
    same_in_batches(proto, (3, 16, 24))
    same_in_batches(proto, (3, 32, 16))


# --- what torch.onnx.export writes ----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["convnext", "vit", "swin"])
def test_exports_with_a_fixed_batch(kind, tmp_path):
    """Class tokens and shifted windows of real exports: each image comes out as it does alone."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    make, given = {
        "convnext": (t.ConvNextForImageClassification, {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2}),
        "vit": (
            t.ViTForImageClassification,
            {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
             "image_size": 64, "patch_size": 16},
        ),
        "swin": (
            t.SwinForImageClassification,
            {"image_size": 64, "embed_dim": 8, "depths": [2, 1], "num_heads": [1, 2], "window_size": 4},
        ),
    }[kind]  # fmt: skip
    network = make(make.config_class(num_labels=5, **given)).eval()

    class Logits(torch.nn.Sequential):
        def forward(self, image):
            return self[0](image).logits

    path = tmp_path / "export.onnx"
    torch.onnx.export(
        Logits(network), (torch.zeros(1, 3, 64, 64),), path, dynamo=False, input_names=["image"]
    )
    same_in_batches(onnx.load(path), (3, 64, 64), tolerance=1e-4)


# --- size -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "barrier"), [("squeezenet", None), ("inception_v1", "Reshape"), ("shufflenet", "Reshape")]
)
def test_classic_networks_at_another_size(name, barrier):
    model = load(light(name, width=256)).model
    free, first = free_size(model)
    onnx.checker.check_model(ir.to_proto(free), full_check=True)
    made = {value.name: node for node in model.graph for value in node.outputs}
    assert (made[first].op_type if first else None) == barrier
    assert free.graph.inputs[0].shape == [1, 3, "H", "W"]
    images = np.random.default_rng(0).random((1, 3, 288, 320), np.float32)
    feed, run = free.graph.inputs[0].name, session(free)
    own = session(cut(model, [value.name for value in free.graph.outputs]))
    found, wanted = (one.run(None, {feed: images[..., :224, :224]}) for one in (run, own))
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert all(np.isfinite(one).all() for one in run.run(None, {feed: images}))
    gc.collect()


def test_size_and_batch_freed_together():
    free, first = free_size(free_batch(load(networks.static_batch()).model))
    assert first is not None
    assert free.graph.inputs[0].shape == ["N", 3, "H", "W"]
    found = session(free).run(None, {"image": np.ones((2, 3, 48, 40), np.float32)})
    assert found[0].shape == (2, 8, 24, 20)


def test_a_position_embedding_forbids_another_size():
    m = Maker()
    x = conv(m)
    y = m("Add", x, m.random(1, 4, 4, 4))
    free, first = free_size(load(m.model({"image": ("N", 3, 16, 16)}, {y: None})).model)
    assert first == y
    assert [value.name for value in free.graph.outputs] == [x]
    assert free.graph.outputs[0].shape[2].value is None


def test_no_layer_takes_another_size():
    m = Maker()
    x = m("Gemm", m("Reshape", "image", m.constant([-1, 768])), m.random(768, 5), m.random(5))
    with pytest.raises(ModelUnsuitable, match="no layer of this model"):
        free_size(load(m.model({"image": ("N", 3, 16, 16)}, {x: None})).model)


def test_an_open_size_stays():
    free, first = free_size(load(tiny_cnn(size=("H", "W"))).model)
    assert first is None
    assert free.graph.inputs[0].shape == ["N", 3, "H", "W"]


# --- cutting --------------------------------------------------------------------------------------


def test_cut_keeps_what_is_needed_and_no_more():
    model = load(tiny_cnn()).model
    part = cut(model, ["relu2", "conv1"])
    assert [value.name for value in part.graph.outputs] == ["relu2", "conv1"]
    assert [node.op_type for node in part.graph] == ["Conv", "BatchNormalization", "Relu", "Conv", "Relu"]
    assert len(part.graph.initializers) == 2 + 4 + 2
    onnx.checker.check_model(ir.to_proto(part), full_check=True)
    image = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    found = session(part).run(None, {"image": image})
    assert found[0].shape == (2, 16, 16, 16)


def test_cut_drops_inputs_that_nothing_needs():
    m = Maker()
    x = m("Relu", "image")
    y = m("Mul", x, "gain")
    proto = m.model({"image": ("N", 3, 4, 4), "gain": (1,)}, {y: None})
    assert [value.name for value in cut(load(proto).model, [x]).graph.inputs] == ["image"]


def test_cut_of_an_unknown_value():
    with pytest.raises(UnknownLayer, match="did you mean 'relu2'"):
        cut(load(tiny_cnn()).model, ["relu_2"])


def test_cut_within_a_model_local_function():
    model = load(networks.with_function()).model
    before = ir.to_proto(model).SerializeToString()
    from onnxviz.graph.layers import layers

    inner = [layer.name for layer in layers(model) if layer.op == "Relu"]
    part = cut(model, inner)
    found = session(part).run(None, {"image": -np.ones((1, 3, 4, 4), np.float32)})
    assert len(found) == 2
    assert (found[0] == 0).all()
    assert ir.to_proto(model).SerializeToString() == before
