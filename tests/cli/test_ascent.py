"""The command ascent, and what all commands share that make pictures step by step."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxviz.cli.main import run
from onnxviz.errors import LimitExceeded, WorkerCrashed
from onnxviz.runtime.ort import Program
from onnxviz.synthesis.machine import Machine
from tests import networks


@pytest.fixture
def given(tmp_path) -> list[str]:
    onnx.save(networks.tiny_cnn(), tmp_path / "tiny.onnx")
    (tmp_path / "labels.txt").write_text("".join(f"thing {i}\n" for i in range(10)))
    labels = ["--labels", str(tmp_path / "labels.txt")]
    return [str(tmp_path / "tiny.onnx"), "--preprocess", "imagenet", *labels, "--provider", "cpu"]


def test_a_class(given, tmp_path, capsys) -> None:
    out = tmp_path / "picture.png"
    assert (
        run(["ascent", *given, "-t", "thing 3", "--steps", "9", "--rate", "0.1", "--json", "-o", str(out)])
        == 0
    )
    value = json.loads(capsys.readouterr().out)
    assert value["schema"] == "onnxviz.ascent/1"
    parameters = value["manifest"]["parameters"]
    assert parameters["target"] == [3]
    assert parameters["preset"] == "lucid"
    assert (parameters["recipe"]["steps"], parameters["recipe"]["rate"]) == (9, 0.1)
    assert value["manifest"]["figures"]["pictures"][0]["label"] == "thing 3"
    assert np.load(out.with_suffix(".npy")).shape == (1, 43, 43, 3)
    assert Image.open(out).mode == "RGB"


def test_channels_checkpoints_and_an_animation(given, tmp_path) -> None:
    out, film = tmp_path / "sheet.png", tmp_path / "film.gif"
    options = [
        "--layer",
        "conv2",
        "-c",
        "3",
        "-c",
        "5",
        "--steps",
        "6",
        "--every",
        "2",
        "--animate",
        str(film),
    ]
    assert run(["ascent", *given, *options, "-q", "-o", str(out)]) == 0
    kept = sorted(path.name for path in tmp_path.glob("sheet.step*.png"))
    assert kept == ["sheet.step00002.png", "sheet.step00004.png", "sheet.step00006.png"]
    with Image.open(film) as frames:
        assert frames.n_frames == 4  # steps 0, 2, 4 and the last
        assert frames.size == (86, 43)
    moving = tmp_path / "film.webp"
    assert run(["ascent", *given, "-t", "1", "--steps", "3", "--animate", str(moving), "-o", str(out)]) == 0
    with Image.open(moving) as frames:
        assert frames.n_frames == 3


def test_an_objective_of_ones_own(given, tmp_path) -> None:
    out = tmp_path / "picture.png"
    text = "logit(3) - 0.5*logit(4)"
    assert run(["ascent", *given, "--objective", text, "--steps", "2", "-q", "-o", str(out)]) == 0
    parameters = json.loads(out.with_suffix(".json").read_text())["parameters"]
    assert parameters["objective"] == "logit(3) - 0.5*logit(4)"


def test_all_channels_as_a_page(given, tmp_path, capsys) -> None:
    out = tmp_path / "all.png"
    options = ["--layer", "conv1", "--channel", "all", "--steps", "1", "--neuron", "middle"]
    assert run(["ascent", *given, *options, "-o", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out), str(tmp_path / "all.html")]
    assert (tmp_path / "all.html").read_text(encoding="utf-8").count("<figure") == 8


def test_ctrl_c_keeps_the_picture(given, tmp_path, monkeypatch, capsys) -> None:
    real, calls = Program.run_bound, []

    def stopped(self, *arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(Program, "run_bound", stopped)
    out, film = tmp_path / "part.png", tmp_path / "part.gif"
    assert run(["ascent", *given, "-t", "3", "--animate", str(film), "-o", str(out)]) == 130
    assert json.loads(out.with_suffix(".json").read_text())["incomplete"] is True
    assert Image.open(film).n_frames == 1
    assert "interrupted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("ended", "code", "told"),
    [(None, 3, "at step 3"), (LimitExceeded("too long"), 4, "too long"), (WorkerCrashed("gone"), 4, "gone")],
)
def test_what_ends_it_early_leaves_the_last_good_picture(
    given, tmp_path, monkeypatch, capsys, ended, code, told
) -> None:
    """Numbers that run away, a limit, a process that died."""
    real = Machine._check

    def check(self, arrays, index):
        if index == 3 and ended is not None:
            raise ended
        return real(self, {**arrays, "value": arrays["value"] * (np.nan if index == 3 else 1)}, index)

    monkeypatch.setattr(Machine, "_check", check)
    out = tmp_path / "part.png"
    assert run(["ascent", *given, "-t", "3", "-o", str(out)]) == code
    assert told in capsys.readouterr().err
    assert json.loads(out.with_suffix(".json").read_text())["incomplete"] is True


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "one of --target, --layer"),
        (["-t", "thing 33"], "thing 3"),
        (["-t", "1", "--preset", "lucied"], "did you mean 'lucid'"),
        (["-t", "1", "--animate", "film.mp4"], ".gif or .webp"),
        (["--layer", "conv2", "-c", "x"], "--channel takes"),
        (["--layer", "conv2", "-c", "3", "--neuron", "5"], "--neuron takes"),
        (["--layer", "conv3", "-c", "3"], "did you mean 'conv2'"),
        (["-t", "1", "--patches", "folder"], "belongs to --channel all"),
        (["-t", "1", "--blur-low", "3", "--blur-high", "1"], "the smaller first"),
    ],
)
def test_wrong_usage(given, options, words, capsys) -> None:
    assert run(["ascent", *given, *options, "--steps", "1"]) == 2
    assert words in capsys.readouterr().err
