"""More shape rules (see `graph.checks.shapes`): operators that pick, join, repeat, reduce or create elements."""

from __future__ import annotations

import math
from collections.abc import Sequence

from onnxviz.graph.checks.facts import Call, Sizes, Unsure, axis, broadcast, sizes
from onnxviz.graph.checks.shapes import rule
from onnxviz.graph.operators import REDUCTIONS, RESIZING, operators
from onnxviz.graph.shapes import resized

# --- picking and joining ----------------------------------------------------------------------


@rule("Concat")
def concat(call: Call) -> Sizes:
    """The sizes along one axis add up."""
    shapes = [call.shape(place) for place in range(len(call.inputs))]
    at = axis(call.attribute("axis", 1), len(shapes[0]))
    along = [shape[at] for shape in shapes]
    result = list(shapes[0])
    result[at] = None if None in along else sum(size or 0 for size in along)
    return tuple(result)


@rule("Split")
def split(call: Call) -> list[Sizes]:
    """Pieces by their sizes, or as equal as can be."""
    x = call.shape(0)
    at = axis(call.attribute("axis", 0), len(x))
    size = x[at]
    pieces: Sequence[int | None]
    if call.given(1) or call.attribute("split") is not None:
        pieces = call.option(1, "split")
    elif size is None:
        pieces = [None] * call.outputs
    else:
        each = -(-size // call.outputs)
        pieces = [min(each, max(0, size - each * place)) for place in range(call.outputs)]
    return [sizes((*x[:at], piece, *x[at + 1 :])) for piece in pieces]


@rule("Slice")
def slice_(call: Call) -> Sizes:
    """Python's slices along the axes named."""
    x = list(call.shape(0))
    starts, ends = call.option(1, "starts"), call.option(2, "ends")
    if call.given(3) or call.attribute("axes") is not None:
        axes = call.option(3, "axes")
    else:
        axes = list(range(len(starts)))
    steps = call.whole(4) if call.given(4) else [1] * len(starts)
    for start, end, at, step in zip(starts, ends, axes, steps, strict=True):
        place = axis(at, len(x))
        size = x[place]
        # A range's length is one more than what Python can count only for numbers that no tensor has.
        x[place] = None if size is None else len(range(*slice(start, end, step).indices(size)))
    return tuple(x)


@rule("Gather")
def gather(call: Call) -> Sizes:
    """The indices' shape takes the place of one axis."""
    x = call.shape(0)
    at = axis(call.attribute("axis", 0), len(x))
    return sizes((*x[:at], *call.shape(1), *x[at + 1 :]))


@rule("GatherElements")
def gather_elements(call: Call) -> Sizes:
    """The shape of the indices."""
    return call.shape(1)


@rule("GatherND")
def gather_nd(call: Call) -> Sizes:
    """The indices' shape without its last axis, then what the indices leave."""
    x, indices = call.shape(0), call.shape(1)
    if indices[-1] is None:
        raise Unsure
    return sizes((*indices[:-1], *x[call.attribute("batch_dims", 0) + indices[-1] :]))


@rule("TopK")
def top_k(call: Call) -> list[Sizes]:
    """K along one axis, twice."""
    x = list(call.shape(0))
    x[axis(call.attribute("axis", -1), len(x))] = call.option(1, "k")[0]
    return [sizes(x), sizes(x)]


@rule("GridSample")
def grid_sample(call: Call) -> Sizes:
    """(N, C) of the image, spatial sizes of the grid."""
    return (*call.shape(0)[:2], *call.shape(1)[1:-1])


@rule("RoiAlign", "MaxRoiPool")
def regions(call: Call) -> Sizes:
    """(regions, C, height, width)."""
    height, width = call.attribute("pooled_shape") or (
        call.attribute("output_height", 1),
        call.attribute("output_width", 1),
    )
    return sizes((call.shape(1)[0], call.shape(0)[1], height, width))


# --- repeating and growing --------------------------------------------------------------------


@rule("Expand")
def expand(call: Call) -> Sizes:
    """Broadcast against the shape given; where the input is unknown, the shape given is still the least."""
    wanted = sizes(call.whole(1))
    before = call.known(0).shape
    return (
        broadcast([before, wanted])
        if before is not None
        else tuple(None if size == 1 else size for size in wanted)
    )


@rule("Tile")
def tile(call: Call) -> Sizes:
    """Each size times its repeats."""
    x, repeats = call.shape(0), call.whole(1)
    return sizes([None if size is None else size * times for size, times in zip(x, repeats, strict=True)])


@rule("Pad")
def pad(call: Call) -> Sizes:
    """Each size plus both its pads."""
    x = list(call.shape(0))
    pads = call.option(1, "pads")
    axes = call.whole(3) if call.given(3) else list(range(len(x)))
    for place, at in enumerate(axes):
        size, where = x[axis(at, len(x))], axis(at, len(x))
        x[where] = None if size is None else size + pads[place] + pads[place + len(axes)]
    return sizes(x)


@rule(*RESIZING)
def resize(call: Call) -> Sizes:
    """Sizes given, or sizes times scales, rounded down."""
    x = list(call.shape(0))
    places = (
        {"scales": 1, "sizes": 3} if call.op == "Upsample" or call.version < 11 else {"scales": 2, "sizes": 3}
    )
    axes = call.attribute("axes") or list(range(len(x)))
    if call.given(places["sizes"]) and call.known(places["sizes"]).shape != (0,):
        policy = call.attribute("keep_aspect_ratio_policy", b"stretch")
        if policy != b"stretch":
            raise Unsure
        for at, wanted in zip(axes, call.whole(places["sizes"]), strict=True):
            x[axis(at, len(x))] = wanted
        return sizes(x)
    scales = (
        call.value(places["scales"]).tolist() if call.given(places["scales"]) else call.attribute("scales")
    )
    for at, scale in zip(axes, scales, strict=True):
        where = axis(at, len(x))
        size = x[where]
        x[where] = None if size is None else resized(size, scale)
    return sizes(x)


@rule("CenterCropPad")
def center_crop_pad(call: Call) -> Sizes:
    """The sizes given along the axes named."""
    x = list(call.shape(0))
    wanted = call.whole(1)
    for at, size in zip(call.attribute("axes") or range(len(x)), wanted, strict=True):
        x[axis(at, len(x))] = size
    return sizes(x)


@rule("Col2Im")
def col2im(call: Call) -> Sizes:
    """(N, C, image...)."""
    x, image, block = call.shape(0), call.whole(1), call.whole(2)
    return sizes((x[0], None if x[1] is None else x[1] // math.prod(block), *image))


@rule("OneHot")
def one_hot(call: Call) -> Sizes:
    """The indices' shape with the depth put in."""
    x = list(call.shape(0))
    x.insert(axis(call.attribute("axis", -1), len(x) + 1), call.whole(1)[0])
    return sizes(x)


# --- reducing ---------------------------------------------------------------------------------


@rule(*REDUCTIONS)
def reduce(call: Call) -> Sizes:
    """Without the axes named, or all of size 1 there."""
    x = call.shape(0)
    named = call.option(1, "axes") if call.given(1) or call.attribute("axes") is not None else []
    if not named and call.attribute("noop_with_empty_axes", 0):
        return x
    axes = {axis(number, len(x)) for number in named or range(len(x))}
    return _without(x, axes, call.attribute("keepdims", 1))


@rule(*operators(lambda row: row.sees == "arg_reduction"))
def arg(call: Call) -> Sizes:
    """One axis less, or of size 1."""
    x = call.shape(0)
    return _without(x, {axis(call.attribute("axis", 0), len(x))}, call.attribute("keepdims", 1))


def _without(x: Sizes, axes: set[int], keep: int) -> Sizes:
    if keep:
        return tuple(1 if place in axes else size for place, size in enumerate(x))
    return tuple(size for place, size in enumerate(x) if place not in axes)


# --- from nothing -----------------------------------------------------------------------------


@rule("ConstantOfShape")
def constant_of_shape(call: Call) -> Sizes:
    """The shape given."""
    return sizes(call.whole(0))


@rule("RandomNormal", "RandomUniform", "GivenTensorFill")
def random(call: Call) -> Sizes:
    """The shape given as an attribute."""
    return sizes(call.attribute("shape"))


@rule("Range")
def range_(call: Call) -> Sizes:
    """ceil((limit - start) / step), at least 0."""
    start, limit, step = (call.value(place).reshape(-1)[0].item() for place in range(3))
    if isinstance(step, int):
        return (max(0, -((start - limit) // step)),)
    return (max(0, math.ceil((limit - start) / step)),)


@rule("Multinomial")
def multinomial(call: Call) -> Sizes:
    """(N, samples)."""
    return sizes((call.shape(0)[0], call.attribute("sample_size", 1)))


@rule("HannWindow", "HammingWindow", "BlackmanWindow")
def window(call: Call) -> Sizes:
    """As long as the number given."""
    return sizes((call.whole(0)[0],))


@rule("MelWeightMatrix")
def mel(call: Call) -> Sizes:
    """(frequencies, mel bins)."""
    return sizes((call.whole(1)[0] // 2 + 1, call.whole(0)[0]))


@rule("AffineGrid")
def affine_grid(call: Call) -> Sizes:
    """(N, spatial..., 2 or 3) by the size (N, C, spatial...)."""
    size = call.whole(1)
    return sizes((size[0], *size[2:], len(size) - 2))


@rule("Shape")
def shape(call: Call) -> Sizes:
    """As many as there are axes, cut to `start` and `end`."""
    rank = len(call.shape(0))
    return (len(range(rank)[call.attribute("start", 0) : call.attribute("end", rank)]),)


@rule("Size")
def size(call: Call) -> Sizes:
    """One number."""
    return ()


@rule("NonZero")
def non_zero(call: Call) -> Sizes:
    """(rank, how many)."""
    return (max(1, len(call.shape(0))), None)


@rule(*operators(lambda row: row.family == "recurrent"))
def recurrent(call: Call) -> list[Sizes]:
    """(steps, directions, N, hidden), then the last states; the weight R is (directions, gates·hidden, hidden)."""
    steps, batch = call.shape(0)[:2]
    directions, _, hidden = call.shape(2)
    if call.attribute("layout", 0):
        return [(steps, batch, directions, hidden), *[(steps, directions, hidden)] * 2]
    return [(steps, directions, batch, hidden), *[(directions, batch, hidden)] * 2]
