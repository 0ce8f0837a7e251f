import json
import time
import tracemalloc

import pytest

from onnxviz.errors import LabelsRejected, UnknownLabel
from onnxviz.labels import check_count, find_label, parse_labels, read_labels
from onnxviz.limits import Limits

LABELS = ["tabby", "tiger cat", "Egyptian cat", "crane", "Crane"]


def test_imagenet_is_a_name_for_the_bundled_labels():
    labels = read_labels("imagenet")
    assert len(labels) == 1000
    assert labels[285] == "Egyptian cat"


def test_the_count_must_be_the_networks():
    check_count(LABELS, 5)
    check_count(LABELS, None)
    with pytest.raises(LabelsRejected, match="5 labels.*1000 classes"):
        check_count(LABELS, 1000)


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("cat 0\ndog 1\n", ["cat", "dog"]),
        ("tabby cat 1\nred fox 0\n", ["red fox", "tabby cat"]),
        ("cat,0\ndog,1\n", ["cat", "dog"]),
        ("cat: 0\ndog: 1\n", ["cat", "dog"]),
        ("cat\t1\ndog\t0\n", ["dog", "cat"]),
        ("grade 0\ngrade 1\n", ["grade 0", "grade 1"]),  # the number is the name
        ("area 51\nboeing 747\n", ["area 51", "boeing 747"]),
        ("cat 1\ndog 2\n", ["cat 1", "dog 2"]),
        ("cat 0\ndog\n", ["cat 0", "dog"]),
        ("0\n1\n2", ["0", "1", "2"]),
        ("3 of clubs\n4 of clubs", ["3 of clubs", "4 of clubs"]),
        ("tench, Tinca tinca\ngoldfish", ["tench, Tinca tinca", "goldfish"]),
        ("a\u2028b\nc", ["a\u2028b", "c"]),
    ],
)
def test_an_index_behind_the_label_and_what_only_looks_like_one(text, labels):
    assert parse_labels(text) == labels


@pytest.mark.parametrize(
    ("target", "index", "labels"),
    [
        (2, 2, LABELS),
        ("2", 2, LABELS),
        ("egyptian CAT", 2, LABELS),
        ("tabby", 0, LABELS),
        ("7", 7, None),
        *(
            (target, 1, ["other", label, "third"])
            for target, label in (
                ("cafe\u0301", "caf\u00e9"),
                ("caf\u00e9", "cafe\u0301"),
                ("CAF\u00c9", "cafe\u0301"),
                ("\u1e9e", "SS"),
                ("tiger  cat", "tiger_cat"),
                ("tinca Tinca", "tench, Tinca tinca"),
            )
        ),
    ],
)
def test_a_class_is_found_by_index_or_label_however_it_is_composed(target, index, labels):
    assert find_label(target, labels, 10) == index


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, "out of range.*5 classes"),
        (-1, "out of range"),
        ("-1", "out of range"),
        ("egyptain cat", "did you mean 'Egyptian cat'"),  # as the labels spell it
        ("crane", r"classes \[3, 4\]"),
        *((target, "class") for target in (1.5, None, "--5", "\u00b2", "9" * 30)),
    ],
)
def test_a_class_that_does_not_exist_says_what_does(target, message):
    with pytest.raises(UnknownLabel, match=message):
        find_label(target, LABELS, 5)
    with pytest.raises(UnknownLabel, match="has no labels"):
        find_label("cat", None, 10)


