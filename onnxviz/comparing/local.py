"""What hybrids of A and B tell: which layer does the damage, weights or calibration, and what to do.

`local`   one layer at a time as it is in B, everything else as in A. e of a layer is the mean over pictures of
          ‖z − z_A‖ / ‖z_A‖, z the logits less their mean; its share is e² over the sum of all e². A ranking by how
          unlike a layer's values are blames what has gone wrong before; this one does not.
`split`   what B's operators and its weights do to A by themselves, what its quantisers do, and of that the clipping
`advise`  layers left in float by leaving their operators out of quantisation (`nodes_to_exclude` of ONNX Runtime's
          `quantize_static`), each list tried before it is advised: these compute with A's weights then, and what they
          give is still quantised where a quantised operator reads it
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Final

import numpy as np

from onnxviz.comparing.hybrids import Hybrids, decibels
from onnxviz.comparing.rules import FLOAT32, STILL
from onnxviz.errors import NotFinite
from onnxviz.progress import Progress, silent

#: Layers that are healed in B, the worst first.
HEALED: Final = 5
# Further apart than this, what the layers do by themselves does not add up to what B does.
APART_DB: Final = 6.0
# Alone so many times what B does as a whole, which is not much, and healing it gains no more: others take it back.
_TAKEN_BACK: Final = 2.0
_MUCH: Final = 0.25
_HEALS_DB: Final = 3.0


@dataclass(frozen=True)
class LocalEffect:
    """What B does at one layer.

    layer    the layer's name in A
    a, b     names of the values in the graphs that were matched
    e        mean over pictures of ‖z − z_A‖ / ‖z_A‖ where B does this layer alone
    share    e² of the sum of all e², 0 to 1
    z        how far log e lies above the median of all layers, in robust deviations; 0 where that cannot be told
    healed   dB at the answers of B with this layer as it is in A; None where it was not tried
    unlike   what B's operators have otherwise, in a few words each; quantisers and weights apart
    halves   the narrower type that B computes with: 'float16'
    a_codes  how A holds as integers what B does not: 'uint8 per tensor'
    nodes    names of A's operators up to this layer
    taken_back  whether it does much more alone than all of B, and healing it gains nothing: it has no share then
    numbers  constants that B has otherwise, of a norm or PRelu, each with the name of A's operator
    rounded  how often B rounds it to the same codes: behind a Resize once more
    bound    whether it is several layers, whose values between B holds in other units (equalisation)
    """

    layer: str
    a: str
    b: str
    e: float
    share: float
    z: float = 0.0
    healed: float | None = None
    unlike: tuple[str, ...] = ()
    halves: str = ""
    a_codes: str = ""
    nodes: tuple[str, ...] = ()
    taken_back: bool = False
    numbers: tuple[tuple[str, str], ...] = ()
    rounded: int = 1
    bound: bool = False


@dataclass(frozen=True)
class Local:
    """The effects of all layers, in A's order.

    effects      of the layers behind operators that B has otherwise than A; at the others nothing is done
    moved        of B as a whole: mean over pictures of ‖z − z_A‖ / ‖z_A‖
    pictures     how many counted
    not_finite   pictures left out, since A or B gives NaN or infinities
    silent       pictures left out, since A's answers hold no signal that B's could be held against
    """

    effects: tuple[LocalEffect, ...]
    moved: float
    pictures: int
    not_finite: int = 0
    silent: int = 0

    @cached_property
    def ranked(self) -> tuple[LocalEffect, ...]:
        """The largest effect first; those that are taken back elsewhere last."""
        return tuple(sorted(self.effects, key=lambda one: (one.taken_back, -one.e)))

    @property
    def measured(self) -> float:
        """The signal-to-noise ratio of B at the answers, in dB."""
        return decibels(self.moved)

    @property
    def predicted(self) -> float:
        """What it would be if the layers' effects simply added up, in dB."""
        return decibels(math.sqrt(sum(one.e**2 for one in self.effects)))

    @property
    def still(self) -> bool:
        """Whether B differs by no more than computing float32 in another order does: nothing is to be explained."""
        return self.moved <= FLOAT32

    @property
    def apart(self) -> bool:
        """Whether layers work on each other: measured and predicted are more than 6 dB apart, and worth a word."""
        measured, predicted = self.measured, self.predicted
        return min(measured, predicted) < decibels(STILL) and not abs(measured - predicted) <= APART_DB

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
            "silent": self.silent,
        }


