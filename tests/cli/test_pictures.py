"""Outputs do what their names say; several pictures give a file each, or pages."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest
from PIL import Image

import onnxviz
from onnxviz.cli.main import run
from tests import toys

ONE_EACH = {
    "occlusion": ["--window", "6", "--stride", "6"],
    "rise": ["--masks", "4", "--grid", "3"],
    "segment": ["--method", "saliency"],
    "activations": ["--layer", "features"],
}


@pytest.fixture
def given(tmp_path) -> list[str]:
    """A network, a folder of two pictures, and how they go together, as arguments."""
    (tmp_path / "toy.onnx").write_bytes(toys.detector())
    (tmp_path / "labels.txt").write_text("red\ngreen\n")
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    Image.fromarray(toys.photo(0)).save(tmp_path / "photos" / "a.png")
    Image.fromarray(toys.photo(1)).save(tmp_path / "photos" / "deep" / "a.png")
    return [
        *(str(tmp_path / name) for name in ("toy.onnx", "photos")),
        *("--preprocess", "raw", "--labels", str(tmp_path / "labels.txt"), "--provider", "cpu"),
    ]


@pytest.mark.parametrize("command", ONE_EACH)
def test_several_pictures_give_a_file_each_as_if_alone(command, given, tmp_path, capsys) -> None:
    out = tmp_path / "out"
    (tmp_path / "photos" / "broken.png").write_bytes(b"\x89PNG")
    assert run([command, *given, *ONE_EACH[command], "--json", "-o", f"{out}/"]) == 0
    captured = capsys.readouterr()
    value = json.loads(captured.out)
    names = [f"{command}-a", f"{command}-a-2"]
    assert value["out"] == [str(out / f"{name}.png") for name in names]
    assert "broken.png" in value["skipped"][0]["path"]
    assert "broken.png" in captured.err
    assert sorted(os.listdir(out)) == sorted(
        f"{name}{end}" for name in names for end in (".json", ".npy", ".png")
    )
    alone = [given[0], str(tmp_path / "photos" / "deep" / "a.png"), *given[2:]]
    assert run([command, *alone, *ONE_EACH[command], "-o", str(tmp_path / "one.jpg")]) == 0
    assert Image.open(tmp_path / "one.jpg").format == "JPEG"
    np.testing.assert_array_equal(np.load(tmp_path / "one.npy"), np.load(out / f"{names[1]}.npy"))


def test_where_no_picture_can_be_read_it_is_refused(given, tmp_path, capsys) -> None:
    (tmp_path / "photos" / "a.png").write_bytes(b"\x89PNG")
    (tmp_path / "photos" / "deep" / "a.png").write_bytes(b"")
    assert run(["occlusion", *given, "-o", f"{tmp_path}/out/"]) == 3
    assert "none of the 2 pictures" in capsys.readouterr().err


def test_in_python_a_list_gives_a_list(tmp_path) -> None:
    net = onnxviz.load(toys.detector(), preprocess="raw", provider="cpu")
    photos = [toys.photo(0), toys.photo(1)]
    for technique, options in (
        (onnxviz.occlusion, {"window": 6, "stride": 6}),
        (onnxviz.rise, {"masks": 4, "grid": 3}),
        (onnxviz.activations, {"layer": "features"}),
    ):
        several = technique(net, photos, **options)
        assert isinstance(several, list)
        for one, photo in zip(several, photos, strict=True):
            np.testing.assert_array_equal(one.values, technique(net, photo, **options).values)
    assert [one.target for one in onnxviz.occlusion(net, photos, target=[1, 0], window=6)] == [1, 0]
    with pytest.raises(onnxviz.errors.UsageError, match="3 targets for 2 pictures"):
        onnxviz.occlusion(net, photos, target=[1, 0, 1])


def test_many_pictures_of_a_sheet_are_pages(tmp_path) -> None:
    """A hundred photos in one sheet were a strip of 23,695 pixels."""
    net = onnxviz.load(toys.detector(), preprocess="raw", provider="cpu")
    found = onnxviz.attributions(net, [toys.photo(i) for i in range(20)], ["saliency", "gradient"])
    path = found.save(tmp_path / "s.png")
    assert sorted(p.name for p in tmp_path.glob("*.png")) == ["s-2.png", "s-3.png", "s.png"]
    assert np.load(tmp_path / "s.npy").shape == (20, 2, 12, 12)
    assert all(max(Image.open(p).size) < 5_000 for p in path.parent.glob("*.png"))


def test_predict_writes_the_table_that_its_name_says(given, tmp_path, capsys) -> None:
    assert run(["predict", *given, "--top", "2", "-o", str(tmp_path / "p.csv")]) == 0
    rows = list(csv.DictReader((tmp_path / "p.csv").open(encoding="utf-8")))
    assert [(row["rank"], row["label"] in ("red", "green")) for row in rows] == [("1", True), ("2", True)] * 2
    assert sum(float(row["probability"]) for row in rows) == pytest.approx(2, abs=1e-5)
    assert rows[0]["file"].endswith("a.png")
    assert run(["predict", *given, "-o", f"{tmp_path}/made/"]) == 0
    assert json.loads((tmp_path / "made" / "predict.json").read_text())["schema"] == "onnxviz.predict/1"
    assert run(["inspect", given[0], "-o", str(tmp_path / "i.csv"), "--quiet"]) == 0
    assert "features" in (tmp_path / "i.csv").read_text()


def test_neighbours_and_map_write_their_rows(given, tmp_path) -> None:
    layer = ["--layer", "features"]
    assert run(["neighbours", *given, *layer, "--k", "1", "-o", str(tmp_path / "n.csv"), "-q"]) == 0
    rows = list(csv.DictReader((tmp_path / "n.csv").open(encoding="utf-8")))
    assert {row["rank"] for row in rows} == {"1"}
    assert float(rows[0]["distance"]) > 0
    assert run(["map", *given, *layer, "-o", str(tmp_path / "m.csv"), "-q"]) == 0
    rows = list(csv.DictReader((tmp_path / "m.csv").open(encoding="utf-8")))
    assert len(rows) == 2
    np.testing.assert_allclose(
        [float(rows[0]["x"]), float(rows[0]["y"])], np.load(tmp_path / "m.npy")[0], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("command", "name", "possible"),
    [
        ("occlusion", "x.exe", ".png, .jpg"),
        ("occlusion", "x.txt", ".png, .jpg"),
        ("saliency", "x.csv", ".png, .jpg"),
        ("predict", "x.png", ".json, .csv"),
        ("inspect", "x.txt", ".json, .csv"),
        ("embed", "x.html", ".npy"),
        ("expose", "x.png", ".onnx"),
        ("gradient", "x.png", ".onnx"),
        ("patches", "x.png", "name of a folder"),
        ("doctor", "x.png", ".json"),
    ],
)
def test_what_a_command_does_not_write_is_refused_before_any_work(
    command, name, possible, given, tmp_path, capsys
) -> None:
    arguments = {"doctor": [], "expose": given[:1], "gradient": given[:1], "inspect": given[:1]}.get(
        command, given[:2]
    )
    layer = ["--layer", "features"] if command == "patches" else []
    assert run([command, *arguments, *layer, "-o", str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert possible in said
    assert not list(tmp_path.glob("x*"))


def test_the_picture_may_be_given_by_its_keyword() -> None:
    net = onnxviz.load(toys.detector(), preprocess="raw", provider="cpu")
    photo = toys.photo(0)
    expected = onnxviz.activations(net, photo, "features").values
    np.testing.assert_array_equal(onnxviz.activations(net, image=photo, layer="features").values, expected)
    with pytest.raises(TypeError):
        onnxviz.activations(net, layer="features")
