"""How each operator moves data: the rules behind receptive fields, one function for each way.

A rule gets a `Call` and gives what the units of its first result see. It raises `Unplaced` where it lacks a
shape or a constant; an operator without a rule, or such a call, is taken to read all of its inputs. Window
operators follow the ONNX specification of pads, auto_pad, dilations and ceil_mode (which only adds units).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from onnxviz.graph.analysis import intervals
from onnxviz.graph.analysis import units as to
from onnxviz.graph.analysis.intervals import Intervals, window
from onnxviz.graph.analysis.units import Call, Rule, Shape, Units, Unplaced, context, known, merge, stretch
from onnxviz.graph.operators import POOLS, TABLE, by_scales_alone
from onnxviz.graph.shapes import same_pads

# A longer stride leaves one window, too; whole numbers of 64 bits hold two such strides behind each other.
_FARTHEST = 2**31

# --- place by place -------------------------------------------------------------------------------


def pointwise(call: Call) -> Units:
    """Each unit reads the unit at its own place of every input, with broadcasting."""
    return stretch(_all(call.operands), call.shape)


def _all(parts: Iterable[Units | None]) -> Units:
    """What reads all of these, under their common shape; constants see nothing."""
    found: Units | None = None
    for part in parts:
        if part is not None:
            shape = part.shape if found is None else np.broadcast_shapes(found.shape, part.shape)
            found = part if found is None else merge(found, part, shape)
    if found is None:
        raise Unplaced
    return found


def own(call: Call) -> Units:
    """Each unit reads its own place of the first input; the other inputs are scales, bounds and the like."""
    return stretch(call.data, call.shape)


def over(axes: Callable[[Call], list[int]]) -> Rule:
    """A normalisation: its own place, and the other places along these axes as context."""

    def rule(call: Call) -> Units:
        rank = len(call.input())
        return to.mix(call.data, [axis % rank for axis in axes(call)], keep=True)

    return rule


def _softmax_axes(call: Call) -> list[int]:
    rank = len(call.input())
    if call.opset >= 13:
        return [call.get("axis", -1)]
    return list(range(call.get("axis", 1) % rank, rank))  # the input was taken as a matrix then


def _trailing_axes(call: Call) -> list[int]:
    rank = len(call.input())
    return list(range(call.get("axis", -1) % rank, rank))


# --- windows --------------------------------------------------------------------------------------


def windows(call: Call, kernel: list[int], data: Units) -> Units:
    """Slide a window over axes 2, 3, ... of the data."""
    size, found = call.input(), data
    strides = [min(one, _FARTHEST) for one in call.get("strides") or [1] * len(kernel)]
    dilations = call.get("dilations") or [1] * len(kernel)
    pads = call.get("pads") or [0] * 2 * len(kernel)
    auto = call.get("auto_pad", "NOTSET")
    for i, k in enumerate(kernel):
        extent = (k - 1) * dilations[i] + 1
        before = pads[i]
        if auto == "VALID":
            before = 0
        elif auto in ("SAME_UPPER", "SAME_LOWER"):
            asked = k if call.view.op in POOLS else extent
            before, _ = same_pads(size[2 + i], asked, strides[i], upper=auto == "SAME_UPPER")
        found = to.move(found, 2 + i, window(strides[i], -before, extent), call.shape[2 + i])
    return found


def conv(call: Call) -> Units:
    """A window that mixes all channels; weights that depend on the image are context."""
    data = to.resize(to.mix(call.data, [1]), 1, call.shape[1])
    found = windows(call, list(call.get("kernel_shape") or call.input(1)[2:]), data)
    return _with_context(found, call.operands[1:])


def pool(call: Call) -> Units:
    """A window, channel by channel."""
    return windows(call, list(call.get("kernel_shape") or ()), call.data)


def conv_transpose(call: Call) -> Units:
    """A transposed window that mixes all channels."""
    kernel = list(call.get("kernel_shape") or call.input(1)[2:])
    data = to.resize(to.mix(call.data, [1]), 1, call.shape[1])
    return _with_context(_transposed(call, kernel, data, call.shape), call.operands[1:])


def unpool(call: Call) -> Units:
    """MaxUnpool: each value is put back somewhere in the window it came from."""
    found = call.data
    other = call.operand(1)
    if other is not None:
        found = merge(found, other, found.shape)
    return _transposed(call, list(call.get("kernel_shape") or ()), found, call.shape)


def _transposed(call: Call, kernel: list[int], data: Units, shape: Shape) -> Units:
    n, size, found = len(kernel), call.input(), data
    strides = call.get("strides") or [1] * n
    dilations = call.get("dilations") or [1] * n
    pads = call.get("pads") or [0] * 2 * n
    extra = call.get("output_padding") or [0] * n
    auto = call.get("auto_pad", "NOTSET")
    for i, k in enumerate(kernel):
        before = pads[i]
        if auto == "VALID":
            before = 0
        elif auto in ("SAME_UPPER", "SAME_LOWER") or call.get("output_shape"):
            full = strides[i] * (size[2 + i] - 1) + extra[i] + (k - 1) * dilations[i] + 1
            total = max(full - shape[2 + i], 0)
            before = total // 2 if auto == "SAME_UPPER" else total - total // 2
        how = intervals.transposed(strides[i], before, k, dilations[i])
        found = to.move(found, 2 + i, how, shape[2 + i])
    return found


def _with_context(found: Units, others: list[Units | None]) -> Units:
    for other in others:
        if other is not None:
            found = context(found, other)
    return found


def global_pool(call: Call) -> Units:
    """The kernel is the whole map."""
    rank = len(call.input())
    found = to.mix(call.data, range(2, rank))
    for axis in range(2, rank):
        found = to.resize(found, axis, 1)
    return found


def recurrent(call: Call) -> Units:
    """All steps of its own sequence: X is (steps, batch, width), or (batch, steps, width) in layout 1."""
    if any(state is not None for state in call.operands[1:]):
        raise Unplaced
    first = call.get("layout", 0) == 1
    found = to.mix(call.data, [1, 2] if first else [0, 2])
    axes = [to.plain(size) for size in call.shape]
    axes[0 if first else -2] = found.axes[0 if first else 1]
    return replace(found, axes=tuple(axes))


def entry(call: Call) -> Units:
    """All of its own entry, along axis 0, of every input: its own picture, where that axis is the batch."""
    return _all(
        replace(whole, axes=(whole.axes[0], *map(to.plain, call.shape[1:])))
        for part in call.operands
        if part is not None and (whole := to.mix(part, range(1, len(part.axes))))
    )


# --- sums and products ----------------------------------------------------------------------------


def reduction(call: Call) -> Units:
    """Sum, mean, maximum, ... over axes."""
    rank = len(call.input())
    axes = call.numbers("axes", 1)
    if not axes:
        if call.get("noop_with_empty_axes", 0):
            return call.data
        axes = list(range(rank))
    return _dropped(call, [axis % rank for axis in axes])


def _dropped(call: Call, axes: list[int]) -> Units:
    found = to.mix(call.data, axes)
    for axis in sorted(axes, reverse=True):
        found = to.resize(found, axis, 1) if call.get("keepdims", 1) else to.remove(found, axis)
    return found


def top_k(call: Call) -> Units:
    """The largest along an axis: any of them."""
    axis = call.get("axis", -1) % len(call.input())
    return to.resize(to.mix(call.data, [axis]), axis, call.shape[axis])


def matmul(call: Call) -> Units:
    """Rows of the first with columns of the second; numpy's rules of broadcasting."""
    sides: list[Units | None] = []
    for place, flag in enumerate(("transA", "transB")):
        found, rank = call.operand(place), len(call.input(place))
        if found is not None and call.get(flag, 0) and rank > 1:
            found = to.permute(found, [*range(rank - 2), rank - 1, rank - 2])
        if found is not None:
            if rank == 1:
                found = to.insert(found, 1 - place)
            summed = len(found.axes) - 1 - place
            found = to.resize(to.mix(found, [summed]), summed, 1)
        sides.append(found)
    shape = call.shape
    for place in (0, 1):  # a vector gave an axis that the result does not have
        if len(call.input(place)) == 1:
            at = len(shape) - (0 if place and len(call.input(0)) == 1 else 1) + place
            shape = (*shape[:at], 1, *shape[at:])
    return to.reshape(stretch(_all(sides), shape), call.shape)


