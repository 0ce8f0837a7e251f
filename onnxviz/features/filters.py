"""The weights of a convolution as pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ModelUnsuitable, judged
from onnxviz.graph.analysis.twins import view
from onnxviz.graph.operators import computes, family
from onnxviz.graph.quantisers import factor, places
from onnxviz.graph.surgery import cut
from onnxviz.network import Network
from onnxviz.provenance import recorded
from onnxviz.results import Result

if TYPE_CHECKING:
    from PIL import Image

# More tiles than this are no longer a picture but a texture; the numbers file has them all.
_MOST_FILTERS = 256
_MOST_CHANNELS = 32
_MOST_DEEP_FILTERS = 24
_TILE = 44
_SIDE = 84
# Where half of the filters are fainter than this share of the strongest, one scale shows mostly grey: so it is where
# BatchNorm is folded in, which makes each filter's weights as large as its channel's variance was small.
_FAINT = 0.35
_DEAD = 1e-5  # of the strongest: what such a filter answers is rounding
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

        One common scale for all tiles, so they can be compared: zero is mid-grey, the largest weight of the layer is
        white or black. Where that leaves most filters grey, each has a scale of its own, written below it (of deep
        layers each row), and filters of the first layer stand below once more on the common one.
        """
        from onnxviz.figures.grids import tiles

        weights = np.nan_to_num(np.asarray(self.values), posinf=0.0, neginf=0.0)
        if self.order == "BGR":
            weights = weights[:, ::-1]
        count, depth = weights.shape[:2]
        peak = float(np.abs(weights).max(initial=0.0)) or 1.0
        size = f"{weights.shape[3]}×{weights.shape[2]}"
        if self.order is not None or depth == 1:
            return self._first(weights[:_MOST_FILTERS], count, size)
        peaks = _peaks(weights)
        own = float(np.median(peaks)) < _FAINT * peak
        grey = _grey(weights, _scales(peaks, peak) if own else peak)
        rows, columns = min(count, _MOST_DEEP_FILTERS), min(depth, _MOST_CHANNELS)
        pictures = [_tile(grey[i, j][..., None], _TILE // 2) for i in range(rows) for j in range(columns)]
        said = f"zero is mid-grey, white is +{peak:.2g}, black is −{peak:.2g}"
        if own:
            said = f"zero is mid-grey; the largest weight of each row, ±{peaks.min():.2g} to ±{peak:.2g}, is full"
        return tiles(
            pictures,
            columns=columns,
            title=f"{self.layer}: filters 0–{rows - 1} of {count} (rows) × input channels 0–{columns - 1} of {depth}",
            subtitle=said,
        )

    def _first(self, weights: np.ndarray, count: int, size: str) -> Image.Image:
        """Filters of one picture each: all on one scale, and each on its own where the strong drown the faint."""
        from onnxviz.figures.grids import MARGIN, tiles

        peaks = _peaks(weights)
        peak = float(peaks.max(initial=0.0)) or 1.0
        more = "" if len(weights) == count else f", the first {len(weights)}"
        columns = max(1, min(16, int(np.ceil(np.sqrt(len(weights)) * 1.3))))

        def shown(scales: np.ndarray | float) -> list[np.ndarray]:
            return [_tile(one) for one in np.moveaxis(_grey(weights, scales), 1, -1)]

        def on_one_scale(title: str) -> Image.Image:
            said = f"zero is mid-grey, the largest weight of the layer is ±{peak:.2g}"
            return tiles(shown(peak), columns=columns, side=_SIDE, title=title, subtitle=said)

        title = f"{self.layer}: {count} filters of {size}{more}"
        if float(np.median(peaks)) >= _FAINT * peak:
            return on_one_scale(f"{title}, on one scale")
        together = on_one_scale("The same filters, on one scale")
        return tiles(
            shown(_scales(peaks, peak)),
            columns=columns,
            side=_SIDE,
            labels=[f"±{one:.2g}" if one > _DEAD * peak else "dead" for one in peaks],
            title=f"{title}, each on its own scale",
            subtitle="zero is mid-grey, the largest weight of each, written below it, is full colour",
            foot=[together.crop((MARGIN, 0, together.width - MARGIN, together.height - MARGIN))],
        )


def _peaks(weights: np.ndarray) -> np.ndarray:
    """The largest magnitude of each filter."""
    return np.asarray(np.abs(weights).reshape(len(weights), -1).max(axis=1, initial=0.0))


def _scales(peaks: np.ndarray, peak: float) -> np.ndarray:
    """What becomes full colour in each filter, (N, 1, 1, 1): its own largest weight, but dead ones stay grey."""
    return np.where(peaks > _DEAD * peak, np.maximum(peaks, 1e-30), peak)[:, None, None, None]


@recorded
def filters(net: Network, layer: str | None = None) -> Filters:
    """The weights of a convolution as tiles, in colour where it sees the picture itself (CS231n, lecture 12).

    layer    a convolution (or its activation); None: the first one
    returns  Filters, values (out, in / group, kh, kw) float32, as stored (quantised ones dequantised)
    raises   UnknownLayer, ModelUnsuitable
    """
    node = convolution(net, layer)
    with judged(net.judge):
        weights = kernel(net, node)
    if weights.ndim < 3 or not weights.size:
        raise ModelUnsuitable(
            f"the weights of {node.op_type} {node.name!r} have the shape {weights.shape}: no filters to show; name "
            "another --layer"
        )
    while weights.ndim < 4:
        weights = weights[..., None, :]
    weights = weights.reshape(*weights.shape[:2], -1, weights.shape[-1])
    name = str(node.outputs[0].name)
    order = None
    if weights.shape[1] == _RGB and _reads_image(net, name):
        order = "BGR" if net.preprocessing.channels == "BGR" else "RGB"
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


def _grey(weights: np.ndarray, peak: np.ndarray | float) -> np.ndarray:
    """Weights as uint8: zero is mid-grey, ±peak is white and black."""
    return np.rint(np.clip(0.5 + 0.5 * weights / peak, 0.0, 1.0) * 255).astype(np.uint8)


def _tile(pixels: np.ndarray, edge: int = _TILE) -> np.ndarray:
    """(h, w, 1 or 3) uint8 as RGB, enlarged by a whole factor so that each weight is a crisp square."""
    factor = max(1, edge // max(pixels.shape[:2]))
    large = np.repeat(np.repeat(pixels, factor, axis=0), factor, axis=1)
    return np.ascontiguousarray(np.broadcast_to(large, (*large.shape[:2], 3)))


# Families of operators through which a value still belongs to the convolution before it.
_AFTER = frozenset({"activation", "form", "normalisation", "quantisation", "type"})


def convolution(net: Network, layer: str | None) -> ir.Node:
    """The convolution called `layer`, or the one whose activation is called that; None: the first in the network.

    raises   UnknownLayer; ModelUnsuitable where there is none
    """
    if layer is None:
        first = next(filter(_convolves, net.model.graph), None)
        if first is None:
            raise ModelUnsuitable("the network has no convolution, so it has no filters to show")
        return first
    found = net.layer(layer)
    made = {output.name: node for node in net.model.graph for output in node.outputs}
    node = made.get(found.name)
    while node is not None and not _convolves(node) and _belongs(node):
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    if node is None or not _convolves(node):
        other = convolution(net, None)
        raise ModelUnsuitable(
            f"layer {layer!r} ({found.op}) is not a convolution, so it has no filters; "
            f"the first convolution is {other.outputs[0].name!r}"
        )
    return node


def _convolves(node: ir.Node) -> bool:
    return family(node.op_type) == "convolution"


def _belongs(node: ir.Node) -> bool:
    return family(node.op_type) in _AFTER or computes(view(node).op) in ("add", "multiply")


def kernel(net: Network, node: ir.Node) -> np.ndarray:
    """A convolution's weights, float32: (out, in / group, kh, kw), or (in, out / group, kh, kw) for ConvTranspose.

    Weights behind DequantizeLinear, Cast, Constant or ConstantOfShape nodes are computed by ONNX Runtime, so what
    is shown is what the network uses.

    raises   ModelUnsuitable when they depend on the image
    """
    weight = view(node).input(1)
    array = _constant(net, weight, node)
    if array.dtype.kind not in "iu":
        return array.astype(np.float32)
    scale, zero = (
        None if at is None or at >= len(node.inputs) or node.inputs[at] is None
        else _constant(net, node.inputs[at], node) for at in places(node)
    )  # fmt: skip
    if scale is None:  # sums of integers: it stands behind them
        scale = factor(node)
    column = (-1,) + (1,) * (array.ndim - 1)
    real = array.astype(np.float32)
    real = real if zero is None else real - zero.astype(np.float32).reshape(column)
    return real if scale is None else (real * scale.reshape(column)).astype(np.float32)


def _constant(net: Network, value: ir.Value | None, node: ir.Node) -> np.ndarray:
    if value is None:
        raise ModelUnsuitable(f"convolution {node.outputs[0].name!r} has no weights")
    if value.const_value is not None:
        return np.asarray(value.const_value.numpy())
    name = str(value.name)
    model = cut(net.model, [name])
    if any(value.uses() or value.is_graph_output() for value in model.graph.inputs):
        raise ModelUnsuitable(
            f"the weights of {node.outputs[0].name!r} are computed from the image, so there are no filters to show"
        )
    model.graph.inputs.clear()
    return net.compile(lambda: model, key=("constant", name))({})[name]
