"""The command cam."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from onnxviz.attribution.methods import of
from onnxviz.cli.main import run
from tests import networks


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A network, labels and two pictures."""
    path = tmp_path_factory.mktemp("cam")
    (path / "tiny.onnx").write_bytes(networks.tiny_cnn().SerializeToString())
    (path / "labels.txt").write_text("".join(f"class{number}\n" for number in range(10)))
    rng = np.random.default_rng(0)
    for name in ("one", "two"):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path / f"{name}.png")
    return path


def call(folder, out, *options: str, pictures=("one",)) -> int:
    files = [str(folder / f"{name}.png") for name in pictures]
    given = [
        "--preprocess",
        "unit",
        "--labels",
        str(folder / "labels.txt"),
        "--provider",
        "cpu",
        "-o",
        str(out),
    ]
    return run(["cam", str(folder / "tiny.onnx"), *files, *given, *options])


def test_one_picture_and_one_method(folder, tmp_path, capsys):
    out = tmp_path / "cam.png"
    assert call(folder, out, "--target", "class3", "--layer", "relu1", "--signed", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["schema"] == "onnxviz.cam/1"
    parameters = value["manifest"]["parameters"]
    assert parameters["method"] == "grad-cam"
    assert (parameters["target"], parameters["label"]) == (3, "class3")
    assert (parameters["layers"], parameters["signed"], parameters["align"]) == (["relu1"], True, "stretch")
    assert json.loads(out.with_suffix(".json").read_text()) == value["manifest"]
    assert np.load(out.with_suffix(".npy")).shape == (32, 32)
    assert Image.open(out).mode == "RGB"


def test_several_pictures_layers_and_methods_are_a_sheet(folder, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    options = ["-m", "grad-cam", "-m", "score-cam", "-l", "relu1", "-l", "pool", "-t", "1", "-t", "class2"]
    assert call(folder, out, *options, pictures=("one", "two")) == 0
    assert capsys.readouterr().out.strip() == str(out)
    assert np.load(out.with_suffix(".npy")).shape == (2, 2, 32, 32)
    listed = json.loads(out.with_suffix(".json").read_text())["figures"]["pictures"]
    assert [(one["name"], one["label"]) for one in listed] == [("one", "class1"), ("two", "class2")]
    assert set(listed[0]["methods"]) == {"grad-cam", "score-cam"}


def test_all_methods(folder, tmp_path):
    out = tmp_path / "all.png"
    assert call(folder, out, "-m", "all") == 0
    assert json.loads(out.with_suffix(".json").read_text())["parameters"]["methods"] == list(of("cam"))


def test_an_objective_and_placed_by_fields(folder, tmp_path):
    out = tmp_path / "difference.png"
    assert call(folder, out, "--objective", "logit(3) - logit(4)", "--align", "field", "-m", "hirescam") == 0
    parameters = json.loads(out.with_suffix(".json").read_text())["parameters"]
    assert parameters["target"] is None
    assert "logit(3)" in parameters["label"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-m", "gradcam"], "did you mean 'grad-cam'"),
        (["-m", "grad-cam", "-m", "grad-cam"], "each once"),
        (["-l", "features"], "no map"),
        (["-l", "relu9"], "did you mean"),
        (["-t", "10"], "10 classes"),
        (["-t", "1", "-t", "2"], "2 targets"),
        (["-t", "1", "--objective", "logit(2)"], "give one of"),
        (["--align", "sideways"], "stretch or field"),
        (["--percentile", "0"], "percentile"),
    ],
)
def test_what_cannot_be_meant_is_one_line_and_exit_code_2(options, said, folder, tmp_path, capsys):
    assert call(folder, tmp_path / "out.png", *options) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
    assert not list(tmp_path.glob("out*"))


def test_a_sheet_names_each_picture_once_and_is_of_one_size(folder, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    methods = ["-m", "grad-cam", "-m", "hirescam"]
    assert call(folder, out, *methods, pictures=("one", "two")) == 0
    named = [one["path"] for one in json.loads(out.with_suffix(".json").read_text())["pictures"]]
    assert named == [str(folder / f"{name}.png") for name in ("one", "two")]
    (tmp_path / "free.onnx").write_bytes(networks.tiny_cnn(size="S").SerializeToString())
    for name, size in (("a", (32, 32)), ("b", (40, 36))):
        Image.new("RGB", size, "red").save(tmp_path / f"{name}.png")
    kept = [
        str(tmp_path / "free.onnx"),
        *(str(tmp_path / f"{name}.png") for name in "ab"),
        "--resize",
        "keep",
    ]
    assert run(["cam", *kept, "-o", str(tmp_path / "kept.png")]) == 2
    assert "different sizes" in capsys.readouterr().err


@pytest.mark.parametrize("others", [[], ["-m", "grad-cam"]])
def test_a_sheet_is_of_the_methods_of_cam(others, folder, tmp_path, capsys):
    assert call(folder, tmp_path / "cam.png", *others, "-m", "no-cam") == 2
    told = capsys.readouterr().err.rpartition("there are ")[2]
    assert told.strip().split(", ") == list(of("cam"))
