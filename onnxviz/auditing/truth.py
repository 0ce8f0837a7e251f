"""What the pictures really show: classes from a table, or from the folders that they lie in."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from onnxviz.auditing import accept
from onnxviz.errors import UnknownLabel, UsageError
from onnxviz.labels import find_label
from onnxviz.limits import Limits
from onnxviz.text import quoted

#: In place of a table: each picture's class is called as its folder.
FOLDERS: Final = "folders"
# What the first line of a table may say of its columns.
_NAMES: Final = frozenset({"file", "filename", "image", "img", "name", "path", "picture", "id"})
_EXPECTED: Final = "expected lines of picture and class, such as photos/cat.jpg,285, or 'folders'"


def read_truth(
    source: Any,
    pictures: Sequence[Any],
    labels: Sequence[str] | None,
    classes: int | None,
    limits: Limits | None = None,
) -> list[int | None]:
    """The class index of each picture, None where it is not known.

    source     a CSV file of picture and class (an index or a label), with or without a head; 'folders': the name of
               each picture's folder; {path or file name: class}; or a class for each picture in their order
    pictures   paths, or anything else, which has no name
    labels     the classes' names, where there are any
    raises     UsageError: no such file, a class that there is none of, no picture that has one
    """
    if isinstance(source, (str, os.PathLike)) and os.fspath(source) == FOLDERS:
        named: Any = [
            Path(one).parent.name if isinstance(one, (str, os.PathLike)) else None for one in pictures
        ]
    elif isinstance(source, (str, os.PathLike)):
        named = _looked_up(_table(Path(source), limits or Limits()), pictures, Path(source).parent)
    elif isinstance(source, Mapping):
        named = _looked_up({os.fspath(name): one for name, one in source.items()}, pictures, Path())
    else:
        named = list(source)
        if len(named) != len(pictures):
            raise UsageError(
                f"{len(named)} true classes were given for {len(pictures)} pictures; give one for each"
            )
    known: dict[Any, int] = {}
    for one in named:
        if one is not None and one not in known:
            try:
                known[one] = find_label(one, labels, classes)
            except UnknownLabel as error:
                raise UnknownLabel(f"true class {quoted(one)}: {error}") from error
    if not known:
        raise UsageError(f"none of the {len(pictures)} pictures has a true class there; {_EXPECTED}")
    return [None if one is None else known[one] for one in named]


def _looked_up(table: Mapping[str, Any], pictures: Sequence[Any], beside: Path) -> list[Any]:
    """What a table says of each picture: by its path, from where the table lies too, or by its file name alone.

    A name counts that the table has without a folder, or that is there once in the table and among the pictures.
    """
    paths = {os.path.normpath(name): one for name, one in table.items()}
    paths |= {os.path.normpath(beside / name): one for name, one in table.items()}
    own = [os.fspath(one) if isinstance(one, (str, os.PathLike)) else None for one in pictures]
    often = Counter(_last(path) for path in own if path is not None)
    called = Counter(map(_last, table))
    short = {
        _last(name): one
        for name, one in table.items()
        if name == _last(name) or called[_last(name)] == often[_last(name)] == 1
    }
    return [
        None if path is None else paths.get(os.path.normpath(path), short.get(_last(path))) for path in own
    ]


def _last(path: str) -> str:
    """The file's name in a path, whichever system wrote it."""
    return re.split(r"[/\\]", path)[-1]


def _table(path: Path, limits: Limits) -> dict[str, str]:
    """{picture: class} of a CSV or TSV file."""
    try:
        text = accept.read_text(path, "true classes", limits.text_bytes)
    except UsageError as error:
        raise UsageError(f"{error}; {_EXPECTED}") from error
    separator = next((one for one in ("\t", ";", ",") if one in text.partition("\n")[0]), ",")
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=separator) if any(map(str.strip, row))]
    except csv.Error as error:
        raise UsageError(f"{quoted(path)} is no table: {error}; {_EXPECTED}") from error
    if rows and rows[0][0].strip().casefold() in _NAMES:
        rows = rows[1:]
    short = next((row for row in rows if len(row) < 2), None)
    if short is not None or not rows:
        raise UsageError(f"{quoted(path)} is no table of picture and class; {_EXPECTED}")
    return {row[0].strip(): row[1].strip() for row in rows}
