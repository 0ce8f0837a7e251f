"""The house's docstrings in the words that mkdocstrings knows.

Parameters stand in columns (`name   what it is`, continued below the text), behind a paragraph or none, with `returns`
and `raises` as the last rows. Google's style names the same parts.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

# `name  text`, `one, other   text`: at the margin, at least two spaces between.
_ROW = re.compile(r"^([\w*]+(?:, [\w*]+)*) {2,}(\S.*)$")
_PARTS = {"returns": "Returns", "yields": "Yields", "raises": "Raises"}


def google(text: str) -> str:
    """The docstring with its rows as sections of Google's style; others stay as they are."""
    kept: list[str] = []
    rows: list[list[str]] = []
    for line in text.splitlines():
        row = _ROW.match(line)
        if row:
            rows.append([row[1], row[2]])
        elif rows and line.startswith("  ") and line.strip():
            rows[-1][1] += " " + line.strip()
        elif rows and not line.strip():
            continue
        else:
            kept.append(line)
    parameters = [(name, text) for names, text in rows if names not in _PARTS for name in names.split(", ")]
    out = ["\n".join(kept).rstrip()]
    if parameters:
        out.append("Args:\n" + "\n".join(f"    {name}: {text}" for name, text in parameters))
    out += [f"**{_PARTS[part]}** {text}" for part, text in rows if part in _PARTS]
    return "\n\n".join(out)


class Docstrings(griffe.Extension):
    """Rewrites each docstring before mkdocstrings reads it."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called with each module, class, function and attribute that was found."""
        if obj.docstring is not None:
            obj.docstring.value = google(obj.docstring.value)
