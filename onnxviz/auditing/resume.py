"""Going on with what was interrupted, where nothing has changed since: an audit with its report's checks."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from onnxviz.auditing.accept import read_text
from onnxviz.auditing.finding import Check, Evidence, Finding, Rule
from onnxviz.auditing.policy import Policy
from onnxviz.auditing.subject import Subject
from onnxviz.errors import UsageError, ways
from onnxviz.file_set import FOLDER_HEAD
from onnxviz.files import json_bytes, sha256
from onnxviz.text import quoted

#: What the checks of a report rest on, in its manifest: a digest of each.
RESTS: Final = "rests_on"
_WORDS: Final = {
    "model": "the model",
    "recipe": "how pictures become its input",
    "pictures": "the pictures",
    "request": "the policy, the labels, the masks or the seed",
    "version": "onnxviz itself",
}
_MADE: Final = ("found", "clean", "not-applicable")
_LARGEST: Final = 2**28  # bytes of a report
_FIELDS: Final = ("id", "severity", "figure", "threshold", "where", "sentence", "advice", "headline")
_OF_A_CHECK: Final = ("id", "title", "state", "reason", "figure", "threshold", "limits", "figures", "measure")


def rests(subject: Subject, plan: Policy, version: str) -> dict[str, str]:
    """What the checks rest on, a digest of each."""
    net = subject.net
    masks = [(place, _print(path)) for place, path in (subject.masks or {}).items()]
    request = [repr(plan), repr(subject.truth), masks, subject.seed, net.provider]
    return {
        "model": net.digest,
        "recipe": digest(net.preprocessing.to_dict()),
        "pictures": pictured(subject.images),
        "request": digest(repr(request)),
        "version": version,
    }


def digest(values: Any) -> str:
    """Of plain values."""
    return hashlib.sha256(json_bytes(values)).hexdigest()


def pictured(images: Sequence[Any]) -> str:
    """A digest of pictures, in order."""
    return digest([_print(one) for one in images])


def _print(image: Any) -> str:
    if isinstance(image, (str, os.PathLike)):
        try:
            return sha256(image)
        except OSError:
            return f"unreadable {os.fspath(image)}"
    return hashlib.sha256(np.ascontiguousarray(np.asarray(image)).tobytes()).hexdigest()


def made(
    folder: str | os.PathLike[str], now: Mapping[str, str], rules: Mapping[str, Rule]
) -> dict[str, Check]:
    """The checks of an earlier report that need not be made again, by id; none where there is no report.

    raises   UsageError where the report is of something else, naming what has changed
    """
    place = Path(folder)
    if earlier(place, now, "audit", _WORDS) is None:
        return {}
    report = read(place / "report.json")
    findings = {one["fingerprint"]: one for one in report.get("findings", [])}
    checks = [one for one in report.get("checks", []) if one["id"] in rules and one["state"] in _MADE]
    return {one["id"]: _check(one, findings, place) for one in checks}


def earlier(
    folder: str | os.PathLike[str], now: Mapping[str, str], kind: str, words: Mapping[str, str]
) -> dict[str, Any] | None:
    """The manifest of an earlier report that can be gone on with; None where there is no report.

    now     what it has to rest on: digests by name
    kind    'audit'
    words   what is said to have changed, by name
    raises  UsageError where the report is of something else, naming what has changed
    """
    place = Path(folder)
    if not (place / FOLDER_HEAD).exists():
        return None
    manifest = read(place / FOLDER_HEAD)
    before = manifest.get(RESTS)
    if manifest.get("schema") != f"onnxviz.{kind}/1" or not isinstance(before, dict):
        raise refusal(f"{quoted(place)} holds no {kind} that can be gone on with")
    changed = [word for key, word in words.items() if before.get(key) != now[key]]
    if changed:
        told = f"{' and '.join(changed)} changed since the {kind} in {quoted(place)} was made"
        raise refusal(told, "give another --out")
    return manifest


def refusal(text: str, *more: str) -> UsageError:
    """Why nothing can be gone on with, and what to do."""
    return UsageError(f"--resume: {text}" + ways("leave out --resume", *more))


def read(path: Path) -> dict[str, Any]:
    """A JSON object of an earlier report.

    raises   UsageError
    """
    try:
        found = json.loads(read_text(path, "an earlier report", _LARGEST))
    except UsageError as error:
        raise refusal(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise refusal(f"cannot read an earlier report from {quoted(path)}: {error}") from error
    if not isinstance(found, dict):
        raise refusal(f"{quoted(path)} is no report")
    return found


def _check(one: dict[str, Any], findings: Mapping[str, dict[str, Any]], place: Path) -> Check:
    told = [findings[name] for name in one["findings"] if name in findings]
    return Check(
        **{key: one[key] for key in _OF_A_CHECK},
        findings=tuple(
            Finding(**{key: each[key] for key in _FIELDS if key in each}, evidence=_shown(each, place))
            for each in told
        ),
        evidence=_shown(one, place),
    )


def _shown(one: Mapping[str, Any], place: Path) -> tuple[Evidence, ...]:
    return tuple(_evidence(part, place) for part in one["evidence"])


def _evidence(one: dict[str, Any], place: Path) -> Evidence:
    """Evidence from its files; what is gone is left out."""
    picture, table = None, None
    if one["picture"] and (file := _inside(place, one["picture"])) is not None:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
    if one["table"] and (file := _inside(place, one["table"])) is not None:
        table = _columns(file.read_text("utf-8"))
    return Evidence(one["caption"], picture, table)


def _inside(place: Path, name: str) -> Path | None:
    """A file of the report; None for one that is gone, or lies elsewhere."""
    path = (place / name).resolve()
    return path if path.is_file() and path.is_relative_to(place.resolve()) else None


def _columns(text: str) -> dict[str, Sequence[Any]]:
    rows = list(csv.reader(io.StringIO(text)))
    return {name: [_cell(row[i]) for row in rows[1:]] for i, name in enumerate(rows[0])} if rows else {}


def _cell(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text.removeprefix("'") or None
