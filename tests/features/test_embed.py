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
from onnxviz.features import embed as module
from onnxviz.features.embed import embed
from onnxviz.features.embedding import Embedding
from onnxviz.progress import Interrupted
from tests.features import crops, patch_toys


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return crops.write(tmp_path_factory.mktemp("crops"), each=3)


@pytest.fixture(scope="module")
def tiny():
    return onnxviz.load(tiny_cnn(), preprocess="unit", labels=list("abcdefghij"), provider="cpu")


def images(count=5, edge=32):
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (edge, edge, 3), dtype=np.uint8) for _ in range(count)]


def test_features_are_the_last_hidden_layer_and_classes_the_prediction(net, files):
    found = embed(net, files)
    assert found.values.shape == (len(files), 1280)
    assert found.values.dtype == np.float32
    expected = net.activations(files, net.head.features)[net.head.features]
    np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-4)
    best = [row[0] for row in net.predict(files, top=1)]
    assert found.classes.tolist() == [one.index for one in best]
    np.testing.assert_allclose(found.confidence, [one.probability for one in best], rtol=1e-3)
    assert found.names[found.classes[0]] == best[0].label
    assert found.files == [str(path) for path in files]


def test_a_folder_is_the_list_of_its_files(net, files):
    folder = embed(net, files[0].parent)
    np.testing.assert_array_equal(folder.values, embed(net, files).values)
    assert folder.files == [str(path) for path in files]


def test_maps_are_averaged_over_space_whatever_the_batch(tiny):
    given = images()
    maps = tiny.activations(given, "relu1")["relu1"]
    for batch in (None, 1, 2, 5):
        found = embed(tiny, given, layer="relu1", batch=batch)
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
    found = embed(net, images(6))
    assert found.values.shape == (6, 16)
    assert len(np.unique(found.values, axis=0)) == 6
    assert found.classes.tolist() == [net.predict(image, top=1)[0][0].index for image in images(6)]


def test_half_precision_and_channels_last_layers():
    half = patch_toys.load(dtype=TensorProto.FLOAT16)
    plain = patch_toys.load()
    given = patch_toys.photos(4)
    np.testing.assert_allclose(
        embed(half, given, layer="active").values,
        embed(plain, given, layer="active").values,
        rtol=5e-3,
        atol=1e-2,
    )
    turned = embed(plain, given, layer="turned").values
    np.testing.assert_allclose(turned, embed(plain, given, layer="pooled").values, rtol=1e-5)


def test_pictures_of_every_kind_are_one_list(tiny, files):
    arrays = np.stack(images(2))
    given = [files[0], images(1)[0], Image.fromarray(images(2)[1])]
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
    assert [crops.photo_of(file) for file in found.files] == [crops.photo_of(path.name) for path in files[:3]]
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
    for tensor in model.graph.initializer:
        if tensor.dims == [16, 8, 3, 3]:
            weights = onnx.numpy_helper.to_array(tensor).copy()
            weights[0] = 1e38
            tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
    net = onnxviz.load(model, preprocess="unit", provider="cpu")
    dark = np.zeros((32, 32, 3), np.uint8)
    found = embed(net, [*images(2), dark])
    broken = ~np.isfinite(found.values).all(axis=1)
    assert found.manifest["figures"]["not_finite"] == broken.sum() > 0
    assert any("NaN or infinity" in warning for warning in found.manifest["warnings"])
    if broken.all():
        with pytest.raises(ModelUnsuitable, match="NaN or infinite"):
            found.usable()


def test_a_network_without_classes_needs_a_layer():
    model = tiny_cnn()
    model.graph.output[0].CopyFrom(
        onnx.helper.make_tensor_value_info("relu1", TensorProto.FLOAT, ["N", 8, 16, 16])
    )
    net = onnxviz.load(model, preprocess="unit", provider="cpu")
    with pytest.raises(ModelUnsuitable, match="layer="):
        embed(net, images())
    found = embed(net, images(), layer="relu1")
    assert found.classes is None
    assert found.groups() is None
    assert found.picture().mode == "RGB"


