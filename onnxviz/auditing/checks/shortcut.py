"""Whether a mark in a part of the picture decides: taken out the answer falls, put into others it turns theirs.

Pictures that show one scene count once: crops of one photo, wherever they were cut and however they were resized.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from onnxviz.attribution.occlusion import _blurred
from onnxviz.auditing.finding import Check, Evidence, Finding, Rule, Severity, check
from onnxviz.auditing.statistics import Share
from onnxviz.auditing.subject import Subject, spread
from onnxviz.text import quoted

_SURE: Final = 0.5  # probability from which on a picture is looked at, and by how much it has to fall
_OTHERS: Final = 20  # pictures that a region is pasted into
_TURNED: Final = 0.5  # share of these that become the class: its lower limit
_COMPARED: Final = 20  # confirmed pictures that are looked through for crops of one photo
_MANY: Final = 3  # confirmed photos of one class and region: gravely


class Region(NamedTuple):
    """A part of what the network sees, by name."""

    name: str
    rows: slice
    columns: slice


def regions(height: int, width: int) -> list[Region]:
    """Four corners of a quarter side, and four strips of an eighth."""
    y, x, v, u = height // 4, width // 4, height // 8, width // 8
    whole = slice(None)
    return [
        Region("top left corner", slice(0, y), slice(0, x)),
        Region("top right corner", slice(0, y), slice(width - x, width)),
        Region("bottom left corner", slice(height - y, height), slice(0, x)),
        Region("bottom right corner", slice(height - y, height), slice(width - x, width)),
        Region("upper edge", slice(0, v), whole),
        Region("lower edge", slice(height - v, height), whole),
        Region("left edge", whole, slice(0, u)),
        Region("right edge", whole, slice(width - u, width)),
    ]


class Case(NamedTuple):
    """A picture whose class hangs on a region: by how much it falls, and the share of others that the region turns."""

    place: int
    view: np.ndarray
    region: Region
    label: int
    fall: float
    turned: Share


@check(
    "shortcut.region",
    "Does a mark in a corner or at an edge decide?",
    severity="high",
    threshold=_MANY,
    measure="photos of one class that one region decides",
    needs=("network", "classes", "pictures"),
    least=8,
    limits="Marks in the middle of the picture, and marks that not one of the given pictures bears, are not seen.",
)
def region(subject: Subject, rule: Rule) -> Check:
    """Regions that, blurred, cost the class half of its probability, and pasted into others turn half of them.

    Pictures that show one scene (crops of one photo) count once, and nothing is pasted into another of the same scene.
    """
    cases, largest, looked = _cases(subject)
    groups: dict[tuple[int, str], list[Case]] = {}
    for case in cases:
        if case.turned.limits[0] > _TURNED:
            groups.setdefault((case.label, case.region.name), []).append(case)
    findings: list[Finding] = []
    for (label, name), confirmed in groups.items():
        if any(_holds(other, confirmed) for (one, _), other in groups.items() if one == label):
            continue  # the strip that a corner lies in is no second mark
        shown, called = confirmed[:4], subject.label(label)
        photos, text = _said(called, name, confirmed)
        evidence = Evidence(
            f"The {name} of pictures of {quoted(called)}: {', '.join(subject.name(c.place) for c in shown)}",
            _marked(subject, shown),
            {
                "picture": [subject.name(c.place) for c in confirmed],
                "fall": [round(c.fall, 4) for c in confirmed],
                "turned": [c.turned.count for c in confirmed],
                "of": [c.turned.of for c in confirmed],
            },
        )
        advice = "Look at these parts: a watermark, a frame, a date. Train without it, or crop it away."
        severity: Severity | None = None if photos >= rule.bar else "medium"
        means = f"What stands at the {name} decides {quoted(called)}, not what the picture shows"
        where = f"{called}: {name}"
        findings.append(rule.finding(photos, where, text, advice, [evidence], severity, means))
    # A corner lies in strips as well.
    hanging = {case.place for confirmed in groups.values() for case in confirmed}
    told = f"{len(hanging)} of {looked} pictures; largest fall {largest:.2f}"
    figures = {"looked_at": looked, "candidates": len(cases), "largest_fall": largest}
    return rule.check(told, findings, figures=figures)


def _holds(corner: list[Case], strip: list[Case]) -> bool:
    """Whether a corner explains all that was confirmed of a strip: the same pictures, by what it shares with it."""
    inner, outer = (one[0].region[1:] for one in (corner, strip))
    whole = slice(None)
    return whole not in inner and whole in outer and {c.place for c in strip} <= {c.place for c in corner}


def _said(called: str, name: str, confirmed: Sequence[Case]) -> tuple[int, str]:
    """How many photos hang on a region, and the sentence that says so."""
    looked_at, many = confirmed[:_COMPARED], len(confirmed) != 1
    photos = scenes([case.view for case in looked_at], confirmed[0].region)
    fall = np.mean([case.fall for case in confirmed])
    turned = Share(*(sum(getattr(case.turned, key) for case in confirmed) for key in ("count", "of")))
    text = (
        f"{len(confirmed)} picture{'s' * many} of {quoted(called)} hang{'s' * (not many)} on the {name}: with it "
        f"blurred, the probability of the class falls by {fall:.2f}{' on average' * many}; pasted into pictures of "
        f"other classes, it turns {turned.share:.0%} of {turned.of} into this one"
    )
    if photos < len(looked_at):
        first = "They" if len(looked_at) == len(confirmed) else f"The first {len(looked_at)}"
        text += f". {first} are of {photos} photo{'s' * (photos != 1)}: crops of one count once"
    return photos, text


def _cases(subject: Subject) -> tuple[list[Case], float, int]:
    """Candidates with how many others they turn; the largest fall; the pictures that were looked at."""
    answers = subject.answers
    rows = answers.rows
    cases: list[Case] = []
    largest, looked = 0.0, 0
    for place, _, view in subject.each():
        row = rows.get(place)
        if row is None or answers.probability[row] < _SURE:
            continue
        looked += 1
        label, parts = int(answers.best[row, 0]), regions(*view.shape[:2])
        falls = hidden(subject, view, label, parts, float(answers.probability[row]))
        largest = max(largest, float(falls.max()))
        for part, fall in zip(parts, falls, strict=True):
            if fall >= _SURE:
                cases.append(Case(place, view, part, label, float(fall), turned(subject, view, part, label)))
    return cases, largest, looked


def hidden(
    subject: Subject, view: np.ndarray, label: int, parts: Sequence[Region], before: float
) -> np.ndarray:
    """By how much the class falls, from `before`, where each part is blurred: (parts,)."""
    blurred = _blurred(view, max(view.shape[:2]) / 8)  # half of a corner, as occlusion blurs
    covered = []
    for part in parts:
        one = view.astype(np.float32)
        one[part.rows, part.columns] = blurred[part.rows, part.columns]
        covered.append(one)
    return before - np.asarray(subject.probabilities(covered)[:, label])


def turned(subject: Subject, view: np.ndarray, part: Region, label: int) -> Share:
    """How many of other pictures, of other classes and scenes, become `label` with this part pasted in."""
    others = [one for one in _others(subject, label) if one.shape == view.shape]
    if not others:
        return Share(0, 0)
    pasted = []
    for one in others:
        other = one.copy()
        other[part.rows, part.columns] = view[part.rows, part.columns]
        pasted.append(other)
    taken = (subject.probabilities(pasted).argmax(axis=1) == label).tolist()
    if 2 * sum(taken) > len(taken):  # else it is no matter which of them show the same scene
        taken = [one for one, new in zip(taken, apart(view, others, part), strict=True) if new]
    return Share(sum(taken), len(taken))


def _others(subject: Subject, label: int) -> list[np.ndarray]:
    answers = subject.answers
    places = [int(place) for place, best in zip(answers.place, answers.best, strict=True) if best[0] != label]
    return [view for _, _, view in subject.each(spread(places, _OTHERS))]


def _marked(subject: Subject, cases: list[Case]) -> Any:
    wanted = {case.place: case for case in cases}
    tiles = []
    for place, _, view in subject.each(sorted(wanted)):
        part = wanted[place].region
        tile = Image.fromarray(subject.net.preprocessing.shown(view))
        top, bottom, _ = part.rows.indices(tile.height)
        left, right, _ = part.columns.indices(tile.width)
        ImageDraw.Draw(tile).rectangle((left, top, right - 1, bottom - 1), outline=(220, 0, 60), width=2)
        tiles.append(tile)
    return beside(tiles)


def beside(tiles: list[Any]) -> Any:
    """Pictures side by side on white."""
    size = sum(tile.width + 8 for tile in tiles), max(tile.height for tile in tiles)
    sheet = Image.new("RGB", size, "white")
    at = 0
    for tile in tiles:
        sheet.paste(tile, (at, 0))
        at += tile.width + 8
    return sheet


# --- scenes -----------------------------------------------------------------------------------------

_SIDE: Final = 64  # the longer side that pictures are compared at
_PATCH: Final = 24
_SCALES: Final = 2.0 ** np.arange(-1, 1.01, 0.125)  # of one picture against the other
_PLACES: Final = (0.2, 0.5, 0.8)  # of a patch, along each side
_COARSE: Final = 3.0  # pixels: what varies more slowly is alike in many pictures
_FLAT: Final = 3.0  # grey levels: patches that vary by less are alike everywhere
# Correlation of a patch with a place of the other picture. Crops of 17 photos, two of each, three draws: over it in 39
# of 51 pairs of one photo (of the others some share nothing), at most 0.78 in 1,632 pairs of different ones.
_SAME: Final = 0.8


def scenes(views: Sequence[np.ndarray], part: Any) -> int:
    """How many different scenes there are.

    views   (h, w, C), as the network sees them, all of one shape
    part    `rows` and `columns` of them that are not compared: what was pasted, or may be a mark, makes no scene
    """
    windows = [_windows(view, part) for view in views]
    found = list(range(len(views)))
    for i, view in enumerate(views):
        patches = _patches(view, part)
        for j in range(i):
            if found[i] != found[j] and _meet(windows[j], patches):
                found = [found[i] if one == found[j] else one for one in found]
    return len(set(found))


def apart(view: np.ndarray, others: Sequence[np.ndarray], part: Any) -> list[bool]:
    """Of each of the others, whether it shows another scene."""
    patches = _patches(view, part)
    return [not _meet(_windows(other, part), patches) for other in others]


def _meet(windows: np.ndarray, patches: np.ndarray) -> bool:
    return bool((windows @ patches.T).max(initial=0) > _SAME)


def _windows(view: np.ndarray, part: Any) -> np.ndarray:
    """All windows of a patch's size that do not touch the part, normalised: (n, numbers)."""
    shape = (_PATCH, _PATCH)
    grey, kept = (np.lib.stride_tricks.sliding_window_view(one, shape) for one in _small(view, part, 1.0))
    return _normalised(grey[kept.all(axis=(2, 3))])


