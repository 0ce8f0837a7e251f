"""`onnxviz.report`: photos in order, with answers, maps and places; the files that other programs take."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import UsageError
from onnxviz.files import sha256
from onnxviz.progress import Interrupted


@pytest.fixture(scope="module")
def album(net, photo_files):
    """Four photos, one of them called what it is not."""
    truth = {path.name: "Egyptian cat" for path in photo_files if path.stem in ("chelsea", "coffee")}
    return onnxviz.report(net, photo_files, truth=truth, explained=2, seed=3)


def test_wrong_answers_come_first_then_what_it_is_least_sure_of(album):
    wrong = [album.wrong(int(row)) for row in album.order]
    assert wrong == sorted(wrong, reverse=True) and sum(wrong) == 1
    assert album.embedding.files[album.order[0]].endswith("coffee.png")
    margins = [album.margin(int(row)) for row in album.order[1:]]
    assert margins == sorted(margins)


def test_maps_are_of_the_answer_and_of_its_rival(album):
    assert list(album.maps) == album.order[:2]
    first, second = (album.maps[int(row)] for row in album.order[:2])
    assert [one.label for one in first] == ["espresso", "Egyptian cat"]  # the true class of a wrong answer
    best = album.answers[int(album.order[1])]
    assert [one.target for one in second] == [best[0].index, best[1].index]


def test_answers_and_ranges_are_the_networks_own(album, net, photo_files):
    for source, answers in zip(album.embedding.sources, album.answers, strict=True):
        assert answers == net.predict(source, top=5)[0]
    row = list(album.layers["name"]).index("stem")
    values = [net.activations(path, ["stem"])["stem"] for path in photo_files]
    assert album.layers["lowest"][row] == min(float(one.min()) for one in values)
    assert album.layers["highest"][row] == max(float(one.max()) for one in values)


def test_a_folder_with_thumbnails_beside_a_small_page(album, tmp_path):
    assert album.page().title == "efficientnet-lite0.onnx"
    text = album.save(tmp_path / "out").read_text("utf-8")
    assert len(text) < 3_000_000 and "1 of 2" in text
    assert text.index("coffee.png") < text.index("chelsea.png") and '<b class="mark">wrong</b>' in text
    assert text.count("<circle") == 4
    photos = sorted(path.name for path in (tmp_path / "out" / "photos").iterdir())
    assert len(photos) == 4 + 2 * 2
    assert json.loads((tmp_path / "out" / "report.json").read_bytes())["schema"] == "onnxviz.report/1"
    whole = album.save(tmp_path / "one", one_file=True).read_text("utf-8")
    assert 'src="photos/' not in whole and not (tmp_path / "one" / "photos").exists()


def test_photos_as_tables(album, tmp_path, photo_files):
    album.save(tmp_path)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "photos.csv").read_text("utf-8"))))
    assert [row["sha256"] for row in rows] == [sha256(path) for path in photo_files]
    assert [row["label"] for row in rows] == ["Egyptian cat", "Egyptian cat", "", ""]
    assert rows[1]["top1"] == "espresso" and float(rows[1]["top1_probability"]) > float(
        rows[1]["top2_probability"]
    )
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(tmp_path / "photos.parquet")
    features = np.array(table["features"].to_pylist(), np.float32)
    np.testing.assert_array_equal(features, album.embedding.features)
    np.testing.assert_array_equal(np.array(table["x"]), album.values[:, 0])


def test_the_command(photo_files, tmp_path, capsys):
    out = tmp_path / "out"
    given = [
        "efficientnet-lite0",
        *map(str, photo_files[:2]),
        "--explained",
        "0",
        "--provider",
        "cpu",
        "--one-file",
    ]
    assert run(["report", *given, "-o", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "report.html")
    assert "data-method" not in (out / "report.html").read_text("utf-8")


@pytest.mark.parametrize(("unit", "photos"), [("images", None), ("photos seen", 1), ("photos explained", 4)])
def test_ctrl_c_leaves_a_page_that_says_so(net, photo_files, tmp_path, unit, photos):
    def stop(done, total, what):
        if what == unit:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as stopped:
        onnxviz.report(net, photo_files, progress=stop)
    album = stopped.value.partial
    text = album.save(tmp_path / "out").read_text("utf-8")
    read = len(album.embedding)  # of those that the features were computed of, some are seen
    shown = read if photos is None else photos
    assert (
        f"Incomplete: the run was interrupted. What was done by then is here; {shown} of {read} photos"
        in text
    )
    assert text.count('<details class="photo') == shown and len(album.answers[0]) == 5
    assert json.loads((tmp_path / "out" / "manifest.json").read_bytes())["incomplete"] is True
    assert (tmp_path / "out" / "photos.csv").read_text("utf-8").count("\n") == 1 + read


def test_pictures_wait_as_files(album):
    assert sorted(album.pictures) == [0, 1, 2, 3]
    assert all(bytes(one)[8:12] == b"WEBP" for one in album.pictures.values())
    assert not any(isinstance(one, bytes) for one in album.pictures.values())  # they wait on the disk


@pytest.mark.parametrize(
    ("options", "words"), [({"methods": ["gradcam"]}, "grad-cam"), ({"explained": -1}, "explained")]
)
def test_mistakes_are_told(net, photo_files, options, words):
    with pytest.raises(UsageError, match=words):
        onnxviz.report(net, photo_files, **options)
