"""Weights or calibration: what B's weights do to A by themselves, what its quantisers do, and of that the clipping."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from onnxviz.comparing.hybrids import Hybrids, decibels


@dataclass(frozen=True)
class Split:
    """Noise at the answers, mean over pictures of ‖z − z_A‖ / ‖z_A‖ each.

    weights      A with B's weights
    activations  A with B's quantisers of activations
    clipping     A with what these cut off cut off, and nothing rounded
    pictures     how many counted
    """

    weights: float
    activations: float
    clipping: float
    pictures: int

    @property
    def shares(self) -> dict[str, float]:
        """Of the noise power: weights, clipping and rounding, which add up to 1; all 0 where there is none."""
        power = {
            "weights": self.weights**2,
            "clipping": min(self.clipping, self.activations) ** 2,
            "rounding": max(self.activations**2 - self.clipping**2, 0.0),
        }
        total = sum(power.values())
        return {name: one / total if total > 0 else 0.0 for name, one in power.items()}

    @property
    def cause(self) -> str | None:
        """The largest share; None where there is no noise."""
        shares = self.shares
        name = max(shares, key=lambda one: shares[one])
        return name if shares[name] > 0 else None

    def to_dict(self) -> dict[str, Any]:
        """The figures, the shares and dB."""
        alone = {name: decibels(getattr(self, name)) for name in ("weights", "activations", "clipping")}
        return {
            **asdict(self),
            "shares": self.shares,
            "db": {name: one if np.isfinite(one) else None for name, one in alone.items()},
        }


def split(hybrids: Hybrids) -> Split:
    """Three runs of A, with one part of B each.

    raises   what compiling and running raise
    """
    graft = hybrids.graft
    variants = [graft.weights(), graft.activations(), graft.activations(rounded=False)]
    moved = hybrids.distances(variants).moved
    sound = np.isfinite(moved).all(axis=0)
    means = moved[:, sound].mean(axis=1) if sound.any() else np.full(len(variants), np.nan)
    weights, activations, clipping = (float(one) for one in means)
    return Split(weights, activations, clipping, int(sound.sum()))