def gemm(call: Call) -> Units:
    """A·B + C, either side turned."""
    found = matmul(call)
    bias = call.operand(2)
    return found if bias is None else merge(found, stretch(bias, call.shape), call.shape)


def einsum(call: Call) -> Units:
    """Every input, with what is not in the result summed over."""
    left, arrow, right = call.get("equation", "").replace(" ", "").partition("->")
    terms = left.split(",")
    if (
        not arrow
        or "." in left
        or len(terms) != len(call.operands)
        or any(len(set(t)) < len(t) for t in terms)
    ):
        raise Unplaced
    found: list[Units] = []
    for term, given in zip(terms, call.operands, strict=True):
        if given is None:
            continue
        part = to.mix(given, [i for i, label in enumerate(term) if label not in right])
        for i in reversed(range(len(term))):
            part = part if term[i] in right else to.remove(part, i)
        kept = [label for label in term if label in right]
        part = to.permute(part, [kept.index(label) for label in right if label in kept])
        for i, label in enumerate(right):
            part = part if label in kept else to.insert(part, i)
        found.append(part)
    return stretch(_all(found), call.shape)


# --- rearranging ----------------------------------------------------------------------------------


def concat(call: Call) -> Units:
    """Pieces side by side: over channels each unit reads its own place of all of them."""
    axis = call.get("axis", 1) % len(call.shape)
    parts = (part for part in call.operands if part is not None)
    return _all(to.resize(to.mix(part, [axis]), axis, call.shape[axis]) for part in parts)


