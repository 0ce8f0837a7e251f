"""Messages name the way on in the caller's own spelling."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np
import onnx
import pytest
from networks import Maker, tiny_cnn
from PIL import Image

import onnxviz
from onnxviz.backends.torch.executor import knows
from onnxviz.cli.main import run
from onnxviz.errors import COMMAND, UsageError, near, spelt, ways

SIZES = "they differ" + ways("give --size WIDTHxHEIGHT", "give one at a time")


@pytest.fixture
def command():
    """As if a command with these options ran."""
    tokens = []

    def running(*options: str) -> None:
        tokens.append(COMMAND.set(frozenset(options)))

    yield running
    for token in reversed(tokens):
        COMMAND.reset(token)


@pytest.mark.parametrize(
    ("text", "python"),
    [
        (SIZES, "they differ; give size=, or give one at a time"),
        ("choose another --layer", "choose another layer="),
        ("raise it: --limit nodes=2e6", "raise it: limits=onnxviz.Limits.parse(['nodes=2e6'])"),
        ("use --backend torch", "use backend='torch'"),
        ("use --provider cpu, or --backend native", "use provider='cpu', or backend='native'"),
        ("give it by --feed NAME=VALUE (feeds={name: array} in Python)", "give it by feeds={name: array}"),
        ("--output NAME (output= in Python)", "output="),
        ("give --preprocess NAME|FILE", "give preprocess="),
        ("at least --size 64 or more", "at least size=64 or more"),
        ("run `onnxviz expose MODEL --layer L`", "run `onnxviz expose MODEL --layer L`"),
        ("a layer called a--b, a -- dash", "a layer called a--b, a -- dash"),
        ("choose it with --content-layer", "choose it with content_layer="),
    ],
)
def test_python_reads_keywords(text, python) -> None:
    assert str(UsageError(text)) == python
    assert spelt(python) == python


def test_a_command_reads_its_own_options_and_no_others(command) -> None:
    command("--size", "--layer")
    assert spelt(SIZES) == "they differ; give --size WIDTHxHEIGHT, or give one at a time"
    assert spelt("--output NAME (output= in Python)") == "--output NAME"
    command("--layer")
    assert spelt(SIZES) == "they differ; give one at a time"
    assert spelt("it ran out" + ways("give a smaller --batch")) == "it ran out"


def test_near_puts_whole_words_first_and_typing_errors_before_all() -> None:
    labels = ["catamaran", "tiger cat", "dog", "tabby, tabby cat", "cart"]
    assert near("cat", labels) == "; did you mean 'tiger cat', 'tabby, tabby cat', 'catamaran'?"
    assert near("stemm", ["stem.conv", "stem", "head"]).startswith("; did you mean 'stem'")
    assert near("qqq", labels) == ""


def test_the_same_refusal_from_both_sides(tmp_path, capsys) -> None:
    onnx.save(tiny_cnn(size=("H", "W")), tmp_path / "free.onnx")
    for side in (32, 40):
        Image.fromarray(np.zeros((side, side, 3), np.uint8)).save(tmp_path / f"{side}.png")
    model, *pictures = (str(tmp_path / name) for name in ("free.onnx", "32.png", "40.png"))
    options = ["--preprocess", "unit", "--resize", "keep", "-o", str(tmp_path / "s.png")]
    assert run(["saliency", model, *pictures, *options]) == 2
    assert "give --size WIDTHxHEIGHT, or give one picture at a time" in capsys.readouterr().err
    net = onnxviz.load(model, preprocess="unit", resize="keep", provider="cpu")
    assert [one.values.shape for one in onnxviz.saliency(net, pictures, target=0)] == [(32, 32), (40, 40)]
    with pytest.raises(UsageError, match="give size=, or give one picture at a time"):
        onnxviz.attributions(net, pictures)


def test_torch_is_named_only_where_it_has_the_operator(tmp_path, capsys) -> None:
    m = Maker()
    value = m("Det", m("MatMul", m("Conv", "image", m.random(4, 3, 3, 3)), m.random(14, 14)))
    onnx.save(m.model({"image": ("N", 3, 16, 16)}, {value: ("N", 4)}), tmp_path / "det.onnx")
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "p.png")
    given = [
        str(tmp_path / "det.onnx"),
        str(tmp_path / "p.png"),
        "--preprocess",
        "unit",
        "--backend",
        "native",
    ]
    assert run(["saliency", *given, "-t", "0", "-o", str(tmp_path / "s.png")]) == 3
    said = capsys.readouterr().err
    assert "Det" in said
    assert ("--backend torch" in said) is knows("Det")
    # A command without the option does not name it.
    assert run(["gradient", str(tmp_path / "det.onnx"), "-o", str(tmp_path / "g.onnx")]) == 3
    assert "--backend" not in capsys.readouterr().err


def test_a_missing_model_suggests_models(tmp_path, capsys) -> None:
    for name in ("resnet.onnx", "resnet.json", "resnet5.json"):
        (tmp_path / name).write_bytes(b"x")
    for name, told in (
        ("resnet5.onnx", "did you mean 'resnet.onnx'?"),
        ("none/efficientnet-lite.onnx", "did you mean 'efficientnet-lite"),
        ("zzz.onnx", "resnet.onnx"),
    ):
        assert run(["inspect", str(tmp_path / name)]) == 3
        said = capsys.readouterr().err
        assert told in said and ".json" not in said


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("gradcam", "'grad-cam'"),
        ("Grad CAM++", "'grad-cam++'"),
        ("integrated_gradients", "'integrated-gradients'"),
        ("IG", "'integrated-gradients'"),
        ("gradient*input", "'input-x-gradient'"),
        ("torchvision", "'imagenet'"),
        ("kittens", "'tabby', 'tiger cat'"),
    ],
)
def test_near_knows_other_spellings_and_names(typed, meant) -> None:
    names = ["gradient", "input-x-gradient", "integrated-gradients", "grad-cam", "grad-cam++", "xgrad-cam"]
    names += ["imagenet", "tensorflow", "tiger cat", "tabby"]
    assert near(typed, names) == f"; did you mean {meant}?"


def test_near_compares_no_more_than_it_must(monkeypatch) -> None:
    """Comparing two spellings takes up to the cube of their length: counted, not clocked."""
    compared = []
    ratio = difflib.SequenceMatcher.ratio

    def counted(self: Any) -> float:
        compared.append(len(self.a) * len(self.b))
        return ratio(self)

    monkeypatch.setattr(difflib.SequenceMatcher, "ratio", counted)
    same = ["dcba" * 49 + f"{i:04}" for i in range(5000)]
    assert near("abcd" * 49, [*same, "abcd" * 48 + "abce"]).endswith("abce'?")
    assert len(compared) < 20
    compared.clear()
    assert near("x" * 10_000, ["x" * 9_999] * 3 + ["x" * 10_001, "y"]) == ""
    assert near("x" * 1_000_000, [f"{'x' * 10_000}{i}" for i in range(1000)]) == ""
    assert sum(compared) < 1_000_000
    for word in ("class", "lass"):  # a hundred thousand hold it
        held = near(word, [f"class {i}" for i in range(100_000)])
        assert held == "; did you mean 'class 0', 'class 1', 'class 2'?"


def test_a_message_is_cut_in_its_middle() -> None:
    text = str(UsageError(f"no layer is named {'x' * 1_000_000!r}; `onnxviz inspect` lists the layers"))
    assert len(text) <= 4000
    assert text.startswith("no layer is named 'xxx") and text.endswith("lists the layers")
