"""HTML pages that need no server and no network: whatever comes from data is inert in them, pictures lie inside."""

from __future__ import annotations

import base64
import io
import os
from typing import TYPE_CHECKING, Any

from onnxviz.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment
    from PIL import Image

_QUALITY = 85


def environment() -> Environment:
    """The templates of the package. What a template shows is escaped twice: for HTML, and what hides or acts in text.

    Line breaks stay; whatever else is invisible (controls, bidirectional marks, lone halves of a pair) is spelt out.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("onnxviz", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=harmless,
    )


def harmless(value: Any) -> Any:
    """What is put into a page: texts with hidden characters spelt out, nothing for None, markup as it is."""
    if value is None:
        return ""
    if hasattr(value, "__html__") or not isinstance(value, (str, os.PathLike)):
        return value
    return "\n".join(map(printable, os.fspath(value).split("\n")))


def loaded(picture: Any) -> Image.Image:
    """A PIL image of a PIL image, an array (H, W), (H, W, 3) or (H, W, 4) uint8, or a file."""
    from PIL import Image

    if isinstance(picture, Image.Image):
        return picture
    if isinstance(picture, (str, os.PathLike)):
        with Image.open(picture) as opened:
            opened.load()
            return opened
    return Image.fromarray(picture)


def webp(picture: Any, side: int | None = None, quality: int = _QUALITY) -> bytes:
    """A picture (as `loaded` takes it) as WebP, which keeps a page small.

    side      the longest side that it may have; a larger one is scaled down
    quality   1 to 100
    """
    image = loaded(picture)
    image = image if image.mode in ("RGB", "RGBA") else image.convert("RGB")
    if side is not None and max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=quality, method=4)
    return buffer.getvalue()


def data_uri(data: bytes, kind: str = "image/webp") -> Any:
    """The bytes of a picture file as a URI that holds them, ready for a template."""
    from markupsafe import Markup

    return Markup(f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}")
