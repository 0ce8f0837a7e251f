"""Feature maps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxviz.features.pictures import for_each, single
from onnxviz.network import ImageLike, Images, Network
from onnxviz.provenance import check_open, recorded
from onnxviz.results import Result

if TYPE_CHECKING:
    from PIL import Image

    from onnxviz.meaning import Prediction

_MOST_MAPS = 64
_EDGE = 96
_TOLD_APART = 99.7  # percentile of the magnitudes


@dataclass
class Activations(Result):
    """The feature maps of one layer for one image.

    values   (C, H, W) float32; (C,) for a layer without maps
    layer    the layer's name
    image    (h, w, 3) uint8, the picture as the network sees it
    """

    layer: str
    image: np.ndarray = field(repr=False)

    def shown(self) -> list[int]:
        """The channels in the picture: all of them, or the 64 with the largest activation, in order.

        Where there are negative activations, the largest magnitude counts.
        """
        maps = np.asarray(self.values)
        if len(maps) <= _MOST_MAPS:
            return list(range(len(maps)))
        sizes = np.abs(maps) if self._signed() else maps
        strongest = np.argsort(-sizes.reshape(len(maps), -1).max(axis=1), kind="stable")[:_MOST_MAPS]
        return sorted(int(channel) for channel in strongest)

    def _signed(self) -> bool:
        return float(np.nan_to_num(np.asarray(self.values)).min(initial=0.0)) < 0

    def picture(self) -> Image.Image:
        """The photo and its feature maps, on one common scale.

        From 0 to the highest value; of a layer with negative values from red by white, which is 0, to blue.
        """
        from PIL import Image as PILImage

        from onnxviz.figures.grids import tiles
        from onnxviz.figures.heat import diverging, normalise, sequential

        maps = np.asarray(self.values)
        if maps.ndim == 1:
            maps = maps[:, None, None]
        channels = self.shown()
        shown = np.nan_to_num(maps[channels])
        signed = self._signed()
        # One bright outlier must not leave every map black.
        scaled, high = normalise(shown, signed=signed, percentile=_TOLD_APART)
        coloured = diverging if signed else sequential
        height, width = maps.shape[1:]
        factor = max(1, round(_EDGE / max(height, width)))
        pictures = [np.repeat(np.repeat(coloured(one), factor, axis=0), factor, axis=1) for one in scaled]
        photo = PILImage.fromarray(self.image)
        photo.thumbnail((width * factor, max(height * factor, 24)))
        most = "all" if len(channels) == len(maps) else f"the {len(channels)} strongest of"
        scale = f"dark is 0, bright is {high:.3g} or more"
        if signed:
            scale = f"red is {high:.3g} or more, white is 0, blue is −{high:.3g} or less"
        return tiles(
            [np.asarray(photo), *pictures],
            labels=["image", *map(str, channels)],
            title=f"{self.layer}: {most} {len(maps)} channels, {width}×{height}",
            subtitle=f"{scale}; one scale for all maps",
        )


@for_each
@recorded
def activations(net: Network, image: ImageLike, layer: str, *, codes: bool = False) -> Activations:
    """The feature maps of one layer for one image.

    image    (H, W, 3) uint8, or anything `Network.prepare` takes; or a list of these
    codes    the integers that a quantised file holds, instead of the real values that they stand for
    returns  Activations, values (C, H, W) float32 (channels first, whatever the network's layout); of a list: a list
    raises   UnknownLayer, ImageRejected; UsageError for the codes of a layer that has none
    """
    found = net.layer(layer)
    x, picture = single(net, image, "activations")
    maps = net.activations(x, [found.name], codes=codes)[found.name][0]
    if maps.ndim == 3 and found.channels_last:
        maps = np.moveaxis(maps, -1, 0)
    if maps.ndim == 2:
        maps = maps[None]
    manifest = net.manifest("activations", layer=found.name, codes=codes)
    manifest["figures"] = {
        "shape": list(maps.shape),
        "smallest": float(maps.min(initial=0.0)),
        "largest": float(maps.max(initial=0.0)),
        "zero_share": float(np.mean(maps == 0)) if maps.size else 0.0,
        "silent_channels": int(np.sum(~maps.reshape(len(maps), -1).any(axis=1))),
    }
    return Activations(np.ascontiguousarray(maps), manifest, found.name, net.preprocessing.shown(picture))


def predict(
    net: Network, images: Images, *, top: int = 5, output: str | None = None
) -> list[list[Prediction]]:
    """The most probable classes of each image, best first; of a sequence (recognised text), the best of each step.

    images   one image or a list, as `Network.prepare` takes
    output   which of the file's outputs; None: the one that looks like class scores
    returns  one list an image of (index, label, probability), probabilities 0 to 1
    raises   ImageRejected, UnknownLayer, ModelUnsuitable
    """
    check_open(net, "predict")
    return net.predict(images, top=top, output=output)
