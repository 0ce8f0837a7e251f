"""Sheets of pictures on white: single ones made to size, with captions, as tiles, in rows with headers, on a grid.

Every function takes pictures, (h, w, 3) uint8 arrays or PIL images, and gives a PIL image in RGB. Text never
runs over its place: it is wrapped, then shortened with an ellipsis.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from onnxviz.errors import UsageError
from onnxviz.figures import style
from onnxviz.figures.style import INK, LINE, PAPER, SOFT, Colour, line_height

#: An (h, w, 3) or (h, w) uint8 array, or a PIL image.
Picture = np.ndarray | Image.Image

MARGIN: Final = 18  # around a whole sheet, in pixels
_PART_GAP: Final = 16  # between the parts of a page
#: Sizes of letters, in pixels.
TITLE, SUBTITLE, TEXT = 21, 15, 15
_MOST_PIXELS: Final = 60_000_000  # of one sheet


def as_image(picture: Picture) -> Image.Image:
    """A PIL image in RGB of an (h, w, 3) or (h, w) uint8 array or another PIL image.

    raises   UsageError for another array
    """
    if isinstance(picture, Image.Image):
        return picture if picture.mode == "RGB" else picture.convert("RGB")
    array = np.asarray(picture)
    if (
        array.dtype != np.uint8
        or array.ndim not in (2, 3)
        or array.shape[2:] not in ((), (3,))
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


def caption(picture: Picture, text: str, *, lines: int = 2, room: int | None = None) -> Image.Image:
    """A picture with text under it: the first line of `text` in ink, what follows a line break softer.

    lines    most lines of text; what is left over is cut with an ellipsis
    room     width in pixels, at least the picture's; None: the picture's
    """
    image = as_image(picture)
    width = max(image.width, room or 0)
    strips = caption_lines(text, TEXT, width, lines)
    below = 6 + line_height(TEXT) * len(strips) if strips else 0
    result = Image.new("RGB", (width, image.height + below), PAPER)
    result.paste(image, (0, 0))
    write_lines(ImageDraw.Draw(result), 0, image.height + 6, strips, TEXT)
    return result


def caption_lines(text: str, size: int, width: int, lines: int) -> list[tuple[str, Colour]]:
    """The lines of a caption with their colours, at most `lines`: see `caption`."""
    head, _, rest = str(text).partition("\n")
    first = style.wrapped(head, size, width, lines)
    second = style.wrapped(rest, size, width, lines - len(first)) if rest else []
    return [(line, INK) for line in first] + [(line, SOFT) for line in second]


def write_lines(
    canvas: ImageDraw.ImageDraw, x: int, y: int, lines: Iterable[tuple[str, Colour]], size: int
) -> None:
    """Write lines one under the other, from `y` down."""
    for line, colour in lines:
        style.text(canvas, x, y, line, size, colour)
        y += line_height(size)


def page(parts: Sequence[Picture], *, title: str = "", subtitle: str = "") -> Image.Image:
    """Parts one under the other on white, under a title."""
    images = [as_image(part) for part in parts]
    width = max((image.width for image in images), default=0)
    if title:
        width = max(width, min(style.width(title, TITLE) + 2, 420))
    heads = [(line, TITLE) for line in style.wrapped(title, TITLE, width, 2)] if title else []
    heads += [(line, SUBTITLE) for line in style.wrapped(subtitle, SUBTITLE, width, 6)] if subtitle else []
    height = sum(line_height(size) for _, size in heads) + (12 if heads else 0)
    height += sum(image.height for image in images) + _PART_GAP * max(0, len(images) - 1)
    result = Image.new("RGB", (width + 2 * MARGIN, height + 2 * MARGIN), PAPER)
    canvas = ImageDraw.Draw(result)
    y = MARGIN
    for line, size in heads:
        style.text(canvas, MARGIN, y, line, size, INK if size == TITLE else SOFT, strong=size == TITLE)
        y += line_height(size)
    y += 12 if heads else 0
    for image in images:
        result.paste(image, (MARGIN, y))
        y += image.height + _PART_GAP
    return result


def checked(pictures: Sequence[Picture], labels: Sequence[str] | None = None) -> list[Image.Image]:
    """The pictures as PIL images; raises UsageError where there is none, or the labels are not one a picture."""
    images = [as_image(picture) for picture in pictures]
    if not images:
        raise UsageError("a sheet needs at least one picture")
    if labels is not None and len(labels) != len(images):
        raise UsageError(f"{len(labels)} labels for {len(images)} pictures; give one each")
    return images


def blank(width: int, height: int) -> Image.Image:
    """White paper; raises UsageError where it would be too large."""
    if width * height > _MOST_PIXELS:
        raise UsageError(
            f"the sheet would have {width}×{height} pixels; choose fewer pictures or smaller ones"
        )
    return Image.new("RGB", (max(1, width), max(1, height)), PAPER)


# --- many in one ----------------------------------------------------------------------------

_GAP: Final = 14  # between pictures that have captions
_CAPTION: Final = 6  # lines of a card's caption at most
_PAGE_WIDTH: Final = 1400  # what a sheet is laid out for; fewer pictures make it narrower


def columns_for(count: int, width: int, height: int) -> int:
    """How many columns of `count` cells of `width` × `height` give a sheet about half as wide again as high.

    Of the numbers near that, one that fills every line if there is one: 32 filters stand as 8 × 4. Near is a fifth
    less to a quarter more, and the whole numbers right below and above (4 is not near 6.2).
    """
    ideal = min(float(count), max(1.0, math.sqrt(count * 1.5 * height / width)))
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
            text = style.shortened(labels[i], size, cell_w, middle=True)
            style.text(canvas, x + cell_w // 2, y + cell_h + 3, text, size, SOFT, align="centre")
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
    stood = []
    for card, text in cards:
        frame = blank(card.width, tallest)
        frame.paste(card, (0, (tallest - card.height) // 2))
        stood.append(caption(frame, text, lines=_CAPTION, room=_LEAST_CARD))
    result = blank(sum(i.width for i in stood) + _GAP * (len(stood) - 1), max(i.height for i in stood))
    x = 0
    for image in stood:
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
    headed = any(row.header for row in table)
    headers = [line for row in table for line in str(row.header).split("\n")]
    header_room = min(210, max(style.width(line, TEXT) for line in headers) + 1) if headed else 0
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
        style.text(canvas, place(column), 0, style.shortened(text, size + 1, side), size + 1, SOFT)
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


# --- cells of a grid, some of which stay empty ----------------------------------------------

_FRAME = 0.045
_EMPTY: Colour = (232, 232, 232)
#: The colour of the bars of `measured`.
BAR: Final[Colour] = (0, 114, 178)


def mosaic(
    pictures: Mapping[int, np.ndarray | None],
    rows: int,
    columns: int,
    edge: int,
    frames: Mapping[int, Colour] | None = None,
) -> Image.Image:
    """Each picture in its cell, on white.

    pictures   cell number, counted along the rows from the top left, to an (h, w, 3) uint8 picture; None: one
               that could not be read again, drawn as a crossed-out grey square
    edge       width and height of a cell in pixels
    frames     cell number to the colour of a frame around its picture
    """
    canvas = Image.new("RGB", (columns * edge, rows * edge), "white")
    gap = max(1, round(edge * 0.03))
    line = int(np.clip(round(edge * _FRAME), 2, 4))
    for cell, picture in pictures.items():
        row, column = divmod(int(cell), columns)
        at = (column * edge + gap, row * edge + gap)
        size = edge - 2 * gap
        colour = frames.get(cell) if frames is not None else None
        if colour is not None:
            canvas.paste(colour, (*at, at[0] + size, at[1] + size))
            at, size = (at[0] + line, at[1] + line), size - 2 * line
        canvas.paste(square(picture, size), at)
    return canvas


def square(picture: np.ndarray | None, edge: int) -> Image.Image:
    """The middle of a picture as a square of `edge` pixels; None: a crossed-out grey square."""
    if picture is None:
        crossed = Image.new("RGB", (edge, edge), _EMPTY)
        draw = ImageDraw.Draw(crossed)
        for line in ((0, 0, edge, edge), (0, edge, edge, 0)):
            draw.line(line, "white", max(1, edge // 40))
        return crossed
    height, width = picture.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    cut = Image.fromarray(np.ascontiguousarray(picture[top : top + side, left : left + side]))
    return cut.resize((edge, edge), Image.Resampling.LANCZOS)


def framed(picture: Image.Image) -> Image.Image:
    """The picture with a dark frame inside its edge."""
    marked = picture.copy()
    ImageDraw.Draw(marked).rectangle((0, 0, picture.width - 1, picture.height - 1), outline=INK, width=4)
    return marked


def measured(picture: Image.Image, part: float) -> Image.Image:
    """The picture with a bar over its lower edge, `part` (0 to 1) of the width long."""
    marked = picture.copy()
    draw = ImageDraw.Draw(marked)
    top = picture.height - 5
    draw.rectangle((0, top - 1, picture.width - 1, picture.height - 1), PAPER)
    draw.rectangle((0, top + 1, picture.width - 1, picture.height - 1), LINE)
    draw.rectangle((0, top + 1, round((picture.width - 1) * min(1.0, part)), picture.height - 1), BAR)
    return marked
