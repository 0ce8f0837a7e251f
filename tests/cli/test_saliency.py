"""The commands saliency and segment."""

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
    (tmp_path / "photos").mkdir()
    for seed in range(2):
        Image.fromarray(toys.photo(seed)).save(tmp_path / "photos" / f"photo{seed}.png")
    return [
        *(str(tmp_path / name) for name in ("toy.onnx", "photos/photo0.png")),
        *("--preprocess", "raw", "--labels", str(tmp_path / "labels.txt"), "--provider", "cpu"),
    ]


def test_one_method_writes_picture_values_and_manifest(given, tmp_path, capsys) -> None:
    out = tmp_path / "map.png"
    options = ["--method", "integrated-gradients", "--steps", "4", "--baseline", "grey", "--target", "green"]
    assert run(["saliency", *given, *options, "--percentile", "95", "--json", "-o", str(out)]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["schema"] == "onnxviz.saliency/1"
    parameters = value["manifest"]["parameters"]
    assert (parameters["method"], parameters["target"], parameters["label"]) == (
        "integrated-gradients",
        1,
        "green",
    )
    assert (parameters["steps"], parameters["baseline"], parameters["percentile"]) == (4, "grey", 95.0)
    assert json.loads(out.with_suffix(".json").read_text()) == value["manifest"]
    assert np.load(out.with_suffix(".npy")).shape == (12, 12)
    assert Image.open(out).mode == "RGB"


def test_a_folder_and_several_methods_give_one_sheet(given, tmp_path, capsys) -> None:
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG")
    given[1] = str(tmp_path / "photos")
    out = tmp_path / "sheet.png"
    methods = ["-m", "saliency", "-m", "smoothgrad", "-m", "grad-cam", "--samples", "2"]
    assert run(["saliency", *given, *methods, "-t", "red", "-t", "green", "-o", str(out)]) == 0
    assert "broken.png" in capsys.readouterr().err
    assert np.load(out.with_suffix(".npy")).shape == (2, 3, 12, 12)
    manifest = json.loads(out.with_suffix(".json").read_text())
    assert [p["label"] for p in manifest["figures"]["pictures"]] == ["red", "green"]
    assert [p["name"] for p in manifest["figures"]["pictures"]] == ["photo0", "photo1"]
    assert len(manifest["skipped"]) == 1


def test_an_objective_as_text(given, tmp_path) -> None:
    out = tmp_path / "map.png"
    text = "logit('red') - 2 * logit(1)"
    assert run(["saliency", *given, "-m", "gradient", "--objective", text, "--quiet", "-o", str(out)]) == 0
    np.testing.assert_allclose(np.load(out.with_suffix(".npy"))[5, 7], -1 / 1024, rtol=1e-5)


def test_a_neuron(given, tmp_path) -> None:
    out = tmp_path / "map.png"
    options = ["--layer", "features", "--channel", "0", "--neuron", "5,9"]
    assert run(["saliency", *given, *options, "--quiet", "-o", str(out)]) == 0
    assert np.argwhere(np.load(out.with_suffix(".npy"))).tolist() == [[5, 9]]


def test_what_is_odd_about_a_map_is_said(tmp_path, capsys) -> None:
    """A score that no pixel moves."""
    from networks import Maker

    m = Maker()
    off = m(
        "Relu", m("Conv", "image", m.constant(np.ones((2, 3, 1, 1), np.float32)), m.constant([-9e9, -9e9]))
    )
    model = m.model({"image": ("N", 3, 8, 8)}, {m("Flatten", m("GlobalAveragePool", off)): ("N", 2)})
    (tmp_path / "off.onnx").write_bytes(model.SerializeToString())
    Image.fromarray(toys.photo()).save(tmp_path / "p.png")
    arguments = [str(tmp_path / "off.onnx"), str(tmp_path / "p.png"), "--preprocess", "unit"]
    assert run(["saliency", *arguments, "-o", str(tmp_path / "o.png")]) == 0
    assert "zero everywhere" in capsys.readouterr().err
    assert run(["segment", *arguments, "-o", str(tmp_path / "s.png")]) == 3


def test_segment_writes_a_mask(given, tmp_path, capsys) -> None:
    out = tmp_path / "object.png"
    assert run(["segment", *given, "--method", "saliency", "-t", "red", "--json", "-o", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "onnxviz.segment/1"
    assert set(np.unique(np.load(out.with_suffix(".npy")))) == {0.0, 1.0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--method", "smoothgrd"], "did you mean 'smoothgrad'"),
        (["--method", "gradcam"], "did you mean 'grad-cam'"),
        (["--steps", "4"], "integrated-gradients does"),
        (["--objective", "exec('x')"], "no objective is called"),
        (["--objective", "logit(0)", "--target", "0"], "give one of"),
        (["--layer", "features"], "--channel"),
        (["--target", "blue"], "no class is called 'blue'"),
        (["-t", "red", "-t", "green"], "2 targets"),
        (["--percentile", "0"], "percentile"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_2(given, tmp_path, options, words, capsys) -> None:
    assert run(["saliency", *given, *options, "-o", str(tmp_path / "map.png")]) == 2
    said = capsys.readouterr().err.strip()
    assert words in said
    assert "\n" not in said
    assert not list(tmp_path.glob("map*"))


def test_ctrl_c_keeps_what_is_done_and_exits_130(given, tmp_path, monkeypatch, capsys) -> None:
    runs, whole = [], Program.__call__

    def interrupted(self, *arguments, **more):
        runs.append(1)
        if len(runs) == 4:  # the first is the class
            raise KeyboardInterrupt
        return whole(self, *arguments, **more)

    monkeypatch.setattr(Program, "__call__", interrupted)
    out = tmp_path / "map.png"
    assert run(["saliency", *given, "-m", "smoothgrad", "--batch", "1", "-o", str(out)]) == 130
    manifest = json.loads(out.with_suffix(".json").read_text())
    assert manifest["incomplete"] is True
    assert manifest["figures"]["samples_done"] == 2
    assert "incomplete" in capsys.readouterr().err


@pytest.mark.parametrize(("command", "method"), [("saliency", "smoothgrad"), ("cam", "grad-cam")])
def test_a_page_with_each_map_over_its_photo(given, tmp_path, command, method) -> None:
    model, photo, *options = given
    out = tmp_path / "sheet.html"
    folder = str(tmp_path / "photos")
    assert run([command, model, folder, *options, "--method", method, "-o", str(out)]) == 0
    text = out.read_text("utf-8")
    assert text.count('<details class="photo') == 2
    assert text.count(f'data-method="{method}"') == 2 and ">photo1<" in text
    assert "default-src 'none'" in text and "http" not in text.replace("http-equiv", "")
    manifest = json.loads((tmp_path / "sheet.json").read_text())
    assert manifest["written"][0] == "*.html"
    assert (tmp_path / "sheet.png").is_file() and (tmp_path / "sheet.npy").is_file()
    assert (
        run([command, model, photo, *options, "--method", method, "-o", str(out)]) == 0
    )  # one takes its place
    text = out.read_text("utf-8")
    assert text.count('<details class="photo') == 1
    assert f'title="{photo}"' in text  # called as its file, not as its class
