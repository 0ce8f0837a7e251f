"""The checks that there are, and what one says: findings, with figure, threshold and evidence, and its own state.

One of `audit` is a function of one file in `checks/`, entered by a decorator:

    @check("file.finite", "Are all weights finite?", severity="high", limits="…")
    def finite(subject: Subject, rule: Rule) -> Check:
        ...

Ids are stable: policies, accepted findings and reports of years ago name them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from onnxviz.errors import spelt
from onnxviz.tables import Columns

if TYPE_CHECKING:
    from onnxviz.auditing.subject import Subject

Severity = Literal["high", "medium", "low", "info"]
State = Literal["found", "clean", "not-run", "not-applicable"]
Need = Literal["pictures", "labels", "masks", "gradients", "classes", "scores", "network"]
#: From the gravest down.
SEVERITIES: Final[tuple[Severity, ...]] = ("high", "medium", "low", "info")
#: From which on findings may be made to count.
FAIL_ON: Final = (*SEVERITIES[:3], "never")


@dataclass(frozen=True)
class Evidence:
    """What a reader looks at to believe a finding or a figure.

    caption   one sentence
    picture   a PIL image, or None
    table     columns, or None
    """

    caption: str
    picture: Any = None
    table: Columns | None = None


@dataclass(frozen=True)
class Finding:
    """One fault, where it is, how sure, and what to do.

    id          the check's, such as 'graph.bypass'
    severity    'high', 'medium', 'low' or 'info'
    figure      what was measured, as a sentence has it: a number or a short text
    threshold   what it was held against
    where       the place: a layer, a class, a region, an input; '' for the whole file
    sentence    what was found, for somebody who knows networks but not this tool
    advice      what to do next
    evidence    pictures and tables
    headline    what it means, for somebody who signs; '': the sentence says so itself
    """

    id: str
    severity: Severity
    figure: float | int | str
    threshold: float | int | str
    where: str
    sentence: str
    advice: str = ""
    evidence: tuple[Evidence, ...] = ()
    headline: str = ""

    @property
    def told(self) -> str:
        """What it means and what was found."""
        return f"{self.headline}: {self.sentence}" if self.headline else self.sentence

    @property
    def fingerprint(self) -> str:
        """The same for the same check at the same place, whatever the figure and the file's digest: 16 hex digits."""
        return hashlib.sha256(f"{self.id}\n{self.where}".encode("utf-8", "backslashreplace")).hexdigest()[:16]


@dataclass(frozen=True)
class Check:
    """One check and what became of it.

    id          stable, 'room.name'
    title       what it asks, a short question or noun
    state       'found', 'clean', 'not-run' or 'not-applicable'
    reason      why it is not-run or not-applicable
    figure      what was measured where nothing was found; None: nothing to say
    threshold   what it was held against
    limits      what this check cannot see
    findings    what it found, the gravest first
    evidence    what is shown besides findings
    figures     all it measured, by name, for the JSON report
    measure     what figure and threshold are of, in words; '' where they say so themselves
    """

    id: str
    title: str
    state: State
    reason: str = ""
    figure: float | int | str | None = None
    threshold: float | int | str | None = None
    limits: str = ""
    findings: tuple[Finding, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)
    measure: str = ""

    @property
    def shown(self) -> list[Evidence]:
        """All that there is to be looked at: its own, then that of its findings."""
        return [*self.evidence, *(one for finding in self.findings for one in finding.evidence)]


def checked(
    rule: Any,
    state: State | None = None,
    *,
    findings: Iterable[Finding] = (),
    evidence: Iterable[Evidence] = (),
    figures: Mapping[str, Any] | None = None,
    **told: Any,
) -> Check:
    """What became of a rule of `audit` or of `compare`.

    rule    what has `id`, `title`, `threshold`, `measure` and `limits`
    state   None: 'found' where there are findings, else 'clean'
    told    `figure`, or `reason`
    """
    gravest = sorted(findings, key=lambda one: SEVERITIES.index(one.severity))
    own: dict[str, Any] = {"threshold": rule.threshold, "measure": rule.measure, "limits": spelt(rule.limits)}
    own |= {"findings": tuple(gravest), "evidence": tuple(evidence), "figures": dict(figures or {})}
    return Check(rule.id, rule.title, state or ("found" if gravest else "clean"), **own, **told)


def ordered(checks: Iterable[Check], accepted: Collection[str] = ()) -> list[Finding]:
    """The findings of all checks: first those that nobody accepted, the gravest before the others."""
    found = [finding for check in checks for finding in check.findings]
    return sorted(found, key=lambda one: (one.fingerprint in accepted, SEVERITIES.index(one.severity)))


def counts(finding: Finding, fail_on: str, accepted: Collection[str] = ()) -> bool:
    """Whether a finding is as grave as `fail_on` ('never': none is), and its fingerprint not accepted."""
    if fail_on not in SEVERITIES or finding.fingerprint in accepted:
        return False
    return SEVERITIES.index(finding.severity) <= SEVERITIES.index(fail_on)


