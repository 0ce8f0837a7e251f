"""How far the weights of B are from A's, and whether that is what their bits explain."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import onnx_ir as ir

from onnxviz.auditing.statistics import Likeness
from onnxviz.comparing.kernels import WEIGHT_BYTES, reordered
from onnxviz.comparing.match import Matching
from onnxviz.comparing.stored import Codes, Reads, Stored, frequent, int32_codes, keeps_to_seven
from onnxviz.comparing.values import portions, size
from onnxviz.graph.analysis.dataflow import dependent
from onnxviz.graph.quantisers import Quantiser
from onnxviz.network import Network

_LAST: Final = 2**31 - 1  # of int32, which biases are held as
# From this factor on a filter counts as scaled: rounding to 4 bits alone gives about 1.01.
_SCALED: Final = 1.05
# Of what differs in a filter so much may be left where a factor is called the reason.
_EXPLAINED: Final = 0.5
# Decibels under what is predicted that are worth a sentence; `compare.weights` has its own threshold.
_SHORT: Final = 6.0
_UNEVEN: Final = 8.0
# A filter weaker than so many parts of the median one computes nothing: trained networks have dead ones, of 1e-7.
_DEAD: Final = 1e-3
_ROUNDS: Final = 60
# Of the largest factor behind a layer so much may be the rounding of factors that are held as 8 bits, or of two.
_ROUNDED: Final = 0.02
# Decibels under which a bias differs: what is corrected for the mean that rounding shifts is less.
_BIAS: Final = 20.0
# Decibels under which weights that are no integers differ: rounding to half precision leaves 66.
_REAL: Final = 40.0


@dataclass(frozen=True)
class WeightFigures:
    """The weights of one layer. What belongs to a quantiser is None where B holds real numbers.

    node_a, node_b   the nodes that read them
    sqnr             in decibels: 20·log10(‖A‖ / ‖A − B‖), behind the factors of BatchNormalization and the like
                     where one file has other ones than the other; None where A's are all 0
    predicted        the same as bits and granularity predict: an error of Δ²/12 for each weight, Δ the step that A's
                     weights need
    codes, bits      type of B's codes, and bits of each; 7 where the file keeps to 7 bits of 8
    granularity      'per tensor', 'per channel', 'block of 32'
    symmetric        whether 0 is the middle code
    spread           range of A's largest filter by the median filter's
    constant         filters of one value in B, and not in A
    filters          how many there are
    gain             the factor of B's filter to A's that is furthest from 1
    gain_at          of which filter, from 0
    gain_middle      the median factor of all filters
    overflow         biases that int32 does not hold in B's steps; None where B's bias is no int32
    rescaled         whether B's filters are A's times factors that the next layer takes back (equalisation): all other
                     figures are told behind these factors
    norms            A's nodes behind it whose numbers may be other ones in B: what they make with these weights is told
                     here
    bias             decibels of A's bias over what B's differs, with all that is added behind; None where it is not
                     known, or differs by no more than B's steps
    """

    node_a: str
    node_b: str
    sqnr: float | None
    predicted: float | None = None
    codes: str | None = None
    bits: int | None = None
    granularity: str | None = None
    symmetric: bool | None = None
    spread: float | None = None
    constant: int = 0
    filters: int = 0
    gain: float | None = None
    gain_at: int | None = None
    gain_middle: float | None = None
    overflow: int | None = None
    rescaled: bool = False
    bias: float | None = None
    norms: tuple[str, ...] = ()

    @property
    def short(self) -> float | None:
        """By how many decibels they are under what is predicted; negative where they are better."""
        return None if self.predicted is None or self.sqnr is None else self.predicted - self.sqnr

    def sentences(self) -> list[str]:
        """What stands out, for a reader."""
        told = []
        if self.short is not None and self.short > _SHORT:
            told.append(
                f"the signal-to-noise ratio of its weights is {self.sqnr:.1f} dB, where {self.codes} "
                f"{self.granularity} predicts {self.predicted:.1f} dB"
            )
        faulty = self.short is None or self.short > _SHORT  # rounding moves weak filters, too
        if faulty and self.gain_middle is not None and _far(self.gain_middle):
            told.append(f"half of its filters are {_times(self.gain_middle)}")
        elif faulty and self.gain is not None and _far(self.gain):
            told.append(f"filter {self.gain_at} is {_times(self.gain, alone=True)}")
        if self.granularity == "per tensor" and self.spread is not None and self.spread > _UNEVEN:
            told.append(
                f"its largest filter's range is {self.spread:.1f} times the median filter's, and all share one scale: "
                "quantise per channel"
            )
        if self.constant:
            told.append(f"{self.constant} of {self.filters} filters became constant")
        if self.overflow:
            told.append(f"{self.overflow} biases do not fit into int32 in B's steps")
        if self.bias is not None and self.bias < _BIAS and not self.rescaled:
            told.append(f"its bias differs: {self.bias:.1f} dB")
        return told


def _times(gain: float, alone: bool = False) -> str:
    """By what factor a filter is another, or half of the filters are at least; in words where it is 0."""
    if not gain:
        return "0, and A's is not" if alone else "0, and A's are not"
    told = f"{gain:.2f}" if abs(gain) >= 0.1 else f"{gain:.1g}"
    return f"{told} times A's" + ("" if alone else " or more" if gain > 1 else " or less")


def _far(gain: float) -> bool:
    return gain <= 0 or max(gain, 1 / gain) > _SCALED


Layer = tuple[Reads, Reads]  # of A and of B


def weight_figures(
    a: Network,
    b: Network,
    matching: Matching,
    x: np.ndarray,
    xb: np.ndarray,
    alike: Collection[str] = (),
) -> tuple[list[tuple[str, WeightFigures]], tuple[Codes, Codes]]:
    """The figures of each weight layer that was matched by its weights, with the first matched value of A that depends
    on it ('' for none), in A's order; and of A and of B the codes of these.

    x, xb   a picture as the input of A and of B; weights that are computed in the graph do not depend on it
    alike   matched values of A that B has much the same of: layers between two of them may be equalised
    """
    one, other = Stored(a, matching.a, x), Stored(b, matching.b, xb)
    chosen: list[Layer] = []
    for name, twin in matching.kernels:
        reads, twin_reads = one.nodes.get(name), other.nodes.get(twin)
        if reads is not None and twin_reads is not None:
            chosen.append((reads, twin_reads))
    held = [
        Codes(
            weights=frequent(one.quantiser.codes for one in side if one.quantiser),
            reduce_range=keeps_to_seven(side),
        )
        for side in ([reads for reads, _ in chosen], [reads for _, reads in chosen])
    ]
    narrow = held[1].reduce_range
    names = [reads.name for reads, _ in chosen]
    made = [reads.node.outputs[0] for reads, _ in chosen]
    depends = _first_values(matching, made, [pair.a for pair in matching.pairs])
    found: dict[str, WeightFigures] = {}
    taken = _first_values(matching, made, alike)
    given = _first_values(matching, [reads.result for reads, _ in chosen], alike)
    groups: dict[str, list[Layer]] = {}
    for place, layer in zip(taken, chosen, strict=True):
        groups.setdefault(place, []).append(layer)
    # Layers that such a group may take factors back from that a BatchNormalization gives: their own values are alike.
    givers: dict[str, list[Layer]] = {place: [] for place in groups}
    for place, own, layer in zip(given, taken, chosen, strict=True):
        if place != own and place in givers:
            givers[place].append(layer)
    sizes = [
        sum(size(value) for layer in (*layers, *givers[place]) for value in layer[1].values)
        for place, layers in groups.items()
    ]
    for portion in portions(groups.items(), sizes, WEIGHT_BYTES):
        for side, stored in enumerate((one, other)):
            stored.compute([layer[side] for place, layers in portion for layer in (*layers, *givers[place])])
        for place, layers in portion:
            figures = {layer[0].name: _told(one, other, *layer, narrow) for layer in layers}
            row = [*givers[place], *layers]
            if place and len(row) > 1 and any(map(_differs, figures.values())):
                other_units = _turned(one, other, row, narrow) or _equalised(one, other, row, narrow)
                figures = {name: other_units.get(name, one_of) for name, one_of in figures.items()}
            found |= {name: one_of for name, one_of in figures.items() if one_of is not None}
    told = [(value, found[name]) for value, name in zip(depends, names, strict=True) if name in found]
    return told, (held[0], held[1])


def _first_values(matching: Matching, made: Sequence[ir.Value], among: Collection[str]) -> list[str]:
    """For each of these values of A the first matched value that depends on it, or is it; '' where none does."""
    graph = matching.a.graph
    values = {value.name: value for node in graph for value in node.outputs}
    order = [(pair.a, values[pair.a]) for pair in matching.pairs if pair.a in values and pair.a in among]
    belows = (dependent(graph, value) for value in made)
    return [next((called for called, one in order if one in below), "") for below in belows]


# --- one layer --------------------------------------------------------------------------------------


def _forms(one: Stored, other: Stored, layer: Layer) -> tuple[np.ndarray, np.ndarray] | None:
    """Both layers' weights; None where they are not known or not finite, or of different sizes."""
    a, b = one.form(layer[0]), other.form(layer[1])
    if a is None or b is None or a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    return a, b


