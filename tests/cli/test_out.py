"""What --out may name: told before the work what cannot be written, or belongs to another result."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import onnxviz
from onnxviz import claims, file_set
from tests.networks import tiny_cnn


@pytest.fixture
def things(tmp_path):
    """A model and two pictures, in the folder `given` beside what is written."""
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "tiny.onnx").write_bytes(tiny_cnn().SerializeToString())
    for i in range(2):
        picture = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def call(shell):
    def called(line: str, *more: object) -> tuple[int, str]:
        command, _, rest = line.partition(" ")
        read = "" if command in ("gradient", "expose") else "--preprocess unit"
        code, _, err = shell(f"{command} tiny.onnx {read} {rest}", *more)
        return code, err

    return called


@pytest.fixture
def no_work(monkeypatch, call):
    """Whatever would be computed from here on fails the test; features lie in the folder `out`."""
    assert call("embed given -o out/a.npy")[0] == 0

    def worked(*_, **__):
        raise AssertionError("the work was begun")

    names = "occlusion embed map patches saliency filters ascent dream fool style_train audit compare report"
    for name in names.split():
        monkeypatch.setattr(onnxviz, name, worked)


def contents(folder: str = ".") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def test_features_and_maps_do_not_overwrite_each_other(call, no_work):
    before = contents("out")
    code, said = call("occlusion 0.png -o out/a.png")
    told = "'a.json' and 'a.npy' beside it belong to a result of 'embed'; choose another --out"
    assert code == 3 and told in said
    code, said = call("map --features out/a.npy -o out/a.png")
    assert code == 3 and "'embed'" in said
    assert contents("out") == before


def test_what_is_documented_goes_on(call):
    """Features are read under their own name, and a command again writes over its own result."""
    for line in 2 * (
        "embed given -o out/a.npy",
        "map --features out/a.npy --method pca -o out/map.png",
        "occlusion 0.png --window 16 -o out/o.png",
        "saliency 0.png -o out/s.png",
        "saliency given -o out/s.png",  # a sheet of several
        "predict given -o out/p.json",
        "gradient -o out/g.onnx",
        "patches given --layer conv1 -o out/patches",
    ):
        assert call(line)[0] == 0, line
    assert call("cam 0.png -o out/o.png")[0] == 0  # the very name, given again
    assert json.loads(Path("out/o.json").read_text())["technique"] == "cam"
    assert not [name for name in os.listdir("out") if name.startswith(".")]


@pytest.mark.parametrize(
    ("line", "there", "words"),
    [
        (
            "occlusion mine/cat.npy -o mine/cat.png",
            "cat.npy",
            "",
        ),  # would be the map in the place of its input
        ("occlusion 0.png 1.png -o mine/o.png", "o-1.json", "of onnxviz"),  # each name is looked at first
        ("dream 0.png --layer conv1 --zoom 2 -o mine/cat.png", "cat.webp", ""),
        ("ascent --layer conv1 --channel all -o mine/index.png", "index.html", ""),
        ("fool 0.png -o mine/f.png", "f.fooled.png", ""),
        ("style-train 0.png given -o mine/s.onnx", "s.png", ""),
        ("patches given --layer conv1 -o mine", "overview.png", ""),
        ("patches given --layer conv1 -o mine", "patches.csv", ""),
        ("audit -o mine", "report.html", ""),
        ("audit -o mine", "findings.csv", ""),
        ("compare tiny.onnx given -o mine", "report.html", ""),
        ("compare tiny.onnx given -o mine", "compare.sarif", ""),
        ("compare tiny.onnx given -o mine", "layers.csv", ""),
        ("compare tiny.onnx given -o mine", "manifest.json", "no manifest of onnxviz"),
        ("report given -o mine", "photos.parquet", ""),
    ],
)
def test_the_users_files_beside_the_result_are_not_written_over(call, no_work, line, there, words):
    """`dream cat.webp --zoom 2 -o cat.png` put its way in in the place of the photo."""
    Path("mine").mkdir()
    Path("mine", there).touch()
    before = contents("mine")
    code, said = call(line)
    assert code == 3 and f"{there}' is there already, and no manifest" in said
    assert (words or "says that onnxviz wrote it") in said
    assert contents("mine") == before


@pytest.mark.parametrize("out", ["a.webp", "../{}/a.webp"])
def test_an_animation_and_the_result_are_two_files(call, tmp_path, no_work, out):
    code, said = call(f"ascent --target 1 --animate a.webp -o {out.format(tmp_path.name)}")
    assert code == 2 and "--animate and the result would both be 'a.webp'" in said


def test_of_several_pictures_only_the_names_that_are_written_count(call):
    Path("o.json").write_text('{"schema": "onnxviz.saliency/1"}')
    assert call("occlusion 0.png --window 16 --stride 16 -o o.png")[0] == 3
    assert call("occlusion 0.png 1.png --window 16 --stride 16 -o o.png")[0] == 0
    assert {"o-0.png", "o-1.png", "o.json"} <= contents().keys()


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps the current folder")
def test_a_current_folder_that_is_gone(call, tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    code, said = call("filters")
    assert code == 3 and "cannot write 'filters.png': No such file" in said


@pytest.mark.parametrize("name", ["x" * 255 + ".png", "x" * 250 + ".png", "file/a.png", "file/b/a.png"])
def test_a_name_that_cannot_be_is_told_before_the_work(call, no_work, name):
    Path("file").touch()
    code, said = call(f"occlusion 0.png -o {name}")
    assert code == 3 and "cannot write" in said and said.count("\n") == 1
    assert sorted(os.listdir()) == ["file", "given", "out"]


@pytest.mark.parametrize(
    "line",
    [
        "occlusion 0.png -o out/a",
        "filters -o out/a",
        "embed given -o out/a",
        "patches given --layer conv1 -o out/a",
        "gradient -o out/a.onnx",
        "expose -o out/a.onnx",
        "style-train 0.png given -o out/a.onnx",
    ],
)
def test_a_folder_that_cannot_be_written_is_told_before_the_model_is_opened(call, monkeypatch, line):
    real = os.open

    def refuses(path, flags, *more):
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *more)

    monkeypatch.setattr(claims.os, "open", refuses)
    for opens in ("onnxviz.opening.load", "onnxviz.graph.open.load.load"):
        monkeypatch.setattr(opens, lambda *_, **__: pytest.fail("the model was opened"))
    code, said = call(line)
    assert code == 3 and "Permission denied" in said


def test_pages_checkpoints_and_animations_of_an_earlier_run_go(call):
    common = "--every 2 --layer conv2 --size 32 -o out/a.png"
    assert call(f"ascent --channel all --steps 4 {common}")[0] == 0
    first = contents("out").keys()
    assert {"a.png", "a.npy", "a.json", "a.html", "a.step00002.png", "a.step00004.png"} <= first
    written = json.loads(Path("out/a.json").read_text())
    assert written["written"][0] == "*.png" and "*.html" in written["written"]
    assert written["checkpoints"][:2] == ["*.step00002.png", "*.step00004.png"]
    Path("out/a.step00003.png").write_bytes(b"the user's own")
    assert call(f"ascent --channel 1 --steps 2 {common}")[0] == 0
    assert {*contents("out")} == {"a.png", "a.npy", "a.json", "a.step00002.png", "a.step00003.png"}


def test_flushing_that_a_file_system_lacks_is_no_error(call, monkeypatch):
    def fsync(_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(file_set.os, "fsync", fsync)
    assert call("filters -o f.png")[0] == 0


@pytest.mark.parametrize("command", ["expose", "gradient", "saliency", "occlusion", "dream"])
def test_what_is_read_is_not_written_over(things, call, command):
    """The model or the picture itself as --out, by another spelling of its folder too."""
    graph = command in ("expose", "gradient")
    read = things / ("tiny.onnx" if graph else "0.png")
    content = read.read_bytes()
    Path("link").symlink_to(things, target_is_directory=True)
    for out in (read, f"link/{read.name}"):
        code, told = call(command, *([] if graph else [read]), "-o", out)
        assert code == 2 and f"is a file that {command} reads" in told
        assert read.read_bytes() == content
    assert sorted(os.listdir(things)) == ["0.png", "1.png", "tiny.onnx"]


def test_what_is_no_name_of_a_file_is_no_file_that_is_read(call):
    Path("a.png").touch()
    code, told = call("saliency 0.png -o a.png --target", "x" * 5000)
    assert code == 2 and ("label" in told or "class" in told)


@pytest.mark.parametrize("command", ["audit", "report"])
@pytest.mark.parametrize("inside", ["", "out", "deep/out"])
def test_a_folder_of_results_lies_in_none_of_pictures(things, call, command, inside):
    """Evidence and photos of a report would be pictures of the next run."""
    before = sorted(things.rglob("*"))
    code, told = call(f"{command} given -o", things / inside)
    assert code == 2 and "taken for pictures the next time" in told
    assert sorted(things.rglob("*")) == before


def test_a_folder_of_results_may_lie_beside_the_pictures(call):
    assert call("audit given --only file -o given-audit")[0] == 0
    assert call("audit 0.png --only file -o given/out")[0] == 0
