"""Make implicit padding explicit, and Resize's lengths alike for every reader: the gradient rules meet numbers only.

`auto_pad=SAME_*` asks for as many pads as the output needs: with stride 1 that does not depend on the input's size,
with a known size it is a number. Otherwise a Pad operator computes them at run time, and the window runs without.

`ceil_mode` with a known size is a wider pad at the end. Not only for uniformity: onnx's shape inference counts
windows that start beyond the input, which the standard and every runtime ignore. A pad as wide as the kernel, which a
dilated window may need, is refused as an attribute: it is a Pad operator too.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Final, NamedTuple

import numpy as np
import onnx_ir as ir

from onnxviz.graph import shapes
from onnxviz.graph.naming import dims
from onnxviz.graph.operators import INTEGER_SUMS, POOLS, WINDOWS, computes, family
from onnxviz.graph.shapes import pool_pads, pooled, same_pads
from onnxviz.graph.tape import Tape, array

_WINDOWS = WINDOWS | {name for name in INTEGER_SUMS if family(name) == "convolution"}


def explicit(model: ir.Model) -> None:
    """Replace `auto_pad`, `ceil_mode` and ConvTranspose's `output_shape` by pads, in place, as far as sizes are known.

    Requires inferred shapes.
    """
    tape = Tape(model.graph)
    for node in list(model.graph.all_nodes()):
        if node.domain:
            continue
        mode = node.attributes.get_string("auto_pad", "NOTSET")
        if mode == "NOTSET":
            node.attributes.pop("auto_pad", None)
        turned = computes(node.op_type) == "conv_transpose"
        asked = node.attributes.get_int("ceil_mode", 0) or mode in ("VALID", "SAME_UPPER", "SAME_LOWER")
        if not turned and (node.op_type not in _WINDOWS or not asked):
            continue
        win = _window(node)
        if turned and win is not None:
            _transposed(node, mode, win)
        elif node.op_type in POOLS and win is not None and None not in win.sizes:
            _pool(tape, node, mode, win)
        elif mode == "VALID":
            # VALID means no pads, whatever `pads` says; a MaxPool's ceil_mode counts on.
            Tape.attributes(node, auto_pad=None, pads=None)
        elif mode.startswith("SAME") and win is not None:
            pads = _same(node, mode, win)
            if pads is None and node.op_type in INTEGER_SUMS:
                continue  # the pad would have to be the zero point: its rule will refuse it
            Tape.attributes(node, auto_pad=None, pads=pads)
            if pads is None:
                _at_run_time(tape, node, mode, win)


class _Window(NamedTuple):
    """One entry an axis; `sizes` are the input's lengths, None where the file does not tell."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    sizes: list[Any]


def _window(node: ir.Node) -> _Window | None:
    """None where the kernel's size is not known."""
    if "kernel_shape" in node.attributes:
        kernel: list[Any] = list(node.attributes["kernel_shape"].as_ints())
    else:
        weights = dims(node.inputs[1]) if len(node.inputs) > 1 else None
        kernel = [None] if weights is None else list(weights[2:])
    if not all(isinstance(k, int) for k in kernel):
        return None
    ones = [1] * len(kernel)
    strides, dilations = (list(node.attributes.get_ints(name, ones)) for name in ("strides", "dilations"))
    lengths = dims(node.inputs[0])
    sizes = [None] * len(kernel) if lengths is None else lengths[2:]
    return _Window(kernel, strides, dilations, [d if isinstance(d, int) else None for d in sizes])


def _same(node: ir.Node, mode: str, win: _Window) -> list[int] | None:
    """The pads, or None where they depend on an unknown size."""
    dilations = [1] * len(win.kernel) if node.op_type in POOLS else win.dilations  # see pool_pads
    pairs = []
    for k, s, d, size in zip(win.kernel, win.strides, dilations, win.sizes, strict=True):
        if s > 1 and size is None:
            return None
        pairs.append(same_pads(1 if size is None else size, d * (k - 1) + 1, s, upper=mode == "SAME_UPPER"))
    return [pad for side in zip(*pairs, strict=True) for pad in side]


