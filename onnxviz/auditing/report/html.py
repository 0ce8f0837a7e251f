"""A page as one HTML file that asks nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Final, get_args

import numpy as np

from onnxviz.auditing.finding import SEVERITIES, State
from onnxviz.auditing.report.clauses import CLAUSES
from onnxviz.auditing.report.page import Block, Figure, Gallery, Page, Photo, Stored, Table, safe_link
from onnxviz.figures.html import data_uri, environment, harmless, loaded, webp
from onnxviz.files import png_bytes

PHOTO: Final = 448  # longest sides in pixels
_LAYER, _FIGURE, _SMALL = 224, 1600, 480
_TALLEST: Final = 4800
_ROOM: Final = 13 << 20  # of the pictures in one page, as they stand in it
_STATES: Final = {state: state.replace("-", " ") for state in get_args(State)}


@dataclass(frozen=True)
class Column:
    """A column as it is drawn: its cells' texts, sort keys, bars (0 to 1) and links."""

    name: str
    numeric: bool
    hint: str
    texts: list[str]
    keys: list[str]
    bars: list[float] | None
    links: Sequence[str]

    @property
    def widest(self) -> int:
        """Letters of the longest text."""
        return max(map(len, self.texts), default=0)


@dataclass(frozen=True)
class Grid:
    """A gallery as it is drawn: the photos that are on the page, and how many more there are."""

    photos: list[tuple[Photo, Any, list[tuple[Any, Any]]]]
    left_out: int

    @property
    def places(self) -> list[tuple[int, str, str, Photo]]:
        """Of the photos that have a place: number, x (0 to 1000) and y (0 to 280) on the map, photo; none of two."""
        numbers = [number for number, (photo, _, _) in enumerate(self.photos) if photo.place is not None]
        if len(numbers) < 3:
            return []
        placed = [self.photos[number][0] for number in numbers]
        points = np.array([photo.place for photo in placed], np.float64)
        low, span = points.min(axis=0), np.ptp(points, axis=0)
        at = (points - low) / np.where(span > 0, span, 1) * [1000, 280]
        xs, ys = ([f"{value:.1f}" for value in side] for side in at.T)
        return list(zip(numbers, xs, ys, placed, strict=True))


class _Pictures:
    """Turns pictures into what an <img> names, and keeps count of the room that they take.

    beside   None: all lie inside the page; else the files that are to be written beside it, filled here
    """

    def __init__(self, beside: dict[str, bytes | Stored] | None) -> None:
        self.beside = beside
        self.left = _ROOM
        self.figures = 0

    def figure(self, picture: Any) -> tuple[Any, int, int]:
        """A drawn picture and the size to leave room for: without loss where that is smaller; inside the page small
        where room is short. A tall sheet keeps its width, since its words are as small as those of a low one."""
        image = loaded(picture)
        side = _FIGURE if self.left > 0 else _SMALL
        if image.height > image.width:
            side = min(side * image.height // image.width, _TALLEST)
        data, kind = webp(image, side, 90), "image/webp"
        if max(image.size) <= side and len(exact := png_bytes(image)) < len(data):
            data, kind = exact, "image/png"
        shrunk = min(1.0, side / max(image.size))
        size = round(image.width * shrunk), round(image.height * shrunk)
        if self.beside is not None:
            self.figures += 1
            place = f"photos/figure-{self.figures:03d}.{kind.partition('/')[2]}"
            self.beside[place] = data
            return place, *size
        self.left -= len(data) * 4 // 3
        return data_uri(data, kind), *size

    def gallery(self, gallery: Gallery, number: int) -> Grid:
        """As many photos with their layers as there is room for."""
        found: list[tuple[Photo, Any, list[tuple[Any, Any]]]] = []
        for index, photo in enumerate(gallery.photos):
            pictures = [
                photo.picture if isinstance(photo.picture, bytes | Stored) else webp(photo.picture, PHOTO),
                *(webp(layer.picture, _LAYER, 70) for layer in photo.layers),
            ]
            if self.beside is None:
                self.left -= sum(map(len, pictures)) * 4 // 3
                if self.left < 0:
                    return Grid(found, len(gallery.photos) - index)
                places = [data_uri(bytes(data)) for data in pictures]
            else:
                places = [f"photos/{number}-{index:05d}-{i}.webp" for i in range(len(pictures))]
                self.beside.update(zip(places, pictures, strict=True))
            found.append((photo, places[0], list(zip(photo.layers, places[1:], strict=True))))
        return Grid(found, 0)


def render(page: Page, beside: dict[str, bytes | Stored] | None = None) -> bytes:
    """The page as UTF-8; all that comes from data is inert, all scripts are named by their digest.

    beside   None: galleries lie inside the page, as far as there is room (15 MB); a dictionary: it is filled with the
             files, by path, that are to lie beside the page, which loads them as they come into sight
    """
    from markupsafe import Markup, escape

    pictures = _Pictures(beside)
    env = environment()
    loader: Any = env.loader
    style, script = (loader.get_source(env, f"report.{kind}")[0] for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    numbers = iter(range(1, 1_000_000))
    seen: set[str] = set()  # findings of one check at one place share a fingerprint, and an id is given once
    env.filters |= {
        "anchor": anchor,
        "columns": lambda table: list(columns(table)),
        "shown": shown,
        "capital": lambda text: text[:1].upper() + text[1:],
        "percent": lambda value: f"{value:.1%}".replace(".0%", "%"),
        "leaf": lambda name: re.split(r"[/\\]", str(name).rstrip("/\\"))[-1],
        "paragraphs": lambda text: [part for part in re.split(r"\n\s*\n", str(text)) if part.strip()],
        "figure": pictures.figure,
        "safe_link": safe_link,
        "typed": lambda text: Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(harmless(text))))),
        "kind": lambda block: type(block).__name__.lower(),
        "grouped": grouped,
        "first_time": lambda name: not (name in seen or seen.add(name)),  # type: ignore[func-returns-value]
    }
    env.globals |= {"grid": lambda gallery: pictures.gallery(gallery, next(numbers)), "plain": Table}
    text = env.get_template("report.html.j2").render(
        page=page,
        style=Markup(style),
        script=Markup(script),
        digest=digest,
        beside=beside is not None,
        lazy=Markup(' loading="lazy"' if beside is not None else ' decoding="async"'),
        states=_STATES,
        tally=_tally(page),
        anchors=_anchors(page),
        clauses=_clauses(page),
    )
    return text.encode()


