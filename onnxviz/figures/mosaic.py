"""Pictures in the cells of a grid, some of which stay empty."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image, ImageDraw

from onnxviz.figures.lettering import INK, LINE, PAPER, Colour

_FRAME = 0.045
_EMPTY: Colour = (232, 232, 232)
_BAR: Colour = (0, 114, 178)


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
        blank = Image.new("RGB", (edge, edge), _EMPTY)
        draw = ImageDraw.Draw(blank)
        draw.line((0, 0, edge, edge), "white", max(1, edge // 40))
        draw.line((0, edge, edge, 0), "white", max(1, edge // 40))
        return blank
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
    draw.rectangle((0, top + 1, round((picture.width - 1) * min(1.0, part)), picture.height - 1), _BAR)
    return marked
