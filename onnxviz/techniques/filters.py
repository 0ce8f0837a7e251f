"""The weights of a convolution as pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxviz.network import Network
from onnxviz.results import Result
from onnxviz.techniques.weights import convolution, kernel

if TYPE_CHECKING:
    from PIL import Image

# More tiles than this are no longer a picture but a texture; the numbers file has them all.
_MOST_FILTERS = 256
_MOST_CHANNELS = 32
_MOST_DEEP_FILTERS = 48
_TILE = 44
_RGB = 3


@dataclass
class Filters(Result):
    """The filters of one convolution.

    values   (out, in / group, kh, kw) float32
    layer    the convolution's name
    order    the channel order of the network's input where its three channels are colours ('RGB', 'BGR'), else None
    """

    layer: str
    order: str | None

    def picture(self) -> Image.Image:
        """RGB tiles where the filter sees the picture itself, else one row of grey tiles a filter.

        One common scale for all tiles: zero is mid-grey, the largest weight of the layer is white or black.
        """
        from onnxviz.image.sheet import tiles

        weights = np.asarray(self.values)
        peak = float(np.abs(weights[np.isfinite(weights)]).max(initial=0.0)) or 1.0
        # A zero weight is mid-grey in every tile, so tiles can be compared with each other.
        scaled = np.nan_to_num(0.5 + 0.5 * weights / peak, nan=0.5)
        grey = np.rint(np.clip(scaled, 0.0, 1.0) * 255).astype(np.uint8)
        count, depth = grey.shape[:2]
        scale = f"zero is mid-grey, white is +{peak:.2g}, black is −{peak:.2g}"
        if self.order is not None or depth == 1:
            shown = grey[:_MOST_FILTERS]
            if self.order == "BGR":
                shown = shown[:, ::-1]
            pictures = [_tile(np.moveaxis(filter_, 0, -1)) for filter_ in shown]
            more = "" if len(shown) == count else f", the first {len(shown)}"
            return tiles(
                pictures,
                columns=_columns(len(pictures)),
                title=f"{self.layer}: {count} filters of {_size(grey)}{more}",
                subtitle=scale,
            )
        rows, columns = min(count, _MOST_DEEP_FILTERS), min(depth, _MOST_CHANNELS)
        pictures = [_tile(grey[i, j][..., None], _TILE // 2) for i in range(rows) for j in range(columns)]
        return tiles(
            pictures,
            columns=columns,
            title=f"{self.layer}: filters 0–{rows - 1} of {count} (rows) × input channels 0–{columns - 1} of {depth}",
            subtitle=scale,
        )


def filters(net: Network, layer: str | None = None) -> Filters:
    """The weights of a convolution: CS231n lecture 12, "First layer: visualize filters".

    layer    a convolution (or its activation); None: the first one
    returns  Filters, values (out, in / group, kh, kw) float32, as stored (quantised ones dequantised)
    raises   UnknownLayer, ModelUnsuitable
    """
    node = convolution(net, layer)
    weights = kernel(net, node)
    while weights.ndim < 4:
        weights = weights[..., None, :]
    weights = weights.reshape(*weights.shape[:2], -1, weights.shape[-1])
    name = str(node.outputs[0].name)
    colour = weights.shape[1] == _RGB and _reads_image(net, name)
    order = (
        (net.preprocessing.channels if net.preprocessing.channels in ("RGB", "BGR") else "RGB")
        if colour
        else None
    )
    manifest = net.manifest("filters", layer=name)
    manifest["figures"] = {
        "shape": list(weights.shape),
        "smallest": float(weights.min(initial=0.0)),
        "largest": float(weights.max(initial=0.0)),
    }
    return Filters(values=weights, manifest=manifest, layer=name, order=order)


def _reads_image(net: Network, name: str) -> bool:
    """Whether no other convolution stands between the image and this one."""
    by_name = {layer.name: layer for layer in net.layers}
    waiting, seen = list(by_name[name].inputs) if name in by_name else [], set()
    while waiting:
        above = by_name.get(waiting.pop())
        if above is None or above.name in seen:
            continue
        if "Conv" in above.op:
            return False
        seen.add(above.name)
        waiting.extend(above.inputs)
    return True


def _tile(pixels: np.ndarray, edge: int = _TILE) -> np.ndarray:
    """(h, w, 1 or 3) uint8 as RGB, enlarged by a whole factor so that each weight is a crisp square."""
    factor = max(1, edge // max(pixels.shape[:2]))
    large = np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1)
    return np.ascontiguousarray(np.broadcast_to(large, (*large.shape[:2], 3)))


def _columns(count: int) -> int:
    return max(1, min(16, int(np.ceil(np.sqrt(count) * 1.3))))


def _size(weights: np.ndarray) -> str:
    return f"{weights.shape[3]}×{weights.shape[2]}"
