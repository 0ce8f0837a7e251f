"""Nearest neighbours among rows of features, by L2 or cosine distance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxviz.errors import UsageError, near

METRICS = {"l2": "L2", "cosine": "cosine"}

#: Two vectors that differ by less than this part of their length are taken for those of one picture: runs of
#: a network differ in the last digits with the batch, and a copy of a file need not be the same file.
SAME = 1e-5
# What is looked up beyond k, so that copies can be left out without looking again.
_SPARE = 16
_DRAWS = 4


@dataclass(frozen=True)
class Found:
    """The neighbours of Q queries, nearest first.

    index       (Q, k) int64, rows of the set; -1 where there are no more
    distance    (Q, k) float32; NaN likewise
    copies      (Q,) int64, how many other rows of the set cannot be told from the query
    """

    index: np.ndarray
    distance: np.ndarray
    copies: np.ndarray


def nearest(
    features: np.ndarray, queries: np.ndarray, k: int, metric: str = "l2", own: np.ndarray | None = None
) -> Found:
    """The k rows of `features` that are nearest to each query, without the query itself and its copies.

    features   (N, D) finite floats, the set
    queries    (Q, D) finite floats
    metric     'l2': Euclidean distance; 'cosine': 1 - cosine of the angle, 0 to 2 (1 where a vector is 0)
    own        (Q,) int64, the row of the set that each query is, -1 for none; it is never its own neighbour
    raises     UsageError
    """
    from sklearn.neighbors import NearestNeighbors

    if metric not in METRICS:
        raise UsageError(
            f"metric must be one of {', '.join(METRICS)}, got {metric!r}{near(str(metric), METRICS)}"
        )
    if k < 1:
        raise UsageError(f"k must be at least 1, got {k}")
    n = len(features)
    own = np.full(len(queries), -1) if own is None else own
    index = np.full((len(queries), k), -1, np.int64)
    distance = np.full((len(queries), k), np.nan, np.float32)
    copies = np.zeros(len(queries), np.int64)
    # The squares of features of 1e20 are no float32 numbers; the order does not mind the scale.
    scale = np.float32(np.abs(features).max()) if features.size else np.float32(1)
    scale = np.float32(1) if 1e-12 < scale < 1e12 or scale == 0 else scale
    searched = features if scale == 1 else features / scale
    kind = "euclidean" if metric == "l2" else "cosine"
    model = NearestNeighbors(metric=kind, algorithm="brute").fit(searched)
    for q, query in enumerate(queries):
        fetched = 0
        kept: list[tuple[float, int]] = []
        while len(kept) < k and fetched < n:
            fetched = min(n, max(k + _SPARE, 4 * fetched))
            rows = np.sort(model.kneighbors(query[None] / scale, fetched, return_distance=False)[0])
            rows = rows[rows != own[q]]
            new = ~_same(features[rows], query)
            copies[q] = len(rows) - int(new.sum())
            exact = distances(features[rows[new]], query, metric)
            kept = sorted(zip(exact.tolist(), rows[new].tolist(), strict=True))[:k]
        for place, (value, row) in enumerate(kept):
            distance[q, place], index[q, place] = value, row
    return Found(index, distance, copies)


def distances(rows: np.ndarray, query: np.ndarray, metric: str) -> np.ndarray:
    """(N,) float64 distances, from the differences themselves: |a|² - 2ab + |b|² loses small ones."""
    a, b = rows.astype(np.float64), query.astype(np.float64)
    if metric == "l2":
        return np.asarray(np.linalg.norm(a - b, axis=1))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b)
    cosine = np.divide(a @ b, lengths, out=np.zeros(len(a)), where=lengths > 0)
    return np.asarray(1 - np.clip(cosine, -1, 1))


def _same(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """(N,) bool: which rows are the query, to the last digits. A query of zeros says nothing: none."""
    length = float(np.linalg.norm(query.astype(np.float64)))
    return np.asarray((distances(rows, query, "l2") <= SAME * length) & (length > 0))


def spread(features: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """`count` rows drawn from the seed so that they differ, sorted, each once; fewer where there are fewer.

    Each is drawn with a chance that grows with the squared distance to those before it, the farthest of a few
    draws (greedy k-means++, Arthur & Vassilvitskii 2007).
    """
    random = np.random.default_rng(seed)
    n = len(features)
    if count >= n:
        return np.arange(n)
    chosen = [int(random.integers(n))]
    away = np.full(n, np.inf)
    while len(chosen) < count:
        last = features[chosen[-1]]
        # In blocks: the difference of a million rows at once would be a second copy of the features.
        for start in range(0, n, 4096):
            gap = ((features[start : start + 4096].astype(np.float64) - last) ** 2).sum(axis=1)
            away[start : start + 4096] = np.minimum(away[start : start + 4096], gap)
        away[chosen] = 0
        total = away.sum()
        if total > 0:
            drawn = random.choice(n, _DRAWS, p=away / total)
        else:  # all that is left are copies of what was drawn
            drawn = random.choice(np.setdiff1d(np.arange(n), chosen), 1)
        chosen.append(int(drawn[np.argmax(away[drawn])]))
    return np.sort(np.array(chosen))