def anchor(text: Any) -> str:
    """A name for a place on the page."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", str(text)).strip("-").lower() or "part"


def shown(value: Any, spec: str = "") -> str:
    """A number with three digits (or as `spec` says), a text as it is, nothing as a dash."""
    if value is None or (isinstance(value, (float, np.floating)) and math.isnan(value)):
        return "–"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)) and not spec:
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, (int, float, np.number)):
        text = format(float(value), spec) if spec else f"{float(value):.3g}"
        return text.replace("-", "−").replace("inf", "∞")
    return str(value)


def columns(table: Table) -> Iterator[Column]:
    """The columns of a table's first rows, as they are drawn."""
    for name, given in table.columns.items():
        cells = given.tolist() if isinstance(given, np.ndarray) else list(given)
        cells = cells[: table.most]
        numeric = all(cell is None or isinstance(cell, (int, float, np.number)) for cell in cells)
        bars = None
        if name in table.bars and numeric:
            values = [0.0 if cell is None or not math.isfinite(cell) else float(cell) for cell in cells]
            full = table.bars[name] or max(values, default=0.0)
            bars = [min(1.0, max(0.0, value / full)) if full > 0 else 0.0 for value in values]
        spec = table.formats.get(name, "") if numeric else ""
        texts = [_short(shown(cell, spec)) for cell in cells]
        keys = ["" if cell is None or math.isnan(cell) else repr(float(cell)) for cell in cells if numeric]
        links = [safe_link(link) for link in table.links.get(name, ())]
        yield Column(name, numeric, table.hints.get(name, ""), texts, keys, bars, links)


def _short(text: str) -> str:
    """A digest by its beginning: nobody reads 64 digits, and the files beside the page have all of them."""
    return f"{text[:12]}…" if re.fullmatch("[0-9a-f]{64}", text) else text


def grouped(blocks: Sequence[Block]) -> list[list[Block]]:
    """Figures that follow each other together, anything else by itself."""
    return [
        group
        for figures, run in groupby(blocks, lambda block: isinstance(block, Figure))
        for group in ([list(run)] if figures else ([block] for block in run))
    ]


def _tally(page: Page) -> str:
    """How many findings there are by severity, and how many checks of each state, in words."""
    open_ = [one for one in page.findings if one.fingerprint not in page.accepted]
    severities = [one.severity for one in open_]
    found = [f"{severities.count(one)} {one}" for one in SEVERITIES if one in severities]
    several = f"{len(open_)} findings: {', '.join(found)}" if len(found) > 1 else ""
    parts = [several or f"{found[0]} finding{'s' * (len(open_) != 1)}" if found else "no finding"]
    if accepted := len(page.findings) - len(open_):
        parts.append(f"{accepted} accepted")
    states = [check.state for check in page.checks]
    for state, word in _STATES.items():
        if (count := states.count(state)) and state != "found":
            parts.append(f"{count} check{'s' * (count != 1)} {word}")
    return " · ".join(parts)


def _anchors(page: Page) -> list[str]:
    """A different one for each section."""
    names = [section.anchor or f"section-{anchor(section.title)}" for section in page.sections]
    before = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name}-{count + 1}" if count else name for name, count in zip(names, before, strict=True)]


def _clauses(page: Page) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Clauses that checks of this report are evidence towards: the clause, its subject, names and ids of the checks."""
    ids = [check.id for check in page.checks] if page.clauses else []
    covered = [(clause, [one for one in ids if clause.covers(one)]) for clause in CLAUSES]
    return [(clause.name, clause.subject, _together(found, ids)) for clause, found in covered if found]


def _together(found: list[str], ids: list[str]) -> list[tuple[str, str]]:
    """Check ids in a few words, each with the check that it leads to: 'all', 'stability.*', 'graph.bypass'."""
    if found == ids:
        return [("all", found[0])]
    words: dict[str, str] = {}
    for one in found:
        room = one.partition(".")[0] + "."
        alike = [other for other in ids if other.startswith(room)]
        whole = len(alike) > 1 and set(alike) <= set(found)
        words.setdefault(f"{room}*" if whole else one, one)
    return list(words.items())
