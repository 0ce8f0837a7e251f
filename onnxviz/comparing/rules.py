"""What a comparison calls a fault: one table of thresholds, which findings, report and docs/compare.md read.

The thresholds were set on sound int8 files of several networks and on planted faults: docs/compare.md says which, and
what they gave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from onnxviz.auditing.finding import Evidence, Finding, Severity


@dataclass(frozen=True)
class Rule:
    """One check of a comparison: what is measured, and from where on it is a finding.

    id        stable: 'compare.answers'
    title     what it asks
    means     what a finding means, in a few words, '{where}' being its place
    measure   what is measured, in words
    levels    the thresholds, the gravest first; none: whatever is found
    below     whether a figure *under* the threshold is a finding
    told      the threshold in words, where more than one figure decides
    unit      behind the figure and the threshold
    limits    what it cannot see
    pictures  whether it needs pictures
    """

    id: str
    title: str
    means: str
    measure: str
    levels: tuple[tuple[Severity, float], ...]
    below: bool = False
    told: str = ""
    unit: str = ""
    limits: str = ""
    pictures: bool = True

    def grade(self, value: float) -> tuple[Severity, float] | None:
        """How grave a figure is, and the threshold that says so; None: it is none. NaN is none."""
        for severity, threshold in self.levels:
            if value < threshold if self.below else value > threshold:
                return severity, threshold
        return None

    @property
    def severity(self) -> Severity:
        """The gravest that it can be."""
        return self.levels[0][0]

    @property
    def threshold(self) -> str:
        """All thresholds in one text: '< 0.95 (medium < 0.98)'."""
        if self.told:
            return self.told
        sign = "<" if self.below else ">"
        (_, first), *rest = [(severity, f"{sign} {value:g}{self.unit}") for severity, value in self.levels]
        return first + "".join(f" ({severity} {text})" for severity, text in rest)


#: Both halves of compare.clipping: of few values one that is a hair beyond is a large share.
CLIPPED: Final = 1e-3
CLIPPED_BY: Final = 0.1

_LISTED: Final = (
    Rule(
        "compare.input",
        "Do both files see the same pictures?",
        "The two files do not see the same pictures",
        "whether the recipes and the ranges of the inputs differ",
        (("high", 0),),
        unit=" differences",
        limits="A recipe that is wrong in both files alike is not seen.",
        pictures=False,
    ),
    Rule(
        "compare.finite",
        "Are all numbers finite?",
        "What should be a number is none: {where}",
        "weights and scales that are no numbers (a scale: no positive one), and pictures for which a file gives NaN or "
        "infinities",
        (("high", 0),),
        limits="Without pictures two that are made are tried. Numbers that are merely absurd are finite.",
        pictures=False,
    ),
    Rule(
        "compare.answers",
        "Does B answer as A does?",
        "B gives other answers than A, also where A is sure",
        "upper exact limit (95 %) of the share of confident pictures (A's two best ≥ 0.1 apart) with the same class",
        (("high", 0.95), ("medium", 0.98)),
        below=True,
        limits="Pictures that A itself is not sure of are left out; with few pictures the limit is wide, and nothing "
        "is found.",
    ),
    Rule(
        "compare.layer",
        "Does one layer alone do the damage?",
        "One layer does most of the damage: {where}",
        "of the layer with the largest share of the damage: robust z of log e, that share, and e",
        (("high", 4.5),),
        told="z > 4.5, share ≥ 0.7 and e ≥ 0.03; from a share of 0.9 on whatever z",
        limits="Several faulty layers of like effect hide each other, and so do layers that equalisation binds "
        "together; the table has them all the same.",
    ),
    Rule(
        "compare.weights",
        "Are weights further off than their bits explain?",
        "Weights are further off than rounding explains: {where}",
        "by how much the SQNR of a layer's weights is under what bits and granularity predict (step²/12)",
        (("high", 10),),
        unit=" dB",
        limits="Weights that were trained anew are no rounding: the figure is then of no use.",
        pictures=False,
    ),
    Rule(
        "compare.clipping",
        "Are values cut off?",
        "Values are cut off: {where}",
        "share of A's values beyond the range that B's quantiser holds, where they go a tenth of it further or more",
        (("medium", CLIPPED),),
        limits="Only of the pictures that were given: others may go further.",
    ),
    Rule(
        "compare.range",
        "Is the range of the codes used?",
        "Most of the codes are wasted: {where}",
        "share of the codes' range that A's values, and 0, need on 95 of 100 pictures, by its upper limit (95 %)",
        (("medium", 0.25),),
        below=True,
        limits="Pictures that are all alike fill little of any range.",
    ),
    Rule(
        "compare.relu",
        "Is what A cuts off at zero cut off in B?",
        "What A cuts off at zero is let through: {where}",
        "steps below zero that B's values go where A's never are",
        (("high", 4),),
        unit=" steps",
    ),
    Rule(
        "compare.runtime",
        "Does ONNX Runtime give what B's file says?",
        "ONNX Runtime computes something else than B's file says",
        "SQNR of B's outputs optimised against not",
        (("high", 10), ("medium", 20)),
        below=True,
        unit=" dB",
        limits="Of this version of ONNX Runtime on this machine.",
        pictures=False,
    ),
    Rule(
        "compare.drift",
        "Does B look at the same places?",
        "B looks at other places than A: {where}",
        "lower exact limit (95 %) of the share of pictures whose map drifted below its own floor",
        (("medium", 0.1),),
        limits="Of the method that is named; a map says where, not why.",
    ),
    Rule(
        "compare.matching",
        "Are the layers of one found in the other?",
        "",
        "share of A's multiply-accumulates whose layers were found in B",
        (("high", 0.9),),
        below=True,
        limits="A layer that was not found is not compared; the report lists them.",
        pictures=False,
    ),
)
#: By id, in the order of the report.
RULES: Final[Mapping[str, Rule]] = {rule.id: rule for rule in _LISTED}
#: The other half of compare.layer.
LAYER_SHARE: Final = 0.7
#: From this share on it decides alone: z is the smaller, the more uneven the other layers are. Of 228
#: sound files of 28 networks none that is moved by LAYER_MOVED has a layer of more than 0.50 (docs/compare.md).
LAYER_ALONE: Final = 0.9
#: Up to here an effect is what computing in another order gives.
STILL: Final = 1e-4
#: And what float32's own rounding gives, through a whole network: up to here nothing is said to do it (100 dB).
FLOAT32: Final = 1e-5
#: Where fewer layers than that differ nothing tells how effects spread, and the share alone decides.
FEWEST: Final = 3
#: And the third: a layer that moves the answers by less is no fault, whatever its share (30 dB).
LAYER_MOVED: Final = 0.03
#: Under it two files are not of one network at all.
SAME_NETWORK: Final = 0.3


def found(
    rule: Rule, value: float, where: str, sentence: str, advice: str = "", evidence: Sequence[Evidence] = ()
) -> list[Finding]:
    """The finding that a figure is, or none."""
    grade = rule.grade(value)
    if grade is None:
        return []
    severity, threshold = grade
    headline, told = rule.means.replace("{where}", where), sentence.removesuffix(".")
    return [Finding(rule.id, severity, value, threshold, where, told, advice, tuple(evidence), headline)]