def local(hybrids: Hybrids, *, heal: int = HEALED, progress: Progress = silent) -> Local:
    """The local effect of each layer, and what healing the first would do.

    heal     how many layers are healed in B
    raises   NotFinite where no picture is left; what compiling and running raise
    """
    graft, names = hybrids.graft, hybrids.graft.layers
    moved, whole = _moved(hybrids, names, progress)
    # What alone does much more than all together do is taken back elsewhere: it, or what it reads, is in other units.
    odd = _odd(moved)
    if odd and hybrids.scale(graft.beside([names[place] for place in odd])):
        moved, whole = _moved(hybrids, names, progress)
        odd = _odd(moved)
    sound, effects = np.isfinite(whole), moved[1:]
    order = np.argsort(-effects, kind="stable").tolist()[: max(heal, min(len(odd), HEALED))]
    tried = [place for place in order if effects[place] > 0]
    variants = [graft.heal(names[place]) for place in tried]
    healed = hybrids.distances(variants, progress=progress, what="healing").moved
    cured = dict(zip(tried, map(decibels, _means(healed, sound)), strict=True))
    least = decibels(float(moved[0])) + _HEALS_DB if moved[0] <= _MUCH else -math.inf
    back = [place for place in odd if cured.get(place, math.inf) <= least and effects[place] < math.inf]
    shares = _shares(np.where(np.isin(range(len(names)), back), 0.0, effects))
    scores = robust_z(effects)
    found = []
    for place, (name, score) in enumerate(zip(names, scores, strict=True)):
        pair, unlike, nodes = hybrids.pairs[name], graft.unlike(name), graft.nodes(name)
        found.append(
            LocalEffect(
                pair.layer, name, pair.b, float(effects[place]), float(shares[place]), score, cured.get(place),
                unlike.told, graft.halves(name), graft.codes_of_a(name), tuple(node.name or "" for node in nodes),
                place in back, unlike.numbers, graft.roundings(name), hybrids.bound(name),
            )
        )  # fmt: skip
    left_out = int(np.isnan(whole).sum()), int(np.isinf(whole).sum())
    return Local(tuple(found), float(moved[0]), int(sound.sum()), *left_out)


def _odd(moved: np.ndarray) -> list[int]:
    """The layers that do much more alone than all together do."""
    return np.flatnonzero(moved[1:] > _TAKEN_BACK * moved[0] + STILL).tolist()


def _moved(hybrids: Hybrids, names: Sequence[str], progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """Of B and of each layer alone, and picture by picture of B: those count where it is finite."""
    graft = hybrids.graft
    variants = [graft.whole(), *(graft.local(name) for name in names)]
    found = hybrids.distances(variants, progress=progress, what="layers").moved
    return _means(found, np.isfinite(found[0])), found[0]


def _means(moved: np.ndarray, sound: np.ndarray) -> np.ndarray:
    """The mean over the pictures that count; what is not finite there has no bound.

    raises   NotFinite where none counts
    """
    if not sound.any():
        silent = np.isinf(moved[0]).all()
        why = (
            "A's answers hold no signal" if silent else "A, B, or A with a part of B, gives NaN or infinities"
        )
        raise NotFinite(f"none of the {sound.size} pictures that layers are measured on could be used: {why}")
    kept = moved[:, sound]
    return np.where(np.isfinite(kept), kept, math.inf).mean(axis=1)


def _shares(effects: np.ndarray) -> np.ndarray:
    """Each e² of the sum of all; where some have no bound, these share."""
    squares = np.isinf(effects).astype(float) if np.isinf(effects).any() else effects**2
    total = squares.sum()
    return squares / total if total > 0 else np.zeros_like(squares)


def robust_z(effects: Sequence[float] | np.ndarray) -> list[float]:
    """How far the logarithm of each effect lies above the median, in 1.4826 median absolute deviations."""
    logs = np.log([e for e in effects if 0 < e < math.inf])
    middle = float(np.median(logs)) if len(logs) else 0.0
    width = 1.4826 * float(np.median(np.abs(logs - middle))) if len(logs) > 2 else 0.0
    if not width:
        return [0.0] * len(effects)
    return [(math.log(e) - middle) / width if 0 < e < math.inf else 0.0 for e in effects]


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class Split:
    """Noise at the answers, mean over pictures of ‖z − z_A‖ / ‖z_A‖ each.

    weights      A with B's weights
    activations  A with B's quantisers of activations
    clipping     A with what these cut off cut off, and nothing rounded
    pictures     how many counted
    together     A with B's weights and operators; None: with B's weights, for its operators are A's
    halves       the type that B's real numbers are rounded to, weights and values alike: 'float16'; '': to none
    of_a         whether A is the one that is quantised: B's place and A's are changed for each other
    """

    weights: float
    activations: float
    clipping: float
    pictures: int
    together: float | None = None
    halves: str = ""
    of_a: bool = False

    @property
    def power(self) -> dict[str, float]:
        """Noise power of operators, weights, clipping and rounding."""
        together = self.weights if self.together is None else self.together
        return {
            "operators": max(together**2 - self.weights**2, 0.0),
            "weights": 0.0 if self.halves else self.weights**2,
            "clipping": min(self.clipping, self.activations) ** 2,
            "rounding": max(self.activations**2 - self.clipping**2, 0.0)
            + (self.weights**2 if self.halves else 0.0),
        }

    @property
    def shares(self) -> dict[str, float]:
        """Of that power, which add up to 1; all 0 where there is none but float32's own rounding."""
        total = sum(self.power.values())
        return {name: one / total if total > FLOAT32**2 else 0.0 for name, one in self.power.items()}

    @property
    def db(self) -> float:
        """The signal-to-noise ratio at the answers if these parts simply added up."""
        return decibels(math.sqrt(sum(self.power.values())))

    def short_of(self, whole: Local | None) -> bool:
        """Whether B loses so much more than its parts do by themselves that they do not explain it."""
        return whole is not None and self.db - whole.measured > APART_DB

    def __str__(self) -> str:
        return ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())

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
            "db": {name: _finite(one) for name, one in alone.items()},
        }


