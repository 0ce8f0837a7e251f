"""Text in pictures: measured, shortened, wrapped and drawn, in any script that a font at hand holds.

Pillow's own font is the same on every machine and holds Latin letters without accents, so what it can write looks the
same everywhere. For the rest the installed fonts are asked in turn, those named by `use_font` first; no font is loaded
before a letter needs it.
"""

from __future__ import annotations

import functools
import os
import re
import sys
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

from onnxviz.errors import UndrawnText, UsageError, spelt
from onnxviz.text import ELLIPSIS, composed, printable, shorten

Colour = tuple[int, int, int]

INK: Final[Colour] = (26, 27, 30)
SOFT: Final[Colour] = (98, 102, 110)  # secondary text: 6 : 1 against white
LINE: Final[Colour] = (214, 217, 222)
PAPER: Final[Colour] = (255, 255, 255)

# --- which font holds a letter --------------------------------------------------------------

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

#: What Pillow's own font holds.
HELD: Final = frozenset(map(chr, range(32, 127))) | frozenset("°·…“”‘’«»‹›™©±")
#: Drawn as nothing by any font; they join or part the letters beside them.
JOINERS: Final = frozenset("\u200c\u200d")

_ENDINGS: Final = (".ttf", ".otf", ".ttc", ".otc")
_MOST: Final = 3000  # font files that are looked at
_PROBE: Final = 24  # pixels
# These hold every letter and draw a box, or nothing, for it.
_FOR_LACK: Final = ("lastresort", "adobeblank", "notdef", "tofu")
# Of several fonts with a letter, the plain one.
_PLAIN: Final = ("notosans", "dejavusans", "arialuni", "segoeui", "liberationsans", "arial", "unifont")
_STYLED: Final = tuple(
    ["bold", "italic", "oblique", "light", "thin", "black", "condensed", "narrow", "serif", "mono"]
)


_named: list[str] = []  # fonts that are asked first
_told: set[str] = set()  # letters that none held


def use_font(path: str | os.PathLike[str]) -> None:
    """Draw with this font what Pillow's own lacks, in all pictures from now on.

    path     a TrueType or OpenType file
    raises   UsageError for a file that is no font
    """
    name = os.fspath(path)
    try:
        _probe(name).getmask("a")
    except (OSError, ValueError) as reason:
        raise UsageError(
            f"the font {name!r} cannot be used ({reason}); give a .ttf, .otf or .ttc file"
        ) from None
    if name in _named:
        _named.remove(name)
    _named.insert(0, name)
    holder.cache_clear()
    _told.clear()


def missed(character: str) -> None:
    """Note a letter that no font holds; the first is warned of, until another font is named."""
    if not _told:
        warnings.warn(UndrawnText(spelt(said(character))), stacklevel=3)
    _told.add(character)


def undrawn() -> frozenset[str]:
    """The letters that no font held, since a font was named."""
    return frozenset(_told)


def said(*characters: str) -> str:
    """That no font holds these letters, and the way on."""
    shown = ", ".join(f"U+{ord(c):04X}" for c in characters[:3]) + (", …" if len(characters) > 3 else "")
    return (
        f"no font at hand holds {shown}: pictures show such letters by their numbers; name a font that does, "
        "--font FILE"
    )


@functools.lru_cache(maxsize=256)
def loaded(path: str | None, size: int) -> Font:
    """A font at a size in pixels; None: Pillow's own."""
    return ImageFont.load_default(size=size) if path is None else ImageFont.truetype(path, size)


@functools.lru_cache(maxsize=8192)
def holder(character: str) -> str | None:
    """The file of a font that holds a letter; '' for Pillow's own, None where there is none."""
    if character in HELD or character in JOINERS:
        return ""
    return next((path for path in _chain() if holds(path, character)), None)


def whole(text: str) -> str | None:
    """The first font in which all of a text can stand; None where it takes several."""
    wanted = [c for c in dict.fromkeys(text) if c not in JOINERS]
    if all(c in HELD for c in wanted):
        return ""
    first = [path for path in dict.fromkeys(map(holder, wanted)) if path]
    return next((path for path in (*first, *_chain()) if all(holds(path, c) for c in wanted)), None)


@functools.lru_cache(maxsize=65536)
def holds(path: str, character: str) -> bool:
    """Whether a font draws something of its own for a letter: not the box for what it lacks, not nothing."""
    try:
        drawn = _shape(path, character)
        return character.isspace() or (drawn[1] != b"" and any(drawn[1]) and drawn != _box(path))
    except (OSError, ValueError):
        return False


@functools.lru_cache(maxsize=4096)
def _box(path: str) -> tuple[tuple[int, int], bytes]:
    """What a font draws for a letter that it lacks: U+FFFF is none in any script."""
    return _shape(path, "\uffff")


def _shape(path: str, character: str) -> tuple[tuple[int, int], bytes]:
    mask = _probe(path).getmask(character)
    return mask.size, bytes(mask)


@functools.lru_cache(maxsize=512)
def _probe(path: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, _PROBE, layout_engine=ImageFont.Layout.BASIC)


def _chain() -> list[str]:
    return [*_named, *installed()]


