"""Text from strangers made harmless: names of layers, labels and files, for terminals, pictures and paths."""

from __future__ import annotations

import hashlib
import json
import numbers
import re
import unicodedata
from typing import Any

# Everything that a terminal, a browser or a reader's eye takes for something else than what it is:
# Cc controls (NUL, ESC and so all ANSI sequences, C1), Cf format characters (bidi overrides, zero-width
# joiners and spaces, tags, byte-order marks), Cs lone surrogates (file names that are not UTF-8),
# Co/Cn private and unassigned, Zl/Zp line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
# Drawn as nothing although they count as letters or marks: Hangul and Khmer fillers, the braille blank,
# the grapheme joiner, variation selectors.
_BLANK = re.compile(
    "[\u115f\u1160\u17b4\u17b5\u3164\uffa0\u2800\u034f\u180b-\u180d\ufe00-\ufe0f\U000e0100-\U000e01ef]"
)
# A letter with a tower of combining marks runs over its neighbours; no orthography needs more than four.
_TOWER = re.compile(
    r"(?P<kept>[\u0300-\u036f\u0483-\u0489\u20d0-\u20f0]{4})[\u0300-\u036f\u0483-\u0489\u20d0-\u20f0]+"
)

ELLIPSIS = "…"


# What a JSON text in UTF-8 may hold as it is: the rest is looked at letter by letter.
_BEYOND_ASCII = re.compile("[^\t\n\r\x20-\x7e]")
# Normalising sorts the marks on one letter by insertion: a hundred thousand of them would take minutes. Unicode's
# "stream-safe" form has at most thirty in a row, more than any orthography.
_MOST_MARKS = 30


def hidden(character: str) -> bool:
    """Whether a character is drawn as nothing, or acts on what stands beside it."""
    return unicodedata.category(character) in _HIDDEN or _BLANK.match(character) is not None


def _escape(character: str) -> str:
    if character.isascii():
        return f"\\x{ord(character):02x}"
    return character.encode("ascii", "backslashreplace").decode()


def composed(text: str) -> str:
    """`text` in Unicode's composed form (NFC), of a tower of combining marks the first thirty, in linear time."""
    if text.isascii():
        return text
    if len(text) > _MOST_MARKS:
        kept, marks = [], 0
        for c in text:
            marks = marks + 1 if unicodedata.combining(c) else 0
            if marks <= _MOST_MARKS:
                kept.append(c)
        text = "".join(kept)
    return unicodedata.normalize("NFC", text)


def json_escaped(document: str) -> str:
    """A JSON document with what hides in its strings as ``\\u202e``: the same when parsed, harmless when shown."""
    if document.isascii() and "\x7f" not in document:
        return document
    return _BEYOND_ASCII.sub(_json_escape, document)


def json_bytes(value: Any) -> bytes:
    """`value` as indented UTF-8 JSON that ends in a newline; NaN and infinities become null.

    Letters of any script stand as they are; what hides or acts (controls, bidirectional marks, lone halves of a pair)
    is escaped.
    """
    document = json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    return f"{json_escaped(document)}\n".encode()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, (str, int, bool)) or value is None:
        return value
    if isinstance(value, numbers.Rational):
        return float(value)
    return _plain(value.tolist()) if hasattr(value, "tolist") else str(value)


def _json_escape(match: re.Match[str]) -> str:
    return halves(match[0]) if hidden(match[0]) else match[0]


def halves(text: str) -> str:
    """`text` as JSON and Python write what is escaped: \\uXXXX, in two halves beyond U+FFFF."""
    data = text.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{data[i : i + 2].hex()}" for i in range(0, len(data), 2))


def printable(text: object, limit: int | None = None) -> str:
    """`text` on one line, with nothing in it that acts: what is invisible is escaped, not dropped.

    ANSI sequences, control characters, NUL, bidirectional overrides, zero-width characters, lone
    surrogates and line breaks become ``\\x1b``, ``\\u202e`` and so on, so that two names that differ
    also look different. Ordinary letters of any script stay as they are.

    text     anything; `str()` of it is taken
    limit    longest result in characters; a longer one loses its middle to an ellipsis (both ends of
             a layer name or a path tell more than its start alone)
    """
    shown = str(text) if limit is None else shorten(str(text), limit)  # escaping only makes it longer
    if not (shown.isascii() and shown.isprintable()):
        shown = _TOWER.sub(r"\g<kept>", visible(shown))
    return shown if limit is None else shorten(shown, limit)


def visible(text: str, besides: str = "") -> str:
    """`text` with what hides or acts escaped, but for the characters `besides`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_escape(c) if c not in besides and hidden(c) else c for c in text)


def shorten(text: str, limit: int) -> str:
    """`text` cut to at most `limit` characters, its middle replaced by one ellipsis."""
    if len(text) <= limit:
        return text
    if limit <= 1:
        return ELLIPSIS[:limit]
    head = limit // 2
    return text[:head].rstrip() + ELLIPSIS + text[len(text) - (limit - 1 - head) :].lstrip()


def quoted(name: object) -> str:
    """`name` in quotation marks on one line, at most 80 characters, with nothing invisible in it."""
    return f"'{printable(str(name)[:1000], 80)}'"


def amount(count: int, one: str, many: str = "") -> str:
    """'1 picture', '2 pictures'.

    many   what several are called; '': `one` with an s
    """
    return f"{count} {one if count == 1 else many or one + 's'}"


# --- file names -------------------------------------------------------------------------------

_LONGEST = 100  # bytes
_FOLDED = 4000  # characters that are looked at: they leave a file name of any length that a system allows
_DIGEST = 12  # hex digits: 10^6 names of one model collide with a chance of 0.2 %
_STAMPED = re.compile(rf".*-[0-9a-f]{{{_DIGEST}}}", re.DOTALL)
_PLAIN = re.compile(r"[a-z0-9_][a-z0-9_.+=-]*", re.ASCII)
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)


def file_name(name: object) -> str:
    """A safe file name (without extension) for the name of a layer, a label or a source file.

    No separators, spaces, controls or leading dot or dash; not a name that Windows reserves; at most
    100 bytes of UTF-8. Two different names never give one file, not even where the file system
    ignores case or rewrites accents: a name that is not already plain lower-case ASCII gets a part
    of its SHA-256 as suffix (``/features/0/Conv`` gives ``features_0_Conv-2f4b…``), and so does
    one that only looks as if it had such a suffix.

    name     anything; `str()` of it is taken
    """
    given = str(name)
    odd = given.endswith(".") or _RESERVED.fullmatch(given) or _STAMPED.fullmatch(given)
    if len(given) <= _LONGEST and _PLAIN.fullmatch(given) and not odd:
        return given
    digest = hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    folded = composed(given[:_FOLDED])
    kept = "".join(c if (c.isalnum() and not _BLANK.match(c)) or c in "._-+=" else "_" for c in folded)
    kept = re.sub(r"_{2,}", "_", kept)
    kept = re.sub(r"\.{2,}", ".", kept)  # a '..' is harmless inside a name, but nobody should have to think
    kept = kept.strip("_.-=+") or "unnamed"
    if _RESERVED.fullmatch(kept):
        kept = "_" + kept
    kept = kept.encode("utf-8", "ignore")[: _LONGEST - _DIGEST - 1].decode("utf-8", "ignore").rstrip("_.-")
    return f"{kept}-{digest}"