FISH = ["tench, Tinca tinca", "goldfish", "it's a shark"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mark.txt", f"\ufeff{FISH[0]}\ngoldfish\n{FISH[2]}\n\n"),
        ("list.json", json.dumps(FISH)),
        ("id2label.json", json.dumps({"id2label": dict(enumerate(FISH))})),
        ("python.txt", """{0: 'tench, Tinca tinca',\n 1: 'goldfish',\n 2: "it's a shark",}\n"""),
        ("python.json.txt", """{2: 'it\\'s a shark', 0: "tench, Tinca tinca", 1: u'goldfish'}  # gist"""),
        ("list.py.txt", """['tench, Tinca tinca', 'goldfish',\n "it's a shark"]"""),
        ("tuple.txt", str({str(i): (f"n{i}", label) for i, label in enumerate(FISH)})),
        ("keras.json", json.dumps({str(i): [f"n0144076{i}", FISH[i]] for i in (1, 0, 2)})),
        ("unordered.json", json.dumps({"2": FISH[2], "0": FISH[0], "1": FISH[1]})),
        ("label2id.json", json.dumps({"label2id": {FISH[2]: 2, FISH[0]: 0, FISH[1]: 1}})),
        ("class_to_idx.json", json.dumps({FISH[1]: 1, FISH[0]: 0, FISH[2]: 2})),
        ("pairs.json", json.dumps([["n01440764", FISH[0]], ["n01443537", FISH[1]], ["n0", FISH[2]]])),
        ("synset.txt", f"n01440764 {FISH[0]}\nn01443537 {FISH[1]}\nn01484850 {FISH[2]}\n"),
        ("colon.txt", f"0: {FISH[0]}\n1: {FISH[1]}\n2: {FISH[2]}"),
        ("spaces.txt", f"2 {FISH[2]}\r\n0 {FISH[0]}\r\n1 {FISH[1]}\r\n"),
        ("loose.csv", f"index,label\n0,{FISH[0]}\n1,goldfish\n2,{FISH[2]}\n"),
        ("quoted.csv", f'id,name\n1,goldfish\n0,"{FISH[0]}"\n2,"{FISH[2]}"\n'),
        ("turned.csv", f'label;index\n"goldfish";1\n{FISH[0]};0\n{FISH[2]};2\n'),
        ("wnid.tsv", "class_id\twnid\tlabel" + "".join(f"\n{i}\tn0144076{i}\t{FISH[i]}" for i in range(3))),
        ("plain.tsv", f"0\t{FISH[0]}\n1\tgoldfish\n2\t{FISH[2]}\n"),
        ("names.csv", f'label\n"{FISH[0]}"\ngoldfish\n{FISH[2]}\n'),
        (
            "data.yaml",
            f"path: x  # root\nnames:\n  0: {FISH[0]}\n  1: goldfish  # gold\n  2: {FISH[2]}\nurl: x",
        ),
        ("list.yaml", f'names:\n- {FISH[0]}\n- goldfish\n- "{FISH[2]}"\n'),
        ("inline.yaml", f"""nc: 3\nnames: ['{FISH[0]}', "goldfish", "{FISH[2]}"]\n"""),
    ],
)
def test_every_usual_form_of_a_labels_file_is_read(tmp_path, name, text):
    (tmp_path / name).write_bytes(text.encode())
    assert read_labels(tmp_path / name) == FISH


def test_labels_are_taken_as_a_mapping_too():
    assert read_labels({1: "goldfish", 0: ("n01440764", "tench")}) == ["tench", "goldfish"]
    with pytest.raises(LabelsRejected, match="neither a list"):
        read_labels({"tench", "goldfish"})


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gap.txt", "{0: 'a', 2: 'c'}", "class 1 has no label.*go from 0 to 2"),
        ("from-one.txt", "{1: 'a', 2: 'b'}", "class 0 has no label.*go from 1 to 2"),
        ("twice.txt", "{0: 'a', 0: 'b'}", "'0' stands in it twice"),
        ("twice.csv", "0,a\n0,b", "class 0 stands in it twice"),
        ("call.txt", "{0: __import__('os').getcwd()}", "neither JSON nor a Python list.*character 4"),
        ("open.txt", "{0: 'a', 1: 'b'", "Expecting"),
        ("map.pbtxt", "item {\n  id: 1\n  name: 'person'\n}", "TensorFlow label map"),
        ("keys.json", '{"a": "b"}', "'a' is no class index"),
        ("none.json", '{"0": null}', "is no label"),
        ("empty.json", "[]", "no labels"),
        ("empty.txt", "", "no labels"),
        ("binary.txt", b"\xff\xfe\x00\x81", "UTF-16"),
        ("broken.json", "{", "is not a labels file"),
        ("number.json", "7", "neither a list"),
        ("gaps.json", '{"0": "a", "2": "c"}', "class 1 has no label"),
        ("deep.json", "[" * 100_000, "is not a labels file"),
        ("latin.txt", "caf\u00e9\n".encode("latin-1"), "no UTF-8 text .byte 3.*save it as UTF-8"),
        ("utf-16.txt", "tench\n".encode("utf-16"), "UTF-16.*save it as UTF-8"),
    ],
)
def test_a_file_that_cannot_mean_labels_says_why(tmp_path, name, text, message):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LabelsRejected, match=message):
        read_labels(tmp_path / name)
    with pytest.raises(LabelsRejected, match=r"no labels file.*one label a line"):
        read_labels(tmp_path / "none.txt")


