"""Sheets of pictures: tiles, rows with headers, pictures with captions, scales and legends, on white.

Every function takes pictures, (h, w, 3) uint8 arrays or PIL images, and gives a PIL image in RGB. Text never
runs over its place: it is wrapped, then shortened with an ellipsis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from onnxviz.errors import UsageError
from onnxviz.image import lettering
from onnxviz.image.lettering import INK, LINE, PAPER, SOFT, Colour, line_height

Picture = np.ndarray | Image.Image

MARGIN: Final = 18  # around a whole sheet
_GAP: Final = 14  # between pictures that have captions
_TITLE, _SUBTITLE, _TEXT = 21, 15, 15  # sizes of letters in pixels
_PAGE_WIDTH: Final = 1400  # what a sheet is laid out for; fewer pictures make it narrower
_MOST_PIXELS: Final = 60_000_000  # of one sheet


# --- single pictures --------------------------------------------------------------------------


def as_image(picture: Picture) -> Image.Image:
    """A PIL image in RGB of an (h, w, 3) or (h, w) uint8 array or another PIL image.

    raises   UsageError for another array
    """
    if isinstance(picture, Image.Image):
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    array = np.asarray(picture)
    if (
        array.dtype != np.uint8
        or not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3))
        or not array.size
    ):
        raise UsageError(f"expected a picture (h, w, 3) uint8, got {array.shape} {array.dtype}")
    return Image.fromarray(array).convert("RGB")


def scaled(picture: Picture, width: int, height: int) -> Image.Image:
    """`picture` as large as fits into `width` × `height`, its shape kept.

    Small maps are enlarged as exact squares, which shows their pixels; photos smoothly.
    """
    image = as_image(picture)
    ratio = min(width / image.width, height / image.height)
    size = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    if size == image.size:
        return image
    # Below 64 pixels what is enlarged is a map or a kernel, whose pixels mean something each.
    pixels = ratio > 1 and max(image.size) < 64
    if pixels:
        return image.resize(size, Image.Resampling.NEAREST)
    return image.resize(size, Image.Resampling.LANCZOS if ratio < 1 else Image.Resampling.BICUBIC)


def caption(
    picture: Picture, text: str, *, lines: int = 2, size: int = _TEXT, room: int | None = None
) -> Image.Image:
    """A picture with text under it: the first line of `text` in ink, what follows a line break softer.

    lines    most lines of text; what is left over is cut with an ellipsis
    room     width in pixels, at least the picture's; None: the picture's
    """
    image = as_image(picture)
    width = max(image.width, room or 0)
    strips = _caption_lines(text, size, width, lines)
    result = Image.new(
        "RGB", (width, image.height + (6 + line_height(size) * len(strips) if strips else 0)), PAPER
    )
    result.paste(image, (0, 0))
    _write_lines(ImageDraw.Draw(result), 0, image.height + 6, strips, size)
    return result


def _caption_lines(text: str, size: int, width: int, lines: int) -> list[tuple[str, Colour]]:
    head, _, rest = str(text).partition("\n")
    first = lettering.wrapped(head, size, width, lines)
    second = lettering.wrapped(rest, size, width, lines - len(first)) if rest else []
    return [(line, INK) for line in first] + [(line, SOFT) for line in second]


def _write_lines(
    canvas: ImageDraw.ImageDraw, x: int, y: int, lines: Iterable[tuple[str, Colour]], size: int
) -> None:
    for line, colour in lines:
        lettering.draw(canvas, x, y, line, size, colour)
        y += line_height(size)


# --- scales and legends -----------------------------------------------------------------------


def number(value: float) -> str:
    """A number as a scale shows it: three digits, no superfluous zeros."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    return (
        f"{value:.3g}"
        if 1e-3 <= abs(value) < 1e4
        else f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")
    )


