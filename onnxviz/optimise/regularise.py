"""What the lecture's recipes do to the picture after each step: decay, blur, and clearing pixels that do little.

For `Pixels`, whose zero is the network's mean colour. Yosinski, Clune, Nguyen, Fuchs & Lipson 2015, "Understanding
Neural Networks Through Deep Visualization" (arXiv:1506.06579), section 3; CS231n, "Visualizing and understanding".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from onnxviz.errors import UsageError


class Rule(ABC):
    """Something done to the parameters between two steps.

    needs_gradient   whether it looks at the gradient of the step
    """

    needs_gradient = False

    def due(self, step: int) -> bool:
        """Whether it is applied after this step."""
        return True

    @abstractmethod
    def apply(self, pictures: np.ndarray, gradient: np.ndarray | None) -> np.ndarray:
        """The new parameters, (N, 3, H, W); the given array is not changed."""


@dataclass(frozen=True)
class Decay(Rule):
    """Draw every pixel so much of its way towards the mean colour: L2 decay."""

    share: float

    def __post_init__(self) -> None:
        if not 0 <= self.share < 1:
            raise UsageError(f"decay {self.share:g}: expected 0 to 1, 1 not included")

    def apply(self, pictures: np.ndarray, gradient: np.ndarray | None) -> np.ndarray:
        """(1 − share)·x."""
        kept: np.ndarray = pictures * np.float32(1 - self.share)
        return kept


@dataclass(frozen=True)
class Blurring(Rule):
    """A Gaussian blur of `sigma` pixels after every `every`-th step: high frequencies that nothing restores go."""

    sigma: float
    every: int = 4

    def __post_init__(self) -> None:
        if not 0 < self.sigma <= 50 or self.every < 1:
            raise UsageError(
                f"blur of {self.sigma:g} pixels every {self.every} steps: expected over 0 to 50 pixels, every 1 or more"
            )

    def due(self, step: int) -> bool:
        """Every `every` steps."""
        return (step + 1) % self.every == 0

    def apply(self, pictures: np.ndarray, gradient: np.ndarray | None) -> np.ndarray:
        """Along rows and columns; the edge is drawn out."""
        from scipy.ndimage import gaussian_filter

        blurred: np.ndarray = gaussian_filter(pictures, (0, 0, self.sigma, self.sigma), mode="nearest")
        return blurred


@dataclass(frozen=True)
class SmallPixels(Rule):
    """Clear the `percent` % of pixels that are nearest to the mean colour."""

    percent: float

    def __post_init__(self) -> None:
        _percentage("small pixels", self.percent)

    def apply(self, pictures: np.ndarray, gradient: np.ndarray | None) -> np.ndarray:
        """Sets them to 0."""
        return _cleared(pictures, np.linalg.norm(pictures, axis=1, keepdims=True), self.percent)


@dataclass(frozen=True)
class SmallContributions(Rule):
    """Clear the `percent` % of pixels that matter least to the objective, to first order: |Σ x·∂/∂x| over colours.

    As the authors' own program (`px_abs_benefit_percentile`): what a pixel's colours do for and against cancels.
    """

    percent: float
    needs_gradient = True

    def __post_init__(self) -> None:
        _percentage("small contributions", self.percent)

    def apply(self, pictures: np.ndarray, gradient: np.ndarray | None) -> np.ndarray:
        """Sets them to 0."""
        assert gradient is not None
        return _cleared(pictures, np.abs((pictures * gradient).sum(axis=1, keepdims=True)), self.percent)


def _percentage(what: str, percent: float) -> None:
    if not 0 <= percent < 100:
        raise UsageError(f"{what}: {percent:g} %, expected 0 to 100, 100 not included")


def _cleared(pictures: np.ndarray, measure: np.ndarray, percent: float) -> np.ndarray:
    """Pictures with 0 where the measure, (N, 1, H, W), is below its own percentile. Pixels at 0 stay free to grow."""
    limit = np.percentile(measure, percent, axis=(1, 2, 3), keepdims=True)
    kept: np.ndarray = np.where(measure < limit, np.float32(0), pictures).astype(np.float32, copy=False)
    return kept
