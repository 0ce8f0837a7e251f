"""Do both networks look at the same places: maps of A and B for one class, against A's own under a little noise.

A map's likeness is told against that picture's own floor: where A's map of a picture changes with noise of one grey
level, which nobody sees, B's may change as much. Plain gradients are no yardstick for that reason.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from onnxviz.attribution.cam import cam
from onnxviz.attribution.methods import METHODS, Method, chosen
from onnxviz.attribution.saliency import saliency
from onnxviz.auditing.statistics import Share, overlap, spearman
from onnxviz.errors import GradientNotFinite, ImageRejected, ModelUnsuitable, UnsupportedOperator, UsageError
from onnxviz.features.stream import source_name, sources
from onnxviz.figures.captions import caption
from onnxviz.network import Network
from onnxviz.progress import Progress, silent
from onnxviz.provenance import unnoted
from onnxviz.tables import Columns
from onnxviz.text import printable

if TYPE_CHECKING:
    from PIL import Image

    from onnxviz.attribution.result import Attribution

#: By how much a map's correlation must be under its floor to have drifted.
BELOW_FLOOR: Final = 0.05
#: Maps are compared at so many places a side: single pixels of a gradient say nothing.
SIDE: Final = 28
_QUANTILE: Final = 0.05
_GREY_LEVELS: Final = 1.0
_SHOWN: Final = 6
_NONE: Final = Share(0, 0)


@dataclass(frozen=True)
class MethodDrift:
    """What one method shows.

    drifted    of the pictures compared, those whose correlation is more than `BELOW_FLOOR` under their floor
    r          median over pictures: rank correlation of A's map with B's, −1 to 1
    own        the same of A's map with A's under noise
    floor      median of the pictures' floors
    overlap    median share of the largest tenth of places that both have in common, 0 to 1
    constant   pictures left out, since a map has one value throughout, or a gradient is not finite
    reason     why it was not run; '' where it was
    """

    drifted: Share = _NONE
    r: float | None = None
    own: float | None = None
    floor: float | None = None
    overlap: float | None = None
    constant: int = 0
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**vars(self), "drifted": self.drifted.to_dict()}


@dataclass(frozen=True)
class Drift:
    """How far explanations moved.

    reason    why nothing could be compared; '' where it was
    pictures  those that were looked at, with the same class in both
    others    those left out since the classes differ, or a network gives NaN
    methods   by the method's name
    table     a row for each picture and method
    worst     by method the pictures furthest under their floor, first the worst: the maps of A and of B
    names     what these pictures are called
    """

    reason: str = ""
    pictures: int = 0
    others: int = 0
    methods: Mapping[str, MethodDrift] = field(default_factory=dict)
    table: Columns = field(default_factory=dict)
    worst: Mapping[str, Sequence[tuple[Attribution, Attribution]]] = field(default_factory=dict)
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values, without rows and maps."""
        return {
            "reason": self.reason,
            "pictures": self.pictures,
            "left_out": self.others,
            "methods": {name: one.to_dict() for name, one in self.methods.items()},
        }

    def sentences(self) -> list[str]:
        """The same for a reader."""
        told = [f"explanations are not compared: {self.reason}"] if self.reason else []
        for name, one in self.methods.items():
            if one.reason:
                told.append(f"{name}: not run: {one.reason}")
            elif one.r is None:
                told.append(f"{name}: no picture has maps that can be compared")
            else:
                told.append(
                    f"{name}: maps of B correlate with A's at {one.r:.3f} (median of {one.drifted.of}); A's own under "
                    f"noise of 1 grey level at {one.own:.3f}; drifted: {one.drifted}"
                )
        return told

    def sheet(self, method: str) -> Image.Image | None:
        """The worst pictures side by side, A's map and B's; None where there are none."""
        from onnxviz.figures.method_sheet import draw

        rows = self.worst.get(method)
        if not rows:
            return None
        grid = [
            [replace(one, caption=replace(read, title=f"{read.title}, {whose}"))
             for one, whose, read in zip(pair, "AB", map(caption, pair), strict=True)]
            for pair in rows
        ]  # fmt: skip
        return draw(grid, names=self.names[method])


def drift(
    a: Network,
    b: Network,
    images: Any,
    *,
    methods: Sequence[str] = ("grad-cam",),
    layers: Mapping[str, str] | None = None,
    most: int = 32,
    draws: int = 8,
    seed: int = 0,
    progress: Progress = silent,
) -> Drift:
    """Maps of both networks for the class that both give, one picture in memory at a time.

    images    as for `answers`
    methods   names of attribution methods (`attribution.methods`)
    layers    for each layer of A the one of B that means the same; where A's default layer is not among them, B's own
              default is taken
    most      pictures that are looked at, spread over the set; a picture takes draws + 2 maps
    draws     of noise, for a picture's floor
    raises    UsageError for an unknown method, or no draws
    """
    rows = [chosen(name, METHODS) for name in dict.fromkeys(methods)]
    if draws < 2 or most < 1:
        raise UsageError(f"expected at least 2 draws and 1 picture, got draws={draws} and most={most}")
    listing = sources(images, a).require()
    try:
        _ = a.head, b.head
    except ModelUnsuitable as error:
        return Drift(str(error))
    if not a.preprocessing.pictorial:
        return Drift("the network sees no pictures, whose noise would have grey levels")
    count = len(listing.images)
    places = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int)).tolist()
    kept = {row.name: _Kept(row, layers or {}) for row in rows}
    pictures = 0
    for done, (name, seen) in enumerate(_alike(a, b, listing.images, places, draws, seed), start=1):
        if seen is not None:
            pictures += 1
            for one in kept.values():
                one.add(name, a, b, seen, seed)
        progress(done, len(places), "explained")
    tables = [one.columns() for one in kept.values()]
    return Drift(
        "" if pictures else "no picture has the same class in both",
        pictures,
        len(places) - pictures,
        {name: one.summary() for name, one in kept.items()},
        {name: [cell for table in tables for cell in table[name]] for name in tables[0]},
        {name: [(x, y) for _, x, y in one.worst()] for name, one in kept.items()},
        {name: [called for called, _, _ in one.worst()] for name, one in kept.items()},
    )


