"""Several class activation maps of several pictures, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from onnxviz.attribution.cam import cam
from onnxviz.errors import UsageError
from onnxviz.interrupted import Interrupted
from onnxviz.network import Images, Network
from onnxviz.progress import Progress, silent
from onnxviz.provenance import recorded

if TYPE_CHECKING:
    from onnxviz.attribution.result import Attribution, Attributions


@recorded
def cams(
    net: Network,
    images: Images,
    methods: Sequence[str],
    *,
    names: Sequence[str] = (),
    progress: Progress = silent,
    **options: Any,
) -> Attributions:
    """Each method on each picture, in one sheet.

    images    a list of pictures
    methods   as for `cam`, each once
    names     what the pictures are called
    options   as for `cam`
    returns   Attributions, values (N, M, H, W) float32
    raises    UsageError and what `cam` raises; Interrupted on Ctrl-C, with the methods that were done
    """
    from onnxviz.attribution.methods import sheet

    if not methods or len(set(methods)) < len(methods):
        raise UsageError(f"expected at least one method, each once; got {', '.join(methods) or 'none'}")
    columns: list[list[Attribution]] = []
    for number, method in enumerate(methods):
        try:
            found = cam(net, images, method=method, progress=progress, **options)
        except KeyboardInterrupt as stop:
            if not columns:
                raise
            raise Interrupted(sheet(net, _rows(columns), names, incomplete=True)) from stop
        columns.append(found if isinstance(found, list) else [found])
        progress(number + 1, len(methods), "methods")
    return sheet(net, _rows(columns), names)


def _rows(columns: list[list[Attribution]]) -> list[list[Attribution]]:
    return [list(row) for row in zip(*columns, strict=True)]
