"""Sheets of pictures: tiles, rows with headers, pictures with captions, on white.

Every function takes pictures, (h, w, 3) uint8 arrays or PIL images, and gives a PIL image in RGB. Text never
runs over its place: it is wrapped, then shortened with an ellipsis.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from onnxviz.errors import UsageError
from onnxviz.figures import lettering
from onnxviz.figures.lettering import LINE, PAPER, SOFT, Colour, line_height
from onnxviz.figures.page import (
    MARGIN,
    TEXT,
    Picture,
    as_image,
    blank,
    caption,
    caption_lines,
    checked,
    page,
    scaled,
    write_lines,
)

__all__ = [
    "Picture",
    "Row",
    "as_image",
    "caption",
    "columns_for",
    "legend",
    "number",
    "page",
    "rows",
    "scale_bar",
    "scaled",
    "side_by_side",
    "tiles",
]

_GAP: Final = 14  # between pictures that have captions
_CAPTION: Final = 6  # lines of a card's caption at most
_PAGE_WIDTH: Final = 1400  # what a sheet is laid out for; fewer pictures make it narrower


def columns_for(count: int, width: int, height: int, *, shape: float = 1.5) -> int:
    """How many columns of `count` cells of `width` × `height` give a sheet about `shape` times as wide as high.

    Of the numbers near that, one that fills every line if there is one: 32 filters stand as 8 × 4. Near is a fifth
    less to a quarter more, and the whole numbers right below and above (4 is not near 6.2).
    """
    ideal = min(float(count), max(1.0, math.sqrt(count * shape * height / width)))
    least = min(math.floor(ideal), math.ceil(ideal * 0.8))
    most = max(math.ceil(ideal), math.floor(ideal * 1.25))
    nearby = range(least, min(count, most) + 1)

    def badness(columns: int) -> tuple[float, int]:
        empty = -count % columns
        return 2 * empty / columns + (0.15 if empty else 0) + abs(columns - ideal) / ideal, columns

    return min(nearby, key=badness)


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
    images = checked(pictures, labels)
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
    grid = blank(used * step_x - gap_x, count * step_y - gap_y)
    canvas = ImageDraw.Draw(grid)
    for i, image in enumerate(images):
        x, y = i % columns * step_x, i // columns * step_y
        tile = scaled(image, cell_w, cell_h)
        grid.paste(tile, (x + (cell_w - tile.width) // 2, y + (cell_h - tile.height) // 2))
        if labelled and labels is not None:
            text = lettering.shortened(labels[i], size, cell_w, middle=True)
            lettering.draw(canvas, x + cell_w // 2, y + cell_h + 3, text, size, SOFT, align="centre")
    return page([grid, *foot], title=title, subtitle=subtitle)


def _side(count: int, longest: int) -> int:
    """The tile side for so many pictures: a whole multiple of small maps, so that their pixels stay square."""
    target = min(192, max(20, int(math.sqrt(1_300_000 / count))))
    if longest < 64:
        return longest * min(20, max(1, round(target / longest)))
    return target


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
    images = checked([picture for picture, _ in items])
    room = _PAGE_WIDTH - 2 * MARGIN
    cards = [
        (scaled(image, min(2 * height, room), height), str(text))
        for image, (_, text) in zip(images, items, strict=True)
    ]
    widths = [max(_LEAST_CARD, card.width) for card, _ in cards]
    counts = [columns] * len(cards) if columns else _balanced(widths, room)
    parts, start = [], 0
    for count in counts:
        if start < len(cards):
            parts.append(_line(cards[start : start + count]))
            start += count
    return page(parts + [as_image(picture) for picture in foot], title=title, subtitle=subtitle)


_LEAST_CARD: Final = 150  # so that a caption has room under a narrow picture


def _balanced(widths: Sequence[int], room: int) -> list[int]:
    """How many cards stand in each line: no more lines than `room` forces, and these about equally long."""

    def lines(limit: int) -> list[int]:
        counts, used = [0], 0
        for width in widths:
            if counts[-1] and used + _GAP + width > limit:
                counts.append(0)
                used = 0
            used += width + (_GAP if counts[-1] else 0)
            counts[-1] += 1
        return counts

    least = len(lines(room))
    low, high = 0, room  # lines(high) has the least number of lines
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if len(lines(middle)) == least else (middle, high)
    return lines(high)


def _line(cards: Sequence[tuple[Image.Image, str]]) -> Image.Image:
    """Pictures side by side, their middles on one height, their captions below."""
    tallest = max(card.height for card, _ in cards)
    framed = []
    for card, text in cards:
        frame = blank(card.width, tallest)
        frame.paste(card, (0, (tallest - card.height) // 2))
        framed.append(caption(frame, text, lines=_CAPTION, room=_LEAST_CARD))
    result = blank(sum(i.width for i in framed) + _GAP * (len(framed) - 1), max(i.height for i in framed))
    x = 0
    for image in framed:
        result.paste(image, (x, 0))
        x += image.width + _GAP
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
        checked(row.pictures, row.captions or None)
    if not table:
        raise UsageError("a sheet needs at least one row of pictures")
    size, gap = 12, 8
    count = max(len(row.pictures) for row in table)
    captions = [[caption_lines(text, size, side, 2) for text in row.captions] for row in table]
    below = max((len(lines) for row_ in captions for lines in row_), default=0) * line_height(size)
    header_room = (
        min(210, max(_widest(row.header) for row in table)) if any(row.header for row in table) else 0
    )
    left = header_room + 16 if header_room else 0
    top = line_height(size + 1) + 4 if any(heads) else 0
    step_x, step_y = side + gap, side + gap + (4 + below + 6 if below else 0)
    apart = 18 if 0 < lead < count else 0
    bottom = top + len(table) * step_y - gap - (6 if below else 0)
    result = blank(left + count * step_x - gap + apart, bottom)
    canvas = ImageDraw.Draw(result)

    def place(column: int) -> int:
        return left + column * step_x + (apart if column >= lead else 0)

    for column, text in enumerate(heads[:count]):
        lettering.draw(canvas, place(column), 0, lettering.shortened(text, size + 1, side), size + 1, SOFT)
    for i, row in enumerate(table):
        y = top + i * step_y
        header = caption_lines(row.header, TEXT, header_room, max(1, side // line_height(TEXT)))
        write_lines(canvas, 0, y + max(0, (side - len(header) * line_height(TEXT)) // 2), header, TEXT)
        for column, picture in enumerate(row.pictures):
            tile = scaled(picture, side, side)
            result.paste(tile, (place(column) + (side - tile.width) // 2, y + (side - tile.height) // 2))
            if row.captions:
                write_lines(canvas, place(column), y + side + 4, captions[i][column], size)
    if apart:
        x = place(lead) - (apart + gap) // 2
        canvas.line((x, top, x, result.height), fill=LINE)
    return page([result, *foot], title=title, subtitle=subtitle)


def _widest(text: str) -> int:
    return max(lettering.width(line, TEXT) for line in str(text).split("\n")) + 1


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
    """A strip of colours with its numbers: both ends, and between them zero or the middle.

    colours   (n, 3) uint8 from `low` to `high`, such as a map of `onnxviz.figures.colour.MAPS`
    label     what the numbers are, written above
    """
    middle = 0.0 if low < 0 < high else (low + high) / 2
    strip, gap = 12, 4
    top = line_height(size) + 2 if label else 0
    result = Image.new("RGB", (width, top + strip + gap + line_height(size)), PAPER)
    canvas = ImageDraw.Draw(result)
    if label:
        lettering.draw(canvas, 0, 0, lettering.shortened(label, size, width), size, SOFT)
    places = np.rint(np.linspace(0, len(colours) - 1, width)).astype(np.intp)
    ramp = np.repeat(np.asarray(colours, np.uint8)[None, places], strip, axis=0)
    result.paste(Image.fromarray(ramp), (0, top))
    canvas.rectangle((0, top, width - 1, top + strip - 1), outline=LINE)
    if not high > low:  # one value only
        lettering.draw(canvas, 0, top + strip + gap, number(low), size, SOFT)
        return result
    ends, between = (number(low), number(high)), number(middle)
    at = round((middle - low) / (high - low) * (width - 1))
    half, clear = lettering.width(between, size) / 2, 10
    room = lettering.width(ends[0], size) + clear, width - lettering.width(ends[1], size) - clear
    marks = [(0, ends[0], "left"), (width - 1, ends[1], "right")]
    if between not in ends and at - half >= room[0] and at + half <= room[1]:
        marks.append((at, between, "centre"))
    for x, text, align in marks:
        canvas.line((x, top + strip, x, top + strip + 2), fill=SOFT)
        lettering.draw(canvas, x, top + strip + gap, text, size, SOFT, align=align)
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
