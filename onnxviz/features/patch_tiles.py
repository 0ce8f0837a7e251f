"""Cutting patches out of the winning images, at the resolution of the original files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import Image, ImageDraw

from onnxviz.errors import ImageRejected
from onnxviz.features.patch_boxes import LayerPatches, PatchData, to_source, view_size, window
from onnxviz.features.stream import fingerprint, refusal
from onnxviz.image.decode import decode
from onnxviz.progress import Progress, silent

if TYPE_CHECKING:
    from onnxviz.image.preprocess import Preprocessing

_GREY: Final = 128

#: A tile: which layer of the result, which row of its arrays, which rank from 0.
Place = tuple[int, int, int]
#: Images that could not be read again, with the reason.
Changed = dict[int, str]


def cut(
    result: PatchData, wanted: Sequence[Place], edge: int, progress: Progress = silent
) -> tuple[dict[Place, np.ndarray], Changed]:
    """The patches at these places as (edge, edge, 3) uint8 tiles; each source file is read once, in threads.

    returns   the tiles, without those whose file is gone or is not what was ranked; and the reasons, by image
    """
    by_image: dict[int, list[Place]] = {}
    for layer, row, rank in wanted:
        index = int(result.layers[layer].index[row, rank])
        if index >= 0:
            by_image.setdefault(index, []).append((layer, row, rank))

    def tiles_of(index: int) -> list[tuple[Place, np.ndarray]]:
        picture = result.preprocessing.read(result.sources[index])
        known = {int(result.layers[layer].prints[row, rank]) for layer, row, rank in by_image[index]}
        if known != {fingerprint(result.preprocessing.view(picture))}:
            raise ImageRejected("it is not the picture that was ranked; the file was replaced")
        shown = result.preprocessing.shown(picture)
        return [(place, _tile(result, place, shown, edge)) for place in by_image[index]]

    tiles: dict[Place, np.ndarray] = {}
    changed: Changed = {}
    for done, (index, found) in enumerate(decode(sorted(by_image), tiles_of, workers=result.workers), 1):
        if isinstance(found, ImageRejected):
            changed[index] = refusal(result.sources[index], index, found).reason
        else:
            tiles.update(found)
        progress(done, len(by_image), "patches")
    return tiles, changed


def _tile(result: PatchData, place: Place, picture: np.ndarray, edge: int) -> np.ndarray:
    layer, row, rank = place
    one = result.layers[layer]
    top, left, bottom, right = map(int, one.boxes[row, rank])
    view = view_size(result.preprocessing, *picture.shape[:2])
    ring = places(one) and is_wide((bottom - top, right - left), view)
    return crop(picture, result.preprocessing, (top, left, bottom, right), edge, ring=ring)


def crop(
    picture: np.ndarray,
    preprocessing: Preprocessing,
    box: tuple[int, int, int, int],
    edge: int,
    *,
    ring: bool = False,
) -> np.ndarray:
    """A patch of the network's view, from the original's own pixels.

    picture   (H, W, 3) uint8, the original
    box       top, left, bottom, right in pixels of the network's view; may reach outside
    edge      pixels of the longer side of the result
    ring      draw a ring around the middle of the box: where it is much of the picture, the unit hears most from there
    returns   (h, w, 3) uint8. Every patch of a layer comes out at one scale: what hangs over the border of the view is
              grey, and where the field is larger than the view, the whole view is shown with what lies outside
              the field grey
    """
    height, width = picture.shape[:2]
    view = view_size(preprocessing, height, width)
    shown = [
        (box[axis], box[axis + 2]) if box[axis + 2] - box[axis] < view[axis] else (0, view[axis])
        for axis in (0, 1)
    ]
    scale = edge / max(stop - start for start, stop in shown)
    size = [max(1, round((stop - start) * scale)) for start, stop in shown]
    tile = Image.new("RGB", (size[1], size[0]), (_GREY,) * 3)
    source = to_source(preprocessing, box, height, width)
    # Where the visible part lies on the tile: back from the original, which may end before the view does (bars).
    inside = _to_view(preprocessing, source, height, width)
    edges = [round((inside[i] - shown[i % 2][0]) * scale) for i in range(4)]
    edges = [min(max(edges[i], 0), size[i % 2]) for i in range(4)]
    rows, columns = edges[2] - edges[0], edges[3] - edges[1]
    if rows > 0 and columns > 0 and source[2] > source[0] and source[3] > source[1]:
        part = Image.fromarray(picture).resize(
            (columns, rows), Image.Resampling.BICUBIC, (source[1], source[0], source[3], source[2])
        )
        tile.paste(part, (edges[1], edges[0]))
    if ring:
        y, x = (((box[i] + box[i + 2]) / 2 - shown[i][0]) * scale for i in (0, 1))
        _draw_ring(tile, min(max(y, 0), size[0]), min(max(x, 0), size[1]), edge)
    return np.asarray(tile)


def _draw_ring(tile: Image.Image, y: float, x: float, edge: int) -> None:
    """White between two dark lines, so that it shows on any picture."""
    draw = ImageDraw.Draw(tile)
    radius, width = max(4.0, edge / 14), max(1, edge // 100)
    for grow, colour, line in ((width, "black", 3 * width), (0, "white", width)):
        reach = radius + grow
        draw.ellipse((x - reach, y - reach, x + reach, y + reach), outline=colour, width=line)


def places(one: LayerPatches) -> bool:
    """Whether the layer tells places in the picture apart."""
    return one.layer.trace is not None and any(one.layer.trace.placed)


def is_wide(extent: tuple[int, int], view: tuple[int, int]) -> bool:
    """Whether a field is so large a part of the view that its middle needs a mark."""
    return 2 * max(extent[0] / view[0], extent[1] / view[1]) > 1


def _to_view(preprocessing: Preprocessing, source: np.ndarray, height: int, width: int) -> list[float]:
    """A box in pixels of the original, in pixels of the view."""
    view, frame = view_size(preprocessing, height, width), window(preprocessing, height, width)
    return [
        float((source[i] - frame[i % 2]) * view[i % 2] / (frame[i % 2 + 2] - frame[i % 2])) for i in range(4)
    ]
