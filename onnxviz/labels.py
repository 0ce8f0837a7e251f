"""The names of the classes: reading them from any of the usual files, and finding a class by its index or name."""

from __future__ import annotations

import ast
import csv
import json
import operator
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from onnxviz.errors import LabelsRejected, UnknownLabel, near, ways
from onnxviz.limits import Limits
from onnxviz.text import composed

_MOST_COLUMNS: Final = 100  # of a table; a longer line is text with commas
_EXPECTED: Final = (
    "expected one label a line, a JSON or Python list, {index: label}, or a table of index and label"
)
# 0: tench · 0,tench · 0<tab>tench; with spaces alone only where the numbers are exactly those of the classes.
_NUMBERED: Final = re.compile(r"\s*(\d{1,9})\s*(?:[,;:|\t]|\s=)\s*(.*)")
_SPACED: Final = re.compile(r"\s*(\d{1,9}) +(.*)")
_APART: Final = " \t,;:|="
# ImageNet's synset.txt: n01440764 tench, Tinca tinca
_SYNSET: Final = re.compile(r"\s*(n\d{8})[\s,:;]+(\S.*)")
_HEADINGS: Final = ("label", "name", "class_name", "classname", "display_name", "class", "description")
# Of a Python literal: a text, a number, None or a truth value, a mark. Anything else is no literal of labels.
_LITERAL: Final = re.compile(
    r"""[uU]?('[^'\\\n]*(?:\\.[^'\\\n]*)*'|"[^"\\\n]*(?:\\.[^"\\\n]*)*")"""
    r"""|([+-]?\d+(?:\.\d+)?)|(None|True|False)|([{}\[\](),:])|\s+|\#[^\n]*"""
)


