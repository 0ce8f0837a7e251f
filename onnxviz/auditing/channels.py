"""What single channels of a layer look for: the photos' places that excite them most, and a picture made to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image

from onnxviz.errors import ModelRejected, RuntimeFailed, UsageError
from onnxviz.features.patches import Patches, patches
from onnxviz.network import Network
from onnxviz.progress import Progress

_PATCHES: Final = 9
_SIDE: Final = 96  # pixels of a patch on the page
_STEPS: Final = 128  # of a picture that is made for a channel: enough to be told at that size


@dataclass(frozen=True)
class LayerChannels:
    """Some channels of a layer, drawn: a row a channel.

    layer      its name
    channels   their numbers, those first that stand out most
    field      how much of a photo one place of the layer sees, in words
    picture    the rows: what was made for the channel, where that was asked for, then its best patches
    failed     why no pictures were made, or ''
    """

    layer: str
    channels: list[int]
    field: str
    picture: Image.Image
    failed: str = ""

    @property
    def caption(self) -> str:
        """What is to be seen."""
        return (
            f"{self.layer}: the {len(self.channels)} channels whose best photo stands out most from the others, each "
            f"with the places in the photos that it answers most ({self.field}); what lies outside the photo is grey."
        )


def check_channels(net: Network, layers: Sequence[str], channels: int) -> None:
    """raises   UnknownLayer, UsageError for a layer without channels, or fewer than one channel"""
    if channels < 1:
        raise UsageError(f"channels is how many channels of a layer are shown, 1 or more; got {channels}")
    for name in layers:
        layer = net.layer(name)
        if layer.shape is not None and len(layer.shape) not in (2, 4):
            raise UsageError(
                f"{name!r} has no channels to look into; expected feature maps or a vector, such as a Conv"
            )


def look(
    net: Network,
    images: Sequence[Any],
    layers: Sequence[str],
    channels: int,
    made: bool,
    seed: int,
    progress: Progress,
) -> list[LayerChannels]:
    """Of each layer the channels whose best photo stands out most.

    images     what can be read; all layers take one pass over them
    channels   how many of each layer
    made       whether a picture is made for each, by ascent
    """
    if not layers:
        return []
    found = patches(net, images, layers, top=_PATCHES, progress=progress)
    return [_drawn(net, found, place, channels, made, seed, progress) for place in range(len(found.layers))]


def _drawn(
    net: Network, found: Patches, place: int, most: int, made: bool, seed: int, progress: Progress
) -> LayerChannels:
    from onnxviz.features.patch_pictures import cut, field_in_words
    from onnxviz.figures.grids import Row, rows

    one = found.layers[place]
    chosen = [int(row) for row in np.argsort(-one.standing_out, kind="stable")[:most]]
    numbers = [int(one.channels[row]) for row in chosen]
    ranks = range(one.index.shape[1])
    tiles, _ = cut(found, [(place, row, rank) for row in chosen for rank in ranks], _SIDE)
    pictures, failed = _made(net, one.name, numbers, seed, progress) if made else ([], "")
    table = []
    for i, (row, number) in enumerate(zip(chosen, numbers, strict=True)):
        best = [tiles[place, row, rank] for rank in ranks if (place, row, rank) in tiles]
        table.append(Row(f"channel {number}", [*pictures[i : i + 1], *best]))
    heads = [*(["made for it"] if pictures else []), "strongest first"]
    drawn = rows([row for row in table if row.pictures], side=_SIDE, lead=bool(pictures), heads=heads)
    return LayerChannels(one.name, numbers, field_in_words(found, one), drawn, failed)


def _made(
    net: Network, layer: str, channels: list[int], seed: int, progress: Progress
) -> tuple[list[np.ndarray], str]:
    """Pictures (H, W, 3) uint8 that the channels answer to most; none, and why, where this network has no gradient."""
    from onnxviz.synthesis.ascent import ascent

    try:
        found = ascent(net, layer=layer, channel=channels, steps=_STEPS, seed=seed, progress=progress)
        return list(found.pictures()), ""
    except (ModelRejected, RuntimeFailed) as reason:
        return [], f"no pictures were made for the channels of {layer}: {reason}"
