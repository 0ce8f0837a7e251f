"""Maximally activating patches: what a channel answers to most, among many images."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz import tables
from onnxviz.errors import NotFinite, UsageError, at_least
from onnxviz.features import patch_boxes
from onnxviz.features.patch_boxes import LayerPatches, PatchData, Ranking, field_boxes
from onnxviz.features.stream import Chunk, none_used, sources, stream
from onnxviz.file_set import FOLDER_HEAD, FileSet
from onnxviz.files import npy_bytes, png_bytes
from onnxviz.graph.reduce import Reduced, peaks
from onnxviz.progress import Progress, Shown, silent, told, until_interrupted
from onnxviz.provenance import recorded
from onnxviz.text import file_name, printable

if TYPE_CHECKING:
    import onnx_ir as ir
    from PIL import Image

    from onnxviz.graph.layers import Layer
    from onnxviz.network import Network

#: With more channels than this, sheets are drawn only of the channels that were asked for.
MOST_SHEETS: Final = 64


@dataclass
class Patches(PatchData):
    """The images that each channel answers most, with the patch that the strongest unit sees; fields of `PatchData`."""

    def _only(self, layer: str | None) -> LayerPatches:
        if layer is not None:
            return self[layer]
        if len(self.layers) > 1:
            names = ", ".join(repr(one.name) for one in self.layers)
            raise UsageError(f"this result has several layers ({names}): choose one, as in result[layer]")
        return self.layers[0]

    @property
    def scores(self) -> np.ndarray:
        """(C, k) float32, for a result of one layer."""
        return self._only(None).scores

    @property
    def index(self) -> np.ndarray:
        """(C, k) int64, for a result of one layer."""
        return self._only(None).index

    @property
    def positions(self) -> np.ndarray:
        """(C, k, 2) int64, for a result of one layer."""
        return self._only(None).positions

    @property
    def boxes(self) -> np.ndarray:
        """(C, k, 4) int64, for a result of one layer."""
        return self._only(None).boxes

    def sheet(self, channel: int, layer: str | None = None) -> Image.Image:
        """The best patches of one channel, large, each with its score and file.

        The source files are read again; one that was replaced or is gone is a crossed-out square.
        """
        from onnxviz.features.patch_pictures import sheet

        return sheet(self, self._only(layer), channel)

    def picture(self) -> Image.Image:
        """The overview: a block of small patches a channel."""
        from onnxviz.features.patch_pictures import overview

        return overview(self)[0]

    def table(self) -> dict[str, Any]:
        """One row for each patch, as columns.

        layer, channel, rank (from 1), score, unclipped, file, image (its number), y, x (the unit in the feature
        map), top, left, bottom, right (its receptive field in the picture as the network sees it; may reach outside
        it), file_top ... file_right (what is visible of that, in pixels of the upright original), file_height,
        file_width.
        """
        columns: dict[str, list[Any]] = {}
        for one in self.layers:
            rows, ranks = np.nonzero(one.index >= 0)
            index = one.index[rows, ranks]
            part: dict[str, Any] = {
                "layer": [printable(one.name)] * len(rows),
                "channel": one.channels[rows],
                "rank": ranks + 1,
                "score": one.scores[rows, ranks],
                "unclipped": one.unclipped[rows, ranks],
                "file": [printable(self.name_of(int(i))) for i in index],
                "image": index,
            }
            edges = ("top", "left", "bottom", "right")
            part |= dict(zip("yx", one.positions[rows, ranks].T, strict=True))
            part |= dict(zip(edges, one.boxes[rows, ranks].T, strict=True))
            visible = np.round(one.source_boxes[rows, ranks], 2)
            part |= dict(zip((f"file_{edge}" for edge in edges), visible.T, strict=True))
            part |= dict(zip(("file_height", "file_width"), one.sizes[rows, ranks].T, strict=True))
            for name, cells in part.items():
                columns.setdefault(name, []).append(cells)
        return {name: _joined(parts) for name, parts in columns.items()}

    def save(self, path: str | os.PathLike[str], *, table: str = "csv", progress: Progress = silent) -> Path:
        """Write a folder: overview.png, LAYER/channel-0005.png, patches.csv, patches.json, patches.npy, manifest.json.

        table    'csv', or 'parquet' for patches.parquet in its place (needs pyarrow)
        All of them appear together, the manifest last, which lists the others; what an earlier run wrote there goes.
        raises   OutputRefused, MissingDependency
        """
        from onnxviz.features.patch_pictures import overview, sheets

        folder = Path(path)
        encode = tables.encoder(table)
        columns = self.table()
        with FileSet(folder / FOLDER_HEAD) as files:
            written = [files.add(folder / f"patches.{table}", encode(columns))]
            if table != "json":
                written.append(files.add(folder / "patches.json", tables.table_json_bytes(columns)))
            written.append(files.add(folder / "patches.npy", npy_bytes(np.asarray(self.values))))
            picture, changed = overview(self, progress=progress)
            written.append(files.add(folder / "overview.png", png_bytes(picture)))
            for layer, channel, drawn, gone in sheets(self, progress=progress):
                target = folder / file_name(layer.name) / f"channel-{channel:04d}.png"
                written.append(files.add(target, png_bytes(drawn)))
                changed |= gone
            self.manifest["files"] = [file.relative_to(folder).as_posix() for file in written]
            self.manifest["changed"] = [
                {"path": printable(self.name_of(i)), "reason": reason}
                for i, reason in sorted(changed.items())
            ]
            files.describe(self.manifest)
        return folder


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return [cell for part in parts for cell in part]


@recorded
def patches(
    net: Network,
    images: Any,
    layers: str | Sequence[str],
    *,
    channel: int | Sequence[int] | None = None,
    top: int = 9,
    batch: int | None = None,
    progress: Shown = "auto",
) -> Patches:
    """Maximally activating patches: the images that each channel of a layer answers most, and where in them.

    Zeiler & Fergus 2014, arXiv:1311.2901; Springenberg et al. 2015, arXiv:1412.6806. An image counts once for each
    channel, by its strongest unit, so a channel's patches come from as many images. Maximum and place are found
    inside the graph, for all channels of all layers in one pass; memory does not grow with the number of images.

    images   a folder of images, files, PIL images, (H, W, 3) uint8 arrays, or a list of these
    layers   a layer's name, or several: rank 4 (feature maps) or 2 (logits, features: the patch is the picture)
    channel  the channel or channels; None: all of them
    top      how many images a channel
    batch    images a run; None: decided by what runs it
    returns  Patches; scores (C, top) float32, ties in the order of the images
    raises   UnknownLayer, UsageError, ModelUnsuitable, ImageRejected when no image could be read, Interrupted with the
             result so far on Ctrl-C
    """
    progress = told(progress)
    at_least("top", top)
    names = [layers] if isinstance(layers, str) else list(layers)
    if not names:
        raise UsageError("no layer was given; expected at least one (`onnxviz inspect` lists them)")
    chosen = list({one.name: one for one in map(net.layer, names)}.values())
    wanted = (
        None if channel is None else list(dict.fromkeys([channel] if isinstance(channel, int) else channel))
    )
    for one in chosen:
        count = one.shape[-1 if one.channels_last else min(1, len(one.shape) - 1)] if one.shape else 1
        if wanted is not None and isinstance(count, int):  # else it is told by the first image
            check_channels(wanted, one.name, count)
    listing = sources(images, net).require()
    search = _Search(net, chosen, wanted, top)
    skipped = list(listing.skipped)
    with until_interrupted() as ending:
        for chunk in stream(
            net, listing.images, search.build, key=search.key, batch=batch, progress=progress
        ):
            skipped += chunk.skipped
            search.add(chunk)
    if not search.rankings:
        ending.nothing()
        raise none_used(len(listing.images), skipped)
    if all((one.undefined == one.count).all() for one in search.rankings):
        named = ", ".join(repr(one.name) for one in chosen)
        raise NotFinite(f"all values of {named} are NaN or infinite: {net.why_not_finite()}")
    found = tuple(search.found())
    manifest = net.manifest(
        "patches", layers=[one.name for one in chosen], channels=wanted, top=top, batch=search.batch
    )
    manifest["figures"] = {
        "images": len(listing.images),
        "ranked": search.count,
        "skipped": len(skipped),
        "other_files": listing.ignored,
        "layers": {one.name: _figures(one) for one in found},
    }
    manifest["skipped"] = [one.to_dict() for one in skipped]
    manifest["warnings"] += [
        f"of layer {one.name!r}, {count} values are NaN or infinite, and not ranked"
        for one in found
        if (count := int(one.undefined.sum()))
    ]
    # Channels that get a sheet of their own: those asked for, or all where they are few.
    sheets = [
        (one.name, int(channel))
        for one in found
        if wanted is not None or len(one.channels) <= MOST_SHEETS
        for channel in one.channels
    ]
    values, recipe = np.concatenate([one.scores for one in found]), net.preprocessing
    return ending.given(
        Patches(values, manifest, found, listing.images, skipped, recipe, sheets, net.threads)
    )


class _Search:
    """One pass over the images, for all layers at once."""

    def __init__(self, net: Network, layers: Sequence[Layer], channels: list[int] | None, top: int) -> None:
        self._net = net
        self._layers = layers
        self._channels = channels
        self._top = top
        self.key = ("patches", *(layer.name for layer in layers))
        self.rankings: list[Ranking] = []
        self.count = 0
        self.batch = 0  # images a run, as it turned out

    def build(self) -> ir.Model:
        """The graph: the layers' peaks and nothing else."""
        from onnxviz.graph.surgery import cut

        names = [layer.name for layer in self._layers]
        wanted = [Reduced(one.name, len(one.shape), one.channels_last) for one in self._layers]
        return peaks(cut(self._net.batched[0], names), wanted)[0]

    def add(self, chunk: Chunk) -> None:
        """Take in a chunk of images."""
        self.batch = max(self.batch, len(chunk.index) + len(chunk.skipped))
        if not len(chunk.index):
            return
        arrays = list(chunk.arrays.values())  # four a layer, in the order of `Peaks`
        for i, layer in enumerate(self._layers):
            peak, drive, row, column = (self._wanted(array, layer) for array in arrays[4 * i : 4 * i + 4])
            if len(self.rankings) <= i:
                self.rankings.append(Ranking(peak.shape[1], self._top))
            facts = np.empty((*peak.shape, 6), np.int64)
            facts[:, :, patch_boxes.INDEX] = chunk.index[:, None]
            facts[:, :, patch_boxes.ROW], facts[:, :, patch_boxes.COLUMN] = row, column
            facts[:, :, patch_boxes.HEIGHT : patch_boxes.WIDTH + 1] = chunk.sizes[:, None]
            facts[:, :, patch_boxes.PRINT] = chunk.prints[:, None]
            self.rankings[i].add(drive, peak, facts)
        self.count += len(chunk.index)

    def _wanted(self, array: np.ndarray, layer: Layer) -> np.ndarray:
        if self._channels is None:
            return array
        check_channels(self._channels, layer.name, array.shape[1])
        return array[:, self._channels]

    def found(self) -> Iterator[LayerPatches]:
        """What was found, a layer at a time."""
        for layer, best in zip(self._layers, self.rankings, strict=True):
            facts = best.facts
            sizes = facts[:, :, patch_boxes.HEIGHT : patch_boxes.WIDTH + 1]
            positions = facts[:, :, patch_boxes.ROW : patch_boxes.COLUMN + 1]
            boxes, visible = field_boxes(self._net.preprocessing, layer, positions, sizes, best.filled)
            count = len(best.keys)
            yield LayerPatches(
                layer=layer,
                channels=np.arange(count) if self._channels is None else np.array(self._channels),
                scores=best.scores,
                unclipped=np.where(best.filled, best.keys, np.float32("nan")),
                index=facts[:, :, patch_boxes.INDEX],
                positions=positions,
                boxes=boxes,
                source_boxes=visible,
                sizes=sizes,
                prints=facts[:, :, patch_boxes.PRINT],
                mean=best.mean,
                deviation=best.deviation,
                standing_out=best.standing_out(),
                undefined=best.undefined,
            )


def check_channels(channels: Sequence[int], layer: str, count: int) -> None:
    """raises   UsageError for a channel that a layer with `count` channels does not have."""
    outside = [channel for channel in channels if not 0 <= channel < count]
    if outside:
        raise UsageError(
            f"layer {layer!r} has no channel {', '.join(map(str, outside[:5]))}: its channels are 0 to {count - 1}"
        )


def _figures(one: LayerPatches) -> dict[str, Any]:
    best = one.scores[:, 0]
    return {
        "channels": len(one.channels),
        "largest": float(np.nanmax(best)) if np.isfinite(best).any() else None,
        "silent_channels": int(np.sum(~(best > 0))),
        "undefined": int(one.undefined.sum()),
    }
