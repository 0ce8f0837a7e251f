"""Sections of text and pictures as one HTML page that needs no server, no network and no script."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_PICTURE_QUALITY = 90


@dataclass(frozen=True)
class Picture:
    """One picture of a section. `path` is a PNG file; `wide` gives it the page's full width."""

    path: Path
    caption: str
    wide: bool = False


@dataclass(frozen=True)
class Section:
    """One technique: the question it answers, how to run it, and what came out."""

    anchor: str
    title: str
    question: str
    text: str
    command: str
    pictures: list[Picture] = field(default_factory=list)
    table: list[tuple[str, ...]] = field(default_factory=list)
    listing: str = ""


def render(title: str, lead: str, sections: list[Section], facts: dict[str, Any]) -> str:
    """The page as HTML; every picture is inside it, and everything that came from data is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("onnxviz", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["inline"] = inline
    page: str = environment.get_template("demo.html.j2").render(
        title=title, lead=lead, sections=sections, facts=facts
    )
    return page


def inline(path: Path) -> str:
    """A picture file as a data URI: WebP, which keeps the page small."""
    from PIL import Image

    with Image.open(path) as picture:
        buffer = io.BytesIO()
        picture.convert("RGB").save(buffer, "WEBP", quality=_PICTURE_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
