"""What a picture goes through before the network sees it: small random changes that only robust pictures survive.

Every transform is linear and drawn anew for each step (and each draw of a step) from small numbers that the graph is
fed; the gradient passes them by `RULES`. Pictures are (N, 3, H, W) differences from the mean colour, so 0 is that
grey; for a network that sees grey (N, 1, H, W).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.errors import UsageError
from onnxviz.grad import rules
from onnxviz.grad.table import VJP_RULES, Rule, Table


class Transform:
    """What a transform does: one that changes no size and draws nothing, until a class says otherwise."""

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The height and width that come out."""
        return height, width

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        """What the graph is fed for one draw."""
        return {}

    def append(self, op: Any, x: ir.Value, fed: dict[str, ir.Value], height: int, width: int) -> ir.Value:
        """Append it to the graph: the transformed pictures."""
        raise NotImplementedError


@dataclass(frozen=True)
class Jitter(Transform):
    """Roll by up to so many pixels down and across; what leaves on one side comes back on the other."""

    pixels: int

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        """By how much: `by`, (2,), within half the picture."""
        most = np.minimum(self.pixels, [height // 2, width // 2])
        return {"by": rng.integers(-most, most, endpoint=True).astype(np.int64)}

    def append(self, op: Any, x: ir.Value, fed: dict[str, ir.Value], height: int, width: int) -> ir.Value:
        """Split in two along each axis, and joined the other way round."""
        for place, (axis, length) in enumerate(((2, height), (3, width))):
            first = op.Mod(op.Neg(op.Slice(fed["by"], [place], [place + 1])), length)
            parts = op.Split(x, op.Concat(first, op.Sub(length, first), axis=0), axis=axis, _outputs=2)
            x = op.Concat(*reversed(parts), axis=axis)
        return x


@dataclass(frozen=True)
class Rotate(Transform):
    """Turn about the middle by up to so many degrees.

    Three shears by whole pixels (Paeth 1986): a permutation of the pixels, so that none is blurred. Corners that leave
    come back on the other side: cut them off with `Crop`.
    """

    degrees: float

    def __post_init__(self) -> None:
        if not 0 <= self.degrees <= 45:
            raise UsageError(f"rotation by {self.degrees:g} degrees: expected 0 to 45")

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        """How far each row (H,) and each column (W,) is moved."""
        angle = math.radians(rng.uniform(-self.degrees, self.degrees))
        rows = np.rint(-math.tan(angle / 2) * (np.arange(height) - (height - 1) / 2))
        columns = np.rint(math.sin(angle) * (np.arange(width) - (width - 1) / 2))
        return {"rows": rows.astype(np.int64), "columns": columns.astype(np.int64)}

    def append(self, op: Any, x: ir.Value, fed: dict[str, ir.Value], height: int, width: int) -> ir.Value:
        """One Gather of whole pixels: all pictures and colours of a place at once."""
        pixels = op.Reshape(op.Transpose(x, perm=[2, 3, 0, 1]), [height * width, -1])
        pixels = op.Gather(pixels, _sheared(op, fed["rows"], fed["columns"], height, width), axis=0)
        count = x.shape[0] if x.shape is not None else -1
        return op.Transpose(op.Reshape(pixels, [height, width, count, _planes(x)]), perm=[2, 3, 0, 1])


def _turned_back(op: Any, g: ir.Value, y: ir.Value, x: ir.Value, indices: ir.Value, *, axis: int) -> Any:
    """Each pixel is fetched from where it went: the indices are a permutation. Adding up takes ten times as long."""
    places = op.arange(op.Squeeze(op.shape(indices), [0]))
    return op.Gather(g, op.ScatterElements(indices, indices, places, axis=0), axis=axis), None


assert rules  # importing the package fills the table
#: The rules of gradients from what the network sees back to the picture's parameters: no Gather but `Rotate`'s.
RULES: Table = {**VJP_RULES, "Gather": Rule(_turned_back)}


def _sheared(op: Any, rows: ir.Value, columns: ir.Value, height: int, width: int) -> ir.Value:
    """(H·W,): where each pixel comes from, after a shear of the rows, of the columns, and of the rows."""
    y, x = np.arange(height)[:, None] + np.zeros((1, width), np.int64), np.arange(width)[None, :]
    across = op.Mod(op.Add(op.Unsqueeze(rows, [1]), x), width)
    down = op.Mod(op.Add(op.Gather(columns, across, axis=0), y), height)
    across = op.Mod(op.Add(op.Gather(rows, down, axis=0), across), width)
    return op.Reshape(op.Add(op.Mul(down, width), across), [-1])


@dataclass(frozen=True)
class Scale(Transform):
    """Enlarge or reduce about the middle by a random factor, bilinearly; the size stays, the edge is drawn out.

    low, high   the range of the factor; over 1 enlarges
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0.1 <= self.low <= self.high <= 10:
            raise UsageError(f"scale {self.low:g} to {self.high:g}: expected 0.1 to 10, the smaller first")

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        """The inverse of the factor, (1,)."""
        return {"by": np.array([1 / rng.uniform(self.low, self.high)], np.float32)}

    def append(self, op: Any, x: ir.Value, fed: dict[str, ir.Value], height: int, width: int) -> ir.Value:
        """Interpolate at places scaled about the middle, kept within the edge."""
        hats = []
        for length in (height, width):
            middle = (length - 1) / 2
            places = (np.arange(length, dtype=np.float32) - middle)[:, None]
            at = op.Min(op.Max(op.Add(op.Mul(fed["by"], places), middle), 0.0), float(length - 1))
            hats.append(_hats(op, op.Sub(at, np.arange(length, dtype=np.float32)[None, :])))
        return _interpolated(op, x, *hats)


def _hats(op: Any, away: ir.Value) -> ir.Value:
    """The weights of linear interpolation, by how far each place (rows) lies from each pixel (columns)."""
    return op.Max(op.Sub(1.0, op.Abs(away)), 0.0)


def _interpolated(op: Any, x: ir.Value, down: ir.Value, across: ir.Value) -> ir.Value:
    """Bilinear interpolation is one matrix an axis: y = A_h x A_wᵀ."""
    return op.MatMul(op.MatMul(down, x), op.Transpose(across, perm=[1, 0]))


@dataclass(frozen=True)
class Window(Transform):
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

    def append(self, op: Any, x: ir.Value, fed: dict[str, ir.Value], height: int, width: int) -> ir.Value:
        """Interpolate, the last pixel next to the first."""
        hats = []
        for at, length in zip(self.places(op, fed), (height, width), strict=True):
            away = op.Sub(at, np.arange(length, dtype=np.float32)[None, :])
            turns = op.Floor(op.Add(op.Mul(away, 1.0 / length), 0.5))
            hats.append(_hats(op, op.Sub(away, op.Mul(turns, float(length)))))
        return _interpolated(op, x, *hats)


@dataclass(frozen=True)
class Pad(Transform):
    """A border of the mean colour, so many pixels wide."""

    pixels: int

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Larger by twice the border."""
        return height + 2 * self.pixels, width + 2 * self.pixels

    def append(self, op: Any, x: ir.Value, fed: dict[str, ir.Value], height: int, width: int) -> ir.Value:
        """One Pad."""
        n = self.pixels
        return op.Pad(x, [0, 0, n, n, 0, 0, n, n], 0.0)


@dataclass(frozen=True)
class Crop(Transform):
    """A window of (height, width) at a random place, or in the middle."""

    height: int
    width: int
    centred: bool = False

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The window's, or the picture's own where that is smaller."""
        return min(self.height, height), min(self.width, width)

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        """The rows above, in, and below the window, `rows` (3,), and the columns likewise, `columns` (3,)."""
        size = np.array(self.size(height, width), np.int64)
        room = np.array([height, width], np.int64) - size
        first = room // 2 if self.centred else rng.integers(0, room, endpoint=True)
        rows, columns = np.stack([first, size, room - first], axis=1).astype(np.int64)
        return {"rows": rows, "columns": columns}

    def append(self, op: Any, x: ir.Value, fed: dict[str, ir.Value], height: int, width: int) -> ir.Value:
        """Split in three along each axis, of which the middle stays."""
        for axis, name in ((2, "rows"), (3, "columns")):
            x = op.Split(x, fed[name], axis=axis, _outputs=3)[1]
        return x


@dataclass(frozen=True)
class Blur(Transform):
    """A Gaussian blur whose width in pixels is drawn from a range; the border counts as the mean colour."""

    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 < self.low <= self.high <= 20:
            raise UsageError(
                f"blur {self.low:g} to {self.high:g}: expected over 0 to 20 pixels, the smaller first"
            )

    def draw(self, rng: np.random.Generator, height: int, width: int) -> dict[str, np.ndarray]:
        """The kernel, (2r + 1,), and its width `sigma`, (1,)."""
        sigma = rng.uniform(self.low, self.high)
        reach = math.ceil(3 * self.high)
        kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
        return {
            "kernel": (kernel / kernel.sum()).astype(np.float32),
            "sigma": np.array([sigma], np.float32),
        }

    def append(self, op: Any, x: ir.Value, fed: dict[str, ir.Value], height: int, width: int) -> ir.Value:
        """A convolution down and one across."""
        reach, planes = math.ceil(3 * self.high), _planes(x)
        for shape, pads in (([1, 1, -1, 1], [reach, 0, reach, 0]), ([1, 1, 1, -1], [0, reach, 0, reach])):
            kernel = op.Expand(op.Reshape(fed["kernel"], shape), [planes, 1, 1, 1])
            x = op.Conv(x, kernel, group=planes, pads=pads)
        return x


def _planes(x: ir.Value) -> int:
    """How many colours pictures have: 3, or 1 where the network sees grey."""
    known = x.shape[1] if x.shape is not None else 3
    return known if isinstance(known, int) else 3
