"""The names of the classes, and finding a class by its index or name."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from onnxviz.errors import LabelsRejected, UnknownLabel, near

_LARGEST_FILE = 16 * 1024 * 1024


def read_labels(source: str | os.PathLike[str] | Sequence[str]) -> list[str]:
    """Labels in class order from a list, a text file (one a line) or a JSON file (a list, or {index: label}).

    raises   LabelsRejected
    """
    if not isinstance(source, (str, os.PathLike)):
        return [str(label) for label in source]
    path = Path(source)
    if str(source) == "imagenet":
        from onnxviz.catalogue import data_file

        path = data_file("imagenet-labels.txt")
    try:
        if not path.is_file():
            raise LabelsRejected(f"no labels file at {str(path)!r}; give a text file with one label a line")
        if path.stat().st_size > _LARGEST_FILE:
            raise LabelsRejected(f"{str(path)!r} is too large for a labels file ({_LARGEST_FILE} bytes)")
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelsRejected(f"cannot read labels from {str(path)!r}: {error}") from error
    if path.suffix.lower() == ".json":
        return _from_json(path, text)
    labels = [line.strip() for line in text.splitlines()]
    while labels and not labels[-1]:
        labels.pop()
    if not labels:
        raise LabelsRejected(f"{str(path)!r} holds no labels; expected one a line")
    return labels


def _from_json(path: Path, text: str) -> list[str]:
    try:
        value = json.loads(text)
        if isinstance(value, dict):
            # Hugging Face config.json keeps {"id2label": {"0": ...}}; others keep {"0": ...} at the top.
            value = value.get("id2label", value)
        if isinstance(value, dict):
            by_index = {int(index): str(label) for index, label in value.items()}
            value = [by_index[index] for index in range(len(by_index))]
        if not isinstance(value, list) or not value:
            raise ValueError("neither a list nor an object of index: label")
        return [str(label) for label in value]
    except (ValueError, KeyError, RecursionError) as error:
        raise LabelsRejected(
            f"{str(path)!r} is not a labels file: {error}; expected a JSON list, or an object from index to label"
        ) from error


def check_count(labels: Sequence[str], classes: int | None) -> None:
    """raises   LabelsRejected when the number of labels is not the number of the network's classes."""
    if classes is not None and len(labels) != classes:
        raise LabelsRejected(
            f"{len(labels)} labels were given, but the network has {classes} classes; "
            "give one label for each class, in class order"
        )


def find_label(target: int | str, labels: Sequence[str] | None, classes: int | None) -> int:
    """The class index that `target` means: an index, or a label (any case).

    raises   UnknownLabel
    """
    if isinstance(target, str):
        if target.strip().lstrip("+-").isdigit() and (labels is None or target not in labels):
            return find_label(int(target), labels, classes)
        if labels is None:
            raise UnknownLabel(
                f"no class is called {target!r}: this network has no labels; give an index or --labels FILE"
            )
        folded = [label.casefold() for label in labels]
        matches = [index for index, label in enumerate(folded) if label == target.casefold()]
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise UnknownLabel(f"{target!r} names classes {matches}; give one of these indices")
        raise UnknownLabel(f"no class is called {target!r}{near(target.casefold(), folded)}")
    index = int(target)
    count = classes if classes is not None else len(labels or ())
    if index < 0 or (count and index >= count):
        raise UnknownLabel(f"class {index} is out of range: this network has {count} classes, from 0")
    return index
