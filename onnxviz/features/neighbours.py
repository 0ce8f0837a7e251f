"""Nearest neighbours: the pictures that the network takes for most alike."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.errors import UsageError, at_least, one_of
from onnxviz.features.embed import embed
from onnxviz.features.embedding import Embedding, left_out_of, thumbnails
from onnxviz.figures import style
from onnxviz.progress import Progress, Shown, told
from onnxviz.provenance import recorded
from onnxviz.results import Result
from onnxviz.text import printable

if TYPE_CHECKING:
    from PIL import Image

    from onnxviz.figures.grids import Row
    from onnxviz.network import Network

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

    one_of("metric", metric, METRICS)
    at_least("k", k)
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


_EDGE = 148
_ON_A_PAGE = 24  # queries of one picture


@dataclass
class Neighbours(Result):
    """The k nearest pictures of each query, nearest first.

    values        (Q, k) float32, their distances; NaN where there are no more
    index         (Q, k) int64, their places in `embedding`; -1 likewise
    copies        (Q,) int64, other pictures of the set that the network cannot tell from the query; left out
    embedding     the features that were searched
    queries       the features of the queries
    metric        'l2' or 'cosine'
    tiles         by ('query' or 'set', place): the picture as it is drawn; None where it cannot be read again
    """

    index: np.ndarray = field(repr=False)
    copies: np.ndarray = field(repr=False)
    embedding: Embedding = field(repr=False)
    queries: Embedding = field(repr=False)
    metric: str
    tiles: dict[tuple[str, int], np.ndarray | None] = field(repr=False)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """One entry a query: its file and top class, and its neighbours with file, distance, top class."""
        return [
            {
                "query": self.queries.files[q],
                "label": _label(self.queries, q),
                "copies": int(self.copies[q]),
                "neighbours": [
                    {
                        "file": self.embedding.files[i],
                        "distance": float(distance),
                        "label": _label(self.embedding, i),
                    }
                    for i, distance in zip(self.index[q].tolist(), self.distances[q], strict=True)
                    if i >= 0
                ],
            }
            for q in range(len(self.queries))
        ]

    @property
    def distances(self) -> np.ndarray:
        """`values`, by what they are."""
        return self.values

    def table(self) -> dict[str, Any]:
        """A row for each query and neighbour: query, query_label, rank, file, distance, label."""
        found = [
            {"query": row["query"], "query_label": row["label"], "rank": rank, **one}
            for row in self.rows
            for rank, one in enumerate(row["neighbours"], 1)
        ]
        names = ("query", "query_label", "rank", "file", "distance", "label")
        return {name: [row[name] for row in found] for name in names}

    def picture(self) -> Image.Image:
        """A row a query: the query, then its neighbours, their distances and what the network calls them."""
        return self.pages()[0]

    def pages(self) -> list[Image.Image]:
        """`picture` for so many queries at a time as can be looked at."""
        queries = range(len(self.queries))
        return [self._page(queries[start : start + _ON_A_PAGE]) for start in queries[::_ON_A_PAGE]]

    def _page(self, queries: Sequence[int]) -> Image.Image:
        from onnxviz.figures import grids

        size = self.embedding.features.shape[1]
        return grids.rows(
            [self._row(q) for q in queries],
            side=_EDGE,
            lead=1,
            heads=("query", "nearest first"),
            title=f"Nearest among {len(self.embedding):,} pictures, as the network sees them",
            subtitle=f"{METRICS[self.metric]} distance between {size:,} features of layer "
            f"‘{printable(self.embedding.layer, 60)}’. Below each: its distance, top class and file",
            foot=[style.legend([(grids.BAR, "the distance, as a part of the largest one here")])],
        )

    def _row(self, q: int) -> Row:
        from onnxviz.figures.grids import Row, framed, measured, square

        row = self.rows[q]
        largest = float(np.nanmax(self.distances)) if np.isfinite(self.distances).any() else 0.0
        pictures = [framed(square(self.tiles["query", q], _EDGE))]
        copies = f" + {row['copies']} {'copy' if row['copies'] == 1 else 'copies'}" if row["copies"] else ""
        captions = [_caption(row["label"], row["query"], after=copies)]
        for i, one in zip(self.index[q].tolist(), row["neighbours"], strict=False):
            part = one["distance"] / largest if largest > 0 else 0.0
            pictures.append(measured(square(self.tiles["set", i], _EDGE), part))
            captions.append(_caption(one["label"], one["file"], before=f"{number(one['distance'])}  "))
        return Row("", pictures, captions)


def _caption(label: str | None, file: str, before: str = "", after: str = "") -> str:
    """Two lines that fit below a picture: the class between `before` and `after`, and the file."""
    size = 12
    room = _EDGE - style.width(before, size) - style.width(after, size)
    named = style.shortened(label or "", size, room) if label else ""
    return f"{before}{named}{after}\n{style.shortened(Path(file).name, size, _EDGE, middle=True)}"


@recorded
def neighbours(
    net: Network,
    images: Any,
    *,
    queries: Any = None,
    k: int = 5,
    metric: str = "l2",
    layer: str | None = None,
    batch: int | None = None,
    seed: int = 0,
    progress: Shown = "auto",
) -> Neighbours:
    """The pictures of a set that are nearest to each query in the features of the last hidden layer.

    Krizhevsky, Sutskever & Hinton 2012, figure 4; CS231n, lecture 12. The query itself is never its own
    neighbour, and copies that the network cannot tell from it are left out and counted.

    images    the set: a folder of images, files, PIL images, (H, W, 3) uint8 arrays, a list of these, or an
              Embedding
    queries   images of any kind, inside the set or not; or how many to draw from the set, unlike each other;
              None: 8
    k         neighbours a query; fewer where the set has fewer
    metric    'l2' (Euclidean) or 'cosine'
    layer     a layer's name; None: the last hidden layer (see `embed`)
    batch     images a run; None: decided by what runs it
    seed      of the draw
    returns   Neighbours, values (Q, k) float32 distances
    raises    UsageError for fewer than two pictures, UnknownLayer, ModelUnsuitable, ImageRejected,
              InputRefused for an Embedding of another network, Interrupted with the Embedding so far
    """
    progress = told(progress)
    nearest(np.zeros((1, 1), np.float32), np.zeros((0, 1), np.float32), k, metric)  # raises, saying why
    wanted = 8 if queries is None else queries
    if isinstance(wanted, int):
        at_least("the number of queries", wanted)
    found = embedding_of(net, images, layer, batch, progress)
    keep = np.flatnonzero(found.usable())
    if isinstance(wanted, int):
        if len(keep) < 2:
            raise UsageError(
                "a picture on its own has no neighbours; give at least two pictures, or queries from outside"
            )
        own = spread(found.features[keep], wanted, seed)
        asked = _part(found, keep[own])
    else:
        asked = embed(net, wanted, layer=found.layer, batch=batch)
        asked = _part(asked, np.flatnonzero(asked.usable()))
        own = _places(asked, found, keep)
    near = nearest(found.features[keep], asked.features, k, metric, own)
    index = np.where(near.index >= 0, keep[near.index], -1)
    drawn = thumbnails(net, found, sorted({int(i) for i in index.ravel() if i >= 0}), _EDGE)
    tiles = {("set", i): tile for i, tile in drawn.items()}
    drawn = thumbnails(net, asked, range(len(asked)), _EDGE)
    tiles |= {("query", q): tile for q, tile in drawn.items()}
    result = Neighbours(near.distance, {}, index, near.copies, found, asked, metric, tiles)
    result.manifest = _manifest(net, result, {"k": k, "metric": metric, "layer": found.layer, "seed": seed})
    return result


def embedding_of(
    net: Network, images: Any, layer: str | None, batch: int | None, progress: Progress
) -> Embedding:
    """`images` embedded, or as it is where it is an Embedding of this network.

    raises   InputRefused, UsageError for an Embedding of another layer than the one asked for
    """
    if not isinstance(images, Embedding):
        return embed(net, images, layer=layer, batch=batch, progress=progress)
    images.check(net)
    if layer is not None and net.layer(layer).name != images.layer:
        raise UsageError(
            f"these features are of layer {images.layer!r}, not of {layer!r}; leave out --layer, or run "
            "`onnxviz embed` with it"
        )
    return images


def _part(found: Embedding, rows: np.ndarray) -> Embedding:
    """Some rows of an embedding."""
    return replace(
        found,
        values=found.features[rows],
        files=[found.files[i] for i in rows],
        classes=None if found.classes is None else found.classes[rows],
        confidence=None if found.confidence is None else found.confidence[rows],
        prints=found.prints[rows],
        sources=[found.sources[i] for i in rows],
    )


def _places(asked: Embedding, found: Embedding, keep: np.ndarray) -> np.ndarray:
    """Where each query is in the kept part of the set, by its file; -1 for none."""

    def real(source: Any) -> str | None:
        return os.path.realpath(source) if isinstance(source, (str, os.PathLike)) else None

    known = {real(found.sources[row]): place for place, row in enumerate(keep.tolist())}
    known.pop(None, None)
    return np.array([known.get(real(source), -1) for source in asked.sources], np.int64)


def _label(found: Embedding, row: int) -> str | None:
    return None if found.classes is None else found.names[int(found.classes[row])]


def number(distance: float) -> str:
    """A distance with three digits."""
    return f"{distance:#.3g}" if 1e-3 <= distance < 1000 else f"{distance:.3g}"


def _manifest(net: Network, result: Neighbours, parameters: dict[str, Any]) -> dict[str, Any]:
    found = result.embedding
    usable = int(found.usable().sum())
    manifest = net.manifest("neighbours", **parameters)
    blank = sum(tile is None for tile in result.tiles.values())
    manifest["warnings"] += left_out_of(len(found) - usable, blank)
    asked = [] if result.queries.manifest is found.manifest else result.queries.skipped
    return manifest | {
        "figures": {
            "pictures": usable,
            "features": found.features.shape[1],
            "queries": len(result.queries),
            "skipped": len(found.skipped),
            "not_redrawn": blank,
        },
        "rows": result.rows,
        "skipped": [one.to_dict() for one in (*found.skipped, *asked)],
    }