def split(call: Call) -> Units:
    """The piece that is asked for."""
    axis = call.get("axis", 0) % len(call.input())
    start = sum(known(shape)[axis] for shape in call.results[: call.result])
    return to.move(call.data, axis, window(1, start, 1), call.shape[axis])


def cut(call: Call) -> Units:
    """Slice."""
    size, found = call.input(), call.data
    starts, axes, steps = call.numbers("starts", 1), call.numbers("axes", 3), call.numbers("steps", 4)
    if starts is None:
        raise Unplaced
    for i, start in enumerate(starts):
        axis = (axes[i] if axes is not None else i) % len(size)
        step = steps[i] if steps is not None else 1
        first = start + size[axis] if start < 0 else start
        first = min(max(first, 0), size[axis] if step > 0 else size[axis] - 1)
        found = to.move(found, axis, window(step, first, 1), call.shape[axis])
    return found


def gather(call: Call) -> Units:
    """One position, or a list of positions, of an axis."""
    axis, size = call.get("axis", 0) % len(call.input()), call.input()
    indices, shape, seen = call.values(1), call.input(1), call.operand(1)
    if seen is not None:
        if call.operand() is not None:
            raise Unplaced
        around = [to.plain(one) for one in size]  # a table, looked up
        return replace(seen, axes=(*around[:axis], *seen.axes, *around[axis + 1 :]))
    if not shape:
        how = None if indices is None else window(0, int(indices) % size[axis], 1)
        return to.remove(to.move(call.data, axis, how, 1), axis)
    how = intervals.picked(indices, size[axis]) if indices is not None and len(shape) == 1 else None
    found = to.move(call.data, axis, how, int(np.prod(shape)))
    return found if len(shape) == 1 else to.reshape(found, call.shape)


def gather_elements(call: Call) -> Units:
    """Any position along an axis, and its own along the others; so of the indices."""
    axis, size = call.get("axis", 0) % len(call.input()), call.input()
    if size[:axis] + size[axis + 1 :] != call.shape[:axis] + call.shape[axis + 1 :]:
        raise Unplaced
    found = call.operand()
    found = None if found is None else to.resize(to.mix(found, [axis]), axis, call.shape[axis])
    if found is None or call.operands[1] is None:
        return found or call.operands[1] or call.data
    return merge(found, call.operands[1], call.shape)


