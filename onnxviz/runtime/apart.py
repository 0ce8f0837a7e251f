"""Trying out whether a program gives each image beside others what it gives alone."""

from __future__ import annotations

import numpy as np

from onnxviz.errors import LimitExceeded, RuntimeFailed
from onnxviz.runtime.batching import filled
from onnxviz.runtime.ort import Program

# Sums in another order, for another number of images, differ by 1e-5 of the largest value; by 2e-3 in half precision.
_EQUAL, _EQUAL_HALF = 1e-3, 1e-2


def difference(program: Program, x: np.ndarray, count: int, *, alone: int, half: bool = False) -> str | None:
    """How the two images of `x` differ beside each other from alone; None where every output agrees.

    x        (2, ...) the network's input
    count    images of the run in which they stand beside each other
    alone    images of the run in which one stands alone: copies of it, where the file fixes its batch
    half     whether it computes in half precision
    returns  what was found, in words
    """
    (name,) = program.inputs
    try:
        single = [program({name: filled(x[i : i + 1], alone)}) for i in (0, 1)]
    except (RuntimeFailed, LimitExceeded):  # whoever runs it will say so
        return None
    try:
        both = program({name: filled(x, count)})
    except (RuntimeFailed, LimitExceeded) as error:
        return f"a batch of {count} fails ({str(error)[:120]})"
    for output in program.outputs:
        joined, parts = both[output], [one[output] for one in single]
        axis = _batch_axis(joined.shape, parts[0].shape, count, alone)
        if axis is None or parts[1].shape != parts[0].shape:
            return f"its output {output!r} does not have an entry for each image"
        if joined.dtype.kind != "f":
            continue
        for i, part in enumerate(parts):
            there, here = np.take(joined, i, axis), np.take(part, 0, axis)
            scale = max(float(np.abs(here).max(initial=0)), 1e-12)
            off = float(np.abs(there.astype(np.float64) - here).max(initial=0)) / scale
            if not off <= (_EQUAL_HALF if half else _EQUAL) and np.isfinite(here).all():
                return f"its output {output!r} was {off:.2g} of its largest value away beside another image"
    return None


def _batch_axis(joined: tuple[int, ...], part: tuple[int, ...], count: int, alone: int) -> int | None:
    """The axis with an entry for each image."""
    if len(joined) != len(part):
        return None
    if count == alone:
        return next((i for i, size in enumerate(part) if size == count), None)
    axes = [i for i, (a, b) in enumerate(zip(joined, part, strict=True)) if a != b]
    return axes[0] if len(axes) == 1 and (joined[axes[0]], part[axes[0]]) == (count, alone) else None
