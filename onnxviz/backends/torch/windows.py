"""Where the windows of convolutions and pools lie, for every way in which ONNX says it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from onnxviz.backends.torch.table import CannotRun


@dataclass(frozen=True)
class Windows:
    """Kernel, strides, dilations, and the padding in front and behind, one number a spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]

    @classmethod
    def of(
        cls,
        lengths: Sequence[int],
        kernel: Sequence[int],
        strides: Sequence[int] | None,
        pads: Sequence[int] | None,
        dilations: Sequence[int] | None,
        auto_pad: str = "NOTSET",
    ) -> Windows:
        """From a node's attributes and the lengths of the input's spatial axes."""
        n = len(lengths)
        if len(kernel) != n:
            raise CannotRun(f"has a kernel of {len(kernel)} axes on {n} spatial axes")
        steps, gaps = tuple(strides or [1] * n), tuple(dilations or [1] * n)
        begin, end = list(pads or [0] * 2 * n)[:n], list(pads or [0] * 2 * n)[n:]
        if auto_pad == "VALID":
            begin, end = [0] * n, [0] * n
        elif auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            begin, end = [], []
            for length, k, s, d in zip(lengths, kernel, steps, gaps, strict=True):
                total = max(0, (math.ceil(length / s) - 1) * s + (k - 1) * d + 1 - length)
                small, large = total // 2, total - total // 2
                begin.append(small if auto_pad == "SAME_UPPER" else large)
                end.append(large if auto_pad == "SAME_UPPER" else small)
        return cls(tuple(kernel), steps, gaps, tuple(begin), tuple(end))

    def even(self, end: Sequence[int]) -> bool:
        """Whether torch's pools can pad by themselves: alike at both ends, by no more than half a window."""
        return tuple(end) == self.begin and all(
            0 <= b <= k // 2 for b, k in zip(self.begin, self.kernel, strict=True)
        )

    def surplus(self, lengths: Sequence[int], ceil_mode: int) -> tuple[int, ...]:
        """What the last windows need beyond the padding when output lengths are rounded up."""
        if not ceil_mode:
            return (0,) * len(lengths)
        found = []
        for i, length in enumerate(lengths):
            reach = (self.kernel[i] - 1) * self.dilations[i] + 1
            space = length + self.begin[i] + self.end[i] - reach
            count = math.ceil(space / self.strides[i]) + 1
            if (count - 1) * self.strides[i] >= length + self.begin[i]:  # a window must start inside
                count -= 1
            found.append(max(0, (count - 1) * self.strides[i] - space))
        return tuple(found)


def padded(x: torch.Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> torch.Tensor:
    """x with this much of `value` around its last axes (less, where negative)."""
    amounts = [p for b, e in zip(reversed(begin), reversed(end), strict=True) for p in (b, e)]
    return F.pad(x, amounts, value=value) if any(amounts) else x


def pick(n: int, *functions: Any) -> Any:
    """The function for 1, 2 or 3 spatial axes."""
    if not 1 <= n <= 3:
        raise CannotRun(f"has {n} spatial axes; torch does 1 to 3")
    return functions[n - 1]
