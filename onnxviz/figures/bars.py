"""Bars with limits beside the curves that they are the areas of: what `faithfulness` draws."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from PIL import Image, ImageDraw

from onnxviz.figures import style
from onnxviz.figures.grids import blank, page, side_by_side
from onnxviz.figures.scatter import OTHER, marker
from onnxviz.figures.style import INK, LINE, SOFT, Colour

_SIZE: Final = 14
_BAR: Final = 20
_NAME, _LENGTH, _NUMBER = 170, 300, 330  # pixels for a name, the bars, the figures
_CURVE: Final = (220, 150)


class Measured(Protocol):
    """`attribution.faithfulness.Faithfulness`."""

    manifest: dict[str, Any]
    methods: list[str]
    names: list[str]
    scores: Any
    curves: np.ndarray | None
    covered: np.ndarray | None


def faithfulness(result: Measured) -> Image.Image:
    """A block of bars a measure, and the curves of each method."""
    measures = list(dict.fromkeys(one.measure for one in result.scores))
    parts = [_bars(name, [one for one in result.scores if one.measure == name]) for name in measures]
    if result.curves is not None and result.covered is not None:
        curves = [
            (_curves(both, result.covered, marker(number)[0]), name)
            for number, (name, both) in enumerate(zip(result.methods, result.curves, strict=True))
        ]
        parts.append(side_by_side(curves, height=_CURVE[1]))
    count, mark = len(result.names), ", interrupted" if result.manifest.get("incomplete") else ""
    fill = result.manifest["parameters"]["fill"]
    told = f"{count} picture{'s' * (count != 1)}{mark}; whiskers: 95 % bootstrap limits over the pictures"
    if result.curves is not None:
        told += (
            f"; curves: mean score by the share that is covered ({fill}), the most important cells first (thick) and "
            "the least important ones (thin); srg is the area between them"
        )
    return page(parts, title="Faithfulness", subtitle=told)


def _bars(measure: str, rows: Sequence[Any]) -> Image.Image:
    """A bar a method from zero, with its limits and figures."""
    ends = [value for one in rows for value in (one.value, one.low, one.high, 0.0) if value is not None]
    low, high = min(ends), max(ends)
    unit = _LENGTH / ((high - low) or 1.0)
    line = style.line_height(_SIZE)
    image = blank(_NAME + _LENGTH + _NUMBER, line + 6 + _BAR * len(rows))
    canvas = ImageDraw.Draw(image)
    style.text(canvas, 0, 0, measure, _SIZE, INK, strong=True)

    def at(value: float) -> float:
        return _NAME + (value - low) * unit

    for number, one in enumerate(rows):
        y = line + 6 + number * _BAR
        colour: Colour = OTHER if one.better is None else marker(number)[0]
        style.text(canvas, 0, y, style.shortened(one.method, _SIZE, _NAME - 10), _SIZE)
        left, right = sorted((at(0), at(one.value)))
        canvas.rectangle((left, y + 3, max(right, left + 1), y + _BAR - 5), fill=colour)
        told = f"{one.value:.3f}"
        if one.low is not None:
            middle = y + _BAR // 2 - 1
            canvas.line((at(one.low), middle, at(one.high), middle), fill=INK)
            for end in (one.low, one.high):
                canvas.line((at(end), middle - 4, at(end), middle + 4), fill=INK)
            told += f" ({one.low:.3f} to {one.high:.3f})"
        if one.better is False:
            told += ", not told from random"
        style.text(canvas, _NAME + _LENGTH + 10, y, told, _SIZE - 1, SOFT)
    canvas.line((at(0), line + 4, at(0), image.height), fill=SOFT)
    return image


def _curves(both: np.ndarray, covered: np.ndarray, colour: Colour) -> Image.Image:
    """The two curves of a method, from 0 to 1 on both axes."""
    width, height = _CURVE
    image = blank(width, height)
    canvas = ImageDraw.Draw(image)
    canvas.rectangle((0, 0, width - 1, height - 1), outline=LINE)
    for values, thick in zip(both, (3, 1), strict=True):
        points = [(x * (width - 1), (1 - y) * (height - 1)) for x, y in zip(covered, values, strict=True)]
        canvas.line(points, fill=colour, width=thick)
    return image