def test_a_large_python_dictionary_takes_little_memory(tmp_path):
    (tmp_path / "large.txt").write_text("{" + ", ".join(f"{i}: 'class {i}'" for i in range(21_841)) + "}")
    tracemalloc.start()
    labels = read_labels(tmp_path / "large.txt")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert labels[21_840] == "class 21840"
    assert peak < 40e6  # ast.literal_eval takes over 100 MB for it


@pytest.mark.parametrize(
    ("word", "labels"),
    [
        ("cat", "'tabby', 'tiger cat', 'Persian cat', 'Siamese cat', 'Egyptian cat'"),
        ("egyptian", "'Egyptian cat'"),
    ],
)
def test_a_word_suggests_the_labels_that_hold_it(word, labels):
    with pytest.raises(UnknownLabel, match=rf"did you mean {labels}"):
        find_label(word, read_labels("imagenet"), 1000)


# --- hostile lengths --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "\n" * 1_000_000 + "a",  # a search for `item {` went over all empty lines from each
        json.dumps(dict.fromkeys(range(100_000), 1))[:-1] + ', "99999": 1}',  # a doubled key, at the end
        "a," * 300_000,
        "[" * 300_000,
        "{1:" * 20_000,
        "['" + "\\x" * 100_000 + "']",
        "[" + "9" * 300_000 + "]",
        "{'a': " + "9" * 300_000 + "}",
        "names: [" + "'a'," * 100_000,
        "names:\n" + " " * 3_000_000 + "#",
        "['a'," + "1," * 100_000 + "]",
        "ab\n" * 300_000,
        "1" + " " * 3_000_000 + "x\n2 b",
        "item" + " " * 3_000_000 + "x",
    ],
    ids=range(14),
)
@pytest.mark.parametrize("table", [False, True])
def test_megabytes_of_nonsense_end_soon(text, table):
    """Each took minutes or gigabytes, or raised what is no ValueError.

    The wall clock is generous; `ast` alone takes 500 times the text.
    """
    began = time.monotonic()
    tracemalloc.start()
    try:
        parse_labels(text, table=table, limits=Limits(labels=20_000))
    except (ValueError, RecursionError):
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 200 * len(text)
    assert time.monotonic() - began < 60


def test_a_label_of_any_length_is_read():
    long = "x" * 1_000_000
    assert parse_labels(f"['{long}', 'b']") == [long, "b"]
    assert parse_labels(json.dumps({"0": long, "1": "b"})) == [long, "b"]
    assert parse_labels(f"{long}\nb") == [long, "b"]
    assert find_label(long.upper(), [long, "b"], 2) == 0
    tower = "a" + "\u0323\u0301" * 200_000  # marks without end, in linear time
    assert find_label(tower, [tower, "b"], 2) == 0


def test_what_is_too_much_says_how_to_allow_it(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_text("a\nb\nc\n")
    with pytest.raises(LabelsRejected, match=r"has 6 bytes, over the limit of 5.*Limits\(text_bytes=6\)"):
        read_labels(path, Limits(text_bytes=5))
    with pytest.raises(LabelsRejected, match=r"more labels than the limit of 2.*labels=none"):
        read_labels(path, Limits(labels=2))
    assert read_labels(path, Limits(text_bytes=6, labels=3)) == ["a", "b", "c"]
