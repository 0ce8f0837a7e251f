"""`onnxviz.report`: one network and a person's own photos on a page: answers, maps, who lies near whom."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz import tables
from onnxviz.attribution.methods import METHODS, chosen
from onnxviz.attribution.sheet import attributions
from onnxviz.auditing.channels import LayerChannels, check_channels, look
from onnxviz.auditing.truth import read_truth
from onnxviz.errors import MissingDependency, ModelRejected, RuntimeFailed, UsageError
from onnxviz.features.embed import embed
from onnxviz.features.inspect import inspect
from onnxviz.features.project import FEWEST, check, project
from onnxviz.files import sha256
from onnxviz.meaning import Prediction
from onnxviz.network import Network
from onnxviz.progress import Interrupted, Progress, Shown, silent, told, until_interrupted
from onnxviz.provenance import recorded
from onnxviz.results import Result

if TYPE_CHECKING:
    from onnxviz.auditing.report.page import Page, Photo, Section, Stored
    from onnxviz.features.embedding import Embedding
    from onnxviz.tables import Columns

_TOP: Final = 5
_BEGUN: Final = 40  # photos on the page where it was interrupted before any were seen
_RANGED: Final = 4  # photos that the layers' ranges are taken over
_UNSURE: Final = 0.1  # margin of the two best classes


@dataclass(repr=False)
class Album(Result):
    """What a network says of a set of photos.

    values      (N, 2) float32: where each photo lies on the map; NaN where it has no place
    embedding   features of the photos that could be read
    answers     the most probable classes of each, best first; none for a network without classes
    truth       the true class of each, None where it is not known; None: no labels were given
    maps        by photo, attributions of each method for the answer and the class that competes with it
    layers      a row a layer: operator, shape, cost, range of its values over the first photos
    pictures    by photo, what the network sees of it, a WebP file; it waits on the disk
    labels      what the true classes are called
    file        what the network's file is called
    looked      of the layers that were looked into, what their channels look for
    """

    embedding: Embedding = field(repr=False)
    answers: list[list[Prediction]] = field(repr=False)
    truth: list[int | None] | None = field(repr=False)
    maps: dict[int, list[Any]] = field(repr=False)
    layers: Columns = field(repr=False)
    pictures: dict[int, bytes | Stored] = field(repr=False)
    labels: dict[int, str] = field(repr=False)
    file: str = field(repr=False)
    looked: list[LayerChannels] = field(repr=False, default_factory=list)

    def wrong(self, row: int) -> bool:
        """Whether the network's answer is another class than the true one."""
        true = None if self.truth is None else self.truth[row]
        return true is not None and bool(self.answers) and self.answers[row][0].index != true

    @property
    def order(self) -> list[int]:
        """The photos as they are shown: wrong ones first, then those that the network is least sure of."""
        rows = range(len(self.embedding))
        return sorted(rows, key=lambda row: (not self.wrong(row), np.nan_to_num(self.margin(row))))

    def margin(self, row: int) -> float:
        """By how much the best class is before the second, 0 to 1."""
        if not self.answers:
            return float("nan")
        best, *others = self.answers[row]
        return best.probability - (others[0].probability if others else 0.0)

    def table(self) -> Columns:
        """A row a photo: path, sha256, label, the five best classes, map coordinates, features."""
        files = self.embedding.files
        sources = self.embedding.sources
        digests = [sha256(one) if isinstance(one, (str, os.PathLike)) else None for one in sources]
        columns: dict[str, Any] = {"path": files, "sha256": digests}
        if self.truth is not None:
            columns["label"] = [None if one is None else self.labels.get(one, str(one)) for one in self.truth]
        for place in range(max(map(len, self.answers), default=0)):
            best = [row[place] if place < len(row) else None for row in self.answers]
            columns[f"top{place + 1}"] = [None if one is None else one.label for one in best]
            shares = [None if one is None else one.probability for one in best]
            columns[f"top{place + 1}_probability"] = shares
        return {**columns, "x": self.values[:, 0], "y": self.values[:, 1]}

    def page(self) -> Page:
        """The page as content."""
        from onnxviz.auditing.report.facts import facts, now
        from onnxviz.auditing.report.page import Figure, Number, Page, Section, Table

        count = len(self.embedding)
        skipped = len(self.embedding.skipped)
        left_out = f"{skipped} could not be read" if skipped else ""
        numbers = [Number(str(count), "photo" if count == 1 else "photos", left_out)]
        judged = [row for row in range(count) if self.truth is not None and self.truth[row] is not None]
        if judged and self.answers:
            right = sum(not self.wrong(row) for row in judged)
            numbers.append(Number(f"{right / len(judged):.0%}", "answers right", f"{right} of {len(judged)}"))
        if self.answers:
            unsure = sum(self.margin(row) < _UNSURE for row in range(count))
            note = f"the two best within {_UNSURE:g}"
            numbers.append(Number(str(unsure), "photos the network is not sure of", note))
            classes = {row[0].index for row in self.answers}
            numbers.append(Number(str(len(classes)), "classes among its answers"))
        sections = [self.shown()]
        if self.layers:
            hints = {
                "macs": "multiply-accumulates for one photo",
                "receptive_field": "side of the square of pixels that a value sees",
                "lowest": f"of its values over the first {_RANGED} photos; highest likewise",
            }
            table = Table(self.layers, bars={"macs": None}, hints=hints, file="layers")
            sections.append(Section("Layers", [table], "What the network is made of, and what it holds."))
        if self.looked:
            figures = [Figure(one.picture, one.caption, wide=True) for one in self.looked]
            sections.append(Section("Channels", figures, "What single channels of a layer look for."))
        manifest = self.manifest
        lead = ["What the network says of these photos, and where it looks."]
        if manifest.get("incomplete"):
            told = (
                f"{len(self.pictures)} of {count} photos are on the page, {len(self.maps)} of them with maps"
            )
            lead.insert(0, f"Incomplete: the run was interrupted. What was done by then is here; {told}.")
        return Page(
            kind="report",
            title=self.file,
            lead=[*lead, *manifest["warnings"]],
            numbers=numbers,
            facts=facts({"network": manifest}, photos=count, seed=manifest["parameters"]["seed"]),
            when=now(),
            sections=sections,
            figures=manifest["figures"],
        )

    def save(self, path: str | os.PathLike[str], *, one_file: bool = False) -> Path:
        """Write a folder: report.html, report.json, photos.csv and .parquet (with features), layers, manifest.json.

        one_file   photos lie inside the page, as far as 15 MB go; else in photos/, loaded as they are looked at
        returns    the path of report.html
        raises     OutputRefused
        """
        from onnxviz.auditing.report.write import write

        return write(self.page(), path, self.manifest, files=self.files(), one_file=one_file)

    def files(self) -> dict[str, bytes]:
        """photos.csv, and photos.parquet with the features where pyarrow is installed, which the manifest says."""
        columns = self.table()
        made = {"photos.csv": tables.csv_bytes(columns)}
        try:
            features = tables.parquet_bytes({**columns, "features": list(self.embedding.features)})
            made["photos.parquet"] = features
        except MissingDependency:
            self.manifest["notes"] = ["photos.parquet needs pyarrow"]
        return made

    def shown(self) -> Section:
        """The photos of the page, in their order."""
        from onnxviz.auditing.report.page import Gallery, Section

        judged = self.truth is not None and any(one is not None for one in self.truth)
        first = "Wrong answers first, then " if judged else "First "
        order = f"{first}those that the network is least sure of; open one for its answers and maps."
        photos = [self._photo(row) for row in self.order if row in self.pictures]
        return Section("Photos", [Gallery(photos)], order)

    def _photo(self, row: int) -> Photo:
        from onnxviz.auditing.report.page import Layer, Photo
        from onnxviz.figures.draw import cell

        note = ""
        if self.answers:
            best = self.answers[row][0]
            note = f"{best.label} {best.probability:.0%}"
            if self.wrong(row) and self.truth is not None:
                note += f", is {self.labels.get(int(self.truth[row] or 0), self.truth[row])}"
        place = self.values[row]
        return Photo(
            self.embedding.files[row],
            self.pictures[row],
            note=note,
            answers=[(one.label, one.probability) for one in self.answers[row]] if self.answers else (),
            layers=[Layer(one.method, one.label, cell(one, 224)[0]) for one in self.maps.get(row, ())],
            mark="wrong" if self.wrong(row) else "",
            place=(float(place[0]), float(place[1])) if np.isfinite(place).all() else None,
        )


