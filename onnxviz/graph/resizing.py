"""Resize in forms whose lengths every reader of the file computes alike, and that gradients can follow.

ONNX Runtime's own shape inference takes a length times a scale in double where its kernel takes float32
(graph/shapes.py). In the file as it came that mostly goes unnoticed; a gradient, with the right lengths beside it,
would be refused. Such an axis is resized to its size, from which the runtime has the same scale, or by
the next larger number.
"""

from __future__ import annotations

import itertools
import math
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from onnxviz.graph import shapes
from onnxviz.graph.fold import value_of
from onnxviz.graph.operators import computes
from onnxviz.graph.tape import Tape

# Their coordinates follow from the lengths alone, whatever the scale.
_BY_LENGTHS: Final = frozenset({"align_corners", "tf_crop_and_resize"})
# Their coordinates follow from the scale alone, but for the clamp at the ends.
_BY_SCALE: Final = frozenset({"asymmetric", "half_pixel", "pytorch_half_pixel"})


def exact(model: ir.Model) -> None:
    """Rewrite every Resize whose lengths are counted in two ways, or that keeps an aspect ratio, in place.

    Requires opset 18 and inferred shapes; where lengths are not known, the node stays as it is.
    """
    tape: Tape | None = None
    for node in list(model.graph):
        if computes(node.op_type) != "resize" or node.domain not in ("", "ai.onnx"):
            continue
        tape = tape or Tape(model.graph)
        before, after = (_lengths(value) for value in (node.inputs[0], node.outputs[0]))
        if before is None or after is None or len(before) != len(after):
            continue
        policy = node.attributes.get_string("keep_aspect_ratio_policy", "stretch")
        named = node.attributes.get_ints("axes", range(len(before)))
        axes = [axis % len(before) for axis in named]
        sizes, scales = (value_of(node.inputs[i]) if i < len(node.inputs) else None for i in (3, 2))
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
        node.replace_input_with(0, _in_front(tape, node, rest, [scale[axis] for axis in rest], alone=alone))
    _set(tape, node, missed, sizes=[after[axis] for axis in missed])


def _without(tape: Tape, node: ir.Node, axes: list[int], still: list[int]) -> bool:
    """Take axes of open length, mostly the batch, out of the region of interest; False where it cuts them."""
    if not still or _mode(node) != "tf_crop_and_resize":
        return True
    region, n = value_of(node.inputs[1]), len(axes)
    if region is None or any((region[i], region[n + i]) != (0, 1) for i, a in enumerate(axes) if a in still):
        return False
    kept = [i for i, axis in enumerate(axes) if axis not in still]
    node.replace_input_with(1, tape.const(region[[*kept, *(n + i for i in kept)]], region.dtype))
    return True


def _in_front(tape: Tape, node: ir.Node, axes: list[int], scales: list[Any], *, alone: bool) -> ir.Value:
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
    sizes = value_of(node.inputs[3])
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
    attributes = {**attributes, "axes": axes}
    attributes.pop("keep_aspect_ratio_policy", None)
    return tape.before(node).Resize(x, None, tape.const(scales, np.float32), **attributes)


def _set(tape: Tape, node: ir.Node, axes: list[int], *, sizes: Any = None, scales: Any = None) -> None:
    """Let the node resize along these axes, to sizes or by scales."""
    roi = node.inputs[1] if _mode(node) == "tf_crop_and_resize" else None
    node.attributes.pop("keep_aspect_ratio_policy", None)
    node.attributes["axes"] = ir.AttrInt64s("axes", axes)
    inputs = [node.inputs[0], roi, None if scales is None else tape.const(scales, np.float32)]
    tape.reads(node, *inputs, *([] if sizes is None else [tape.const(sizes)]))
