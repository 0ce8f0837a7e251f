"""A map of many pictures: those that the network takes for alike lie together."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz.features.embedding import Embedding, left_out_of, thumbnails
from onnxviz.features.neighbours import embedding_of
from onnxviz.features.project import METHODS, Projection, check, project
from onnxviz.progress import Interrupted, Shown, told
from onnxviz.provenance import recorded
from onnxviz.results import Result
from onnxviz.text import printable

if TYPE_CHECKING:
    from PIL import Image

    from onnxviz.network import Network

#: The most pictures on one grid: the assignment grows with the cube of the number (2,500 take about 2 s).
MOST = 2500
# About a cell in four stays empty: gaps then part what the map parts, and groups show as islands.
_SPARE = 1.3
# The part of a cell's position that is the point's rank rather than its place.
_RANK = 0.5


@dataclass(frozen=True)
class Grid:
    """Cells for pictures.

    rows, columns   the grid's size
    index           (M,) which pictures are on it, in the order of the set
    cell            (M,) the cell of each, counted along the rows from the top left
    """

    rows: int
    columns: int
    index: np.ndarray
    cell: np.ndarray


def grid(points: np.ndarray, *, seed: int = 0) -> Grid:
    """A grid for the pictures whose places on the map are `points`; where there are too many, for a random sample.

    points   (N, 2) finite floats, N at least 1, x to the right and y upwards
    """
    n = len(points)
    index = np.arange(n)
    if n > MOST:
        index = np.sort(np.random.default_rng(seed).choice(n, MOST, replace=False))
    wanted = len(index) * (_SPARE if len(index) > 8 else 1)
    columns = math.ceil(math.sqrt(wanted))
    rows = math.ceil(wanted / columns)
    return Grid(rows, columns, index, assign(np.asarray(points)[index], rows, columns))


def assign(points: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """A cell of its own for each point, of least total squared distance.

    points    (N, 2) finite floats, x to the right and y upwards; N at most rows × columns
    returns   (N,) int64, the cell counted along the rows from the top left
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    places = _spread(points)
    x, y = (np.arange(columns) + 0.5) / columns, 1 - (np.arange(rows) + 0.5) / rows
    cells = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    _, cell = linear_sum_assignment(cdist(places, cells, "sqeuclidean"))
    return np.asarray(cell, dtype=np.int64)


def _spread(points: np.ndarray) -> np.ndarray:
    """The points in the unit square, half by place and half by rank: an outlier does not crowd all others."""
    points = np.asarray(points, dtype=np.float64)
    span = np.ptp(points, axis=0)
    place = np.where(span > 0, (points - points.min(axis=0)) / np.where(span > 0, span, 1), 0.5)
    rank = np.empty_like(place)
    for axis in (0, 1):
        _, inverse, counts = np.unique(points[:, axis], return_inverse=True, return_counts=True)
        # Equal values share the middle of their ranks.
        middle = np.cumsum(counts) - (counts + 1) / 2
        rank[:, axis] = (middle[inverse] + 0.5) / len(points)
    return (1 - _RANK) * place + _RANK * rank


# Without a method: below this, t-SNE has no neighbourhoods to keep, and a plane shows all there is.
_FEW = 10
_WIDTH = 1060
_SMALLEST, _LARGEST = 32, 300


@dataclass
class Map(Result):
    """A place in the plane for each picture, drawn as a scatter and as pictures on a grid.

    values      (N, 2) float32, the coordinates, x to the right and y upwards
    rows        (N,) int64, which pictures of `embedding` these are: those whose features are finite
    embedding   the features
    method      'pca', 'tsne' or 'umap'
    axes        what the two coordinates are called
    cells       the grid: which pictures are on it, and in which cell
    tiles       by place in `values`: the picture as it is drawn; None where it cannot be read again
    """

    rows: np.ndarray = field(repr=False)
    embedding: Embedding = field(repr=False)
    method: str
    axes: tuple[str, str]
    cells: Grid = field(repr=False)
    tiles: dict[int, np.ndarray | None] = field(repr=False)

    @property
    def points(self) -> np.ndarray:
        """`values`, by what they are."""
        return self.values

    @property
    def files(self) -> list[str]:
        """What the pictures are called, in the order of `values`."""
        return [self.embedding.files[row] for row in self.rows]

    def table(self) -> dict[str, Any]:
        """A row a picture: file, x, y, and of a classifier top_class and label."""
        columns: dict[str, Any] = {"file": self.files, "x": self.points[:, 0], "y": self.points[:, 1]}
        if self.embedding.classes is not None:
            classes = self.embedding.classes[self.rows]
            columns["top_class"] = classes
            columns["label"] = [printable(self.embedding.names[index]) for index in classes.tolist()]
        return columns

    def grid(self) -> Image.Image:
        """The pictures on a grid, each in a cell of its own near its place on the map.

        Frames have the colours of `scatter`.
        """
        from onnxviz.figures.charts import marker
        from onnxviz.figures.grids import mosaic

        groups = self.embedding.groups(self.rows)
        places = dict(zip(self.cells.cell.tolist(), self.cells.index.tolist(), strict=True))
        pictures = {cell: self.tiles[i] for cell, i in places.items()}
        frames = {}
        if groups is not None:
            kinds = {cell: int(groups.of[i]) for cell, i in places.items()}
            frames = {cell: marker(kind)[0] for cell, kind in kinds.items() if kind >= 0}
        return mosaic(pictures, self.cells.rows, self.cells.columns, _edge(self.cells), frames)

    def scatter(self, size: tuple[int, int] = (_WIDTH, _WIDTH)) -> Image.Image:
        """The pictures as points, coloured by the network's top class. size: (width, height) in pixels."""
        from onnxviz.figures.charts import scatter

        return scatter(self.points, self.embedding.groups(self.rows), axes=self.axes, size=size)

    def picture(self) -> Image.Image:
        """The grid of pictures and the scatter, side by side."""
        from onnxviz.figures.charts import side_by_side

        left = self.grid()
        height = max(left.height, 760)
        right = self.scatter((max(left.width, 900), height))
        count, shown = len(self.points), len(self.cells.index)
        some = "" if shown == count else f"; {shown:,} of {count:,} drawn at random"
        size = self.embedding.features.shape[1]
        told = "" if self.embedding.classes is None else "; colour and shape: the network's top class"
        return side_by_side(
            left,
            right,
            f"{count:,} {'picture' if count == 1 else 'pictures'}, placed by {METHODS[self.method]} "
            f"of {size:,} features of layer ‘{printable(self.embedding.layer, 60)}’",
            f"The pictures on a grid, near their places on the map{some}",
            f"The map{told}",
        )


