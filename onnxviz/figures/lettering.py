"""Text in pictures: measured, shortened, wrapped and drawn, in any script that a font at hand holds.

What Pillow's own font can write it writes, so that the same result gives the same picture on every machine; for other
letters see `fonts`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import Any, Final

from PIL import ImageDraw, ImageFont

from onnxviz.figures import fonts
from onnxviz.text import ELLIPSIS, composed, printable, shorten

Colour = tuple[int, int, int]

INK: Final[Colour] = (26, 27, 30)
SOFT: Final[Colour] = (98, 102, 110)  # secondary text: 6 : 1 against white
LINE: Final[Colour] = (214, 217, 222)
PAPER: Final[Colour] = (255, 255, 255)

# Signs of our own captions that Pillow's font lacks: spelled, so that pictures look the same on every machine.
_SIGNS: Final = str.maketrans(
    {
        "–": "-", "—": "-", "‐": "-", "‑": "-", "−": "-", "×": "x", "÷": "/", "µ": "u", "μ": "u", "≤": "<=",
        "≥": ">=", "≈": "~", "→": "->", "←": "<-", "∞": "inf", "✓": "yes", "✗": "no", "\u00a0": " ",
    }
)  # fmt: skip
# Letters that are not one with an accent, where no font holds them.
_SPELLED: Final = {
    "ß": "ss", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d",
    "Đ": "D", "ı": "i", "þ": "th", "ð": "d", "€": "EUR", "£": "GBP",
}  # fmt: skip
# Of a longer text only so much is ever looked at; no line of a picture holds as much.
_LONGEST: Final = 4000
# Joiners within words of Arabic and Indic scripts are orthography; elsewhere they hide, and `printable` shows them.
_JOINED: Final = re.compile("(?<=[\u0600-\u0dff])([\u200c\u200d])(?=[\u0600-\u0dff])")


def font(size: int) -> fonts.Font:
    """Pillow's own font at a size in pixels."""
    return fonts.loaded(None, size)


def drawable(text: str) -> str:
    """`text` in letters that some font at hand holds, on one line.

    What none holds is spelled as near as can be (accents dropped); of other scripts stands the number, such as
    ``\\u732b``, and a warning names the way to a font.
    """
    pieces = _JOINED.split(composed(shorten(str(text), _LONGEST)))
    shown = "".join(one if one in fonts.JOINERS else printable(one) for one in pieces).translate(_SIGNS)
    if all(c in fonts.HELD for c in shown):
        return shown
    return "".join(c if fonts.holder(c) is not None else _nearest(c) for c in shown)


def _nearest(character: str) -> str:
    """A letter that no font holds, in letters that Pillow's does."""
    plain = _SPELLED.get(character) or "".join(
        c for c in unicodedata.normalize("NFKD", character).translate(_SIGNS) if not unicodedata.combining(c)
    )
    if all(c in fonts.HELD for c in plain) and (plain or "\u0300" <= character <= "\u036f"):
        return plain
    fonts.missed(character)
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"


def _runs(shown: str) -> list[tuple[str, str]]:
    """A drawable text as pieces, each with the font ('' for Pillow's own) that holds it: one piece if it can be."""
    only = fonts.whole(shown)
    if only is not None:
        return [(only, shown)]
    pieces: list[tuple[str, str]] = []
    for c in shown:
        own = fonts.holder(c) or ""
        last = pieces[-1][0] if pieces else own
        # Spaces and signs go on in the font that is at work: a script's own words stay together, and so in order.
        if c in fonts.JOINERS or (last and not c.isalnum() and fonts.holds(last, c)):
            own = last
        if pieces and own == last:
            pieces[-1] = own, pieces[-1][1] + c
        else:
            pieces.append((own, c))
    return pieces


def width(text: str, size: int) -> int:
    """How many pixels wide `text` is drawn."""
    return int(_length(drawable(text), size) + 0.999)


def _length(shown: str, size: int) -> float:
    return sum(fonts.loaded(path or None, size).getlength(part) for path, part in _runs(shown))


