import json
import os

import numpy as np
import pytest
from PIL import Image

from onnxviz.errors import OutputRefused, UsageError
from onnxviz.results import Result


class Square(Result):
    def picture(self):
        return Image.new("RGB", (4, 3), "red")


def test_a_result_is_saved_as_picture_values_and_manifest(tmp_path):
    values = np.arange(4, dtype=np.float32)
    path = Square(values=values, manifest={"schema": "x"}).save(tmp_path / "deep" / "result.png")
    assert sorted(os.listdir(path.parent)) == ["result.json", "result.npy", "result.png"]
    np.testing.assert_array_equal(np.load(path.with_suffix(".npy")), values)
    assert json.loads(path.with_suffix(".json").read_text()) == {"schema": "x"}
    assert Image.open(path).size == (4, 3)


def test_another_suffix_is_kept_and_png_added(tmp_path):
    path = Square(values=None, manifest={}).save(tmp_path / "v1.2")
    assert path.name == "v1.2.png"
    assert sorted(os.listdir(tmp_path)) == ["v1.2.json", "v1.2.png"]


def test_a_notebook_shows_the_picture():
    assert Square(values=None, manifest={})._repr_png_().startswith(b"\x89PNG")


class Rows(Square):
    def table(self):
        return {"name": ["a", "b"], "size": [1, 2]}

    def pages(self):
        return [Image.new("RGB", (4, 3), colour) for colour in ("red", "green", "blue")]


@pytest.mark.parametrize(
    ("name", "kind"), [("s.jpg", "JPEG"), ("s.jpeg", "JPEG"), ("s.webp", "WEBP"), ("s.PNG", "PNG")]
)
def test_a_picture_is_what_its_name_says(tmp_path, name, kind):
    path = Square(values=np.zeros(2, np.float32), manifest={}).save(tmp_path / name)
    assert path == tmp_path / name
    picture = Image.open(path)
    assert picture.format == kind
    assert np.abs(np.asarray(picture.convert("RGB"), int) - (255, 0, 0)).max() <= 2
    assert sorted(os.listdir(tmp_path)) == sorted([name, "s.json", "s.npy"])


def test_a_table_is_written_where_the_result_has_rows(tmp_path):
    path = Rows(values=None, manifest={}).save(tmp_path / "t.csv")
    assert path.read_text().splitlines() == ["name,size", "a,1", "b,2"]
    assert sorted(os.listdir(tmp_path)) == ["t.csv", "t.json"]
    with pytest.raises(UsageError, match=r"'t\.csv'.*\.png, \.jpg, \.jpeg or \.webp; or name a folder"):
        Square(values=None, manifest={}).save(tmp_path / "t.csv")


@pytest.mark.parametrize("name", ["s.exe", "s.txt", "s.gif", "s.json"])
def test_another_ending_is_refused_and_nothing_written(tmp_path, name):
    with pytest.raises(UsageError, match=r"\.png"):
        Square(values=None, manifest={}).save(tmp_path / name)
    assert not os.listdir(tmp_path)


def test_a_folder_gets_the_techniques_name(tmp_path):
    result = Square(values=None, manifest={"technique": "occlusion"})
    assert result.save(f"{tmp_path}/new/") == tmp_path / "new" / "occlusion.png"
    (tmp_path / "old.png").mkdir()
    assert result.save(tmp_path / "old.png") == tmp_path / "old.png" / "occlusion.png"
    assert result.save(f"{tmp_path}/new/").is_file()


def test_pages_are_numbered_and_named_in_the_manifest(tmp_path):
    path = Rows(values=None, manifest={"schema": "x"}).save(tmp_path / "p.png")
    assert sorted(os.listdir(tmp_path)) == ["p-2.png", "p-3.png", "p.json", "p.png"]
    assert json.loads((tmp_path / "p.json").read_text())["pages"] == ["p.png", "p-2.png", "p-3.png"]
    assert Image.open(path).getpixel((0, 0)) == (255, 0, 0)
    assert Image.open(tmp_path / "p-3.png").getpixel((0, 0)) == (0, 0, 255)


def test_a_picture_too_large_for_its_format_is_refused_typed(tmp_path):
    class Strip(Square):
        def picture(self):
            return Image.new("L", (17_000, 1))

    with pytest.raises(OutputRefused, match="NAME.png"):
        Strip(values=None, manifest={}).save(tmp_path / "s.webp")
    assert not os.listdir(tmp_path)
