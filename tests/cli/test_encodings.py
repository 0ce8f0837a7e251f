"""stdout and stderr in any encoding: what it lacks is escaped, and nothing ends a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

LABELS = ["猫", "кот", "قطة", "Löwe", "😀"]
# A command that says labels of many scripts, without a network: quick, and through the program's own start.
PROGRAM = """
import importlib
from onnxviz.cli.run import Run

def say(arguments, **_):
    with Run("predict", as_json="--json" in arguments) as run:
        for label in LABELS:
            run.say(f"{label} 12.5 % \\u2192")
            run.note(label)
        run.emit({"labels": LABELS})

LABELS = <labels>
main = importlib.import_module("onnxviz.cli.main")
main.program = lambda *_: say
main.main()
"""


def spoken(encoding: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", **more}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM.replace("<labels>", ascii(LABELS)), *arguments],
        capture_output=True,
        env=environment,
        check=False,
    )


@pytest.mark.parametrize("encoding", ["cp437", "cp1252", "ascii", "koi8-r", "utf-8"])
def test_any_encoding(encoding):
    done = spoken(encoding)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode(encoding).splitlines()
    errors = done.stderr.decode(encoding).splitlines()
    assert len(lines) == len(errors) == len(LABELS)
    for label, line, error in zip(LABELS, lines, errors, strict=True):
        for shown in (line.split(" 12.5")[0], error.removeprefix("onnxviz: ")):
            try:
                label.encode(encoding)
            except UnicodeEncodeError:
                assert json.loads(f'"{shown}"') == label
            else:
                assert shown == label
    found = spoken(encoding, "--json")
    assert json.loads(found.stdout.decode(encoding))["labels"] == LABELS


def test_the_c_locale():
    environment = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
    done = spoken("", **environment)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(LABELS)


def test_a_refusal_with_letters_that_the_encoding_lacks(tmp_path):
    """A real command's error names what was given, on one line, with its exit code."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [sys.executable, "-m", "onnxviz", "predict", "猫.onnx", str(tmp_path / "a.png")],
        capture_output=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.decode("ascii").splitlines()
    assert "\\u732b.onnx" in line


def test_labels_in_any_script_on_the_command_line(tmp_path, capsys, monkeypatch):
    """Without a font the picture shows numbers, and a note names the way on; with --font it shows the letters."""
    from onnxviz.cli.main import run
    from onnxviz.figures import style
    from tests import networks
    from tests.figures.test_style_fonts import ASCII, font_with

    monkeypatch.setattr(style, "installed", lambda: ())
    monkeypatch.setattr(style, "_named", [])
    style.holder.cache_clear()
    style._told.clear()
    files = {name: tmp_path / name for name in ("net.onnx", "labels.txt", "a.png", "han.ttf", "out.png")}
    files["net.onnx"].write_bytes(networks.tiny_cnn(size="H").SerializeToString())
    files["labels.txt"].write_text("\n".join(f"猫{i}" for i in range(10)), encoding="utf-8")
    files["han.ttf"].write_bytes(font_with(ASCII | {"猫": "M"}))
    Image.new("RGB", (32, 32), (200, 100, 50)).save(files["a.png"])
    command = ["saliency", str(files["net.onnx"]), str(files["a.png"]), "--labels", str(files["labels.txt"])]
    command += ["--size", "32", "--preprocess", "imagenet", "-o", str(files["out.png"])]
    assert run(command) == 0
    assert "no font at hand holds U+732B" in capsys.readouterr().err
    before = files["out.png"].read_bytes()
    assert run([*command, "--font", str(files["han.ttf"])]) == 0
    assert "no font" not in capsys.readouterr().err
    assert files["out.png"].read_bytes() != before
    assert run([*command, "--font", str(files["a.png"])]) == 2
    assert "cannot be used" in capsys.readouterr().err
    style.holder.cache_clear()
    style._told.clear()
