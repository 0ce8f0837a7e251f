"""Manifests name the pictures and the command or call."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

import onnxviz
from onnxviz.cli.main import run
from tests import toys
from tests.stopped import stopped


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evidence")
    (folder / "photos").mkdir()
    (folder / "toy.onnx").write_bytes(toys.detector())
    rng = np.random.default_rng(0)
    for name, shape in (("wide", (20, 40, 3)), ("tall", (40, 20, 3)), ("square", (12, 12, 3))):
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / "photos" / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def toy(files):
    return onnxviz.load(files / "toy.onnx", preprocess="raw", provider="cpu")


def sha(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("technique", "options"),
    [
        ("saliency", {"target": 1}),
        ("cam", {"target": 1}),
        ("occlusion", {"window": 6, "stride": 6}),
        ("rise", {"masks": 4, "grid": 3}),
        ("segment", {"method": "saliency", "target": 0}),
        ("activations", {"layer": "features"}),
        ("dream", {"layers": "features", "steps": 1, "octaves": 1}),
        ("invert", {"layers": "features", "steps": 1}),
    ],
)
def test_a_manifest_names_its_picture_and_the_call(technique, options, files, toy) -> None:
    path = files / "photos" / "wide.png"
    found = getattr(onnxviz, technique)(toy, path, **options)
    (picture,) = found.manifest["pictures"]
    assert (picture["path"], picture["sha256"], picture["size"]) == (str(path), sha(path), [20, 40])
    call = found.manifest["call"]
    assert call["function"] == f"onnxviz.{technique}"
    assert {key: call["arguments"][key] for key in options} == options
    assert str(path) in str(call["arguments"])
    assert "command" not in found.manifest
    json.dumps(found.manifest["call"])


def test_the_box_that_the_network_sees_is_told(files, toy) -> None:
    """A picture of 40×20 for a network of 12×12: the middle 20×20; letterboxed: all of it."""
    whole = onnxviz.load(files / "toy.onnx", preprocess="raw", resize="letterbox", provider="cpu")
    for net, left, right, padding in (
        (toy, 10.0, 30.0, {}),
        (whole, 0.0, 40.0, {"padding": {"top": 3, "left": 0}}),
    ):
        seen = onnxviz.occlusion(net, files / "photos" / "wide.png", window=6).manifest["pictures"][0]["seen"]
        box = {"top": 0.0, "left": left, "bottom": 20.0, "right": right}
        assert seen == {"box": box, "size": [12, 12], **padding}


def test_of_several_pictures_each_result_names_its_own(files, toy) -> None:
    paths = [files / "photos" / f"{name}.png" for name in ("wide", "tall", "square")]
    for found in (
        onnxviz.saliency(toy, paths, target=0),
        onnxviz.occlusion(toy, paths, window=6),
        onnxviz.segment(toy, paths, method="saliency", target=0),
    ):
        assert [one.manifest["pictures"][0]["sha256"] for one in found] == [sha(path) for path in paths]
        assert [len(one.manifest["pictures"]) for one in found] == [1, 1, 1]
    sheet = onnxviz.attributions(toy, paths, ["saliency", "grad-cam"], target=0)
    assert [one["path"] for one in sheet.manifest["pictures"]] == [str(path) for path in paths]
    assert sheet.grid[2][1].manifest["pictures"][0]["path"] == str(paths[2])


def test_arrays_and_tensors_are_named_by_their_bytes(toy) -> None:
    photo = toys.photo(3)
    (entry,) = onnxviz.saliency(toy, photo, target=0).manifest["pictures"]
    expected = hashlib.sha256(photo.tobytes()).hexdigest()
    assert (entry["given"], entry["shape"], entry["dtype"]) == ("array", [12, 12, 3], "uint8")
    assert entry["sha256"] == expected
    (entry,) = onnxviz.saliency(toy, Image.fromarray(photo), target=0).manifest["pictures"]
    assert (entry["given"], entry["sha256"]) == ("PIL image", expected)
    x = toy.prepare(photo)
    (one,) = onnxviz.saliency(toy, x, target=0)
    assert one.manifest["pictures"][0]["sha256"] == hashlib.sha256(x.tobytes()).hexdigest()


def test_a_stream_keeps_one_digest_of_the_set_whatever_the_batch(files, toy) -> None:
    paths = sorted((files / "photos").iterdir())
    expected = hashlib.sha256("".join(f"{sha(path)}\n" for path in paths).encode()).hexdigest()
    for technique, options in (
        (onnxviz.embed, {"layer": "features"}),
        (onnxviz.embed, {"layer": "features", "batch": 1}),
        (onnxviz.patches, {"layer": ["features"]}),
        (onnxviz.map, {"layer": "features"}),
    ):
        manifest = technique(toy, files / "photos", **options).manifest
        assert manifest["picture_sets"] == [{"count": 3, "sha256": expected}]
        assert "pictures" not in manifest


def test_what_was_interrupted_is_signed_too(files, toy, monkeypatch) -> None:
    wide = files / "photos" / "wide.png"
    given = {"window": 4, "stride": 4, "batch": 1}
    partial = stopped(onnxviz.occlusion, toy, wide, when=lambda done, *_: done >= 2, **given)
    assert partial.manifest["pictures"][0]["sha256"] == sha(wide)


def test_the_command_line_stands_in_the_manifest_as_it_was_given(files, tmp_path, capsys) -> None:
    photo = str(files / "photos" / "wide.png")
    for command, options in (("occlusion", ["--window", "6"]), ("saliency", ["-t", "0"]), ("filters", [])):
        pictures = [] if command == "filters" else [photo]
        arguments = [command, str(files / "toy.onnx"), *pictures, "--preprocess", "raw", *options]
        arguments += ["-o", str(tmp_path / f"{command}.png")]
        assert run(arguments) == 0
        manifest = json.loads((tmp_path / f"{command}.json").read_text())
        assert manifest["command"] == ["onnxviz", *arguments]
        assert "call" not in manifest
        if pictures:
            assert manifest["pictures"][0]["sha256"] == sha(files / "photos" / "wide.png")
    capsys.readouterr()
    assert run(["predict", str(files / "toy.onnx"), photo, "--preprocess", "raw", "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["images"][0]["sha256"] == sha(files / "photos" / "wide.png")
    assert value["images"][0]["seen"]["size"] == [12, 12]
    assert value["manifest"]["command"][:2] == ["onnxviz", "predict"]


def test_parameters_are_those_that_were_used(files, toy) -> None:
    photo = files / "photos" / "wide.png"
    assert onnxviz.occlusion(toy, photo).manifest["parameters"]["window"] == (2, 2)
    last = next(layer.name for layer in toy.layers if layer.op == "Mul")
    assert onnxviz.cam(toy, photo).manifest["parameters"]["layers"] == [last]
    assert onnxviz.embed(toy, files / "photos", layer="features").manifest["parameters"]["batch"] is not None
