"""Several methods on several pictures in one sheet.

Each cell holds the map as it is and, beside or below it, the same over the photo: the first shows what a method
resolves, the second where it is. Up to five methods stand in columns, one row a picture; more stand in rows, with the
pictures in columns, since a sheet of twenty columns cannot be read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from PIL import Image, ImageDraw

from onnxviz.errors import UsageError
from onnxviz.figures import style
from onnxviz.figures.captions import caption
from onnxviz.figures.draw import Explained, cell, headline, incomplete
from onnxviz.figures.grids import blank, caption_lines, page, scaled, write_lines
from onnxviz.figures.style import INK, SOFT, line_height

#: Rows are pictures, columns methods.
Grid = Sequence[Sequence[Explained]]

_MOST_COLUMNS: Final = 5
_GAP: Final = 10
_LEGEND: Final = (
    "the map by itself. {}: over the photo; a map of single pixels is smoothed first and coloured from its "
    "median up."
)
_TITLE: Final = 16
_TEXT: Final = 13


def draw(grid: Grid, *, names: Sequence[str] = (), side: int | None = None) -> Image.Image:
    """The sheet of a grid of attributions.

    grid     one row a picture, one column a method
    names    what each picture is called
    side     the longer side of a map, in pixels; None: by how many there are
    raises   UsageError for an empty grid, or one with gaps
    """
    if not grid or not grid[0] or any(len(row) != len(grid[0]) for row in grid):
        raise UsageError("a sheet of methods needs at least one picture, and every method for each picture")
    if len(grid[0]) > _MOST_COLUMNS:
        return _by_method(grid, names, side or max(110, min(200, 1400 // (2 * len(grid)))))
    return _by_picture(grid, names, side or 224)


def _by_picture(grid: Grid, names: Sequence[str], side: int) -> Image.Image:
    """One row a picture, one column a method, photos first."""
    cells = [[cell(one, side) for one in row] for row in grid]
    photos = [scaled(row[0].image, side, side) for row in grid]
    heights = [max(2 * row[0][0].height + 4, photo.height) for row, photo in zip(cells, photos, strict=True)]
    heads = [caption_lines(caption(one).title, _TITLE, side, 2) for one in grid[0]]
    top = max(len(lines) for lines in heads) * line_height(_TITLE) + 6
    width = (side + _GAP) * (len(grid[0]) + 1) - _GAP
    sheet = blank(width, top + sum(heights) + 2 * _GAP * (len(grid) - 1))
    canvas = ImageDraw.Draw(sheet)
    for column, lines in enumerate(heads, start=1):
        write_lines(canvas, column * (side + _GAP), 0, lines, _TITLE)
    y = top
    for number, (row, photo) in enumerate(zip(cells, photos, strict=True)):
        sheet.paste(photo, (0, y))
        text = caption_lines(_called(grid[number], names, number), _TITLE, side, 8)
        write_lines(canvas, 0, y + photo.height + 6, text, _TITLE)
        for column, pair in enumerate(row, start=1):
            x = column * (side + _GAP)
            sheet.paste(pair[0], (x, y))
            sheet.paste(pair[1], (x, y + pair[0].height + 4))
        y += heights[number] + 2 * _GAP
    return page([sheet], subtitle="Above: " + _LEGEND.format("Below"))


def _by_method(grid: Grid, names: Sequence[str], side: int) -> Image.Image:
    """One row a method, two columns a picture, photos on top."""
    room = 236
    photos = [scaled(row[0].image, side, side) for row in grid]
    step = 2 * side + 4 + _GAP
    captions = [
        caption_lines(_called(row, names, n), _TEXT, side, side // line_height(_TEXT))
        for n, row in enumerate(grid)
    ]
    cells = [[cell(row[column], side) for row in grid] for column in range(len(grid[0]))]
    heights = [max(pair[0].height for pair in row) for row in cells]
    top = max(photo.height for photo in photos) + 2 * _GAP
    sheet = blank(room + step * len(grid) - _GAP, top + sum(heights) + _GAP * (len(cells) - 1))
    canvas = ImageDraw.Draw(sheet)
    legend = style.wrapped("Left: " + _LEGEND.format("Right"), _TEXT, room - 20, top // line_height(_TEXT))
    write_lines(canvas, 0, 0, [(line, SOFT) for line in legend], _TEXT)
    for column, (photo, lines) in enumerate(zip(photos, captions, strict=True)):
        sheet.paste(photo, (room + column * step, 0))
        write_lines(canvas, room + column * step + side + 10, 0, lines, _TEXT)
    y = top
    for number, (row, height) in enumerate(zip(cells, heights, strict=True)):
        one = grid[0][number]
        read = caption(one)
        title = style.shortened(read.title, _TITLE, room - 20)
        meaning = style.wrapped(read.meaning.format(what="score"), _TEXT, room - 20, 4)
        block = line_height(_TITLE) + 2 + len(meaning) * line_height(_TEXT)
        start = y + max(0, (height - block) // 2)
        style.text(canvas, 0, start, title, _TITLE, INK, strong=True)
        write_lines(canvas, 0, start + line_height(_TITLE) + 2, [(line, SOFT) for line in meaning], _TEXT)
        for column, pair in enumerate(row):
            x = room + column * step
            sheet.paste(pair[0], (x, y))
            sheet.paste(pair[1], (x + side + 4, y))
        y += height + _GAP
    return page([sheet])


def _called(row: Sequence[Explained], names: Sequence[str], number: int) -> str:
    """What a picture's caption says: its class with the probability, its name, and which maps are incomplete."""
    lines = [headline(row[0]), *([names[number]] if number < len(names) and names[number] else [])]
    for one in row:
        lines += [f"{caption(one).title}: {text}" for text in incomplete(one)]
    return "\n".join(lines)
