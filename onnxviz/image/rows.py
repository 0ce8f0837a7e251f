"""Rows of pictures: one that is asked about, then those that answer it, each with two lines of text below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from onnxviz.image.mosaic import square
from onnxviz.image.text import printable, shorten

_INK = (40, 40, 40)
_FAINT = (100, 100, 100)
_BAR = (0, 114, 178)
_TRACK = (226, 226, 226)
_MARGIN, _GAP, _APART, _LINE = 18, 10, 34, 17
_NARROWEST = 700  # room for the lines at the top

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Tile:
    """One picture of a row.

    picture   (h, w, 3) uint8; None: one that could not be read again
    above     the first line below it, in ink
    below     the second, fainter
    bar       0 to 1, drawn as a bar under the picture; None: no bar
    """

    picture: np.ndarray | None
    above: str = ""
    below: str = ""
    bar: float | None = None


@dataclass(frozen=True)
class Row:
    """The picture that is asked about, and those that answer."""

    first: Tile
    others: Sequence[Tile]
    note: str = ""


def rows(
    listed: Sequence[Row], title: str, subtitle: str, heads: tuple[str, str], edge: int = 148
) -> Image.Image:
    """All rows below each other, on white.

    title, subtitle   the lines at the top
    heads             what stands over the first column and over the others
    edge              width and height of a picture in pixels
    """
    most = max((len(row.others) for row in listed), default=0)
    step, height = edge + _GAP, edge + 8 + 2 * _LINE + 14
    large, small = _font(19), _font(13)
    wide = max(_NARROWEST, 2 * _MARGIN + edge + _APART + max(most, 1) * step - _GAP)
    measure = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    top = _MARGIN + 64 + 22
    canvas = Image.new("RGB", (wide, top + len(listed) * height + _MARGIN - 14), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((_MARGIN, _MARGIN), fit(measure, title, large, wide - 2 * _MARGIN), _INK, large)
    draw.text((_MARGIN, _MARGIN + 29), fit(measure, subtitle, small, wide - 2 * _MARGIN), _FAINT, small)
    draw.text((_MARGIN, top - 8), heads[0], _INK, small, anchor="ls")
    draw.text((_MARGIN + edge + _APART, top - 8), heads[1], _INK, small, anchor="ls")
    for number, row in enumerate(listed):
        y = top + number * height
        _tile(canvas, draw, row.first, (_MARGIN, y), edge, small)
        draw.rectangle((_MARGIN - 3, y - 3, _MARGIN + edge + 2, y + edge + 2), outline=_INK, width=3)
        line = _MARGIN + edge + _APART // 2
        draw.line((line, y, line, y + edge), _TRACK, 2)
        for place, tile in enumerate(row.others):
            _tile(canvas, draw, tile, (_MARGIN + edge + _APART + place * step, y), edge, small)
        if row.note:
            x = _MARGIN + edge + _APART + len(row.others) * step
            draw.text((x, y + edge / 2), row.note, _FAINT, small, anchor="lm")
    return canvas


def _tile(
    canvas: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, at: tuple[int, int], edge: int, text: Font
) -> None:
    x, y = at
    canvas.paste(square(tile.picture, edge), at)
    if tile.bar is not None:
        draw.rectangle((x, y + edge + 2, x + edge - 1, y + edge + 5), _TRACK)
        draw.rectangle((x, y + edge + 2, x + round((edge - 1) * min(1.0, tile.bar)), y + edge + 5), _BAR)
    for number, (line, colour) in enumerate(((tile.above, _INK), (tile.below, _FAINT))):
        draw.text((x, y + edge + 9 + number * _LINE), fit(draw, line, text, edge), colour, text)


def fit(draw: ImageDraw.ImageDraw, line: str, text: Font, width: float) -> str:
    """`line` made harmless and, where it is too long for `width` pixels, without its middle."""
    shown = printable(line)
    if draw.textlength(shown, text) <= width:
        return shown
    low, high = 1, len(shown)
    while low < high:
        middle = (low + high + 1) // 2
        if draw.textlength(shorten(shown, middle), text) <= width:
            low = middle
        else:
            high = middle - 1
    return shorten(shown, low)


def _font(size: int) -> Font:
    return ImageFont.load_default(size)
