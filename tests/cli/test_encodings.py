"""stdout and stderr in any encoding: what it lacks is escaped, and nothing ends a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxviz.figures import style
from tests import networks
from tests.figures.test_style_fonts import ASCII, font_with

LABELS = ["猫", "кот", "قطة", "Löwe", "😀"]
# A command that says labels of many scripts, without a network: quick, and through the program's own start.
PROGRAM = f"""
import importlib
from onnxviz.cli.run import Run

def say(arguments, **_):
    with Run("predict", as_json="--json" in arguments) as run:
        for label in LABELS:
            run.say(f"{{label}} 12.5 % \\u2192")
            run.note(label)
        run.emit({{"labels": LABELS}})

LABELS = {LABELS!a}
main = importlib.import_module("onnxviz.cli.main")
main.program = lambda *_: say
main.main()
"""


def spoken(encoding: str, *how: str, **more: str) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", **more}
    return subprocess.run([sys.executable, *how], capture_output=True, env=environment, check=False)


@pytest.mark.parametrize("encoding", ["cp437", "cp1252", "ascii", "koi8-r", "utf-8"])
def test_any_encoding(encoding):
    done = spoken(encoding, "-c", PROGRAM)
    assert done.returncode == 0, done.stderr
    lines, errors = (text.decode(encoding).splitlines() for text in (done.stdout, done.stderr))
    for label, line, error in zip(LABELS, lines, errors, strict=True):
        escaped = label.encode(encoding, "ignore").decode(encoding) != label
        for shown in (line.split(" 12.5")[0], error.removeprefix("onnxviz: ")):
            assert (json.loads(f'"{shown}"') if escaped else shown) == label
    found = spoken(encoding, "-c", PROGRAM, "--json")
    assert json.loads(found.stdout.decode(encoding))["labels"] == LABELS


def test_the_c_locale():
    done = spoken("", "-c", PROGRAM, LC_ALL="C", PYTHONCOERCECLOCALE="0")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(LABELS)


def test_a_refusal_with_letters_that_the_encoding_lacks():
    """A real command's error names what was given, on one line, with its exit code."""
    done = spoken("ascii", "-m", "onnxviz", "predict", "猫.onnx", "a.png", LC_ALL="C.UTF-8")
    assert done.returncode == 3, done.stderr
    (line,) = done.stderr.decode("ascii").splitlines()
    assert "\\u732b.onnx" in line


def test_labels_in_any_script_on_the_command_line(shell, monkeypatch):
    """Without a font the picture shows numbers, and a note names the way on; with --font it shows the letters."""
    monkeypatch.setattr(style, "installed", lambda: ())
    monkeypatch.setattr(style, "_named", [])
    style.holder.cache_clear()
    style._told.clear()
    Path("net.onnx").write_bytes(networks.tiny_cnn(size="H").SerializeToString())
    Path("labels.txt").write_text("\n".join(f"猫{i}" for i in range(10)), encoding="utf-8")
    Path("han.ttf").write_bytes(font_with(ASCII | {"猫": "M"}))
    line = "saliency net.onnx large/0.png --labels labels.txt --size 32 --preprocess imagenet -o out.png"
    said = shell(line)
    assert said.code == 0 and "no font at hand holds U+732B" in said.err
    before = Path("out.png").read_bytes()
    said = shell(f"{line} --font han.ttf")
    assert said.code == 0 and "no font" not in said.err
    assert Path("out.png").read_bytes() != before
    said = shell(f"{line} --font labels.txt")
    assert said.code == 2 and "cannot be used" in said.err
    style.holder.cache_clear()
    style._told.clear()