# --- the rules of audit ---------------------------------------------------------------------------


# So many checks that were not made for the same reason are one line.
_MANY: Final = 3
_MARKS: Final = {"found": "FOUND", "clean": "clean", "not-run": "not run", "not-applicable": "-"}


def as_lines(checks: Sequence[Check], accepted: Mapping[str, str]) -> list[str]:
    """The checks as lines, the findings under theirs.

    accepted   reasons, by fingerprint
    """
    width = max((len(one.id) for one in checks), default=0)
    idle: dict[str, list[str]] = {}
    for one in checks:
        if one.state == "not-run":
            idle.setdefault(one.reason, []).append(one.id)
    found = []
    for one in checks:
        alike = idle.get(one.reason, ()) if one.state == "not-run" else ()
        if len(alike) >= _MANY:
            if one.id == alike[0]:
                rooms = ", ".join(dict.fromkeys(name.partition(".")[0] for name in alike))
                found.append(f"{_MARKS[one.state]:8} {len(alike)} checks ({rooms}): {one.reason}")
            continue
        said = one.figure if one.state in ("found", "clean") else one.reason
        found.append(f"{_MARKS[one.state]:8} {one.id.ljust(width)}  {'' if said is None else said}")
        for finding in one.findings:
            reason = accepted.get(finding.fingerprint)
            how = f"accepted: {reason}" if reason else finding.severity
            found.append(f"{'':8}   {how}: {finding.told} [{finding.fingerprint}]")
    return found


class NotRun(Exception):
    """Raised by a check that cannot be made here; its text says why."""


class NotApplicable(Exception):
    """Raised by a check that says nothing about this file; its text says why."""


@dataclass(frozen=True)
class Rule:
    """A check: what it asks, how grave its finding is, what it needs.

    threshold   a number that the figure is held against, which a policy may change; or a text
    measure     what figure and threshold are of, in words
    needs       what there must be: 'network' (a file that could be opened; always, but for file.loading), 'classes'
                (a classifier), 'scores' (a classifier or a recogniser of text), 'pictures', 'labels', 'masks',
                'gradients'
    least       the fewest pictures
    limits      what it cannot see
    """

    id: str
    title: str
    severity: Severity
    run: Callable[[Subject, Rule], Check]
    threshold: float | str = "any"
    needs: tuple[Need, ...] = ()
    least: int = 1
    limits: str = ""
    measure: str = ""

    @property
    def bar(self) -> float:
        """The threshold of a check that has a number for it."""
        return float(self.threshold)

    def finding(
        self,
        figure: float | int | str,
        where: str,
        sentence: str,
        advice: str = "",
        evidence: Sequence[Evidence] = (),
        severity: Severity | None = None,
        headline: str = "",
    ) -> Finding:
        """A finding of this check.

        severity   None: the check's own; one that is lighter stays as light
        headline   what it means, for somebody who signs
        """
        return Finding(
            self.id,
            severity or self.severity,
            figure,
            self.threshold,
            where,
            spelt(sentence),
            spelt(advice),
            tuple(evidence),
            spelt(headline),
        )

    def check(
        self,
        figure: float | int | str | None = None,
        findings: Sequence[Finding] = (),
        evidence: Sequence[Evidence] = (),
        figures: Mapping[str, Any] | None = None,
    ) -> Check:
        """The check as it is reported, with what it measured.

        figure     what stands beside its title
        findings   from `finding`
        evidence   what is shown besides findings
        figures    all that was measured, by name
        """
        return checked(self, figure=figure, findings=findings, evidence=evidence, figures=figures)

    def idle(self, state: Literal["not-run", "not-applicable"], reason: str) -> Check:
        """The check where it was not made."""
        return checked(self, state, reason=spelt(reason))


def columns(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> dict[str, list[Any]]:
    """Rows as a table of evidence has them."""
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


_RULES: Final[dict[str, Rule]] = {}


def check(
    id: str,
    title: str,
    *,
    severity: Severity,
    threshold: float | str = "any",
    needs: tuple[Need, ...] = ("network",),
    least: int = 1,
    limits: str = "",
    measure: str = "",
) -> Callable[[Callable[[Any, Rule], Check]], Callable[[Any, Rule], Check]]:
    """Enter the function below as a check, see `Rule`."""

    def enter(function: Callable[[Any, Rule], Check]) -> Callable[[Any, Rule], Check]:
        if id in _RULES:
            raise ValueError(f"two checks are called {id!r}")
        _RULES[id] = Rule(id, title, severity, function, threshold, needs, least, limits, measure)
        return function

    return enter


def entered() -> dict[str, Rule]:
    """The checks that were entered so far, by id, in their order; `checks.rules` has them all."""
    return dict(_RULES)


def changed(rule: Rule, severity: Severity | None, threshold: float | None) -> Rule:
    """The check as a policy wants it."""
    wanted = {"severity": severity, "threshold": threshold}
    return replace(rule, **{name: value for name, value in wanted.items() if value is not None})  # type: ignore[arg-type]
