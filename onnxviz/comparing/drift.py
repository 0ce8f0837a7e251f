"""Do both networks look at the same places: maps of A and B for one class, against A's own under a little noise.

A map's likeness is told against that picture's own floor: where A's map of a picture changes with noise of one grey
level, which nobody sees, B's may change as much. Plain gradients are no yardstick for that reason. And the changed
answers that A was surest of, to be looked at (`flips`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image

from onnxviz.attribution.cam import cam
from onnxviz.attribution.methods import METHODS, Method, chosen
from onnxviz.attribution.result import Attribution
from onnxviz.attribution.saliency import saliency
from onnxviz.auditing.statistics import Share, overlap, spearman
from onnxviz.comparing.answers import Answers
from onnxviz.errors import (
    GradientNotFinite,
    ImageRejected,
    ModelRejected,
    ModelUnsuitable,
    UnsupportedOperator,
    UsageError,
)
from onnxviz.features.stream import source_name, sources
from onnxviz.figures.captions import caption
from onnxviz.network import Network
from onnxviz.progress import Progress, silent
from onnxviz.provenance import unnoted
from onnxviz.tables import Columns
from onnxviz.text import printable

#: By how much a map's correlation must be under its floor to have drifted; and of methods that go to the pixels, whose
#: maps rounding moves further than noise: sound int8 files up to 0.16, those per tensor up to 0.29.
BELOW_FLOOR: Final = 0.05
BELOW_FLOOR_PIXELS: Final = 0.2
#: Maps are compared at so many places a side: single pixels of a gradient say nothing.
SIDE: Final = 28
_QUANTILE: Final = 0.05
_GREY_LEVELS: Final = 1.0
_SHOWN: Final = 6
# Maps at once: what more would take of memory beside two networks is not worth the little time.
_TOGETHER: Final = 1
# Pictures whose maps A makes before B makes its own.
_AT_A_TIME: Final = 8
_NONE: Final = Share(0, 0)
# Of each picture and method: fields of `MethodDrift`, whose medians these are there.
_FIGURES: Final = ("r", "own", "floor", "overlap")


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
    pictures  those that were looked at
    others    those left out, since a network gives NaN
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

    def sheet(self, method: str, most: int | None = None) -> Image.Image | None:
        """The worst pictures (or so many of them) side by side, A's map and B's; None where there are none."""
        from onnxviz.figures.draw import draw_sheet

        rows = self.worst.get(method)
        if not rows:
            return None
        grid = [
            [replace(one, caption=replace(read, title=f"{read.title}, {whose}"))
             for one, whose, read in zip(pair, "AB", map(caption, pair), strict=True)]
            for pair in rows[:most]
        ]  # fmt: skip
        return draw_sheet(grid, names=self.names[method][:most])


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
    rows: MutableMapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Drift:
    """Maps of both networks for A's class, one picture in memory at a time.

    Whatever class B gives: what moves a map moves the answer, too, and pictures with another class are those that tell.

    images    as for `answers`
    methods   names of attribution methods (`attribution.methods`)
    layers    for each layer of A the one of B that means the same; where A's default layer is not among them, B's own
              default is taken
    most      pictures that are looked at, spread over the set; a picture takes draws + 2 maps
    draws     of noise, for a picture's floor
    rows      figures of pictures that were looked at before, which are not looked at again; gets those that are now
    raises    UsageError for an unknown method, or no draws
    """
    named = [chosen(name, METHODS) for name in dict.fromkeys(methods)]
    if draws < 2 or most < 1:
        raise UsageError(f"expected at least 2 draws and 1 picture, got draws={draws} and most={most}")
    listing = sources(images, a).require()
    try:
        _ = a.head, b.head
    except ModelUnsuitable as error:
        return Drift(str(error))
    if not a.preprocessing.pictorial:
        return Drift("the network sees no pictures, whose noise would have grey levels")
    pictures = listing.images
    spread = np.linspace(0, len(pictures) - 1, min(most, len(pictures))).round()
    places = np.unique(spread.astype(int)).tolist()
    maps = _Maps(a, b, pictures, layers or {}, draws, seed)
    known: MutableMapping[str, Any] = {} if rows is None else rows
    left = [place for place in places if str(place) not in known]
    # Each session holds the weights once more, or twice: no more of them at a time than are needed.
    with b.passing():
        finite = {place for place in left if maps.finite(place)}
    with a.passing():
        targets = {place: maps.target(place) if place in finite else None for place in left}
    for start in range(0, len(left), _AT_A_TIME):
        portion = left[start : start + _AT_A_TIME]
        with a.passing():
            ours = {place: maps.of_a(place, targets[place], named) for place in portion}
        with b.passing():
            known.update((str(place), maps.figures(place, one)) for place, one in ours.items())
        progress(len(places) - len(left) + start + len(portion), len(places), "explained")
    alike = {place: known[str(place)] for place in places if known[str(place)] is not None}
    found = {row.name: _Found(row, alike) for row in named}
    listed = [(place, one) for one in found.values() for place in one.rows]
    called = {place: printable(source_name(pictures[place], place)) for place in alike}
    worst = {
        name: maps.pairs({place: alike[place]["class"] for place in one.worst}, one.row)
        for name, one in found.items()
    }
    return Drift(
        "" if alike else "no picture could be compared: A or B gives NaN for each",
        len(alike),
        len(places) - len(alike),
        {name: one.summary() for name, one in found.items()},
        {
            "picture": [called[place] for place, _ in listed],
            "method": [one.row.name for _, one in listed],
            "class": [alike[place]["class"] for place, _ in listed],
            **{name: [one.rows[place][name] for place, one in listed] for name in _FIGURES},
            "drifted": [one.drifted(place) for place, one in listed],
        },
        {name: list(pairs.values()) for name, pairs in worst.items()},
        {name: [called[place] for place in pairs] for name, pairs in worst.items()},
    )


class _Ours(NamedTuple):
    """What A has of one picture.

    target  its class
    maps    by method the small map and, behind it, those under noise; '' where there is none, or why there never is
    layers  by method those of B that mean the same
    """

    target: int
    maps: Mapping[str, Sequence[np.ndarray] | str]
    layers: Mapping[str, Sequence[str] | None]


class _Maps:
    """Maps of one network after the other, picture by picture."""

    def __init__(
        self,
        a: Network,
        b: Network,
        pictures: Sequence[Any],
        layers: Mapping[str, str],
        draws: int,
        seed: int,
    ) -> None:
        self._a, self._b = a, b
        self._pictures, self._layers = pictures, layers
        self._draws, self._seed = draws, seed
        self._reasons: dict[str, str] = {}

    def finite(self, place: int) -> bool:
        x = self._of_b(place)
        return x is not None and _class(self._b, x) is not None

    def target(self, place: int) -> int | None:
        """A's class; None where its scores are not finite, or the picture cannot be read."""
        x = self._input(place, 0)
        return None if x is None else _class(self._a, x)

    def of_a(self, place: int, target: int | None, methods: Sequence[Method]) -> _Ours | None:
        if target is None or (x := self._input(place, self._draws)) is None:
            return None
        maps: dict[str, Sequence[np.ndarray] | str] = {}
        layers: dict[str, Sequence[str] | None] = {}
        for row in methods:
            found = self._tried(self._a, row, x, target, None)
            if isinstance(found, str):
                maps[row.name] = found
            else:
                maps[row.name] = [_small(one.values) for one in found]
                layers[row.name] = self._layers_of_b(found[0])
        return _Ours(target, maps, layers)

    def figures(self, place: int, ours: _Ours | None) -> dict[str, Any] | None:
        """A's class and, by method, the figures, or a text that tells why there are none."""
        if ours is None or (other := self._of_b(place)) is None:
            return None
        figures = {name: self._of_method(METHODS[name], ours, other) for name in ours.maps}
        return {"class": ours.target, "methods": figures}

    def pairs(self, targets: Mapping[int, int], row: Method) -> dict[int, tuple[Attribution, Attribution]]:
        """By place the map of A and that of B for a class; none for a picture that was replaced meanwhile."""
        ours: dict[int, Attribution] = {}
        with self._a.passing():
            for place, target in targets.items():
                if (x := self._input(place, 0)) is not None:
                    (ours[place],) = _explained(self._a, row, x, target, self._seed)
        found = {}
        with self._b.passing():
            for place, one in ours.items():
                if (other := self._of_b(place)) is not None:
                    layers = self._layers_of_b(one)
                    (theirs,) = _explained(self._b, row, other, targets[place], self._seed, layers)
                    found[place] = one, theirs
        return found

    def _of_method(self, row: Method, ours: _Ours, other: np.ndarray) -> dict[str, float] | str:
        """Its figures for a picture, '' where a map tells nothing, or why it cannot be run at all."""
        maps = ours.maps[row.name]
        if isinstance(maps, str):
            return maps
        found = self._tried(self._b, row, other, ours.target, ours.layers[row.name])
        if isinstance(found, str):
            return found
        small, *noisy = maps
        there = _small(found[0].values)
        r, own = spearman(small, there), [spearman(small, one) for one in noisy]
        if not all(map(math.isfinite, (r, *own))):
            return ""
        figures = r, float(np.median(own)), float(np.quantile(own, _QUANTILE)), overlap(small, there)
        return dict(zip(_FIGURES, map(float, figures), strict=True))

    def _input(self, place: int, draws: int) -> np.ndarray | None:
        """A's input with, behind it, those under noise; None for a picture that cannot be read."""
        a = self._a.preprocessing
        try:
            with unnoted():  # whoever asks for the answers has them on record
                view = a.view(a.read(self._pictures[place]))
        except ImageRejected:
            return None
        rng = np.random.default_rng((self._seed, place))
        noise = rng.standard_normal((draws, *view.shape), np.float32) * np.float32(_GREY_LEVELS)
        views = np.concatenate([view[None].astype(np.float32), np.clip(view + noise, 0, 255)])
        return a.normalise(views).astype(np.float32, copy=False)

    def _of_b(self, place: int) -> np.ndarray | None:
        """B's input; None for a picture that cannot be read."""
        with unnoted(), suppress(ImageRejected):
            return self._b.prepare(self._pictures[place])
        return None

    def _tried(
        self, net: Network, row: Method, x: np.ndarray, target: int, layers: Sequence[str] | None
    ) -> list[Attribution] | str:
        """The maps; '' where a gradient is not finite, or why the method cannot be run at all."""
        if row.name in self._reasons:
            return self._reasons[row.name]
        try:
            return _explained(net, row, x, target, self._seed, layers)
        except GradientNotFinite:
            return ""
        except (UnsupportedOperator, ModelUnsuitable) as error:
            return self._reasons.setdefault(row.name, str(error))

    def _layers_of_b(self, one: Attribution) -> list[str] | None:
        """The layers of B that mean those that A's map was made from; None: B's default."""
        names = one.manifest["parameters"].get("layers") or ()
        return [self._layers[name] for name in names] if names and set(names) <= set(self._layers) else None