def split(hybrids: Hybrids) -> Split:
    """Three runs of A, with one part of B each; and one with its weights and operators, where these are not A's.

    Where A is quantised and B is not, the other way round: what A rounds is no doing of B's weights.

    raises   what compiling and running raise
    """
    graft = hybrids.graft
    if graft.quantised == (True, False):
        return replace(split(hybrids.turned()), of_a=True)
    variants = [graft.weights(), graft.activations(), graft.activations(rounded=False)]
    if any(graft.unlike(name).told for name in graft.layers):
        variants.append(graft.weights(operators=True))
    moved = hybrids.distances(variants).moved
    sound = np.isfinite(moved).all(axis=0)
    weights, activations, clipping, *together = map(float, _means(moved, sound))
    halves = sorted({one for name in graft.layers if (one := graft.halves(name))})
    return Split(
        weights,
        activations,
        clipping,
        int(sound.sum()),
        together[0] if together else None,
        " and ".join(halves) if not activations else "",
    )


#: How many layers are put back.
STEPS: Final = (1, 2, 3, 5, 8)
#: What layers must gain in float, in dB, for that to be advised.
WORTH: Final = 1.0


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
            "sqnr_db": _finite(self.sqnr),
            "gain_db": _finite(self.gain),
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
        """The shortest list that gains at least half of what the longest does; None where none is worth it."""
        lists = [one for one in self.exclusions if one.gain > WORTH]
        most = max((one.gain for one in lists), default=0.0)
        return next((one for one in lists if one.gain >= most / 2), None)

    @property
    def way_out(self) -> str:
        """What leaving the first layer in float is worth, as the end of a sentence."""
        tried = next((one for one in self.exclusions if len(one.layers) == 1), None)
        if tried is None or tried.gain > WORTH or not math.isfinite(tried.gain):
            return ", or leave it in float, as exclude.json has it"
        return f"; its operators in float do not help ({tried.gain:+.1f} dB): B's quantiser behind them stays"

    def to_dict(self) -> dict[str, Any]:
        """As `exclude.json` has it: `nodes_to_exclude` is that of `best`, and every list is under `exclude`."""
        return {
            "nodes_to_exclude": [] if self.best is None else list(self.best.nodes),
            "sqnr_db": _finite(self.sqnr),
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
    ranked = [one for one in effects.ranked if one.e > FLOAT32 and graft.nodes(one.a)]
    counts = [count for count in STEPS if count <= min(restore, len(ranked))]
    variants = [graft.whole(), *(graft.restored([one.a for one in ranked[:count]]) for count in counts)]
    found = hybrids.distances(variants, classes=True, progress=progress, what="exclusions")
    sound = np.isfinite(found.moved).all(axis=0)
    moved = _means(found.moved, sound)
    agreement: Sequence[float | None] = [None] * len(variants)
    if found.classes is not None and sound.any():
        kept = found.classes[:, sound]
        agreement = [float(share) for share in (kept[1:] == kept[0]).mean(axis=1)]
    before, *restored = (decibels(float(one)) for one in moved)
    exclusions = []
    for count, sqnr, agreed in zip(counts, restored, agreement[1:], strict=True):
        layers, values = zip(*((one.layer, one.a) for one in ranked[:count]), strict=True)
        nodes, unnamed = _nodes(hybrids, values)
        macs = _macs(hybrids, values)
        exclusions.append(Exclusion(layers, tuple(nodes), sqnr, sqnr - before, agreed, macs, unnamed))
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