def _pool(tape: Tape, node: ir.Node, mode: str, win: _Window) -> None:
    """Pads in the place of a pool's auto_pad and ceil_mode."""
    kernel, strides, dilations, sizes = win
    n = len(kernel)
    given = list(node.attributes.get_ints("pads", [0] * (2 * n)))
    ceil = bool(node.attributes.get_int("ceil_mode", 0))
    begins, ends, extra = [], [], []
    for i, (size, k, s, d) in enumerate(zip(sizes, kernel, strides, dilations, strict=True)):
        if mode.startswith("SAME"):
            begin, end = pool_pads(size, k, s, upper=mode == "SAME_UPPER")
        else:
            begin, end = (0, 0) if mode == "VALID" else (given[i], given[n + i])
        count = pooled(size, (k, s, d), (begin, end), ceil=ceil)
        more = max((count - 1) * s + d * (k - 1) + 1 - (size + begin + end), 0)
        if end < 0 and not more and pooled(size, (k, s, d), (begin, 0), ceil=ceil) == count:
            end = 0  # no window reaches there
        begins.append(begin)
        ends.append(end)
        extra.append(more)
    wide = any(max(e, 0) + more >= k for e, more, k in zip(ends, extra, kernel, strict=True))
    if any(extra) and wide and any(y.uses() or y.is_graph_output() for y in node.outputs[1:]):
        return  # the places that a MaxPool tells would be those of a padded picture
    Tape.attributes(node, ceil_mode=None, auto_pad=None, pads=None)
    cut = [min(pad, 0) for pad in begins + ends]
    if any(cut):
        node.replace_input_with(0, _zeros_around(tape, node, node.inputs[0], cut))
        sizes = [size + b + e for size, b, e in zip(sizes, cut[:n], cut[n:], strict=True)]
        begins, ends = [max(pad, 0) for pad in begins], [max(pad, 0) for pad in ends]
    if _counting(node) and any(extra) and any(begins + ends):
        # The pads of the file are averaged in, what ceil_mode adds is not: the former become real zeros.
        node.replace_input_with(0, _zeros_around(tape, node, node.inputs[0], begins + ends))
        sizes = [size + b + e for size, b, e in zip(sizes, begins, ends, strict=True)]
        begins = ends = [0] * n
    if any(extra):
        node.attributes.pop("count_include_pad", None)
    ends = [end + more for end, more in zip(ends, extra, strict=True)]
    if any(extra) and wide:
        _in_front(tape, node, tape.const(begins + ends), tape.const(sizes))
    else:
        Tape.attributes(node, pads=begins + ends)


def _counting(node: ir.Node) -> bool:
    """Whether an AveragePool averages its pads in."""
    return computes(node.op_type) == "mean_pool" and bool(node.attributes.get_int("count_include_pad", 0))


def _kind(x: ir.Value | None) -> Any:
    """The numpy type of the data, float32 where the file does not tell."""
    return np.float32 if x is None or x.dtype is None else x.dtype.numpy()


def _zeros_around(tape: Tape, node: ir.Node, x: ir.Value | None, pads: list[int]) -> ir.Value:
    n = len(pads) // 2
    amounts = tape.const([0, 0, *pads[:n], 0, 0, *pads[n:]])
    return tape.before(node).Pad(x, amounts, tape.const(0.0, _kind(x)))


