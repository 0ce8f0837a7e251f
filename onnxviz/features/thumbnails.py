"""Small pictures for results that show many: read again from where they came, only those that are shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from onnxviz.errors import ImageRejected
from onnxviz.features.stream import fingerprint
from onnxviz.figures.mosaic import square
from onnxviz.image.decode import decode
from onnxviz.progress import Progress, silent

if TYPE_CHECKING:
    from onnxviz.features.embedding import Embedding
    from onnxviz.network import Network


def thumbnails(
    net: Network, found: Embedding, rows: Sequence[int] | np.ndarray, edge: int, progress: Progress = silent
) -> dict[int, np.ndarray | None]:
    """The pictures of these rows as the network saw them, (edge, edge, 3) uint8 each.

    A picture that is gone, or whose file was replaced since its features were made, is None: it must not be
    shown beside numbers that are not its own.
    """

    def small(row: int) -> np.ndarray:
        source = found.sources[row]
        if source is None:
            raise ImageRejected("it is not there any more")
        view = net.preprocessing.view(net.preprocessing.read(source))
        if fingerprint(view) != found.prints[row]:
            raise ImageRejected("it was replaced")
        return np.asarray(square(net.preprocessing.shown(view), edge))

    tiles: dict[int, np.ndarray | None] = {}
    for row, drawn in decode((int(row) for row in rows), small):
        tiles[row] = None if isinstance(drawn, ImageRejected) else drawn
        progress(len(tiles), len(rows), "pictures")
    return tiles
