"""What --out may name: told before the work what cannot be written, or belongs to another result."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from PIL import Image

import onnxviz
from onnxviz import claims, file_set
from onnxviz.cli.main import run
from tests.networks import tiny_cnn


@pytest.fixture
def given(tmp_path):
    """(the model, two pictures): files beside the folder that is written to."""
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "tiny.onnx").write_bytes(tiny_cnn().SerializeToString())
    for i in range(2):
        picture = np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(picture).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def call(given, capsys):
    def called(command: str, *arguments) -> tuple[int, str]:
        read = [] if command in ("gradient", "expose") else ["--preprocess", "unit"]
        words = [command, str(given / "tiny.onnx"), *map(str, arguments), *read]
        code = run(words)
        return code, capsys.readouterr().err

    return called


@pytest.fixture
def no_work(monkeypatch, call, given, tmp_path):
    """Whatever would be computed from here on fails the test; features lie in the folder `out`."""
    assert call("embed", given, "-o", tmp_path / "out" / "a.npy")[0] == 0

    def worked(*_, **__):
        raise AssertionError("the work was begun")

    names = ("occlusion", "embed", "map", "patches", "saliency", "filters")
    for name in (*names, "ascent", "dream", "fool", "style_train"):
        monkeypatch.setattr(onnxviz, name, worked)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_features_and_maps_do_not_overwrite_each_other(given, call, tmp_path, no_work):
    out = tmp_path / "out"
    before = contents(out)
    code, said = call("occlusion", given / "0.png", "-o", out / "a.png")
    assert (
        code == 3
        and "'a.json' and 'a.npy' beside it belong to a result of 'embed'; choose another --out" in said
    )
    code, said = call("map", "--features", out / "a.npy", "-o", out / "a.png")
    assert code == 3 and "'embed'" in said
    assert contents(out) == before


def test_what_is_documented_goes_on(given, call, tmp_path):
    """Features are read under their own name, and a command again writes over its own result."""
    out = tmp_path / "out"
    for _ in range(2):
        assert call("embed", given, "-o", out / "a.npy")[0] == 0
        assert call("map", "--features", out / "a.npy", "--method", "pca", "-o", out / "map.png")[0] == 0
        assert call("occlusion", given / "0.png", "--window", "16", "-o", out / "o.png")[0] == 0
        assert call("saliency", given / "0.png", "-o", out / "s.png")[0] == 0
        assert call("saliency", given, "-o", out / "s.png")[0] == 0  # a sheet of several
        assert call("predict", given, "-o", out / "p.json")[0] == 0
        assert call("gradient", "-o", out / "g.onnx")[0] == 0
        assert call("patches", given, "--layer", "conv1", "-o", out / "patches")[0] == 0
    assert call("cam", given / "0.png", "-o", out / "o.png")[0] == 0  # the very name, given again
    assert json.loads((out / "o.json").read_text())["technique"] == "cam"
    assert not [name for name in os.listdir(out) if name.startswith(".")]


def test_the_pictures_own_array_is_not_written_over(given, call, tmp_path, no_work):
    """`occlusion MODEL cat.npy -o cat.png` would put the map in the place of its input."""
    np.save(tmp_path / "cat.npy", np.zeros((32, 32, 3), np.uint8))
    before = contents(tmp_path)
    code, said = call("occlusion", tmp_path / "cat.npy", "-o", tmp_path / "cat.png")
    assert code == 3 and "cat.npy' is there already, and no manifest says that onnxviz wrote it" in said
    assert contents(tmp_path) == before


def test_of_several_pictures_each_name_is_looked_at_first(given, call, tmp_path, no_work):
    (tmp_path / "o-1.json").write_text("{}")
    code, said = call("occlusion", given / "0.png", given / "1.png", "-o", tmp_path / "o.png")
    assert code == 3 and "o-1.json' is there already, and no manifest of onnxviz" in said


@pytest.mark.parametrize(
    ("command", "options", "out", "there"),
    [
        ("dream", ["0.png", "--layer", "conv1", "--zoom", "2"], "cat.png", "cat.webp"),
        ("ascent", ["--layer", "conv1", "--channel", "all"], "index.png", "index.html"),
        ("fool", ["0.png"], "f.png", "f.fooled.png"),
        ("style-train", ["0.png", "."], "s.onnx", "s.png"),
        ("patches", [".", "--layer", "conv1"], "", "overview.png"),
        ("patches", [".", "--layer", "conv1"], "", "patches.csv"),
    ],
)
def test_the_users_files_beside_the_result_are_not_written_over(
    given, call, tmp_path, no_work, command, options, out, there
):
    """`dream cat.webp --zoom 2 -o cat.png` put its way in in the place of the photo."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / there).write_bytes(b"mine")
    words = [str(given / word) if word == "." or word.endswith(".png") else word for word in options]
    code, said = call(command, *words, "-o", mine / out)
    assert code == 3 and f"{there}' is there already, and no manifest says that onnxviz wrote it" in said
    assert contents(mine) == {there: b"mine"}


@pytest.mark.parametrize("out", ["a.webp", "../{}/a.webp"])
def test_an_animation_and_the_result_are_two_files(given, call, tmp_path, monkeypatch, no_work, out):
    monkeypatch.chdir(tmp_path)
    code, said = call("ascent", "--target", "1", "--animate", "a.webp", "-o", out.format(tmp_path.name))
    assert code == 2 and "--animate and the result would both be 'a.webp'" in said


