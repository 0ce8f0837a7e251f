"""Which layer does the damage: one layer at a time as it is in B, everything else as in A.

e of a layer is the mean over pictures of ‖z − z_A‖ / ‖z_A‖, z the logits less their mean; its share is e² over the sum
of all e². A ranking by how unlike a layer's values are blames what has gone wrong before; this one does not.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from onnxviz.comparing.hybrids import Hybrids, decibels
from onnxviz.progress import Progress, silent

#: Layers that are healed in B, the worst first.
HEALED: Final = 5
# Further apart than this, what the layers do by themselves does not add up to what B does.
_APART_DB: Final = 6.0
_TAKEN_BACK: Final = 2.0
_NOTHING: Final = 1e-4


@dataclass(frozen=True)
class LocalEffect:
    """What B does at one layer.

    layer    the layer's name in A
    a, b     names of the values in the graphs that were matched
    e        mean over pictures of ‖z − z_A‖ / ‖z_A‖ where B does this layer alone
    share    e² of the sum of all e², 0 to 1
    z        how far log e lies above the median of all layers, in robust deviations; 0 where that cannot be told
    healed   dB at the answers of B with this layer as it is in A; None where it was not tried
    """

    layer: str
    a: str
    b: str
    e: float
    share: float
    z: float = 0.0
    healed: float | None = None


@dataclass(frozen=True)
class Local:
    """The effects of all layers, in A's order.

    effects      of the layers behind operators that B has otherwise than A; at the others nothing is done
    moved        of B as a whole: mean over pictures of ‖z − z_A‖ / ‖z_A‖
    pictures     how many counted
    not_finite   pictures left out, since A or B gives NaN or infinities
    """

    effects: tuple[LocalEffect, ...]
    moved: float
    pictures: int
    not_finite: int = 0

    @cached_property
    def ranked(self) -> tuple[LocalEffect, ...]:
        """The largest effect first."""
        return tuple(sorted(self.effects, key=lambda one: -one.e))

    @property
    def measured(self) -> float:
        """The signal-to-noise ratio of B at the answers, in dB."""
        return decibels(self.moved)

    @property
    def predicted(self) -> float:
        """What it would be if the layers' effects simply added up, in dB."""
        return decibels(math.sqrt(sum(one.e**2 for one in self.effects)))

    @property
    def apart(self) -> bool:
        """Whether layers work on each other: measured and predicted are more than 6 dB apart, and worth a word."""
        measured, predicted = self.measured, self.predicted
        return min(measured, predicted) < decibels(_NOTHING) and not abs(measured - predicted) <= _APART_DB

    def columns(self) -> dict[str, list[Any]]:
        """A row a layer, in A's order."""
        names = ("layer", "a", "b", "e", "share", "z", "healed")
        return {name: [getattr(one, name) for one in self.effects] for name in names}

    def to_dict(self) -> dict[str, Any]:
        """The figures beside the table."""
        return {
            "moved": self.moved,
            "measured_db": _finite(self.measured),
            "predicted_db": _finite(self.predicted),
            "apart": self.apart,
            "pictures": self.pictures,
            "not_finite": self.not_finite,
        }


def local(hybrids: Hybrids, *, heal: int = HEALED, progress: Progress = silent) -> Local:
    """The local effect of each layer, and what healing the first would do.

    heal     how many layers are healed in B
    raises   what compiling and running raise
    """
    graft = hybrids.graft
    names = graft.layers
    moved, sound = _moved(hybrids, names, progress)
    # What alone does much more than all together do is taken back elsewhere: perhaps it is in other units.
    odd = [name for name, e in zip(names, moved[1:], strict=True) if e > _TAKEN_BACK * moved[0] + _NOTHING]
    if odd and hybrids.scale(odd):
        moved, sound = _moved(hybrids, names, progress)
    effects = moved[1:]
    shares = _shares(effects)
    scores = robust_z(effects)
    order = sorted(range(len(names)), key=lambda place: -effects[place])
    tried = [place for place in order[:heal] if effects[place] > 0]
    healed = hybrids.distances(
        [graft.heal(names[place]) for place in tried], progress=progress, what="healing"
    ).moved
    cured = dict(zip(tried, map(decibels, _means(healed, sound)), strict=True))
    found_effects = tuple(
        LocalEffect(
            hybrids.pairs[name].layer,
            name,
            hybrids.pairs[name].b,
            float(effects[place]),
            float(shares[place]),
            scores[place],
            cured.get(place),
        )
        for place, name in enumerate(names)
    )
    return Local(found_effects, float(moved[0]), int(sound.sum()), int((~sound).sum()))


def _moved(hybrids: Hybrids, names: Sequence[str], progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Of B and of each layer alone, and which pictures count."""
    graft = hybrids.graft
    variants = [graft.whole(), *(graft.local(name) for name in names)]
    found = hybrids.distances(variants, progress=progress, what="layers").moved
    sound = np.isfinite(found[0])
    return _means(found, sound), sound


def _means(moved: np.ndarray, sound: np.ndarray) -> np.ndarray:
    """The mean over the pictures that count; what is not finite there has no bound."""
    if not sound.any():
        return np.full(len(moved), math.nan)
    kept = moved[:, sound]
    return np.where(np.isfinite(kept), kept, math.inf).mean(axis=1)


def _shares(effects: np.ndarray) -> np.ndarray:
    """Each e² of the sum of all; where some have no bound, these share."""
    squares = np.isinf(effects).astype(float) if np.isinf(effects).any() else effects**2
    total = squares.sum()
    return squares / total if total > 0 else np.zeros_like(squares)


def robust_z(effects: Sequence[float] | np.ndarray) -> list[float]:
    """How far the logarithm of each effect lies above the median, in 1.4826 median absolute deviations."""
    alive = np.array([e for e in effects if 0 < e < math.inf])
    if len(alive) < 3:
        return [0.0] * len(effects)
    logs = np.log(alive)
    middle = float(np.median(logs))
    width = 1.4826 * float(np.median(np.abs(logs - middle)))
    if not width:
        return [0.0] * len(effects)
    return [(math.log(e) - middle) / width if 0 < e < math.inf else 0.0 for e in effects]


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
