import heads
import networks
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from PIL import Image

import onnxviz
from onnxviz.errors import (
    ImageRejected,
    LabelsRejected,
    ModelUnsuitable,
    PreprocessingRejected,
    UnknownLabel,
    UnknownLayer,
    UsageError,
)
from onnxviz.graph import dynamic_batch

info = helper.make_tensor_value_info


def small(
    shape=("N", 3, 8, 8), dtype=TensorProto.FLOAT, classes=5, more_inputs=(), out_type=TensorProto.FLOAT
):
    """A 1x1 convolution, a global mean and class scores."""
    m, outputs = networks.Maker(), [info("scores", TensorProto.FLOAT, (shape[0], classes))]
    maps = heads.renamed(
        m, m("Conv", m("Cast", "x", to=TensorProto.FLOAT), m.random(classes, shape[1], 1, 1)), "maps"
    )
    scores = heads.renamed(m, m("Flatten", m("GlobalAveragePool", maps)), "scores")
    if out_type != TensorProto.FLOAT:
        rounded = heads.renamed(m, m("Cast", scores, to=out_type), "rounded")
        outputs = [info(rounded, out_type, (shape[0], classes))]
    for name in more_inputs:
        scaled = heads.renamed(m, m("Mul", scores, name), f"scores_{name}")
        outputs.append(info(scaled, TensorProto.FLOAT, (shape[0], classes)))
    inputs = [info("x", dtype, shape), *(info(name, TensorProto.FLOAT, [1]) for name in more_inputs)]
    return built(m.nodes, inputs, outputs, m.weights)


def built(nodes, inputs, outputs, weights=()):
    graph = helper.make_graph(nodes, "small", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def random_images(count, size=8):
    return list(np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8))


def test_the_bundled_network_knows_a_cat(net, cat):
    (best, *rest) = net.predict(cat, top=3)[0]
    assert best.index == 285
    assert best.label == "Egyptian cat"
    assert len(rest) == 2
    assert 1 >= best.probability >= rest[0].probability >= rest[1].probability > 0


def test_every_form_of_an_image_gives_the_same(net, cat, photo_files):
    wanted = net.predict(cat)[0]
    for image in (photo_files[0], str(photo_files[0]), Image.fromarray(cat)):
        assert net.predict(image)[0] == wanted
    for row in net.predict([cat, photo_files[0]]):
        assert [item.index for item in row] == [item.index for item in wanted]
        np.testing.assert_allclose(row[0].probability, wanted[0].probability, rtol=1e-4)


def test_a_model_can_be_a_path_bytes_or_parsed(tmp_path):
    proto = small()
    onnx.save(proto, tmp_path / "m.onnx")
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    results = [
        onnxviz.load(source, provider="cpu").run(x, ["scores"])["scores"]
        for source in (
            tmp_path / "m.onnx",
            str(tmp_path / "m.onnx"),
            proto.SerializeToString(),
            proto,
            ir.serde.deserialize_model(proto),
        )
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


def test_batches_change_nothing_but_the_last_digits(net, photo_files):
    x = net.prepare(photo_files)
    together = net.probabilities(x, batch=4)
    np.testing.assert_allclose(net.probabilities(x, batch=3), together, atol=1e-6)
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8])
@pytest.mark.parametrize("batch", [1, "N"])
def test_a_static_batch_is_freed(batch, dtype):
    net = onnxviz.load(small((batch, 3, 8, 8), dtype), provider="cpu")
    assert net.batched[1] is None
    assert net.probabilities(net.prepare(random_images(3)), batch=3).shape == (3, 5)
    assert len(net.predict(random_images(2))) == 2


def test_a_batch_that_cannot_be_freed_is_filled_up_and_cut_off(monkeypatch):
    def refuse(model):
        raise ModelUnsuitable("a node forbids it")

    net = onnxviz.load(small((2, 3, 8, 8)), provider="cpu")
    free = onnxviz.load(small(), provider="cpu")
    monkeypatch.setattr(dynamic_batch, "free_batch", refuse)
    x = net.prepare(random_images(3))
    np.testing.assert_allclose(net.probabilities(x), free.probabilities(x), rtol=1e-5)
    assert net.batch_size(7) == 2
    assert any("stays fixed to 2" in warning for warning in net.warnings)


def test_activations_are_float32_by_the_names_given(net, cat):
    values = net.activations(cat, ["stem", "logits"])
    assert list(values) == ["stem", "logits"]
    assert values["stem"].shape == (1, 32, 112, 112)
    assert {array.dtype for array in values.values()} == {np.dtype(np.float32)}
    np.testing.assert_allclose(
        net.to_probabilities(values["logits"])[0, 285], net.predict(cat)[0][0].probability, rtol=1e-4
    )


def test_layers_and_labels_that_do_not_exist_suggest_near_ones(net, cat):
    with pytest.raises(UnknownLayer, match="did you mean 'stem"):
        net.activations(cat, "stemm")
    with pytest.raises(UnknownLabel, match="Egyptian cat"):
        net.target("egyptain cat")
    with pytest.raises(UnknownLabel, match="1000 classes"):
        net.target(1000)


def test_an_input_tensor_goes_in_as_it_is_and_images_are_not_changed(net, cat):
    before = cat.copy()
    x = net.prepare(cat)
    assert (x.shape, x.dtype) == ((1, 3, 224, 224), np.float32)
    assert net.predict(x) == net.predict(cat)
    np.testing.assert_array_equal(cat, before)