@recorded
def report(
    net: Network,
    images: Any,
    *,
    truth: Any = None,
    methods: Sequence[str] | str = ("grad-cam",),
    explained: int = 60,
    look_into: Sequence[str] = (),
    most: int = 8,
    visualise: bool = False,
    method: str | None = None,
    layer: str | None = None,
    seed: int = 0,
    progress: Shown = "auto",
) -> Album:
    """A page of a network and your own photos: answers, attributions, layers with their ranges, a map to choose from.

    images      photos or folders of them
    truth       a CSV of picture and class, or 'folders': each picture's class is called like its folder
    methods     attribution methods; none: no maps
    explained   how many of the photos get maps, those that are shown first
    look_into   layers whose channels are shown by the places in the photos that they answer most (`patches`)
    most        how many channels of such a layer, those whose best photo stands out most
    visualise   beside them a picture that is made to excite the channel (`ascent`): half a minute or more a layer
    method      of the map: 'pca', 'tsne' or 'umap'; None: t-SNE, or PCA of few photos
    layer       the layer of the features; None: the last hidden one
    seed        of every random choice
    returns     Album, values (N, 2) float32
    raises      UsageError, UnknownLabel, UnknownLayer, ModelUnsuitable, MissingDependency, ImageRejected where no photo
                can be read, Interrupted with what was done so far
    """
    progress = told(progress)
    rows = [chosen(name, METHODS).name for name in ([methods] if isinstance(methods, str) else methods)]
    if explained < 0:
        raise UsageError(f"explained is how many photos get maps, 0 or more; got {explained}")
    if method is not None:
        check(method, None)
    looked = [look_into] if isinstance(look_into, str) else list(look_into)
    check_channels(net, looked, most)
    with until_interrupted() as begun:
        found = embed(net, images, layer=layer, progress=progress)
    if begun.stop is not None:
        if not isinstance(begun.stop, Interrupted):
            raise begun.stop
        found = begun.stop.partial
    true = None
    if truth is not None:
        classes = None if found.classes is None else net.head.classes
        true = read_truth(truth, found.sources, net.labels, classes, net.limits)
    from onnxviz.auditing.report.facts import file_of

    work = Album(
        values=np.full((len(found), 2), np.nan, np.float32),
        manifest={},
        embedding=found,
        answers=_first(found),
        truth=true,
        maps={},
        layers={},
        pictures={},
        labels={one: net.label(one) for one in set(true or ()) if one is not None},
        file=Path(file_of(net)).name,
    )
    warnings: list[str] = []
    with until_interrupted() as ending:
        if begun.stop is not None:
            raise begun.stop
        _see(net, work, range(len(found)), progress)
        keep = np.flatnonzero(np.isfinite(found.features).all(axis=1))
        if len(keep) > 1:
            used = method or ("tsne" if len(keep) >= max(FEWEST, 10) else "pca")
            work.values[keep] = project(found.features[keep], used, seed=seed).points
        work.layers = _layers(net, found.sources[:_RANGED])
        shown = work.order[: explained if rows and work.answers else 0]
        for done, row in enumerate(shown):
            try:
                work.maps[row] = _maps(net, work, row, rows)
            except (ModelRejected, RuntimeFailed) as reason:
                warnings.append(f"no attributions: {reason}")
                break
            progress(done + 1, len(shown), "photos explained")
        work.looked = look(net, found.sources, looked, most, visualise, seed, progress)
    if not work.pictures:
        _see(net, work, work.order[:_BEGUN], silent)
    warnings += [one.failed for one in work.looked if one.failed]
    parameters = {
        "methods": rows,
        "explained": explained,
        "look_into": looked,
        "most": most,
        "visualise": visualise,
        "method": method,
        "layer": found.layer,
        "seed": seed,
    }
    work.manifest = net.manifest("report", **parameters)
    work.manifest["warnings"] += warnings
    work.manifest["figures"] = {
        **found.manifest["figures"],
        "wrong": None if true is None else sum(work.wrong(row) for row in range(len(found))),
        "explained": len(work.maps),
    }
    return ending.given(work)


