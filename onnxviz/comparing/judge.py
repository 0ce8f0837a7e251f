"""From figures to findings: each rule of `rules` asked of what the parts of a comparison measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np

from onnxviz.auditing.finding import FAIL_ON, Check, Evidence, Finding, State, checked, counts
from onnxviz.auditing.report.page import Verdict
from onnxviz.auditing.statistics import Likeness, Share
from onnxviz.comparing.answers import MARGIN, Answers
from onnxviz.comparing.cause import CUT_SUMS, REWRITTEN, cause, cut
from onnxviz.comparing.drift import Drift
from onnxviz.comparing.finite import judge as finite
from onnxviz.comparing.local import Local
from onnxviz.comparing.match import Matching
from onnxviz.comparing.result import Compared
from onnxviz.comparing.rules import (
    CLIPPED_BY,
    FEWEST,
    LAYER_ALONE,
    LAYER_MOVED,
    LAYER_SHARE,
    RULES,
    STILL,
    Rule,
    found,
)
from onnxviz.comparing.values import widest
from onnxviz.comparing.ways import may_bound
from onnxviz.comparing.why import LayerFigures, Why
from onnxviz.errors import UsageError, near
from onnxviz.graph.operators import RECURRENT, WEIGHTED
from onnxviz.text import amount, printable, quoted

# What 95 of 100 are under, in standard deviations.
_ONE_SIDED: Final = 1.6448536
_MEND: Final = "mend what stands out there"
_NONE_LEFT: Final = "no picture could be used: A or B gives NaN or infinities for each"
_FLIPS: Final = 10  # rows of evidence
_SHOWN: Final = 2  # pictures of it, large enough to be read
_MANY: Final = 4  # layers, from which on what most have in common is one fault
_ALL_WASTED: Final = (
    "see whether A's own values are as they should be, and which pictures B was calibrated on"
)
_EVIDENCE: Final = {
    "picture": "picture",
    "a_label": "A says",
    "a_probability": "A's probability",
    "b_label": "B says",
    "b_probability": "B's probability",
}


def judged(parts: Mapping[str, Any], reasons: Mapping[str, str], pictures: bool) -> tuple[Check, ...]:
    """Every rule, in the order of the table.

    parts     what was measured, by part
    reasons   by part, why it was not
    pictures  whether there were any
    """
    checks = []
    silent = getattr(parts.get("answers"), "silent", "")
    for rule in RULES.values():
        part, ask = _ASKED[rule.id]
        if rule.pictures and not pictures:
            checks.append(checked(rule, "not-run", reason="no pictures were given"))
        elif rule.pictures and part == "why" and silent:  # what A's values are is no measure of B's ranges
            checks.append(checked(rule, "not-run", reason=silent))
        elif part in parts:
            checks.append(ask(rule, parts[part], parts))
        else:
            checks.append(checked(rule, "not-run", reason=reasons.get(part, "an earlier part was not run")))
    return tuple(checks)


def verdict(found: Compared, fail_on: str, accepted: Mapping[str, str]) -> Verdict:
    """'fail' for a finding that counts; 'incomplete' where answers or layers were to be compared and could not be.

    raises   UsageError for an unknown severity
    """
    if fail_on not in FAIL_ON:
        words = ", ".join(FAIL_ON)
        raise UsageError(f"fail_on is one of {words}; got {quoted(fail_on)}{near(fail_on, FAIL_ON)}")
    if any(counts(one, fail_on, accepted) for one in found.findings):
        return "fail"
    needed = {"answers", "matching"} | ({"local"} if found.pictured else set())
    states = {one.id: one.state for one in found.checks}
    gaps = needed & set(found.reasons) or states.get("compare.matching") == "not-run"
    silent = found.answers is not None and (found.answers.silent or not found.answers.pictures)
    return "incomplete" if gaps or silent or found.manifest.get("incomplete") else "pass"


# --- the whole ----------------------------------------------------------------------------------


def exact(share: Share) -> tuple[float, float]:
    """The exact limits (95 %) of a share: Clopper & Pearson 1934, doi:10.1093/biomet/26.4.404.

    Wilson's, which are told to readers, are too narrow near 1 to judge by: one changed answer of eight would count.
    """
    from scipy.special import betaincinv

    k, n = share.count, share.of
    low = 0.0 if not k else float(betaincinv(k, n - k + 1, 0.025))
    return low, 1.0 if k == n else float(betaincinv(k + 1, n - k, 0.975))


def _answers(rule: Rule, answers: Answers, parts: Mapping[str, Any]) -> Check:
    figures, advice = answers.to_dict(), cause(parts)
    if answers.silent or not answers.pictures:
        return checked(rule, "not-run", reason=answers.silent or _NONE_LEFT, figures=figures)
    if answers.pixels is not None:
        agreed = answers.pixels.agreement(MARGIN)
        if agreed is None:
            reason = "A is sure of no place, and finds nothing"
            return checked(rule, "not-run", figures=figures, reason=reason)
        told = answers.pixels.verdict(MARGIN)
        findings = found(rule, agreed[2], "", told, advice or "begin with the layers that the report names")
        return checked(rule, findings=findings, figure=agreed[2], figures=figures)
    if answers.reason:
        return checked(rule, "not-applicable", reason=answers.reason, figures=figures)
    share = answers.agreement[MARGIN]
    if not share.of:
        none = f"A is sure of none of {amount(answers.pictures, 'picture')}"
        reason = f"{none}: the two best classes are nowhere {MARGIN:g} apart"
        return checked(rule, "not-run", figures=figures, reason=reason)
    evidence = []
    if answers.flips.get("picture"):
        rows = {title: list(answers.flips[name])[:_FLIPS] for name, title in _EVIDENCE.items()}
        caption = "Pictures with another class in B, those first that A was surest of."
        evidence.append(Evidence(caption, table=rows))
    upper = exact(share)[1]
    findings = found(
        rule, upper, "",
        f"Where A is sure of its answer, B gives the same in {share}.",
        advice or "begin with the layers that the report names; the pictures are in flips.csv",
        evidence,
    )  # fmt: skip
    return checked(
        rule, findings=findings, figure=upper, figures=figures, evidence=() if findings else evidence
    )


def _runtime(rule: Rule, moved: Likeness | None, parts: Mapping[str, Any]) -> Check:
    if moved is None:
        return checked(rule, "not-applicable", reason="B is run as its file has it: nothing is rewritten")
    if not moved.signal:
        return checked(rule, "not-applicable", reason="B gives the same for every place of its outputs")
    why, file = parts.get("why"), "against the file"
    told = f"ONNX Runtime's rewriting of the graph changes B's outputs: {moved.sqnr:.1f} dB {file}."
    findings, figures = found(rule, moved.sqnr, "", told, REWRITTEN), dict(moved.figures())
    whole = None if why is None else why.whole
    if whole is not None:
        figures["whole_sums_db"] = whole.sqnr
    if findings and why is not None and why.cuts(moved.sqnr):
        # Most of it is that another processor would compute the file: a word to who deploys it on one like this.
        cut = f"This processor, which has no VNNI, cuts B's sums: {moved.sqnr:.1f} dB {file}"
        rest = [] if whole is None else found(
            rule, whole.sqnr, "",
            f"ONNX Runtime's rewriting of the graph changes B's outputs: {whole.sqnr:.1f} dB {file} where no sums are "
            f"cut; as this processor, which has no VNNI, cuts them {moved.sqnr:.1f}.", REWRITTEN,
        )  # fmt: skip
        findings = rest or [
            replace(
                one,
                severity="low",
                sentence=cut,
                advice=CUT_SUMS,
                headline="This processor cuts B's sums",
            )
            for one in findings
        ]
    figure = moved.sqnr if moved.noise else "the same numbers"
    return checked(rule, findings=findings, figure=figure, figures=figures)


def _drift(rule: Rule, drift: Drift, parts: Mapping[str, Any]) -> Check:
    figures = drift.to_dict()
    if drift.reason or not any(one.drifted.of for one in drift.methods.values()):
        told = (f"{name}: {one.reason}" for name, one in drift.methods.items() if one.reason)
        reason = drift.reason or "; ".join(told)
        reason = reason or "no map could be compared"
        state: State = "not-run" if drift.others and not drift.pictures else "not-applicable"
        return checked(rule, state, reason=reason, figures=figures)
    findings: list[Finding] = []
    lowest = 0.0
    for name, one in drift.methods.items():
        lower = exact(one.drifted)[0]
        lowest = max(lowest, lower)
        sheet = drift.sheet(name, _SHOWN) if rule.grade(lower) else None
        findings += found(
            rule, lower, name,
            f"{name}: for {one.drifted} the map of B lies further from A's than noise of 1 grey level moves it; "
            f"correlation {one.r or 0:.2f}, A's own under noise {one.own or 0:.2f}.",
            cut(parts) or "see whether B's answers rest on other places: the worst pictures stand side by side",
            [Evidence("The two worst pictures, A's map and B's.", sheet)] if sheet is not None else [],
        )  # fmt: skip
    return checked(rule, findings=findings, figure=lowest, figures=figures)


def missing(matching: Matching) -> list[str]:
    """What A calls the layers with weights that were not found in B, in order."""
    known = {name for name, _ in matching.kernels}
    pairs = {pair.a for pair in matching.pairs}
    weighted = [node for node in matching.a.graph if node.op_type in WEIGHTED | RECURRENT]
    lost = [node.outputs[0].name or "" for node in weighted if node.name not in known]
    return [printable(name) for name in lost if name not in pairs]


def _matching(rule: Rule, matching: Matching, parts: Mapping[str, Any]) -> Check:
    macs, values, pairs = matching.macs, matching.values, len(matching.pairs)
    figures = {"macs": macs, "values": values, "pairs": pairs, "missing": missing(matching)}
    if rule.grade(macs):
        reason = f"only {macs:.0%} of A's multiply-accumulates were found in B: the layers are incomplete"
        return checked(rule, "not-run", reason=reason, figure=macs, figures=figures)
    return checked(rule, figure=macs, figures=figures)


# --- layers -------------------------------------------------------------------------------------


def _layer(rule: Rule, local: Local, parts: Mapping[str, Any]) -> Check:
    worst = next(iter(local.ranked), None)
    if worst is None or not worst.e or local.still:
        return checked(rule, figure="no layer differs")
    name, share, advice = printable(worst.layer), worst.share, parts.get("advice")
    few = sum(one.e > STILL for one in local.effects) < FEWEST
    # What is rounded again and again does more in a sound file, too; and of layers that are one each has its part.
    least = LAYER_SHARE if worst.rounded < 2 else LAYER_ALONE
    told, judged_by = f"{name} alone makes {share:.0%} of the damage", None
    if math.isinf(worst.e):
        told, judged_by = f"{name} alone, put into A, gives NaN or infinities", (share, LAYER_SHARE)
    elif share >= least and worst.e >= LAYER_MOVED and not worst.bound:
        if few:
            told, judged_by = f"{told}; hardly another layer differs", (share, LAYER_SHARE)
        elif (grade := rule.grade(worst.z)) is not None:
            told += f", and stands out of all other layers (z {worst.z:.1f})"
            judged_by = worst.z, grade[1]
        elif share >= LAYER_ALONE:
            judged_by = share, LAYER_ALONE
    findings: list[Finding] = []
    if judged_by is not None:
        why, severity = parts.get("why"), rule.severity
        of_a = "split" in parts and parts["split"].of_a
        mend = _MEND + (advice.way_out if advice and not of_a and (not few or math.isinf(worst.e)) else "")
        if why is not None and why.measured_cut:
            # Integers are multiplied as the file has it, and it is this processor that cuts their sums.
            severity, mend = "low", CUT_SUMS
        of = next((one for one in why.layers if one.pair.layer == worst.layer), None) if why else None
        if of is not None and of.steps:
            told += f"; A is never negative, and B goes {of.steps} steps under 0"
        elif worst.unlike:
            told += f"; computed otherwise: {printable('; '.join(worst.unlike), 160)}"
        headline = rule.means.replace("{where}", name)
        findings = [Finding(rule.id, severity, *judged_by, name, told, mend, headline=headline)]
    return checked(
        rule,
        findings=findings,
        figure=f"z {worst.z:.1f}, share {share:.2f}, e {worst.e:.2g}",
        figures={"layer": name, "share": share, "z": worst.z},
    )


_OfLayer = Callable[[Any], "tuple[float, str, str] | None"]


def _each(rule: Rule, why: Why, ask: _OfLayer) -> Check:
    """A rule that is asked of every layer: its worst figure, and a finding for each that is over the threshold."""
    findings: list[Finding] = []
    asked = [(one, said) for one in why.layers if (said := ask(one)) is not None]
    if not asked and any(one.not_finite and one.sqnr is None for one in why.layers):
        return checked(rule, "not-run", reason=_NONE_LEFT)
    if not asked:
        return checked(rule, "not-applicable", reason="B holds no layer as integers of a fixed range")
    for one, (value, sentence, advice) in asked:
        layer = one.pair.layer if one.unrectified is None else one.unrectified[0]
        findings += found(rule, value, printable(layer), sentence, advice)
    values = [value for _, (value, _, _) in asked]
    worst = min(values) if rule.below else max(values)
    return checked(rule, findings=findings, figure=worst, figures={"layers": len(asked), "worst": worst})


def _clipping(rule: Rule, why: Why, parts: Mapping[str, Any]) -> Check:
    def ask(one: LayerFigures) -> tuple[float, str, str] | None:
        if one.beyond is None or one.dynamic:
            return None
        sentence = (
            f"{one.beyond:.2%} of A's values of {printable(one.pair.layer, 80)} ({one.a_low:.3g} to {one.a_high:.3g}) "
            f"lie beyond what B holds ({one.low:.3g} to {one.high:.3g})."
        )
        if one.further < CLIPPED_BY:
            return 0.0, sentence, ""
        return one.beyond, sentence, "calibrate again, on pictures as the network will see them"

    return _each(rule, why, ask)


def filled(one: LayerFigures, a_low: float, a_high: float) -> float:
    """Share of B's range, 0 to 1, that values between these take up together with 0, which every quantiser must hold
    exactly, and with what lies as far on the other side of 0 where B's quantiser is symmetric."""
    if one.low is None or one.high is None:
        return 0.0
    if one.symmetric:
        reached, held = max(-a_low, a_high, 0.0), max(-one.low, one.high)
        return min(reached / max(held, 1e-30), 1.0)
    low, high = max(min(a_low, 0.0), one.low), min(max(a_high, 0.0), one.high)
    return max(high - low, 0.0) / max(one.high - one.low, 1e-30)