def _patches(view: np.ndarray, part: Any) -> np.ndarray:
    """A few windows of the picture at each scale, the same way."""
    found = []
    for scale in _SCALES:
        grey, kept = _small(view, part, float(scale))
        for at in itertools.product(_PLACES, _PLACES):
            y, x = (round(place * (side - _PATCH)) for place, side in zip(at, grey.shape, strict=True))
            if min(grey.shape) >= _PATCH and kept[y : y + _PATCH, x : x + _PATCH].all():
                found.append(grey[y : y + _PATCH, x : x + _PATCH])
    return _normalised(np.array(found))


def _normalised(windows: np.ndarray) -> np.ndarray:
    """As rows of mean 0 and length 1, without those that hardly vary."""
    rows = windows.reshape(-1, _PATCH**2)
    rows = rows - rows.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(rows, axis=1)
    varied = lengths > _FLAT * _PATCH
    return np.asarray(rows[varied] / lengths[varied, None], np.float32)


def _small(view: np.ndarray, part: Any, scale: float) -> tuple[np.ndarray, np.ndarray]:
    """(h, w) float32, the longer side `_SIDE` times the scale, without what varies slowly; and what is not the part."""
    from scipy.ndimage import gaussian_filter

    grey = Image.fromarray(view.astype(np.float32).mean(axis=2))
    height, width = (max(1, round(side * scale * _SIDE / max(view.shape[:2]))) for side in view.shape[:2])
    planes = np.asarray(grey.resize((width, height), Image.Resampling.BOX))
    kept = np.ones((height, width), bool)
    rows, columns = (
        slice(one.indices(whole)[0] * side // whole, -(-one.indices(whole)[1] * side // whole))
        for one, whole, side in zip((part.rows, part.columns), view.shape[:2], kept.shape, strict=True)
    )
    kept[rows, columns] = False
    return planes - gaussian_filter(planes, _COARSE), kept