def _explained(
    net: Network, row: Method, x: np.ndarray, target: int, seed: int, layers: Sequence[str] | None = None
) -> list[Attribution]:
    given: dict[str, Any] = {"target": target, "method": row.name, "batch": _TOGETHER, "progress": silent}
    found = cam(net, x, layers=layers, **given) if row.layered else saliency(net, x, seed=seed, **given)
    return found if isinstance(found, list) else [found]


def _class(net: Network, x: np.ndarray) -> int | None:
    """The best class; None where its scores are not finite."""
    scores = net.run(x, [net.head.scores])[net.head.scores]
    if not np.isfinite(scores).all():
        return None
    return int(np.argmax(net.to_probabilities(scores)[0]))


class _Found:
    """What one method gave: by place the figures of a picture."""

    def __init__(self, row: Method, alike: Mapping[int, Mapping[str, Any]]) -> None:
        self.row = row
        told = {place: one["methods"][row.name] for place, one in alike.items()}
        self.rows: dict[int, Mapping[str, float]] = {
            place: one for place, one in told.items() if isinstance(one, Mapping)
        }
        self._reason = next((one for one in told.values() if isinstance(one, str) and one), "")
        self._constant = sum(one == "" for one in told.values())

    def summary(self) -> MethodDrift:
        if not self.rows:
            return MethodDrift(constant=self._constant, reason=self._reason)
        middle = {name: float(np.median([one[name] for one in self.rows.values()])) for name in _FIGURES}
        drifted = Share(sum(map(self.drifted, self.rows)), len(self.rows))
        return MethodDrift(drifted, constant=self._constant, reason=self._reason, **middle)

    def drifted(self, place: int) -> bool:
        """Whether B's map of a picture lies further from A's than noise explains."""
        below = BELOW_FLOOR if self.row.layered else BELOW_FLOOR_PIXELS
        return self.rows[place]["r"] < self.rows[place]["floor"] - below

    @property
    def worst(self) -> list[int]:
        """Those furthest under their floor, the worst first."""
        return sorted(self.rows, key=lambda place: self.rows[place]["r"] - self.rows[place]["floor"])[:_SHOWN]


