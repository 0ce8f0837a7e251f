"""--limit on every command that reads a picture: what is over it is refused, with the flag that lets it pass."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import ImageRejected
from onnxviz.image.preprocessing import PRESETS
from onnxviz.limits import Limits
from tests.graph import hostile

SINGLE = [
    "predict NET IMAGE",
    "saliency NET IMAGE -o OUT.png",
    "saliency NET IMAGE --method integrated-gradients -o OUT.png",
    "cam NET IMAGE -o OUT.png",
    "occlusion NET IMAGE --window 4 --stride 4 -o OUT.png",
    "rise NET IMAGE --masks 4 -o OUT.png",
    "segment NET IMAGE -o OUT.png",
    "activations NET IMAGE --layer c -o OUT.png",
    "fool NET IMAGE --target 3 -o OUT.png",
    "dream NET IMAGE --layer c -o OUT.png",
    "invert NET IMAGE --layer c -o OUT.png",
    "ascent NET --target 1 --start IMAGE -o OUT.png",
    "style NET IMAGE SMALL -o OUT.png",
    "style NET SMALL IMAGE -o OUT.png",
    "style-apply PAINTER IMAGE -o OUT.png",
    "texture NET IMAGE --method quilt -o OUT.png",
    "texture any IMAGE --method nearest -o OUT.png",
    "texture NET IMAGE --method gram -o OUT.png",
    "predict TWO SMALL --input x --feed b=IMAGE",
    "gradient TWO --input x --feed b=ARRAY -o OUT.onnx",
    "predict ELEVEN ARRAY --channels 11",
    "patches NET IMAGE --layer c -o OUT",
    "embed NET IMAGE -o OUT.npy",
    "neighbours NET IMAGE -o OUT.png",
    "map NET IMAGE -o OUT.png",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("limits")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (60, 50, 3), np.uint8)).save(folder / "large.png")
    Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(folder / "small.png")
    np.save(folder / "array.npy", rng.random((8, 8, 11), np.float32))
    (folder / "net.onnx").write_bytes(hostile.network().SerializeToString())
    node = hostile.helper.make_node
    painter = hostile.model([node("Sigmoid", ["x"], ["y"])], shape=("N", 3, "H", "W"))
    (folder / "painter.onnx").write_bytes(painter.SerializeToString())
    both = [hostile.value("x", ("N", 3, 8, 8)), hostile.value("b", ("N", 3, 8, 8))]
    two = hostile.model(
        [node("Add", ["x", "b"], ["s"]), node("Flatten", ["s"], ["y"])], inputs=both, shape=("N", 3, 8, 8)
    )
    (folder / "two.onnx").write_bytes(two.SerializeToString())
    eleven = hostile.model([node("Flatten", ["x"], ["y"])], shape=("N", 11, 8, 8))
    (folder / "eleven.onnx").write_bytes(eleven.SerializeToString())
    return folder


def words(line, place, out):
    names = {
        "NET": place / "net.onnx",
        "PAINTER": place / "painter.onnx",
        "TWO": place / "two.onnx",
        "ELEVEN": place / "eleven.onnx",
        "IMAGE": place / "large.png",
        "SMALL": place / "small.png",
        "ARRAY": place / "array.npy",
    }
    for word in line.split():
        name, _, value = word.rpartition("=")
        if value in names:
            yield f"{name}={names[value]}" if name else str(names[value])
        else:
            yield word.replace("OUT", str(out / "out"))


@pytest.mark.parametrize("line", SINGLE)
def test_a_picture_over_the_limit_is_refused_with_the_flag(line, place, tmp_path, capsys):
    limits = ["--limit", "max_pixels=2999", "--limit", "max_bytes=1500"] if "ARRAY" in line else []
    code = run([*words(line, place, tmp_path), *(limits or ["--limit", "max_pixels=2999"])])
    told = " ".join(capsys.readouterr().err.split())
    assert code == 3, told
    assert ("--limit max_bytes=" if "ARRAY" in line else "--limit max_pixels=3000") in told
    assert not list(tmp_path.glob("out*.png"))


@pytest.mark.parametrize("line", ["predict NET IMAGE", "texture any IMAGE --method quilt -o OUT.png"])
def test_what_just_keeps_the_limit_passes_and_the_manifest_says_so(line, place, tmp_path, capsys):
    assert (
        run(
            [*words(line, place, tmp_path), "--json", "--limit", "max_pixels=3000", "--limit", "max_frames=7"]
        )
        == 0
    )
    limits = json.loads(capsys.readouterr().out)["manifest"]["limits"]
    assert limits["max_pixels"] == 3000 and limits["max_frames"] == 7
    assert limits["max_bytes"] == Limits().max_bytes


def test_in_a_folder_what_is_over_the_limit_is_skipped_and_counted(place, tmp_path, capsys):
    line = ["predict", str(place / "net.onnx"), str(place / "large.png"), str(place / "small.png"), "--json"]
    assert run([*line, "--limit", "max_pixels=2999"]) == 0
    done = capsys.readouterr()
    found = json.loads(done.out)
    assert len(found["images"]) == 1 and "over the limit max_pixels=2999" in found["skipped"][0]["reason"]
    assert "skipped" in done.err


def test_limits_in_python(place):
    net = onnxviz.load(place / "net.onnx", preprocess="unit", limits=Limits(max_pixels=2999))
    with pytest.raises(ImageRejected, match=r"raise limits=onnxviz.Limits\(max_pixels=3000\)"):
        net.predict(place / "large.png")
    assert net.preprocessing.limits is net.limits
    assert net.manifest("x")["limits"]["max_pixels"] == 2999
    free = onnxviz.load(place / "net.onnx", preprocess="unit", limits=Limits.unlimited())
    assert free.predict(place / "large.png")


def test_limits_are_no_part_of_a_recipe():
    recipe = PRESETS["imagenet"]
    assert "limits" not in recipe.to_dict()
    assert type(recipe)(limits=Limits(max_pixels=1)) == type(recipe)()
    with pytest.raises(onnxviz.errors.PreprocessingRejected, match="unknown field 'limits'"):
        type(recipe).from_dict({"limits": {}})
