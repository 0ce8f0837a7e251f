"""Do two segmenters give places the same class: agreement pixel by pixel, told picture by picture.

Pixels of one picture are no independent answers, so limits go by pictures: each counts once, with its share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from onnxviz.graph.output import MAP

if TYPE_CHECKING:
    from onnxviz.network import Network

# What a map of so many channels holds is taken for a score of each class; fewer are depth, flow or colours as well,
# where the file does not end in the activation of scores.
_CLASSES: Final = 4
# And it has at least a place for so many pixels of the picture, a side; feature maps are coarser.
_COARSEST: Final = 8


@dataclass
class Pixels:
    """The classes of places.

    output   what A calls the map
    shares   by margin, of each picture the share of A's places with at least this margin where B has the same class;
             a picture without such places counts for none
    both     by class, places that have it in A and in B, and
    either   in A or in B
    """

    output: str
    shares: dict[float, list[float]] = field(default_factory=dict)
    both: dict[int, int] = field(default_factory=dict)
    either: dict[int, int] = field(default_factory=dict)

    def add(self, a: np.ndarray, b: np.ndarray, margins: Sequence[float]) -> None:
        """One picture: the scores (C, H, W) of A and of B; one channel is the score of a class against none."""
        one, other = _probabilities(a), _probabilities(b)
        best, twin = one.argmax(axis=0), other.argmax(axis=0)
        ordered = np.sort(one, axis=0)
        margin, same = ordered[-1] - ordered[-2], best == twin
        for least in margins:
            sure = margin >= least
            if sure.any():
                self.shares.setdefault(least, []).append(float(same[sure].mean()))
        for place in np.union1d(best, twin).tolist():
            ours, theirs = best == place, twin == place
            self.both[place] = self.both.get(place, 0) + int((ours & theirs).sum())
            self.either[place] = self.either.get(place, 0) + int((ours | theirs).sum())

    @property
    def iou(self) -> float | None:
        """Intersection over union, the mean of all classes that occur; None without a picture."""
        return (
            float(np.mean([self.both[one] / self.either[one] for one in self.either]))
            if self.either
            else None
        )

    def agreement(self, margin: float) -> tuple[float, float, float] | None:
        """Mean share of the pictures, and its limits; None where no place is so sure."""
        return limits(self.shares.get(margin, ()))

    def verdict(self, margin: float) -> str:
        """The same in a sentence."""
        return f"Where A is sure of a place, B gives it the same class at {self.told(margin)}."

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain values."""
        told = {margin: self.agreement(margin) for margin in self.shares}
        return {
            "output": self.output,
            "agreement": {
                f"margin>={margin:g}": {"share": one[0], "low": one[1], "high": one[2]}
                for margin, one in told.items()
                if one is not None
            },
            "iou": self.iou,
        }

    def told(self, margin: float) -> str:
        """In words; '' where no place is so sure."""
        found = self.agreement(margin)
        if found is None:
            return ""
        mean, low, high = found
        pictures = len(self.shares[margin])
        return f"{mean:.2%} of the places (mean of {pictures} pictures, 95% limits {low:.1%} to {high:.1%})"

    def sentences(self) -> list[str]:
        """For a reader."""
        told = []
        for margin in self.shares:
            where = f", where A's best class leads by {margin:g} or more" if margin else ""
            told.append(f"the same class at {self.told(margin)}{where}")
        return (
            told
            if self.iou is None
            else [*told, f"intersection over union of A's and B's classes {self.iou:.3f}"]
        )


def limits(shares: Sequence[float]) -> tuple[float, float, float] | None:
    """Mean share of pictures, and its limits (95 %, Student's t); None without any."""
    from scipy.special import stdtrit

    if not shares:
        return None
    mean, count = float(np.mean(shares)), len(shares)
    if count < 2:
        return mean, 0.0, 1.0
    half = float(stdtrit(count - 1, 0.975)) * float(np.std(shares, ddof=1)) / math.sqrt(count)
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def _probabilities(scores: np.ndarray) -> np.ndarray:
    """(C, H, W) scores as probabilities, two at least: those that are none go through softmax, or sigmoid."""
    wide = scores.astype(np.float64)
    within = wide.min() >= 0 and wide.max() <= 1
    if len(wide) == 1:
        one = wide if within else 1 / (1 + np.exp(-np.clip(wide, -500, 500)))
        return np.concatenate([1 - one, one])
    if within:  # probabilities already, or one for each class alone
        return wide
    raised = np.exp(wide - wide.max(axis=0))
    return raised / raised.sum(axis=0)


def pixels(a: Network) -> tuple[Pixels, int] | None:
    """What is to be filled for a segmenter, and the axis of the classes; None where no output, or several, is a map of
    classes."""
    maps = [end for end in a.outputs if end.kind == MAP and len(end.shape) == 4]
    if len(maps) != 1:
        return None
    (end,) = maps
    last = a.input.layout.endswith("C")
    count, places = (end.shape[3], end.shape[1:3]) if last else (end.shape[1], end.shape[2:])
    sides = zip(places, a.size, strict=True)
    if not isinstance(count, int) or not all(isinstance(n, str) or n * _COARSEST >= of for n, of in sides):
        return None
    scored = end.activation is not None or count >= _CLASSES
    return (Pixels(end.output), 3 if last else 1) if scored else None