def _small(values: np.ndarray) -> np.ndarray:
    """A map (H, W) as the means of SIDE×SIDE fields."""
    fields = Image.fromarray(np.asarray(values, np.float32)).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(fields)


@dataclass(frozen=True)
class Flip:
    """One picture with another class in B.

    name     what it is called
    image    (h, w, 3) uint8, as A sees it
    answers  (label, probability) of A's class in A, and of B's in B
    maps     of both by method: A's map for A's class, B's for B's
    """

    name: str
    image: np.ndarray
    answers: tuple[tuple[str, float], tuple[str, float]]
    maps: dict[str, tuple[Attribution, Attribution]]


def flips(
    a: Network, b: Network, pictures: Sequence[Any], answers: Answers, methods: Sequence[str], seed: int
) -> list[Flip]:
    """The first of `answers.flips`, each with its maps, where the networks have gradients."""
    table = answers.flips
    sources_of = {printable(source_name(one, index)): one for index, one in enumerate(pictures)}
    found = []
    for row in range(min(_SHOWN, len(table.get("picture", ())))):
        name = table["picture"][row]
        said = [(str(table[f"{net}_label"][row]), float(table[f"{net}_probability"][row])) for net in "ab"]
        classes = [int(table[net][row]) for net in "ab"]
        try:
            with unnoted():
                image = a.preprocessing.shown(a.pictures(sources_of[name])[0])
                x = a.prepare(sources_of[name]), b.prepare(sources_of[name])
                sides = list(zip((a, b), x, classes, strict=True))
                maps = {}
                for method in methods:
                    by = METHODS[method]
                    one, other = (_explained(net, by, given, to, seed)[0] for net, given, to in sides)
                    maps[method] = one, other
        except ImageRejected:  # replaced meanwhile
            continue
        except ModelRejected:  # no gradients: the picture tells something by itself
            maps = {}
        found.append(Flip(name, image, (said[0], said[1]), maps))
    return found