@functools.lru_cache(maxsize=1)
def installed() -> tuple[str, ...]:
    """The font files in the usual folders of this system, plain ones first."""
    found: list[str] = []
    for folder in _folders():
        for place, _, names in os.walk(folder):
            found += [str(Path(place, name)) for name in names if name.lower().endswith(_ENDINGS)]
            if len(found) > _MOST:
                break
    kept = [path for path in found[:_MOST] if not any(word in _plain(path) for word in _FOR_LACK)]
    return tuple(sorted(kept, key=_order))


def _order(path: str) -> tuple[int, int, int, str]:
    name = _plain(path)
    rank = next((i for i, known in enumerate(_PLAIN) if name.startswith(known)), len(_PLAIN))
    return sum(word in name for word in _STYLED), rank, len(name), path


def _plain(path: str) -> str:
    return Path(path).stem.lower().replace("-", "").replace("_", "").replace(" ", "").removesuffix("regular")


def _folders() -> list[Path]:
    """Where fonts are installed."""
    home = Path("~").expanduser()
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA", str(home / "AppData" / "Local"))
        system = Path(os.environ.get("WINDIR", r"C:\Windows"), "Fonts")
        return [system, Path(local, "Microsoft", "Windows", "Fonts")]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    data = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = os.environ.get("XDG_DATA_HOME") or str(home / ".local" / "share")
    return [*(Path(part, "fonts") for part in [own, *data.split(":")] if part), home / ".fonts"]


# --- letters and lines ----------------------------------------------------------------------

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


def font(size: int) -> Font:
    """Pillow's own font at a size in pixels."""
    return loaded(None, size)


def drawable(text: str) -> str:
    """`text` in letters that some font at hand holds, on one line.

    What none holds is spelled as near as can be (accents dropped); of other scripts stands the number, such as
    ``\\u732b``, and a warning names the way to a font.
    """
    pieces = _JOINED.split(composed(shorten(str(text), _LONGEST)))
    shown = "".join(one if one in JOINERS else printable(one) for one in pieces).translate(_SIGNS)
    if all(c in HELD for c in shown):
        return shown
    return "".join(c if holder(c) is not None else _nearest(c) for c in shown)


def _nearest(character: str) -> str:
    """A letter that no font holds, in letters that Pillow's does."""
    plain = _SPELLED.get(character) or "".join(
        c for c in unicodedata.normalize("NFKD", character).translate(_SIGNS) if not unicodedata.combining(c)
    )
    if all(c in HELD for c in plain) and (plain or "\u0300" <= character <= "\u036f"):
        return plain
    missed(character)
    return f"\\u{ord(character):04x}" if ord(character) < 0x10000 else f"\\U{ord(character):08x}"


def _runs(shown: str) -> list[tuple[str, str]]:
    """A drawable text as pieces, each with the font ('' for Pillow's own) that holds it: one piece if it can be."""
    only = whole(shown)
    if only is not None:
        return [(only, shown)]
    pieces: list[tuple[str, str]] = []
    for c in shown:
        own = holder(c) or ""
        last = pieces[-1][0] if pieces else own
        # Spaces and signs go on in the font that is at work: a script's own words stay together, and so in order.
        if c in JOINERS or (last and not c.isalnum() and holds(last, c)):
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
    return sum(loaded(path or None, size).getlength(part) for path, part in _runs(shown))


def shortened(text: str, size: int, room: int, *, middle: bool = False) -> str:
    """`text` in at most `room` pixels, what does not fit replaced by an ellipsis at its end or in its middle."""
    most = _most(size, room)
    entire = len(text) <= most
    text = drawable(text if entire else shorten(text, most) if middle else text[:most])
    if entire and width(text, size) <= room:
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


def text(
    canvas: ImageDraw.ImageDraw,
    x: int,
    y: int,
    line: str,
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
    write(canvas, (x, baseline), line, size, colour, anchor=anchor, stroke_width=weight)


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
        letters = loaded(path or None, size)
        canvas.text((x, y), part, fill=colour, font=letters, anchor="ls", **stroke)
        x += letters.getlength(part)


def legend(entries: Sequence[tuple[Colour, str]]) -> Image.Image:
    """Squares of colour with their names, side by side, wrapped at 600 pixels."""
    size = box = 13
    room = 600
    gap, apart = 6, 18
    placed: list[tuple[int, int, Colour, str]] = []
    x = y = 0
    for colour, name in entries:
        shown = shortened(name, size, room - box - gap)
        step = box + gap + width(shown, size)
        if x and x + step > room:
            x, y = 0, y + line_height(size) + 4
        placed.append((x, y, colour, shown))
        x += step + apart
    right = max((x + box + gap + width(name, size) for x, _, _, name in placed), default=1)
    result = Image.new("RGB", (right, y + line_height(size)), PAPER)
    canvas = ImageDraw.Draw(result)
    for x, y, colour, name in placed:
        canvas.rectangle((x, y + 2, x + box - 1, y + 1 + box), fill=tuple(colour), outline=LINE)
        text(canvas, x + box + gap, y + 1, name, size, SOFT)
    return result
