"""Attributions as a page: photos in a grid, their maps laid over them in a lightbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxviz.attribution.result import Attribution

_SIDE = 448


def attribution_page(result: Any) -> bytes:
    """The page of an `Attribution`, or of several methods on several pictures (`Attributions`)."""
    from onnxviz.auditing.report.facts import facts
    from onnxviz.auditing.report.html import render
    from onnxviz.auditing.report.page import Gallery, Page, Section

    grid = getattr(result, "grid", None) or [[result]]
    names = getattr(result, "names", None) or [one.get("path", "") for one in result.manifest["pictures"]]
    photos = [_photo(row, names[i] if i < len(names) else "") for i, row in enumerate(grid)]
    manifest = result.manifest
    lead = "Open a photo to lay each method's map over it, and to fade between the two."
    if manifest.get("incomplete"):
        lead += " The run was interrupted: these are the maps that were done."
    told = sorted({text for row in grid for one in row for text in one.manifest["warnings"]})
    page = Page(
        kind=manifest["technique"],
        title=manifest["model"]["name"],
        lead=(lead, *told),
        sections=(Section("Photos", (Gallery(photos),), f"{', '.join(one.method for one in grid[0])}."),),
        facts=facts({"network": manifest}, seed=manifest["parameters"].get("seed")),
    )
    return render(page)


def _photo(row: list[Attribution], name: str) -> Any:
    from onnxviz.auditing.report.page import Layer, Photo
    from onnxviz.figures.draw import cell

    first = row[0]
    probable = first.target is not None and first.score is not None and 0 <= first.score <= 1
    return Photo(
        name or first.label,
        first.image,
        note=first.label if name else "",
        answers=[(first.label, first.score)] if probable and first.score is not None else (),
        layers=[Layer(one.method, one.label, cell(one, _SIDE)[0]) for one in row],
    )
