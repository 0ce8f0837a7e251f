"""`like`: a file whose layers are called as in another file of the network."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import UnknownLayer, UsageError
from tests.comparing import small


@pytest.fixture
def picture():
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (64, 64, 3), np.uint8)


def test_an_int8_file_is_asked_by_the_float_files_names(files, picture):
    a = onnxviz.load(files.small("resnet"), preprocess="unit")
    for form in ("QDQ", "QOperator"):
        net = onnxviz.like(files.small("resnet", form), files.small("resnet"), preprocess="unit")
        for name in ("stem.relu", "pool", "block1.relu1", "block1.relu2", "logits"):
            real, held = (one.activations(picture, name)[name] for one in (a, net))
            assert np.linalg.norm(real - held) < 0.15 * np.linalg.norm(real), (form, name)


def test_a_name_without_a_counterpart_gives_what_follows_it(files, picture):
    """What stands in front of a rectifier is no value of an int8 file: that behind it is taken, and that is said."""
    net = onnxviz.like(files.small("segmenter", "QOperator"), files.small("segmenter"), preprocess="unit")
    assert net.layer("down1.relu").name == "down1.relu"
    assert net.warnings == onnxviz.load(files.small("segmenter", "QOperator"), preprocess="unit").warnings
    assert net.layer("down2").name == "down2.relu"
    assert any("'down2.relu', which follows it, is taken" in text for text in net.warnings)
    with pytest.raises(UnknownLayer):
        net.layer("down9")


def test_names_that_mean_something_else_here_give_way(picture):
    """The other file's names go before this file's own, which are kept beside."""
    a = small.resnet()
    b = copy.deepcopy(a)
    turns = {"stem.relu": "pool", "pool": "block0.relu1", "block0.relu1": "stem.relu", "gap": "means"}
    for node in b.graph.node:
        node.input[:] = [turns.get(name, name) for name in node.input]
        node.output[:] = [turns.get(name, name) for name in node.output]
    one = onnxviz.load(a, preprocess="unit")
    other = onnxviz.like(b, one, preprocess="unit")
    for name in ("stem.relu", "pool", "block0.relu1", "gap", "logits"):
        np.testing.assert_allclose(
            other.activations(picture, name)[name], one.activations(picture, name)[name], rtol=1e-5
        )
    assert "means" in other.layer("gap").also
    saved = other.manifest("activations", layer="pool")
    assert saved["like"] == {"name": "model", "sha256": one.digest, "layers": {"pool": "block0.relu1"}}
    again = pickle.loads(pickle.dumps(other))
    assert again.manifest("activations", layer="pool")["like"] == saved["like"]
    assert [layer.name for layer in again.layers] == [layer.name for layer in other.layers]


def test_another_network_is_refused(files):
    with pytest.raises(UsageError, match="not the same network"):
        onnxviz.like(small.resnet(), small.mobilenet(), preprocess="unit")


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_the_command_line_asks_by_the_float_files_names(files, form, tmp_path, picture):
    shown, picture, out = picture, tmp_path / "a.png", tmp_path / "maps.png"
    Image.fromarray(shown).save(picture)
    a, b = files.small("resnet"), files.small("resnet", form)
    options = ["--provider", "cpu", "--preprocess", "unit", "--layer", "block1.relu1", "-o", str(out)]
    assert run(["activations", str(b), str(picture), *options, "--like", str(a)]) == 0
    manifest = json.loads(out.with_suffix(".json").read_text())
    assert manifest["like"]["name"] == a.stem
    assert set(manifest["like"]["layers"]) == {"block1.relu1"}
    real = onnxviz.load(a, preprocess="unit").activations(picture, "block1.relu1")["block1.relu1"]
    held = np.load(out.with_suffix(".npy"))
    assert np.linalg.norm(real - held.reshape(real.shape)) < 0.15 * np.linalg.norm(real)
    assert run(["activations", str(b), str(picture), *options, "--like", str(tmp_path / "none.onnx")]) in (
        2,
        3,
    )
    assert run(["activations", str(b), str(picture), *options[:-1], str(a), "--like", str(a)]) == 2


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_gradient_is_asked_for_by_the_float_files_names(files, form, tmp_path, picture):
    """The gradient by what the int8 file has for A's layer is much as A's own."""
    a, found = files.small("resnet"), {}
    x = onnxviz.load(a, preprocess="unit").prepare(picture)
    for name in ("float", form):
        out = tmp_path / f"{name}.onnx"
        line = ["gradient", str(files.small("resnet", name)), "--of", "logits", "--wrt", "block1.relu1"]
        line += [] if name == "float" else ["--like", str(a)]
        assert run([*line, "-o", str(out)]) == 0
        session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
        inputs = [one.name for one in session.get_inputs()]
        feeds = {one: x if one == "image" else np.ones((1, 10), np.float32) for one in inputs}
        (gradient,) = (one.name for one in session.get_outputs() if one.name.endswith(".gradient"))
        found[name] = session.run([gradient], feeds)[0].ravel().astype(float)
    one, other = found.values()
    assert one @ other > 0.9 * np.linalg.norm(one) * np.linalg.norm(other)
    line = ["gradient", str(files.small("resnet", form)), "--wrt", "nowhere", "--like", str(a)]
    assert run([*line, "-o", str(tmp_path / "no.onnx")]) == 2


def test_exposed_layers_bear_the_other_files_names(files, tmp_path, picture):
    out = tmp_path / "exposed.onnx"
    a, b = files.small("resnet"), files.small("resnet", "QOperator")
    assert run(["expose", str(b), "--layer", "block1.relu1", "--like", str(a), "-o", str(out)]) == 0
    assert [value.name for value in onnx.load(out).graph.output] == ["logits", "block1.relu1"]
    net = onnxviz.load(a, preprocess="unit")
    x = net.prepare(picture)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    (held,) = session.run(["block1.relu1"], {"image": x})
    real = net.activations(picture, "block1.relu1")["block1.relu1"]
    assert np.linalg.norm(real - held) < 0.15 * np.linalg.norm(real)
