"""Layers that carry style and content, their values for pictures of any size, and the losses made of them."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz.errors import ImageRejected, ModelFailed, ModelUnsuitable, UsageError, ways
from onnxviz.graph.layers import Layer
from onnxviz.graph.operators import computing, family
from onnxviz.network import Network
from onnxviz.objectives import Objective
from onnxviz.objectives.likeness import gram_of, means_of, near, texture
from onnxviz.programs import filled
from onnxviz.synthesis.made import resized
from onnxviz.synthesis.step import at_size

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxviz.graph.picture_sizes import Admissible

# What joins branches: where the units of a block without an activation of its own come together.
_JOINTS = computing("add total multiply concatenate")
_FEWEST_CHANNELS = 8
_LONGEST_STRIDE = 16
_COUNT = 5
#: What `layers=` takes: a name, several, or {name: weight}; None: those that a technique chooses.
Layers = str | Sequence[str] | Mapping[str, float] | None


def style_layers(net: Network) -> list[str]:
    """The layers whose statistics are a picture's style: one at each stride from 1 to 16 pixels, early to deep.

    Gatys, Ecker & Bethge 2016 take relu1_1 to relu5_1 of VGG-19, one at each of its five strides. Here it is the last
    non-linear layer of each stride, which has seen the most at that resolution, but the middle one of the deepest,
    whose end is about things rather than textures. Where the network has fewer than five strides, the first layer
    is taken too (colours and fine grain), then more of the deepest stride. Only layers that everything behind them
    passes through count: no inside of a residual or inception block.

    returns   value names, in the order of computation
    raises    ModelUnsuitable where no layer has feature maps
    """
    strides = _by_stride(net)
    groups = [_best(found) for found in strides]
    deepest = groups[-1]
    first = next((layer for layer in strides[0] if _is_activation(layer)), strides[0][0])
    wanted = [_middle(deepest), *(group[-1] for group in groups[-2::-1]), first, deepest[0], deepest[-1]]
    chosen = list(dict.fromkeys(layer.name for layer in wanted))[:_COUNT]
    place = {layer.name: i for i, layer in enumerate(net.layers)}
    return sorted(chosen, key=lambda name: place[name])


def content_layer(net: Network) -> str:
    """The layer whose activations are a picture's content: deep enough to let strokes change, not yet without places.

    The counterpart of relu4_2 in VGG-19 (Gatys, Ecker & Bethge 2016): the middle layer at stride 8, or at the
    deepest stride below that.

    returns   a value name
    raises    ModelUnsuitable where no layer has feature maps
    """
    groups = [found for found in _by_stride(net) if _step(found[0]) <= 8] or _by_stride(net)[:1]
    return _middle(_best(groups[-1])).name


def dream_layer(net: Network) -> str:
    """The layer that dreams are about where none is named: things rather than textures, but still many of them.

    The counterpart of inception_4c in GoogLeNet (Mordvintsev, Olah & Tyka 2015): the middle of the deepest stride up
    to 16 pixels; narrow layers count too, since what joins blocks tells as much.

    returns   a value name
    raises    ModelUnsuitable where no layer has feature maps
    """
    deepest = _by_stride(net)[-1]
    return _middle([layer for layer in deepest if layer.op in _JOINTS] or _best(deepest)).name


def _middle(layers: Sequence[Layer]) -> Layer:
    return layers[(len(layers) - 1) // 2]


def trunk(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that everything behind them passes through: no layer inside a branch of a block."""
    last = {name: place for place, layer in enumerate(layers) for name in layer.inputs}
    reach, found = -1, []
    for place, layer in enumerate(layers):
        if reach <= place:  # nothing in front of it is read behind it
            found.append(layer)
        reach = max(reach, last.get(layer.name, -1))
    return found


def _by_stride(net: Network) -> list[list[Layer]]:
    """The layers with feature maps, those of the trunk where there are any, grouped by growing stride."""
    maps = [layer for layer in net.layers if _has_map(layer)]
    if not maps:
        raise ModelUnsuitable(
            f"no layer of {net.name!r} has feature maps of at least {_FEWEST_CHANNELS} channels: choose layers by name"
        )
    through = {layer.name for layer in trunk(net.layers)}
    groups = []
    for step in sorted({_step(layer) for layer in maps}):
        group = [layer for layer in maps if _step(layer) == step]
        groups.append([layer for layer in group if layer.name in through] or group)
    short = [group for group in groups if _step(group[0]) <= _LONGEST_STRIDE]
    return short or groups[:1]