def _see(net: Network, work: Album, rows: Sequence[int], progress: Progress) -> None:
    from onnxviz.auditing.report.html import PHOTO
    from onnxviz.auditing.report.page import Spool
    from onnxviz.figures.html import webp
    from onnxviz.meaning import best

    recipe, spool = net.preprocessing, Spool()
    for done, row in enumerate(rows, start=1):
        view = net.pictures(work.embedding.sources[row])[0]
        if work.answers:
            work.answers[row] = best(net.probabilities(recipe.normalise(view[None])), _TOP, net.label)[0]
        work.pictures[row] = spool.add(webp(recipe.shown(view), PHOTO))
        progress(done, len(rows), "photos seen")


def _first(found: Embedding) -> list[list[Prediction]]:
    """The most probable class of each photo, as it is known before anything else."""
    if found.classes is None or found.confidence is None:
        return []
    return [
        [Prediction(int(index), found.names[int(index)], float(probability))]
        for index, probability in zip(found.classes, found.confidence, strict=True)
    ]


def _maps(net: Network, work: Album, row: int, methods: Sequence[str]) -> list[Any]:
    """Of the answer, and of the class that competes with it: the true one of a wrong answer, else the second."""
    best = work.answers[row]
    rival = work.truth[row] if work.wrong(row) and work.truth is not None else None
    if rival is None and len(best) > 1:
        rival = best[1].index
    targets = [best[0].index, *([] if rival is None else [rival])]
    source = work.embedding.sources[row]
    grids = [attributions(net, [source], methods, target=one, progress=silent).grid for one in targets]
    return [one for grid in grids for one in grid[0]]


def _layers(net: Network, sources: Sequence[Any]) -> Columns:
    """The rows of `inspect`, with the lowest and highest value of each layer."""
    columns: Mapping[str, Any] = inspect(net).table()
    names = list(columns["name"])
    ranges: dict[str, tuple[float, float]] = {}
    for source in sources:  # one at a time: all layers of a picture are large
        for name, values in net.activations(source, names).items():
            low, high = ranges.get(name, (np.inf, -np.inf))
            ranges[name] = (min(low, float(values.min())), max(high, float(values.max())))
    given = ("name", "op", "shape", "macs", "receptive_field")
    return {
        **{key: columns[key] for key in given},
        "lowest": [ranges[name][0] if name in ranges else None for name in names],
        "highest": [ranges[name][1] if name in ranges else None for name in names],
    }
