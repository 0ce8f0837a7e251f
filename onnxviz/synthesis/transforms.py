"""What a picture goes through before the network sees it: small random changes that only robust pictures survive.

Every transform is linear and drawn anew for each step (and each draw of a step) from small numbers that the graph is
fed; its adjoint stands beside it. Pictures are (N, 3, H, W) differences from the mean colour, so 0 is that grey; for a
network that sees grey (N, 1, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import onnx_ir as ir

from onnxviz.errors import UsageError

#: The transformed picture, and the function from its cotangent to the picture's.
Way = tuple[Any, Callable[[Any], Any]]
_FAR = 2**62


class Transform(Protocol):
    """What a transform does."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The height and width that come out."""

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        """What the graph is fed for one draw."""

    def append(self, op: Any, x: ir.Value, fed: dict[str, ir.Value], height: int, width: int) -> Way:
        """Append it to the graph."""


@dataclass(frozen=True)
class Jitter:
    """Roll by up to so many pixels down and across; what leaves on one side comes back on the other."""

    pixels: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Unchanged."""
        return height, width

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        """By how much: `by`, (2,), within half the picture."""
        most = np.minimum(self.pixels, [height // 2, width // 2])
        return {"by": rng.integers(-most, most, endpoint=True).astype(np.int64)}

    def append(self, op: Any, x: ir.Value, fed: dict[str, ir.Value], height: int, width: int) -> Way:
        """Two slices an axis, joined the other way round."""
        lengths = np.array([height, width])
        start = op.Mod(op.Neg(fed["by"]), lengths)
        back = op.Sub(lengths, start)
        return _rolled(op, x, start), lambda g: _rolled(op, g, back)


def _rolled(op: Any, x: ir.Value, start: ir.Value) -> ir.Value:
    for place, axis in enumerate((2, 3)):
        at = op.Slice(start, [place], [place + 1])
        x = op.Concat(op.Slice(x, at, [_FAR], [axis]), op.Slice(x, [0], at, [axis]), axis=axis)
    return x


@dataclass(frozen=True)
class Rotate:
    """Turn about the middle by up to so many degrees.

    Three shears by whole pixels (Paeth 1986): a permutation of the pixels, so the adjoint is the way back and no pixel
    is blurred. Corners that leave come back on the other side: cut them off with `Crop`.
    """

    degrees: float

    def __post_init__(self) -> None:
        if not 0 <= self.degrees <= 45:
            raise UsageError(f"rotation by {self.degrees:g} degrees: expected 0 to 45")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Unchanged."""
        return height, width

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        """How far each row (H,) and each column (W,) is moved."""
        angle = math.radians(rng.uniform(-self.degrees, self.degrees))
        rows = np.rint(-math.tan(angle / 2) * (np.arange(height) - (height - 1) / 2))
        columns = np.rint(math.sin(angle) * (np.arange(width) - (width - 1) / 2))
        return {"rows": rows.astype(np.int64), "columns": columns.astype(np.int64)}

    def append(self, op: Any, x: ir.Value, fed: dict[str, ir.Value], height: int, width: int) -> Way:
        """One Gather of whole pixels (all pictures and colours of a place at once), and one back."""
        there = _sheared(op, fed["rows"], fed["columns"], height, width)
        again = _sheared(op, op.Neg(fed["rows"]), op.Neg(fed["columns"]), height, width)
        count = x.shape[0] if x.shape is not None else -1

        def moved(value: ir.Value, index: ir.Value) -> ir.Value:
            pixels = op.Reshape(op.Transpose(value, perm=[2, 3, 0, 1]), [height * width, -1])
            pixels = op.Gather(pixels, index, axis=0)
            return op.Transpose(op.Reshape(pixels, [height, width, count, _planes(x)]), perm=[2, 3, 0, 1])

        return moved(x, there), lambda g: moved(g, again)


