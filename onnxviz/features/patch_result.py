"""What `patches` gives: the best images of each channel, as arrays, a table and pictures."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz import tables
from onnxviz.errors import UsageError
from onnxviz.features.patch_boxes import LayerPatches, PatchData
from onnxviz.file_set import FOLDER_HEAD
from onnxviz.files import FileSet, npy_bytes, png_bytes
from onnxviz.progress import Progress, silent
from onnxviz.text import file_name, printable

if TYPE_CHECKING:
    from PIL import Image


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