def _told(one: Stored, other: Stored, reads: Reads, twin: Reads, narrow: bool) -> WeightFigures | None:
    """The figures of one layer, where need be behind the factors that BatchNormalization and the like behind it take
    back in the one file or the other."""
    plain = _figures(one, other, reads, twin, narrow)
    apart = reads.normalised != twin.normalised
    if plain is None:
        return None
    norms = tuple(step.node.name or "" for step in reads.behind)
    if not (apart or _differs(plain)):
        ours, theirs = (side.behind(layer, plain.filters)[0] for side, layer in ((one, reads), (other, twin)))
        near = np.abs(ours - theirs) <= _ROUNDED * np.abs(theirs).max(initial=0)
        return replace(
            plain, norms=norms if near.all() and (plain.bias is None or plain.bias >= _BIAS) else ()
        )
    fitted = _as_held(one, other, reads, twin)
    figures = None if fitted is None else _figures(one, other, reads, twin, narrow, fitted)
    if figures is None or figures.sqnr is None or plain.sqnr is None:
        return plain
    return replace(figures, norms=norms) if apart or figures.sqnr > plain.sqnr else plain


def _as_held(one: Stored, other: Stored, reads: Reads, twin: Reads) -> np.ndarray | None:
    """A's weights as B would hold them for what stands behind them in B; None where nothing differs there."""
    forms = _forms(one, other, (reads, twin))
    if forms is None:
        return None
    a, b = forms
    ours, theirs = one.behind(reads, len(a))[0], other.behind(twin, len(a))[0]
    if np.array_equal(ours, theirs) or not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
        return None
    fitted: np.ndarray = a * _ratio(ours, theirs)[:, None, None].astype(np.float32)
    strengths = [
        np.linalg.norm(side.reshape(len(a), -1), axis=1) * np.abs(factor)
        for side, factor in ((a, ours), (b, theirs))
    ]
    if reads.rounded or twin.rounded:  # no fault of the weights
        gains = _ratio(*(np.einsum("oik,oik->o", fitted, side, dtype=np.float64) for side in (b, fitted)))
        near = np.abs((gains - 1) * theirs) <= _ROUNDED * float(np.abs(theirs).max())
        fitted[near] *= gains[near, None, None].astype(np.float32)
    # Filters that compute nothing in either file are of no matter.
    dead = np.maximum(*strengths) <= _DEAD * float(np.median(strengths[0]))
    fitted[dead] = b[dead]
    return fitted