def needed(one: LayerFigures) -> float:
    """Share of B's range that 95 of 100 pictures need, at 95 % confidence: what these need, and the upper tolerance
    limit of a normal distribution of its logarithm (Natrella 1963, Experimental Statistics, NBS Handbook 91, 2-13);
    1 of fewer pictures than three, which tell nothing of others."""
    from scipy.special import nctdtrit

    if (count := len(one.ends)) < 3:
        return 1.0
    each = np.log([max(filled(one, *ends), 1e-6) for ends in one.ends])
    factor = nctdtrit(count - 1, _ONE_SIDED * math.sqrt(count), 0.95) / math.sqrt(count)
    most = float(np.exp(each.mean() + factor * each.std(ddof=1)))
    return max(filled(one, *widest(one.ends)), min(most, 1.0))


def _range(rule: Rule, why: Why, parts: Mapping[str, Any]) -> Check:
    unsure: list[str] = []

    def ask(one: LayerFigures) -> tuple[float, str, str] | None:
        if one.used is None or one.dynamic or not one.ends:
            return None
        seen, need, name = filled(one, *widest(one.ends)), needed(one), printable(one.pair.layer, 80)
        if rule.grade(seen) is not None and rule.grade(need) is None:
            unsure.append(name)
        sentence = (
            f"{name} needs {seen:.0%} of its codes' range: B holds {one.low:.3g} to "
            f"{one.high:.3g}, A goes from {one.a_low:.3g} to {one.a_high:.3g} on {amount(len(one.ends), 'picture')}."
        )
        return need, sentence, "calibrate again: its scale is too large"

    done = _each(rule, why, ask)
    wasted, asked = len(done.findings), done.figures.get("layers", 0)
    if wasted >= _MANY and wasted > asked / 2:
        first = done.findings[0]
        told = (
            f"{wasted} of {asked} layers need less than {first.threshold:.0%} of their codes' range, first: "
        )
        return replace(done, findings=(replace(first, sentence=told + first.sentence, advice=_ALL_WASTED),))
    if done.state != "clean" or not unsure:
        return done
    reason = (
        f"{why.pictures} pictures are too few to tell whether others need more than these do of the range of "
        f"{', '.join(unsure[:3])}{', …' if len(unsure) > 3 else ''}; give more, and --probes"
    )
    return checked(rule, "not-run", reason=reason, figure=done.figure, figures=done.figures)


