"""How many images go through a network at once."""

from __future__ import annotations

import math
from collections.abc import Iterable

import psutil

# Throughput on a CPU is flat from 1 to 32 images (measured on EfficientNet-Lite0); more only costs memory.
_LARGEST = 32
# A network's live activations are a part of all of them; ONNX Runtime's arena keeps freed ones for reuse.
_SHARE_OF_MEMORY = 0.25


def batch_size(elements_an_image: int, bytes_an_element: int = 4, largest: int = _LARGEST) -> int:
    """The largest power of two that fits a quarter of the free memory, from 1 to `largest`.

    elements_an_image   the sum of all activations of one image
    """
    free = psutil.virtual_memory().available * _SHARE_OF_MEMORY
    fit = free / max(1, elements_an_image * bytes_an_element)
    return int(min(largest, 2 ** max(0, math.floor(math.log2(max(1.0, fit))))))


def elements(shapes: Iterable[tuple[int | str, ...]]) -> int:
    """The elements of all shapes for one image; what is dynamic counts once."""
    return sum(math.prod(size for size in shape if isinstance(size, int)) for shape in shapes)
