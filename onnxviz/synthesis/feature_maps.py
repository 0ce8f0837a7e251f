"""Layers' activations for pictures of any size: what inversion, texture and style work towards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from onnxviz.errors import ImageRejected, ModelFailed, ModelUnsuitable, ways
from onnxviz.graph.layers import Layer
from onnxviz.network import Network
from onnxviz.synthesis.painting import resized

if TYPE_CHECKING:
    from onnxviz.graph.admissible import Admissible


def feature_maps(net: Network, picture: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The values called `names` for one picture at its own size: {name: (1, ...) float32}.

    picture   (H, W, 3) float, 0 to 1
    raises    ImageRejected where it is too small, ModelUnsuitable where a layer only exists at the network's own size
    """
    net.preprocessing.require_pictures("this technique")
    height, width = picture.shape[:2]
    check_size(net, names, (height, width))
    x = net.preprocessing.normalise(np.asarray(picture, np.float32)[None] * np.float32(255))
    own = (net.input.height, net.input.width)
    free = any(a is not None and a != b for a, b in zip(own, (height, width), strict=True))
    wanted = list(dict.fromkeys(names))
    program = net.compile(lambda: _cut(net, wanted, free), key=("feature maps", free, *wanted))
    count = net.batched[1] or 1
    try:
        arrays = program({net.input.name: np.repeat(x, count, axis=0)}, wanted)
    except (ModelFailed, ImageRejected) as error:
        raise ImageRejected(_refusal(net, names, (height, width), str(error))) from error
    found = {name: array[:1].astype(np.float32, copy=False) for name, array in arrays.items()}
    for name, array in found.items():
        if 0 in array.shape:
            raise ImageRejected(_too_small(net, [name], (height, width), f"{name!r} has no places left"))
    return found


def check_size(net: Network, names: Sequence[str], size: tuple[int, int]) -> None:
    """Refuse a picture that leaves a layer less than two places each way.

    size     (height, width) in pixels
    raises   ImageRejected
    """
    for name in names:
        least = smallest(net.layer(name))
        if size[0] < least[0] or size[1] < least[1]:
            wanted = (
                f"{least[0]} pixels each way" if least[0] == least[1] else f"{least[1]}×{least[0]} pixels"
            )
            raise ImageRejected(_too_small(net, [name], size, f"it needs {wanted}"))


def smallest(layer: Layer) -> tuple[int, int]:
    """(height, width) in pixels of the smallest picture with two places of a layer each way; 1 where it has none."""
    y, x = layer.stride or (0, 0)
    return max(1, int(2 * y)), max(1, int(2 * x))


def sizes_of(net: Network, names: Sequence[str]) -> Admissible:
    """The picture sizes at which these layers can be computed."""
    from onnxviz.graph.admissible import Admissible

    return Admissible(net.batched[0], net.input.name, list(dict.fromkeys(names)))


def fitting(sizes: Admissible, picture: np.ndarray) -> np.ndarray:
    """The picture (H, W, 3), 0 to 1, at the nearest size that goes through; itself where there is none."""
    at = sizes.nearest((picture.shape[0], picture.shape[1]))
    return picture if at in (None, picture.shape[:2]) else resized(picture, at).clip(0, 1)


def _refusal(net: Network, names: Sequence[str], size: tuple[int, int], error: str) -> str:
    """Why a picture of this size did not go through: too small, or of a size that does not suit the network."""
    admissible = sizes_of(net, names)
    misfit = admissible.misfit(size)
    if misfit is not None and misfit.empty:
        return _too_small(net, names, size, misfit.text)
    reason = error if misfit is None else misfit.text
    near = admissible.nearest(size) if misfit is not None else None
    told = f"{', '.join(map(repr, names))} cannot be computed for a picture of {size[1]}×{size[0]} pixels: {reason}"
    return told + ways(
        f"--size {near[1]}x{near[0]} fits" if near else "take another --size", "take an earlier --layer"
    )


def _too_small(net: Network, names: Sequence[str], size: tuple[int, int], reason: str) -> str:
    layers = ", ".join(map(repr, names))
    return f"a picture of {size[1]}×{size[0]} pixels is too small for {layers}: {reason}" + ways(
        "take a larger --size", "take a larger picture", "take an earlier --layer"
    )


def _cut(net: Network, names: Sequence[str], free: bool) -> ir.Model:
    from onnxviz.graph.surgery import cut, free_size

    model = net.batched[0]
    if free:
        model, barrier = free_size(model)
        known = {value.name for node in model.graph for value in node.outputs}
        for name in names:
            if barrier is not None and name not in known:
                raise ModelUnsuitable(
                    f"at another size than {net.input.width}×{net.input.height} pixels this network ends before "
                    f"{barrier!r}, and {name!r} lies behind it; take an earlier layer"
                )
    return cut(model, list(names))