def scale_bar(
    low: float, high: float, colours: np.ndarray, *, label: str = "", width: int = 260, size: int = 13
) -> Image.Image:
    """A strip of colours with its numbers: both ends, and zero or the middle between them.

    colours   (n, 3) uint8 from `low` to `high`, such as a map of `onnxviz.image.colour.MAPS`
    label     what the numbers are, written above
    """
    middle = 0.0 if low < 0 < high else (low + high) / 2
    ends = [number(low), number(high)]
    strip, gap = 12, 4
    height = (line_height(size) + 2 if label else 0) + strip + gap + line_height(size)
    # A number is centred on its place: half of it stands over the end.
    edge = max(1, *(lettering.width(text, size) // 2 + 1 for text in ends))
    result = Image.new("RGB", (width + 2 * edge, height), PAPER)
    canvas = ImageDraw.Draw(result)
    top = 0
    if label:
        lettering.draw(canvas, edge, 0, lettering.shortened(label, size, width + edge), size, SOFT)
        top = line_height(size) + 2
    places = np.rint(np.linspace(0, len(colours) - 1, width)).astype(np.intp)
    ramp = np.repeat(np.asarray(colours, np.uint8)[None, places], strip, axis=0)
    result.paste(Image.fromarray(ramp), (edge, top))
    canvas.rectangle((edge - 1, top - 1 if top else 0, edge + width, top + strip), outline=LINE)
    marks = [(0.0, ends[0]), (1.0, ends[1])]
    at = (middle - low) / (high - low) if high > low else 0.5
    between = number(middle)
    clear = 2.2 * edge / width  # the middle number is left out where it would touch another
    if (
        high > low
        and between not in ends
        and clear + lettering.width(between, size) / 2 / width < at < 1 - clear
    ):
        marks.append((at, between))
    for place, text in marks:
        x = edge + round(place * (width - 1))
        canvas.line((x, top + strip, x, top + strip + 3), fill=SOFT)
        lettering.draw(canvas, x, top + strip + gap, text, size, SOFT, align="centre")
    return result


def legend(entries: Sequence[tuple[Colour, str]], *, width: int = 600, size: int = 13) -> Image.Image:
    """Squares of colour with their names, side by side, wrapped at `width` pixels."""
    box, gap, apart = size, 6, 18
    placed: list[tuple[int, int, Colour, str]] = []
    x = y = 0
    for colour, text in entries:
        shown = lettering.shortened(text, size, width - box - gap)
        step = box + gap + lettering.width(shown, size)
        if x and x + step > width:
            x, y = 0, y + line_height(size) + 4
        placed.append((x, y, colour, shown))
        x += step + apart
    right = max((x + box + gap + lettering.width(text, size) for x, _, _, text in placed), default=1)
    result = Image.new("RGB", (right, y + line_height(size)), PAPER)
    canvas = ImageDraw.Draw(result)
    for x, y, colour, text in placed:
        canvas.rectangle((x, y + 2, x + box - 1, y + 1 + box), fill=tuple(colour), outline=LINE)
        lettering.draw(canvas, x + box + gap, y + 1, text, size, SOFT)
    return result


# --- pages ------------------------------------------------------------------------------------


def page(
    parts: Sequence[Picture],
    *,
    title: str = "",
    subtitle: str = "",
    gap: int = 16,
    margin: int = MARGIN,
    least: int = 0,
) -> Image.Image:
    """Parts one under the other on white, under a title.

    least    the narrowest the page may be, in pixels, so that a title has room over a small picture
    """
    images = [as_image(part) for part in parts]
    width = max([least, *(image.width for image in images)], default=least)
    if title and not least:
        width = max(width, min(lettering.width(title, _TITLE) + 2, 420))
    heads = [(line, _TITLE) for line in lettering.wrapped(title, _TITLE, width, 2)] if title else []
    heads += (
        [(line, _SUBTITLE) for line in lettering.wrapped(subtitle, _SUBTITLE, width, 3)] if subtitle else []
    )
    height = sum(line_height(size) for _, size in heads) + (12 if heads else 0)
    height += sum(image.height for image in images) + gap * max(0, len(images) - 1)
    result = Image.new("RGB", (width + 2 * margin, height + 2 * margin), PAPER)
    canvas = ImageDraw.Draw(result)
    y = margin
    for line, size in heads:
        lettering.draw(canvas, margin, y, line, size, INK if size == _TITLE else SOFT, strong=size == _TITLE)
        y += line_height(size)
    y += 12 if heads else 0
    for image in images:
        result.paste(image, (margin, y))
        y += image.height + gap
    return result


def columns_for(count: int, width: int, height: int, *, shape: float = 1.5) -> int:
    """How many columns of `count` cells of `width` × `height` give a sheet about `shape` times as wide as high.

    Of the numbers near that, the one that leaves the fewest cells empty.
    """
    if count <= 1:
        return 1
    ideal = max(1.0, math.sqrt(count * shape * height / width))
    nearby = range(max(1, math.floor(ideal * 0.8)), min(count, math.ceil(ideal * 1.25)) + 1)
    return min(nearby, key=lambda n: ((-count % n) / n + abs(n - ideal) / ideal, n))


def tiles(
    pictures: Sequence[Picture],
    *,
    labels: Sequence[str] | None = None,
    columns: int | None = None,
    side: int | None = None,
    title: str = "",
    subtitle: str = "",
    foot: Sequence[Picture] = (),
) -> Image.Image:
    """Many small pictures in a grid with thin gutters, and a short label under each.

    labels    one a picture; shortened in the middle to the tile's width (both ends of a name tell)
    columns   None: as many as make a sheet half as wide again as high
    side      the longer side of a tile in pixels; None: by the number of pictures
    foot      what stands below: a scale bar, a legend
    raises    UsageError where there is no picture, or the labels are not one a picture
    """
    images = _checked(pictures, labels)
    longest = max(max(image.size) for image in images)
    if side is None:
        side = _side(len(images), longest)
    shape = max((image.size for image in images), key=lambda size: size[0] * size[1])
    cell_w = max(1, round(side * min(1, shape[0] / shape[1])))
    cell_h = max(1, round(side * min(1, shape[1] / shape[0])))
    size = 13 if side >= 96 else 11
    labelled = labels is not None and side >= 28
    gap_x, gap_y = (8, 8) if labelled else (2, 2) if side < 72 else (4, 4)
    step_x, step_y = cell_w + gap_x, cell_h + gap_y + (line_height(size) + 2 if labelled else 0)
    columns = columns or columns_for(len(images), step_x, step_y)
    count = math.ceil(len(images) / columns)
    used = min(columns, len(images))
    grid = _blank(used * step_x - gap_x, count * step_y - gap_y)
    canvas = ImageDraw.Draw(grid)
    for i, image in enumerate(images):
        x, y = i % columns * step_x, i // columns * step_y
        tile = scaled(image, cell_w, cell_h)
        grid.paste(tile, (x + (cell_w - tile.width) // 2, y + (cell_h - tile.height) // 2))
        if labelled and labels is not None:
            text = lettering.shortened(labels[i], size, cell_w + gap_x - 4, middle=True)
            lettering.draw(canvas, x + cell_w // 2, y + cell_h + 3, text, size, SOFT, align="centre")
    return page([grid, *foot], title=title, subtitle=subtitle)


def _checked(pictures: Sequence[Picture], labels: Sequence[str] | None) -> list[Image.Image]:
    images = [as_image(picture) for picture in pictures]
    if not images:
        raise UsageError("a sheet needs at least one picture")
    if labels is not None and len(labels) != len(images):
        raise UsageError(f"{len(labels)} labels for {len(images)} pictures; give one each")
    return images


def _side(count: int, longest: int) -> int:
    """The tile side for so many pictures: a whole multiple of small maps, so that their pixels stay square."""
    target = min(192, max(20, int(math.sqrt(1_300_000 / count))))
    if longest < 64:
        return longest * max(1, round(target / longest))
    return target


def _blank(width: int, height: int) -> Image.Image:
    if width * height > _MOST_PIXELS:
        raise UsageError(
            f"the sheet would have {width}×{height} pixels; choose fewer pictures or smaller ones"
        )
    return Image.new("RGB", (max(1, width), max(1, height)), PAPER)


def side_by_side(
    items: Sequence[tuple[Picture, str]],
    *,
    height: int = 300,
    columns: int | None = None,
    title: str = "",
    subtitle: str = "",
    foot: Sequence[Picture] = (),
) -> Image.Image:
    """Pictures of one height with captions under them, wrapped into rows of about equal length.

    items     (picture, caption); the first line of a caption in ink, what follows a line break softer
    height    of every picture, in pixels; one that would be much wider than the others is made smaller
    columns   None: what the page has room for
    raises    UsageError where there is no picture
    """
    images = _checked([picture for picture, _ in items], None)
    wide = _PAGE_WIDTH - 2 * MARGIN
    cards = []
    for image, (_, text) in zip(images, items, strict=True):
        fitted = scaled(image, min(2 * height, wide), height)
        framed = _blank(fitted.width, height)
        framed.paste(fitted, (0, (height - fitted.height) // 2))
        cards.append(caption(framed, text, lines=3, room=max(150, fitted.width)))
    if columns is None:
        most = max(1, (wide + _GAP) // (max(card.width for card in cards) + _GAP))
        columns = math.ceil(len(cards) / math.ceil(len(cards) / most))
    lines = [cards[i : i + columns] for i in range(0, len(cards), columns)]
    return page([_line(cards) for cards in lines] + list(foot), title=title, subtitle=subtitle)


def _line(images: Sequence[Image.Image], gap: int = _GAP) -> Image.Image:
    """Side by side, tops aligned."""
    result = _blank(sum(i.width for i in images) + gap * (len(images) - 1), max(i.height for i in images))
    x = 0
    for image in images:
        result.paste(image, (x, 0))
        x += image.width + gap
    return result


@dataclass(frozen=True)
class Row:
    """One row of `rows`.

    header     what it shows; the first line in ink, what follows a line break softer
    pictures   from left to right
    captions   one a picture, or none
    """

    header: str
    pictures: Sequence[Picture]
    captions: Sequence[str] = field(default_factory=tuple)


def rows(
    table: Sequence[Row],
    *,
    side: int = 112,
    lead: int = 0,
    heads: Sequence[str] = (),
    title: str = "",
    subtitle: str = "",
    foot: Sequence[Picture] = (),
) -> Image.Image:
    """A table of pictures: a header at the left of each row, the pictures in columns, a caption under each.

    side     the longer side of a picture, in pixels
    lead     so many columns are set apart at the left (the query, before its neighbours)
    heads    what stands over the columns
    raises   UsageError where there is no picture, or captions are not one a picture
    """
    for row in table:
        _checked(row.pictures, list(row.captions) or None)
    if not table:
        raise UsageError("a sheet needs at least one row of pictures")
    size, gap = 13, 8
    captioned = any(row.captions for row in table)
    count = max(len(row.pictures) for row in table)
    headed = any(row.header for row in table)
    header_room = min(210, max((_widest(row.header) for row in table), default=0)) if headed else 0
    left = header_room + (16 if headed else 0)
    top = line_height(size) + 4 if any(heads) else 0
    step_x = side + gap
    below = 4 + 2 * line_height(size - 1) if captioned else 0
    step_y = side + below + gap + (6 if captioned else 0)
    apart = 18 if 0 < lead < count else 0
    result = _blank(left + count * step_x - gap + apart, top + len(table) * step_y - gap)
    canvas = ImageDraw.Draw(result)

    def place(column: int) -> int:
        return left + column * step_x + (apart if column >= lead else 0)

    for column, text in enumerate(heads[:count]):
        lettering.draw(canvas, place(column), 0, lettering.shortened(text, size, side), size, SOFT)
    for i, row in enumerate(table):
        y = top + i * step_y
        text_lines = (
            _caption_lines(row.header, _TEXT, header_room, max(1, side // line_height(_TEXT)))
            if headed
            else []
        )
        _write_lines(
            canvas, 0, y + max(0, (side - len(text_lines) * line_height(_TEXT)) // 2), text_lines, _TEXT
        )
        for column, picture in enumerate(row.pictures):
            tile = scaled(picture, side, side)
            result.paste(tile, (place(column) + (side - tile.width) // 2, y + (side - tile.height) // 2))
            if row.captions:
                lines = _caption_lines(row.captions[column], size - 1, side, 2)
                _write_lines(canvas, place(column), y + side + 4, lines, size - 1)
    if apart:
        x = place(lead) - (apart + gap) // 2
        canvas.line((x, top, x, result.height), fill=LINE)
    return page([result, *foot], title=title, subtitle=subtitle)


def _widest(text: str) -> int:
    return max(lettering.width(line, _TEXT) for line in str(text).split("\n")) + 1
