"""The patches that a channel answers most: their ranking, as arrays, and the pixels that a unit sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz.errors import UsageError
from onnxviz.features.stream import source_name
from onnxviz.image.folder import Skipped
from onnxviz.results import Result

if TYPE_CHECKING:
    from onnxviz.graph.layers import Layer
    from onnxviz.image.preprocessing import Preprocessing


@dataclass(frozen=True)
class LayerPatches:
    """The k best images of each of C channels of one layer, best first. No image: index -1 and NaN.

    layer          the layer: name, operator, shape, receptive field
    channels       (C,) int64, the channels' numbers in the layer
    scores         (C, k) float32, the channel's largest activation in that image
    unclipped      (C, k) float32, what was ranked by: the score before the layer's Clip cut it off (ReLU6), elsewhere
                   the score itself
    index          (C, k) int64, which image
    positions      (C, k, 2) int64, row and column of the unit in the feature map
    boxes          (C, k, 4) int64, top, left, bottom, right of the unit's receptive field in pixels of the picture as
                   the network sees it, bottom and right excluded; not clipped: it may reach into the padding
    source_boxes   (C, k, 4) float64, what of that is visible, in pixels of the original image file (upright)
    sizes          (C, k, 2) int64, height and width of the original
    prints         (C, k) int64, CRC-32 of the picture as the network saw it
    mean, deviation   (C,) float64, of `unclipped` over all images, each channel's largest activation an image
    standing_out   (C,) float64, how many standard deviations the best image lies above the mean
    undefined      (C,) int64, images for which the channel was NaN; they are not ranked
    """

    layer: Layer
    channels: np.ndarray
    scores: np.ndarray
    unclipped: np.ndarray
    index: np.ndarray
    positions: np.ndarray
    boxes: np.ndarray
    source_boxes: np.ndarray
    sizes: np.ndarray
    prints: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray
    standing_out: np.ndarray
    undefined: np.ndarray

    @property
    def name(self) -> str:
        """The layer's name."""
        return self.layer.name

    def row(self, channel: int) -> int:
        """Where `channel` is in the arrays.

        raises   UsageError
        """
        found = np.flatnonzero(self.channels == channel)
        if not len(found):
            raise UsageError(
                f"channel {channel} of {self.name!r} is not in this result, which has {listed(self.channels)}"
            )
        return int(found[0])


@dataclass
class PatchData(Result):
    """The images that each channel answers most, as arrays: what `Patches` draws and saves.

    values      (C, k) float32, the scores; with several layers one after the other
    layers      one entry a layer
    sources     every image that was looked at; `index` counts in it
    skipped     images that could not be read
    sheets      the channels that `save` draws a sheet of, (layer name, channel) each
    workers     threads that read winning images again; None: as many as there are cores
    """

    layers: tuple[LayerPatches, ...]
    sources: Sequence[Any] = field(repr=False)
    skipped: list[Skipped] = field(repr=False)
    preprocessing: Preprocessing = field(repr=False)
    sheets: list[tuple[str, int]] = field(repr=False)
    workers: int | None = field(default=None, repr=False)

    def __getitem__(self, layer: str) -> LayerPatches:
        known = {one.name: one for one in self.layers}
        if layer not in known:
            raise UsageError(
                f"layer {layer!r} is not in this result, which has {', '.join(map(repr, known))}"
            )
        return known[layer]

    def name_of(self, index: int) -> str:
        """What image `index` is called: its path, or its number."""
        return source_name(self.sources[index], index)


def listed(numbers: np.ndarray) -> str:
    """Channel numbers in a few words: '0 to 95', or '3, 7, 12'."""
    if len(numbers) > 1 and np.array_equal(numbers, np.arange(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers[:12])) + (", ..." if len(numbers) > 12 else "")


# --- where they lie ---------------------------------------------------------------------------