def _best(group: Sequence[Layer]) -> list[Layer]:
    """The wide ones among the activations and what joins branches; else everything.

    Narrow layers (a third of the widest, or less) are bottlenecks: they pass on, they do not describe.
    """
    found = [layer for layer in group if _is_activation(layer) or layer.op in _JOINTS]
    finished = {layer.inputs for layer in found if _is_activation(layer)}
    found = [layer for layer in found if _is_activation(layer) or (layer.name,) not in finished]
    widest = max((_channels(layer) for layer in found), default=0)
    return [layer for layer in found if 3 * _channels(layer) > widest] or list(group)


def _is_activation(layer: Layer) -> bool:
    """Whether it applies a non-linearity to each unit: the features that Gram matrices are taken of."""
    return family(layer.op) == "activation"


def _channels(layer: Layer) -> int:
    return int(layer.shape[3 if layer.channels_last else 1])


def _has_map(layer: Layer) -> bool:
    """Whether it has channels over a map of places, still larger than one."""
    if layer.stride is None or len(layer.shape) != 4 or family(layer.op) == "quantisation":
        return False
    _, *places, channels = layer.shape if layer.channels_last else (0, *layer.shape[2:], layer.shape[1])
    wide = isinstance(channels, int) and channels >= _FEWEST_CHANNELS
    return wide and all(not isinstance(side, int) or side > 1 for side in places) and _step(layer) > 0


def _step(layer: Layer) -> float:
    """Pixels from one unit to the next, along the coarser direction."""
    return float(max(layer.stride)) if layer.stride is not None else 0.0