class _Seen(NamedTuple):
    """One picture: A's input with, behind it, those under noise; B's input; the class of both."""

    x: np.ndarray
    other: np.ndarray
    target: int


def _alike(
    a: Network, b: Network, pictures: Sequence[Any], places: Sequence[int], draws: int, seed: int
) -> Iterator[tuple[str, _Seen | None]]:
    """Each picture's name and what both see of it; None where they do not give one class for it."""
    for index in places:
        source = pictures[index]
        name = printable(source_name(source, index))
        try:
            with unnoted():  # whoever asks for the answers has them on record
                view = a.preprocessing.view(a.preprocessing.read(source))
                other = b.prepare(source)
        except ImageRejected:
            yield name, None
            continue
        rng = np.random.default_rng((seed, index))
        noise = rng.standard_normal((draws, *view.shape), np.float32) * np.float32(_GREY_LEVELS)
        views = np.concatenate([view[None].astype(np.float32), np.clip(view + noise, 0, 255)])
        x = a.preprocessing.normalise(views).astype(np.float32, copy=False)
        classes = [_class(a, x[:1]), _class(b, other)]
        same = classes[0] is not None and classes[0] == classes[1]
        yield name, _Seen(x, other, classes[0]) if same and classes[0] is not None else None


def _class(net: Network, x: np.ndarray) -> int | None:
    """The best class; None where its scores are not finite."""
    scores = net.run(x, [net.head.scores])[net.head.scores]
    if not np.isfinite(scores).all():
        return None
    return int(np.argmax(net.to_probabilities(scores)[0]))


class _Kept:
    """What one method gave so far."""

    def __init__(self, row: Method, layers: Mapping[str, str]) -> None:
        self._row, self._layers = row, layers
        self._figures: list[tuple[str, int, float, float, float, float]] = []
        self._worst: list[tuple[float, int, str, Attribution, Attribution]] = []
        self._number = itertools.count()
        self._constant = 0
        self._reason = ""

    def add(self, name: str, a: Network, b: Network, seen: _Seen, seed: int) -> None:
        """One picture."""
        if self._reason:
            return
        try:
            maps = self._maps(a, seen.x, seen.target, seed, None)
            (other,) = self._maps(b, seen.other, seen.target, seed, self._layers_of_b(maps[0]))
        except GradientNotFinite:
            self._constant += 1
            return
        except (UnsupportedOperator, ModelUnsuitable) as error:
            self._reason = str(error)
            return
        small, *noisy = (_small(one.values) for one in maps)
        there = _small(other.values)
        r, own = spearman(small, there), [spearman(small, one) for one in noisy]
        if not all(map(math.isfinite, (r, *own))):
            self._constant += 1
            return
        floor = float(np.quantile(own, _QUANTILE))
        self._figures.append((name, seen.target, r, float(np.median(own)), floor, overlap(small, there)))
        entry = floor - r, next(self._number), name, maps[0], other
        if len(self._worst) < _SHOWN:
            heapq.heappush(self._worst, entry)
        else:
            heapq.heappushpop(self._worst, entry)

    def _maps(
        self, net: Network, x: np.ndarray, target: int, seed: int, layer: Sequence[str] | None
    ) -> list[Attribution]:
        given: dict[str, Any] = {"target": target, "method": self._row.name, "progress": silent}
        if self._row.layered:
            found = cam(net, x, layer=layer, **given)
        else:
            found = saliency(net, x, seed=seed, **given)
        return found if isinstance(found, list) else [found]

    def _layers_of_b(self, one: Attribution) -> list[str] | None:
        """The layers of B that mean those that A's map was made from; None: B's default."""
        names = one.manifest["parameters"].get("layers") or ()
        return [self._layers[name] for name in names] if names and set(names) <= set(self._layers) else None

    def columns(self) -> dict[str, list[Any]]:
        """A row a picture."""
        rows = self._figures
        return {
            "picture": [row[0] for row in rows],
            "method": [self._row.name] * len(rows),
            "class": [row[1] for row in rows],
            "r": [row[2] for row in rows],
            "own": [row[3] for row in rows],
            "floor": [row[4] for row in rows],
            "overlap": [row[5] for row in rows],
            "drifted": [row[2] < row[4] - BELOW_FLOOR for row in rows],
        }

    def summary(self) -> MethodDrift:
        """Over all pictures."""
        table = self.columns()
        if not self._figures:
            return MethodDrift(constant=self._constant, reason=self._reason)
        r, own, floor, both = (float(np.median(table[name])) for name in ("r", "own", "floor", "overlap"))
        drifted = Share(sum(table["drifted"]), len(self._figures))
        return MethodDrift(drifted, r, own, floor, both, self._constant, self._reason)

    def worst(self) -> list[tuple[str, Attribution, Attribution]]:
        """Those furthest under their floor, the worst first."""
        return [(name, x, y) for _, _, name, x, y in sorted(self._worst, key=lambda one: -one[0])]


def _small(values: np.ndarray) -> np.ndarray:
    """A map (H, W) as the means of SIDE×SIDE fields."""
    from PIL import Image

    fields = Image.fromarray(np.asarray(values, np.float32)).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(fields)
