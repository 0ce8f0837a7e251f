import json

import pytest

from onnxviz.errors import LabelsRejected, UnknownLabel
from onnxviz.labels import check_count, find_label, read_labels

LABELS = ["tabby", "tiger cat", "Egyptian cat", "crane", "Crane"]


def test_text_and_json_files_give_the_same_labels(tmp_path):
    (tmp_path / "a.txt").write_text("\ufefftabby\ntiger cat\n\n", encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps(["tabby", "tiger cat"]))
    (tmp_path / "c.json").write_text(json.dumps({"1": "tiger cat", "0": "tabby"}))
    (tmp_path / "d.json").write_text(json.dumps({"id2label": {"0": "tabby", "1": "tiger cat"}}))
    for name in ("a.txt", "b.json", "c.json", "d.json"):
        assert read_labels(tmp_path / name) == ["tabby", "tiger cat"], name


def test_imagenet_is_a_name_for_the_bundled_labels():
    labels = read_labels("imagenet")
    assert len(labels) == 1000
    assert labels[285] == "Egyptian cat"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.txt", b""),
        ("binary.txt", b"\xff\xfe\x00\x81"),
        ("broken.json", b"{"),
        ("number.json", b"7"),
        ("gaps.json", b'{"0": "a", "2": "c"}'),
        ("deep.json", b"[" * 100_000),
    ],
)
def test_files_that_are_no_labels_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LabelsRejected):
        read_labels(tmp_path / name)


def test_a_missing_labels_file_is_refused(tmp_path):
    with pytest.raises(LabelsRejected, match=r"no labels file.*one label a line"):
        read_labels(tmp_path / "none.txt")


def test_the_count_must_be_the_networks():
    check_count(LABELS, 5)
    check_count(LABELS, None)
    with pytest.raises(LabelsRejected, match="5 labels.*1000 classes"):
        check_count(LABELS, 1000)


@pytest.mark.parametrize(("target", "index"), [(2, 2), ("2", 2), ("egyptian CAT", 2), ("tabby", 0)])
def test_a_class_is_found_by_index_or_label(target, index):
    assert find_label(target, LABELS, 5) == index


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, "out of range.*5 classes"),
        (-1, "out of range"),
        ("-1", "out of range"),
        ("egyptain cat", "did you mean 'egyptian cat'"),
        ("crane", r"classes \[3, 4\]"),
    ],
)
def test_a_class_that_does_not_exist_says_what_does(target, message):
    with pytest.raises(UnknownLabel, match=message):
        find_label(target, LABELS, 5)


def test_a_label_without_labels_asks_for_an_index():
    with pytest.raises(UnknownLabel, match="has no labels"):
        find_label("cat", None, 10)
    assert find_label("7", None, 10) == 7