def test_errors_name_what_to_do(tiny):
    with pytest.raises(UnknownLayer):
        embed(tiny, images(), layer="nowhere")
    with pytest.raises(UsageError, match="batch"):
        embed(tiny, images(), batch=0)
    with pytest.raises(ImageRejected):
        embed(tiny, [])


def test_sizes_that_give_other_vectors_are_told():
    model = tiny_cnn(size="S")
    model.graph.output.append(onnx.helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["N", "D"]))
    model.graph.node.append(onnx.helper.make_node("Flatten", ["pool"], ["flat"]))
    net = onnxviz.load(model, preprocess="unit", provider="cpu")
    whole = onnxviz.Preprocessing.from_dict({**net.preprocessing.to_dict(), "size": None})
    net = onnxviz.load(model, preprocess=whole, provider="cpu")
    given = [*images(1, edge=32), *images(1, edge=48)]
    assert embed(net, given, layer="pool").values.shape == (2, 16)
    with pytest.raises(ModelUnsuitable, match="size="):
        embed(net, given, layer="flat", batch=1)


def test_an_interruption_keeps_what_was_done(tiny, monkeypatch):
    real = module.stream

    def stopped(*given, **options):
        for count, chunk in enumerate(real(*given, **options)):
            if count == 2:
                raise KeyboardInterrupt
            yield chunk

    monkeypatch.setattr(module, "stream", stopped)
    with pytest.raises(Interrupted) as caught:
        embed(tiny, images(9), batch=2)
    partial = caught.value.partial
    monkeypatch.undo()
    np.testing.assert_array_equal(partial.values, embed(tiny, images(9), batch=2).values[:4])
    assert partial.manifest["incomplete"] is True
    assert isinstance(partial, Embedding)


def test_groups_name_the_most_frequent_classes(tiny):
    found = embed(tiny, images(3))
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
    found = embed(tiny, images())
    found.check(tiny)
    other = onnxviz.load(tiny_cnn(seed=1), preprocess="unit", provider="cpu")
    with pytest.raises(InputRefused, match="another model"):
        found.check(other)
    same = onnxviz.load(tiny_cnn(), preprocess="imagenet", provider="cpu")
    with pytest.raises(InputRefused, match="preprocessing"):
        found.check(same)
    with pytest.raises(InputRefused, match="preprocessing"):
        replace(found, manifest={"model": found.manifest["model"]}).check(tiny)
    stretched = onnxviz.load(tiny_cnn(), preprocess="unit", resize="stretch", provider="cpu")
    made = embed(stretched, images())
    made.check(stretched)
    made.manifest["preprocessing"]["resize"] = "squash"  # as earlier versions wrote it
    made.check(stretched)


def test_steps_that_share_one_row_of_features_give_that_row():
    """The digits of a number plate from one pooled vector: (N, 8) to (N, 3 digits, 10)."""
    m = heads.Maker()
    x = m("Reshape", heads.linear(m, heads.pooled(m), 30), m.constant([-1, 3, 10]))
    model = heads.finished(m, m("Softmax", x, axis=2))
    net = onnxviz.load(model, preprocess="unit", provider="cpu")
    assert net.end.kind == "sequence"
    given = images(2, 16)
    found = embed(net, given)
    np.testing.assert_allclose(
        found.values, net.activations(given, net.end.features)[net.end.features], rtol=1e-5
    )
    assert found.values.shape == (2, 8)


def test_features_of_a_dynamically_quantised_file_are_those_before_its_last_layer(tmp_path):
    """Not the logits: the range that is measured of them is no second input of the product."""
    from onnxruntime.quantization import quantize_dynamic

    onnx.save(tiny_cnn(), tmp_path / "real.onnx")
    quantize_dynamic(tmp_path / "real.onnx", tmp_path / "dynamic.onnx")
    real, dynamic = (
        onnxviz.load(str(tmp_path / name), preprocess="unit", provider="cpu")
        for name in ("real.onnx", "dynamic.onnx")
    )
    wanted = embed(real, images(3)).values
    found = embed(dynamic, images(3)).values
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() < 0.1 * np.abs(wanted).max()
