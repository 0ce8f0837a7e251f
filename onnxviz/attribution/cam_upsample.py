"""A layer's map at the size of the image: stretched, or placed where the receptive fields lie.

Measured on the bundled network (head.relu6, 7 × 7 places of 32 pixels; where the gradient energy of single units lies,
over six photos and their mirror images): units 2, 3 and 4 look at rows 87, 113 and 132 on average. Stretching puts them
at 80, 112 and 144; the middles of their receptive fields lie at 95, 127 and 159, since the padding of its strided
convolutions sits at one side only. The trained units look nearer to where stretching puts them, as all other tools do:
so that is the default.
"""

from __future__ import annotations

import numpy as np

from onnxviz.errors import UsageError, near, ways
from onnxviz.graph.layers import Layer, field

ALIGNMENTS = ("stretch", "field")


def matrices(
    layer: Layer, shape: tuple[int, int], size: tuple[int, int], align: str = "stretch"
) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear upsampling of a map as two matrices, for rows (H, h) and columns (W, w), float64; each row sums to 1.

    shape    the map's height and width
    size     the image's
    align    stretch   the map's first and last places end where the image ends (torch's interpolate, bilinear, without
                       aligned corners)
             field     each place stands at the middle of its receptive field
    raises   UsageError for another `align`, and for 'field' where the fields are not known
    """
    if align not in ALIGNMENTS:
        raise UsageError(f"unknown align {align!r}{near(str(align), ALIGNMENTS)}; expected stretch or field")
    if align == "stretch":
        centres = [(np.arange(n) + 0.5) * (length / n) - 0.5 for n, length in zip(shape, size, strict=True)]
    else:
        boxes = [[field(layer, i, 0, local=True) for i in range(shape[0])]]
        boxes.append([field(layer, 0, i, local=True) for i in range(shape[1])])
        centres = [
            np.array([(box[axis] + box[axis + 2] - 1) / 2 for box in along])
            for axis, along in enumerate(boxes)
        ]
        if any((np.diff(along) <= 0).any() for along in centres):
            raise UsageError(
                f"the units of layer {layer.name!r} do not see places further on one after the other, so their map "
                "cannot be placed by their fields" + ways("use --align stretch")
            )
    return _linear(centres[0], size[0]), _linear(centres[1], size[1])


def _linear(centres: np.ndarray, length: int) -> np.ndarray:
    """(length, n): how much of each place, at these centres, is seen at each pixel; constant beyond the ends."""
    places = np.interp(np.arange(length), centres, np.arange(len(centres)))
    result: np.ndarray = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(len(centres))[None]))
    return result


def upsampled(maps: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Maps (N, h, w) at the image's size, (N, H, W) float32."""
    result: np.ndarray = (rows @ maps.astype(np.float64) @ columns.T).astype(np.float32)
    return result


def combined(maps: list[np.ndarray]) -> np.ndarray:
    """One map of several layers', all (N, H, W): the mean of the maps, each divided by its largest magnitude.

    A single map stays as it is.
    """
    if len(maps) == 1:
        return maps[0]
    total = np.zeros_like(maps[0])
    for each in maps:
        limit = np.abs(each).max(axis=(1, 2), keepdims=True)
        total += np.divide(each, limit, out=np.zeros_like(each), where=limit > 0)
    return total / np.float32(len(maps))
