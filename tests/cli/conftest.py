"""What the commands are tried on: a folder of small networks and pictures, and a shell that runs lines on them."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from onnxviz.cli.main import run
from onnxviz.runtime.ort import Program
from tests import networks, toys

# A network with all it takes, so that nothing is assumed.
_KNOWN = {
    "TOY": "toy.onnx --preprocess raw --labels two.txt --provider cpu",
    "TINY": "tiny.onnx --preprocess unit --labels ten.txt --provider cpu",
}


class Said(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)


class Shell:
    """`shell("saliency TOY photos/0.png -o map.png", more...)`; names of `things` stand for what lies there."""

    def __init__(self, things: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.things, self.capsys = things, capsys
        self.names = {path.name for path in things.iterdir()}

    def __call__(self, line: str, *more: object) -> Said:
        words = [*shlex.split(line), *map(str, more)]
        words = [part for word in words for part in (_KNOWN[word].split() if word in _KNOWN else [word])]
        code = run([self._named(word) for word in words])
        return Said(code, *self.capsys.readouterr())

    def _named(self, word: str) -> str:
        name, equals, value = word.rpartition("=")  # --feed x=small.png
        return f"{name}{equals}{self.things / value}" if value.split("/")[0] in self.names else word

    def manifest(self, name: str) -> dict[str, Any]:
        return json.loads(Path(f"{name}.json").read_text("utf-8"))

    def values(self, name: str) -> np.ndarray:
        return np.load(f"{name}.npy")


@pytest.fixture(scope="session")
def things(tmp_path_factory) -> Path:
    """Networks toy (12×12 pixels, classes red and green, layer 'features') and tiny (32×32, ten classes), and files."""
    folder = tmp_path_factory.mktemp("things")
    (folder / "toy.onnx").write_bytes(toys.detector())
    (folder / "tiny.onnx").write_bytes(networks.tiny_cnn().SerializeToString())
    (folder / "two.txt").write_text("red\ngreen\n")
    (folder / "ten.txt").write_text("".join(f"thing {i}\n" for i in range(10)))
    for name in ("photos", "large", "void"):
        (folder / name).mkdir()
    for seed in range(2):
        Image.fromarray(toys.photo(seed)).save(folder / "photos" / f"{seed}.png")
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "large" / f"{seed}.png")
    (folder / "zero.png").write_bytes(b"")
    (folder / "bad.json").write_text("{")
    (folder / "nul.txt").write_bytes(b"a\x00b")
    (folder / "broken.onnx").write_bytes(b"\x08\x07:\x05nothing")
    np.save(folder / "x.npy", np.zeros((3, 3)))
    return folder


@pytest.fixture
def shell(things, tmp_path, monkeypatch, capsys) -> Shell:
    """A shell in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return Shell(things, capsys)


@pytest.fixture
def interrupt(monkeypatch):
    """`interrupt(3)`: the third run of a program is Ctrl-C."""

    def at(count: int, name: str = "__call__") -> None:
        runs, whole = [], getattr(Program, name)

        def interrupted(self, *arguments, **more):
            runs.append(1)
            if len(runs) == count:
                raise KeyboardInterrupt
            return whole(self, *arguments, **more)

        monkeypatch.setattr(Program, name, interrupted)

    return at
