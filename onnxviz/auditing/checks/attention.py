"""Whether the network looks at what the pictures show: its attribution against masks."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from onnxviz.auditing.finding import Evidence
from onnxviz.auditing.masks import read_mask, seen_mask
from onnxviz.auditing.registry import Found, NotRun, Rule, check
from onnxviz.auditing.subject import Subject
from onnxviz.text import quoted

_PICTURES: Final = 5  # of one class: of fewer there are no limits worth the name
_RESAMPLES: Final = 1000
_SHOWN: Final = 3


class Looked(NamedTuple):
    """Where the network looks in one picture: shares of positive attribution, and of the area, outside the mask."""

    place: int
    outside: float
    area: float


@check(
    "shortcut.mask",
    "Does the network look at what the pictures show?",
    severity="medium",
    threshold=2.0,
    measure="density of attribution outside the masks over that inside, by class",
    needs=("network", "classes", "pictures", "masks", "gradients"),
    limits="Grad-CAM is coarse: what lies close beside the mask counts as outside. What surrounds a thing may rightly "
    "speak for it. Classes of fewer than 5 pictures with masks are counted, never judged.",
)
def mask(subject: Subject, rule: Rule) -> Found:
    """By how much attribution is denser outside the mask than inside, by class, resampled by picture."""
    classes, without = _looked(subject)
    rng = np.random.default_rng(subject.seed)
    table: dict[str, list[Any]] = {
        name: [] for name in ("class", "pictures", "share outside", "area outside", "denser outside", "low")
    }
    findings = []
    for label, rows in classes.items():
        shares = np.array([(one.outside, one.area) for one in rows])
        drawn = shares[rng.integers(len(rows), size=(_RESAMPLES, len(rows)))].mean(axis=1)
        low = float(np.percentile(_denser(drawn), 2.5)) if len(rows) >= _PICTURES else None
        outside, area = map(float, shares.mean(axis=0))
        ratio = float(_denser(shares.mean(axis=0)))
        called = subject.label(label)
        for name, value in zip(table, (called, len(rows), outside, area, ratio, low), strict=True):
            table[name].append(value)
        if low is None or low <= rule.bar:
            continue
        text = (
            f"{quoted(called)}: {outside:.0%} of what speaks for it lies outside the mask, on {area:.0%} of the area: "
            f"{ratio:.1f} times as dense as inside, over {len(rows)} pictures (at least {low:.1f})"
        )
        advice = "Look what lies there: a background, a mark. Train on pictures without it, or crop it away."
        worst = sorted(rows, key=lambda one: -one.outside)[:_SHOWN]
        evidence = [_shown(subject, one, label) for one in worst]
        findings.append(rule.finding(round(low, 3), called, text, advice, evidence))
    judged = sum(one is not None for one in table["low"])
    told = f"{judged} classes of {_PICTURES} pictures or more; {without} pictures without a mask"
    everything = Evidence("Attribution outside the masks, by class; low: the lower 95 % limit", table=table)
    return Found(told, findings, [everything], {"classes": table, "without_mask": without})


def _denser(shares: np.ndarray) -> np.ndarray:
    """How much denser it is outside than inside, of (..., 2) shares of attribution and of the area outside."""
    outside, area = np.clip(np.moveaxis(shares, -1, 0), 1e-6, 1 - 1e-6)
    return np.asarray((outside / area) / ((1 - outside) / (1 - area)))


def _looked(subject: Subject) -> tuple[dict[int, list[Looked]], int]:
    """By the class that the network answers; and how many pictures have no mask, or one that shows nothing."""
    assert subject.masks is not None
    recipe = subject.net.preprocessing
    classes: dict[int, list[Looked]] = {}
    without = 0
    for place, best in zip(subject.answers.place, subject.answers.best[:, 0], strict=True):
        path = subject.masks.get(int(place))
        inside, beyond = (
            (np.zeros((1, 1), bool),) * 2
            if path is None
            else seen_mask(recipe, read_mask(path, recipe.limits))
        )
        if not (inside.any() and beyond.any()):
            without += 1
            continue
        values = np.maximum(attributed(subject, int(place), int(best)).values, 0).astype(np.float64)
        total = values[inside | beyond].sum()
        if total > 0:
            area = beyond.sum() / (inside.sum() + beyond.sum())
            classes.setdefault(int(best), []).append(
                Looked(int(place), float(values[beyond].sum() / total), float(area))
            )
    if not classes:
        raise NotRun("no picture has a mask within what the network sees, and an attribution")
    return classes, without


def attributed(subject: Subject, place: int, label: int) -> Any:
    """Grad-CAM of one picture, (h, w) as the network sees it."""
    from onnxviz.attribution.cam import cam
    from onnxviz.progress import silent

    return cam(subject.net, subject.images[place], target=label, progress=silent)


def _shown(subject: Subject, one: Looked, label: int) -> Evidence:
    name = subject.name(one.place)
    caption = f"{quoted(name)}: {one.outside:.0%} outside the mask, on {one.area:.0%} of the area"
    return Evidence(caption, attributed(subject, one.place, label).picture())