def shortened(text: str, size: int, room: int, *, middle: bool = False) -> str:
    """`text` in at most `room` pixels, what does not fit replaced by an ellipsis at its end or in its middle."""
    most = _most(size, room)
    whole = len(text) <= most
    text = drawable(text if whole else shorten(text, most) if middle else text[:most])
    if whole and width(text, size) <= room:
        return text

    def cut(keep: int) -> str:
        if middle:
            return text[: keep - keep // 2].rstrip() + ELLIPSIS + text[len(text) - keep // 2 :].lstrip()
        return text[:keep].rstrip(" ,;:-·") + ELLIPSIS

    best = cut(_greatest(len(text), lambda keep: width(cut(keep), size) <= room))
    return best if width(best, size) <= room else ""


def _most(size: int, room: int) -> int:
    """More characters than stand in `room` pixels: the rest of a text is not even looked at.

    The narrowest letters are a fifth of the size wide; what takes no room at all (marks on a letter) is cut early.
    """
    return min(_LONGEST, 32 + 8 * max(0, room) // max(1, size))


def _greatest(most: int, fits: Callable[[int], bool]) -> int:
    """The greatest number below `most` that fits, by bisection; 0 where none does."""
    low, high = 0, most
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def wrapped(text: str, size: int, room: int, lines: int) -> list[str]:
    """`text` as at most `lines` lines of `room` pixels; a line break in it is kept, what is left over is cut.

    A word longer than a line (a layer's name) is broken where it must be.
    """
    result: list[str] = []
    most = min(_LONGEST, (lines + 1) * _most(size, room))
    left_over = len(text) > most
    for paragraph in text[:most].split("\n"):
        words = drawable(paragraph).split()[::-1]
        line = ""
        while words and len(result) <= lines:
            longer = f"{line} {words[-1]}" if line else words[-1]
            if width(longer, size) <= room:
                line = longer
                words.pop()
            elif line:
                result.append(line)
                line = ""
            else:
                keep = _fitting(words[-1], size, room)
                if keep == 0:  # not even one letter
                    return result[:lines]
                result.append(words[-1][:keep])
                words[-1] = words[-1][keep:]
        result.append(line)
        if len(result) > lines:  # one line too many tells that something is left over
            break
    while result and not result[-1]:
        result.pop()
    if len(result) > lines or (left_over and result):
        rest = f"{' '.join(result[lines - 1 : lines + 1])}{ELLIPSIS}" if lines else ""
        result = [*result[: max(lines - 1, 0)], *([shortened(rest, size, room)] if lines else [])]
        if result and not result[-1].endswith(ELLIPSIS):
            result[-1] = shortened(result[-1] + ELLIPSIS, size, room)
    return result


def _fitting(word: str, size: int, room: int) -> int:
    """How many letters of a word that is too long stand in `room` pixels."""
    keep = _greatest(min(len(word), _most(size, room)), lambda count: width(word[:count], size) <= room)
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
    write(canvas, (x, baseline), text, size, colour, anchor=anchor, stroke_width=weight)


def write(
    canvas: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    colour: Colour,
    *,
    anchor: str,
    **stroke: Any,
) -> None:
    """Draw one line in as many fonts as it takes.

    anchor   Pillow's: 'l', 'm' or 'r', then 's' (baseline) or 'm' (middle)
    stroke   stroke_width, stroke_fill
    """
    shown = drawable(text)
    runs = _runs(shown)
    if runs == [("", shown)]:
        canvas.text(place, shown, fill=colour, font=font(size), anchor=anchor, **stroke)
        return
    x, y = place
    x -= {"l": 0.0, "m": 0.5, "r": 1.0}[anchor[0]] * _length(shown, size)
    if anchor[1] == "m":  # the fonts have one baseline, not one middle
        own = font(size)
        ascent, descent = own.getmetrics() if isinstance(own, ImageFont.FreeTypeFont) else (size, 0)
        y += (ascent - descent) / 2
    for path, part in runs:
        letters = fonts.loaded(path or None, size)
        canvas.text((x, y), part, fill=colour, font=letters, anchor="ls", **stroke)
        x += letters.getlength(part)