def test_of_several_pictures_only_the_names_that_are_written_count(given, call, tmp_path):
    (tmp_path / "o.json").write_text('{"schema": "onnxviz.saliency/1"}')
    options = ["--window", "16", "--stride", "16", "-o", tmp_path / "o.png"]
    assert call("occlusion", given / "0.png", *options)[0] == 3
    assert call("occlusion", given / "0.png", given / "1.png", *options)[0] == 0
    assert {"o-0.png", "o-1.png", "o.json"} <= contents(tmp_path).keys()


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps the current folder")
def test_a_current_folder_that_is_gone(given, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gone = tmp_path / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    code, said = call("filters")
    assert code == 3 and "cannot write 'filters.png': No such file" in said


@pytest.mark.parametrize("name", ["x" * 255 + ".png", "x" * 250 + ".png", "file/a.png", "file/b/a.png"])
def test_a_name_that_cannot_be_is_told_before_the_work(given, call, tmp_path, no_work, name):
    (tmp_path / "file").write_bytes(b"")
    code, said = call("occlusion", given / "0.png", "-o", tmp_path / name)
    assert code == 3 and "cannot write" in said and said.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == ["file", "given", "out"]


@pytest.mark.parametrize(
    "command", ["occlusion", "filters", "embed", "patches", "gradient", "expose", "style-train"]
)
def test_a_folder_that_cannot_be_written_is_told_before_the_model_is_opened(
    call, given, tmp_path, monkeypatch, command
):
    real = os.open

    def refuses(path, flags, *more):
        if flags & os.O_CREAT:
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *more)

    monkeypatch.setattr(claims.os, "open", refuses)
    monkeypatch.setattr("onnxviz.opening.load", lambda *_, **__: pytest.fail("the model was opened"))
    monkeypatch.setattr("onnxviz.graph.open.load.load", lambda *_, **__: pytest.fail("the model was opened"))
    options = {"occlusion": [given / "0.png"], "embed": [given], "patches": [given, "--layer", "conv1"]}
    options["style-train"] = [given / "0.png", given]
    out = tmp_path / "out" / ("a.onnx" if command in ("gradient", "expose", "style-train") else "a")
    code, said = call(command, *options.get(command, []), "-o", out)
    assert code == 3 and "Permission denied" in said


def test_pages_checkpoints_and_animations_of_an_earlier_run_go(call, tmp_path):
    common = ("--layer", "conv2", "--size", "32", "-o", tmp_path / "a.png")
    assert call("ascent", "--channel", "all", "--steps", "4", "--every", "2", *common)[0] == 0
    first = set(contents(tmp_path))
    assert {"a.png", "a.npy", "a.json", "a.html", "a.step00002.png", "a.step00004.png"} <= first
    written = json.loads((tmp_path / "a.json").read_text())
    assert written["written"][0] == "*.png" and "*.html" in written["written"]
    assert written["checkpoints"][:2] == ["*.step00002.png", "*.step00004.png"]
    (tmp_path / "a.step00003.png").write_bytes(b"the user's own")
    assert call("ascent", "--channel", "1", "--steps", "2", "--every", "2", *common)[0] == 0
    assert set(contents(tmp_path)) == {"a.png", "a.npy", "a.json", "a.step00002.png", "a.step00003.png"}


def test_flushing_that_a_file_system_lacks_is_no_error(call, tmp_path, monkeypatch):
    def fsync(_):
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(file_set.os, "fsync", fsync)
    assert call("filters", "-o", tmp_path / "f.png")[0] == 0


@pytest.mark.parametrize("command", ["expose", "gradient", "saliency", "occlusion", "dream"])
def test_what_is_read_is_not_written_over(given, call, tmp_path, command):
    """The model or the picture itself as --out, by another spelling of its folder too."""
    graph = command in ("expose", "gradient")
    read = given / ("tiny.onnx" if graph else "0.png")
    content = read.read_bytes()
    link = tmp_path / "link"
    link.symlink_to(given, target_is_directory=True)
    for out in (read, link / read.name):
        code, told = call(command, *([] if graph else [read]), "-o", out)
        assert code == 2
        assert f"is a file that {command} reads" in told
        assert read.read_bytes() == content
    assert sorted(path.name for path in given.iterdir()) == ["0.png", "1.png", "tiny.onnx"]


def test_what_is_no_name_of_a_file_is_no_file_that_is_read(call, given, tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    code, told = call("saliency", given / "0.png", "--target", "x" * 5000, "-o", tmp_path / "a.png")
    assert code == 2
    assert "label" in told or "class" in told


@pytest.mark.parametrize("command", ["audit", "report"])
@pytest.mark.parametrize("inside", ["", "out", "deep/out"])
def test_a_folder_of_results_lies_in_none_of_pictures(call, given, tmp_path, command, inside):
    """Evidence and photos of a report would be pictures of the next run."""
    before = sorted(given.rglob("*"))
    code, told = call(command, given, "-o", given / inside)
    assert code == 2
    assert "taken for pictures the next time" in told
    assert sorted(given.rglob("*")) == before


def test_a_folder_of_results_may_lie_beside_the_pictures(call, given, tmp_path):
    code, _ = call("audit", given, "--only", "file", "-o", tmp_path / "given-audit")
    assert code == 0
    code, _ = call("audit", given / "0.png", "--only", "file", "-o", given / "out")
    assert code == 0