def pad(call: Call) -> Units:
    """Places before and after; a negative pad crops. Reflected places count as outside the image."""
    rank = len(call.input())
    pads = call.numbers("pads", 1)
    if pads is None:
        pads = call.get("paddings")
    if pads is None:
        raise Unplaced
    axes = call.numbers("axes", 3) or list(range(rank))
    found = call.data
    for i, axis in enumerate(axes):
        if pads[i] or pads[i + len(axes)]:
            found = to.move(found, axis % rank, window(1, -pads[i], 1), call.shape[axis % rank])
    return found


def tile(call: Call) -> Units:
    """The map again and again."""
    found = call.data
    for axis, (size, after) in enumerate(zip(call.input(), call.shape, strict=True)):
        if after != size:
            found = to.move(found, axis, intervals.tiled(size), after)
    return found


def _blocks(call: Call, how: Intervals) -> Units:
    """Blocks of channels become blocks of places, or the other way round."""
    found = to.resize(to.mix(call.data, [1]), 1, call.shape[1])
    for axis in (2, 3):
        found = to.move(found, axis, how, call.shape[axis])
    return found


def resize(call: Call) -> Units:
    """Resize, and its ancestor Upsample."""
    before, after, found = call.input(), call.shape, call.data
    old = by_scales_alone(call.view.op, call.opset)
    scales = call.get("scales")
    if scales is None:
        given = call.values(1 if old else 2)
        scales = None if given is None or not given.size else [float(s) for s in given.reshape(-1)]
    axes = call.get("axes") or list(range(len(before)))
    for i, named in enumerate(axes):
        axis = named % len(before)
        if before[axis] == after[axis] and (scales is None or scales[i] == 1):
            continue
        how = intervals.resampling(
            before[axis],
            after[axis],
            scales[i] if scales is not None else None,
            call.get("mode", "nearest"),
            "asymmetric" if old else call.get("coordinate_transformation_mode", "half_pixel"),
            "floor" if old else call.get("nearest_mode", "round_prefer_floor"),
            bool(call.get("antialias", 0)),
        )
        found = to.move(found, axis, how, after[axis])
    return found


_BY_WORD: dict[str, Rule] = {
    "arg_reduction": lambda call: _dropped(call, [call.get("axis", 0) % len(call.input())]),
    "axis": over(lambda call: [call.get("axis", -1)]),
    "concat": concat,
    "conv": conv,
    "conv_transpose": conv_transpose,
    "cumulation": over(lambda call: call.numbers("axis", 1) or [0]),
    "cut": cut,
    "depth_to_space": lambda call: _blocks(call, intervals.block(call.get("blocksize", 1))),
    "einsum": einsum,
    "entry": entry,
    "gather": gather,
    "gather_elements": gather_elements,
    "gemm": gemm,
    "global_pool": global_pool,
    "lrn": over(lambda call: [1]),
    "map": over(lambda call: list(range(2, len(call.input())))),
    "matmul": matmul,
    # Axes that the input has not are none, as in ONNX Runtime.
    "mean_variance": over(lambda call: [a for a in call.get("axes", [0, 2, 3]) if a < len(call.input())]),
    "own": own,
    "pad": pad,
    "picture": over(lambda call: list(range(1, len(call.input())))),
    "place": pointwise,
    "pool": pool,
    "range": own,
    "recurrent": recurrent,
    "reduction": reduction,
    # Flatten, Squeeze and Unsqueeze too: the same numbers under another shape.
    "reshape": lambda call: to.reshape(call.data, call.shape),
    "resize": resize,
    "softmax": over(_softmax_axes),
    # A unit, over all its channels, reads the whole block.
    "space_to_depth": lambda call: _blocks(call, window(size := call.get("blocksize", 1), 0, size)),
    "split": split,
    "tile": tile,
    "top_k": top_k,
    "trailing": over(_trailing_axes),
    "transpose": lambda call: to.permute(call.data, call.get("perm") or range(len(call.input()))[::-1]),
    "unpool": unpool,
}
#: Operator -> its rule; the others are taken to read all of their inputs.
RULES = {name: _BY_WORD[row.sees] for name, row in TABLE.items() if row.sees in _BY_WORD}
