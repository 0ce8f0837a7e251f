"""The user's mistake is never exit 5: options, files and outputs that cannot be meant, on every command."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from onnxviz.cli.main import run
from tests import toys

PHOTO, LAYER = "photos/0.png", ["--layer", "features"]
QUICK = {
    "inspect": [],
    "predict": [PHOTO],
    "filters": [],
    "activations": [PHOTO, *LAYER],
    "occlusion": [PHOTO],
    "rise": [PHOTO, "--masks", "4", "--grid", "3"],
    "saliency": [PHOTO],
    "segment": [PHOTO, "-m", "saliency"],
    "cam": [PHOTO],
    "patches": ["photos", *LAYER],
    "embed": ["photos", *LAYER],
    "neighbours": ["photos", *LAYER],
    "map": ["photos", *LAYER],
    "ascent": ["-t", "0", "--steps", "1"],
    "dream": [PHOTO, *LAYER, "--steps", "1", "--octaves", "1"],
    "invert": [PHOTO, *LAYER, "--steps", "1"],
    "style": [
        PHOTO,
        PHOTO,
        *LAYER,
        "--content-layer",
        "features",
        "--steps",
        "1",
        "--scales",
        "1",
        "--size",
        "16",
    ],
    "fool": [PHOTO, "--target", "1", "--steps", "2"],
    "texture": [PHOTO, *LAYER, "--steps", "1"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("mistakes")
    (place / "toy.onnx").write_bytes(toys.detector())
    (place / "photos").mkdir()
    (place / "empty").mkdir()
    for seed in range(2):
        Image.fromarray(toys.photo(seed)).save(place / "photos" / f"{seed}.png")
    (place / "zero.png").write_bytes(b"")
    (place / "bad.json").write_text("{")
    (place / "nul.txt").write_bytes(b"a\x00b")
    np.save(place / "x.npy", np.zeros((3, 3)))
    return place


def code_of(folder, capsys, command: str, *options: str) -> tuple[int, str]:
    preprocess = [] if "--preprocess" in options else ["--preprocess", "raw"]
    out = [] if "-o" in options else ["-o", f"out-{command}/" if command != "patches" else "out-patches"]
    code = run([command, "toy.onnx", *QUICK[command], *preprocess, *out, *options])
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return code, said


@pytest.mark.parametrize(
    ("command", "options", "code"),
    [
        *(
            ("predict", options, code)
            for options, code in (
                (["--threads", "99999"], 2),  # each would be started, and it would never come to run
                (["--seed", "-1"], 2),
                (["--size", "²"], 2),
                (["--size", "9" * 5000], 2),
                (["--size", "99999999"], 2),
                (["--mean", "nan"], 2),
                (["--std", "0"], 2),
                (["--mean", "1,2"], 2),
                (["--channels", "XYZ"], 2),
                (["--resize", ""], 2),
                (["--layout", "CHWN"], 2),
                (["--preprocess", "empty"], 3),
                (["--preprocess", "bad.json"], 3),
                (["--labels", "empty"], 3),
                (["--labels", "nul.txt"], 3),
                (["--labels", "toy.onnx"], 3),
                (["--input", "nope"], 2),
                (["--feed", "x"], 2),
                (["--limit", "nodes=nan"], 2),
                (["--output", "nope"], 2),
                (["-o", "/dev/null"], 3),
                (["-o", "/proc/none/y.json"], 3),
                (["-o", "toy.onnx/x.json"], 3),
            )
        ),
        ("occlusion", ["--window", "²"], 2),
        ("occlusion", ["--window", "0"], 2),
        ("occlusion", ["--stride", "-3"], 2),
        ("occlusion", ["-t", "²"], 2),
        ("occlusion", ["-t", "9" * 400], 2),
        ("occlusion", [*LAYER, "-c", "0", "--neuron", "²,1"], 2),
        ("occlusion", [*LAYER, "-c", "0", "--neuron", "99,99"], 2),
        ("rise", ["--probability", "nan"], 2),
        ("saliency", ["-m", "smoothgrad", "--noise", "nan"], 2),
        ("saliency", ["-m", "integrated-gradients", "--baseline", "empty"], 2),
        ("saliency", ["--percentile", "nan"], 2),
        ("cam", ["--percentile", "-1"], 2),
        ("segment", ["--rounds", "0"], 2),
        ("activations", ["-l", ""], 2),
        ("filters", ["-l", "image"], 2),
        ("patches", ["-c", "-1"], 2),
        ("embed", ["-o", "x.xlsx"], 2),
        ("neighbours", ["--query", "empty"], 3),
        ("neighbours", ["--features", "x.npy"], 3),
        ("map", ["--perplexity", "nan"], 2),
        ("ascent", ["-c", "²"], 2),
        ("ascent", ["--rate", "nan"], 2),
        ("ascent", ["--start", "empty"], 3),
        ("ascent", ["--animate", "x.png"], 2),
        ("dream", ["--size", "9999999"], 2),  # 10^14 pixels
        ("dream", ["--guide", "nope.png"], 3),
        ("invert", ["--rate", "nan"], 2),
        ("invert", ["--tv-weight", "nan"], 2),
        ("style", ["--optimiser", "adam", "--rate", "nan"], 2),
        ("style", ["--start", "nope"], 3),
        ("fool", ["--bound", "nan"], 2),
        ("texture", ["--method", "quilt", "--size", "99999x99999"], 2),
    ],
)
def test_an_option_that_cannot_be_meant(command, options, code, folder, capsys, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    got, said = code_of(folder, capsys, command, *options)
    assert got == code, said
    assert said


@pytest.mark.parametrize(
    "command", ["predict", "occlusion", "saliency", "segment", "activations", "dream", "fool"]
)
@pytest.mark.parametrize("picture", ["none.png", "empty", "zero.png", "toy.onnx", "photos/0.png/x"])
def test_a_picture_that_is_none(command, picture, folder, capsys, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    arguments = [picture if one == PHOTO else one for one in QUICK[command]]
    assert run([command, "toy.onnx", *arguments, "--preprocess", "raw", "-o", "made/"]) == 3
    assert len(capsys.readouterr().err.strip().splitlines()) >= 1


@pytest.mark.parametrize(
    "model", ["none", "none.onnx", "empty", "zero.png", "photos/0.png", "", "a\0b", "/dev/null"]
)
def test_a_model_that_is_none(model, folder, capsys, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    assert run(["inspect", model]) in (2, 3)
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
