"""Whether the network looks at what the pictures show: its attribution against masks; and what a class is told by:
clusters of where the network looks, for a person to judge."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image

from onnxviz.attribution.cam import cam
from onnxviz.auditing.checks.shortcut import Region, beside, hidden, turned
from onnxviz.auditing.finding import Check, Evidence, NotRun, Rule, check, columns
from onnxviz.auditing.subject import Subject
from onnxviz.auditing.truth import read_mask, seen_mask
from onnxviz.progress import silent
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
def mask(subject: Subject, rule: Rule) -> Check:
    """By how much attribution is denser outside the mask than inside, by class, resampled by picture."""
    classes, without = _looked(subject)
    rng = np.random.default_rng(subject.seed)
    names = ("class", "pictures", "share outside", "area outside", "denser outside", "low")
    rows_of: list[tuple[Any, ...]] = []
    findings = []
    for label, rows in classes.items():
        shares = np.array([(one.outside, one.area) for one in rows])
        drawn = shares[rng.integers(len(rows), size=(_RESAMPLES, len(rows)))].mean(axis=1)
        low = float(np.percentile(_denser(drawn), 2.5)) if len(rows) >= _PICTURES else None
        outside, area = map(float, shares.mean(axis=0))
        ratio = float(_denser(shares.mean(axis=0)))
        called = subject.label(label)
        rows_of.append((called, len(rows), outside, area, ratio, low))
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
    table = columns(names, rows_of)
    judged = sum(one is not None for one in table["low"])
    told = f"{judged} classes of {_PICTURES} pictures or more; {without} pictures without a mask"
    everything = Evidence("Attribution outside the masks, by class; low: the lower 95 % limit", table=table)
    return rule.check(told, findings, [everything], {"classes": table, "without_mask": without})


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
        inside = beyond = np.zeros((1, 1), bool)
        if path is not None:
            inside, beyond = seen_mask(recipe, read_mask(path, recipe.limits))
        if not (inside.any() and beyond.any()):
            without += 1
            continue
        values = np.maximum(attributed(subject, int(place), int(best)).values, 0).astype(np.float64)
        total = values[inside | beyond].sum()
        if total > 0:
            outside, area = values[beyond].sum() / total, beyond.sum() / (inside.sum() + beyond.sum())
            classes.setdefault(int(best), []).append(Looked(int(place), float(outside), float(area)))
    if not classes:
        raise NotRun("no picture has a mask within what the network sees, and an attribution")
    return classes, without


def attributed(subject: Subject, place: int, label: int) -> Any:
    """Grad-CAM of one picture, (h, w) as the network sees it."""
    return cam(subject.net, subject.images[place], target=label, progress=silent)


def _shown(subject: Subject, one: Looked, label: int) -> Evidence:
    name = subject.name(one.place)
    caption = f"{quoted(name)}: {one.outside:.0%} outside the mask, on {one.area:.0%} of the area"
    return Evidence(caption, attributed(subject, one.place, label).picture())


LEAST: Final = 20  # of one class
_NEIGHBOUR: Final = 7  # whose distance is a map's scale
_SIDE: Final = 28  # of a map, places
_CLUSTERS: Final = 8  # the most
_CLASSES: Final = 6  # whose clusters are drawn, the largest
_OF_A_CLUSTER: Final = 4  # pictures of a cluster
_CELL: Final = 160


@check(
    "shortcut.clusters",
    "Does the network tell a class by several things?",
    severity="info",
    threshold=0.5,
    measure="what hiding a cluster's place costs its class, and the share of other pictures that it turns",
    needs=("network", "classes", "pictures", "gradients"),
    least=LEAST,
    limits="A heuristic: things that stand in several places make clusters, and a small thing decides by its place "
    "as a mark does. So a cluster that is proven is shown (info): whether it is a mark, a person sees.",
)
def clusters(subject: Subject, rule: Rule) -> Check:
    """Spectral clusters (SpRAy) of the Grad-CAM maps of each class that 20 pictures or more are taken for; the place of
    each is proven as shortcut.region proves corners."""
    best = subject.answers.best[:, 0]
    counts = {int(label): int((best == label).sum()) for label in np.unique(best)}
    large = sorted((one for one in counts if counts[one] >= LEAST), key=lambda one: -counts[one])
    if not large:
        most = max(counts.values())
        raise NotRun(f"it needs {LEAST} pictures that are taken for one class; the most of one are {most}")
    rows: list[tuple[Any, ...]] = []
    evidence, findings = [], []
    for number, label in enumerate(large):
        places = [int(place) for place in subject.answers.place[best == label]]
        maps = np.stack([small(attributed(subject, place, label).values) for place in places])
        members = split(maps, subject.seed)
        for name, one in enumerate(members, 1):
            shown = [places[at] for at in nearest(maps, one)]
            # Of a class that is told by one thing alone, that thing decides wherever it is.
            part = _place(maps[one].mean(axis=0), *subject.views[0].shape[:2])
            falls, turns = _proof(subject, shown, part, label) if len(members) > 1 else (None, None)
            called = subject.label(label)
            rows.append((called, name, len(one), len(places), part.name, falls, turns))
            if falls is not None and turns is not None and min(falls, turns) >= rule.bar:
                text = (
                    f"{len(one)} of {len(places)} pictures of {quoted(called)} hang on their {part.name}: with it "
                    f"blurred, the probability of the class falls by {falls:.2f}; pasted into pictures of other "
                    f"classes, it turns {turns:.0%} of them into this one"
                )
                advice = (
                    "Look at these parts: a small thing of the class, or a mark that happens to go with it."
                )
                findings.append(rule.finding(round(turns, 3), f"{called}: cluster {name}", text, advice))
        if number < _CLASSES and len(members) > 1:
            evidence += _drawn(subject, label, places, maps, members)
    table = columns(("class", "cluster", "pictures", "of", "place", "falls by", "turns"), rows)
    told = f"{len(large)} classes of {LEAST} pictures or more, in {len(rows)} clusters"
    everything = Evidence("Clusters of where the network looks, by class", table=table)
    return rule.check(told, findings, [everything, *evidence], {"clusters": table})


def _place(mean: np.ndarray, height: int, width: int) -> Region:
    """Where the mean map of a cluster is half of its largest value or more, as a part of the picture."""
    spans = []
    for axis, side in ((1, height), (0, width)):
        found = np.flatnonzero((mean >= mean.max() / 2).any(axis=axis))
        spans.append(slice(int(found[0]) * side // _SIDE, -(-(int(found[-1]) + 1) * side // _SIDE)))
    (top, bottom), (left, right) = ((one.start, one.stop - 1) for one in spans)
    return Region(f"rows {top} to {bottom} and columns {left} to {right}", *spans)


def _proof(subject: Subject, places: list[int], part: Region, label: int) -> tuple[float, float]:
    """By how much the class falls with the part hidden, and the share of other pictures that it turns: means."""
    answers = subject.answers
    rows = answers.rows
    found = [
        (
            float(hidden(subject, view, label, [part], float(answers.probability[rows[place]]))[0]),
            turned(subject, view, part, label).share or 0.0,
        )
        for place, _, view in subject.each(places)
    ]
    fall, turn = np.mean(found, axis=0)
    return float(fall), float(turn)


def nearest(maps: np.ndarray, members: np.ndarray) -> list[int]:
    """Of a cluster the few maps nearest to its mean."""
    far = ((maps[members] - maps[members].mean(axis=0)) ** 2).sum(axis=(1, 2))
    return [int(at) for at in members[np.argsort(far, kind="stable")[:_OF_A_CLUSTER]]]


def small(values: np.ndarray) -> np.ndarray:
    """What speaks for the class, (28, 28), summing to 1; zeros where nothing does."""
    whole = Image.fromarray(np.maximum(values, 0).astype(np.float32))
    found = np.asarray(whole.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float64)
    return found / (found.sum() or 1.0)


def split(maps: np.ndarray, seed: int) -> list[np.ndarray]:
    """Which of the maps belong together, the largest cluster first.

    Spectral relevance analysis, Lapuschkin et al. 2019, doi:10.1038/s41467-019-08987-4: the normalised Laplacian of the
    maps' similarities, as many clusters as there are eigenvalues before the largest gap (von Luxburg 2007,
    doi:10.1007/s11222-007-9033-z). Similarities are scaled by each map's own neighbourhood (Zelnik-Manor & Perona
    2004, Self-Tuning Spectral Clustering) in place of a graph of nearest neighbours, which a few dozen pictures leave
    in pieces.

    maps   (n, h, w)
    """
    from scipy.sparse.csgraph import laplacian
    from scipy.spatial.distance import cdist
    from sklearn.cluster import KMeans

    flat = maps.reshape(len(maps), -1)
    far = cdist(flat, flat)
    near = np.sort(far, axis=1)[:, min(_NEIGHBOUR, len(maps) - 1)]
    if not near.all():  # so many are the same that there is no scale
        near = np.maximum(near, float(far.mean()) or 1.0)
    alike = np.exp(-(far**2) / np.outer(near, near))
    np.fill_diagonal(alike, 0)
    low, vectors = np.linalg.eigh(laplacian(alike, normed=True))
    count = int(np.argmax(np.diff(low[: _CLUSTERS + 1]))) + 1
    if count == 1:
        return [np.arange(len(maps))]
    rows = vectors[:, :count]
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    labels = KMeans(count, n_init=10, random_state=seed).fit(rows).labels_
    return sorted(
        (np.flatnonzero(labels == one) for one in range(count)), key=lambda one: (-len(one), one[0])
    )


def _drawn(
    subject: Subject, label: int, places: list[int], maps: np.ndarray, members: list[np.ndarray]
) -> list[Evidence]:
    """Of each cluster the pictures nearest to its mean, with where the network looks."""
    from onnxviz.figures.draw import cell

    found = []
    for number, one in enumerate(members, 1):
        chosen = [places[at] for at in nearest(maps, one)]
        names = ", ".join(subject.name(place) for place in chosen)
        called = quoted(subject.label(label))
        caption = f"{called}, cluster {number}: {len(one)} of {len(places)} pictures, such as {names}"
        tiles = [cell(attributed(subject, place, label), _CELL)[1] for place in chosen]
        found.append(Evidence(caption, beside(tiles)))
    return found
