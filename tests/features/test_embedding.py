"""Features in files: what is written comes back, and what does not belong together is told."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from networks import tiny_cnn

import onnxviz
from onnxviz.errors import InputRefused, UsageError
from onnxviz.features.embed import embed
from onnxviz.features.embedding import Embedding
from tests.features import crops

ENDINGS = [".npy", ".npz", ".csv", ".parquet"]


@pytest.fixture(scope="module")
def net():
    return onnxviz.load(tiny_cnn(), preprocess="unit", labels=["=1+1", *"bcdefghij"], provider="cpu")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return crops.write(tmp_path_factory.mktemp("crops"), each=2)


@pytest.fixture
def found(net, files):
    return embed(net, files)


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_written_comes_back(found, net, tmp_path, ending):
    found.values[0, :2] = np.nan, -0.1
    target = tmp_path / f"features{ending}"
    assert found.save(target) == target
    again = Embedding.load(target)
    np.testing.assert_array_equal(again.values, found.values)
    assert again.values.dtype == np.float32
    assert (again.files, again.layer, again.names) == (found.files, found.layer, found.names)
    np.testing.assert_array_equal(again.classes, found.classes)
    np.testing.assert_allclose(again.confidence, found.confidence, atol=1e-6)
    np.testing.assert_array_equal(again.prints, found.prints)
    assert again.sources == found.files
    again.check(net)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({target.name, "features.json"})


def test_the_same_run_writes_the_same_bytes(net, files, tmp_path):
    for ending in ENDINGS:
        written = [embed(net, files).save(tmp_path / f"{run}{ending}") for run in ("a", "b")]
        assert written[0].read_bytes() == written[1].read_bytes()
        assert written[0].with_suffix(".json").read_bytes() == written[1].with_suffix(".json").read_bytes()


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
    found.files[0] = "nowhere/gone.png"
    again = _saved(found, tmp_path)
    assert again.sources[0] is None
    assert again.sources[1] == found.files[1]


def _saved(found, tmp_path):
    found.manifest["files"] = found.files
    return Embedding.load(found.save(tmp_path / "features.npy"))


def test_a_manifest_of_other_features_is_refused(found, net, files, tmp_path):
    target = found.save(tmp_path / "features.npy")
    other = embed(net, files[::-1]).save(tmp_path / "other.npy")  # as many, in another order
    other.replace(target)
    with pytest.raises(InputRefused, match="does not belong to the manifest"):
        Embedding.load(target)


def _with(manifest, **changes):
    return json.dumps({**manifest, **changes})


DAMAGE = {
    "not JSON": lambda manifest: "{",
    "another technique": lambda manifest: _with(manifest, schema="onnxviz.map/1"),
    "a list": lambda manifest: "[]",
    "fewer files": lambda manifest: _with(manifest, files=manifest["files"][:-1]),
    "no files": lambda manifest: _with(manifest, files=None),
    "unknown class": lambda manifest: _with(manifest, class_names={}),
    "huge print": lambda manifest: _with(manifest, prints=[2**70] * len(manifest["files"])),
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
    target = found.save(tmp_path / f"features{ending}")
    whole = target.read_bytes()
    for content in (b"", b"rubbish", whole[: len(whole) // 2]):
        target.write_bytes(content)
        with pytest.raises(InputRefused):
            Embedding.load(target)
    target.unlink()
    with pytest.raises(InputRefused, match="no such file"):
        Embedding.load(target)


def test_pickles_are_never_loaded(found, tmp_path):
    target = found.save(tmp_path / "features.npy")
    np.save(target, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(InputRefused):
        Embedding.load(target)


def test_other_files_are_told(tmp_path):
    with pytest.raises(InputRefused, match="features are read from"):
        Embedding.load(tmp_path / "features.txt")
    np.save(tmp_path / "bare.npy", np.zeros((2, 2), np.float32))
    with pytest.raises(InputRefused, match="manifest"):
        Embedding.load(tmp_path / "bare.npy")
