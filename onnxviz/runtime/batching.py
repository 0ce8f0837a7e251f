"""How many images go through a network at once, and whether it keeps them apart."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import psutil

from onnxviz.errors import LimitExceeded, RuntimeFailed

if TYPE_CHECKING:
    from onnxviz.runtime.ort import Program

# Milliseconds an image on two cores, EfficientNet-Lite0: 7.3 one at a time, 5.9 by 2, 6.5 by 4, 7.1 by 32. Beyond a
# few images the activations leave the processor's cache. An accelerator needs many to be busy.
LARGEST_ON_CPU = 4
LARGEST_ON_DEVICE = 32
# A gradient keeps all activations for the way back. Milliseconds of CPU time a picture, with 1, 2, 4 and 8 at once:
# SqueezeNet 22.0, 23.3, 25.8, 28.5; EfficientNet-Lite0 27.8, 29.8, 33.0, 33.2; ResNet-50 173, 176, 181, 181.
GRADIENTS_ON_CPU = 1
# A network's live activations are a part of all of them; ONNX Runtime's arena keeps freed ones for reuse.
_SHARE_OF_MEMORY = 0.25


def batch_size(elements_an_image: int, largest: int, bytes_an_element: int = 4) -> int:
    """The largest power of two that fits a quarter of the free memory, from 1 to `largest`.

    elements_an_image   the sum of all activations of one image
    largest             LARGEST_ON_CPU or LARGEST_ON_DEVICE
    """
    free = psutil.virtual_memory().available * _SHARE_OF_MEMORY
    fit = free / max(1, elements_an_image * bytes_an_element)
    return int(min(largest, 2 ** max(0, math.floor(math.log2(max(1.0, fit))))))


def elements(shapes: Iterable[tuple[int | str, ...]]) -> int:
    """The elements of all shapes for one image; what is dynamic counts once."""
    return sum(math.prod(size for size in shape if isinstance(size, int)) for shape in shapes)


def filled(array: np.ndarray, count: int) -> np.ndarray:
    """An array with its last entry repeated up to `count`: for files that take no other number; cut the results off."""
    short = count - len(array)
    return np.concatenate([array, np.repeat(array[-1:], short, axis=0)]) if short > 0 else array


def cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


# --- trying out whether a program gives each image beside others what it gives alone --------------


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
