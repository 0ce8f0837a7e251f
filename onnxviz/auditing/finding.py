"""What a check says: a finding, with its figure, its threshold and its evidence, and the state of the check itself."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from onnxviz.errors import spelt
from onnxviz.tables import Columns

Severity = Literal["high", "medium", "low", "info"]
State = Literal["found", "clean", "not-run", "not-applicable"]
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
