"""Text in pictures: measured, shortened, wrapped and drawn with the font that Pillow carries.

One font on every machine, so that the same result gives the same picture. It holds Latin letters without
accents; others are spelled as near as it can.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import Final

from PIL import ImageDraw, ImageFont

from onnxviz.image.text import ELLIPSIS, printable

Colour = tuple[int, int, int]

INK: Final[Colour] = (26, 27, 30)
SOFT: Final[Colour] = (98, 102, 110)  # secondary text: 6 : 1 against white
LINE: Final[Colour] = (214, 217, 222)
PAPER: Final[Colour] = (255, 255, 255)

# Signs that the font lacks and that are not a letter with an accent.
_SPELLED: Final = str.maketrans(
    {
        "–": "-", "—": "-", "‐": "-", "‑": "-", "−": "-", "×": "x", "÷": "/", "µ": "u", "μ": "u", "≤": "<=",
        "≥": ">=", "≈": "~", "→": "->", "←": "<-", "∞": "inf", "ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe",
        "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ı": "i", "þ": "th", "ð": "d",
        "€": "EUR", "£": "GBP", "✓": "yes", "✗": "no", "\u00a0": " ",
    }
)  # fmt: skip
_HELD: Final = frozenset(map(chr, range(32, 127))) | frozenset("°·…“”‘’«»‹›™©±")


@functools.lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font at a size in pixels."""
    return ImageFont.load_default(size=size)


@functools.lru_cache(maxsize=4096)
def drawable(text: str) -> str:
    """`text` in letters that the font holds, on one line: accents dropped, unknown scripts as question marks."""
    spelled = printable(text).translate(_SPELLED)
    if all(c in _HELD for c in spelled):
        return spelled
    plain = (c for c in unicodedata.normalize("NFKD", spelled) if not unicodedata.combining(c))
    return "".join(c if c in _HELD else "?" for c in plain)


def width(text: str, size: int) -> int:
    """How many pixels wide `text` is drawn."""
    return int(font(size).getlength(drawable(text)) + 0.999)


def shortened(text: str, size: int, room: int, *, middle: bool = False) -> str:
    """`text` in at most `room` pixels, what does not fit replaced by an ellipsis at its end or in its middle."""
    text = drawable(text)
    if width(text, size) <= room:
        return text

    def cut(keep: int) -> str:
        if middle:
            return text[: keep - keep // 2].rstrip() + ELLIPSIS + text[len(text) - keep // 2 :].lstrip()
        return text[:keep].rstrip(" ,;:-·") + ELLIPSIS

    low, high = 0, len(text)  # cut(low) fits, or nothing does
    while high - low > 1:
        keep = (low + high) // 2
        low, high = (keep, high) if width(cut(keep), size) <= room else (low, keep)
    best = cut(low)
    return best if width(best, size) <= room else ""


def wrapped(text: str, size: int, room: int, lines: int) -> list[str]:
    """`text` as at most `lines` lines of `room` pixels; a line break in it is kept, what is left over is cut.

    A word longer than a line (a layer's name) is broken where it must be.
    """
    result: list[str] = []
    for paragraph in str(text).split("\n"):
        words = drawable(paragraph).split()
        line = ""
        while words:
            longer = f"{line} {words[0]}" if line else words[0]
            if width(longer, size) <= room:
                line = longer
                words.pop(0)
            elif line:
                result.append(line)
                line = ""
            else:
                keep = _fitting(words[0], size, room)
                if keep == 0:  # not even one letter
                    return result[:lines]
                result.append(words[0][:keep])
                words[0] = words[0][keep:]
        result.append(line)
    while result and not result[-1]:
        result.pop()
    if len(result) > lines:
        rest = f"{result[lines - 1]} {result[lines]}{ELLIPSIS}" if lines else ""
        result = [*result[: max(lines - 1, 0)], *([shortened(rest, size, room)] if lines else [])]
        if result and not result[-1].endswith(ELLIPSIS):
            result[-1] = shortened(result[-1] + ELLIPSIS, size, room)
    return result


def _fitting(word: str, size: int, room: int) -> int:
    keep = len(word)
    while keep and width(word[:keep], size) > room:
        keep -= 1
    # Break a long name after a separator where there is one in the second half.
    breaks = [i + 1 for i in range(keep // 2, keep) if word[i] in "/._-:"] if keep < len(word) else []
    return breaks[-1] if breaks else keep


def line_height(size: int) -> int:
    """The distance of two lines of text, in pixels."""
    return round(size * 1.3)


def draw(
    canvas: ImageDraw.ImageDraw,
    x: int,
    y: int,
    text: str,
    size: int,
    colour: Colour = INK,
    *,
    align: str = "left",
    strong: bool = False,
) -> None:
    """Draw one line whose box begins at height `y`; `x` is its left end, middle or right end.

    align     'left', 'centre' or 'right'
    strong    a little heavier, for titles
    """
    anchor = {"left": "l", "centre": "m", "right": "r"}[align] + "s"
    baseline = y + round(size * 0.98)
    weight = size / 60 if strong else 0
    canvas.text(
        (x, baseline), drawable(text), fill=colour, font=font(size), anchor=anchor, stroke_width=weight
    )