def _differs(figures: WeightFigures | None) -> bool:
    """Whether weights are further off than rounding explains."""
    if figures is None or figures.sqnr is None:
        return False
    return figures.sqnr < _REAL if figures.short is None else figures.short > _SHORT


def _equalised(
    one: Stored, other: Stored, layers: Sequence[Layer], narrow: bool
) -> dict[str, WeightFigures | None]:
    """The figures of layers one after the other behind the factors of their filters and inputs, by A's node; nothing
    where factors explain too little, or are the same for most filters: that is no equalisation.

    What follows the layers is much the same in both files, so what one multiplies the next takes back.
    """
    found: dict[str, WeightFigures | None] = {}
    uneven = False
    for reads, twin in layers:
        forms = _forms(one, other, (reads, twin))
        if forms is None:
            return {}
        fitted, factors = _fitted(*forms)
        figures = _figures(one, other, reads, twin, narrow, fitted)
        if figures is None or _differs(figures):
            return {}
        uneven |= any(float(np.median(np.abs(f - np.median(f)))) > _SCALED - 1 for f in factors)
        found[reads.name] = replace(figures, rescaled=True)
    return found if uneven else {}


def _turned(
    one: Stored, other: Stored, layers: Sequence[Layer], narrow: bool
) -> dict[str, WeightFigures | None]:
    """The figures of layers whose channels B has in another order; none of one alone, for nothing takes it back."""
    found: dict[str, WeightFigures | None] = {}
    for reads, twin in layers:
        forms = _forms(one, other, (reads, twin))
        if forms is None or (ordered := reordered(*forms)) is None:
            continue
        figures = _figures(one, other, reads, twin, narrow, ordered)
        if not _differs(figures) and figures is not None:
            found[reads.name] = replace(figures, bias=None)  # which has another order, too
    return found if len(found) > 1 else {}


