"""White pages: single pictures made to size, with captions, one under the other below a title."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from onnxviz.errors import UsageError
from onnxviz.figures import lettering
from onnxviz.figures.lettering import INK, PAPER, SOFT, Colour, line_height

#: An (h, w, 3) or (h, w) uint8 array, or a PIL image.
Picture = np.ndarray | Image.Image

MARGIN: Final = 18  # around a whole sheet, in pixels
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
    picture: Picture, text: str, *, lines: int = 2, size: int = TEXT, room: int | None = None
) -> Image.Image:
    """A picture with text under it: the first line of `text` in ink, what follows a line break softer.

    lines    most lines of text; what is left over is cut with an ellipsis
    room     width in pixels, at least the picture's; None: the picture's
    """
    image = as_image(picture)
    width = max(image.width, room or 0)
    strips = caption_lines(text, size, width, lines)
    result = Image.new(
        "RGB", (width, image.height + (6 + line_height(size) * len(strips) if strips else 0)), PAPER
    )
    result.paste(image, (0, 0))
    write_lines(ImageDraw.Draw(result), 0, image.height + 6, strips, size)
    return result


def caption_lines(text: str, size: int, width: int, lines: int) -> list[tuple[str, Colour]]:
    """The lines of a caption with their colours, at most `lines`: see `caption`."""
    head, _, rest = str(text).partition("\n")
    first = lettering.wrapped(head, size, width, lines)
    second = lettering.wrapped(rest, size, width, lines - len(first)) if rest else []
    return [(line, INK) for line in first] + [(line, SOFT) for line in second]


def write_lines(
    canvas: ImageDraw.ImageDraw, x: int, y: int, lines: Iterable[tuple[str, Colour]], size: int
) -> None:
    """Write lines one under the other, from `y` down."""
    for line, colour in lines:
        lettering.draw(canvas, x, y, line, size, colour)
        y += line_height(size)


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
        width = max(width, min(lettering.width(title, TITLE) + 2, 420))
    heads = [(line, TITLE) for line in lettering.wrapped(title, TITLE, width, 2)] if title else []
    heads += (
        [(line, SUBTITLE) for line in lettering.wrapped(subtitle, SUBTITLE, width, 3)] if subtitle else []
    )
    height = sum(line_height(size) for _, size in heads) + (12 if heads else 0)
    height += sum(image.height for image in images) + gap * max(0, len(images) - 1)
    result = Image.new("RGB", (width + 2 * margin, height + 2 * margin), PAPER)
    canvas = ImageDraw.Draw(result)
    y = margin
    for line, size in heads:
        lettering.draw(canvas, margin, y, line, size, INK if size == TITLE else SOFT, strong=size == TITLE)
        y += line_height(size)
    y += 12 if heads else 0
    for image in images:
        result.paste(image, (margin, y))
        y += image.height + gap
    return result


def checked(pictures: Sequence[Picture], labels: Sequence[str] | None = None) -> list[Image.Image]:
    """The pictures as PIL images.

    raises   UsageError where there is none, or the labels are not one a picture
    """
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
