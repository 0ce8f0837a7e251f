"""Which font draws a letter: Pillow's own, one that is installed, or one that is named.

Pillow's own is the same on every machine and holds Latin letters without accents, so what it can write looks the same
everywhere. For the rest the installed fonts are asked in turn, those named by `use_font` first; no font is loaded
before a letter needs it.
"""

from __future__ import annotations

import functools
import os
import sys
import warnings
from pathlib import Path
from typing import Final

from PIL import ImageFont

from onnxviz.errors import UndrawnText, UsageError, spelt

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
_STYLED: Final = (
    "bold",
    "italic",
    "oblique",
    "light",
    "thin",
    "black",
    "condensed",
    "narrow",
    "serif",
    "mono",
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
        return [
            Path(os.environ.get("WINDIR", r"C:\Windows"), "Fonts"),
            Path(local, "Microsoft", "Windows", "Fonts"),
        ]
    if sys.platform == "darwin":
        return [Path("/System/Library/Fonts"), Path("/Library/Fonts"), home / "Library" / "Fonts"]
    data = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    own = os.environ.get("XDG_DATA_HOME") or str(home / ".local" / "share")
    return [*(Path(part, "fonts") for part in [own, *data.split(":")] if part), home / ".fonts"]
