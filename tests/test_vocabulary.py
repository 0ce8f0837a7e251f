"""One vocabulary: the same thing has one name in every public function, and whoever says it otherwise is understood."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import networks
import numpy as np
import pytest
from PIL import Image

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import UsageError

PICTURE = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
FUNCTIONS = [name for name in onnxviz._PUBLIC if name[0].islower()]
# What other tools, and older versions, call what is called otherwise here.
NOT_OURS = (
    r"position|place|class_\w+|label|img|pictures?|layer_names?|image_size|shape|loss|outputs|preprocessing"
)


@pytest.fixture(scope="module")
def small():
    return onnxviz.load(networks.tiny_cnn().SerializeToString(), preprocess="unit", provider="cpu")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_name_says_what_it_takes(name):
    for one in inspect.signature(getattr(onnxviz, name)).parameters.values():
        kind = str(one.annotation)
        assert not re.fullmatch(NOT_OURS, one.name), one.name
        if re.search(r"(^|_)layers?$", one.name):
            several = "Sequence" in kind or "Layers" in kind
            assert one.name.endswith("layers") == several, f"{one.name}: {kind}"
        if one.name == "size":
            assert "int | tuple[int, int] | None" in kind
        if one.name == "neuron":
            assert "Neuron" in kind


def test_one_layer_or_several_are_understood_wherever_several_make_sense(small, tmp_path):
    def same(technique, *arguments, **options):
        one, other = (technique(*arguments, **{word: "relu1"}, **options) for word in ("layer", "layers"))
        np.testing.assert_array_equal(one.values, other.values)
        return one

    for method in ("grad-cam", "score-cam"):
        found = same(onnxviz.cam, small, PICTURE, target=1, method=method)
        assert found.manifest["parameters"]["layers"] == ["relu1"]
    assert same(onnxviz.patches, small, [PICTURE], top=1)["relu1"].name == "relu1"
    same(onnxviz.invert, small, PICTURE, steps=1)
    same(onnxviz.texture, small, PICTURE, size=32, steps=1)
    same(onnxviz.style, small, PICTURE, PICTURE, steps=1, scales=1, size=32)
    one, other = (
        onnxviz.dream(small, PICTURE, **words, octaves=1, steps=1).values
        for words in ({"layer": "relu1", "channel": [1]}, {"layers": ["relu1"], "channels": [1]})
    )
    np.testing.assert_array_equal(one, other)
    model = networks.tiny_cnn().SerializeToString()
    for words in ({"layer": "relu1"}, {"layers": ["relu1"]}):
        assert "relu1" in [value.name for value in onnxviz.expose(model, **words).graph.output]
    found = onnxviz.cam(small, PICTURE, layer=["relu1", "pool"], target=1)
    assert found.manifest["call"]["arguments"]["layers"] == ["relu1", "pool"]  # our word


def test_both_words_are_a_mistake(small):
    with pytest.raises(UsageError, match="layer= is another name of layers=: give one of them"):
        onnxviz.cam(small, PICTURE, layer="relu1", layers=["pool"])
    with pytest.raises(TypeError, match="layers"):  # what takes one layer
        onnxviz.embed(small, [PICTURE], layers=["pool"])


def test_a_networks_own_activations_take_the_same_words(small):
    wanted = small.activations(PICTURE, ["relu1"])["relu1"]
    for word in ("layers", "layer"):
        np.testing.assert_array_equal(small.activations(PICTURE, **{word: "relu1"})["relu1"], wanted)
    with pytest.warns(DeprecationWarning, match="names= is called layers= now"):
        small.activations(PICTURE, names="relu1")


def test_an_older_word_is_warned_of_at_the_line_that_has_it(small):
    with pytest.warns(DeprecationWarning, match="neuron=") as told:
        onnxviz.saliency(small, PICTURE, layer="relu1", channel=1, position=(1, 1))
    assert told[0].filename == __file__


def test_several_maps_in_a_sheet_are_made_from_the_layers_that_are_named(small):
    found = onnxviz.attributions(small, PICTURE, ["saliency", "grad-cam"], layers=["relu1", "pool"], target=1)
    assert found.grid[0][1].manifest["parameters"]["layers"] == ["relu1", "pool"]
    with pytest.raises(UsageError, match="takes 'layers'"):
        onnxviz.attributions(small, PICTURE, ["saliency"], layers=["relu1"])


@pytest.mark.parametrize("spelling", ["--layer", "--layers", "-l"])
def test_the_command_line_takes_either(spelling, tmp_path: Path, capsys):
    (tmp_path / "tiny.onnx").write_bytes(networks.tiny_cnn().SerializeToString())
    Image.fromarray(PICTURE).save(tmp_path / "one.png")
    common = ["--preprocess", "unit", "--provider", "cpu", "--json", spelling, "relu1", spelling, "pool"]
    for command, out in (("cam", "cam.png"), ("patches", "patches")):
        line = [command, str(tmp_path / "tiny.onnx"), str(tmp_path / "one.png"), "-o", str(tmp_path / out)]
        assert run([*line, *common]) == 0
        told = json.loads(capsys.readouterr().out)["manifest"]["parameters"]
        assert told["layers"] == ["relu1", "pool"]


def test_a_sheet_of_what_explains_nothing_needs_no_classes():
    model = onnxviz.expose(networks.tiny_cnn().SerializeToString(), layers="relu1")
    kept = next(one for one in model.graph.output if one.name == "relu1")
    del model.graph.output[:]
    model.graph.output.append(kept)
    net = onnxviz.load(model, preprocess="unit", provider="cpu")
    found = onnxviz.attributions(net, [PICTURE, PICTURE], ["eigencam"], layers="relu1")
    assert found.values.shape == (2, 1, 32, 32) and found.grid[0][0].target is None
