"""One table of thresholds: what it calls a finding, and docs/compare.md, which shows it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnxviz.auditing.statistics import Likeness, Share
from onnxviz.comparing.answers import Answers
from onnxviz.comparing.cause import CUT_SUMS, REWRITTEN, explained
from onnxviz.comparing.cause import noise as noise_of
from onnxviz.comparing.judge import exact, judged, needed
from onnxviz.comparing.local import Local, LocalEffect, Split, robust_z
from onnxviz.comparing.match import Pair
from onnxviz.comparing.result import Compared
from onnxviz.comparing.rules import RULES, found
from onnxviz.comparing.stored import Codes
from onnxviz.comparing.why import LayerFigures, Why

PAIR = Pair("x", "x", "x", "Conv", "values", 1.0)
PAGE = (Path(__file__).parents[2] / "docs" / "compare.md").read_text("utf-8")


def test_the_page_has_the_table_of_thresholds():
    """And beside them what sound files and planted faults gave."""
    _, _, *lines = PAGE.split("<!-- rules -->\n")[1].split("\n<!-- /rules -->")[0].split("\n")
    told = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(len(cells) == 5 and all(cells) for cells in told)
    for rule, cells in zip(RULES.values(), told, strict=True):
        level = "incomplete" if rule.id == "compare.matching" else rule.severity
        assert cells[:3] == [f"`{rule.id}`", f"{level} {rule.threshold}", rule.measure]


@pytest.mark.parametrize(
    ("id", "value", "severity"),
    [
        ("compare.answers", 0.94, "high"),
        ("compare.answers", 0.96, "medium"),
        ("compare.answers", 0.99, None),
        ("compare.runtime", 9.0, "high"),
        ("compare.runtime", 19.0, "medium"),
        ("compare.runtime", 28.5, None),
        ("compare.weights", 10.5, "high"),
        ("compare.weights", 5.1, None),
        ("compare.clipping", 2e-3, "medium"),
        ("compare.clipping", 2e-5, None),
        ("compare.range", 0.2, "medium"),
        ("compare.relu", 24, "high"),
        ("compare.relu", float("nan"), None),
    ],
)
def test_a_figure_is_as_grave_as_its_threshold_says(id, value, severity):
    findings = found(RULES[id], value, "{where} x", "It is so.")
    assert [one.severity for one in findings] == ([] if severity is None else [severity])
    assert all(not one.sentence.endswith(".") for one in findings)  # the page ends it
    assert all(one.headline == RULES[id].means.replace("{where}", "{where} x") for one in findings)


def asked(why: Why, id: str):
    return next(one for one in judged({"why": why}, {}, True) if one.id == id)


@pytest.mark.parametrize(("a_high", "state"), [(2.05, "clean"), (4.0, "found")])
def test_values_that_are_a_hair_beyond_are_no_clipping(a_high, state):
    layer = LayerFigures(PAIR, 20.0, 0.99, -1.0, a_high, low=-1.0, high=2.0, below=0.0, above=0.01)
    assert asked(Why((layer,)), "compare.clipping").state == state


@pytest.mark.parametrize(("count", "of"), [(7, 8), (22, 36), (0, 5), (5, 5)])
def test_limits_are_those_of_the_binomial_distribution(count, of):
    from scipy.stats import binom

    low, high = exact(Share(count, of))
    assert count == 0 or binom.sf(count - 1, of, low) == pytest.approx(0.025)
    assert count == of or binom.cdf(count, of, high) == pytest.approx(0.025)
    assert low <= count / of <= high


def test_every_rule_is_asked_and_what_was_not_run_says_why():
    checks = judged({}, {"answers": "out of memory"}, True)
    assert [one.id for one in checks] == list(RULES)
    assert {one.state for one in checks} == {"not-run"} and all(one.reason for one in checks)
    assert next(one for one in checks if one.id == "compare.answers").reason == "out of memory"
    without = {one.id: one.reason for one in judged({}, {}, False)}
    assert without["compare.drift"] == "no pictures were given" != without["compare.weights"]


@pytest.mark.parametrize(
    ("worst", "others", "state"),
    [
        (1.0, [0.001, 0.05, 0.0004, 0.04, 0.0002], "found"),  # 99 % of the damage, and z under 4.5
        (0.2, [0.09, 0.001, 0.05, 0.0004], "clean"),  # 77 %, and z under 4.5
        (0.2, [0.02, 0.021, 0.02, 0.019, 0.02], "found"),  # it stands out
        (0.02, [0.0001, 0.0002, 0.0001, 0.0001], "clean"),  # 34 dB are no damage
        (0.2, [1e-5], "found"),  # nothing else differs
    ],
)
def test_a_layer_that_does_nearly_all_is_found_whatever_its_z(worst, others, state):
    effects = [worst, *others]
    total, scores = sum(e**2 for e in effects), robust_z(effects)
    listed = [LocalEffect(f"layer{i}", "x", "x", e, e**2 / total, scores[i]) for i, e in enumerate(effects)]
    check = next(
        one
        for one in judged({"local": Local(tuple(listed), worst, 4)}, {}, True)
        if one.id == "compare.layer"
    )
    assert check.state == state


@pytest.mark.parametrize(
    ("worst", "of", "state"),
    [
        (0.2, {}, "found"),  # 80 %
        (0.2, {"rounded": 2}, "clean"),
        (0.4, {"rounded": 2}, "found"),  # 94 %
        (0.4, {"bound": True}, "clean"),
    ],
)
def test_what_is_several_in_one_needs_more_to_be_found(worst, of, state):
    effects = [worst, 0.05, 0.051, 0.05, 0.049]
    total, scores = sum(e**2 for e in effects), robust_z(effects)
    listed = [LocalEffect(f"layer{i}", "x", "x", e, e**2 / total, scores[i]) for i, e in enumerate(effects)]
    listed[0] = replace(listed[0], **of)
    checks = judged({"local": Local(tuple(listed), worst, 4)}, {}, True)
    assert next(one for one in checks if one.id == "compare.layer").state == state


@pytest.mark.parametrize(("vnni", "severity"), [(False, "low"), (True, "high")])
def test_sums_that_the_processor_cuts_are_no_fault_of_a_layer(vnni, severity):
    """A dynamic file multiplies integers, which a processor without VNNI cuts."""
    layer = LayerFigures(PAIR, 20.0, 0.99, 0.0, 1.0, codes="uint8", dynamic=True)
    held = Why((layer,), b=Codes(("uint8",), ("int8",)), machine={"vnni": vnni})
    effects = Local((LocalEffect("x", "x", "x", 0.25, 1.0),), 0.25, 4)
    check = next(
        one for one in judged({"local": effects, "why": held}, {}, True) if one.id == "compare.layer"
    )
    assert [one.severity for one in check.findings] == [severity]
    assert ("reduce_range" in check.findings[0].advice) is not vnni


@pytest.mark.parametrize(
    ("codes", "overflow"),
    [
        (Codes(("uint8",), ("int8",)), True),
        (Codes(("int8",), ("int8",)), True),  # a QDQ file, of which ONNX Runtime makes uint8
        (Codes(("uint16", "int8"), ("int8",)), True),
        (Codes(("int8",), ("int8",), written=True), False),
        (Codes(("uint8",), ("int8",), written=True), True),
        (Codes(("int8",), ("int8",), reduce_range=True), False),
        (Codes(("int8",), ("uint8",)), False),
        (Codes(("uint16",), ("int8",)), False),
        (Codes((), ("int8",)), False),
        (Codes(("uint8",)), False),  # float weights
    ],
)
def test_which_codes_overflow_in_16_bits(codes, overflow):
    assert codes.overflow is overflow
    for vnni in (True, False, None):
        held = Why((), a=codes, b=codes, machine={"vnni": vnni})
        assert (held.saturates, held.a_saturates) == (overflow and vnni is False,) * 2


INT8, FLOAT = Codes(("int8",), ("int8",)), Codes()
UINT8 = Codes(("uint8",), ("int8",), written=True)


@pytest.mark.parametrize(
    ("codes", "vnni", "severity"),
    [(INT8, False, "low"), (INT8, True, "high"), (Codes(("int8",)), False, "high"), (UINT8, False, "low")],
)
def test_what_is_rewritten_is_a_fault_but_where_the_processor_cuts_sums(codes, vnni, severity):
    parts = {"why": Why((), b=codes, machine={"vnni": vnni}), "runtime": Likeness(signal=1.0, noise=0.2)}
    (one,) = next(one for one in judged(parts, {}, True) if one.id == "compare.runtime").findings
    assert one.severity == severity and ("reduce_range" in one.advice) is (severity == "low")


@pytest.mark.parametrize(
    ("a", "b", "vnni", "noise", "told"),
    [
        (FLOAT, UINT8, False, 0.05, "weights of 8 bits"),
        (FLOAT, INT8, False, 0.05, "weights of 8 bits"),
        (INT8, FLOAT, False, 0.05, "A's weights of 8 bits"),
        (INT8, UINT8, False, 0.05, "weights of 8 bits"),
        (FLOAT, UINT8, True, 0.05, ""),
        (FLOAT, UINT8, None, 0.05, ""),
        (FLOAT, FLOAT, False, 0.05, ""),
        (FLOAT, UINT8, False, 2e-4, ""),  # as the layers have it
        (FLOAT, UINT8, False, 1e-6, ""),  # less than they have
    ],
)
def test_answers_that_lose_more_than_layers_do_are_the_doing_of_the_processor(a, b, vnni, noise, told):
    """Where B is cut with optimisations and without, or A is, `compare.runtime` sees nothing."""
    effects = Local((LocalEffect("x", "x", "x", 0.01, 1.0),), 0.01, 4)
    answers = Answers(4, agreement={0.1: Share(10, 40)}, likeness={"logits": Likeness(1.0, noise=noise)})
    held = Why((), a=a, b=b, machine={"vnni": vnni})
    parts = {"answers": answers, "local": effects, "why": held, "split": Split(0.008, 0.006, 0.0, 4)}
    parts["runtime"] = Likeness(1.0)
    (one,) = next(one for one in judged(parts, {}, True) if one.id == "compare.answers").findings
    assert one.advice.startswith(told or "64% of the noise comes from the weights")
    assert ("of the noise" in one.advice) is not bool(told)
    found = Compared(
        np.zeros(1), {}, checks=(), answers=answers, effects=effects, why=held, split=parts["split"]
    )
    first, *more = noise_of(found)
    if told:
        whose = " and ".join(name for name, codes in (("A", a), ("B", b)) if codes != FLOAT)
        assert first.endswith(f"cuts the sums of {whose}")
        assert not more and not explained(found) and "has 40 dB there; the answers have 13" in first
    else:
        assert first.startswith("mostly the weights") and explained(found)
        assert len(more) == (noise != 2e-4) and "other" in "".join(more or ["other"])


@pytest.mark.parametrize(
    ("run", "whole", "told"),
    [
        (0.04, None, [("low", 14, "cut")]),
        (0.04, 1e-3, [("low", 14, "cut")]),
        (0.04, 0.03, [("medium", 14, "rewritten")]),  # whole sums change little: it was not they
        (0.2, 0.02, [("medium", 17, "both")]),
        (0.2, 0.15, [("high", 7, "rewritten")]),
        (0.002, 0.002, []),
    ],
)
def test_what_rewriting_does_to_a_file_whose_sums_are_cut_is_told_by_a_run_with_whole_sums(run, whole, told):
    kept = None if whole is None else Likeness(1.0, noise=whole)
    effects = Local((LocalEffect("x", "x", "x", 0.01, 1.0),), 0.01, 4)
    answers = Answers(4, agreement={0.1: Share(10, 40)}, likeness={"logits": Likeness(1.0, noise=run)})
    held = Why((), b=INT8, machine={"vnni": False}, whole=kept)
    parts = {"answers": answers, "local": effects, "why": held, "split": Split(0.008, 0.006, 0.0, 4)}
    parts["runtime"] = Likeness(1.0, noise=run)
    checks = judged(parts, {}, True)
    findings = next(one for one in checks if one.id == "compare.runtime").findings
    found = Compared(
        np.zeros(1), {}, checks, answers=answers, effects=effects, why=held, split=parts["split"]
    )
    (other,) = next(one for one in checks if one.id == "compare.answers").findings
    assert [(one.severity, round(one.figure)) for one in findings] == [one[:2] for one in told]
    by = told[0][2] if told else "rewritten"
    assert all(("VNNI" in one.sentence) is (by != "rewritten") for one in findings)
    assert all((one.advice == REWRITTEN) is (by != "cut") for one in findings)
    assert other.advice == (REWRITTEN if by == "rewritten" else CUT_SUMS)
    assert noise_of(found)[0].endswith("changes B's outputs" if by == "rewritten" else "cuts the sums of B")
    assert not explained(found)


def ranged(shares: list[float], held: float = 1.0) -> Why:
    """A layer whose pictures each go from 0 to such a share of what B holds."""
    most, ends = max(shares), tuple((0.0, share) for share in shares)
    codes = {"codes": "uint8", "low": 0.0, "high": held, "used": most / held}
    return Why((LayerFigures(PAIR, 20.0, 0.99, 0.0, most, ends=ends, **codes),), pictures=len(shares))


@pytest.mark.parametrize(
    ("shares", "state"),
    [
        ([0.09, 0.1, 0.11, 0.1], "found"),  # pictures that are much alike tell what others need
        ([0.05, 0.12, 0.07, 0.09], "not-run"),  # these do not
        ([0.05, 0.12, 0.07, 0.09] * 4, "found"),  # as many of them do
        ([0.1, 0.1], "not-run"),
        ([0.03, 0.2, 0.06, 0.3], "clean"),
    ],
)
def test_a_range_is_judged_by_what_its_pictures_tell_of_others(shares, state):
    check = asked(ranged(shares), "compare.range")
    assert check.state == state
    if state == "not-run":
        assert f"{len(shares)} pictures are too few" in check.reason and "range of x" in check.reason
    else:
        assert max(shares) <= check.figure <= 1


@pytest.mark.parametrize(("wasting", "findings"), [(9, 1), (6, 1), (5, 5), (2, 2)])
def test_codes_that_most_layers_waste_are_one_finding(wasting, findings):
    """Of ten: A's own values are too small then, or the calibration was of other pictures."""
    layers = [ranged([0.1, 0.1, 0.1] if i < wasting else [0.8, 0.8, 0.8]).layers[0] for i in range(10)]
    check = asked(Why(tuple(layers), pictures=3), "compare.range")
    assert len(check.findings) == findings
    assert ("9 of 10 layers" in check.findings[0].sentence) is (wasting == 9)


def test_the_tolerance_factor_is_that_of_the_tables():
    for count, factor in ((3, 7.656), (4, 5.144), (16, 2.524)):  # Natrella 1963, table A-7
        shares = np.exp(np.linspace(-1, 1, count) * 1e-3) * 0.1
        spread = np.log(shares).std(ddof=1)
        (layer,) = ranged(shares.tolist()).layers
        assert needed(layer) == pytest.approx(0.1 * np.exp(factor * spread), rel=2e-6)