def read_labels(
    source: str | os.PathLike[str] | Sequence[str] | Mapping[Any, Any], limits: Limits | None = None
) -> list[str]:
    """Labels in class order from a list, a mapping from index to label, 'imagenet', or a file (see `parse_labels`).

    raises   LabelsRejected
    """
    limits = limits or Limits()
    if not isinstance(source, (str, os.PathLike)):
        try:
            return _labels(source)
        except ValueError as error:
            raise LabelsRejected(f"the labels given cannot be used: {error}") from error
    path = Path(source)
    if str(source) == "imagenet":
        from onnxviz.catalogue import data_file

        path = data_file("imagenet-labels.txt")
    try:
        if not path.is_file():
            raise LabelsRejected(f"no labels file at {str(path)!r}; give a text file with one label a line")
        size = path.stat().st_size
        if size > limits.text_bytes:
            raise LabelsRejected(
                f"{str(path)!r} has {size} bytes, over the limit of {limits.text_bytes} for a labels file"
                + ways(f"raise it: --limit text_bytes={size}")
            )
        data = path.read_bytes()
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise LabelsRejected(f"{str(path)!r} is UTF-16 text; save it as UTF-8")
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LabelsRejected(
            f"{str(path)!r} is no UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
    except (OSError, ValueError) as error:
        raise LabelsRejected(f"cannot read labels from {str(path)!r}: {error}") from error
    try:
        if path.suffix.lower() == ".json":
            return _bounded(_labels(_json(text)), limits)
        return parse_labels(text, table=path.suffix.lower() in (".csv", ".tsv"), limits=limits)
    except (ValueError, RecursionError) as error:
        raise LabelsRejected(f"{str(path)!r} is not a labels file: {error}; {_EXPECTED}") from error


def parse_labels(text: str, *, table: bool = False, limits: Limits | None = None) -> list[str]:
    """Labels in class order from the text of a file, whatever the usual form; told by what it holds.

    One a line; lines that start with the index or ImageNet's synset; a JSON or Python list, or {index: label} (a value
    such as ["n01440764", "tench"] counts by its last text), also within Hugging Face's id2label; {label: index}; CSV or
    TSV with a column of indices; the names of a YOLO data file.

    table    it is a CSV or TSV file: the first line may name the columns
    limits   `labels`: more are refused before they are made
    raises   ValueError, with what is wrong in words
    """
    limits = limits or Limits()
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _bounded(_read(text, table, limits.labels), limits)


def _bounded(labels: list[str], limits: Limits) -> list[str]:
    if not labels:
        raise ValueError("it holds no labels")
    _check_most(len(labels), limits.labels)
    return labels


def _check_most(count: int, most: int) -> None:
    if count > most:
        raise ValueError(
            f"it holds more labels than the limit of {most}; if they are meant: --limit labels=none"
        )


def _read(text: str, table: bool, most: int) -> list[str]:
    """The labels of a text that is one of the usual forms; see `parse_labels`."""
    if text.lstrip()[:1] in ("{", "["):
        try:
            value = _json(text)
        except json.JSONDecodeError:
            value = _literal(text, most)
        return _labels(value)
    _check_most(text.count("\n") // 2, most)  # empty lines and the ends of a file are no labels
    names = _yaml_names(text, most)
    if names is not None:
        return names
    if re.search(r"^[ \t]*item\s*\{", text, re.MULTILINE):
        raise ValueError("it is a TensorFlow label map (item { ... })")
    lines = [line.strip() for line in text.split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    if not any(lines):
        raise ValueError("it holds no labels")
    return (_table(text) if table else None) or _numbered(lines) or _synsets(lines) or lines


def _json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"{key[:60]!r} stands in it twice")
            found[key] = value
        return found

    return json.loads(text, object_pairs_hook=unique)


def _literal(text: str, most: int) -> Any:
    """The list or dictionary that Python text such as {0: 'tench', 1: 'goldfish'} means.

    It is turned into JSON piece by piece: `ast.literal_eval` of the whole would take 500 times the text's size.

    most     labels at most: a label takes four pieces and perhaps spaces
    """
    pieces: list[str] = []
    at = 0
    while at < len(text):
        _check_most(len(pieces) // 5, most)
        token = _LITERAL.match(text, at)
        if token is None:
            raise ValueError(f"neither JSON nor a Python list or dictionary at character {at}")
        string, number, word, mark = token.groups()
        if string is not None:
            pieces.append(json.dumps(_unescaped(string) if "\\" in string else string[1:-1]))
        elif number is not None:
            pieces.append(number.lstrip("+"))
        elif word is not None:
            pieces.append({"None": "null"}.get(word, word.lower()))
        elif mark is not None:
            if mark in "]})" and pieces and pieces[-1] == ",":
                pieces.pop()
            if mark == ":" and pieces and not pieces[-1].startswith('"'):
                pieces[-1] = json.dumps(pieces[-1])
            pieces.append({"(": "[", ")": "]"}.get(mark, mark))
        at = token.end()
    return _json("".join(pieces))


def _unescaped(string: str) -> str:
    try:
        return str(ast.literal_eval(string))
    except SyntaxError as error:  # '\x' without its digits
        raise ValueError(f"{string[:60]} is no Python text") from error


def _labels(value: Any) -> list[str]:
    """Labels in class order from what a file or a caller holds: a list, {index: label} or {label: index}."""
    if isinstance(value, Mapping):
        for key in ("id2label", "names", "label2id", "class_to_idx"):
            if isinstance(value.get(key), (Mapping, list)):
                return _labels(value[key])
        named = not all(_is_index(key) for key in value)
        if named and all(isinstance(index, int) and not isinstance(index, bool) for index in value.values()):
            return _in_order((index, label) for label, index in value.items())
        if named:
            wrong = next(key for key in value if not _is_index(key))
            raise ValueError(f"{str(wrong)[:60]!r} is no class index")
        return _in_order((int(index), label) for index, label in value.items())
    if isinstance(value, (str, bytes, set, frozenset)) or not isinstance(value, Iterable):
        raise ValueError("neither a list nor an object of index: label")
    listed = [_label(label) for label in value]
    if not listed:
        raise ValueError("it holds no labels")
    return listed


def _is_index(key: object) -> bool:
    text = str(key).strip()
    return not isinstance(key, bool) and text.isdecimal() and len(text) < 10


def _label(value: Any) -> str:
    """One class's name: a text; or the last text of a list, as Keras keeps ["n01440764", "tench"]."""
    if isinstance(value, Mapping):
        value = next((value[key] for key in _HEADINGS if isinstance(value.get(key), str)), value)
    if isinstance(value, (list, tuple)):
        value = next((one for one in reversed(value) if isinstance(one, str)), value)
    if isinstance(value, (Mapping, list, tuple)) or value is None:
        raise ValueError(f"{str(value)[:60]!r} is no label")
    return str(value).strip()


def _in_order(pairs: Iterable[tuple[int, Any]]) -> list[str]:
    """Labels of (index, label), in any order.

    raises   ValueError where an index is missing or stands twice
    """
    found: dict[int, str] = {}
    for index, label in pairs:
        if index in found:
            raise ValueError(f"class {index} stands in it twice")
        found[index] = _label(label)
    if not found:
        raise ValueError("it holds no labels")
    missing = next((index for index in range(len(found)) if index not in found), None)
    if missing is not None:
        raise ValueError(
            f"class {missing} has no label: the indices go from {min(found)} to {max(found)}, "
            f"and {len(found)} labels need 0 to {len(found) - 1}"
        )
    return [found[index] for index in range(len(found))]


def _numbered(lines: Sequence[str]) -> list[str] | None:
    """Labels of lines that all start or all end with the class's index; None where they do not."""
    full = [line for line in lines if line]
    for form in (_NUMBERED, _SPACED):
        rows = [form.fullmatch(line) for line in full]
        first = 1 if rows[0] is None and len(rows) > 1 and _heading(full[0]) else 0  # index,label
        found = [(int(row[1]), _unquoted(row[2])) for row in rows[first:] if row is not None]
        if len(found) < len(rows) - first:
            continue
        if form is _SPACED and sorted(index for index, _ in found) != list(range(len(found))):
            continue  # '3 of clubs', '4 of clubs'
        return _in_order(found)
    behind = [pair for pair in map(_behind, full) if pair is not None]
    # Where no two names are alike without it, as those of 'grade 0' and 'grade 1' are.
    whole = sorted(index for index, _ in behind) == list(range(len(full)))
    if whole and len(full) > 1 and len({name for _, name in behind}) == len(full):
        return _in_order(behind)
    return None


def _behind(line: str) -> tuple[int, str] | None:
    """(0, 'tench') of tench 0 · tench,0 · tench: 0; in time that does not grow with what stands before."""
    number = re.search(r"\d{1,9}$", line[-10:])
    before = line[: len(line) - len(number[0])] if number is not None else ""
    name = before.rstrip(_APART)
    return (int(number[0]), _unquoted(name)) if number is not None and name and name != before else None


def _heading(line: str) -> bool:
    words = set(re.split(r"[,;|\t ]+", line.casefold()))
    return bool(words & {"id", "idx", "index", "class_id", "class_index", "class", "category_id", "target"})


def _unquoted(text: str) -> str:
    text = text.strip().rstrip(",") if text.strip()[:1] in "'\"" else text.strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return text[1:-1].replace(text[0] * 2, text[0]) if quoted else text


def _synsets(lines: Sequence[str]) -> list[str] | None:
    rows = [_SYNSET.fullmatch(line) for line in lines if line]
    return [row[2].strip() for row in rows if row is not None] if all(rows) else None


def _table(text: str) -> list[str] | None:
    """Labels of a CSV or TSV file whose lines all have the same columns; None where they do not."""
    first = text.lstrip("\n").split("\n", 1)[0]
    mark = max("\t;,", key=first.count)
    if first.count(mark) >= _MOST_COLUMNS:
        return None
    rows: list[list[str]] = []
    try:
        for row in csv.reader(text.split("\n"), delimiter=mark):
            if row and rows and len(row) != len(rows[0]):
                return None
            if row:
                rows.append([cell.strip() for cell in row])
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if not rows:
        return None
    head = [cell.casefold().replace(" ", "_") for cell in rows[0]]
    named = next((head.index(word) for word in _HEADINGS if word in head), None)
    columns = list(range(len(head)))

    def whole(column: int, body: list[list[str]]) -> bool:
        return all(_is_index(row[column]) for row in body)

    headed = (
        named is not None
        or (_heading(rows[0][0]) and len(rows) > 1)
        or any(whole(column, rows[1:]) and not whole(column, rows[:1]) for column in columns if len(rows) > 1)
    )
    body = rows[1:] if headed else rows
    if not body:
        return None
    numbers = [column for column in columns if whole(column, body) and (column != named or len(columns) == 1)]
    texts = [column for column in columns if column not in numbers]
    words = [column for column in texts if not all(re.fullmatch(r"n\d{8}", row[column]) for row in body)]
    if not texts:
        if len(columns) == 1:
            return [row[0] for row in body]
        texts = [numbers.pop()]  # digits are the labels' names
    label = named if named is not None and named in texts else (words or texts)[0]
    if not numbers:
        return [row[label] for row in body]
    return _in_order((int(row[numbers[0]]), row[label]) for row in body)


def _yaml_names(text: str, most: int) -> list[str] | None:
    """The names of a YOLO data file: `names:` and then a list, a dictionary, or lines of either; None elsewhere."""
    start = re.search(r"^names[ \t]*:[ \t]*(.*)$", text, re.MULTILINE)
    if start is None:
        return None
    inline = start[1].split(" #")[0].strip()
    if inline[:1] in ("[", "{"):
        body = text[start.start(1) :]
        body = body[: body.find({"[": "]", "{": "}"}[inline[0]]) + 1]
        try:
            return _labels(_literal(body, most))
        except ValueError:  # bare words: [cat, dog]
            parts = [part for part in body[1:-1].split(",") if part.strip()]
            return [_unquoted(re.sub(r"^\s*\d+\s*:", "", part)) for part in parts]
    lines = []
    for full in text[start.end() :].split("\n"):
        line = re.sub(r"(^|\s)#.*", "", full).rstrip()
        if line and not line[0].isspace() and not line.startswith("-"):
            break
        if line.strip():
            lines.append(line.strip())
    if all(line.startswith("-") for line in lines):
        return [_unquoted(line[1:]) for line in lines]
    return _numbered(lines) if lines else None


def check_count(labels: Sequence[str], classes: int | None) -> None:
    """raises   LabelsRejected when the number of labels is not the number of the network's classes."""
    if classes is not None and len(labels) != classes:
        raise LabelsRejected(
            f"{len(labels)} labels were given, but the network has {classes} classes; "
            "give one label for each class, in class order"
        )


def folded(label: str) -> str:
    """A label as it is compared: whatever its case, its composition of accents (NFC, NFD), underscores or spaces."""
    plain = composed(composed(label).casefold())
    return " ".join(plain.replace("_", " ").split())


def find_label(target: int | str, labels: Sequence[str] | None, classes: int | None) -> int:
    """The class index that `target` means: an index, or a label (any case, NFC or NFD), or one of its synonyms.

    raises   UnknownLabel
    """
    if isinstance(target, str):
        if re.fullmatch(r"\s*[+-]?\d{1,18}\s*", target) and (labels is None or target not in labels):
            return find_label(int(target), labels, classes)
        if labels is None:
            raise UnknownLabel(
                f"no class is called {target!r}: this network has no labels"
                + ways("give an index", "give --labels FILE")
            )
        wanted = folded(target)
        names = [folded(label) for label in labels]
        matches = [index for index, name in enumerate(names) if name == wanted] or [
            # 'tench, Tinca tinca' lists synonyms.
            index
            for index, name in enumerate(names)
            if "," in name and wanted in (part.strip() for part in name.split(","))
        ]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UnknownLabel(f"{target!r} names classes {matches}; give one of these indices")
        raise UnknownLabel(f"no class is called {target!r}{near(target, labels, limit=5)}")
    try:
        index = operator.index(target)
    except TypeError:
        raise UnknownLabel(f"a class is an index or a label, got {target!r}") from None
    count = classes if classes is not None else len(labels or ())
    if index < 0 or (count and index >= count):
        raise UnknownLabel(f"class {index} is out of range: this network has {count} classes, from 0")
    return index
