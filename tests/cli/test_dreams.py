"""dream, invert, style and texture from the command line: the bundled network, VGG-19 and GoogLeNet, every file."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxviz.cli.main import run
from onnxviz.cli.options import weights
from onnxviz.errors import UsageError
from tests.networks import light
from tests.synthesis.painted import picture


@pytest.fixture(scope="module", params=["efficientnet-lite0", "vgg19", "inception_v1"])
def model(request, tmp_path_factory) -> str:
    if request.param == "efficientnet-lite0":
        return request.param
    path = tmp_path_factory.mktemp("models") / f"{request.param}.onnx"
    onnx.save(light(request.param, width=16), path)
    return str(path)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pictures")
    for seed in (1, 2):
        Image.fromarray(picture(80, 96, seed=seed)).save(folder / f"{seed}.png")
    return str(folder / "1.png"), str(folder / "2.png")


def call(*arguments: str) -> int:
    return run([*arguments, "--quiet", "--provider", "cpu"])


def made(path, command: str, shape: tuple[int, ...]) -> None:
    values = np.load(path.with_suffix(".npy"))
    assert values.shape == shape
    assert np.isfinite(values).all()
    manifest = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert manifest["schema"] == f"onnxviz.{command}/1"
    with Image.open(path) as found:
        assert found.mode == "RGB"


def test_on_every_network(model, files, tmp_path):
    photo, paint = files
    known = ["--preprocess", "imagenet"] if model.endswith(".onnx") else []
    dreamed, painted, textured = (tmp_path / f"{name}.png" for name in ("dream", "style", "texture"))
    dream = ["dream", model, photo, "--octaves", "2", "--steps", "1", "-o", str(dreamed), *known]
    assert call(*dream) == 0
    made(dreamed, "dream", (80, 96, 3))
    assert call("style", model, photo, paint, "--steps", "3", "--size", "64", "-o", str(painted), *known) == 0
    made(painted, "style", (53, 64, 3))
    texture = ["texture", model, paint, "--method", "gram", "--steps", "3", "--size", "72x64"]
    assert call(*texture, "-o", str(textured), *known) == 0
    made(textured, "texture", (64, 72, 3))


def test_a_row_of_inversions_on_every_network(model, files, tmp_path):
    layers = {"efficientnet-lite0": ("stem", "blocks.4.add"), "vgg19": ("r3", "r17")}
    first, second = next((v for k, v in layers.items() if k in model), ("r1", "r37"))
    known = ["--preprocess", "imagenet"] if model.endswith(".onnx") else []
    out = tmp_path / "inverted.png"
    command = ["invert", model, files[0], "-l", first, "-l", second, "--size", "64", "--steps", "3"]
    assert call(*command, "-o", str(out), *known) == 0
    made(out, "invert", (2, 64, 64, 3))


def test_a_zoom_an_animation_and_checkpoints(files, tmp_path):
    out, film = tmp_path / "d.png", tmp_path / "d.gif"
    command = ["dream", "efficientnet-lite0", files[0], "--octaves", "1", "--steps", "2", "--zoom", "2"]
    assert call(*command, "-o", str(out), "--animate", str(film), "--every", "3") == 0
    with Image.open(tmp_path / "d.webp") as zoom:
        assert zoom.n_frames == 4
    with Image.open(film) as animation:
        assert animation.n_frames >= 2
    assert (tmp_path / "d.step00003.png").exists()


def test_the_same_seed_gives_the_same_bytes(files, tmp_path):
    for name in ("one", "two"):  # the manifest holds the command, so the file has one name in two folders
        (tmp_path / name).mkdir()
        command = ["dream", "efficientnet-lite0", files[0], "--octaves", "2", "--steps", "2", "--seed", "5"]
        assert call(*command, "-o", str(tmp_path / name / "d.png")) == 0
    for suffix in (".png", ".npy", ".json"):
        one, two = ((tmp_path / name / f"d{suffix}").read_bytes() for name in ("one", "two"))
        assert one.replace(b"/one/", b"/two/") == two


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["dream", "{m}", "{a}", "--layer", "blocks.7.ad"], 2, "blocks.7.add"),
        (["dream", "{m}", "{a}", "--layer", "stem=x"], 2, "LAYER=WEIGHT"),
        (["dream", "{m}", "{a}", "--size", "wide"], 2, "--size"),
        (["dream", "{m}", "{a}", "--size", "20"], 3, "too small"),
        (["invert", "{m}", "{a}", "--layer", "blocks.99"], 2, "no layer"),
        (["style", "{m}", "{a}", "{b}", "--weight", "1", "--weight", "2"], 2, "style weights"),
        (["style", "{m}", "{a}", "missing.png"], 3, "no such file"),
    ],
)
def test_one_line_says_what_is_wrong(arguments, code, message, files, tmp_path, capsys):
    places = {"m": "efficientnet-lite0", "a": files[0], "b": files[1]}
    given = [argument.format(**places) for argument in arguments]
    assert run([*given, "-o", str(tmp_path / "x.png")]) == code
    error = capsys.readouterr().err
    assert message in error
    assert not list(tmp_path.glob("*.png"))


def test_layers_with_weights():
    assert weights(["a", "b=0.5", "x=y=2"], "--layer") == {"a": 1.0, "b": 0.5, "x=y": 2.0}
    with pytest.raises(UsageError, match="LAYER=WEIGHT"):
        weights(["a=b"], "--layer")
