"""Why a layer lost what it lost: figures of each matched value and weight, which need no threshold to read.

Values are compared as they appear, in one pass over A and B together, without graph optimisations: nothing of full size
is kept from one picture to the next, and of one picture no more than a portion of the layers.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

import numpy as np

from onnxviz.auditing.report.facts import machine
from onnxviz.auditing.statistics import Likeness
from onnxviz.comparing.match import Matching, Pair
from onnxviz.comparing.rules import CLIPPED, CLIPPED_BY
from onnxviz.comparing.stored import Codes, Held, frequent, held_as
from onnxviz.comparing.values import Ends, beside, gains, portions, size, used, values, widest
from onnxviz.comparing.ways import rectifiers_lost
from onnxviz.comparing.weights import WeightFigures, weight_figures
from onnxviz.errors import UsageError
from onnxviz.graph.analysis.dataflow import by_name
from onnxviz.graph.quantisers import Quantiser, written_as_integers
from onnxviz.graph.seams import Seam
from onnxviz.network import Network
from onnxviz.progress import Progress, silent
from onnxviz.tables import Columns
from onnxviz.text import amount, printable

# Bytes of A's values of one picture that are held at a time; B's are as many.
_BYTES: Final = 1 << 23
_ALIKE: Final = 0.9  # cosine from which on a value is much the same in both
_HALF: Final = 0.5  # share of a range under which it is worth a word that no more is filled
_WIDEST: Final = 16  # bits of codes that are counted one by one
_MOST_DB: Final = 3.0  # half of a noise's power


@dataclass(frozen=True)
class LayerFigures:
    """One matched value. What belongs to a quantiser is None where B holds the value as a real number.

    pair           which values
    sqnr           cumulative, in decibels: 20·log10(‖A‖ / ‖A − B‖) over all pictures
    cosine         of A's and B's values over all pictures, −1 to 1
    a_low, a_high  A's smallest and largest value; in B's units where it would lie beyond an equalised layer's range
    ends           the same of each picture; of B's values where B holds them in other units (equalised)
    codes          type of B's codes: 'uint8'
    bits           of each
    granularity    'per tensor', 'per channel'
    symmetric      whether 0 is the middle code; None where it is measured
    dynamic        whether B measures its range for each picture
    low, high      the real numbers that B's codes hold; of a measured range over all pictures
    below, above   share of A's values more than half a step under, and over, that range: 0 to 1
    used           share of B's range that `ends` lie in, 0 to 1
    unused         codes that never occur in B
    waste          share of the range under 0 where A never is, 0 to 1
    steps          steps of the quantiser under 0 that B's values reach where A never is
    not_finite     pictures left out, for NaN or infinities in either
    weights        of the weight layers that the value is the first to depend on
    unrectified    the Relu or Clip of A behind this value that B has not, and how many steps below 0 the value goes
                   where 255 reach to its largest; None: B has it, or a quantiser in its place
    """

    pair: Pair
    sqnr: float | None
    cosine: float | None
    a_low: float | None
    a_high: float | None
    codes: str | None = None
    bits: int | None = None
    granularity: str | None = None
    symmetric: bool | None = None
    dynamic: bool = False
    low: float | None = None
    high: float | None = None
    below: float | None = None
    above: float | None = None
    used: float | None = None
    unused: int | None = None
    waste: float | None = None
    steps: int | None = None
    not_finite: int = 0
    ends: tuple[tuple[float, float], ...] = ()
    weights: tuple[WeightFigures, ...] = ()
    unrectified: tuple[str, int] | None = None

    @property
    def beyond(self) -> float | None:
        """Share of A's values beyond B's range at either end."""
        return None if self.below is None or self.above is None else self.below + self.above

    @property
    def further(self) -> float:
        """How far A's values go beyond B's range, in parts of that range; 0 within it."""
        if self.low is None or self.high is None or self.a_low is None or self.a_high is None:
            return 0.0
        return max(self.low - self.a_low, self.a_high - self.high, 0.0) / max(self.high - self.low, 1e-30)

    @property
    def cut_off(self) -> bool:
        """Whether many values lie beyond a range that the file states, or some far beyond."""
        return (
            not self.dynamic
            and bool(self.beyond)
            and ((self.beyond or 0.0) > CLIPPED or self.further >= CLIPPED_BY)
        )

    @property
    def worst(self) -> WeightFigures | None:
        """Of its weights those that lie furthest under what is predicted."""
        return max(self.weights, key=lambda one: one.short or 0.0, default=None)

    def sentences(self) -> list[str]:
        """What stands out, for a reader; nothing where nothing does."""
        told = []
        name = printable(self.pair.layer, 80)
        if self.cut_off:
            ends = (self.below, "under", self.low), (self.above, "over", self.high)
            lie = " and ".join(
                f"{100 * share:.2g} % {side} {edge:.4g}" for share, side, edge in ends if share
            )
            told.append(f"{name}: of A's values lie {lie}, beyond B's range")
        if self.used is not None and self.used < _HALF and not self.dynamic:
            told.append(f"{name}: A's values fill {self.used:.0%} of B's range")
        if self.steps and self.waste is not None:
            told.append(
                f"{name}: A is never negative, and B goes {self.steps} steps under 0, where {self.waste:.0%} of its "
                "range lie"
            )
        if self.unrectified is not None:
            told.append(
                f"{name}: B has no activation behind it, where A has {printable(self.unrectified[0], 80)}"
            )
        if self.not_finite:
            told.append(f"{name}: NaN or infinities for {amount(self.not_finite, 'picture')}, left out here")
        return told + [f"{name}: {text}" for one in self.weights for text in one.sentences()]


@dataclass(frozen=True)
class Why:
    """The figures of all layers.

    layers         in A's topological order
    unplaced       weights of layers that no matched value depends on
    pictures       how many were compared
    a, b           the codes of A and of B
    machine        what of this machine's processor matters to sums of codes
    whole          B's outputs where it cuts none of these sums against what the file says; None: not in question
    """

    layers: tuple[LayerFigures, ...]
    unplaced: tuple[WeightFigures, ...] = ()
    pictures: int = 0
    a: Codes = field(default_factory=Codes)
    b: Codes = field(default_factory=Codes)
    machine: dict[str, Any] = field(default_factory=dict)
    whole: Likeness | None = None

    def weight_table(self) -> Columns:
        """A row for each layer with weights in both."""
        every = [(one.pair.layer, w) for one in self.layers for w in one.weights]
        every += [("", w) for w in self.unplaced]
        rows = [{"layer": layer, **asdict(w), "short": w.short} for layer, w in every]
        return {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}

    def to_dict(self) -> dict[str, Any]:
        """What holds for all layers, as plain values."""
        return {
            "pictures": self.pictures,
            "activations": list(self.b.activations),
            "weights": list(self.b.weights),
            "reduce_range": self.b.reduce_range,
            "machine": self.machine,
        }

    @property
    def saturates(self) -> bool:
        """Whether this processor adds up what B multiplies in 16 bits, and cuts what is more."""
        return self.b.overflow and self.machine.get("vnni") is False

    @property
    def a_saturates(self) -> bool:
        """The same of A."""
        return self.a.overflow and self.machine.get("vnni") is False

    def cuts(self, run: float) -> bool:
        """Whether that is most of what B has lost as it is run, `run` dB; so it is taken to be where nothing tells."""
        return self.saturates and (self.whole is None or self.whole.sqnr - run > _MOST_DB)

    @property
    def measured_cut(self) -> bool:
        """Whether it does so where layers are measured, too: all but integers of measured ranges are real there."""
        return self.saturates and any(one.dynamic for one in self.layers)


def why(
    a: Network,
    b: Network,
    matching: Matching,
    x: np.ndarray,
    xb: np.ndarray | None = None,
    *,
    layers: Sequence[str] | None = None,
    progress: Progress = silent,
) -> Why:
    """The figures of every matched layer over the given pictures.

    x, xb      the same pictures as the input of A and of B, an entry a picture; xb None: A's input is B's, too
    layers     of A, those that are looked at; None: all
    raises     UsageError for different numbers of pictures; what running raises
    """
    nets, arrays = (a, b), (x, x if xb is None else xb)
    if not len(x) == len(arrays[1]) > 0:
        counts = " and ".join(str(len(side)) for side in arrays[::-1])
        raise UsageError(f"expected as many pictures for B as for A, one or more; got {counts}")
    pairs = [pair for pair in matching.pairs if layers is None or pair.layer in layers]
    figures: list[LayerFigures] = []
    for sums in _summed(nets, matching, pairs, arrays, progress=progress):
        figures += _in_b_units([(one.figures(), one.of_b) for one in sums], nets, matching, arrays)
    alike = {one.pair.a for one in figures if (one.cosine or 0.0) >= _ALIKE}
    found, codes = weight_figures(a, b, matching, x[:1], arrays[1][:1], alike)
    equalised = beside(matching.a, {w.node_a for _, w in found if w.rescaled}) - alike
    figures = list(_cut_off_in_b_units(figures, equalised, nets, matching, arrays))
    named = by_name(matching.a.graph)
    ours = [own.quantiser.codes for pair in pairs if (own := held_as(named[pair.a])) is not None]
    lost = rectifiers_lost(matching.a, matching.b, {pair.a: pair.b for pair in matching.pairs})
    figures = [
        replace(
            one,
            weights=tuple(w for layer, w in found if layer == one.pair.a),
            unrectified=_unrectified(one, lost.get(one.pair.a)),
        )
        for one in figures
    ]
    return Why(
        tuple(figures),
        tuple(w for layer, w in found if layer not in {one.pair.a for one in figures} and layers is None),
        len(x),
        replace(codes[0], activations=frequent(ours), written=written_as_integers(a.model)),
        replace(
            codes[1], activations=frequent(one.codes for one in figures), written=written_as_integers(b.model)
        ),
        machine(),
    )


def _unrectified(one: LayerFigures, called: str | None) -> tuple[str, int] | None:
    if called is None or one.a_low is None or one.a_high is None or one.a_low >= 0:
        return None
    return called, round(min(-one.a_low / max(one.a_high / 255, 1e-30), 1e6))


# --- one value ------------------------------------------------------------------------------------


def _in_b_units(
    both: Sequence[tuple[LayerFigures, Ends]],
    nets: tuple[Network, Network],
    matching: Matching,
    arrays: tuple[np.ndarray, np.ndarray],
) -> Iterator[LayerFigures]:
    """The figures; where B's values fill a range that A's do not, and are A's in other units, B's ends count.

    both   with the ends of B's values
    """
    filled = [used(ends, one.low or 0.0, one.high or 0.0) if ends else 0.0 for one, ends in both]
    asked = zip(both, filled, strict=True)
    odd = [one.pair for (one, _), share in asked if one.used is not None and one.used < _HALF <= share]
    models, seams = (matching.a, matching.b), [Seam(pair.a, pair.b, pair.axes) for pair in odd]
    found = gains(nets, models, seams, arrays) if seams else {}
    for (one, ends), share in zip(both, filled, strict=True):
        yield replace(one, ends=tuple(ends), used=share) if one.pair.a in found else one


def _cut_off_in_b_units(
    figures: Sequence[LayerFigures],
    equalised: Collection[str],
    nets: tuple[Network, Network],
    matching: Matching,
    arrays: tuple[np.ndarray, np.ndarray],
) -> Iterator[LayerFigures]:
    """The figures; where A's values lie beyond the range of B's that are in other units, they are told of A's times the
    factors.

    equalised   A's values that have other units by B's weights: what is cut off may else look like factors
    """
    odd = [one.pair for one in figures if one.cut_off and one.pair.a in equalised]
    seams = [Seam(pair.a, pair.b, pair.axes) for pair in odd]
    factors = gains(nets, (matching.a, matching.b), seams, arrays) if odd else {}
    again = [pair for pair in odd if pair.a in factors]
    found = {
        one.pair.a: one.figures() for sums in _summed(nets, matching, again, arrays, factors) for one in sums
    }
    for one in figures:
        new = found.get(one.pair.a)
        yield one if new is None else replace(new, sqnr=one.sqnr, cosine=one.cosine)


def _summed(
    nets: tuple[Network, Network],
    matching: Matching,
    pairs: Sequence[Pair],
    arrays: tuple[np.ndarray, np.ndarray],
    factors: Mapping[str, np.ndarray] | None = None,
    progress: Progress = silent,
) -> Iterator[list[_Sums]]:
    """The sums of the pairs over all pictures, a portion at a time.

    factors   by A's names, what A's values are multiplied by first
    """
    sizes = {value.name: size(value) for node in matching.a.graph for value in node.outputs}
    held = {
        value.name: held_as(value)
        for value in (*matching.b.graph.inputs, *(v for node in matching.b.graph for v in node.outputs))
    }
    count, pictures = 0, len(arrays[0])
    for portion in portions(pairs, [sizes.get(pair.a, 0) for pair in pairs], _BYTES):
        sums = [_Sums(pair, held[pair.b], (factors or {}).get(pair.a)) for pair in portion]
        names = [pair.a for pair in portion], [name for one in sums for name in one.names]
        sides = [values(*side) for side in zip(nets, (matching.a, matching.b), names, arrays, strict=True)]
        for done, (ours, theirs) in enumerate(zip(*sides, strict=True), start=1):
            for one in sums:
                one.add(ours, theirs)
            ours.clear()
            theirs.clear()
            progress(count * pictures + done * len(portion), len(pairs) * pictures, "values")
        count += len(portion)
        yield sums


class _Sums:
    """What is kept of a pair of values: sums, ends, and which codes occurred."""

    def __init__(self, pair: Pair, held: Held | None, factor: np.ndarray | None = None) -> None:
        self.pair = pair
        self._factor = factor
        self._held = held
        self.names = [pair.b, *(held.measured if held is not None else ())]
        self._likeness = Likeness()
        self._ends: list[tuple[float, float]] = []
        self.of_b: list[tuple[float, float]] = []
        self._range = [math.inf, -math.inf]
        self._count = self._below = self._above = self._steps = self._not_finite = 0
        self._waste = 0.0
        self._seen: np.ndarray | None = None
        if held is not None and held.quantiser.bits <= _WIDEST:
            self._seen = np.zeros(2**held.quantiser.bits, bool)

    def add(self, ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
        axes, y = self.pair.axes, theirs[self.pair.b]
        x = ours[self.pair.a] if self._factor is None else ours[self.pair.a] * self._factor
        # A in B's layout: a scale for each place of an axis lies as B has it.
        x = x if axes is None else x.transpose(np.argsort(axes))
        if x.shape != y.shape:
            x = x.reshape(y.shape)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            self._not_finite += 1
            return
        if not x.size:
            return
        self._likeness.add(x, y)
        self._count += x.size
        self._ends.append((float(x.min()), float(x.max())))
        if self._held is not None:
            self.of_b.append((float(y.min()), float(y.max())))
            self._codes(self._held.quantiser, x, y, theirs)

    def _codes(self, own: Quantiser, x: np.ndarray, y: np.ndarray, theirs: dict[str, np.ndarray]) -> None:
        if self._held is not None and self._held.measured:
            scale, *zero = (theirs[name].reshape(-1) for name in self._held.measured)
            own = replace(
                own,
                scale=scale.astype(float),
                zero=(zero[0] if zero else np.zeros_like(scale)).astype(np.int64),
            )
        low, high = own.low, own.high
        if low is None or high is None or own.scale is None or own.zero is None:
            return
        if not (np.isfinite(own.scale) & (own.scale > 0)).all():  # no scale: it holds no range
            return
        self._range = [min(self._range[0], float(low.min())), max(self._range[1], float(high.max()))]
        step, zero_point, least, most = (
            array.astype(np.float32) if own.axis is None else array.astype(np.float32).reshape(
                [-1 if axis == own.axis % y.ndim else 1 for axis in range(y.ndim)]
            )
            for array in (own.scale, own.zero, low, high)
        )  # fmt: skip
        self._below += int(np.count_nonzero(x < least - step / 2))
        self._above += int(np.count_nonzero(x > most + step / 2))
        first, last = own.ends
        codes = y / step
        self._steps = max(self._steps, round(-float(codes.min())))
        self._waste = max(self._waste, float(np.max(-low / np.maximum(high - low, 1e-30))))
        if self._seen is not None:
            np.rint(codes, out=codes)
            codes += zero_point - first
            self._seen[np.clip(codes, 0, last - first, out=codes).astype(np.int32).reshape(-1)] = True

    def figures(self) -> LayerFigures:
        if not self._count:
            return LayerFigures(self.pair, None, None, None, None, not_finite=self._not_finite)
        like, ends = self._likeness.figures(), tuple(self._ends)
        lowest, highest = widest(ends)
        found = LayerFigures(
            self.pair,
            like["sqnr_db"],
            like["cosine"],
            lowest,
            highest,
            not_finite=self._not_finite,
            ends=ends,
        )
        if self._held is None or self._range[0] > self._range[1]:
            return found
        own, never, (low, high) = self._held.quantiser, lowest >= 0, self._range
        seen = np.flatnonzero(self._seen) if self._seen is not None else None
        return replace(
            found,
            codes=own.codes,
            bits=own.bits,
            granularity=own.granularity,
            symmetric=own.symmetric,
            dynamic=bool(self._held.measured),
            low=low,
            high=high,
            below=self._below / self._count,
            above=self._above / self._count,
            used=used(ends, low, high),
            unused=None if seen is None else 2**own.bits - len(seen),
            waste=max(0.0, self._waste) if never else 0.0,
            steps=max(0, self._steps) if never else 0,
        )
