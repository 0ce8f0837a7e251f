"""Which layers carry style and which carry content, for any network: from early to deep, by stride."""

from __future__ import annotations

from collections.abc import Sequence

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.layers import Layer
from onnxviz.graph.operators import family
from onnxviz.network import Network

# What joins branches: where the units of a block without an activation of its own come together.
_JOINTS = frozenset(("Concat", "Add", "Sum", "Mul"))
_FEWEST_CHANNELS = 8
_LONGEST_STRIDE = 16
_COUNT = 5


def style_layers(net: Network, count: int = _COUNT) -> list[str]:
    """The layers whose statistics are a picture's style: one at each stride from 1 to 16 pixels, early to deep.

    Gatys, Ecker & Bethge 2016 take relu1_1 to relu5_1 of VGG-19, one at each of its five strides. Here it is the last
    non-linear layer of each stride, which has seen the most at that resolution, but the middle one of the deepest,
    whose end is about things rather than textures. Where the network has fewer strides than `count`, the first layer
    is taken too (colours and fine grain), then more of the deepest stride. Only layers that everything behind them
    passes through count: no inside of a residual or inception block.

    count     how many at most
    returns   value names, in the order of computation
    raises    ModelUnsuitable where no layer has feature maps
    """
    strides = _by_stride(net)
    groups = [_best(found) for found in strides]
    deepest = groups[-1]
    first = next((layer for layer in strides[0] if _is_activation(layer)), strides[0][0])
    wanted = [group[-1] for group in groups[:-1]] + [deepest[(len(deepest) - 1) // 2]]
    wanted = [*wanted[::-1], first, deepest[0], deepest[-1]]
    chosen = list(dict.fromkeys(layer.name for layer in wanted))[:count]
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
    found = _best(groups[-1])
    return found[(len(found) - 1) // 2].name


def dream_layer(net: Network) -> str:
    """The layer that dreams are about where none is named: things rather than textures, but still many of them.

    The counterpart of inception_4c in GoogLeNet (Mordvintsev, Olah & Tyka 2015): the middle of the deepest stride up
    to 16 pixels; narrow layers count too, since what joins blocks tells as much.

    returns   a value name
    raises    ModelUnsuitable where no layer has feature maps
    """
    deepest = _by_stride(net)[-1]
    joints = [layer for layer in deepest if layer.op in _JOINTS] or _best(deepest)
    return joints[(len(joints) - 1) // 2].name


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
    channels = layer.shape[3 if layer.channels_last else 1]
    places = layer.shape[1:3] if layer.channels_last else layer.shape[2:]
    if not isinstance(channels, int) or channels < _FEWEST_CHANNELS:
        return False
    return all(not isinstance(side, int) or side > 1 for side in places) and _step(layer) > 0


def _step(layer: Layer) -> float:
    """Pixels from one unit to the next, along the coarser direction."""
    return float(max(layer.stride)) if layer.stride is not None else 0.0