@recorded
def map(
    net: Network,
    images: Any,
    *,
    method: str | None = None,
    perplexity: float | None = None,
    layer: str | None = None,
    batch: int | None = None,
    seed: int = 0,
    progress: Shown = "auto",
) -> Map:
    """A 2-D map of pictures by the features of the last hidden layer, as a scatter and as a grid of pictures.

    CS231n, lecture 12; van der Maaten & Hinton 2008 (t-SNE). The grid is the assignment of pictures to cells
    of least total squared distance; of more than 2,500 pictures it shows a sample drawn from `seed`, and the
    scatter shows all.

    images       the set: a folder of images, files, PIL images, (H, W, 3) uint8 arrays, a list of these, or
                 an Embedding
    method       'pca', 'tsne' or 'umap' (extra `maps`); None: t-SNE, or PCA for fewer than 10 pictures
    perplexity   about how many neighbours each picture keeps close (t-SNE: 30, UMAP: 15); PCA has none
    layer        a layer's name; None: the last hidden layer (see `embed`)
    batch        images a run; None: decided by what runs it
    seed         of every random choice
    returns      Map, values (N, 2) float32
    raises       UsageError, MissingDependency, UnknownLayer, ModelUnsuitable, ImageRejected, InputRefused for
                 an Embedding of another network, Interrupted with the Embedding so far on Ctrl-C
    """
    progress = told(progress)
    if method is not None:
        check(method, perplexity)
    found = embedding_of(net, images, layer, batch, progress)
    keep = np.flatnonzero(found.usable())
    chosen = method or ("tsne" if len(keep) >= _FEW else "pca")
    try:
        progress(0, None, METHODS[chosen])
        placed = project(found.features[keep], chosen, perplexity=perplexity, seed=seed)
        cells = grid(placed.points, seed=seed)
        shown = thumbnails(net, found, keep[cells.index], _edge(cells), progress)
    except KeyboardInterrupt as stop:
        # The features are what took long; they are not lost, and `--features` takes them back.
        raise Interrupted(replace(found, manifest={**found.manifest, "incomplete": True})) from stop
    tiles = {int(i): shown[int(keep[i])] for i in cells.index}
    result = Map(placed.points, {}, keep, found, chosen, placed.axes, cells, tiles)
    used = placed.figures.get("perplexity", perplexity)
    parameters = {"method": chosen, "perplexity": used, "layer": found.layer, "seed": seed}
    result.manifest = _manifest(net, result, placed, parameters)
    return result


def _edge(cells: Grid) -> int:
    """The pixels of a cell: all of them fill the width, but each can be made out."""
    return int(np.clip(_WIDTH // max(cells.columns, cells.rows), _SMALLEST, _LARGEST))


def _manifest(net: Network, result: Map, placed: Projection, parameters: dict[str, Any]) -> dict[str, Any]:
    found = result.embedding
    manifest = net.manifest("map", **parameters)
    left_out = len(found) - len(result.rows)
    blank = sum(tile is None for tile in result.tiles.values())
    manifest["warnings"] += left_out_of(left_out, blank)
    return manifest | {
        "figures": {
            "pictures": len(result.rows),
            "features": found.features.shape[1],
            "on_the_grid": len(result.cells.index),
            "grid": {"rows": result.cells.rows, "columns": result.cells.columns},
            "left_out": left_out,
            "skipped": len(found.skipped),
            "not_redrawn": blank,
            **placed.figures,
        },
        "notes": placed.notes,
        "axes": list(placed.axes),
        "files": result.files,
        "top_class": None if found.classes is None else found.classes[result.rows].tolist(),
        "class_names": {str(index): name for index, name in found.names.items()},
        "skipped": [one.to_dict() for one in found.skipped],
    }