@pytest.mark.parametrize(("channels", "name"), [(1, "L"), (4, "RGBA"), (3, "RGB")])
def test_other_channels(channels, name):
    net = onnxviz.load(small(("N", channels, 8, 8)), provider="cpu")
    assert net.preprocessing.channels == name
    assert net.prepare(random_images(2)).shape == (2, channels, 8, 8)


def test_channels_last():
    m = networks.Maker()
    y = m("Flatten", m("GlobalAveragePool", m("Transpose", "x", perm=[0, 3, 1, 2])))
    net = onnxviz.load(m.model({"x": ("N", 8, 8, 3)}, {y: ("N", 3)}), provider="cpu", preprocess="unit")
    assert net.input.layout == "NHWC"
    image = random_images(1)[0]
    mean = net.run(net.prepare(image), [y])[y][0]
    np.testing.assert_allclose(mean, image.reshape(-1, 3).mean(axis=0) / 255, rtol=1e-4)


def test_several_inputs_say_how_to_choose():
    model = small(more_inputs=("scale",))
    for given, error, words in (
        (None, ModelUnsuitable, r"2: x .*scale .*input="),
        ("x", ModelUnsuitable, "feeds={name: array}"),
        ("y", UsageError, "no input 'y'"),
    ):
        with pytest.raises(error, match=words):
            onnxviz.load(model, input=given)
    net = onnxviz.load(model, feeds={"scale": 2.0}, provider="cpu")
    values = net.run(net.prepare(random_images(1)), ["scores", "scores_scale"])
    np.testing.assert_allclose(values["scores_scale"], 2 * values["scores"], rtol=1e-6)


def test_no_float_output_says_what_to_expose():
    words = r"none of the model's outputs is a float.*rounded.*expose.*'scores'"
    with pytest.raises(ModelUnsuitable, match=words):
        onnxviz.load(small(out_type=TensorProto.INT64))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [(("N", 3, 4, 8, 8), TensorProto.FLOAT), (("N", 8), TensorProto.INT64), (("N", 1), TensorProto.STRING)],
)
def test_what_is_no_image_network_says_so(shape, dtype):
    model = built(
        [helper.make_node("Identity", ["x"], ["y"])], [info("x", dtype, shape)], [info("y", dtype, shape)]
    )
    with pytest.raises(ModelUnsuitable, match="image input of four dimensions"):
        onnxviz.load(model)


def test_labels_are_counted_before_any_work():
    assert onnxviz.load(small(), labels=list("abcde"), provider="cpu").label(4) == "e"
    with pytest.raises(LabelsRejected, match="2 labels.*5 classes"):
        onnxviz.load(small(), labels=["a", "b"])


def test_unknown_preprocessing_is_assumed_aloud_and_overridden_in_parts():
    net = onnxviz.load(small(), provider="cpu")
    assert any("assuming 'imagenet'" in warning for warning in net.warnings)
    net = onnxviz.load(small(), preprocess="unit", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), channels="bgr")
    assert net.warnings == []
    assert net.preprocessing.channels == "BGR"
    black = np.zeros((8, 8, 3), np.uint8)
    np.testing.assert_allclose(net.prepare(black), -1, atol=1e-6)
    with pytest.raises((UsageError, PreprocessingRejected)):
        onnxviz.load(small(), mean=(0.5, 0.4))


def test_size_of_a_dynamic_network(cat):
    net = onnxviz.load("efficientnet-lite0", size=(160, 192), provider="cpu")
    assert net.prepare(cat).shape == (1, 3, 160, 192)
    assert net.size == (160, 192)
    assert net.layer("stem").shape[1:] == (32, 80, 96)


def test_size_of_a_static_network_is_freed_up_to_what_forbids_it():
    net = onnxviz.load(small((1, 3, 8, 8)), size=12, provider="cpu")
    assert net.prepare(random_images(1, 12)).shape == (1, 3, 12, 12)
    assert net.activations(random_images(1, 12), "maps")["maps"].shape == (1, 5, 12, 12)


def test_pictures_that_are_no_batch_and_none_at_all_are_typed_errors(tmp_path):
    net = onnxviz.load(small(("N", 3, "H", "W")), preprocess=onnxviz.Preprocessing(size=None), provider="cpu")
    with pytest.raises(UsageError, match="size="):
        net.prepare([random_images(1, 8)[0], random_images(1, 9)[0]])
    with pytest.raises(UsageError, match="no image"):
        net.predict([])
    with pytest.raises(ImageRejected, match=r"none\.png"):
        net.predict(tmp_path / "none.png")


def test_the_manifest_says_what_the_numbers_rest_on_and_sessions_are_kept(net):
    manifest = net.manifest("test", parameter=1)
    assert manifest["model"]["sha256"] == net.digest
    assert manifest["provider"] == "CPUExecutionProvider"
    assert manifest["parameters"] == {"parameter": 1}
    assert manifest["preprocessing"]["size"] == [224, 224]
    assert set(manifest["versions"]) == {"onnxviz", "onnxruntime", "numpy"}
    assert manifest["limits"]
    assert net.program(["stem"]) is net.program(["stem"])
    assert net.program(["stem"]) is not net.program(["logits"])