def _fitted(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """A's weights (O, I, K) times the factor of each filter and of each input that brings them nearest to B's, by
    least squares in turns; and the logarithms of both."""
    squares = np.einsum("oik,oik->oi", a, a, dtype=np.float64)
    products = np.einsum("oik,oik->oi", a, b, dtype=np.float64)
    rows, columns = np.ones(len(a)), np.ones(a.shape[1])
    for _ in range(_ROUNDS):
        rows = _ratio(products @ columns, squares @ columns**2)
        columns = _ratio(rows @ products, rows**2 @ squares)
    fitted = (a * (rows[:, None] * columns)[:, :, None]).astype(np.float32)
    return fitted, (np.log(np.maximum(rows, 1e-12)), np.log(np.maximum(columns, 1e-12)))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.ones_like(above), where=below != 0)


def _figures(
    one: Stored, other: Stored, reads: Reads, twin: Reads, narrow: bool, fitted: np.ndarray | None = None
) -> WeightFigures | None:
    """The figures of one layer.

    fitted   what B's weights are held against; None: A's own
    """
    forms = _forms(one, other, (reads, twin))
    if forms is None:
        return None
    a, b = (form.reshape(len(form), -1) for form in (forms[0] if fitted is None else fitted, forms[1]))
    likeness = Likeness()
    likeness.add(a, b)
    ranges = np.ptp(a, axis=1) if a.shape[1] > 1 else np.abs(a[:, 0])
    middle = float(np.median(ranges))
    strengths = np.linalg.norm(a, axis=1)
    alive = strengths > _DEAD * float(np.median(strengths))
    constant_now = (np.ptp(b, axis=1) == 0) & (np.ptp(a, axis=1) > 0) & alive
    gains = np.where(alive, _gains(a, b), 1.0)
    at = int(np.argmax(np.abs(np.log(np.maximum(np.abs(gains), 1e-12))))) if gains.size else None
    own = twin.quantiser
    bits = None if own is None else 7 if narrow and own.bits == 8 else own.bits
    return WeightFigures(
        reads.name,
        twin.name,
        likeness.figures()["sqnr_db"],
        None if own is None or bits is None else _predicted(a, own, bits),
        None if own is None else own.codes,
        bits,
        None if own is None else own.granularity,
        None if own is None else own.symmetric,
        float(ranges.max()) / middle if middle > 0 else None,
        int(constant_now.sum()),
        len(a),
        None if at is None else float(gains[at]),
        at,
        float(np.median(gains[alive])) if alive.any() else None,
        _overflow(one, other, reads, twin),
        bias=_bias(one, other, reads, twin),
    )


