"""What keeps a cotangent in the blocked layout (NCHWc) that ONNX Runtime's CPU provider convolves in.

Each way out and in again costs two passes over the map, and an Add out of it cannot be part of the convolution before:
one plain operand at a network's head took every residual sum behind along (ResNet-50: 44 ways out, now 10).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from onnxviz.graph.tape import Tape, dims

BLOCK = 16  # channels at a time in ONNX Runtime's blocked layout (8 without AVX-512)
_MOST_PIECES = 4  # more convolutions than that, each with few weights, cost more than a cut


def blocked(op: Tape, g: ir.Value, x: ir.Value) -> bool:
    """Whether g, float32 and with x's channels, lies in ONNX Runtime's blocked layout or can be brought there."""
    known = dims(x)
    if not op.cpu or g.dtype != ir.DataType.FLOAT or known is None or len(known) != 4:
        return False
    return isinstance(known[1], int) and known[1] % BLOCK == 0


def spread(
    op: Tape, g: ir.Value, x: ir.Value, factor: float, axes: Sequence[int] | None = (2, 3)
) -> ir.Value:
    """g, of length 1 along these axes (None: not known which), times factor, to all places of x.

    Along the places of a map, (N, C, H, W), on the CPU, the product is a depthwise Conv of what is spread: so the
    cotangent enters the blocked layout at the network's head, and the residual sums behind need not leave it.
    """
    if sorted(a % 4 for a in axes or ()) != [2, 3] or not blocked(op, g, x):
        return op.Expand(op.Mul(g, factor) if factor != 1.0 else g, op.shape(x))
    channels = int((dims(x) or ())[1])  # type: ignore[arg-type]
    weights = np.full((channels, 1, 1, 1), factor, np.float32)
    return op.Conv(op.Expand(g, op.shape(x)), weights, group=channels)


def in_layout(op: Tape, wide: ir.Value, plane: np.ndarray, like: ir.Value) -> ir.Value:
    """wide, (N, C, H, W) with batch and channels of `like`, times the same plane (H, W) for each channel.

    A product that broadcasts leaves the blocked layout, and a residual sum behind it with it. So on the CPU a 1×1 Conv
    spreads the plane over the channels first.
    """
    batch = (dims(like) or (None,))[0]
    if not isinstance(batch, str) or not blocked(op, wide, like):
        return op.Mul(
            wide, plane
        )  # (of a known batch the runtime would fold it into a constant of full size)
    channels, lengths = int((dims(like) or ())[1]), plane.shape  # type: ignore[arg-type]
    planes = op.Expand(plane.reshape(1, 1, *lengths), op.vector([op.extent(like, 0), 1, 1, 1]))
    full = op.Conv(planes, np.ones((channels, 1, 1, 1), np.float32))
    product = op.Mul(wide, full)
    for value, wanted in ((wide, channels), (planes, 1), (full, channels), (product, channels)):
        # Only of values of one shape is the product one in the layout.
        op.pairs.append((value, ir.Value(shape=ir.Shape([batch, wanted, *lengths]))))
    return product


def woven(op: Tape, parts: Sequence[ir.Value], axis: int, like: Sequence[int | str | None]) -> ir.Value:
    """Parts of one shape as every second (third, …) place along axis 2 or 3 of a map, (N, C, H, W).

    With the channels last that is a copy of whole rows of them; ONNX Runtime makes the Transposes part of the ways out
    of the blocked layout and into it.

    like   the shape of a part, known along `axis`
    """
    _, channels, *lengths = (d if isinstance(d, int) else -1 for d in like)
    count, i = len(parts), axis - 2
    apart = [0, *lengths, channels]
    apart.insert(axis, 1)
    rows = [op.Reshape(op.Transpose(part, perm=[0, 2, 3, 1]), apart) for part in parts]
    lengths[i] *= count
    together = op.Reshape(op.Concat(*rows, axis=axis), [0, *lengths, channels])
    return channels_second(op, together)


def stuffed(
    op: Tape, g: ir.Value, strides: Sequence[int], channels: int, lengths: Sequence[int | ir.Value]
) -> ir.Value:
    """g, (N, C, H, W), with stride − 1 zeros after each element along H and W, the channels last: see `woven`.

    lengths   H and W, each an int or a one-element vector
    returns   (N, H·stride, W·stride, C), to be brought back by `channels_second`
    """
    height, width = lengths
    rows, columns = height if isinstance(height, int) else 0, width if isinstance(width, int) else -1
    apart = op.Reshape(op.Transpose(g, perm=[0, 2, 3, 1]), [0, rows, 1, columns, 1, channels])
    apart = op.Pad(apart, [0] * 6 + [0, 0, strides[0] - 1, 0, strides[1] - 1, 0], 0.0)
    tall = height * strides[0] if isinstance(height, int) else op.Mul(height, [strides[0]])
    wide = width * strides[1] if isinstance(width, int) else -1
    return op.Reshape(apart, op.vector([0, tall, wide, channels]))


def channels_second(op: Tape, value: ir.Value) -> ir.Value:
    """(N, H, W, C) as (N, C, H, W); before a Conv it is the way into the blocked layout."""
    return op.Transpose(value, perm=[0, 3, 1, 2])


def in_parts(op: Tape, g: ir.Value, xs: Sequence[ir.Value], axis: int) -> tuple[ir.Value, ...] | None:
    """The cotangent g of joined channels, (N, ΣC_i, ...), cut into those of the pieces xs, (N, C_i, ...).

    Where g came out of one convolution (an adjoint has no bias), a convolution each with some of its weights: as much
    work, and nobody leaves the blocked layout for a Split. None where it did not, or a piece would not lie there.
    """
    node, known = g.producer(), [dims(x) for x in xs]
    if node is None or node.op_type != "Conv" or len(node.inputs) != 2 or "group" not in node.attributes:
        return None
    rank = len(known[0] or ())
    counts = [d[1] if d is not None and len(d) == 4 else None for d in known]
    if axis not in (1, 1 - rank) or node.attributes["group"].as_int() != 1 or g.uses():
        return None
    if len(xs) > _MOST_PIECES or not all(isinstance(c, int) and not c % BLOCK for c in counts):
        return None
    source, weights = node.inputs
    attributes = {name: a.value for name, a in node.attributes.items()}
    ends = np.cumsum([c for c in counts if isinstance(c, int)])
    return tuple(
        op.Conv(source, op.Slice(weights, [int(end) - int(c or 0)], [int(end)], [0]), **attributes)
        for c, end in zip(counts, ends, strict=True)
    )
