"""Features of the last hidden layer: the right numbers in the right order, and nothing lost on the way."""

from __future__ import annotations

import shutil
from dataclasses import replace

import heads
import numpy as np
import onnx
import pytest
from networks import nhwc, qdq, qoperator, static_batch, tiny_cnn
from onnx import TensorProto
from PIL import Image

import onnxviz
from onnxviz.errors import ImageRejected, InputRefused, ModelUnsuitable, UnknownLayer, UsageError
from onnxviz.features.embed import embed
from onnxviz.features.embedding import Embedding
from tests.features import patch_toys
from tests.features.crops import noise
from tests.stopped import stopped


def test_features_are_the_last_hidden_layer_and_classes_the_prediction(net, files, embedding):
    """And a folder is the list of its files."""
    assert embedding.values.shape == (len(files), 1280)
    assert embedding.values.dtype == np.float32
    expected = net.activations(files, net.head.features)[net.head.features]
    np.testing.assert_allclose(embedding.values, expected, rtol=1e-4, atol=1e-4)
    best = [row[0] for row in net.predict(files, top=1)]
    assert embedding.classes.tolist() == [one.index for one in best]
    np.testing.assert_allclose(embedding.confidence, [one.probability for one in best], rtol=1e-3)
    assert embedding.names[embedding.classes[0]] == best[0].label
    folder = embed(net, files[0].parent)
    np.testing.assert_array_equal(folder.values, embedding.values)
    assert folder.files == embedding.files == [str(path) for path in files]


@pytest.mark.parametrize("batch", [None, 1, 2, 5])
def test_maps_are_averaged_over_space_whatever_the_batch(tiny, batch):
    maps = tiny.activations(noise(5), "relu1")["relu1"]
    found = embed(tiny, noise(5), layer="relu1", batch=batch)
    np.testing.assert_allclose(found.values, maps.mean(axis=(2, 3)), rtol=1e-5, atol=1e-6)
    assert found.layer == found.manifest["parameters"]["layer"] == "relu1"


FORMS = {
    "nhwc": nhwc,
    "static batch": static_batch,
    "batch of 4": lambda: static_batch(batch=4),
    "qdq": lambda: qdq(tiny_cnn()),
    "qoperator": lambda: qoperator(tiny_cnn()),
    "uint8": lambda: tiny_cnn(uint8=True),
    "no softmax": lambda: tiny_cnn(softmax=False),
}


@pytest.mark.parametrize("form", FORMS)
def test_any_form_of_network(form):
    net = onnxviz.load(FORMS[form](), preprocess="uint8" if form == "uint8" else "unit", provider="cpu")
    found = embed(net, noise(6))
    assert found.values.shape == (6, 16)
    assert len(np.unique(found.values, axis=0)) == 6
    assert found.classes.tolist() == [net.predict(image, top=1)[0][0].index for image in noise(6)]


def test_half_precision_and_channels_last_layers():
    half, plain = patch_toys.load(dtype=TensorProto.FLOAT16), patch_toys.load()
    layers = ((half, "active"), (plain, "active"), (plain, "turned"), (plain, "pooled"))
    rows = [embed(net, patch_toys.photos(4), layer=layer).values for net, layer in layers]
    np.testing.assert_allclose(rows[0], rows[1], rtol=5e-3, atol=1e-2)
    np.testing.assert_allclose(rows[2], rows[3], rtol=1e-5)


def test_pictures_of_every_kind_are_one_list(tiny, files):
    arrays = np.stack(noise(2))
    given = [files[0], noise(1)[0], Image.fromarray(noise(2)[1])]
    found = embed(tiny, given)
    assert found.files == [str(files[0]), "image 1", "image 2"]
    np.testing.assert_array_equal(found.values[1:], embed(tiny, arrays).values)
    np.testing.assert_array_equal(embed(tiny, tuple(given)).values, found.values)


def test_what_cannot_be_read_is_left_out_listed_and_counted(tiny, files, tmp_path):
    for path in files[:3]:
        shutil.copy(path, tmp_path / path.name)
    (tmp_path / "broken.jpg").write_bytes(files[0].read_bytes()[:500])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no picture")
    found = embed(tiny, tmp_path)
    assert found.files == [str(tmp_path / path.name) for path in files[:3]]
    assert sorted(one.path.name for one in found.skipped) == ["broken.jpg", "empty.png"]
    assert found.manifest["figures"] == {
        "images": 5, "embedded": 3, "features": 16, "skipped": 2, "ignored_files": 1, "not_finite": 0
    }  # fmt: skip
    assert len(found.manifest["skipped"]) == 2
    np.testing.assert_array_equal(found.values, embed(tiny, files[:3]).values)
    for path in files[:3]:
        (tmp_path / path.name).unlink()
    with pytest.raises(ImageRejected, match="none of the 2 images"):
        embed(tiny, tmp_path)


