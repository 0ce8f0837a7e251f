"""Labels, names and metadata from strangers, through whole commands: of any length, and never acting."""

from __future__ import annotations

import json
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxviz.cli.main import run
from tests.graph import hostile

HIDDEN = "\x1b[31m\x7f\x9b2J\u202egpj\u2066\u2069\u200e\u200f\u061c\u2028\u2029\u200b\ufeff\U000e0041\0"
HIDDEN += "</script><script>"
SCOPES = "pkg.torch.onnx.name_scopes"


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)).save(path)
    return path


def labelled(path: Path, labels: list[str], rename: str = "") -> Path:
    model = hostile.network()
    entry = model.metadata_props.add()
    entry.key, entry.value = "onnxviz.labels", json.dumps(labels)
    if rename:
        for node in model.graph.node:
            node.name += rename
            for names in (node.input, node.output):
                names[:] = [name + rename for name in names]
        for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
            value.name += rename
    path.write_bytes(model.SerializeToString())
    return path


def harmless(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


@pytest.mark.parametrize("label", ["W" * 10_000, "a" + "\u0323\u0301" * 50_000, "W" * 1_000_000])
def test_a_label_of_any_length(label, photo, tmp_path):
    """In a child, whose clock is generous: shortening one letter at a time took minutes."""
    path = labelled(tmp_path / "m.onnx", [label] * 10)
    line = ["saliency", str(path), str(photo), "-o", str(tmp_path / "out.png"), "--limit", "memory=4GiB"]
    done = subprocess.run(
        [sys.executable, "-m", "onnxviz", *line], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout) < 10_000
    with Image.open(tmp_path / "out.png") as picture:
        assert max(picture.size) < 3000


def test_thirty_megabytes_of_metadata(photo, tmp_path):
    """`ast` made 14.5 GB of it."""
    model = hostile.network()
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = SCOPES, "[" + "'a'," * 7_000_000 + "]"
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    line = ["inspect", str(tmp_path / "m.onnx"), "--limit", "memory=3GiB"]
    done = subprocess.run(
        [sys.executable, "-m", "onnxviz", *line], capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"of 1 nodes have over 10000 characters" in done.stdout


def test_names_of_any_length(photo, tmp_path, capsys):
    path = labelled(tmp_path / "m.onnx", list("abcdefghij"), "V" * 100_000)
    assert run(["inspect", str(path)]) == 0
    told = capsys.readouterr()
    assert len(told.out) < 30_000 and max(map(len, told.out.splitlines())) < 5000
    assert len(told.err) < 10_000
    line = ["activations", str(path), str(photo), "-o", str(tmp_path / "a.png"), "--layer"]
    assert run([*line, "x" * 100_000]) == 2
    assert len(capsys.readouterr().err) < 15_000
    assert run([*line, "c" + "V" * 100_000]) == 0


@pytest.mark.parametrize("command", ["predict", "saliency", "cam", "occlusion", "inspect", "fool"])
def test_what_hides_is_escaped_on_every_way_out(command, photo, tmp_path, capsys):
    names = HIDDEN.replace("\0", "")
    path = labelled(tmp_path / "m.onnx", [f"{i}{HIDDEN}" for i in range(10)], names)
    arguments = [command, str(path), *([] if command == "inspect" else [str(photo)])]
    arguments += ["--window", "4", "--stride", "4"] if command == "occlusion" else []
    arguments += ["--target", "3", "--steps", "2"] if command == "fool" else []
    arguments += ["-o", str(tmp_path / "out.png")] if command not in ("predict", "inspect") else []
    assert run(arguments) == 0
    told = capsys.readouterr()
    assert harmless(told.out) and harmless(told.err)
    assert run([*arguments, "--json"]) == 0
    told = capsys.readouterr()
    assert harmless(told.out) and harmless(told.err)
    if command == "predict":  # the same when parsed
        assert json.loads(told.out)["images"][0]["top"][0]["label"].endswith(HIDDEN)
    for manifest in tmp_path.glob("*.json"):
        assert harmless(manifest.read_text("utf-8"))


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_tables_hold_nothing_that_hides(ending, photo, tmp_path, capsys):
    path = labelled(tmp_path / "m.onnx", [f"{i}{HIDDEN}" for i in range(10)])
    assert run(["predict", str(path), str(photo), "-o", str(tmp_path / f"out.{ending}")]) == 0
    text = (tmp_path / f"out.{ending}").read_bytes().decode()
    assert harmless(text.replace("\r\n", "\n")) and "u202e" in text


class Tags(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_a_page_of_channels_is_inert(tmp_path, capsys):
    names = HIDDEN.replace("\0", "")
    path = labelled(tmp_path / f"m{names.replace('/', '')}.onnx", list("abcdefghij"), names)
    line = ["ascent", str(path), "--layer", f"c{names}", "--channel", "all", "--steps", "1"]
    assert run([*line, "--size", "16", "-o", str(tmp_path / "all.png")]) == 0, capsys.readouterr().err
    page = (tmp_path / "all.html").read_text("utf-8")
    found = Tags(page)
    assert harmless(page) and "</script><script>" in found.text
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in found.tags}
    assert all(str(given["src"]).startswith("data:image/") for tag, given in found.tags if tag == "img")
    assert not [key for _, given in found.tags for key in given if key.startswith("on")]
    assert "http:" not in page and "https:" not in page
