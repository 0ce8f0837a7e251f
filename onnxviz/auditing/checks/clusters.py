"""What a class is told by, sorted: clusters of where the network looks, for a person to judge."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from onnxviz.auditing.checks.attention import attributed
from onnxviz.auditing.checks.shortcut import beside
from onnxviz.auditing.finding import Evidence
from onnxviz.auditing.registry import Found, NotRun, Rule, check
from onnxviz.auditing.subject import Subject
from onnxviz.text import quoted

_PICTURES: Final = 20  # of one class
_NEIGHBOUR: Final = 7  # whose distance is a map's scale
_SIDE: Final = 28  # of a map, places
_CLUSTERS: Final = 8  # the most
_CLASSES: Final = 6  # whose clusters are drawn, the largest
_SHOWN: Final = 4  # pictures of a cluster
_CELL: Final = 160


@check(
    "shortcut.clusters",
    "Does the network tell a class by several things?",
    severity="info",
    threshold="none: shown, not judged",
    needs=("network", "classes", "pictures", "gradients"),
    least=_PICTURES,
    limits="A heuristic: things that stand in several places make clusters, too. Whether one is a mark, a person sees; "
    "shortcut.region proves it for corners and edges.",
)
def clusters(subject: Subject, rule: Rule) -> Found:
    """Spectral clusters (SpRAy) of the Grad-CAM maps of each class that 20 pictures or more are taken for."""
    best = subject.answers.best[:, 0]
    counts = {int(label): int((best == label).sum()) for label in np.unique(best)}
    large = sorted((one for one in counts if counts[one] >= _PICTURES), key=lambda one: -counts[one])
    if not large:
        most = max(counts.values())
        raise NotRun(
            f"it needs {_PICTURES} pictures that are taken for one class; the most of one are {most}"
        )
    table: dict[str, list[Any]] = {"class": [], "cluster": [], "pictures": [], "of": []}
    evidence = []
    for number, label in enumerate(large):
        places = [int(place) for place in subject.answers.place[best == label]]
        maps = np.stack([small(attributed(subject, place, label).values) for place in places])
        members = split(maps, subject.seed)
        for name, one in enumerate(members, 1):
            for column, value in zip(table, (subject.label(label), name, len(one), len(places)), strict=True):
                table[column].append(value)
        if number < _CLASSES and len(members) > 1:
            evidence += _drawn(subject, label, places, maps, members)
    parts = [table["class"].count(subject.label(label)) for label in large]
    told = f"{len(large)} classes of {_PICTURES} pictures or more, in {sum(parts)} clusters"
    everything = Evidence("Clusters of where the network looks, by class", table=table)
    return Found(told, (), [everything, *evidence], {"clusters": table})


def small(values: np.ndarray) -> np.ndarray:
    """What speaks for the class, (28, 28), summing to 1; zeros where nothing does."""
    from PIL import Image

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
        far = ((maps[one] - maps[one].mean(axis=0)) ** 2).sum(axis=(1, 2))
        chosen = [places[int(at)] for at in one[np.argsort(far, kind="stable")[:_SHOWN]]]
        names = ", ".join(subject.name(place) for place in chosen)
        called = quoted(subject.label(label))
        caption = f"{called}, cluster {number}: {len(one)} of {len(places)} pictures, such as {names}"
        found.append(
            Evidence(caption, beside([cell(attributed(subject, p, label), _CELL)[1] for p in chosen]))
        )
    return found
