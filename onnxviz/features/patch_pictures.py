"""Patches as pictures: cut out of the winning images, one sheet a channel, and an overview of many channels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageDraw

from onnxviz.errors import ImageRejected
from onnxviz.features.patch_boxes import LayerPatches, PatchData, to_source
from onnxviz.features.stream import fingerprint, refusal
from onnxviz.graph.operators import computes
from onnxviz.image.folder import decode
from onnxviz.progress import Progress, silent
from onnxviz.text import printable, shorten

if TYPE_CHECKING:
    from onnxviz.image.preprocessing import Preprocessing

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
    box = tuple(one.boxes[row, rank].tolist())
    view = result.preprocessing.seen(*picture.shape[:2])
    ring = places(one) and is_wide((box[2] - box[0], box[3] - box[1]), view)
    return crop(picture, result.preprocessing, box, edge, ring=ring)


def crop(
    picture: np.ndarray, preprocessing: Preprocessing, box: tuple[int, ...], edge: int, *, ring: bool = False
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
    view = preprocessing.seen(height, width)
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
    view, frame = preprocessing.seen(height, width), preprocessing.window(height, width)
    return [
        float((source[i] - frame[i % 2]) * view[i % 2] / (frame[i % 2 + 2] - frame[i % 2])) for i in range(4)
    ]


#: Edge of a tile in pixels: on a sheet, and in the overview.
TILE: Final = 208
SMALL: Final = 60
#: The overview shows at most this many channels, those that stand out most.
MOST_BLOCKS: Final = 96
# Sheets are drawn in groups: a group's tiles are in memory at once, and its files are read once.
_GROUP: Final = 64
_BLANK: Final = 232


def sheet(result: PatchData, one: LayerPatches, channel: int) -> Image.Image:
    """The best patches of one channel, see `Patches.sheet`."""
    layer, row = result.layers.index(one), one.row(channel)
    tiles, _ = cut(result, [(layer, row, rank) for rank in range(one.index.shape[1])], TILE)
    return _draw_sheet(result, layer, row, tiles)


def sheets(
    result: PatchData, *, progress: Progress = silent
) -> Iterator[tuple[LayerPatches, int, Image.Image, Changed]]:
    """The sheets that `Patches.sheets` names: layer, channel, picture, and the files that had changed."""
    names = [one.name for one in result.layers]
    rows = [(names.index(name), result[name].row(channel)) for name, channel in result.sheets]
    for start in range(0, len(rows), _GROUP):
        group = rows[start : start + _GROUP]
        wanted = [(layer, row, k) for layer, row in group for k in range(result.layers[layer].index.shape[1])]
        tiles, changed = cut(result, wanted, TILE)
        for done, (layer, row) in enumerate(group, start + 1):
            one = result.layers[layer]
            yield one, int(one.channels[row]), _draw_sheet(result, layer, row, tiles), changed
            progress(done, len(rows), "sheets")


def overview(result: PatchData, *, progress: Progress = silent) -> tuple[Image.Image, Changed]:
    """A block of small patches for each of up to MOST_BLOCKS channels, and the files that had changed."""
    share = max(12, MOST_BLOCKS // len(result.layers))
    rows = [_most_telling(one, share) for one in result.layers]
    wanted = [
        (layer, row, k)
        for layer, one in enumerate(result.layers)
        for row in rows[layer]
        for k in range(min(9, one.index.shape[1]))
    ]
    tiles, changed = cut(result, wanted, SMALL, progress)
    parts = [_draw_overview(result, layer, rows[layer], tiles) for layer in range(len(result.layers))]
    size = max(part.width for part in parts), sum(part.height for part in parts)
    canvas, top = Image.new("RGB", size, "white"), 0
    for part in parts:
        canvas.paste(part, (0, top))
        top += part.height
    return canvas, changed


def _most_telling(one: LayerPatches, most: int) -> list[int]:
    """The rows of the channels to show: all, or those whose best image stands out most from the rest."""
    if len(one.channels) <= most:
        return list(range(len(one.channels)))
    return sorted(int(row) for row in np.argsort(-one.standing_out, kind="stable")[:most])


# --- drawing ----------------------------------------------------------------------------------


def _draw_sheet(result: PatchData, layer: int, row: int, tiles: dict[Place, np.ndarray]) -> Image.Image:
    from onnxviz.figures.grids import side_by_side, square

    one = result.layers[layer]
    ranks = [int(rank) for rank in np.flatnonzero(one.index[row] >= 0)] or [0]
    cards = []
    for rank in ranks:
        index = int(one.index[row, rank])
        told = f"{_score(one, row, rank)}\n{_short(result, index)}" if index >= 0 else "no image"
        cards.append((tiles.get((layer, row, rank), square(None, TILE)), told))
    return side_by_side(
        cards,
        height=TILE,
        columns=math.ceil(math.sqrt(len(ranks))),
        title=f"{printable(one.name, 60)}, channel {int(one.channels[row])}",
        subtitle=_subtitle(result, one, row),
    )


def _subtitle(result: PatchData, one: LayerPatches, row: int) -> str:
    best, here = one.scores[row, 0], one.index[row] >= 0
    told = [
        f"strongest in {int(here.sum())} of {int(result.manifest['figures']['ranked'])} images",
        field_in_words(result, one),
    ]
    if not best > 0 and computes(one.layer.op) in ("relu", "clip"):
        told.append("silent: never above 0")
    if (one.scores[row, here] != one.unclipped[row, here]).any():
        told.append(f"in brackets: before the layer cuts at {best:.3g}")
    if _overhangs(one, row, result.preprocessing):
        told.append("grey lies outside the picture or the field")
    return "; ".join(told)


def _overhangs(one: LayerPatches, row: int, preprocessing: Preprocessing) -> bool:
    """Whether some tile of this channel has grey in it."""
    there = one.index[row] >= 0
    for box, size in zip(one.boxes[row][there].tolist(), one.sizes[row][there].tolist(), strict=True):
        for low, high, length in zip(box[:2], box[2:], preprocessing.seen(*size), strict=True):
            within, covers = low >= 0 and high <= length, low <= 0 and high >= length
            if not within and not covers:
                return True
    return False


def field_in_words(result: PatchData, one: LayerPatches) -> str:
    """What a patch is, in words."""
    extent, size = one.layer.local_field, result.preprocessing.fixed
    if not places(one) or extent is None:
        return "the whole picture counts"
    told = f"a unit sees {extent[1]}×{extent[0]} pixels"
    if size and (extent[0] > size[0] or extent[1] > size[1]):
        told += ", more than the picture has"
    elif size:
        told += f" of {size[1]}×{size[0]}"
    if size and extent[0] >= 2 * size[0] and extent[1] >= 2 * size[1]:
        told = "each unit sees the whole picture"
    return told + (", most of all around the ring" if size and is_wide(extent, size) else "")


def _draw_overview(
    result: PatchData, layer: int, rows: list[int], tiles: dict[Place, np.ndarray]
) -> Image.Image:
    from onnxviz.figures.grids import tiles as draw

    one = result.layers[layer]
    count = min(9, one.index.shape[1])
    across = max(1, math.ceil(math.sqrt(count)))
    blocks = [_block([tiles.get((layer, row, k)) for k in range(count)], across) for row in rows]
    more = ", …" if len(rows) > 12 else ""
    which = f"channel{'s' if len(rows) > 1 else ''} {', '.join(map(str, one.channels[:12]))}{more}"
    if len(rows) < len(one.channels):
        which = f"the {len(rows)} of {len(one.channels)} channels whose best image stands out most"
    elif result.manifest["parameters"]["channels"] is None:
        which = f"all {len(rows)} channels"
    subtitle = f"each block: the {count} patches that one channel answers most; {field_in_words(result, one)}"
    if any(_overhangs(one, row, result.preprocessing) for row in rows):
        subtitle += "; grey lies outside the picture or the field"
    return draw(
        blocks,
        labels=[str(int(one.channels[row])) for row in rows],
        side=max(max(block.shape[:2]) for block in blocks),
        title=f"{printable(one.name, 60)}: {which}",
        subtitle=subtitle,
    )


def _block(pictures: Sequence[np.ndarray | None], across: int) -> np.ndarray:
    """Small tiles, close together, in rows of `across`."""
    gap = 2
    down = math.ceil(len(pictures) / across)
    pitch = SMALL + gap
    block = np.full((down * pitch - gap, across * pitch - gap, 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // across * pitch, i % across * pitch
        if picture is None:
            block[top : top + SMALL, left : left + SMALL] = _BLANK
        else:
            height, width = picture.shape[:2]
            top, left = top + (SMALL - height) // 2, left + (SMALL - width) // 2
            block[top : top + height, left : left + width] = picture
    return block


def _score(one: LayerPatches, row: int, rank: int) -> str:
    score, before = float(one.scores[row, rank]), float(one.unclipped[row, rank])
    return f"{score:.3g}" if score == before else f"{score:.3g} ({before:.3g})"


def _short(result: PatchData, index: int) -> str:
    return shorten(printable(PurePath(result.name_of(index)).name), 40)


def describe(result: PatchData) -> list[str]:
    """The result in a few lines of text, for a terminal."""
    figures: dict[str, Any] = result.manifest["figures"]
    lines = [f"{figures['ranked']} of {figures['images']} images, {figures['skipped']} skipped"]
    for one in result.layers:
        first = int(np.argmax(one.standing_out))
        told = f"{printable(one.name)}: {len(one.channels)} channels, {field_in_words(result, one)}"
        if (index := int(one.index[first, 0])) >= 0:
            channel, image = int(one.channels[first]), printable(result.name_of(index))
            told += f"; channel {channel} stands out most, in {image}"
        lines.append(told)
    return lines
