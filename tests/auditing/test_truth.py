"""True classes of pictures: from a table, from folders, from Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxviz.auditing.truth import read_truth
from onnxviz.errors import UnknownLabel, UsageError

LABELS = ["cat", "dog", "7"]
PICTURES = [Path("set/dog/1.png"), Path("set/cat/1.png"), Path("set/cat/2.png")]


def read(source, pictures=PICTURES, labels=LABELS):
    return read_truth(source, pictures, labels, 3)


@pytest.mark.parametrize(
    ("text", "classes"),
    [
        ("set/dog/1.png,dog\nset/cat/2.png,0\n", [1, None, 0]),
        ("Image;Class\nset/cat/1.png;cat\n", [None, 0, None]),
        ("2.png\tdog\n1.png\tcat\n", [0, 0, 1]),
        ("file,label\n2.png,7\n", [None, None, 2]),
    ],
)
def test_a_table_names_pictures_by_path_or_by_a_name_that_is_there_once(tmp_path, text, classes):
    path = tmp_path / "truth.csv"
    path.write_text(text, encoding="utf-8-sig")
    assert read(path) == classes


def test_paths_are_from_where_the_table_lies(tmp_path):
    (tmp_path / "truth.csv").write_text("a/1.png,cat\nb/1.png,dog\n")
    assert read(tmp_path / "truth.csv", [tmp_path / "b" / "1.png"]) == [1]


def test_folders_and_python():
    assert read("folders") == [1, 0, 0]
    assert read(["dog", None, 2]) == [1, None, 2]
    assert read({"2.png": "cat"}) == [None, None, 0]


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("missing.csv", UsageError, "cannot read true classes"),
        (["cat"], UsageError, "1 true classes were given for 3 pictures"),
        ({"2.png": "horse"}, UnknownLabel, "true class 'horse'"),
        ({"2.png": 3}, UnknownLabel, "out of range"),
        ({"9.png": "cat"}, UsageError, "none of the 3 pictures"),
    ],
)
def test_what_cannot_be_meant_is_refused(source, error, words):
    with pytest.raises(error, match=words):
        read(source)


@pytest.mark.parametrize("text", ["", "one column\nonly\n", "\0"])
def test_what_is_no_table_is_refused(tmp_path, text):
    path = tmp_path / "truth.csv"
    path.write_text(text)
    with pytest.raises(UsageError):
        read(path)
