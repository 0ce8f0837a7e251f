import importlib
import json
import os
import pkgutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from onnxviz.errors import MissingDependency, OutputRefused, UsageError
from onnxviz.meaning import Prediction
from onnxviz.results import Result, Results


class Square(Result):
    def picture(self):
        return Image.new("RGB", (4, 3), "red")


def square(kind=Square, **manifest):
    return kind(values=None, manifest=manifest)


def test_a_result_is_saved_as_picture_values_and_manifest(tmp_path):
    values = np.arange(4, dtype=np.float32)
    path = Square(values=values, manifest={"schema": "x"}).save(tmp_path / "deep" / "result.png")
    assert sorted(os.listdir(path.parent)) == ["result.json", "result.npy", "result.png"]
    np.testing.assert_array_equal(np.load(path.with_suffix(".npy")), values)
    assert json.loads(path.with_suffix(".json").read_text()) == {"schema": "x"}
    assert Image.open(path).size == (4, 3)
    assert square()._repr_png_().startswith(b"\x89PNG")


class Rows(Square):
    def table(self):
        return {"name": ["a", "b"], "size": [1, 2]}

    def pages(self):
        return [Image.new("RGB", (4, 3), colour) for colour in ("red", "green", "blue")]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("s.jpg", "JPEG"), ("s.jpeg", "JPEG"), ("s.webp", "WEBP"), ("s.PNG", "PNG"), ("v1.2", "PNG")],
)
def test_a_picture_is_what_its_name_says(tmp_path, name, kind):
    path = square().save(tmp_path / name)
    assert path == tmp_path / {"v1.2": "v1.2.png"}.get(name, name)  # another suffix is kept
    picture = Image.open(path)
    assert picture.format == kind
    assert np.abs(np.asarray(picture.convert("RGB"), int) - (255, 0, 0)).max() <= 2
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, f"{path.stem}.json"])


def test_a_table_is_written_where_the_result_has_rows(tmp_path):
    path = square(Rows).save(tmp_path / "t.csv")
    assert path.read_text().splitlines() == ["name,size", "a,1", "b,2"]
    assert sorted(os.listdir(tmp_path)) == ["t.csv", "t.json"]


@pytest.mark.parametrize("name", ["s.exe", "s.txt", "s.gif", "s.json", "s.csv"])
def test_another_ending_is_refused_and_nothing_written(tmp_path, name):
    with pytest.raises(UsageError, match=rf"'{name}'.*\.png, \.jpg, \.jpeg or \.webp; or name a folder"):
        square().save(tmp_path / name)
    assert not os.listdir(tmp_path)


def test_a_folder_gets_the_techniques_name(tmp_path):
    result = square(technique="occlusion")
    assert result.save(f"{tmp_path}/new/") == tmp_path / "new" / "occlusion.png"
    (tmp_path / "old.png").mkdir()
    assert result.save(tmp_path / "old.png") == tmp_path / "old.png" / "occlusion.png"
    assert result.save(f"{tmp_path}/new/").is_file()


def test_pages_are_numbered_and_named_in_the_manifest(tmp_path):
    path = square(Rows, schema="x").save(tmp_path / "p.png")
    assert sorted(os.listdir(tmp_path)) == ["p-2.png", "p-3.png", "p.json", "p.png"]
    assert json.loads((tmp_path / "p.json").read_text())["pages"] == ["p.png", "p-2.png", "p-3.png"]
    assert Image.open(path).getpixel((0, 0)) == (255, 0, 0)
    assert Image.open(tmp_path / "p-3.png").getpixel((0, 0)) == (0, 0, 255)


def test_a_picture_too_large_for_its_format_is_refused_typed(tmp_path):
    class Strip(Square):
        def picture(self):
            return Image.new("L", (17_000, 1))

    with pytest.raises(OutputRefused, match="NAME.png"):
        square(Strip).save(tmp_path / "s.webp")
    assert not os.listdir(tmp_path)


def _kinds(base: type = Result) -> set[type]:
    return {base}.union(*map(_kinds, base.__subclasses__()))


def test_every_kind_of_result_is_told_the_same_way():
    # Techniques alone: audits and comparisons are reports, whose `to_dict` is report.json.
    rooms = ("attribution", "features", "synthesis")
    for room in rooms:
        package = importlib.import_module(f"onnxviz.{room}")
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"onnxviz.{room}.{module.name}")
    kinds = {
        kind for kind in _kinds() if kind.__module__.startswith(tuple(f"onnxviz.{room}." for room in rooms))
    }
    assert len(kinds) > 15
    for kind in kinds:
        assert kind.__repr__ is Result.__repr__, kind
        for method in ("to_dict", "plot", "__array__", "_repr_png_"):
            assert getattr(kind, method) is getattr(Result, method), (kind, method)


@dataclass
class Odd(Square):
    name: str
    numbers: list[float]
    files: list[Any] = field(repr=False)
    other: Any = None
    share: float = 0.5


def odd() -> Odd:
    values = np.array([[np.nan, 1], [np.inf, -2]], np.float32)
    many = [Path(f"{number}.png") for number in range(1000)]
    return Odd(
        values, {"incomplete": True, "x": float("nan")}, "a\x1b[2J" * 100, [np.inf, 1.5], many, object()
    )


def test_what_a_stranger_named_stays_short_and_inert_and_json_holds_no_arrays():
    told = repr(odd())
    assert told.startswith("<Odd (2, 2) float32 (incomplete): name='a\\\\x1b")
    assert "share=0.5" in told
    assert len(told) < 200
    told = odd().to_dict()
    assert told["values"] == {"shape": [2, 2], "dtype": "float32", "min": -2.0, "max": 1.0}
    assert told["numbers"] == [None, 1.5]
    assert told["files"][-1] == "… 1000 in all"
    assert told["other"] == "<object>"
    assert told["manifest"] == {"incomplete": True, "x": None}
    json.dumps(told, allow_nan=False)
    assert Prediction(3, "cat", 0.5).to_dict() == {"index": 3, "label": "cat", "probability": 0.5}


def test_without_values_there_is_no_array_and_without_matplotlib_no_plot(monkeypatch):
    with pytest.raises(TypeError, match="Square has no values"):
        np.asarray(square())
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependency, match=r"onnxviz\[plot\].*picture\(\)"):
        square().plot()


def test_a_figure_of_its_own_has_the_pictures_size(monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    axes = square().plot()
    assert axes.images[0].get_array().shape == (3, 4, 3)
    matplotlib.pyplot.close(axes.figure)


def test_a_list_of_results_shows_their_pictures_and_stays_a_list():
    results = Results(square() for _ in range(30))
    shown = results._repr_html_()
    assert shown.count('<img src="data:image/png;base64,') == 24
    assert "30 in all" in shown
    assert "<Square>" not in shown
    assert results[:2]._repr_html_().count("<img") == 2
    assert isinstance(results, list)
    assert results[0] is next(iter(results))
    assert len(repr(results)) < 200