def field_boxes(
    preprocessing: Preprocessing, layer: Layer, positions: np.ndarray, sizes: np.ndarray, filled: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The receptive fields of units, in two coordinate systems.

    positions   (C, k, 2) int64, row and column in the feature map
    sizes       (C, k, 2) int64, height and width of the original image
    filled      (C, k) bool, where there is an image
    returns     (C, k, 4) int64: top, left, bottom, right in pixels of the picture as the network sees it, not
                clipped; and (C, k, 4) float64: what of that lies in the picture, in pixels of the original.
                Zeros where there is no image.
    """
    boxes = np.zeros((*filled.shape, 4), np.int64)
    visible = np.zeros((*filled.shape, 4))
    known: dict[tuple[int, ...], tuple[tuple[int, int, int, int], np.ndarray]] = {}
    for place in zip(*np.nonzero(filled), strict=True):
        unit = (*positions[place].tolist(), *sizes[place].tolist())
        if unit not in known:
            box = field_box(preprocessing, layer, *unit)
            known[unit] = box, to_source(preprocessing, box, unit[2], unit[3])
        boxes[place], visible[place] = known[unit]
    return boxes, visible


def field_box(
    preprocessing: Preprocessing, layer: Layer, y: int, x: int, height: int, width: int
) -> tuple[int, int, int, int]:
    """The box of unit (y, x) in the picture as the network sees it; the whole picture where the unit's place is
    not known (logits, pooled features, a layer whose field hangs on the image size).

    height, width   of the original image
    """
    from onnxviz.graph.layers import field

    view_height, view_width = preprocessing.seen(height, width)
    if layer.trace is None or not any(layer.trace.placed):
        return 0, 0, view_height, view_width
    top, left, bottom, right = field(layer, y, x, local=True)
    # Of a direction that the layer does not tell apart it sees everything.
    if not layer.trace.placed[0]:
        top, bottom = 0, view_height
    if not layer.trace.placed[1]:
        left, right = 0, view_width
    return top, left, bottom, right


def to_source(preprocessing: Preprocessing, box: Sequence[float], height: int, width: int) -> np.ndarray:
    """A box in the network's view, cut at its borders, as (4,) float64 in pixels of the original.

    Where the view is wider than the original (bars beside it), it is cut at the original's borders too.
    """
    view, frame = preprocessing.seen(height, width), preprocessing.window(height, width)
    mapped = np.empty(4)
    for axis, (length, limit) in enumerate(zip(view, (height, width), strict=True)):
        start, stop = frame[axis], frame[axis + 2]
        for corner in (axis, axis + 2):
            inside = min(max(box[corner], 0), length)
            mapped[corner] = min(max(start + inside * (stop - start) / length, 0.0), limit)
    return mapped


# --- the best k of a stream of any length, for many channels at once, in memory that does not grow ---


#: What is kept of each of the best beside its score: columns of `Ranking.facts`.
INDEX, ROW, COLUMN, HEIGHT, WIDTH, PRINT = range(6)
_FACTS: Final = 6
NOBODY: Final = -1


class Ranking:
    """The k images with the largest value of each of C channels.

    keys      (C, k) float32, what is ranked by, largest first; -inf where there are fewer than k images
    scores    (C, k) float32, what is shown; differs from the keys for layers that cut large values off
    facts     (C, k, 6) int64: image index (-1: nobody), row and column of the maximum, height and width of the
              original, fingerprint of the picture
    count     images seen
    undefined (C,) int64, images whose value is NaN or infinite: they are counted here and never ranked
    mean      (C,) float64, of the keys of all images
    """

    def __init__(self, channels: int, k: int) -> None:
        self.k = k
        self.keys = np.full((channels, k), -np.inf, np.float32)
        self.scores = np.full((channels, k), np.nan, np.float32)
        self.facts = np.full((channels, k, _FACTS), NOBODY, np.int64)
        self.count = 0
        self.undefined = np.zeros(channels, np.int64)
        self.mean = np.zeros(channels)
        self._squares = np.zeros(channels)
        self._defined = np.zeros(channels, np.int64)

    @property
    def deviation(self) -> np.ndarray:
        """(C,) float64, the standard deviation of the keys of all images."""
        return np.asarray(np.sqrt(self._squares / np.maximum(self._defined, 1)))

    @property
    def filled(self) -> np.ndarray:
        """(C, k) bool: where there is an image."""
        return np.asarray(self.facts[:, :, INDEX] != NOBODY)

    def standing_out(self) -> np.ndarray:
        """(C,) float64: by how many standard deviations the best score exceeds the mean of all images."""
        best = np.where(self.filled[:, 0], self.keys[:, 0], 0.0)
        spread = self.deviation
        return np.where(spread > 0, (best - self.mean) / np.maximum(spread, 1e-30), 0.0)

    def add(self, keys: np.ndarray, scores: np.ndarray, facts: np.ndarray) -> None:
        """Take in n more images.

        keys, scores   (n, C) float32
        facts          (n, C, 6) int64

        Of equal keys the smaller image index comes first, so the result does not depend on the order or
        grouping in which images are added.
        """
        if not len(keys):
            return
        self._count(keys)
        ordered = np.where(np.isfinite(keys), keys, -np.inf).astype(np.float32, copy=False)
        # Soon hardly any image is among the best of a channel: only those channels are sorted again.
        moved = np.flatnonzero(ordered.max(axis=0) >= self.keys[:, -1])
        if not len(moved):
            return
        keys = np.concatenate([self.keys[moved], ordered[:, moved].T], axis=1)  # (M, k + n)
        scores = np.concatenate([self.scores[moved], scores[:, moved].T], axis=1)
        rows = np.concatenate([self.facts[moved], facts[:, moved].transpose(1, 0, 2)], axis=1)
        index = rows[:, :, INDEX]
        last = np.where(index == NOBODY, np.iinfo(np.int64).max, index)
        order = np.lexsort((last, -keys), axis=1)[:, : self.k]
        self.keys[moved] = np.take_along_axis(keys, order, axis=1)
        self.scores[moved] = np.take_along_axis(scores, order, axis=1)
        self.facts[moved] = np.take_along_axis(rows, order[:, :, None], axis=1)
        nobody = np.isneginf(self.keys)  # an image without a number is no one's best
        self.facts[nobody] = NOBODY
        self.scores[nobody] = np.nan

    def _count(self, keys: np.ndarray) -> None:
        """Mean and squared deviations, merged pairwise (Chan, Golub & LeVeque 1983): stable for any length."""
        known = np.isfinite(keys)
        values = np.where(known, keys, 0).astype(np.float64)
        number = known.sum(axis=0)
        mean = values.sum(axis=0) / np.maximum(number, 1)
        squares = np.where(known, (values - mean) ** 2, 0).sum(axis=0)
        total = self._defined + number
        apart = mean - self.mean
        share = number / np.maximum(total, 1)
        self._squares += squares + apart**2 * self._defined * share
        self.mean += apart * share
        self._defined = total
        self.undefined += len(keys) - number
        self.count += len(keys)
