"""Nodes that nothing comes out of at certain sizes: windows larger than what they get, norms and means of nothing; and
a division that ends the process.

ONNX Runtime 1.32 ends the process at some of them: a pool of its blocked layout whose output has no rows (SIGFPE), an
InstanceNormalization or RoiAlign of an empty map, an Inverse of what is not square (SIGSEGV). Most others are an error
of its own, or a number that says nothing: the mean of nothing is 0 there, its maximum -inf. What only moves, joins or
maps elements of an empty map is sound, and no concern of this.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx

from onnxviz.errors import ModelRejected
from onnxviz.graph.open.known import Call, Sizes, Unsure, windows
from onnxviz.graph.operators import GLOBAL_POOLS, KERNEL_AT, POOLS, computes, computing, operators
from onnxviz.graph.walk import label

_SPREADING: Final = computing("conv_transpose")
_CONVOLUTIONS: Final = {
    "FusedConv": 1, **{name: at for name, at in KERNEL_AT.items() if name not in _SPREADING}
}  # fmt: skip
# What is made of a whole map, which has none of its places left.
_OF_MAPS: Final = (
    GLOBAL_POOLS
    | operators(lambda row: row.family == "region pooling")
    | _SPREADING
    | computing("group_norm instance_norm")
)
# Types whose division the processor does itself; narrower ones are widened first.
_TRAPPING: Final = (np.int32, np.int64)
_OF_AXES: Final = computing("log_sum_exp max mean min")


def empty(call: Call, reductions: bool) -> str | None:
    """Why nothing comes out of a node, for the end of a sentence; None where something does, or nobody can tell.

    reductions   whether the mean or maximum of nothing counts: ONNX defines it, so a file may mean it
    """
    if call.op in _OF_AXES and not reductions:
        return None
    try:
        return _empty(call)
    except (Unsure, IndexError, TypeError, ValueError, ArithmeticError):  # wrong numbers, which others refuse
        return None


def _empty(call: Call) -> str | None:
    if call.op in _OF_AXES:
        return _reduced(call)
    if call.op == "Inverse":
        return _crooked(call)
    if computes(call.op) == "pad":
        return _padded(call)
    if call.op not in POOLS and call.op not in _CONVOLUTIONS and call.op not in _OF_MAPS:
        return None
    spatial = call.shape(0)[2:]
    if 0 in spatial:
        return f"what it gets has {_times(spatial)} places"
    if call.op in _OF_MAPS:
        return None
    if call.op in POOLS:
        kernel, lengths = list(call.attribute("kernel_shape")), windows(call)
    else:
        kernel = _kernel(call, _CONVOLUTIONS[call.op])
        lengths = _rooms(call, spatial, kernel)
    if not [length for length in lengths if length is not None and length <= 0]:
        return None
    dilations = call.attribute("dilations") or [1] * len(kernel)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    return f"its windows of {_times(reach)} do not fit into the {_times(spatial)} places that it gets"


def _kernel(call: Call, weight: int) -> list[int]:
    """The kernel's lengths, as they are said or by the weight's shape."""
    said = call.attribute("kernel_shape")
    return list(said) if said else [size for size in call.shape(weight)[2:] if size is not None]


def _rooms(call: Call, spatial: Sizes, kernel: list[int]) -> list[int | None]:
    """How many places a convolution's window could begin at, were its stride 1; ONNX Runtime refuses to run on none."""
    n = len(spatial)
    mode = call.attribute("auto_pad", b"NOTSET")
    if mode.startswith(b"SAME"):
        return list(spatial)
    pads = call.attribute("pads") if mode != b"VALID" else None
    pads = pads or [0] * 2 * n
    dilations = call.attribute("dilations") or [1] * n
    return [
        None if size is None else size + pads[i] + pads[n + i] - dilations[i] * (kernel[i] - 1)
        for i, size in enumerate(spatial)
    ]


def _reduced(call: Call) -> str | None:
    x = call.shape(0)
    if len(x) < 3 or 0 not in x[1:]:  # rows, or a batch of none
        return None
    axes = call.option(1, "axes") if call.given(1) or call.attribute("axes") is not None else range(len(x))
    none_left = any(x[axis] == 0 for axis in axes)
    return f"what it gets has {_times(x[1:])} elements" if none_left else None


def _crooked(call: Call) -> str | None:
    """A matrix that is not square: ONNX Runtime 1.32's Inverse reads and writes beside it, and the process ends.

    Where one side is fixed and the other hangs on the picture, or on how many there are, they are not the same either.
    """
    sides = call.shape(0)[-2:]
    if len(sides) < 2 or sides[0] == sides[1]:
        return None
    return f"its matrices of {_times(sides)} are not square, and have no inverse"


def _padded(call: Call) -> str | None:
    """Cropping more than there is, and mirroring what is not there: ONNX Runtime refuses both."""
    x, pads = call.shape(0), call.option(1, "pads")
    axes = call.whole(3) if call.given(3) else list(range(len(x)))
    mirrored = call.attribute("mode", b"constant") == b"reflect"
    for place, axis in enumerate(axes):
        size, both = x[axis], (pads[place], pads[place + len(axes)])
        if size is None:
            continue
        if size + sum(both) < 0:
            return f"it cuts {-sum(both)} places off {size}"
        if mirrored and max(both) >= size > 0:
            return f"it mirrors {max(both)} places of {size}, without the outermost"
    return None


def _times(lengths: Sizes | list[int]) -> str:
    return "×".join("?" if length is None else str(length) for length in lengths)


def refuse_overflow(call: Call, node: onnx.NodeProto) -> None:
    """The least integer divided by -1: the processor raises, and ONNX Runtime dies with the caller's process."""
    a, b = call.known(0).value, call.known(1).value
    if a is None or b is None or a.dtype != b.dtype or a.dtype not in _TRAPPING:
        return
    try:
        dividend, divisor = np.broadcast_arrays(a, b)
    except ValueError:
        return
    if np.any((dividend == np.iinfo(a.dtype).min) & (divisor == -1)):
        raise ModelRejected(
            f"the {label(node)} divides the least {a.dtype} by -1, which would end the process"
        )