def _sheared(op: Any, rows: ir.Value, columns: ir.Value, height: int, width: int) -> ir.Value:
    """(H·W,): where each pixel comes from, after a shear of the rows, of the columns, and of the rows."""
    y = np.arange(height, dtype=np.int64)[:, None] + np.zeros((1, width), np.int64)
    x = np.arange(width, dtype=np.int64)[None, :]
    across = op.Mod(op.Add(op.Unsqueeze(rows, [1]), x), width)
    down = op.Mod(op.Add(op.Gather(columns, across, axis=0), y), height)
    across = op.Mod(op.Add(op.Gather(rows, down, axis=0), across), width)
    return op.Reshape(op.Add(op.Mul(down, width), across), [-1])


@dataclass(frozen=True)
class Scale:
    """Enlarge or reduce about the middle by a random factor, bilinearly; the size stays, the edge is drawn out.

    low, high   the range of the factor; over 1 enlarges
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0.1 <= self.low <= self.high <= 10:
            raise UsageError(f"scale {self.low:g} to {self.high:g}: expected 0.1 to 10, the smaller first")

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Unchanged."""
        return height, width

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        """The inverse of the factor, (1,)."""
        return {"by": np.array([1 / rng.uniform(self.low, self.high)], np.float32)}

    def append(self, op: Any, x: ir.Value, fed: dict[str, ir.Value], height: int, width: int) -> Way:
        """Bilinear interpolation is one matrix an axis: y = A_h x A_wᵀ, hence A_hᵀ g A_w."""
        down, across = _hats(op, fed["by"], height), _hats(op, fed["by"], width)
        turned = op.Transpose(across, perm=[1, 0])
        upright = op.Transpose(down, perm=[1, 0])
        return (
            op.MatMul(op.MatMul(down, x), turned),
            lambda g: op.MatMul(op.MatMul(upright, g), across),
        )


def _hats(op: Any, by: ir.Value, length: int) -> ir.Value:
    """(length, length): the weights of linear interpolation at places scaled about the middle, kept within the edge."""
    middle = (length - 1) / 2
    places = (np.arange(length, dtype=np.float32) - middle)[:, None]
    at = op.Min(op.Max(op.Add(op.Mul(by, places), middle), 0.0), float(length - 1))
    return op.Max(op.Sub(1.0, op.Abs(op.Sub(at, np.arange(length, dtype=np.float32)[None, :]))), 0.0)


@dataclass(frozen=True)
class Window:
    """A view of (height, width) of the picture, at a random place and enlarged by a random factor.

    The picture goes on beyond its edges from the other side. `Fourier` samples its waves at these places directly:
    exact, and cheaper than making the whole picture first. Other pictures are interpolated bilinearly.

    low, high   the range of the factor; over 1 enlarges
    reach       how far the view's middle may lie from the picture's, in pixels, down and across
    """

    height: int
    width: int
    low: float = 1.0
    high: float = 1.0
    reach: float = 0.0

    def __post_init__(self) -> None:
        if not 0.1 <= self.low <= self.high <= 10 or self.reach < 0:
            raise UsageError(
                f"scale {self.low:g} to {self.high:g}, reach {self.reach:g}: expected 0.1 to 10, the smaller first, "
                "and 0 pixels or more"
            )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The view's."""
        return self.height, self.width

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        """Pixels of the picture to a pixel of the view, `step` (1,), and the view's `middle` (2,)."""
        step = 1 / rng.uniform(self.low, self.high)
        middle = (np.array([height, width]) - 1) / 2 + rng.uniform(-self.reach, self.reach, 2)
        return {"step": np.array([step], np.float32), "middle": middle.astype(np.float32)}

    def places(self, op: Any, fed: dict[str, ir.Value]) -> list[ir.Value]:
        """Row and column of the picture for each row (h, 1) and column (w, 1) of the view."""
        found = []
        for axis, length in enumerate((self.height, self.width)):
            about = (np.arange(length, dtype=np.float32) - (length - 1) / 2)[:, None]
            found.append(op.Add(op.Mul(fed["step"], about), op.Slice(fed["middle"], [axis], [axis + 1])))
        return found

    def append(self, op: Any, x: ir.Value, fed: dict[str, ir.Value], height: int, width: int) -> Way:
        """Bilinear interpolation is one matrix an axis: y = A_h x A_wᵀ, hence A_hᵀ g A_w."""
        down, across = (
            _periodic_hats(op, at, length)
            for at, length in zip(self.places(op, fed), (height, width), strict=True)
        )
        turned, upright = op.Transpose(across, perm=[1, 0]), op.Transpose(down, perm=[1, 0])
        return (
            op.MatMul(op.MatMul(down, x), turned),
            lambda g: op.MatMul(op.MatMul(upright, g), across),
        )


