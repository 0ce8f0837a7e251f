"""Maximally activating patches as pictures and files: boxes, tiles, tables, the command."""

from __future__ import annotations

import csv
import json

import numpy as np
import onnx
import pytest
from PIL import Image

import onnxviz
from onnxviz.cli.main import run as command_line
from onnxviz.errors import MissingDependency
from onnxviz.features.patch_boxes import to_source
from onnxviz.features.patch_pictures import crop
from onnxviz.features.patches import patches
from onnxviz.image.preprocessing import Preprocessing
from tests.features.patch_toys import load, network, photos
from tests.stopped import stopped

# --- where a patch lies in the original -------------------------------------------------------


@pytest.mark.parametrize("resize", ["crop", "squash", "pad"])
@pytest.mark.parametrize("size", [(90, 160), (160, 90), (64, 64), (31, 40)])
def test_boxes_in_the_original_are_where_the_view_took_its_pixels(resize, size):
    """A picture whose colours tell their place, seen by the network, and its boxes looked up again."""
    recipe = Preprocessing(size=(64, 64), resize=resize, crop_fraction=0.875)
    picture = np.zeros((*size, 3), np.uint8)
    picture[..., 0] = np.linspace(0, 255, size[0])[:, None].round()
    picture[..., 1] = np.linspace(0, 255, size[1]).round()
    seen = recipe.view(picture).astype(float)
    for box in ((20, 22, 36, 40), (30, 16, 44, 24)):
        top, left, bottom, right = to_source(recipe, box, *size)
        middle = seen[box[0] : box[2], box[1] : box[3]].mean(axis=(0, 1))
        rows = np.arange(size[0]) + 0.5
        columns = slice(int(left), max(int(left) + 1, int(np.ceil(right))))
        inside = picture[(rows > top) & (rows < bottom), columns]
        np.testing.assert_allclose(inside[..., :2].mean(axis=(0, 1)), middle[:2], atol=8)


def test_the_whole_view_of_a_wide_photo_is_its_middle():
    recipe = Preprocessing(size=(224, 224), crop_fraction=0.875)
    top, left, bottom, right = recipe.window(300, 451)
    assert (top, bottom) == pytest.approx((18.75, 281.25))
    assert right - left == pytest.approx(262.5, abs=1)
    assert Preprocessing().seen(30, 40) == (30, 40)


def test_a_box_over_the_border_is_cut_to_what_is_visible():
    plain = Preprocessing(size=(50, 50))
    assert to_source(plain, (-10, -10, 20, 60), 50, 50).tolist() == [0, 0, 20, 50]
    bars = Preprocessing(size=(50, 50), resize="pad")
    assert to_source(bars, (0, 0, 50, 50), 50, 100).tolist() == pytest.approx([0, 0, 50, 100])
    assert to_source(bars, (0, 0, 5, 5), 50, 100).tolist() == pytest.approx([0, 0, 0, 10])


# A box of a view of 40×40, the size of its tile, and which part of that is picture; the rest is grey.
TILES = {
    "inside": ((10, 10, 20, 20), (60, 60), np.s_[:]),
    "corner": ((-5, -5, 5, 5), (60, 60), np.s_[30:, 30:]),
    "as tall as the view, narrow": ((-30, 5, 50, 15), (60, 15), np.s_[:]),
    "larger than the view: the view itself": ((-30, -30, 20, 90), (60, 60), np.s_[:30]),
    "outside": ((-9, -9, 0, 0), (60, 60), np.s_[:0]),
}


@pytest.mark.parametrize("name", TILES)
def test_tiles_have_one_scale_and_grey_where_there_is_no_picture(name):
    box, size, shown = TILES[name]
    wanted = np.full((*size, 3), 128, np.uint8)
    wanted[shown] = 200
    made = crop(np.full((80, 80, 3), 200, np.uint8), Preprocessing(size=(40, 40)), box, 60)
    np.testing.assert_array_equal(made, wanted)


def test_tiles_are_cut_from_the_originals_own_pixels():
    """Detail that the network's small view has lost is there."""
    recipe = Preprocessing(size=(16, 16))
    picture = np.zeros((256, 256, 3), np.uint8)
    picture[:, ::2] = 255
    assert np.ptp(recipe.view(picture)) < 40
    assert np.ptp(crop(picture, recipe, (4, 4, 8, 8), 64)) > 200


# --- files ------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    for i, photo in enumerate(photos(8, 40)):
        Image.fromarray(photo).save(images / f"photo{i}.png")
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return images


