"""The checks that there are. One is a function of one file in `checks/`, entered by a decorator:

    @check("file.finite", "Are all weights finite?", severity="high", limits="…")
    def finite(subject: Subject, rule: Rule) -> Found:
        ...

Ids are stable: policies, accepted findings and reports of years ago name them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, Literal

from onnxviz.auditing.finding import Check, Evidence, Finding, Severity, checked
from onnxviz.errors import spelt

if TYPE_CHECKING:
    from onnxviz.auditing.subject import Subject

Need = Literal["pictures", "labels", "masks", "gradients", "classes", "scores", "network"]


class NotRun(Exception):
    """Raised by a check that cannot be made here; its text says why."""


class NotApplicable(Exception):
    """Raised by a check that says nothing about this file; its text says why."""


@dataclass(frozen=True)
class Found:
    """What a check measured.

    figure     what stands beside its title
    findings   from `Rule.finding`
    evidence   what is shown besides findings
    figures    all that was measured, by name
    """

    figure: float | int | str | None = None
    findings: Sequence[Finding] = ()
    evidence: Sequence[Evidence] = ()
    figures: Mapping[str, Any] = field(default_factory=dict)


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
    run: Callable[[Subject, Rule], Found]
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

    def check(self, found: Found) -> Check:
        """The check as it is reported."""
        return checked(self, **vars(found))

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
) -> Callable[[Callable[[Any, Rule], Found]], Callable[[Any, Rule], Found]]:
    """Enter the function below as a check, see `Rule`."""

    def enter(function: Callable[[Any, Rule], Found]) -> Callable[[Any, Rule], Found]:
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