def _relu(rule: Rule, why: Why, parts: Mapping[str, Any]) -> Check:
    def ask(one: LayerFigures) -> tuple[float, str, str] | None:
        if one.unrectified is not None:
            called, steps = one.unrectified
            at = printable(called, 80)
            sentence = f"A cuts off what is below 0 at {at}, and B does not: {steps} steps of 8 bits."
            return steps, sentence, "B lost this activation: export or quantise the network anew"
        # What merely hands on or adds up is never negative by its inputs, or on these few pictures.
        bounded = one.a_low is not None and one.a_low >= 0 and may_bound(one.pair.op)
        if one.steps is None or one.dynamic or not bounded:
            return None
        sentence = (
            f"A's {printable(one.pair.layer, 80)} is never negative, and B's values go {one.steps} steps below 0: "
            "what should be cut off is let through."
        )
        advice = "set its zero point to the lowest code, or calibrate again behind the activation"
        return one.steps, sentence, advice

    return _each(rule, why, ask)


def _weights(rule: Rule, why: Why, parts: Mapping[str, Any]) -> Check:
    every = [(layer.pair.layer, one) for layer in why.layers for one in layer.weights]
    every += [(one.node_a, one) for one in why.unplaced]
    short = [(name, one, one.short) for name, one in every if one.short is not None]
    if not short:
        return checked(rule, "not-applicable", reason="B holds no weights as integers")
    findings: list[Finding] = []
    for name, one, under in short:
        told = "; ".join(one.sentences()) or f"the signal-to-noise ratio of its weights is {one.sqnr:.1f} dB"
        told = f"{printable(name, 80)}: {told}."
        findings += found(rule, under, printable(name), told, "quantise this layer's weights anew from A's")
    worst = max(under for _, _, under in short)
    return checked(rule, findings=findings, figure=worst, figures={"worst": worst})


#: By rule: the part that it asks, and how.
_ASKED: Final[Mapping[str, tuple[str, Callable[[Rule, Any, Mapping[str, Any]], Check]]]] = {
    "compare.input": ("input", lambda rule, done, parts: done),
    "compare.finite": ("finite", finite),
    "compare.answers": ("answers", _answers),
    "compare.layer": ("local", _layer),
    "compare.weights": ("why", _weights),
    "compare.clipping": ("why", _clipping),
    "compare.range": ("why", _range),
    "compare.relu": ("why", _relu),
    "compare.runtime": ("runtime", _runtime),
    "compare.drift": ("drift", _drift),
    "compare.matching": ("matching", _matching),
}
