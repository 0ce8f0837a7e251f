"""The pictures of an audit: on its page where they are few, and as a table that other programs take."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import onnxviz
from onnxviz.auditing.checks import rules
from onnxviz.errors import ModelUnsuitable
from onnxviz.files import sha256

#: What the docs name, which stands in the table for other programs to colour, place and search by.
COLUMNS = {"path", "sha256", "label", "top1", "top1_probability", "x", "y", "features"}
# As embedding-atlas reads a file and sends it to its page.
LOADER = """
import json, sys
from embedding_atlas.utils import load_pandas_data, to_parquet_bytes
found = load_pandas_data(sys.argv[1])
assert len(to_parquet_bytes(found))
print(json.dumps({
    "columns": list(found.columns), "path": found["path"].tolist(), "x": found["x"].tolist(),
    "features": [list(map(float, one)) for one in found["features"]],
}))
"""


@pytest.fixture(scope="module")
def audited(net, photo_files, tmp_path_factory):
    """The folder of an audit of four photos, one of them called what it is not."""
    truth = {path.name: "Egyptian cat" for path in photo_files if path.stem in ("chelsea", "coffee")}
    found = onnxviz.audit(net, photo_files, truth=truth, only=["file.finite"], seed=3)
    return found.save(tmp_path_factory.mktemp("audit") / "out").parent


def test_few_photos_stand_on_the_page_with_their_maps(audited):
    page = (audited / "report.html").read_text("utf-8")
    assert "coffee.png" in page and '<b class="mark">wrong</b>' in page
    assert "data-method" in page
    assert len(page) < 15_000_000


def test_their_table_is_that_of_report(audited, photo_files, net):
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(audited / "photos.parquet")
    assert set(table.column_names) >= COLUMNS
    assert table["sha256"].to_pylist() == [sha256(path) for path in photo_files]
    features = onnxviz.embed(net, photo_files).features
    np.testing.assert_array_equal(np.array(table["features"].to_pylist(), np.float32), features)
    sums = (audited / "SHA256SUMS").read_text()
    assert sha256(audited / "photos.parquet") + "  photos.parquet" in sums


def test_embedding_atlas_loads_it(audited, photo_files):
    python = os.environ.get("ONNXVIZ_ATLAS_PYTHON")
    if not python:
        pytest.skip("embedding-atlas is in an environment of its own, which tools/test.py makes")
    done = subprocess.run(
        [python, "-c", LOADER, str(audited / "photos.parquet")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["columns"]) >= COLUMNS
    assert [Path(one).name for one in found["path"]] == [path.name for path in photo_files]
    assert len({len(row) for row in found["features"]}) == 1
    assert np.isfinite(found["x"]).all()


def test_many_photos_are_a_table_alone(net, photo_files, tmp_path, monkeypatch):
    monkeypatch.setattr("onnxviz.auditing.run._FEW", 1)
    page = onnxviz.audit(net, photo_files[:2], only=["file.finite"]).save(tmp_path / "out")
    assert "data-method" not in page.read_text("utf-8")
    assert (tmp_path / "out" / "photos.csv").exists()


def test_photos_that_say_nothing_cost_no_report(photo_files, tmp_path, monkeypatch, net):
    def refuse(*_, **__):
        raise ModelUnsuitable("no layer to take features from")

    monkeypatch.setattr("onnxviz.auditing.album.embed", refuse)
    found = onnxviz.audit(net, photo_files[:1], only=["file.finite"])
    assert found.save(tmp_path / "out").exists()
    assert "no layer" in found.manifest["photos"]
    assert not (tmp_path / "out" / "photos.parquet").exists()


@pytest.mark.parametrize(
    ("named", "shown"), [([], ["grad-cam"]), (["grad-cam", "guided"], ["smoothgrad"])], ids=["none", "one"]
)
def test_maps_that_tell_no_more_than_chance_are_not_shown(net, photo_files, monkeypatch, named, shown):
    asked = []

    def report(*_, methods, **__):
        asked.append(methods)
        raise ModelUnsuitable("enough")

    monkeypatch.setattr("onnxviz.auditing.album.report", report)
    found = onnxviz.audit(net, photo_files[:1], only=["file.finite"])
    rule = rules()["faith.gain"]
    findings = [rule.finding(0.0, name, "no better than random") for name in named]
    found.checks = (*found.checks, rule.check(findings=findings))
    assert found._album() is None
    assert asked == [shown]
