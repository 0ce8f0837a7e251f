"""What to do: which nodes to leave in float when the network is quantised anew, each list tried before it is advised.

A layer is left in float by leaving its operators out of quantisation (`nodes_to_exclude` of ONNX Runtime's
`quantize_static`): these compute with A's weights then, and what they give is still quantised where a quantised
operator reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from onnxviz.comparing.hybrids import Hybrids, decibels
from onnxviz.comparing.local import Local
from onnxviz.progress import Progress, silent

#: How many layers are put back.
STEPS: Final = (1, 2, 3, 5, 8)
#: What a layer must gain in float, in dB, for that to be called a way out.
WORTH: Final = 0.5


@dataclass(frozen=True)
class Exclusion:
    """Some layers in float.

    layers      the layers' names in A, the worst first
    nodes       for `nodes_to_exclude`: names of nodes in A's file
    sqnr        dB at the answers of B with these in float, measured
    gain        by how much that is more than B has, in dB
    agreement   share of pictures with A's class; None without classes
    macs        share of the multiply-accumulates that turn float, 0 to 1
    unnamed     how many operators have no name in A's file, by which they could be left out
    """

    layers: tuple[str, ...]
    nodes: tuple[str, ...]
    sqnr: float
    gain: float
    agreement: float | None
    macs: float
    unnamed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As `exclude.json` has it."""
        return {
            "layers": list(self.layers),
            "nodes_to_exclude": list(self.nodes),
            "sqnr_db": self.sqnr if np.isfinite(self.sqnr) else None,
            "gain_db": self.gain if np.isfinite(self.gain) else None,
            "agreement": self.agreement,
            "macs_float": self.macs,
            "unnamed": self.unnamed,
        }


@dataclass(frozen=True)
class Advice:
    """What putting layers back would do.

    sqnr        of B as it is, in dB
    agreement   of B as it is: share of pictures with A's class; None without classes
    exclusions  of the first 1, 2, 3, 5, 8 layers
    pictures    how many counted
    """

    sqnr: float
    agreement: float | None
    exclusions: tuple[Exclusion, ...]
    pictures: int

    @property
    def best(self) -> Exclusion | None:
        """The shortest list that gains at least half of what the longest does; None where none gains anything."""
        lists = [one for one in self.exclusions if one.gain > 0]
        most = max((one.gain for one in lists), default=0.0)
        return next((one for one in lists if one.gain >= most / 2), None)

    @property
    def way_out(self) -> str:
        """What leaving the first layer in float is worth, as the end of a sentence."""
        tried = next((one for one in self.exclusions if len(one.layers) == 1), None)
        if tried is None or tried.gain > WORTH:
            return ", or leave it in float, as exclude.json has it"
        return f"; its operators in float do not help ({tried.gain:+.1f} dB): B's quantiser behind them stays"

    def to_dict(self) -> dict[str, Any]:
        """As `exclude.json` has it: `nodes_to_exclude` is that of `best`, and every list is under `exclude`."""
        return {
            "nodes_to_exclude": [] if self.best is None else list(self.best.nodes),
            "sqnr_db": self.sqnr if np.isfinite(self.sqnr) else None,
            "agreement": self.agreement,
            "pictures": self.pictures,
            "exclude": [one.to_dict() for one in self.exclusions],
        }


def advise(
    hybrids: Hybrids, effects: Local, *, restore: int = STEPS[-1], progress: Progress = silent
) -> Advice:
    """Put the first layers back to float, and measure what that gives.

    restore   the most layers that are put back
    raises    what compiling and running raise
    """
    graft = hybrids.graft
    # The picture is no operator: its quantiser goes when those that read it do.
    ranked = [one for one in effects.ranked if one.e > 0 and graft.nodes(one.a)]
    counts = [count for count in STEPS if count <= min(restore, len(ranked))]
    variants = [graft.whole(), *(graft.restored([one.a for one in ranked[:count]]) for count in counts)]
    found = hybrids.distances(variants, classes=True, progress=progress, what="exclusions")
    sound = np.isfinite(found.moved).all(axis=0)
    moved = found.moved[:, sound].mean(axis=1) if sound.any() else np.full(len(variants), np.nan)
    agreement: Sequence[float | None] = [None] * len(variants)
    if found.classes is not None and sound.any():
        kept = found.classes[:, sound]
        agreement = [float(share) for share in (kept[1:] == kept[0]).mean(axis=1)]
    before = decibels(float(moved[0]))
    exclusions = []
    for place, count in enumerate(counts, 1):
        sqnr = decibels(float(moved[place]))
        chosen = ranked[:count]
        nodes, unnamed = _nodes(hybrids, [one.a for one in chosen])
        exclusions.append(
            Exclusion(
                tuple(one.layer for one in chosen),
                tuple(nodes),
                sqnr,
                sqnr - before,
                agreement[place],
                _macs(hybrids, [one.a for one in chosen]),
                unnamed,
            )
        )
    return Advice(before, agreement[0], tuple(exclusions), int(sound.sum()))


def _nodes(hybrids: Hybrids, values: Sequence[str]) -> tuple[list[str], int]:
    """The names of A's operators up to these values, and how many have none in the file."""
    made = {y.name for node in hybrids.a.model.graph if node.name for y in node.outputs}
    named = {node.name for node in hybrids.a.model.graph if node.name}
    names: dict[str, None] = {}
    unnamed = 0
    for value in values:
        for node in hybrids.graft.nodes(value):
            if node.name in named and made.intersection(y.name for y in node.outputs):
                names[node.name or ""] = None
            else:
                unnamed += 1
    return list(names), unnamed


def _macs(hybrids: Hybrids, values: Sequence[str]) -> float:
    """Their share of all multiply-accumulates that were matched."""
    total = sum(pair.macs for pair in hybrids.matching.pairs)
    own = sum(hybrids.pairs[value].macs for value in values)
    return own * hybrids.matching.macs / total if total else 0.0