def _at_run_time(tape: Tape, node: ir.Node, mode: str, win: _Window) -> None:
    """A Pad in front, its amounts computed from the input's shape."""
    kernel, strides, dilations, _ = win
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True)]
    if node.op_type in POOLS:
        reach = kernel  # see pool_pads
    op = tape.before(node)
    sizes = op.Shape(node.inputs[0], start=2)
    # total = max((ceil(size / s) - 1)·s + reach − size, 0)
    steps = op.Div(op.Sub(sizes, tape.const([1])), tape.const(strides))  # ceil(size / s) − 1
    total = op.Sub(op.Add(op.Mul(steps, tape.const(strides)), tape.const(reach)), sizes)
    none = tape.const([0])
    room = op.Max(total, none)
    half = op.Div(room, tape.const([2]))
    rest = op.Sub(room, half)
    begin, end = (half, rest) if mode == "SAME_UPPER" else (rest, half)
    if node.op_type in POOLS and any(k < s for k, s in zip(kernel, strides, strict=True)):
        # Less than nothing is cut off, see pool_pads: half of it in front, of one less for SAME_LOWER.
        cut = op.Max(op.Neg(total), none)
        front = cut if mode == "SAME_UPPER" else op.Max(op.Sub(cut, tape.const([1])), none)
        front = op.Div(front, tape.const([2]))
        begin, end = op.Sub(begin, front), op.Sub(end, op.Sub(cut, front))
    _in_front(tape, node, op.Concat(begin, end, axis=0), sizes)


def _in_front(tape: Tape, node: ir.Node, pads: ir.Value, sizes: ir.Value) -> None:
    """Pad operators in front of a window that runs without pads then.

    pads    int64, all begins, then all ends
    sizes   int64, the input's spatial axes
    """
    x, op = node.inputs[0], tape.before(node)
    kind = _kind(x)
    win = _window(node)
    axes = tape.const(range(2, len(win.kernel if win is not None else ()) + 2))

    def padded(value: ir.Value | None, fill: Any) -> ir.Value:
        return op.Pad(value, pads, tape.const(fill, kind), axes)

    if computes(node.op_type) == "max_pool":
        lowest = (np.finfo if np.issubdtype(kind, np.floating) else np.iinfo)(kind).min
        node.replace_input_with(0, padded(x, lowest))
    elif computes(node.op_type) == "mean_pool" and not _counting(node):
        # The mean over what is there: the pooled values over the pooled ones.
        ones = op.Expand(tape.const(1.0, kind), op.Concat(tape.const([1, 1]), sizes, axis=0))
        attributes = {k: a.value for k, a in node.attributes.items()}
        share = op.AveragePool(padded(ones, 0.0), **attributes)
        means = op.AveragePool(padded(x, 0.0), **attributes)
        tape.become(node).Div(means, share)
    else:
        node.replace_input_with(0, padded(x, 0.0))