def _periodic_hats(op: Any, at: ir.Value, length: int) -> ir.Value:
    """(view, length): the weights of linear interpolation at places (view, 1), the last pixel next to the first."""
    away = op.Sub(at, np.arange(length, dtype=np.float32)[None, :])
    turns = op.Floor(op.Add(op.Mul(away, 1.0 / length), 0.5))
    return op.Max(op.Sub(1.0, op.Abs(op.Sub(away, op.Mul(turns, float(length))))), 0.0)


@dataclass(frozen=True)
class Pad:
    """A border of the mean colour, so many pixels wide."""

    pixels: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Larger by twice the border."""
        return height + 2 * self.pixels, width + 2 * self.pixels

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        """Nothing is random."""
        return {}

    def append(self, op: Any, x: ir.Value, fed: dict[str, ir.Value], height: int, width: int) -> Way:
        """Pad; its adjoint cuts the border off."""
        n = self.pixels
        return op.Pad(x, [0, 0, n, n, 0, 0, n, n], 0.0), lambda g: op.Slice(
            g, [n, n], [n + height, n + width], [2, 3]
        )


@dataclass(frozen=True)
class Crop:
    """A window of (height, width) at a random place, or in the middle."""

    height: int
    width: int
    centred: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The window's, or the picture's own where that is smaller."""
        return min(self.height, height), min(self.width, width)

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        """The first row and column, `first` (2,), and what is left over after the window, `rest` (2,)."""
        room = np.array([height, width], np.int64) - np.array(self.size(height, width), np.int64)
        first = room // 2 if self.centred else rng.integers(0, room, endpoint=True)
        return {"first": first.astype(np.int64), "rest": (room - first).astype(np.int64)}

    def append(self, op: Any, x: ir.Value, fed: dict[str, ir.Value], height: int, width: int) -> Way:
        """Slice; its adjoint pads with zeros."""
        size = np.array(self.size(height, width))
        cut = op.Slice(x, fed["first"], op.Add(fed["first"], size), [2, 3])
        pads = op.Concat([0, 0], fed["first"], [0, 0], fed["rest"], axis=0)
        return cut, lambda g: op.Pad(g, pads, 0.0)


@dataclass(frozen=True)
class Blur:
    """A Gaussian blur whose width in pixels is drawn from a range; the border counts as the mean colour."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high <= 20:
            raise UsageError(
                f"blur {self.low:g} to {self.high:g}: expected over 0 to 20 pixels, the smaller first"
            )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Unchanged."""
        return height, width

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        """The kernel, (2r + 1,), and its width `sigma`, (1,)."""
        sigma = rng.uniform(self.low, self.high)
        reach = math.ceil(3 * self.high)
        kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
        return {
            "kernel": (kernel / kernel.sum()).astype(np.float32),
            "sigma": np.array([sigma], np.float32),
        }

    def append(self, op: Any, x: ir.Value, fed: dict[str, ir.Value], height: int, width: int) -> Way:
        """A convolution down and one across; the kernel is symmetric, so each is its own adjoint."""
        reach, planes = math.ceil(3 * self.high), _planes(x)
        upright = op.Expand(op.Reshape(fed["kernel"], [1, 1, -1, 1]), [planes, 1, 1, 1])
        flat = op.Expand(op.Reshape(fed["kernel"], [1, 1, 1, -1]), [planes, 1, 1, 1])

        def blurred(value: ir.Value) -> ir.Value:
            value = op.Conv(value, upright, group=planes, pads=[reach, 0, reach, 0])
            return op.Conv(value, flat, group=planes, pads=[0, reach, 0, reach])

        return blurred(x), blurred


def _planes(x: ir.Value) -> int:
    """How many colours pictures have: 3, or 1 where the network sees grey."""
    known = x.shape[1] if x.shape is not None else 3
    return known if isinstance(known, int) else 3
