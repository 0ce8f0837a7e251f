"""The geometry of a sliding window (convolution or pooling), one tuple entry an axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxviz.grad.backward import NoRule

_SHORT, _LONGEST = 64, 2**20  # strides that are taken as they are; and those that no known picture bounds


@dataclass(frozen=True)
class Window:
    """Kernel, strides, pads (begin, end) and dilations of every spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    dilations: tuple[int, ...]

    @classmethod
    def of(
        cls,
        kernel: Sequence[int],
        strides: Sequence[int] | None,
        pads: Sequence[int] | None,
        dilations: Sequence[int] | None,
        auto_pad: str = "NOTSET",
        x: Sequence[Any] | None = None,
    ) -> Window:
        """From ONNX attributes with their defaults; raises NoRule for pads that normalise left implicit.

        x   the shape of what it slides over, where that is known: a stride beyond its end takes one window
        """
        if auto_pad not in ("NOTSET", "VALID", ""):
            raise NoRule(f"has auto_pad={auto_pad} that could not be made explicit")
        n = len(kernel)
        pads = tuple(pads) if pads and auto_pad != "VALID" else (0,) * (2 * n)
        steps = list(strides) if strides else [1] * n
        for i, step in enumerate(steps):
            length = x[2 + i] if x is not None else None
            if isinstance(length, int):
                reach = (dilations[i] if dilations else 1) * kernel[i]
                steps[i] = min(step, max(_SHORT, length + pads[i] + pads[n + i], reach))
            elif step > _LONGEST:
                raise NoRule(f"has a stride of {step}")
        return cls(
            tuple(kernel),
            tuple(steps),
            pads[:n],
            pads[n:],
            tuple(dilations) if dilations else (1,) * n,
        )

    @property
    def axes(self) -> tuple[int, ...]:
        """The spatial axes of the tensor."""
        return tuple(range(2, 2 + len(self.kernel)))

    @property
    def reach(self) -> tuple[int, ...]:
        """How far the last tap lies from the first, d(k − 1)."""
        return tuple(d * (k - 1) for k, d in zip(self.kernel, self.dilations, strict=True))

    @property
    def pads(self) -> list[int]:
        """ONNX's order: all begins, then all ends."""
        return [*self.begin, *self.end]

    @property
    def strided(self) -> bool:
        """Whether any axis is strided."""
        return any(s != 1 for s in self.strides)

    @property
    def pointwise(self) -> bool:
        """A 1×1 kernel without pads."""
        return all(k == 1 for k in self.kernel) and not any(self.pads)

    def surplus(self, x: Sequence[Any], y: Sequence[Any]) -> tuple[int | None, ...]:
        """Positions at the end of each axis that no window reaches, 0 ≤ r < stride; None where a length is unknown.

        x, y   the spatial lengths of input and output
        """
        found: list[int | None] = []
        for lx, ly, s, b, e, reach in zip(x, y, self.strides, self.begin, self.end, self.reach, strict=True):
            if s == 1:
                found.append(0)
            elif isinstance(lx, int):
                count = ly if isinstance(ly, int) else (lx + b + e - reach - 1) // s + 1
                found.append(lx + b + e - reach - 1 - s * (count - 1))
            else:
                found.append(None)
        return tuple(found)
