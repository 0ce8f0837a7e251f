"""Features in files: what is written comes back, and what does not belong together is told."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from networks import tiny_cnn

import onnxviz
from onnxviz.errors import InputRefused, UsageError
from onnxviz.features.embed import embed
from onnxviz.features.embedding import Embedding

ENDINGS = [".npy", ".npz", ".csv", ".parquet"]


@pytest.fixture(scope="module")
def net():
    return onnxviz.load(tiny_cnn(), preprocess="unit", labels=["=1+1", *"bcdefghij"], provider="cpu")


@pytest.fixture
def found(net, files):
    return embed(net, files[:8])


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_comes_back(found, net, tmp_path, ending):
    found.values[0, :2] = np.nan, -0.1
    target = tmp_path / f"features{ending}"
    assert found.save(target) == target
    again = Embedding.load(target)
    assert again.values.dtype == np.float32
    for name in ("values", "classes", "prints"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    np.testing.assert_allclose(again.confidence, found.confidence, atol=1e-6)
    assert (again.files, again.layer, again.names) == (found.files, found.layer, found.names)
    assert again.sources == found.files
    again.check(net)
    assert {path.name for path in tmp_path.iterdir()} == {target.name, "features.json"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_same_run_writes_the_same_bytes(net, files, tmp_path, ending):
    written = [embed(net, files[:8]).save(tmp_path / f"{run}{ending}") for run in ("a", "b")]
    for one, other in (written, [path.with_suffix(".json") for path in written]):
        assert one.read_bytes() == other.read_bytes()


def test_tables_hold_a_row_an_image_and_nothing_that_runs(found, tmp_path):
    found.files[0] = "=HYPERLINK(1).png"
    found.classes[:] = 0
    found.names = {0: "=1+1"}
    target = found.save(tmp_path / "features.csv")
    with target.open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0][:6] == ["file", "top_class", "label", "probability", "f0", "f1"]
    assert len(rows) == 1 + len(found)
    assert not any(cell.startswith(("=", "@", "+")) for row in rows for cell in row)
    np.testing.assert_array_equal(np.array([row[4:] for row in rows[1:]], np.float32), found.values)


def test_npz_holds_files_and_classes_for_other_programs(found, tmp_path):
    with np.load(found.save(tmp_path / "features.npz"), allow_pickle=False) as held:
        assert held["files"].tolist() == found.files
        np.testing.assert_array_equal(held["top_class"], found.classes)
        np.testing.assert_array_equal(held["features"], found.values)


def test_a_name_without_an_ending_gets_one_and_a_picture_is_drawn(found, tmp_path):
    assert found.save(tmp_path / "features").name == "features.npy"
    found.save(tmp_path / "plane.png")
    assert (tmp_path / "plane.png").read_bytes().startswith(b"\x89PNG")
    np.testing.assert_array_equal(np.load(tmp_path / "plane.npy"), found.values)
    with pytest.raises(UsageError, match=r"\.npy, \.npz, \.csv, \.parquet"):
        found.save(tmp_path / "features.txt")


def test_files_that_are_gone_are_not_read(found, tmp_path):
    found.manifest["files"][0] = found.files[0] = "nowhere/gone.png"
    again = Embedding.load(found.save(tmp_path / "features.npy"))
    assert again.sources[:2] == [None, found.files[1]]


def test_a_manifest_of_other_features_is_refused(found, net, files, tmp_path):
    target = found.save(tmp_path / "features.npy")
    other = embed(net, files[7::-1]).save(tmp_path / "other.npy")  # as many, in another order
    other.replace(target)
    with pytest.raises(InputRefused, match="does not belong to the manifest"):
        Embedding.load(target)


def changed(**changes):
    return lambda manifest: json.dumps({**manifest, **changes})


DAMAGE = {
    "not JSON": lambda manifest: "{",
    "another technique": changed(schema="onnxviz.map/1"),
    "a list": lambda manifest: "[]",
    "fewer files": lambda manifest: json.dumps({**manifest, "files": manifest["files"][:-1]}),
    "no files": changed(files=None),
    "unknown class": changed(class_names={}),
    "huge print": changed(prints=[2**70] * 8),
    "nested": lambda manifest: "[" * 100_000,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_manifest_is_a_typed_error(found, tmp_path, damage):
    target = found.save(tmp_path / "features.npy")
    beside = target.with_suffix(".json")
    beside.write_text(DAMAGE[damage](json.loads(beside.read_text())))
    with pytest.raises(InputRefused):
        Embedding.load(target)


@pytest.mark.parametrize("ending", ENDINGS)
def test_damaged_features_are_a_typed_error(found, tmp_path, ending):
    """Pickles are never loaded."""
    target = found.save(tmp_path / f"features{ending}")
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    whole = target.read_bytes()
    for content in (b"", b"rubbish", whole[: len(whole) // 2], pickled.getvalue()):
        target.write_bytes(content)
        with pytest.raises(InputRefused):
            Embedding.load(target)
    target.unlink()
    with pytest.raises(InputRefused, match="no such file"):
        Embedding.load(target)


def test_other_files_are_told(tmp_path):
    with pytest.raises(InputRefused, match="features are read from"):
        Embedding.load(tmp_path / "features.txt")
    np.save(tmp_path / "bare.npy", np.zeros((2, 2), np.float32))
    with pytest.raises(InputRefused, match="manifest"):
        Embedding.load(tmp_path / "bare.npy")
