"""What is on a report: a verdict, key figures, checks with their findings, and sections of blocks.

Everything here is content: any text may come from a stranger's file, and how it looks is `html`'s business alone.
"""

from __future__ import annotations

import os
import re
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal

import numpy as np

from onnxviz.auditing.finding import Check, Finding, counts, ordered
from onnxviz.tables import Columns
from onnxviz.text import file_name

Verdict = Literal["pass", "fail", "incomplete"]


@dataclass(frozen=True)
class Text:
    """Paragraphs (an empty line parts them; `words between` these are typed as they stand), what can be copied out of
    them (a command, names), a heading, and a file beside the page that says more."""

    text: str = ""
    code: str = ""
    head: str = ""
    link: str = ""


@dataclass(frozen=True)
class Steps:
    """What to do, in this order."""

    items: Sequence[Text]


@dataclass(frozen=True)
class Table:
    """Columns as rows that a reader can sort.

    columns   as in `tables`: numbers stand right, aligned, None and NaN as a dash
    caption   what a row is
    bars      columns whose numbers (>= 0) are drawn as bars too, and what a full bar is; None: the column's largest
    formats   how a column's numbers are written, as `format` takes it ('.1%', '.2f'); else three digits
    hints     what a column means, under the table
    links     by column, a link for each row: '#anchor' on this page, or a file of the report such as
              'evidence/a.png'; '' for none
    marked    rows to look at first
    sort      the column that the rows are in the order of already, if any, largest first
    file      the name (without ending) under which all rows are written beside the page, as CSV and, where pyarrow is
              installed, Parquet; '': only on the page
    most      rows that the page shows; the others are in the file
    """

    columns: Columns
    caption: str = ""
    bars: Mapping[str, float | None] = field(default_factory=dict)
    formats: Mapping[str, str] = field(default_factory=dict)
    hints: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, Sequence[str]] = field(default_factory=dict)
    marked: Sequence[int] = ()
    sort: str = ""
    file: str = ""
    most: int = 300


@dataclass(frozen=True)
class Part:
    """A part of a whole: its share (>= 0; parts are drawn by what they are of their sum) and a word on it."""

    name: str
    share: float
    note: str = ""


@dataclass(frozen=True)
class Split:
    """One bar of parts that make a whole."""

    parts: Sequence[Part]
    caption: str = ""


@dataclass(frozen=True)
class Figure:
    """A picture as it was drawn, PIL image or file; several in a row stand beside each other unless they are `wide`."""

    picture: Any
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Layer:
    """A map that can be laid over a photo: a picture of the photo's shape, as `heat` makes it.

    method   what made it, a tab in the lightbox
    target   what it explains (a class), the other row of tabs
    """

    method: str
    target: str
    picture: Any


@dataclass(frozen=True)
class Photo:
    """One picture of a gallery.

    name      what it is called
    picture   what the network sees of it: PIL image, (H, W, 3) uint8, a file, or a WebP file (bytes, `Stored`)
    note      one short line under the name: the answer, how far it drifted
    answers   classes with probabilities, best first
    layers    what can be laid over it
    mark      a word that sets it apart ('wrong'), or ''
    place     where it lies on the gallery's map, two numbers; None: nowhere
    """

    name: str
    picture: Any
    note: str = ""
    answers: Sequence[tuple[str, float]] = ()
    layers: Sequence[Layer] = ()
    mark: str = ""
    place: tuple[float, float] | None = None


@dataclass(frozen=True)
class Gallery:
    """Photos as a grid; each opens in a lightbox with its answers and its layers.

    laid   whether each photo's layers, which are few, stand beside it from the first, laid over it
    """

    photos: Sequence[Photo]
    caption: str = ""
    laid: bool = False


Block = Text | Steps | Table | Split | Figure | Gallery


@dataclass(frozen=True)
class Section:
    """A part of the page under a title of its own.

    lead     one sentence on what it answers
    anchor   its place on the page; '': after the title
    """

    title: str
    blocks: Sequence[Block]
    lead: str = ""
    anchor: str = ""


