"""What the colours of a sheet mean: strips with numbers, and squares with names."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from onnxviz.figures import lettering
from onnxviz.figures.lettering import LINE, PAPER, SOFT, Colour, line_height


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
