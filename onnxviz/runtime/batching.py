"""How many images go through a network at once."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

import numpy as np
import psutil

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
