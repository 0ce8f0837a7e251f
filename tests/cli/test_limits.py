"""--limit on every command that reads a picture: what is over it is refused, with the flag that lets it pass."""

from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

import onnxviz
from onnxviz.errors import ImageRejected
from onnxviz.image.preprocessing import PRESETS
from onnxviz.limits import Limits
from tests.graph import hostile

SINGLE = [
    "predict net.onnx large.png",
    "saliency net.onnx large.png -o out.png",
    "saliency net.onnx large.png --method integrated-gradients -o out.png",
    "cam net.onnx large.png -o out.png",
    "occlusion net.onnx large.png --window 4 --stride 4 -o out.png",
    "rise net.onnx large.png --masks 4 -o out.png",
    "segment net.onnx large.png -o out.png",
    "activations net.onnx large.png --layer c -o out.png",
    "fool net.onnx large.png --target 3 -o out.png",
    "dream net.onnx large.png --layer c -o out.png",
    "invert net.onnx large.png --layer c -o out.png",
    "ascent net.onnx --target 1 --start large.png -o out.png",
    "style net.onnx large.png small.png -o out.png",
    "style net.onnx small.png large.png -o out.png",
    "style-apply painter.onnx large.png -o out.png",
    "texture net.onnx large.png --method quilt -o out.png",
    "texture any large.png --method nearest -o out.png",
    "texture net.onnx large.png --method gram -o out.png",
    "predict two.onnx small.png --input x --feed b=large.png",
    "gradient two.onnx --input x --feed b=array.npy -o out.onnx",
    "predict eleven.onnx array.npy --channels 11",
    "patches net.onnx large.png --layer c -o out",
    "embed net.onnx large.png -o out.npy",
    "neighbours net.onnx large.png -o out.png",
    "map net.onnx large.png -o out.png",
]


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """A picture of 3,000 pixels and one of 400, an array of 11 channels, and networks of one or two inputs."""
    folder = tmp_path_factory.mktemp("limits")
    rng = np.random.default_rng(0)
    for name, size in (("large", (60, 50, 3)), ("small", (20, 20, 3))):
        Image.fromarray(rng.integers(0, 255, size, np.uint8)).save(folder / f"{name}.png")
    np.save(folder / "array.npy", rng.random((8, 8, 11), np.float32))
    node, three = hostile.helper.make_node, ("N", 3, 8, 8)
    both = [hostile.value("x", three), hostile.value("b", three)]
    flat = node("Flatten", ["s"], ["y"])
    made = {
        "net": hostile.network(),
        "painter": hostile.model([node("Sigmoid", ["x"], ["y"])], shape=("N", 3, "H", "W")),
        "two": hostile.model([node("Add", ["x", "b"], ["s"]), flat], inputs=both, shape=three),
        "eleven": hostile.model([node("Flatten", ["x"], ["y"])], shape=("N", 11, 8, 8)),
    }
    for name, model in made.items():
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
    return folder


@pytest.mark.parametrize("line", SINGLE)
def test_a_picture_over_the_limit_is_refused_with_the_flag(line, shell):
    array = "array" in line
    said = shell(f"{line} --limit max_pixels=2999 {'--limit max_bytes=1500' if array else ''}")
    assert said.code == 3, said.err
    assert ("--limit max_bytes=" if array else "--limit max_pixels=3000") in said.err
    assert not [name for name in os.listdir() if name.endswith(".png")]


@pytest.mark.parametrize(
    "line", ["predict net.onnx large.png", "texture any large.png --method quilt -o out.png"]
)
def test_what_just_keeps_the_limit_passes_and_the_manifest_says_so(line, shell):
    limits = shell(f"{line} --json --limit max_pixels=3000 --limit max_frames=7").json["manifest"]["limits"]
    assert (limits["max_pixels"], limits["max_frames"]) == (3000, 7)
    assert limits["max_bytes"] == Limits().max_bytes


def test_in_a_folder_what_is_over_the_limit_is_skipped_and_counted(shell):
    said = shell("predict net.onnx large.png small.png --json --limit max_pixels=2999")
    assert said.code == 0 and "skipped" in said.err
    assert len(said.json["images"]) == 1
    assert "over the limit max_pixels=2999" in said.json["skipped"][0]["reason"]


def test_limits_in_python(things):
    net = onnxviz.load(things / "net.onnx", preprocess="unit", limits=Limits(max_pixels=2999))
    with pytest.raises(ImageRejected, match=r"raise limits=onnxviz.Limits\(max_pixels=3000\)"):
        net.predict(things / "large.png")
    assert net.preprocessing.limits is net.limits
    assert net.manifest("x")["limits"]["max_pixels"] == 2999
    free = onnxviz.load(things / "net.onnx", preprocess="unit", limits=Limits.unlimited())
    assert free.predict(things / "large.png")


def test_limits_are_no_part_of_a_recipe():
    recipe = PRESETS["imagenet"]
    assert "limits" not in recipe.to_dict()
    assert type(recipe)(limits=Limits(max_pixels=1)) == type(recipe)()
    with pytest.raises(onnxviz.errors.PreprocessingRejected, match="unknown field 'limits'"):
        type(recipe).from_dict({"limits": {}})
