"""The commands occlusion and rise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from onnxviz.cli.main import run
from onnxviz.runtime.ort import Program
from tests import toys


@pytest.fixture
def given(tmp_path) -> list[str]:
    """A network, its picture and how they go together, as arguments."""
    (tmp_path / "toy.onnx").write_bytes(toys.detector())
    (tmp_path / "labels.txt").write_text("red\ngreen\n")
    Image.fromarray(toys.photo()).save(tmp_path / "photo.png")
    return [
        *(str(tmp_path / name) for name in ("toy.onnx", "photo.png")),
        *("--preprocess", "raw", "--labels", str(tmp_path / "labels.txt"), "--provider", "cpu"),
    ]


def test_occlusion_writes_picture_values_and_manifest(given, tmp_path, capsys) -> None:
    out = tmp_path / "map.png"
    options = ["--window", "4x6", "--stride", "4x3", "--fill", "mean", "--target", "green", "--json"]
    assert run(["occlusion", *given, *options, "-o", str(out)]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["schema"] == "onnxviz.occlusion/1"
    parameters = value["manifest"]["parameters"]
    assert (parameters["window"], parameters["stride"]) == ([6, 4], [3, 4])  # height, width
    assert (parameters["target"], parameters["label"], parameters["fill"]) == (1, "green", "mean")
    assert json.loads(out.with_suffix(".json").read_text()) == value["manifest"]
    assert np.load(out.with_suffix(".npy")).shape == (12, 12)
    assert Image.open(out).mode == "RGB"


def test_rise_of_a_neuron(given, tmp_path) -> None:
    out = tmp_path / "map.png"
    options = ["--layer", "features", "--channel", "0", "--neuron", "5,9", "--masks", "9", "--grid", "3"]
    assert run(["rise", *given, *options, "--seed", "3", "--quiet", "-o", str(out)]) == 0
    manifest = json.loads(out.with_suffix(".json").read_text())
    assert manifest["parameters"]["label"] == "features, channel 0 at (5, 9)"
    assert manifest["parameters"]["seed"] == 3
    assert manifest["figures"]["masks"] == 9


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--window", "40"], "larger than the image"),
        (["--window", "4,4"], "--window takes"),
        (["--window", "4", "--stride", "0"], "stride must be at least 1"),
        (["--window", "4", "--stride", "4", "--fill", "gray"], "did you mean 'grey'"),
        (["--layer", "features"], "--channel"),
        (["--layer", "features", "--channel", "0", "--neuron", "5"], "--neuron takes"),
        (["--target", "blue"], "no class is called 'blue'"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(given, tmp_path, options, words, capsys) -> None:
    assert run(["occlusion", *given, *options, "-o", str(tmp_path / "map.png")]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said
    assert "\n" not in said
    assert not list(tmp_path.glob("map*"))


@pytest.mark.parametrize(
    ("command", "options", "done"),
    [
        ("occlusion", ["--window", "4", "--stride", "4"], "windows_done"),
        ("rise", ["--masks", "30", "--grid", "3"], "masks_done"),
    ],
)
def test_ctrl_c_keeps_what_is_done_and_exits_130(
    given, tmp_path, command, options, done, monkeypatch, capsys
) -> None:
    runs = []
    whole = Program.__call__

    def interrupted(self, *arguments, **more):
        runs.append(1)
        if len(runs) == 3:
            raise KeyboardInterrupt
        return whole(self, *arguments, **more)

    monkeypatch.setattr(Program, "__call__", interrupted)
    out = tmp_path / "map.png"
    assert run([command, *given, *options, "--batch", "3", "--threads", "1", "-o", str(out)]) == 130
    manifest = json.loads(out.with_suffix(".json").read_text())
    assert manifest["incomplete"] is True
    assert manifest["figures"][done] == 5
    assert np.load(out.with_suffix(".npy")).any()
    assert out.is_file()
    assert "incomplete" in capsys.readouterr().err
