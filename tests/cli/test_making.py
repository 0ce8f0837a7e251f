"""Pictures that are made step by step: ascent, dream, invert, style, texture; checkpoints, animations, early ends."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from onnxviz.errors import LimitExceeded, WorkerCrashed
from onnxviz.synthesis.machine import Machine
from tests.networks import light
from tests.synthesis.painted import picture

LITE0 = "efficientnet-lite0"


@pytest.fixture(scope="module", params=[LITE0, "vgg19", "inception_v1"])
def model(request, tmp_path_factory) -> str:
    """A network, as it stands in a line."""
    if request.param == LITE0:
        return LITE0
    path = tmp_path_factory.mktemp("models") / f"{request.param}.onnx"
    onnx.save(light(request.param, width=16), path)
    return f"{path} --preprocess imagenet"


@pytest.fixture
def painted(shell):
    """The shell where two pictures lie."""
    for seed in (1, 2):
        Image.fromarray(picture(80, 96, seed=seed)).save(f"{seed}.png")
    return shell


def test_on_every_network(model, painted) -> None:
    layers = {LITE0: "-l stem -l blocks.4.add", "vgg19": "-l r3 -l r17"}
    two = next((both for name, both in layers.items() if name in model), "-l r1 -l r37")
    for line, shape in (
        (f"dream {model} 1.png --octaves 2 --steps 1", (80, 96, 3)),
        (f"style {model} 1.png 2.png --steps 3 --size 64", (53, 64, 3)),
        (f"texture {model} 2.png --method gram --steps 3 --size 72x64", (64, 72, 3)),
        (f"invert {model} 1.png {two} --size 64 --steps 3", (2, 64, 64, 3)),
    ):
        command = line.split()[0]
        said = painted(f"{line} --quiet --provider cpu -o {command}.png")
        assert said.code == 0, said.err
        values = painted.values(command)
        assert values.shape == shape and np.isfinite(values).all()
        assert painted.manifest(command)["schema"] == f"onnxviz.{command}/1"
        assert Image.open(f"{command}.png").mode == "RGB"


def test_a_zoom_an_animation_and_checkpoints(painted) -> None:
    line = f"dream {LITE0} 1.png --octaves 1 --steps 2 --zoom 2 --animate d.gif --every 3 --provider cpu -o d.png"
    assert painted(line).code == 0
    assert Image.open("d.webp").n_frames == 4 and Image.open("d.gif").n_frames >= 2
    assert "d.step00003.png" in os.listdir()


def test_the_same_seed_gives_the_same_bytes(painted) -> None:
    for name in ("one", "two"):  # the manifest holds the command, so the file has one name in two folders
        line = f"dream {LITE0} 1.png --octaves 2 --steps 2 --seed 5 --provider cpu -o {name}/d.png"
        assert painted(line).code == 0
    for suffix in (".png", ".npy", ".json"):
        one, two = (Path(name, f"d{suffix}").read_bytes() for name in ("one", "two"))
        assert one.replace(b"one/d", b"two/d") == two


def test_ascent_of_a_class_and_of_an_objective(shell) -> None:
    value = shell("ascent TINY -t 'thing 3' --steps 9 --rate 0.1 --json -o picture.png").json
    parameters, recipe = value["manifest"]["parameters"], value["manifest"]["parameters"]["recipe"]
    assert value["schema"] == "onnxviz.ascent/1"
    assert (parameters["target"], parameters["preset"]) == ([3], "lucid")
    assert (recipe["steps"], recipe["rate"]) == (9, 0.1)
    assert value["manifest"]["figures"]["pictures"][0]["label"] == "thing 3"
    assert shell.values("picture").shape == (1, 43, 43, 3)
    assert Image.open("picture.png").mode == "RGB"
    assert shell("ascent TINY --objective 'logit(3) - 0.5*logit(4)' --steps 2 -q -o own.png").code == 0
    assert shell.manifest("own")["parameters"]["objective"] == "logit(3) - 0.5*logit(4)"


def test_ascent_of_channels_with_checkpoints_and_animations(shell) -> None:
    line = "ascent TINY --layer conv2 -c 3 -c 5 --steps 6 --every 2 --animate film.gif -q -o sheet.png"
    assert shell(line).code == 0
    kept = sorted(path.name for path in Path().glob("sheet.step*.png"))
    assert kept == ["sheet.step00002.png", "sheet.step00004.png", "sheet.step00006.png"]
    film = Image.open("film.gif")
    assert (film.n_frames, film.size) == (4, (86, 43))  # steps 0, 2, 4 and the last
    assert shell("ascent TINY -t 1 --steps 3 --animate film.webp -o sheet.png").code == 0
    assert Image.open("film.webp").n_frames == 3
    said = shell("ascent TINY --layer conv1 --channel all --steps 1 --neuron middle -o all.png")
    assert said.out.split() == ["all.png", "all.html"]
    assert Path("all.html").read_text(encoding="utf-8").count("<figure") == 8


def test_ctrl_c_keeps_the_picture(shell, interrupt) -> None:
    interrupt(4, "run_bound")
    said = shell("ascent TINY -t 3 --animate part.gif -o part.png")
    assert said.code == 130 and "interrupted" in said.err
    assert shell.manifest("part")["incomplete"] is True
    assert Image.open("part.gif").n_frames == 1


@pytest.mark.parametrize(
    ("ended", "code", "told"),
    [(None, 3, "at step 3"), (LimitExceeded("too long"), 4, "too long"), (WorkerCrashed("gone"), 4, "gone")],
)
def test_what_ends_it_early_leaves_the_last_good_picture(shell, monkeypatch, ended, code, told) -> None:
    """Numbers that run away, a limit, a process that died."""
    real = Machine._check

    def check(self, arrays, index):
        if index == 3 and ended is not None:
            raise ended
        return real(self, {**arrays, "value": arrays["value"] * (np.nan if index == 3 else 1)}, index)

    monkeypatch.setattr(Machine, "_check", check)
    said = shell("ascent TINY -t 3 -o part.png")
    assert said.code == code and told in said.err
    assert shell.manifest("part")["incomplete"] is True
