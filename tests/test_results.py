import json
import os

import numpy as np
from PIL import Image

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
