"""Shares with their limits, paired counts, rank correlation, calibration: what audits and comparisons tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

#: Of the standard normal distribution, for limits of 95 %.
_DEVIATE: Final = 1.959963984540054
_BINS: Final = 15
_PIECE: Final = 1 << 18  # numbers that are taken in double precision at a time


@dataclass(frozen=True)
class Share:
    """So many out of so many, with Wilson's limits of 95 %.

    Wilson 1927, doi:10.1080/01621459.1927.10502953: sound for few, and for shares near 0 and 1.
    """

    count: int
    of: int

    @property
    def share(self) -> float | None:
        """From 0 to 1; None out of none."""
        return self.count / self.of if self.of else None

    @property
    def limits(self) -> tuple[float, float]:
        """The lower and the upper limit; (0, 1) out of none."""
        if not self.of:
            return 0.0, 1.0
        n, p, square = self.of, self.count / self.of, _DEVIATE**2
        middle = (p + square / (2 * n)) / (1 + square / n)
        half = _DEVIATE / (1 + square / n) * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
        # All of them, or none, are limits that rounding must not miss.
        low = 0.0 if self.count == 0 else max(0.0, middle - half)
        high = 1.0 if self.count == n else min(1.0, middle + half)
        return low, high

    def to_dict(self) -> dict[str, Any]:
        """As plain values."""
        low, high = self.limits
        return {"count": self.count, "of": self.of, "share": self.share, "low": low, "high": high}

    def __str__(self) -> str:
        """'97 % of 36 (95% limits 86% to 100%)'."""
        if not self.of:
            return "none of 0"
        low, high = self.limits
        return f"{self.count / self.of:.0%} of {self.of} (95% limits {low:.0%} to {high:.0%})"


def counted(head: str, shares: Mapping[str, Share], what: str) -> dict[str, list[Any]]:
    """Shares as columns: what each is of, under `head`, so many (`what`), of so many, and the share."""
    rows = list(shares.values())
    return {
        head: list(shares),
        what: [one.count for one in rows],
        "of": [one.of for one in rows],
        "share": [one.share for one in rows],
    }


def mcnemar(fixed: int, broken: int) -> float:
    """The exact two-sided p-value that as many are fixed as broken: McNemar 1947, doi:10.1007/BF02295996.

    Under the hypothesis each picture that only one of two networks has right is either's with probability 1/2.
    """
    from scipy.special import bdtr

    both = fixed + broken
    return min(1.0, 2 * float(bdtr(min(fixed, broken), both, 0.5))) if both else 1.0


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """The correlation of the ranks of two arrays of one size, ties sharing a mean rank; NaN where one is constant."""
    x, y = _ranks(one), _ranks(other)
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale > 0 else math.nan


def _ranks(array: np.ndarray) -> np.ndarray:
    _, which, counts = np.unique(array.reshape(-1), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: np.ndarray = (ends - (counts - 1) / 2)[which.reshape(-1)]
    return ranks


def overlap(one: np.ndarray, other: np.ndarray, share: float = 0.1) -> float:
    """Which part of the largest `share` of one array's places are among the largest of the other's, 0 to 1."""
    count = max(1, round(share * one.size))
    first, second = (
        set(np.argsort(-array.reshape(-1), kind="stable")[:count].tolist()) for array in (one, other)
    )
    return len(first & second) / count


class Calibration:
    """How far confidence lies from accuracy, over any number of pictures: the expected calibration error, 15 bins.

    Guo, Pleiss, Sun & Weinberger 2017, arXiv:1706.04599.
    """

    def __init__(self) -> None:
        self._counts = np.zeros((_BINS, 3))  # pictures, right ones, confidence

    def add(self, confidence: float, right: bool) -> None:
        """One picture: the probability of its best class, and whether that is the class."""
        place = min(_BINS - 1, max(0, math.ceil(confidence * _BINS) - 1))
        self._counts[place] += 1, right, confidence

    @property
    def error(self) -> float | None:
        """The mean over pictures of |accuracy − confidence| of their bin; None without pictures."""
        pictures, right, confidence = self._counts.T
        total = float(pictures.sum())
        return float(np.abs(right - confidence).sum()) / total if total else None


@dataclass
class Likeness:
    """How like two arrays are, added up over any number of pieces: signal to noise, and cosine."""

    signal: float = 0.0
    other: float = 0.0
    noise: float = 0.0
    product: float = 0.0

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """The next piece of both, of one shape."""
        for start in range(0, a.size, _PIECE):
            x, y = (one.reshape(-1)[start : start + _PIECE].astype(np.float64, copy=False) for one in (a, b))
            d = x - y
            self.signal += float(x @ x)
            self.other += float(y @ y)
            self.noise += float(d @ d)
            self.product += float(x @ y)

    @property
    def sqnr(self) -> float:
        """Decibels, as `onnxruntime.quantization.qdq_loss_debug` counts them: norms of 0 are taken for 2.2e-16."""
        least = float(np.finfo(float).eps)
        return 20 * math.log10(max(math.sqrt(self.signal), least) / max(math.sqrt(self.noise), least))

    @property
    def cosine(self) -> float | None:
        """−1 to 1; None where one of both is 0 throughout."""
        scale = math.sqrt(self.signal) * math.sqrt(self.other)
        return min(1.0, max(-1.0, self.product / scale)) if scale > 0 else None

    def figures(self) -> dict[str, float | None]:
        """As plain values; of no signal there is no ratio."""
        return {"sqnr_db": self.sqnr if self.signal else None, "cosine": self.cosine}
