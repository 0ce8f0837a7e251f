"""Accepted findings: a TOML file that says which findings somebody has looked at, why they are fine, and until when.

    [[accepted]]
    fingerprint = "7f3c0a51b2d94e08"
    id = "graph.bypass"
    where = "joined"
    reason = "the padding mask of the scanner, see ticket 412"
    until = 2027-06-30

An entry without a reason, or whose date has passed, accepts nothing. `audit` and `compare` read the same files.
"""

from __future__ import annotations

import contextlib
import json
import os
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

from onnxviz.auditing.finding import Finding
from onnxviz.errors import ImageRejected, UsageError, near
from onnxviz.image.io import read_bytes
from onnxviz.text import quoted, visible

_KEYS: Final = ("fingerprint", "id", "where", "reason", "until")
_LARGEST: Final = 2**24  # bytes of such a file
_DIGITS: Final = 16


@dataclass(frozen=True)
class Entry:
    """One accepted finding.

    until   the last day; None: without end
    """

    fingerprint: str
    id: str = ""
    where: str = ""
    reason: str = ""
    until: date | None = None

    def refused(self, today: date) -> str:
        """Why it accepts nothing; '' where it does."""
        if not self.reason.strip():
            return "it gives no reason"
        return f"it ended on {self.until}" if self.until is not None and self.until < today else ""


def apply(
    entries: Sequence[Entry], findings: Iterable[Finding], today: date | None = None
) -> tuple[dict[str, str], list[str]]:
    """Which findings the entries accept: {fingerprint: the reason, and until when}; and a line for each entry that
    accepted nothing: unused, out of date, without a reason.

    today   None: the day of this machine's clock
    """
    day = today or date.today()
    there = {finding.fingerprint for finding in findings}
    accepted: dict[str, str] = {}
    notes = []
    for entry in entries:
        reason = entry.refused(day)
        if reason:
            notes.append(f"the accepted finding {_called(entry)} does not count: {reason}")
        elif entry.fingerprint not in there:
            notes.append(
                f"the accepted finding {_called(entry)} is not among the findings: it can be removed"
            )
        else:
            end = f" (until {entry.until})" if entry.until is not None else ""
            accepted[entry.fingerprint] = f"{entry.reason.strip()}{end}"
    return accepted, notes


def _called(entry: Entry) -> str:
    place = f" at {quoted(entry.where)}" if entry.where else ""
    return quoted(entry.fingerprint) + (f" ({quoted(entry.id)}{place})" if entry.id else "")


def read(source: str | os.PathLike[str] | Sequence[Entry] | None) -> tuple[Entry, ...]:
    """The entries of a file; of None, none.

    raises   UsageError: no such file, no TOML, an unknown key, a fingerprint or date that is none
    """
    if source is None:
        return ()
    if not isinstance(source, (str, os.PathLike)):
        return tuple(source)
    table = toml(source, "accepted findings")
    unknown = next((key for key in table if key != "accepted"), None)
    entries = table.get("accepted", [])
    sound = isinstance(entries, list) and all(isinstance(one, dict) for one in entries)
    if unknown is not None or not sound:
        what = "" if unknown is None else f": it has {quoted(unknown)}"
        raise UsageError(
            f"{quoted(os.fspath(source))} holds no [[accepted]] entries alone{what}; each is [[accepted]], "
            'fingerprint = "…" (the report gives it), reason = "…"'
        )
    return tuple(_entry(one, number, os.fspath(source)) for number, one in enumerate(entries, 1))


def _entry(given: dict[str, Any], number: int, source: str) -> Entry:
    place = f"entry {number} of {quoted(source)}"
    for key, value in given.items():
        if key not in _KEYS:
            raise UsageError(
                f"{place} has an unknown key {quoted(key)}{near(key, _KEYS)}; an entry has a fingerprint and a reason, "
                "and may have an id, where, and until"
            )
        if key != "until" and not isinstance(value, str):
            raise UsageError(f"{place}: {key} is a text, got {value!r}")
    until = given.get("until") or None
    if isinstance(until, str):
        with contextlib.suppress(ValueError):
            until = date.fromisoformat(until)
    if isinstance(until, datetime):
        until = until.date()
    if until is not None and not isinstance(until, date):
        told = quoted(until) if isinstance(until, str) else repr(until)
        raise UsageError(f"{place}: until is a date such as 2027-06-30, got {told}")
    fingerprint = given.get("fingerprint", "").strip().lower()
    if len(fingerprint) != _DIGITS or not all(c in "0123456789abcdef" for c in fingerprint):
        raise UsageError(
            f"{place}: a fingerprint has {_DIGITS} hexadecimal digits (the report gives it), got {quoted(fingerprint)}"
        )
    return Entry(**{**given, "fingerprint": fingerprint, "until": until})


def toml(source: str | os.PathLike[str], what: str) -> dict[str, Any]:
    """A TOML file as a dictionary.

    what     what the file holds, in the plural
    raises   UsageError
    """
    try:
        return tomllib.loads(read_text(source, what, _LARGEST))
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is a ValueError
        raise UsageError(f"cannot read {what} from {quoted(Path(source))}: {visible(str(error))}") from error


def read_text(source: str | os.PathLike[str], what: str, most: int) -> str:
    """The text of a file that somebody wrote for an audit; a device or a pipe, which may have no end, is refused.

    what     what the file holds, in the plural
    most     bytes
    raises   UsageError
    """
    path = Path(source)
    try:
        if path.is_file() and path.stat().st_size == 0:
            return ""
        return read_bytes(os.fspath(path), quoted(path), most).decode("utf-8-sig")
    except (ImageRejected, OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        reason = str(error).removeprefix(f"{quoted(path)}: ")
        raise UsageError(f"cannot read {what} from {quoted(path)}: {visible(reason)}") from error


def skeleton(findings: Iterable[Finding]) -> bytes:
    """A file of entries for these findings, each to be given a reason, or taken out."""
    parts = ["# Each needs a reason, or it accepts nothing. until is the last day on which it does.\n"]
    for finding in findings:
        sentence = " ".join(visible(finding.sentence).split())
        parts.append(
            f"\n# {finding.severity}: {sentence}\n[[accepted]]\nfingerprint = {_text(finding.fingerprint)}\n"
            f'id = {_text(finding.id)}\nwhere = {_text(finding.where)}\nreason = ""\n# until = 2027-06-30\n'
        )
    return "".join(parts).encode()


def _text(text: str) -> str:
    """A basic string of TOML: JSON's, but that DEL is escaped too and lone surrogates do not exist."""
    clean = text.encode("utf-8", "replace").decode("utf-8")
    return json.dumps(clean, ensure_ascii=False).replace("\x7f", "\\u007f")