def _transposed(node: ir.Node, mode: str, win: _Window) -> None:
    """ConvTranspose: pads from auto_pad or output_shape, where the sizes tell."""
    if mode == "NOTSET" and "output_shape" not in node.attributes:
        return
    n = len(win.kernel)
    extra = list(node.attributes.get_ints("output_padding", [0] * n))
    if "output_shape" in node.attributes:
        outs: list[Any] = list(node.attributes["output_shape"].as_ints())[-n:]
    elif mode.startswith("SAME"):
        outs = [None] * n
    else:  # VALID
        Tape.attributes(node, auto_pad=None, pads=None)
        return
    begins, ends = [], []
    for i, (k, s, d, size) in enumerate(zip(*win, strict=True)):
        if outs[i] is None:  # the output is stride times the input, whatever its size
            total = d * (k - 1) + 1 + extra[i] - s
        elif size is not None:
            total = s * (size - 1) + extra[i] + d * (k - 1) + 1 - outs[i]
        else:
            return  # its rule will refuse it
        if total < 0:  # longer than the windows reach: output padding
            extra[i], total = extra[i] - total, 0
        # An odd pad goes to the end for SAME_UPPER, to the beginning for SAME_LOWER.
        begins.append(total // 2 if mode == "SAME_UPPER" else total - total // 2)
        ends.append(total - begins[-1])
    Tape.attributes(node, auto_pad=None, output_shape=None, pads=begins + ends)
    if any(extra):
        Tape.attributes(node, output_padding=extra)


# --- Resize ---------------------------------------------------------------------------------------
#
# ONNX Runtime's own shape inference takes a length times a scale in double where its kernel takes float32
# (graph/shapes.py). In the file as it came that mostly goes unnoticed; a gradient, with the right lengths
# beside it, would be refused. Such an axis is resized to its size, from which the runtime has the same
# scale, or by the next larger number.


# Their coordinates follow from the lengths alone, whatever the scale.
_BY_LENGTHS: Final = frozenset({"align_corners", "tf_crop_and_resize"})
# Their coordinates follow from the scale alone, but for the clamp at the ends.
_BY_SCALE: Final = frozenset({"asymmetric", "half_pixel", "pytorch_half_pixel"})


def exact(model: ir.Model) -> None:
    """Rewrite every Resize whose lengths are counted in two ways, or that keeps an aspect ratio, in place.

    Requires opset 18 and inferred shapes; where lengths are not known, the node stays as it is.
    """
    tape = Tape(model.graph)
    for node in list(model.graph):
        if computes(node.op_type) != "resize" or node.domain:
            continue
        before, after = (_lengths(value) for value in (node.inputs[0], node.outputs[0]))
        if before is None or after is None or len(before) != len(after):
            continue
        policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
        named = node.attributes.get_ints("axes", range(len(before)))
        axes = [axis % len(before) for axis in named]
        sizes, scales = (array(node.inputs[i]) if i < len(node.inputs) else None for i in (3, 2))
        if sizes is not None and sizes.size and policy != "stretch":
            _keeping_the_ratio(tape, node, before, after, axes, policy, crooked=min(named) < 0)
        elif scales is not None and scales.size == len(axes):
            _missed(tape, node, before, after, axes, scales.reshape(-1))


def _lengths(value: ir.Value | None) -> list[int | None] | None:
    if value is None or value.shape is None:
        return None
    return [d if isinstance(d, int) else None for d in value.shape]


def _mode(node: ir.Node) -> str:
    return str(node.attributes.get_string("coordinate_transformation_mode", "half_pixel"))


def _missed(tape: Tape, node: ir.Node, before: Any, after: Any, axes: list[int], scales: Any) -> None:
    """Let the axes whose length a scale in double would miss have it all the same."""
    scale = dict(zip(axes, scales, strict=True))
    missed = [
        axis
        for axis in axes
        if isinstance(before[axis], int) and math.floor(before[axis] * float(scale[axis])) != after[axis]
    ]
    if not missed:
        return
    if node.attributes.get_string("mode", "nearest") != "nearest":
        # The next number that gives the length in double too: places 1e-7 further, between which it interpolates.
        larger = [np.nextafter(scale[a], np.float32(np.inf)) if a in missed else scale[a] for a in axes]
        _set(tape, node, axes, scales=larger)
        return
    rest = [axis for axis in axes if axis not in missed and scale[axis] != 1]
    if _mode(node) in _BY_LENGTHS:  # one region of interest for all of them
        still = [axis for axis in axes if after[axis] is None and scale[axis] == 1]
        missed, rest = [axis for axis in axes if axis not in still], []
        if any(after[axis] is None for axis in missed) or not _without(tape, node, axes, still):
            return
    if rest:
        alone = all(before[axis] == after[axis] for axis in rest)
        scaled = _scaled_before(tape, node, rest, [scale[axis] for axis in rest], alone=alone)
        node.replace_input_with(0, scaled)
    _set(tape, node, missed, sizes=[after[axis] for axis in missed])


def _without(tape: Tape, node: ir.Node, axes: list[int], still: list[int]) -> bool:
    """Take axes of open length, mostly the batch, out of the region of interest; False where it cuts them."""
    if not still or _mode(node) != "tf_crop_and_resize":
        return True
    region, n = array(node.inputs[1]), len(axes)
    if region is None or any((region[i], region[n + i]) != (0, 1) for i, a in enumerate(axes) if a in still):
        return False
    kept = [i for i, axis in enumerate(axes) if axis not in still]
    node.replace_input_with(1, tape.const(region[[*kept, *(n + i for i in kept)]], region.dtype))
    return True


def _scaled_before(tape: Tape, node: ir.Node, axes: list[int], scales: list[Any], *, alone: bool) -> ir.Value:
    """The node's input resized along these axes.

    alone   no length changes: ONNX Runtime hands such a picture on without looking at the scales, unless another
            axis changes, here one of length 1 at the end that is doubled and cut again
    """
    x = node.inputs[0]
    if not alone:
        return _resize(tape, node, x, axes, scales=scales)
    assert x is not None and x.shape is not None
    rank = len(x.shape)
    longer = tape.before(node).Unsqueeze(x, tape.const([rank]))
    longer = _resize(tape, node, longer, [*axes, rank], scales=[*scales, 2.0])
    return tape.before(node).Gather(longer, tape.const(0), axis=rank)


def _keeping_the_ratio(
    tape: Tape, node: ir.Node, before: Any, after: Any, axes: list[int], policy: str, *, crooked: bool
) -> None:
    """The common scale in the place of sizes that the result may fall short of."""
    if any(before[axis] is None or after[axis] is None for axis in axes):
        return
    if crooked:  # ONNX Runtime 1.32 leaves the picture as it is where an axis is counted from the end
        tape.become(node).Identity(node.inputs[0])
        return
    sizes = array(node.inputs[3])
    assert sizes is not None
    scale = shapes.common_scale([before[axis] for axis in axes], [int(size) for size in sizes], policy)
    mode = _mode(node)
    plain = all(
        math.floor(before[a] * float(scale)) == shapes.resized(before[a], scale) == after[a] for a in axes
    )
    weighted = {name for name in ("antialias", "exclude_outside") if node.attributes.get_int(name, 0)}
    if plain:
        _set(tape, node, axes, scales=[scale] * len(axes))
    elif mode in _BY_LENGTHS and "antialias" not in weighted:  # its filter is as wide as the scale says
        _set(tape, node, axes, sizes=[after[axis] for axis in axes])
    elif mode in _BY_SCALE and not weighted and not (mode == "pytorch_half_pixel" and 1 in after):
        _beyond_the_end(tape, node, before, after, axes, scale)


def _beyond_the_end(
    tape: Tape, node: ir.Node, before: Any, after: Any, axes: list[int], scale: np.float32
) -> None:
    """A length that was rounded up: resize a picture whose last row is repeated, and cut what is too much."""
    more = [_repeats(before[axis], after[axis], scale) for axis in axes]
    amounts = tape.const([0] * len(axes) + more)
    wide = tape.before(node).Pad(node.inputs[0], amounts, None, tape.const(axes), mode="edge")
    node.replace_input_with(0, wide)
    longer = _resize(tape, node, wide, axes, scales=[scale] * len(axes))
    cut = ([0] * len(axes), [after[a] for a in axes], axes)
    tape.become(node).Slice(longer, *(tape.const(part) for part in cut))


def _repeats(before: int, after: int, scale: np.float32) -> int:
    """How many rows more give the length, counted in double and in float32 alike."""
    return next(
        more
        for more in itertools.count(1)
        if after <= (length := shapes.resized(before + more, scale))
        and length == math.floor((before + more) * float(scale))
    )


def _resize(tape: Tape, node: ir.Node, x: Any, axes: list[int], *, scales: list[Any]) -> ir.Value:
    """The same resampling along other axes, in front of the node."""
    attributes = {name: attribute.value for name, attribute in node.attributes.items()}
    attributes["axes"] = axes
    attributes.pop("keep_aspect_ratio_policy", None)
    return tape.before(node).Resize(x, None, tape.const(scales, np.float32), **attributes)


def _set(tape: Tape, node: ir.Node, axes: list[int], *, sizes: Any = None, scales: Any = None) -> None:
    """Let the node resize along these axes, to sizes or by scales."""
    roi = node.inputs[1] if _mode(node) == "tf_crop_and_resize" else None
    Tape.attributes(node, keep_aspect_ratio_policy=None, axes=axes)
    inputs = [node.inputs[0], roi, None if scales is None else tape.const(scales, np.float32)]
    tape.reads(node, *inputs, *([] if sizes is None else [tape.const(sizes)]))