def test_save_writes_the_folder(folder, tmp_path):
    result = patches(load(), folder, ["maps", "end"], top=3)
    out = result.save(tmp_path / "out")
    assert out == tmp_path / "out"
    written = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    sheets = {f"{layer}/channel-{i:04d}.png" for layer in ("maps", "end") for i in range(4)}
    others = {"patches.csv", "patches.json", "patches.npy", "overview.png", "manifest.json"}
    assert written == sheets | others
    manifest = json.loads((out / "manifest.json").read_text())
    assert set(manifest["files"]) == written - {"manifest.json"}
    assert manifest["schema"] == "onnxviz.patches/1"
    assert {"images": 9, "ranked": 8, "skipped": 1}.items() <= manifest["figures"].items()
    assert manifest["skipped"][0]["path"].endswith("broken.png")
    assert manifest["changed"] == []
    assert "incomplete" not in manifest
    np.testing.assert_array_equal(np.load(out / "patches.npy"), result.values)
    with (out / "patches.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 4 * 3
    assert list(rows[0])[:7] == ["layer", "channel", "rank", "score", "unclipped", "file", "image"]
    first = result["maps"]
    assert float(rows[0]["score"]) == pytest.approx(first.scores[0, 0])
    assert rows[0]["file"] == result.name_of(first.index[0, 0])
    assert [int(rows[0][edge]) for edge in ("top", "left", "bottom", "right")] == first.boxes[0, 0].tolist()
    assert json.loads((out / "patches.json").read_text())["rows"][0]["file"] == rows[0]["file"]
    again = patches(load(), folder, ["maps", "end"], top=3).save(tmp_path / "again")
    for name in written:
        assert (out / name).read_bytes() == (again / name).read_bytes(), name


def test_a_file_replaced_after_ranking_is_told(folder, tmp_path):
    result = patches(load(), folder, "maps", top=8)
    Image.fromarray(photos(1, 40)[0][::-1]).save(folder / "photo3.png")
    (folder / "photo5.png").unlink()
    result.save(tmp_path / "out")
    changed = {entry["path"][-10:]: entry["reason"] for entry in result.manifest["changed"]}
    assert "replaced" in changed["photo3.png"]
    assert "no such file" in changed["photo5.png"]
    assert len(changed) == 2


def test_layer_and_file_names_from_strangers(tmp_path):
    model = onnx.load_from_string(network())
    evil = "../../../tmp/\x1b[31mevil\u202e</script>"
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [evil if name == "maps" else name for name in names]
    del model.graph.value_info[:]
    image = tmp_path / "=cmd('x').png"
    Image.fromarray(photos(1)[0]).save(image)
    net = onnxviz.load(model, preprocess="raw", provider="cpu")
    result = patches(net, [image], evil, top=1)
    out = result.save(tmp_path / "deep" / "out")
    assert {path.parent.parent for path in out.rglob("channel-*.png")} == {out}
    text = (out / "patches.csv").read_text()
    assert "\x1b" not in text
    assert "\u202e" not in text
    result.sources = ["=cmd('x').png"]
    assert result.table()["file"][0].startswith("=")


def test_parquet(folder, tmp_path, monkeypatch):
    import sys

    import pyarrow.parquet

    result = patches(load(), folder, "maps", top=2)
    out = result.save(tmp_path / "out", table="parquet")
    table = pyarrow.parquet.read_table(out / "patches.parquet")
    assert table.num_rows == 8
    assert not (out / "patches.csv").exists()
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependency):
        result.save(tmp_path / "other", table="parquet")
    assert not (tmp_path / "other").exists()


@pytest.fixture
def command(folder, tmp_path, capsys):
    """Runs `patches` over the folder: the exit code, and what was said."""
    model = tmp_path / "toy.onnx"
    model.write_bytes(network())
    line = ["patches", str(model), str(folder), "--layer", "maps", "-o", str(tmp_path / "out")]

    def run(*more: str):
        return command_line([*line, "--preprocess", "raw", *more]), capsys.readouterr()

    return run


def test_command(command, tmp_path):
    chosen = ["-l", "end", "--top", "2", "--channel", "1", "-c", "3"]
    code, said = command(*chosen, "--json")
    told = json.loads(said.out)
    assert (code, told["schema"]) == (0, "onnxviz.patches/1")
    assert told["manifest"]["parameters"]["channels"] == [1, 3]
    assert "broken.png" in said.err
    assert len(list((tmp_path / "out").glob("*/channel-*.png"))) == 4
    code, said = command(*chosen, "--quiet")
    assert (code, said.err) == (0, "")
    assert said.out.startswith(str(tmp_path / "out"))
    assert "8 of 9 images" in said.out
    code, said = command("--table", "xlsx")
    assert code == 2
    assert "csv or parquet" in said.err


def test_command_interrupted(command, tmp_path, monkeypatch):
    def stop(self, done, total, what):
        if what == "images":
            raise KeyboardInterrupt

    monkeypatch.setattr("onnxviz.cli.run.Run.progress", stop)
    code, said = command("--batch", "2")
    assert code == 130
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["incomplete"] is True
    assert "interrupted" in said.err


def test_interrupted_keeps_what_was_found(tmp_path):
    net = load()
    partial = stopped(patches, net, photos(12), "maps", top=2, batch=2, when=lambda done, *_: done >= 4)
    assert partial.manifest["figures"]["ranked"] == 4
    np.testing.assert_array_equal(partial.index, patches(net, photos(12)[:4], "maps", top=2).index)
    out = partial.save(tmp_path / "out")
    assert json.loads((out / "manifest.json").read_text())["incomplete"] is True
