"""Which layer a class activation map is made of, the one named or the last one that still has a map, and where its
places lie in the picture."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterable, Sequence

import numpy as np

from onnxviz.errors import ModelUnsuitable, UsageError, one_of, ways
from onnxviz.graph.layers import Layer, field
from onnxviz.graph.operators import family
from onnxviz.network import Network

_LEARNED = frozenset({"convolution", "product"})  # families of operators (`graph.operators`)
_POOLS = frozenset({"pooling", "global pooling", "reduction"})
ALIGNMENTS = ("stretch", "field")
_ROOT = ""  # the image
_NAMED = 5  # so many layers stand in an error


def named(net: Network, name: str, ends: Sequence[str]) -> Layer:
    """The layer called `name`, which must have a map, and which the objective must depend on.

    ends     the values that the objective reads
    raises   UnknownLayer; UsageError naming layers that will do
    """
    layer = net.layer(name)
    if not has_map(layer):
        shape = ", ".join(map(str, layer.shape))
        raise UsageError(
            f"layer {layer.name!r} has shape ({shape}) and no map, (N, C, H, W) with more than one place; "
            f"{_candidates(net.layers)}"
        )
    order = {one.name: one for one in net.layers}
    known = [one for one in ends if one in order]
    way = _before(order, known)
    if known and layer.name not in way:
        raise UsageError(
            f"{', '.join(map(repr, known))}, which is explained, does not depend on layer {layer.name!r}: its map "
            f"would be zero everywhere; {_candidates([one for one in net.layers if one.name in way])}"
        )
    return layer


@functools.lru_cache(maxsize=16)
def default(layers: tuple[Layer, ...], ends: tuple[str, ...], *, classes: bool = True) -> Layer:
    """The layer that a map is made of where none is named. Kept, since it takes as long as a small network does.

    layers  of the network
    ends    the values that the objective reads
    classes whether these are class scores
    Where the ends have no map: the last layer with a map through which everything goes on its way to them and after
    which something learned follows, or a pool over the places: in most classifiers and for their features what the
    global pool reads; for a detector's boxes not the last convolution, whose channels are the boxes; nor, for classes,
    a convolution whose channels are the classes. Where they have a map (a segmenter's mask): the coarsest layer on the
    way, since the last one would be the mask itself; of several equally coarse ones the last.

    raises   ModelUnsuitable where there is none, or where more than half of the network's work comes after it without
             a map (vision transformers), naming the layers that there are
    """
    if not layers:
        raise ModelUnsuitable("the network has no layers, so there is no map to weigh")
    order = {layer.name: layer for layer in layers}
    ends = tuple(name for name in ends if name in order) or (layers[-1].name,)
    way = _before(order, ends)
    maps = [layer for layer in layers if layer.name in way and has_map(layer)]
    found = _followed(layers, way, maps, pools=not classes)
    if not found:
        raise ModelUnsuitable(
            f"no layer on the way to {', '.join(map(repr, ends))} has a map (N, C, H, W): "
            f"class activation maps need one; {_candidates(layers)}"
        )
    if any(has_map(order[name]) for name in ends):
        coarsest = max(map(_coarseness, found))
        return next(layer for layer in reversed(found) if _coarseness(layer) == coarsest)
    passed = _passed_by_all(order, ends)
    last = next((layer for layer in reversed(found) if layer.name in passed), found[-1])
    _refuse_early(layers, way, last)
    return last


@functools.lru_cache(maxsize=16)
def defaults(layers: tuple[Layer, ...], ends: tuple[str, ...], *, classes: bool = True) -> tuple[Layer, ...]:
    """The layers that a map is made of where none is named: mostly one, see `default`.

    A detector predicts from maps of several scales side by side, so that no single one lies on every way to its boxes:
    there it is, on each way, the last map that a learned layer makes another map of. For one box, only those that it is
    read from have a gradient.

    raises   as `default`
    """
    try:
        return (default(layers, ends, classes=classes),)
    except ModelUnsuitable:
        found = _heads(layers, ends)
        if len({places(layer) for layer in found}) < 2:  # a vision transformer has one, its patches
            raise
        return found


def _heads(layers: Sequence[Layer], ends: Sequence[str]) -> tuple[Layer, ...]:
    """The maps that the ends are read from, each before the last learned layer that still has a map."""
    order = {layer.name: layer for layer in layers}
    mapped = {layer.name for layer in layers if has_map(layer)}
    followed: set[str] = set()
    for layer in reversed(layers):
        learned = layer.name in mapped and family(layer.op) in _LEARNED
        if layer.name in followed or learned:
            followed.update(layer.inputs)
    stops = mapped & followed
    stops &= _before(order, [name for name in ends if name in order], stops)
    return tuple(layer for layer in layers if layer.name in stops)


def has_map(layer: Layer) -> bool:
    """Whether the layer has a map: four axes, with more than one place, that tell the image's places apart."""
    if len(layer.shape) != 4:
        return False
    if layer.trace is not None and not all(layer.trace.placed):
        return False
    return places(layer) != (1, 1)


def places(layer: Layer) -> tuple[int | str, int | str]:
    """The map's height and width; names where they are open."""
    height, width = layer.shape[1:3] if layer.channels_last else layer.shape[2:4]
    return height, width


def _coarseness(layer: Layer) -> float:
    """The pixels for one place; maps of fewer than 4 × 4 places are pooled context and count as fine."""
    if any(isinstance(size, int) and size < 4 for size in places(layer)):
        return 0
    return float(math.prod(layer.stride)) if layer.stride is not None else 1


def _followed(layers: Sequence[Layer], way: set[str], maps: list[Layer], *, pools: bool) -> list[Layer]:
    """Those of `maps` after which something learned (or a pool) follows on the way; all where there are none."""
    mapped = {layer.name for layer in maps}
    reached: set[str] = set()
    for layer in reversed([layer for layer in layers if layer.name in way]):
        learned = family(layer.op) in _LEARNED
        pooled = pools and layer.name not in mapped and family(layer.op) in _POOLS
        if layer.name in reached or learned or pooled:
            reached.update(layer.inputs)
    return [layer for layer in maps if layer.name in reached] or maps


def _before(order: dict[str, Layer], ends: Iterable[str], stops: Collection[str] = ()) -> set[str]:
    """The layers that the ends are computed from, and they themselves; nothing behind `stops`."""
    found: set[str] = set()
    todo = list(ends)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += () if name in stops else order[name].inputs
    return found


def _passed_by_all(order: dict[str, Layer], ends: Sequence[str]) -> set[str]:
    """The layers that every way from the image to the ends goes through (their dominators)."""
    above: dict[str, str] = {_ROOT: _ROOT}  # the last layer that every way to this one goes through
    depth = {_ROOT: 0}

    def common(names: Sequence[str]) -> str:
        # An end that the picture does not move is no layer; a code may stand for a layer that comes after it.
        found, *rest = [name for name in names if name in above] or (_ROOT,)
        for name in rest:
            one, other = found, name
            while one != other:
                if depth[one] >= depth[other]:
                    one = above[one]
                else:
                    other = above[other]
            found = one
        return found

    for name, layer in order.items():
        above[name] = common(layer.inputs)
        depth[name] = depth[above[name]] + 1
    found = set()
    name = common(ends)
    while name != _ROOT:
        found.add(name)
        name = above[name]
    return found


def _refuse_early(layers: Sequence[Layer], way: set[str], last: Layer) -> None:
    on_way = [layer for layer in layers if layer.name in way]
    total = sum(layer.macs for layer in on_way)
    after = sum(layer.macs for layer in on_way[on_way.index(last) + 1 :])
    if total and after > total / 2:
        raise ModelUnsuitable(
            f"the last layer with a map, {last.name!r}, comes before {after / total:.0%} of this network's work (its "
            "tokens have no map, as in a vision transformer), so a class activation map would say little; name it "
            f"with --layer to have it all the same, or use saliency; {_candidates(layers)}"
        )


def _candidates(layers: Sequence[Layer]) -> str:
    names = [layer.name for layer in layers if has_map(layer)]
    if not names:
        return "no layer will do"
    first = f"the last of the {len(names)} " if len(names) > _NAMED else ""
    return f"layers with a map: {first}{', '.join(map(repr, names[-_NAMED:]))}"


def matrices(
    layer: Layer, shape: tuple[int, int], size: tuple[int, int], align: str = "stretch"
) -> tuple[np.ndarray, np.ndarray]:
    """Bilinear upsampling of a map as two matrices, for rows (H, h) and columns (W, w), float64; each row sums to 1.

    Measured on the bundled network (head.relu6, 7 × 7 places of 32 pixels; where the gradient energy of single units
    lies, over six photos and their mirror images): units 2, 3 and 4 look at rows 87, 113 and 132 on average. Stretching
    puts them at 80, 112 and 144; the middles of their receptive fields lie at 95, 127 and 159, since the padding of its
    strided convolutions sits at one side only. The trained units look nearer to where stretching puts them, as all
    other tools do: so that is the default.

    shape    the map's height and width
    size     the image's
    align    stretch   the map's first and last places end where the image ends (torch's interpolate, bilinear, without
                       aligned corners)
             field     each place stands at the middle of its receptive field
    raises   UsageError for another `align`, and for 'field' where the fields are not known
    """
    one_of("align", align, ALIGNMENTS)
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