def _gains(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The factor of each filter of B to A's that fits best; 1 for a filter of zeros, and where no factor explains the
    better part of what differs: other weights are no multiple."""
    squares = np.einsum("ij,ij->i", a, a, dtype=np.float64)
    gains = _ratio(np.einsum("ij,ij->i", a, b, dtype=np.float64), squares)
    left, differing = (np.linalg.norm(b - one, axis=1) for one in (a * gains[:, None], a))
    return np.where(left < _EXPLAINED * differing, gains, 1.0)


def _predicted(a: np.ndarray, own: Quantiser, bits: int) -> float | None:
    """Decibels of A's weights over an error of Δ²/12 each, Δ the step that so many bits leave for their range."""
    if own.block and a.shape[1] % own.block == 0:
        parts = a.reshape(-1, own.block)
    elif own.axis is None:
        parts = a.reshape(1, -1)
    else:
        parts = a
    if own.symmetric is False:
        spans = np.maximum(parts.max(axis=1), 0) - np.minimum(parts.min(axis=1), 0)
    else:
        spans = 2 * np.abs(parts).max(axis=1)
    steps = spans.astype(np.float64) / (2**bits - 1)
    noise = float(np.square(steps).sum() / 12 * parts.shape[1])
    signal = float(np.square(a, dtype=np.float64).sum())
    return 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else None


def _overflow(one: Stored, other: Stored, reads: Reads, twin: Reads) -> int | None:
    """How many biases B's int32 does not hold: A's are larger than so many of B's steps, or B's stand at the end."""
    codes = None if twin.bias is None else int32_codes(twin.bias)
    if codes is None or twin.bias is None:
        return None
    real = other.array(twin.bias)
    ours = _bias_as_held(one, other, reads, twin, codes.size)
    full = np.abs(codes.astype(np.int64)) >= _LAST - 1
    if real is not None and ours is not None and ours.size == codes.size == real.size:
        filled = codes != 0
        step = np.abs(np.divide(real.reshape(-1), codes, out=np.zeros(codes.size), where=filled))
        full |= filled & (step > 0) & (np.abs(ours.reshape(-1).astype(float)) > step * (_LAST + 1.0))
    return int(full.sum())


def _bias(one: Stored, other: Stored, reads: Reads, twin: Reads) -> float | None:
    """Decibels of A's bias over what B's differs, both with what is added behind; as they are, or behind the factors
    of B's filters, whichever is nearer."""
    forms = _forms(one, other, (reads, twin))
    biases = [
        np.zeros(1, np.float32) if layer.bias is None else side.array(layer.bias)
        for side, layer in ((one, reads), (other, twin))
    ]
    if forms is None or any(bias is None or bias.size not in (1, len(forms[0])) for bias in biases):
        return None
    ends = [side.behind(layer, len(forms[0])) for side, layer in ((one, reads), (other, twin))]
    ours, theirs = (
        bias.reshape(-1) * factor + shift
        for bias, (factor, shift) in zip(biases, ends, strict=True)
        if bias is not None
    )
    norms = [
        np.linalg.norm(form.reshape(len(form), -1), axis=1) * np.abs(factor)
        for form, (factor, _) in zip(forms, ends, strict=True)
    ]
    codes = None if twin.bias is None else int32_codes(twin.bias)
    step: Any = 0.0
    if codes is not None and biases[1] is not None and codes.size == biases[1].size:
        real = biases[1].reshape(-1)
        step = np.abs(np.divide(real, codes, out=np.zeros(codes.size), where=codes != 0) * ends[1][0])
    found = []
    for gain in (np.ones(len(ours)), _ratio(norms[1], norms[0])):
        apart = theirs - gain * ours
        apart[np.abs(apart) <= step] = 0
        signal, noise = float(np.linalg.norm(gain * ours)), float(np.linalg.norm(apart))
        if not noise:
            return None
        found.append(20 * math.log10(signal / noise) if signal > 0 and np.isfinite(noise) else math.inf)
    return max(found) if max(found) < math.inf else None


def _bias_as_held(one: Stored, other: Stored, reads: Reads, twin: Reads, count: int) -> np.ndarray | None:
    """A's bias as B would hold it for what stands behind the layer in B."""
    bias = np.zeros(1, np.float32) if reads.bias is None else one.array(reads.bias)
    if bias is None or bias.size not in (1, count):
        return None
    (factor, shift), (factor_b, shift_b) = one.behind(reads, count), other.behind(twin, count)
    result: np.ndarray = np.divide(
        bias.reshape(-1) * factor + shift - shift_b, factor_b, out=np.zeros(count), where=factor_b != 0
    )
    return result