def feature_maps(net: Network, picture: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The values called `names` for one picture at its own size: {name: (1, ...) float32}.

    picture   (H, W, 3) float, 0 to 1
    raises    ImageRejected where it is too small, ModelUnsuitable where a layer only exists at the network's own size
    """
    from onnxviz.graph.surgery import cut

    net.preprocessing.require_pictures("this technique")
    height, width = picture.shape[:2]
    check_size(net, names, (height, width))
    x = net.preprocessing.normalise(np.asarray(picture, np.float32)[None] * np.float32(255))
    own = (net.input.height, net.input.width)
    free = any(a is not None and a != b for a, b in zip(own, (height, width), strict=True))
    wanted = list(dict.fromkeys(names))

    def build() -> ir.Model:
        return cut(at_size(net, net.batched[0], (height, width), wanted), wanted)

    program = net.compile(build, key=("feature maps", free, *wanted))
    try:
        arrays = program({net.input.name: filled(x, net.batched[1] or 1)}, wanted)
    except (ModelFailed, ImageRejected) as error:
        raise ImageRejected(_refusal(net, names, (height, width), str(error))) from error
    found = {name: array[:1].astype(np.float32, copy=False) for name, array in arrays.items()}
    for name, array in found.items():
        if 0 in array.shape:
            raise ImageRejected(_too_small([name], (height, width), f"{name!r} has no places left"))
    return found


def check_size(net: Network, names: Sequence[str], size: tuple[int, int]) -> None:
    """Refuse a picture that leaves a layer less than two places each way.

    size     (height, width) in pixels
    raises   ImageRejected
    """
    for name in names:
        y, x = smallest(net.layer(name))
        if size[0] < y or size[1] < x:
            wanted = f"{y} pixels each way" if y == x else f"{x}×{y} pixels"
            raise ImageRejected(_too_small([name], size, f"it needs {wanted}"))


def smallest(layer: Layer) -> tuple[int, int]:
    """(height, width) in pixels of the smallest picture with two places of a layer each way; 1 where it has none."""
    y, x = layer.stride or (0, 0)
    return max(1, int(2 * y)), max(1, int(2 * x))


def sizes_of(net: Network, names: Sequence[str]) -> Admissible:
    """The picture sizes at which these layers can be computed."""
    from onnxviz.graph.picture_sizes import Admissible

    return Admissible(net.batched[0], net.input.name, list(dict.fromkeys(names)))


def fitting(sizes: Admissible, picture: np.ndarray) -> np.ndarray:
    """The picture (H, W, 3), 0 to 1, at the nearest size that goes through; itself where there is none."""
    at = sizes.nearest((picture.shape[0], picture.shape[1]))
    return picture if at in (None, picture.shape[:2]) else resized(picture, at).clip(0, 1)


def _refusal(net: Network, names: Sequence[str], size: tuple[int, int], error: str) -> str:
    """Why a picture of this size did not go through: too small, or of a size that does not suit the network."""
    admissible = sizes_of(net, names)
    misfit, near, reason = admissible.misfit(size), None, error
    if misfit is not None:
        if misfit.empty:
            return _too_small(names, size, misfit.text)
        near, reason = admissible.nearest(size), misfit.text
    told = f"{', '.join(map(repr, names))} cannot be computed for a picture of {size[1]}×{size[0]} pixels: {reason}"
    return told + ways(
        f"--size {near[1]}x{near[0]} fits" if near else "take another --size", "take an earlier --layer"
    )


def _too_small(names: Sequence[str], size: tuple[int, int], reason: str) -> str:
    layers = ", ".join(map(repr, names))
    return f"a picture of {size[1]}×{size[0]} pixels is too small for {layers}: {reason}" + ways(
        "take a larger --size", "take a larger picture", "take an earlier --layer"
    )


@dataclass(frozen=True)
class Weighted:
    """Layers with their weights, which sum to 1."""

    weights: Mapping[str, float]

    @classmethod
    def of(
        cls,
        net: Network,
        layers: Layers,
        default: Callable[[Network], str | Sequence[str]],
        what: str = "layers",
    ) -> Weighted:
        """From a name, names, names with weights, or the default layers; raises UnknownLayer, UsageError."""
        chosen = layers or default(net)
        chosen = [chosen] if isinstance(chosen, str) else chosen
        given = chosen if isinstance(chosen, Mapping) else dict.fromkeys(chosen, 1.0)
        found: dict[str, float] = {}
        for name, weight in given.items():
            if not (np.isfinite(weight) and weight >= 0):
                raise UsageError(
                    f"the weight of {name!r} in {what} is {weight}: expected a number of 0 or more"
                )
            value = net.layer(name).name
            found[value] = found.get(value, 0.0) + float(weight)
        total = sum(found.values())
        if not total > 0:
            raise UsageError(f"{what} have no weight over 0: give at least one layer a weight")
        return cls({name: weight / total for name, weight in found.items() if weight > 0})

    @property
    def names(self) -> list[str]:
        """The layers' value names."""
        return list(self.weights)

    def sum(self, term: Callable[[str], Objective], factor: float = 1.0) -> Objective:
        """The sum of the layers' terms, each with its weight and the factor of the whole."""
        terms = (factor * weight * term(name) for name, weight in self.weights.items())
        return functools.reduce(operator.add, terms)


#: Gram matrices as the paper has them, or of activations measured from the source's means (`objectives.likeness`).
GRAMS: Final = ("uncentred", "centred")


def style_terms(
    net: Network,
    pictures: Sequence[tuple[np.ndarray, float]],
    layers: Weighted,
    factor: float = 1.0,
    *,
    gram: str = "uncentred",
) -> Objective:
    """Minus the weighted relative distances of the layers' Gram matrices to those of pictures.

    pictures   (picture (H, W, 3) of 0 to 1, weight); several are mixed: their matrices are averaged
    factor     of the whole
    gram       one of `GRAMS`
    raises     ImageRejected for a picture of one colour, or one that is too small
    """
    maps = []
    for picture, _ in pictures:
        if float(np.ptp(picture, axis=(0, 1)).max()) < 2 / 255:
            raise ImageRejected(
                "the style picture has one colour only: it has no texture to take over; give a picture with structure"
            )
        maps.append(feature_maps(net, picture, layers.names))
    shares = np.array([weight for _, weight in pictures], np.float64)
    if not (np.isfinite(shares).all() and (shares >= 0).all() and shares.sum() > 0):
        raise UsageError(
            f"the weights of the style pictures are {shares.tolist()}: expected 0 or more, one over 0"
        )
    shares = shares / shares.sum()

    def distance(name: str) -> Objective:
        last = net.layer(name).channels_last

        def mixed(of: Callable[..., np.ndarray], *more: Any) -> np.ndarray:
            arrays = [of(found[name], *more, channels_last=last) for found in maps]
            return np.asarray(sum(share * array for share, array in zip(shares, arrays, strict=True)))

        centre = mixed(means_of) if gram == "centred" else None
        return texture(name, mixed(gram_of, centre), centre, channels_last=last)

    return layers.sum(distance, factor)


def content_terms(net: Network, picture: np.ndarray, layers: Weighted, factor: float) -> Objective:
    """Minus the weighted relative errors of the layers against those of a picture (H, W, 3), 0 to 1."""
    found = feature_maps(net, picture, layers.names)
    return layers.sum(lambda name: near(name, found[name]), factor)
