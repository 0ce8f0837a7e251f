"""A page of all channels of a layer: what each answers to most, with links to its top patches ("microscope")."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnxviz.errors import UsageError
from onnxviz.files import write_atomic
from onnxviz.text import file_name, printable

if TYPE_CHECKING:
    import numpy as np

    from onnxviz.synthesis.made import Made

_QUALITY = 82


def write_page(
    result: Made, path: str | os.PathLike[str], patches: str | os.PathLike[str] | None = None
) -> Path:
    """Write the page, whole in one file, with the pictures inside it.

    result    what `ascent` gave for several channels of a layer
    patches   a folder that `patches` wrote for the same layer: each channel links to its sheet there
    raises    UsageError where the folder has no sheets of this layer, OutputRefused
    """
    return write_atomic(path, page_bytes(result, path, patches))


def page_bytes(
    result: Made, path: str | os.PathLike[str], patches: str | os.PathLike[str] | None = None
) -> bytes:
    """The page that `write_page` writes to `path`, from where its links lead."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    target = Path(path)
    parameters = result.manifest["parameters"]
    layer = str(parameters["layer"])
    figures = result.manifest["figures"]["pictures"]
    folder = None if patches is None else _sheets(Path(patches), layer)
    cells: list[dict[str, Any]] = []
    for picture, figure in zip(result.pictures(), figures, strict=True):
        channel = int(figure["channel"])
        sheet = None if folder is None else folder / f"channel-{channel:04d}.png"
        cells.append(
            {
                "channel": channel,
                "picture": _inline(picture),
                "value": f"{figure['objective_end']:.3g}",
                "link": None if sheet is None or not sheet.exists() else _relative(sheet, target),
            }
        )
    environment = Environment(
        loader=PackageLoader("onnxviz", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    model = result.manifest["model"]
    facts = {
        "network": f"{printable(model['name'], 200)}, SHA-256 {model['sha256'][:16]}…",
        "preset": parameters["preset"],
        "steps": parameters["recipe"]["steps"],
        "seed": parameters["seed"],
        **({"contrast": "stretched, each picture by itself"} if result.shown is not None else {}),
        "onnxviz": result.manifest["versions"]["onnxviz"],
    }
    page = environment.get_template("channels.html.j2").render(
        layer=printable(layer, 200), cells=cells, facts=facts, linked=any(cell["link"] for cell in cells)
    )
    return page.encode("utf-8")


def _sheets(folder: Path, layer: str) -> Path:
    """Where `patches` put the sheets of this layer."""
    found = folder / file_name(layer)
    if not any(found.glob("channel-*.png")):
        raise UsageError(
            f"{str(folder)!r} has no sheets of layer {layer!r}: make them with "
            f"onnxviz patches MODEL DIR --layer {layer} --channel … -o {folder}"
        )
    return found


def _relative(sheet: Path, page: Path) -> str:
    """The link from the page to the sheet."""
    from urllib.parse import quote

    return quote(Path(os.path.relpath(sheet.resolve(), page.resolve().parent)).as_posix())


def _inline(picture: np.ndarray) -> str:
    """A picture, (H, W, 3) uint8, as a data URI: WebP, which keeps the page small."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", quality=_QUALITY, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
