"""From a unit of a feature map to the pixels that it sees: in the network's view, and in the original file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from onnxviz.graph.layers import Layer
    from onnxviz.image.preprocess import Preprocessing


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

    view_height, view_width = view_size(preprocessing, height, width)
    if layer.trace is None or not any(layer.trace.placed):
        return 0, 0, view_height, view_width
    top, left, bottom, right = field(layer, y, x, local=True)
    # Of a direction that the layer does not tell apart it sees everything.
    if not layer.trace.placed[0]:
        top, bottom = 0, view_height
    if not layer.trace.placed[1]:
        left, right = 0, view_width
    return top, left, bottom, right


def view_size(preprocessing: Preprocessing, height: int, width: int) -> tuple[int, int]:
    """Height and width in pixels of what the network sees of an original of `height` × `width` pixels."""
    return preprocessing.seen(height, width)


def window(preprocessing: Preprocessing, height: int, width: int) -> tuple[float, float, float, float]:
    """Where the network's view lies in an original of `height` × `width` pixels: top, left, bottom, right.

    In pixels of the original, as edges: (0, 0, height, width) is all of it. It may reach outside (bars).
    """
    h, w = view_size(preprocessing, height, width)
    seen = preprocessing.geometry(height, width)
    y, x = height / seen.height, width / seen.width
    return seen.top * y, seen.left * x, (seen.top + h) * y, (seen.left + w) * x


def to_source(
    preprocessing: Preprocessing, box: tuple[float, float, float, float], height: int, width: int
) -> np.ndarray:
    """A box in the network's view, cut at its borders, as (4,) float64 in pixels of the original.

    Where the view is wider than the original (bars beside it), it is cut at the original's borders too.
    """
    view, frame = view_size(preprocessing, height, width), window(preprocessing, height, width)
    mapped = np.empty(4)
    for axis, (length, limit) in enumerate(zip(view, (height, width), strict=True)):
        start, stop = frame[axis], frame[axis + 2]
        for corner in (axis, axis + 2):
            inside = min(max(box[corner], 0), length)
            mapped[corner] = min(max(start + inside * (stop - start) / length, 0.0), limit)
    return mapped
