"""The best k of a stream of any length, for many channels at once, in memory that does not grow."""

from __future__ import annotations

from typing import Final

import numpy as np

#: What is kept of each of the best beside its score: columns of `Ranking.facts`.
INDEX, ROW, COLUMN, HEIGHT, WIDTH, PRINT = range(6)
_FACTS: Final = 6
NOBODY: Final = -1


class Ranking:
    """The k images with the largest value of each of C channels.

    keys      (C, k) float32, what is ranked by, largest first; -inf where there are fewer than k images
    scores    (C, k) float32, what is shown; differs from the keys for layers that cut large values off
    facts     (C, k, 6) int64: image index (-1: nobody), row and column of the maximum, height and width of the
              original, fingerprint of the picture
    count     images seen
    undefined (C,) int64, images whose value is NaN or infinite: they are counted here and never ranked
    mean      (C,) float64, of the keys of all images
    """

    def __init__(self, channels: int, k: int) -> None:
        self.k = k
        self.keys = np.full((channels, k), -np.inf, np.float32)
        self.scores = np.full((channels, k), np.nan, np.float32)
        self.facts = np.full((channels, k, _FACTS), NOBODY, np.int64)
        self.count = 0
        self.undefined = np.zeros(channels, np.int64)
        self.mean = np.zeros(channels)
        self._squares = np.zeros(channels)
        self._defined = np.zeros(channels, np.int64)

    @property
    def deviation(self) -> np.ndarray:
        """(C,) float64, the standard deviation of the keys of all images."""
        result: np.ndarray = np.sqrt(self._squares / np.maximum(self._defined, 1))
        return result

    @property
    def filled(self) -> np.ndarray:
        """(C, k) bool: where there is an image."""
        result: np.ndarray = self.facts[:, :, INDEX] != NOBODY
        return result

    def standing_out(self) -> np.ndarray:
        """(C,) float64: by how many standard deviations the best score exceeds the mean of all images."""
        best = np.where(self.filled[:, 0], self.keys[:, 0], 0.0)
        spread = self.deviation
        return np.where(spread > 0, (best - self.mean) / np.maximum(spread, 1e-30), 0.0)

    def add(self, keys: np.ndarray, scores: np.ndarray, facts: np.ndarray) -> None:
        """Take in n more images.

        keys, scores   (n, C) float32
        facts          (n, C, 6) int64

        Of equal keys the smaller image index comes first, so the result does not depend on the order or
        grouping in which images are added.
        """
        if not len(keys):
            return
        self._count(keys)
        ordered = np.where(np.isfinite(keys), keys, -np.inf).astype(np.float32, copy=False)
        # Soon hardly any image is among the best of a channel: only those channels are sorted again.
        moved = np.flatnonzero(ordered.max(axis=0) >= self.keys[:, -1])
        if not len(moved):
            return
        keys = np.concatenate([self.keys[moved], ordered[:, moved].T], axis=1)  # (M, k + n)
        scores = np.concatenate([self.scores[moved], scores[:, moved].T], axis=1)
        rows = np.concatenate([self.facts[moved], facts[:, moved].transpose(1, 0, 2)], axis=1)
        index = rows[:, :, INDEX]
        order = np.lexsort((np.where(index == NOBODY, np.iinfo(np.int64).max, index), -keys), axis=1)[
            :, : self.k
        ]
        self.keys[moved] = np.take_along_axis(keys, order, axis=1)
        self.scores[moved] = np.take_along_axis(scores, order, axis=1)
        self.facts[moved] = np.take_along_axis(rows, order[:, :, None], axis=1)
        nobody = np.isneginf(self.keys)  # an image without a number is no one's best
        self.facts[nobody] = NOBODY
        self.scores[nobody] = np.nan

    def _count(self, keys: np.ndarray) -> None:
        """Mean and squared deviations, merged pairwise (Chan, Golub & LeVeque 1983): stable for any length."""
        known = np.isfinite(keys)
        values = np.where(known, keys, 0).astype(np.float64)
        number = known.sum(axis=0)
        mean = values.sum(axis=0) / np.maximum(number, 1)
        squares = np.where(known, (values - mean) ** 2, 0).sum(axis=0)
        total = self._defined + number
        apart = mean - self.mean
        share = number / np.maximum(total, 1)
        self._squares += squares + apart**2 * self._defined * share
        self.mean += apart * share
        self._defined = total
        self.undefined += len(keys) - number
        self.count += len(keys)