@dataclass(frozen=True)
class Number:
    """A figure that is read first: '97 %', 'same answer where the network is sure', '86 to 99 %'."""

    value: str
    name: str
    note: str = ""


@dataclass(frozen=True)
class Page:
    """A whole report.

    kind       the command: 'audit', 'compare' or 'report'; the report's schema is `onnxviz.KIND/1`
    title      what it is about: a file, or two
    verdict    None for a page without one
    lead       sentences that say all in a few words, also what was not looked at
    numbers    three to five figures to be read first
    facts      who, what, with what: digests, versions, machine, `--by`; in the order in which they are shown
    when       the time of the run, with a time zone; None: not told
    checks     all checks, also those that did not run; their findings are the report's
    accepted   reason (and until when) by fingerprint, of findings that somebody has accepted
    fail_on    the severity from which on a finding counts; 'never': none does
    sections   behind findings and before the checks
    figures    all that was measured, by name, for the JSON alone
    model      the path of the file that is judged, as given, for SARIF
    clauses    whether a table tells which clauses of laws and standards the checks are evidence towards
    """

    kind: str
    title: str
    verdict: Verdict | None = None
    lead: Sequence[str] = ()
    numbers: Sequence[Number] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    when: datetime | None = None
    checks: Sequence[Check] = ()
    accepted: Mapping[str, str] = field(default_factory=dict)
    fail_on: str = "high"
    sections: Sequence[Section] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    clauses: bool = False

    @property
    def schema(self) -> str:
        """The name of its JSON form."""
        return f"onnxviz.{self.kind}/1"

    @property
    def findings(self) -> list[Finding]:
        """Of all checks: first those that nobody accepted, the gravest before the others."""
        return ordered(self.checks, self.accepted)

    def counts(self, finding: Finding) -> bool:
        """Whether a finding is as grave as `fail_on`, and not accepted."""
        return counts(finding, self.fail_on, self.accepted)


def heat(method: str, target: str, values: np.ndarray, *, signed: bool = False) -> Layer:
    """A layer of a map (h, w): negative values in blue where it is `signed`, else from dark to bright."""
    from onnxviz.figures.heat import diverging, normalise, sequential

    scaled, _ = normalise(values, signed=signed)
    return Layer(method, target, diverging(scaled) if signed else sequential(scaled))


def evidence_files(page: Page) -> dict[int, str]:
    """Where each evidence of the checks is written, without ending: `evidence/CHECK-1`, by the object's `id`."""
    return {
        id(one): f"evidence/{file_name(check.id)}-{number}"
        for check in page.checks
        for number, one in enumerate(check.shown, start=1)
    }


_BESIDE: Final = re.compile(r"(?!/)[^:?#\\]*(#[^:]*)?")


def safe_link(link: str) -> str:
    """A link that stays on the page or among the report's files; '' of any other: a scheme, a host, a way up."""
    return link if _BESIDE.fullmatch(link) and not link.startswith("//") and ".." not in link else ""


class Spool:
    """A temporary file of many pieces, gone when nobody holds one of them any more."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile(prefix="onnxviz-")  # noqa: SIM115 - closed when the spool goes
        weakref.finalize(self, self.file.close)

    def add(self, data: bytes) -> Stored | bytes:
        """The piece as it is read again; itself where the disk is full."""
        try:
            place = self.file.seek(0, os.SEEK_END)
            self.file.write(data)
            self.file.flush()
        except OSError:
            return data
        return Stored(self, place, len(data))


class Stored:
    """Bytes that are read when they are needed: `bytes(one)`, or in pieces, as `FileSet.add` takes them."""

    def __init__(self, spool: Spool, place: int, length: int) -> None:
        self._spool, self._place, self._length = spool, place, length

    def __len__(self) -> int:
        return self._length

    def __bytes__(self) -> bytes:
        self._spool.file.seek(self._place)
        return self._spool.file.read(self._length)

    def __iter__(self) -> Iterator[bytes]:
        yield bytes(self)

    def __reduce__(self) -> Any:
        return bytes, (bytes(self),)