def test_features_that_are_not_finite_are_reported():
    model = tiny_cnn()
    (tensor,) = [one for one in model.graph.initializer if one.dims == [16, 8, 3, 3]]
    weights = onnx.numpy_helper.to_array(tensor).copy()
    weights[0] = 1e38
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
    net = onnxviz.load(model, preprocess="unit", provider="cpu")
    found = embed(net, [*noise(2), np.zeros((32, 32, 3), np.uint8)])
    broken = ~np.isfinite(found.values).all(axis=1)
    assert found.manifest["figures"]["not_finite"] == broken.sum() > 0
    assert any("NaN or infinity" in warning for warning in found.manifest["warnings"])
    if broken.all():
        with pytest.raises(ModelUnsuitable, match="NaN or infinite"):
            found.usable()


def test_a_network_without_classes_needs_a_layer():
    model = tiny_cnn()
    maps = onnx.helper.make_tensor_value_info("relu1", TensorProto.FLOAT, ["N", 8, 16, 16])
    model.graph.output[0].CopyFrom(maps)
    net = onnxviz.load(model, preprocess="unit", provider="cpu")
    with pytest.raises(ModelUnsuitable, match="layer="):
        embed(net, noise(5))
    found = embed(net, noise(5), layer="relu1")
    assert found.classes is found.groups() is None
    assert found.picture().mode == "RGB"


@pytest.mark.parametrize(
    ("images", "options", "error", "words"),
    [
        (noise(1), {"layer": "nowhere"}, UnknownLayer, "nowhere"),
        (noise(1), {"batch": 0}, UsageError, "batch"),
        ([], {}, ImageRejected, "picture|image"),
    ],
)
def test_errors_name_what_to_do(tiny, images, options, error, words):
    with pytest.raises(error, match=words):
        embed(tiny, images, **options)


def test_sizes_that_give_other_vectors_are_told():
    model = tiny_cnn(size="S")
    model.graph.output.append(onnx.helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["N", "D"]))
    model.graph.node.append(onnx.helper.make_node("Flatten", ["pool"], ["flat"]))
    own = onnxviz.load(model, preprocess="unit", provider="cpu").preprocessing.override(size="own")
    net = onnxviz.load(model, preprocess=own, provider="cpu")
    given = [*noise(1, 32), *noise(1, 48)]
    assert embed(net, given, layer="pool").values.shape == (2, 16)
    with pytest.raises(ModelUnsuitable, match="size="):
        embed(net, given, layer="flat", batch=1)


def test_an_interruption_keeps_what_was_done(tiny):
    partial = stopped(embed, tiny, noise(9), batch=2, when=lambda done, *_: done == 4)
    np.testing.assert_array_equal(partial.values, embed(tiny, noise(9), batch=2).values[:4])
    assert isinstance(partial, Embedding)


def test_groups_name_the_most_frequent_classes(tiny):
    found = embed(tiny, noise(3))
    found.values = np.zeros((60, 16), np.float32)
    found.classes = np.array([9] * 30 + [*range(20)] + [7] * 10)
    found.names = {index: f"class {index}" for index in range(20)}
    groups = found.groups()
    assert groups.names[:2] == ["class 9", "class 7"]
    assert len(groups.names) == 14
    assert groups.other == "6 other classes"
    assert np.sum(groups.of == 0) == 31
    assert np.sum(groups.of == -1) == 6
    few = found.groups(np.arange(30, 45))
    assert len(few.names) == 15  # one more would be grey on its own
    assert not np.any(few.of == -1)


def test_features_of_another_network_or_preprocessing_are_refused(tiny):
    def opened(seed=0, **options):
        return onnxviz.load(tiny_cnn(seed=seed), **{"preprocess": "unit", **options}, provider="cpu")

    found = embed(tiny, noise(5))
    found.check(tiny)
    bare = replace(found, manifest={"model": found.manifest["model"]})
    for one, net, words in (
        (found, opened(seed=1), "another model"),
        (found, opened(preprocess="imagenet"), "preprocessing"),
        (bare, tiny, "preprocessing"),
    ):
        with pytest.raises(InputRefused, match=words):
            one.check(net)
    made = embed(opened(resize="stretch"), noise(5))
    for resize in ("stretch", "squash"):  # as earlier versions wrote it
        made.manifest["preprocessing"]["resize"] = resize
        made.check(opened(resize="stretch"))


def test_steps_that_share_one_row_of_features_give_that_row():
    """The digits of a number plate from one pooled vector: (N, 8) to (N, 3 digits, 10)."""
    m = heads.Maker()
    x = m("Reshape", heads.linear(m, heads.pooled(m), 30), m.constant([-1, 3, 10]))
    net = onnxviz.load(heads.finished(m, m("Softmax", x, axis=2)), preprocess="unit", provider="cpu")
    assert net.end.kind == "sequence"
    wanted = net.activations(noise(2, 16), net.end.features)[net.end.features]
    assert wanted.shape == (2, 8)
    np.testing.assert_allclose(embed(net, noise(2, 16)).values, wanted, rtol=1e-5)


def test_features_of_a_dynamically_quantised_file_are_those_before_its_last_layer(tmp_path):
    """Not the logits: the range that is measured of them is no second input of the product."""
    from onnxruntime.quantization import quantize_dynamic

    files = [str(tmp_path / name) for name in ("real.onnx", "dynamic.onnx")]
    onnx.save(tiny_cnn(), files[0])
    quantize_dynamic(*files)
    nets = (onnxviz.load(file, preprocess="unit", provider="cpu") for file in files)
    wanted, found = (embed(net, noise(3)).values for net in nets)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()
