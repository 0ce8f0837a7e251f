"""Textures from pieces of a picture: pixel by pixel (Efros & Leung 1999), or block by block (Efros & Freeman 2001)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from onnxviz.errors import UsageError

#: Share of the best match's error within which another place of the source may be drawn instead (the papers').
TOLERANCE = 0.1
#: How much dearer a place, or blocks near to it, become that were used more than others; 0 is the papers' method.
EVENNESS = 0.5
# The paper's worst error of an accepted match, as a share of the squared range of pixels; raised by a tenth
# whenever nothing is left under it.
_WORST, _RAISE = 0.3**2, 1.1
_SIGMA = 6.4  # the paper's window sides a standard deviation of the Gaussian
_WINDOW = 15


@dataclass
class Pieces:
    """A texture that grows: the same object at every step, filled further.

    image    (h, w, 3) uint8; the source's mean colour where `known` is False
    known    (h, w) bool
    origin   (h, w, 2) int32: the row and column of the source that each known pixel was taken from; else −1
    total    how many pixels, or blocks, there will be
    done     how many of them there are
    """

    image: np.ndarray
    known: np.ndarray
    origin: np.ndarray
    total: int
    done: int = 0

    @classmethod
    def begun(cls, source: np.ndarray, size: tuple[int, int], total: int) -> Pieces:
        """Of (h, w), with nothing in it yet."""
        mean = np.rint(source.mean(axis=(0, 1))).astype(np.uint8)
        return cls(np.tile(mean, (*size, 1)), np.zeros(size, bool), np.full((*size, 2), -1, np.int32), total)


def grow(
    source: np.ndarray,
    size: tuple[int, int],
    *,
    window: int | None = None,
    tolerance: float = TOLERANCE,
    evenness: float = EVENNESS,
    seed: int = 0,
) -> Iterator[Pieces]:
    """Grow a texture outward from a small piece of the source; a step settles some dozens of pixels.

    Each pixel is drawn from the places of the source whose neighbourhood comes within `tolerance` of the best match, by
    the mean squared difference over the pixels known so far, weighted by a Gaussian. The pixels of one step are more
    than half a window apart, so none is in another's neighbourhood: the result is that of settling them one by one.

    source      (H, W, 3) uint8
    size        (h, w) of the texture
    window      side of the neighbourhood in pixels, odd; about the size of the largest thing that repeats. None: 15, or
                a third of a small source
    tolerance   0 takes the best match always, and copies more
    evenness    the error of a place is taken times 1 + evenness · (how often it was used, of the average), which keeps
                the method from growing one flat spot over and over; 0 for the paper's own
    seed        of the first piece and of every draw
    returns     an iterator of one `Pieces`, which each step fills further
    raises      UsageError for values that the source has no room for
    """
    side = window if window is not None else default_window(source)
    if side < 3 or side % 2 == 0:
        raise UsageError(f"window is an odd number of pixels from 3, got {side}")
    if min(source.shape[:2]) < side + 2:
        raise UsageError(
            f"a window of {side} pixels needs a source of at least {side + 2} pixels each way, got "
            f"{source.shape[1]}×{source.shape[0]}; give a smaller window or a larger picture"
        )
    _check(size, 3, tolerance, evenness)
    random = np.random.default_rng(seed)
    bank = _Bank(source, side, tolerance, evenness)
    canvas = _Canvas(source, size, bank)
    corner = random.integers(0, [source.shape[0] - 2, source.shape[1] - 2])
    offsets = np.indices((3, 3)).reshape(2, -1).T
    middle = offsets + np.array([(size[0] - 3) // 2, (size[1] - 3) // 2])
    canvas.settle(middle[:, 0], middle[:, 1], offsets + corner)
    growth = canvas.growth
    yield growth
    worst = _WORST
    late = np.zeros(size, bool)  # no match is good enough yet
    while growth.done < growth.total:
        rows, columns = canvas.apart(late, random)
        if not len(rows):
            worst *= _RAISE
            late[:] = False
            continue
        places, errors = bank.draw(*canvas.windows(rows, columns), random)
        good = errors <= worst
        if good.any():
            canvas.settle(rows[good], columns[good], places[good])
            bank.use(places[good])
            late[:] = False
        late[rows[~good], columns[~good]] = True
        yield growth


def default_window(source: np.ndarray) -> int:
    """15, or the largest odd number up to a third of the shorter side, at least 3."""
    return max(3, min(_WINDOW, (min(source.shape[:2]) // 3 - 1) // 2 * 2 + 1))


def _check(size: tuple[int, int], least: int, tolerance: float, evenness: float) -> None:
    if not tolerance >= 0 or not evenness >= 0:
        raise UsageError(f"tolerance and evenness are 0 or more, got {tolerance} and {evenness}")
    if min(size) < least:
        pixels = "pixel" if least == 1 else "pixels"
        raise UsageError(f"the texture needs at least {least} {pixels} each way, got {size[1]}×{size[0]}")


class _Bank:
    """Every window of the source as a column, so that its errors against many windows are matrix products.

    With g the Gaussian, m the mask of a target t and s a window: Σ m·g·(t−s)² = Σ m·g·t² − 2·(m·g·t)·s + (m·g)·s².
    """

    def __init__(self, source: np.ndarray, window: int, tolerance: float, evenness: float) -> None:
        from numpy.lib.stride_tricks import sliding_window_view
        from threadpoolctl import ThreadpoolController

        # The products are small: a second thread gains nothing, costs tenfold on a busy machine, and would let the
        # rounding depend on the number of cores.
        self._threads = ThreadpoolController()
        self._tolerance, self._evenness = tolerance, evenness
        self.window, self.half = window, window // 2
        grey = bool((source == source[..., :1]).all())
        values = source[..., :1] if grey else source
        # Around the mean, so that the three terms stay small and their difference exact.
        values = (values.astype(np.float32) - values.mean(axis=(0, 1), dtype=np.float32)) / np.float32(255)
        self.values = values  # (H, W, 1 or 3)
        views = sliding_window_view(values, (window, window), axis=(0, 1))  # (Y, X, C, window, window)
        self._columns = views.shape[1]
        flat = np.moveaxis(views, 2, -1).reshape(views.shape[0] * views.shape[1], -1, values.shape[2])
        self._windows = np.ascontiguousarray(flat.reshape(len(flat), -1).T)  # (window·window·C, places)
        self._squares = np.ascontiguousarray((flat * flat).sum(axis=2).T)  # (window·window, places)
        self._used = np.zeros(len(flat), np.float32)
        bell = np.exp(-((np.arange(window) - self.half) ** 2) / (2 * (window / _SIGMA) ** 2))
        self._weights = np.outer(bell, bell).astype(np.float32)

    def draw(
        self, windows: np.ndarray, masks: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """A place of the source (K, 2) for each of K windows, and its mean squared error (K,), 1 at most.

        windows   (K, window, window, C) float32, around the source's mean
        masks     (K, window, window) float32, 1 where the window is known, else 0
        """
        count = len(windows)
        weights = masks * self._weights
        weights /= weights.sum(axis=(1, 2), keepdims=True)
        known = windows * weights[..., None]
        with self._threads.limit(limits=1):
            errors = weights.reshape(count, -1) @ self._squares
            errors -= 2 * (known.reshape(count, -1) @ self._windows)
        errors += (known * windows).sum(axis=(1, 2, 3))[:, None]
        np.maximum(errors / windows.shape[3], 0, out=errors)
        cost = errors
        if self._evenness and self._used.any():
            cost = errors * (1 + self._evenness * self._used / self._used.mean())
        # What is added is the rounding of the three terms: equal windows must stay equal.
        close = cost <= cost.min(axis=1, keepdims=True) * (1 + self._tolerance) + 1e-7
        picks = (random.random(count) * close.sum(axis=1)).astype(np.int64)
        chosen = np.argmax(np.cumsum(close, axis=1) > picks[:, None], axis=1)
        places = np.stack([chosen // self._columns, chosen % self._columns], axis=1) + self.half
        return places, errors[np.arange(count), chosen]

    def use(self, places: np.ndarray) -> None:
        """Count places (K, 2) that were taken."""
        rows, columns = (places - self.half).T
        np.add.at(self._used, rows * self._columns + columns, 1)


class _Canvas:
    """What is known of the texture so far, and which pixels come next."""

    def __init__(self, source: np.ndarray, size: tuple[int, int], bank: _Bank) -> None:
        self.growth = Pieces.begun(source, size, size[0] * size[1])
        self._source, self._bank, self._half = source, bank, bank.half
        around = size[0] + 2 * bank.half, size[1] + 2 * bank.half
        self._values = np.zeros((*around, bank.values.shape[2]), np.float32)
        self._filled = np.zeros(around, np.float32)
        self._neighbours = np.zeros((size[0] + 2, size[1] + 2), np.int16)  # how many of the eight are known

    def settle(self, rows: np.ndarray, columns: np.ndarray, places: np.ndarray) -> None:
        """Take pixels from places (K, 2) of the source."""
        at = places[:, 0], places[:, 1]
        growth, half = self.growth, self._half
        growth.image[rows, columns] = self._source[at]
        growth.origin[rows, columns] = places
        growth.known[rows, columns] = True
        growth.done += len(rows)
        self._values[rows + half, columns + half] = self._bank.values[at]
        self._filled[rows + half, columns + half] = 1
        for down in range(3):
            for right in range(3):
                np.add.at(self._neighbours, (rows + down, columns + right), 1)

    def windows(self, rows: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The windows around pixels, (K, window, window, C), and which of their pixels are known."""
        side = self._bank.window
        spans = [
            (slice(y, y + side), slice(x, x + side))
            for y, x in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
        return np.stack([self._values[span] for span in spans]), np.stack([self._filled[s] for s in spans])

    def apart(self, late: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Unknown pixels beside known ones, those with most known neighbours first, none in another's window."""
        count = np.where(self.growth.known | late, 0, self._neighbours[1:-1, 1:-1])
        rows, columns = np.nonzero(count)
        order = np.argsort(-(count[rows, columns] + random.random(len(rows))))
        taken = np.zeros(self._filled.shape, bool)
        half, side = self._half, self._bank.window
        chosen = []
        for index, y, x in zip(order.tolist(), rows[order].tolist(), columns[order].tolist(), strict=True):
            if not taken[y + half, x + half]:
                taken[y : y + side, x : x + side] = True
                chosen.append(index)
        return rows[chosen], columns[chosen]


_SMALLEST, _LARGEST = 3, 96
Places = list[tuple[int, int]]


def quilt(
    source: np.ndarray,
    size: tuple[int, int],
    *,
    block: int | None = None,
    overlap: int | None = None,
    tolerance: float = TOLERANCE,
    evenness: float = EVENNESS,
    seed: int = 0,
) -> Iterator[Pieces]:
    """Lay blocks of the source row by row; a step lays one.

    A block is drawn from those whose overlap with what is laid comes within `tolerance` of the best match, and cut
    along the path through the overlap where both differ least. A block that would only continue the source behind a
    neighbour is left out: it fits perfectly, and would copy the source as it is.

    source      (H, W, 3) uint8
    size        (h, w) of the texture
    block       side of a block in pixels, larger than the things that repeat; None: a third of the source, at most 96
    overlap     of neighbouring blocks in pixels; None: a sixth of a block (the paper's), at least 2
    tolerance   0 takes the best match always
    evenness    the error of a block is taken times 1 + evenness · (how often its middle was used, of the average), so
                that the same few blocks do not come again and again; 0 for the paper's own
    seed        of the first block and of every draw
    returns     an iterator of one `Pieces`, which each step fills further
    raises      UsageError for values that the source has no room for
    """
    side, band = sides(source, block, overlap)
    _check(size, 1, tolerance, evenness)
    random = np.random.default_rng(seed)
    step = side - band
    down, across = (max(1, math.ceil((length - band) / step)) for length in size)
    values = np.zeros((down * step + band, across * step + band, 3), np.float32)
    origin = np.full((*values.shape[:2], 2), -1, np.int32)
    result = Pieces.begun(source, size, down * across)
    finder = _Finder(source, side, tolerance, evenness)
    laid: dict[tuple[int, int], tuple[int, int]] = {}
    offsets = np.moveaxis(np.indices((side, side)), 0, -1)
    for row in range(down):
        for column in range(across):
            y, x = row * step, column * step
            area = (slice(y, y + side), slice(x, x + side))
            there = values[area]
            mask = np.zeros((side, side), np.float32)
            mask[:band] = row > 0
            mask[:, :band] = np.maximum(mask[:, :band], column > 0)
            continued = [
                (laid[before][0] + dy, laid[before][1] + dx)
                for before, dy, dx in (((row, column - 1), 0, step), ((row - 1, column), step, 0))
                if before in laid
            ]
            place = finder.draw(there, mask, continued, band, random)
            laid[row, column] = place
            new = finder.source[place[0] : place[0] + side, place[1] : place[1] + side]
            fresh = _fresh(((new - there) ** 2).sum(axis=2), band, row > 0, column > 0)
            there[fresh] = new[fresh]
            origin[area][fresh] = (offsets + place)[fresh]
            shown = tuple(slice(s.start, min(s.stop, length)) for s, length in zip(area, size, strict=True))
            result.image[shown] = values[shown].astype(np.uint8)
            result.known[shown] = True
            result.origin[shown] = origin[shown]
            result.done += 1
            yield result


def sides(source: np.ndarray, block: int | None, overlap: int | None) -> tuple[int, int]:
    """The side of a block and the width of the overlap; see `quilt`."""
    shorter = min(source.shape[:2])
    side = block if block is not None else min(_LARGEST, max(_SMALLEST, shorter // 3))
    if side < 3 or side >= shorter:
        raise UsageError(
            f"a block has from 3 pixels to one less than the source's shorter side, which is {shorter}; got {side}"
        )
    band = overlap if overlap is not None else max(min(2, side // 2), side // 6)
    if not 1 <= band <= side // 2:
        raise UsageError(f"the overlap of blocks of {side} pixels is 1 to {side // 2}, got {band}")
    return side, band


def _fresh(difference: np.ndarray, band: int, above: bool, left: bool) -> np.ndarray:
    """Where a new block is shown, (side, side) bool: beyond the cheapest cut through each overlap.

    difference   (side, side), the squared difference of the block and what is laid
    """
    fresh = np.ones(difference.shape, bool)
    if left:
        fresh[:, :band] &= np.arange(band) >= cut(difference[:, :band])[:, None]
    if above:
        fresh[:band] &= np.arange(band)[:, None] >= cut(difference[:band].T)[None]
    return fresh


def cut(costs: np.ndarray) -> np.ndarray:
    """The cheapest path from the first row to the last, each step at most one column aside: (rows,) columns.

    costs   (rows, columns), what each place costs
    """
    total = costs.astype(np.float64)
    for row in range(1, len(total)):
        before = np.pad(total[row - 1], 1, constant_values=np.inf)
        total[row] += np.minimum(np.minimum(before[:-2], before[1:-1]), before[2:])
    path = np.empty(len(total), np.int64)
    path[-1] = int(np.argmin(total[-1]))
    for row in range(len(total) - 2, -1, -1):
        low = max(0, path[row + 1] - 1)
        path[row] = low + int(np.argmin(total[row, low : path[row + 1] + 2]))
    return path


class _Finder:
    """The squared error of every block of the source against a masked block, by correlation in the Fourier domain."""

    def __init__(self, source: np.ndarray, side: int, tolerance: float, evenness: float) -> None:
        self._tolerance, self._evenness = tolerance, evenness
        self.source = source.astype(np.float32)
        self._side = side
        self._shape = source.shape[:2]
        self._room = self._shape[0] - side + 1, self._shape[1] - side + 1
        self._used = np.zeros(self._room, np.float32)
        # Around the mean: the three terms stay small and their difference exact.
        self._mean = self.source.mean(axis=(0, 1), keepdims=True)
        centred = self.source - self._mean
        self._values = self._transformed(centred)
        self._squares = self._transformed((centred**2).sum(axis=2, keepdims=True))

    def _transformed(self, planes: np.ndarray) -> np.ndarray:
        from scipy.fft import rfft2

        return np.asarray(rfft2(planes.astype(np.float64), s=self._shape, axes=(0, 1)))

    def errors(self, block: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """The error for each place of the source, (H − side + 1, W − side + 1).

        block   (side, side, 3), compared where mask (side, side) is 1
        """
        from scipy.fft import irfft2

        masked = (block - self._mean) * mask[..., None]
        spectrum = (np.conj(self._transformed(mask[..., None])) * self._squares).sum(axis=2)
        spectrum -= 2 * (np.conj(self._transformed(masked)) * self._values).sum(axis=2)
        whole = irfft2(spectrum, s=self._shape) + float((masked.astype(np.float64) ** 2).sum())
        # Places nearer to the border wrap round; the rest is exact but for rounding.
        return np.asarray(np.maximum(whole[: self._room[0], : self._room[1]], 0))

    def draw(
        self, block: np.ndarray, mask: np.ndarray, continued: Places, radius: int, random: np.random.Generator
    ) -> tuple[int, int]:
        """A place whose overlap fits, not within `radius` of those that continue the neighbours' own blocks."""
        if mask.any():
            errors = self.errors(block, mask)
            if self._evenness:
                errors *= 1 + self._evenness * self._used / self._used.mean()
            allowed = np.ones(errors.shape, bool)
            for y, x in continued:
                allowed[max(0, y - radius) : y + radius + 1, max(0, x - radius) : x + radius + 1] = False
            if not allowed.any():
                allowed[:] = True
            # What is added is the rounding of the three terms: equal blocks must stay equal.
            close = allowed & (errors <= errors[allowed].min() * (1 + self._tolerance) + 1e-3)
            places = np.argwhere(close)
            y, x = places[int(random.integers(len(places)))].tolist()
        else:
            y, x = int(random.integers(self._room[0])), int(random.integers(self._room[1]))
        near = self._side // 4
        self._used[max(0, y - near) : y + near + 1, max(0, x - near) : x + near + 1] += 1
        return y, x
