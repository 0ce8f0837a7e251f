"""Points in the plane, drawn with a colour and a shape for each group, a legend and names beside the groups; and bars
with limits beside the curves that they are the areas of.

Colours are those of Okabe & Ito (2008, "Color Universal Design"), which readers with any colour vision tell
apart; the shape says the same once more, for prints in grey and where there are more groups than colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from PIL import Image, ImageDraw

from onnxviz.figures import grids, style
from onnxviz.figures.style import INK, LINE, SOFT, Colour

PALETTE: tuple[Colour, ...] = (
    (0, 114, 178),  # blue
    (230, 159, 0),  # orange
    (0, 158, 115),  # bluish green
    (213, 94, 0),  # vermilion
    (86, 180, 233),  # sky blue
    (204, 121, 167),  # reddish purple
    (240, 228, 66),  # yellow
)
#: The colour of what belongs to no named group.
OTHER: Colour = (150, 150, 150)
# Corners of each marker on a circle of radius 1; () is the circle itself. Areas are alike.
_SHAPES: tuple[tuple[tuple[float, float], ...], ...] = (
    (),
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0, -1.25), (1.15, 0.85), (-1.15, 0.85)),
    ((0, -1.3), (1.15, 0), (0, 1.3), (-1.15, 0)),
    ((0, 1.25), (1.15, -0.85), (-1.15, -0.85)),
)
# Pillow draws without antialiasing: everything but text is drawn so much larger and then reduced.
_FINE = 3


@dataclass(frozen=True)
class Groups:
    """Which group each point belongs to.

    of      (N,) index into `names`; -1 belongs to none of them
    names   what the groups are called, the most important first
    other   what the legend calls -1
    """

    of: np.ndarray
    names: Sequence[str]
    other: str = "other"


def marker(group: int) -> tuple[Colour, tuple[tuple[float, float], ...]]:
    """The colour and the corners (empty: a circle) of group number `group`; -1 is the grey of the rest."""
    if group < 0:
        return OTHER, _SHAPES[0]
    red, green, blue = PALETTE[group % len(PALETTE)]
    # The second round of colours is darker: a difference that every eye sees.
    shade = 1.0 if group // len(PALETTE) % 2 == 0 else 0.55
    return (int(red * shade), int(green * shade), int(blue * shade)), _SHAPES[group % len(_SHAPES)]


def scatter(
    points: np.ndarray,
    groups: Groups | None = None,
    *,
    axes: tuple[str, str] = ("", ""),
    size: tuple[int, int] = (960, 960),
) -> Image.Image:
    """The points with equal scales on both axes, y upwards, on white.

    points   (N, 2) finite floats
    groups   colour and shape of each point, listed in a legend below; None: all alike and no legend
    axes     what the coordinates are called
    size     (width, height) in pixels
    """
    width, height = size
    unit = _unit(width)
    text = round(15 * unit)
    key = legend(groups, width) if groups is not None and len(groups.names) else None
    plot = (width, height - (key.height + round(14 * unit) if key else 0))
    canvas = Image.new("RGB", size, "white")
    left, top, right, bottom = box = (round(30 * unit), 2, plot[0] - 2, plot[1] - round(30 * unit))
    places = _fit(np.asarray(points, np.float64), box, 26 * unit)
    canvas.paste(_drawn(places, groups, plot, box), (0, 0))
    draw = ImageDraw.Draw(canvas)
    below = bottom + round(8 * unit)
    style.text(draw, (left + right) // 2, below, axes[0], text, SOFT, align="centre")
    _upright(canvas, axes[1], text, (top + bottom) // 2)
    if groups is not None:
        _name_groups(draw, places, groups, box, unit)
    if key is not None:
        canvas.paste(key, (0, height - key.height))
    return canvas


def _unit(width: int) -> float:
    """What pixels are multiplied by in a picture of this width: text and points stay in proportion."""
    return max(1.0, width / 1060)


def _fit(points: np.ndarray, box: tuple[int, int, int, int], margin: float) -> np.ndarray:
    """Pixel positions inside `box` with a margin; one scale for both axes, so distances stay true."""
    left, top, right, bottom = box
    low, high = points.min(axis=0), points.max(axis=0)
    spans, room = high - low, np.array([right - left, bottom - top]) - 2 * margin
    scale = min((room[i] / spans[i] for i in (0, 1) if spans[i] > 0), default=0.0)
    centred = (points - (low + high) / 2) * scale * np.array([1, -1])
    return np.asarray(centred + np.array([(left + right) / 2, (top + bottom) / 2]))


def _drawn(
    places: np.ndarray, groups: Groups | None, size: tuple[int, int], box: tuple[int, int, int, int]
) -> Image.Image:
    large = Image.new("RGB", (size[0] * _FINE, size[1] * _FINE), "white")
    draw = ImageDraw.Draw(large)
    draw.rectangle([edge * _FINE for edge in box], outline=LINE, width=_FINE)
    radius = float(np.clip(110 / math.sqrt(max(1, len(places))), 2.2, 8)) * _unit(size[0]) * _FINE
    of = groups.of if groups is not None else np.zeros(len(places), int)
    # The rest below, then the groups point by point in a mixed order: no group hides another as a whole.
    order = np.random.default_rng(0).permutation(len(places))
    order = order[np.argsort(of[order] >= 0, kind="stable")]
    for i in order:
        _mark(draw, places[i] * _FINE, int(of[i]), radius)
    return large.resize(size, Image.Resampling.LANCZOS)


def _mark(draw: ImageDraw.ImageDraw, at: np.ndarray, group: int, radius: float) -> None:
    colour, corners = marker(group)
    x, y = float(at[0]), float(at[1])
    edge = tuple(int(part * 0.55) for part in colour)
    line = max(1, round(radius / 6))
    if corners:
        draw.polygon([(x + cx * radius, y + cy * radius) for cx, cy in corners], colour, edge, line)
    else:
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), colour, edge, line)


def _name_groups(
    draw: ImageDraw.ImageDraw,
    places: np.ndarray,
    groups: Groups,
    box: tuple[int, int, int, int],
    unit: float,
) -> None:
    """The names beside the middle of their groups, the most important first.

    A name that would lie on another, or on points of other groups, is left to the legend.
    """
    text, half = round(16 * unit), 11 * unit
    widest = round(220 * unit)
    near = 0.05 * max(box[2] - box[0], box[3] - box[1])
    taken: list[tuple[float, float, float, float]] = []
    for number, name in enumerate(groups.names):
        own = groups.of == number
        members, strangers = places[own], places[~own]
        if not len(members):
            continue
        # The member nearest to the median: a group in two parts is named at one of them, not between.
        middle = members[np.argmin(np.abs(members - np.median(members, axis=0)).sum(axis=1))]
        beside = members[np.linalg.norm(members - middle, axis=1) <= near][:, 1]
        shown = style.shortened(name, text, widest)
        reach = style.width(shown, text) / 2
        x = float(np.clip(middle[0], box[0] + reach + 5, box[2] - reach - 5))
        for y in (float(beside.min()) - 20 * unit, float(beside.max()) + 20 * unit):
            area = (x - reach - 3, y - half, x + reach + 3, y + half)
            inside = area[1] > box[1] and area[3] < box[3]
            apart = all(
                area[0] >= other[2] or other[0] >= area[2] or area[1] >= other[3] or other[1] >= area[3]
                for other in taken
            )
            if inside and apart and not _covers(area, strangers):
                style.write(draw, (x, y), shown, text, INK, anchor="mm", stroke_width=3, stroke_fill="white")
                taken.append(area)
                break


def _covers(area: tuple[float, float, float, float], points: np.ndarray) -> bool:
    x, y = points[:, 0], points[:, 1]
    return bool(np.any((x > area[0] - 4) & (x < area[2] + 4) & (y > area[1] - 2) & (y < area[3] + 2)))


def legend(groups: Groups, width: int) -> Image.Image:
    """The groups' markers and names with the number of their points, in three columns."""
    entries = [(number, name, int(np.sum(groups.of == number))) for number, name in enumerate(groups.names)]
    rest = int(np.sum(groups.of < 0))
    if rest:
        entries.append((-1, groups.other, rest))
    columns = min(3, len(entries))
    rows = math.ceil(len(entries) / columns)
    unit = _unit(width)
    line, step, text = round(24 * unit), width // 3, round(15 * unit)
    marks = Image.new("RGB", (width * _FINE, rows * line * _FINE), "white")
    at = [((i // rows) * step + line / 2, (i % rows) * line + line / 2) for i in range(len(entries))]
    for (number, _, _), place in zip(entries, at, strict=True):
        _mark(ImageDraw.Draw(marks), np.array(place) * _FINE, number, 7 * unit * _FINE)
    picture = marks.resize((width, rows * line), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(picture)
    for (_, name, count), (x, y) in zip(entries, at, strict=True):
        counted = f" ({count:,})"
        shown = style.shortened(name, text, step - 2 * line - style.width(counted, text)) + counted
        style.write(draw, (x + 16 * unit, y), shown, text, INK, anchor="lm")
    return picture


def _upright(canvas: Image.Image, text: str, size: int, middle: int) -> None:
    """`text` at the left edge, written from bottom to top around the height `middle`."""
    label = Image.new("RGB", (style.width(text, size) + 2, style.line_height(size)), "white")
    style.text(ImageDraw.Draw(label), 1, 0, text, size, SOFT)
    label = label.transpose(Image.Transpose.ROTATE_90)
    canvas.paste(label, (0, max(0, middle - label.height // 2)))


def side_by_side(
    left: Image.Image, right: Image.Image, title: str, over_left: str, over_right: str
) -> Image.Image:
    """Two pictures beside each other with a title, and a line over each."""
    unit = _unit(right.width)
    margin, gap, head = round(22 * unit), round(44 * unit), round(78 * unit)
    column = max(left.width, 400)  # room for the line over it
    width = 2 * margin + column + gap + right.width
    canvas = Image.new("RGB", (width, head + max(left.height, right.height) + margin), "white")
    draw, large, small = ImageDraw.Draw(canvas), round(22 * unit), round(15 * unit)
    title = style.shortened(title, large, width - 2 * margin)
    style.text(draw, margin, round(16 * unit), title, large, strong=True)
    for picture, line, x in ((left, over_left, margin), (right, over_right, margin + column + gap)):
        shown = style.shortened(line, small, max(picture.width, column))
        style.text(draw, x, round(50 * unit), shown, small, SOFT)
        canvas.paste(picture, (x, head))
    return canvas


# --- bars with limits, and curves: what `faithfulness` draws --------------------------------------

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
        parts.append(grids.side_by_side(curves, height=_CURVE[1]))
    count, mark = len(result.names), ", interrupted" if result.manifest.get("incomplete") else ""
    fill = result.manifest["parameters"]["fill"]
    told = f"{count} picture{'s' * (count != 1)}{mark}; whiskers: 95 % bootstrap limits over the pictures"
    if result.curves is not None:
        told += (
            f"; curves: mean score by the share that is covered ({fill}), the most important cells first (thick) and "
            "the least important ones (thin); srg is the area between them"
        )
    return grids.page(parts, title="Faithfulness", subtitle=told)


def _bars(measure: str, rows: Sequence[Any]) -> Image.Image:
    """A bar a method from zero, with its limits and figures."""
    ends = [value for one in rows for value in (one.value, one.low, one.high, 0.0) if value is not None]
    low, high = min(ends), max(ends)
    unit = _LENGTH / ((high - low) or 1.0)
    line = style.line_height(_SIZE)
    image = grids.blank(_NAME + _LENGTH + _NUMBER, line + 6 + _BAR * len(rows))
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
    image = grids.blank(width, height)
    canvas = ImageDraw.Draw(image)
    canvas.rectangle((0, 0, width - 1, height - 1), outline=LINE)
    for values, thick in zip(both, (3, 1), strict=True):
        points = [(x * (width - 1), (1 - y) * (height - 1)) for x, y in zip(covered, values, strict=True)]
        canvas.line(points, fill=colour, width=thick)
    return image
