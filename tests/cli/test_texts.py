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

from tests.graph import hostile

HIDDEN = "\x1b[31m\x7f\x9b2J\u202egpj\u2066\u2069\u200e\u200f\u061c\u2028\u2029\u200b\ufeff\U000e0041\0"
HIDDEN += "</script><script>"
NAMES = HIDDEN.replace("\0", "")


@pytest.fixture(autouse=True)
def photo(shell):
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)).save("photo.png")


def labelled(labels: list[str], rename: str = "", path: str = "m.onnx") -> None:
    """A network of these labels, what it names being called so, too."""
    model = hostile.network()
    entry = model.metadata_props.add()
    entry.key, entry.value = "onnxviz.labels", json.dumps(labels)
    for node in model.graph.node:
        node.name += rename
        for names in (node.input, node.output):
            names[:] = [name + rename for name in names]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name += rename
    Path(path).write_bytes(model.SerializeToString())


def harmless(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


def in_a_child(line: str) -> bytes:
    """What a command prints in a process of its own, whose clock is generous."""
    words = [sys.executable, "-m", "onnxviz", *line.split()]
    done = subprocess.run(words, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("label", ["W" * 10_000, "a" + "\u0323\u0301" * 50_000, "W" * 1_000_000])
def test_a_label_of_any_length(label):
    """Shortening one letter at a time took minutes."""
    labelled([label] * 10)
    assert len(in_a_child("saliency m.onnx photo.png -o out.png --limit memory=4GiB")) < 10_000
    assert max(Image.open("out.png").size) < 3000


def test_thirty_megabytes_of_metadata():
    """`ast` made 14.5 GB of it."""
    model = hostile.network()
    entry = model.graph.node[0].metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", "[" + "'a'," * 7_000_000 + "]"
    Path("m.onnx").write_bytes(model.SerializeToString())
    assert b"of 1 nodes have over 10000 characters" in in_a_child("inspect m.onnx --limit memory=3GiB")


def test_names_of_any_length(shell):
    labelled(list("abcdefghij"), "V" * 100_000)
    told = shell("inspect m.onnx")
    assert told.code == 0 and len(told.err) < 10_000
    assert len(told.out) < 30_000 and max(map(len, told.out.splitlines())) < 5000
    said = shell("activations m.onnx photo.png -o a.png --layer", "x" * 100_000)
    assert said.code == 2 and len(said.err) < 15_000
    assert shell("activations m.onnx photo.png -o a.png --layer", "c" + "V" * 100_000).code == 0


@pytest.mark.parametrize(
    "line",
    [
        "predict m.onnx photo.png",
        "inspect m.onnx",
        "saliency m.onnx photo.png -o out.png",
        "cam m.onnx photo.png -o out.png",
        "occlusion m.onnx photo.png --window 4 --stride 4 -o out.png",
        "fool m.onnx photo.png --target 3 --steps 2 -o out.png",
    ],
)
def test_what_hides_is_escaped_on_every_way_out(line, shell):
    labelled([f"{i}{HIDDEN}" for i in range(10)], NAMES)
    plain, told = shell(line), shell(f"{line} --json")
    assert plain.code == told.code == 0
    assert all(harmless(text) for text in (*plain[1:], *told[1:]))
    if line.startswith("predict"):  # the same when parsed
        assert told.json["images"][0]["top"][0]["label"].endswith(HIDDEN)
    for manifest in Path().glob("*.json"):
        assert harmless(manifest.read_text("utf-8"))


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_tables_hold_nothing_that_hides(ending, shell):
    labelled([f"{i}{HIDDEN}" for i in range(10)])
    assert shell(f"predict m.onnx photo.png -o out.{ending}").code == 0
    text = Path(f"out.{ending}").read_bytes().decode()
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


def test_a_page_of_channels_is_inert(shell):
    path = f"m{NAMES.replace('/', '')}.onnx"
    labelled(list("abcdefghij"), NAMES, path)
    said = shell("ascent --channel all --steps 1 --size 16 -o all.png", path, "--layer", f"c{NAMES}")
    assert said.code == 0, said.err
    page = Path("all.html").read_text("utf-8")
    found = Tags(page)
    assert harmless(page) and "</script><script>" in found.text
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in found.tags}
    assert all(str(given["src"]).startswith("data:image/") for tag, given in found.tags if tag == "img")
    assert not [key for _, given in found.tags for key in given if key.startswith("on")]
    assert "http:" not in page and "https:" not in page
