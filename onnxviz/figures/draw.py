"""An attribution as a picture: the photo, the map over it, and the scale of its colours; what was cut out by it; and a
sheet of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, Protocol

import numpy as np
from PIL import Image, ImageDraw

from onnxviz.errors import UsageError
from onnxviz.figures import heat, style
from onnxviz.figures.captions import Caption, caption
from onnxviz.figures.grids import as_image, blank, caption_lines, page, scaled, side_by_side, write_lines
from onnxviz.figures.heat import MAPS, blurred, fit, normalise, overlay
from onnxviz.figures.style import INK, LINE, PAPER, SOFT, line_height


class Explained(Protocol):
    """A map over a picture as it is drawn: see `attribution.result.Attribution`."""

    values: np.ndarray
    manifest: dict[str, Any]
    image: np.ndarray
    target: int | None
    label: str
    method: str
    score: float | None
    signed: bool
    percentile: float | None
    caption: Caption | None


_PERCENTILE: Final = (
    99.5  # what lies above shares the deepest colour, so that a few pixels do not pale the rest
)
_STANDS_OUT: Final = 3.0  # times the noise
_LARGE_ERROR: Final = 0.05  # of the sum


def draw(attribution: Explained, *, height: int = 448) -> Image.Image:
    """The photo and the map over it, side by side, with a scale below.

    A fine map (a gradient's) stands by itself, and once more smoothed over the photo.
    The photo's caption names the class and its probability. For occlusion, the window whose covering costs most is
    outlined on the photo, and what is left of the probability without it stands in the caption. RISE has no zero of
    its own, so its map is coloured from its median up.

    height   of both, in pixels
    """
    signed, read = attribution.signed, caption(attribution)
    if read.fine:
        return _fine(attribution, read)
    percentile = attribution.percentile
    if percentile is None:  # occlusion's is a mean of windows, smoothed: it has no outliers
        percentile = 100.0 if attribution.method == "occlusion" else _PERCENTILE
    parameters, figures = (attribution.manifest.get(part) or {} for part in ("parameters", "figures"))
    photo = np.asarray(scaled(attribution.image, 2 * height, height))
    values = _smooth(attribution, parameters)
    low = _ground(read, values)
    _, limit = normalise(values - low, signed=signed, percentile=percentile)
    noise = float(figures.get("noise") or 0.0)
    over = overlay(photo, values - low, signed=signed, limit=limit or 1.0, noise=noise)
    what = "probability" if attribution.target is not None else "score"
    percent = attribution.target is not None and bool(read.scale)
    foot = []
    if limit > 0:
        factor = 100 if percent else 1
        label = read.scale.format(what=what) or "value of the map"
        if percent:
            label += " (percentage points)" if read.zero else " (percent)"
        ends = (-limit if signed else low) * factor, (low + limit) * factor
        foot.append(scale_bar(*ends, MAPS["diverging" if signed else "ember"], label=label, width=360))
    show = _percent if attribution.target is not None else "{:.4g}".format
    first = headline(attribution)
    window = _deepest(figures)
    if window is not None:
        photo = _outlined(photo, window, attribution.image.shape)
        left = (attribution.score or 0.0) - figures["largest_fall"]
        fall = f"{100 * figures['largest_fall']:.3g} points" if percent else number(figures["largest_fall"])
        first += f"\nwith the marked window covered: {show(left)}, a fall of {fall}"
    elif "mean_masked_score" in figures:
        first += f"\nthrough random masks: {show(figures['mean_masked_score'])} on average"
    meaning = read.meaning.format(what=what) if limit > 0 else "nothing stands out anywhere"
    if limit > 0 and noise > 0:
        meaning = f"{meaning}\n{_chance(limit, noise, percent)}"
    meaning = "\n".join([meaning, *incomplete(attribution)])
    return side_by_side(
        [(photo, first), (over, f"{_name(attribution)}\n{meaning}")], height=height, foot=foot
    )


def _ground(read: Caption, values: np.ndarray) -> float:
    """From where on the map is coloured: zero, or its median where it has no zero of its own."""
    finite = np.isfinite(values)
    return float(np.median(values[finite])) if not read.zero and finite.any() else 0.0


def _chance(limit: float, noise: float, percent: bool) -> str:
    """How wide the colours' range is, against what chance does."""
    spread, chance = (f"{100 * x:.2g} points" if percent else number(x) for x in (limit, noise))
    if limit < _STANDS_OUT * noise:
        return f"the colours span {spread}, hardly more than other masks would change (±{chance}): take more masks"
    return f"the colours span {spread}; other masks would move a place by ±{chance}, and less than that is not drawn"


def incomplete(attribution: Explained) -> list[str]:
    """A line on how far the map's parts miss what they should add up to, where that is much."""
    error = (attribution.manifest.get("figures") or {}).get("completeness_error") or 0.0
    return [f"incomplete: the parts miss their sum by {error:.0%}"] if error > _LARGE_ERROR else []


_FINE_HEIGHT: Final = 432  # three of them stand in a line


def _fine(attribution: Explained, read: Caption) -> Image.Image:
    """The photo, the map as it is, and the photo under the smoothed map."""
    values = attribution.values
    percentile = heat.PERCENTILE if attribution.percentile is None else attribution.percentile
    large = np.asarray(scaled(attribution.image, 2 * _FINE_HEIGHT, _FINE_HEIGHT))
    bare = heat.bare(values, signed=attribution.signed, percentile=percentile)
    smooth = heat.smoothed(values)
    if not np.any(values):
        meaning = "the map is zero everywhere"
    else:
        meaning = "\n".join([read.meaning.format(what="score"), *incomplete(attribution)])
    place = "where it is strongest" if np.any(smooth > 0) else "no place stands out"
    return side_by_side(
        [
            (large, headline(attribution)),
            (bare, f"{_name(attribution)}\n{meaning}"),
            (overlay(large, smooth, percentile=percentile), f"the same map, smoothed\n{place}"),
        ],
        height=_FINE_HEIGHT,
    )


def headline(attribution: Explained) -> str:
    """What is explained, with its probability or score: 'Egyptian cat  38.9%'."""
    channels = str((attribution.manifest.get("preprocessing") or {}).get("channels", ""))
    shown = f"\nshown: the mean of {channels} channels" if channels.isdecimal() else ""
    if attribution.score is None:
        return attribution.label + shown
    show = _percent if attribution.target is not None else "{:.4g}".format
    between = ":" if attribution.label[-1:].isdigit() or attribution.target is None else " "
    return f"{attribution.label}{between} {show(attribution.score)}{shown}"


def _percent(value: float) -> str:
    """A probability as a reader wants it: 38.9%, 0.052%, 99.98%; with up to six digits near 0 and 100."""
    if not math.isfinite(value) or not 0 < value < 1:
        return f"{100 * value:.3g}%"
    digits = max(1, 1 - math.floor(math.log10(100 * min(value, 1 - value)) + 1e-9))
    return f"{100 * value:.{min(digits, 6)}f}%"


def _name(attribution: Explained) -> str:
    """The method, with what decides its resolution, and how far it came if it was interrupted."""
    parameters, figures = (attribution.manifest.get(part) or {} for part in ("parameters", "figures"))
    text = attribution.method
    if text == "occlusion" and "window" in parameters and "stride" in parameters:
        (h, w), (down, across) = parameters["window"], parameters["stride"]
        step = f"{across}" if down == across else f"{across} across and {down} down"
        text = f"occlusion: {parameters.get('fill', '')} windows of {w}×{h} pixels, every {step}"
    elif text == "rise":
        text = "RISE" + (f": {parameters['masks']} random masks" if "masks" in parameters else "")
    else:
        text = caption(attribution).title
        text += f" of {', '.join(parameters['layers'])}" if parameters.get("layers") else ""
    for unit in ("windows", "masks", "samples", "steps"):
        if f"{unit}_done" in figures:
            total = figures[unit] if unit in ("windows", "masks") else parameters.get(unit)
            text += f" (interrupted after {figures[f'{unit}_done']} of {total})"
    return text


def _smooth(attribution: Explained, parameters: dict[str, Any]) -> np.ndarray:
    """The values to draw: for occlusion its samples without the edges of its windows, for others as they are."""
    values = attribution.values
    stride = parameters.get("stride")
    if attribution.method != "occlusion" or not stride or max(stride) < 2 or not np.isfinite(values).all():
        return values
    return blurred(values, stride[0] / 2, stride[1] / 2)


def _deepest(figures: dict[str, Any]) -> tuple[int, int, int, int] | None:
    """(top, left, bottom, right) of the window whose covering lowered the score most, if one did."""
    box = figures.get("largest_fall_window")
    if not box or not figures.get("largest_fall", 0) > 0:
        return None
    return box["top"], box["left"], box["bottom"], box["right"]


def _outlined(photo: np.ndarray, box: tuple[int, int, int, int], shape: tuple[int, ...]) -> np.ndarray:
    """The photo with a frame around `box`, which counts in pixels of a picture of `shape`."""
    y, x = photo.shape[0] / shape[0], photo.shape[1] / shape[1]
    top, left, bottom, right = box
    edges = round(left * x), round(top * y), round(right * x) - 1, round(bottom * y) - 1
    picture = Image.fromarray(photo)
    canvas = ImageDraw.Draw(picture)
    # Dark around light: one of the two shows on any photo.
    canvas.rectangle(edges, outline=_OUTER, width=4)
    inner = edges[0] + 1, edges[1] + 1, edges[2] - 1, edges[3] - 1
    canvas.rectangle(inner, outline=_INNER, width=2)
    return np.asarray(picture)


# --- in cells of a sheet, and segmentations -------------------------------------------------


def cell(attribution: Explained, side: int) -> tuple[Image.Image, Image.Image]:
    """The map alone and over its photo, each at most `side` pixels long."""
    read = caption(attribution)
    values = attribution.values
    percentile = heat.PERCENTILE if attribution.percentile is None else attribution.percentile
    photo = np.asarray(scaled(attribution.image, side, side))
    if read.fine:
        bare = heat.bare(values, signed=attribution.signed, percentile=percentile)
        return scaled(bare, side, side), as_image(heat.over(photo, values, percentile=percentile))
    values = values - _ground(read, values)
    # A coarse map is enlarged smoothly: its values are samples, not squares.
    bare = heat.bare(fit(values, *photo.shape[:2]), signed=attribution.signed, percentile=percentile)
    over = overlay(photo, values, signed=attribution.signed, percentile=percentile)
    return as_image(bare), as_image(over)


_DIM: Final = 0.35  # how far the photo is darkened outside the object
_INNER, _OUTER = (255, 255, 255), (20, 20, 20)


def draw_segmentation(
    image: np.ndarray, mask: np.ndarray, source: Explained, figures: dict[str, Any]
) -> Image.Image:
    """Outline, cut-out on white, and map, side by side.

    image     (H, W, 3) uint8, the picture as the network sees it
    mask      (H, W) bool, the object
    source    the map that it was found by
    figures   of the segmentation's manifest
    """
    photo = np.asarray(scaled(image, 2 * _FINE_HEIGHT, _FINE_HEIGHT))
    mask = fit(mask.astype(np.float32), *photo.shape[:2]) > 0.5
    area = f"the outline: {figures['area']:.0%} of the picture"
    return side_by_side(
        [
            (outlined(photo, mask), f"{headline(source)}\n{area}"),
            (alone(photo, mask), f"the object alone\n{_certainty(figures)}"),
            (cell(source, _FINE_HEIGHT)[1], f"{caption(source).title}\nthe map that it was found by"),
        ],
        height=_FINE_HEIGHT,
    )


def _certainty(figures: dict[str, Any]) -> str:
    """How sure the cut is, and why: what the network says to it, what stays of it, and of how many parts it is."""
    text = []
    if "alone" in figures:
        text.append(f"with nothing else {figures['alone']:.1%}, without it {figures['without']:.1%}")
    if figures["parts"] != 1:
        text.append(f"{figures['parts']} parts, the largest {figures['largest_part']:.0%} of it")
    text.append(f"{figures['agreement']:.0%} stays when the thresholds move")
    return f"{'' if figures['sure'] else 'unsure, perhaps a fragment: '}{'; '.join(text)}"


def outlined(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The photo, darker outside the mask, with a light line between two dark ones along its border."""
    from scipy.ndimage import binary_dilation, binary_erosion

    shown = photo.astype(np.float32)
    shown[~mask] *= 1 - _DIM
    result = np.rint(shown).astype(np.uint8)
    wide = max(1, round(min(photo.shape[:2]) / 200))
    # One of the two shows on any photo.
    result[binary_dilation(mask, iterations=2 * wide) & ~binary_erosion(mask, iterations=wide)] = _OUTER
    result[binary_dilation(mask, iterations=wide) & ~mask] = _INNER
    return result


def alone(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The object on white."""
    result = np.full_like(photo, 255)
    result[mask] = photo[mask]
    return result


# --- scales ----------------------------------------------------------------------------------


def number(value: float) -> str:
    """A number as a scale shows it: three digits, no superfluous zeros."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    if 1e-3 <= abs(value) < 1e4:
        return f"{value:.3g}"
    return f"{value:.2g}".replace("e-0", "e-").replace("e+0", "e")


def scale_bar(
    low: float, high: float, colours: np.ndarray, *, label: str = "", width: int = 260, size: int = 13
) -> Image.Image:
    """A strip of colours with its numbers: both ends, and between them zero or the middle.

    colours   (n, 3) uint8 from `low` to `high`, such as a map of `onnxviz.figures.heat.MAPS`
    label     what the numbers are, written above
    """
    middle = 0.0 if low < 0 < high else (low + high) / 2
    strip, gap = 12, 4
    top = line_height(size) + 2 if label else 0
    result = Image.new("RGB", (width, top + strip + gap + line_height(size)), PAPER)
    canvas = ImageDraw.Draw(result)
    if label:
        style.text(canvas, 0, 0, style.shortened(label, size, width), size, SOFT)
    places = np.rint(np.linspace(0, len(colours) - 1, width)).astype(np.intp)
    ramp = np.repeat(np.asarray(colours, np.uint8)[None, places], strip, axis=0)
    result.paste(Image.fromarray(ramp), (0, top))
    canvas.rectangle((0, top, width - 1, top + strip - 1), outline=LINE)
    if not high > low:  # one value only
        style.text(canvas, 0, top + strip + gap, number(low), size, SOFT)
        return result
    ends, between = (number(low), number(high)), number(middle)
    at = round((middle - low) / (high - low) * (width - 1))
    half, clear = style.width(between, size) / 2, 10
    room = style.width(ends[0], size) + clear, width - style.width(ends[1], size) - clear
    marks = [(0, ends[0], "left"), (width - 1, ends[1], "right")]
    if between not in ends and at - half >= room[0] and at + half <= room[1]:
        marks.append((at, between, "centre"))
    for x, text, align in marks:
        canvas.line((x, top + strip, x, top + strip + 2), fill=SOFT)
        style.text(canvas, x, top + strip + gap, text, size, SOFT, align=align)
    return result


# --- sheets of methods ----------------------------------------------------------------------

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


def draw_sheet(grid: Grid, *, names: Sequence[str] = (), side: int | None = None) -> Image.Image:
    """Several methods on several pictures in one sheet.

    Each cell holds the map as it is and, beside or below it, the same over the photo: the first shows what a method
    resolves, the second where it is. Up to five methods stand in columns, one row a picture; more stand in rows, with
    the pictures in columns, since a sheet of twenty columns cannot be read.

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
