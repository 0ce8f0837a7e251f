"""What the network answers: whether it answers at all, and how often rightly."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np

from onnxviz.auditing.finding import Check, Evidence, Finding, NotRun, Rule, Severity, check, columns
from onnxviz.auditing.statistics import Calibration, Share
from onnxviz.auditing.subject import Subject
from onnxviz.graph.output import BINARY
from onnxviz.text import quoted

_SURE: Final = 0.5  # mean probability from which on numbers that are taken for classes answer one of them


@check(
    "answers.constant",
    "Does the network answer more than one thing?",
    severity="high",
    threshold=0.9,
    measure="share of the most frequent class",
    needs=("network", "classes", "pictures"),
    least=30,
    limits="Pictures that really show one class are told apart only by labels (--truth).",
)
def constant(subject: Subject, rule: Rule) -> Check:
    """Share of the most frequent class, and the number of distinct ones."""
    answers = subject.answers
    (most, count), *_ = Counter(answers.best[:, 0].tolist()).most_common(1)
    share, distinct = count / len(answers.best), len(set(answers.best[:, 0].tolist()))
    known = [subject.truth[place] for place in answers.place] if subject.truth is not None else []
    agreed = len(known) > 0 and known.count(most) > rule.bar * len(known)
    findings = []
    if len(answers.best) < rule.least:
        raise NotRun(f"it needs {rule.least} pictures, and {len(answers.best)} could be read")
    if share > rule.bar and not agreed:
        text = f"{share:.0%} of {len(answers.best)} pictures are called {quoted(subject.label(most))}"
        advice = "Check the preprocessing (input.*) first, then whether the export kept the weights."
        severity: Severity | None = None
        doubt = _doubt(subject, float(np.mean(answers.probability[answers.best[:, 0] == most])))
        if doubt:
            severity, text, advice = "low", f"{text}; {doubt}", f"Give true classes (--truth). {advice}"
        findings.append(rule.finding(round(share, 4), subject.label(most), text, advice, severity=severity))
    told = f"{share:.0%} one class, {distinct} distinct"
    return rule.check(told, findings, figures={"share": share, "distinct": distinct})


def _doubt(subject: Subject, share: float) -> str:
    """Why one answer for all pictures may be sound; '' where nothing speaks for that.

    share   the mean probability of the answer
    """
    end = subject.net.end
    if subject.truth is not None:
        return ""
    if end.kind == BINARY or end.classes == 2:
        return "of two classes the pictures may show one alone, as where faults or anomalies are looked for"
    if end.activation in ("sigmoid", "log_sigmoid"):
        return "each class has a sigmoid of its own, so one may be the likeliest everywhere"
    if not end.told and subject.net.labels is None and share < _SURE:
        return f"nothing says that these numbers are scores of classes, and the largest has a share of {share:.2f} only"
    return ""


@check(
    "answers.truth",
    "How often is the network right?",
    severity="high",
    threshold="as the policy says",
    needs=("network", "classes", "pictures", "labels"),
    limits="Of the pictures that were given; limits are of 95 % (Wilson) and say nothing of other pictures.",
)
def truth(subject: Subject, rule: Rule) -> Check:
    """Accuracy (first, first five), by class, and calibration error; findings only where a policy demands more."""
    answers, classes = subject.answers, subject.truth or ()
    rows = [(i, classes[place]) for i, place in enumerate(answers.place) if classes[place] is not None]
    if not rows:
        raise NotRun("no picture that could be read has a known class")
    first = Share(sum(int(answers.best[i, 0]) == known for i, known in rows), len(rows))
    five = Share(sum(known in answers.best[i].tolist() for i, known in rows), len(rows))
    calibration = Calibration()
    by_class: dict[int, list[bool]] = {}
    for i, known in rows:
        right = int(answers.best[i, 0]) == known
        calibration.add(float(answers.probability[i]), right)
        by_class.setdefault(int(known or 0), []).append(right)
    shares = {name: Share(sum(right), len(right)) for name, right in sorted(by_class.items())}
    names = ("class", "pictures", "right", "share", "lower limit", "upper limit")
    told = [(subject.label(name), one.of, one.count, one.share, *one.limits) for name, one in shares.items()]
    table = Evidence("Right answers by class", table=columns(names, told))
    figures = {"top1": first.to_dict(), "top5": five.to_dict(), "calibration_error": calibration.error}
    findings = list(_demanded(subject, rule, first, five, calibration.error or 0.0, shares))
    return rule.check(f"{first}, calibration error {calibration.error:.3f}", findings, [table], figures)


def _demanded(
    subject: Subject, rule: Rule, first: Share, five: Share, error: float, shares: dict[int, Share]
) -> list[Finding]:
    """What the policy's [truth] asks for and the pictures do not give."""
    found: list[Finding] = []

    def short(key: str, value: float, where: str, what: str, least: bool = True) -> None:
        wanted = subject.demands.get(key)
        if wanted is not None and (value < wanted if least else value > wanted):
            word = "at least" if least else "at most"
            text = f"{what} is {value:.1%}, and the policy wants {word} {wanted:.1%}"
            advice = "Look at the pictures that are answered wrongly first."
            found.append(rule.finding(round(value, 4), where, text, advice))

    short("top1_at_least", first.share or 0.0, "top1", "the share of right answers")
    short("top5_at_least", five.share or 0.0, "top5", "the share with the right answer among the first five")
    short("calibration_at_most", error, "calibration", "the calibration error", least=False)
    for name, one in shares.items():
        label: Any = subject.label(name)
        short("class_at_least", one.share or 0.0, label, f"the share of right answers of {quoted(label)}")
    return found
