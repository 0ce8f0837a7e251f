"""What an audit found: checks, findings, verdict, and the report that is made of them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from onnxviz.auditing.finding import Check, Finding, State, counts, ordered
from onnxviz.auditing.subject import Subject
from onnxviz.errors import OnnxVizError
from onnxviz.progress import silent

if TYPE_CHECKING:
    from onnxviz.auditing.album import Album
    from onnxviz.auditing.report.page import Page

_FEW: Final = 60  # pictures that stand on the page, with maps
_MAPS: Final = ("grad-cam", "smoothgrad", "saliency")  # by the first that no check named
_BLIND: Final = (
    "A backdoor inside learned weights, without a mark in the pictures that were given, is not found. What each check "
    "cannot see stands beside it."
)


@dataclass
class Audit:
    """What an audit found.

    checks     all of them, in the order of the report, also those that did not run
    accepted   fingerprint -> reason, of findings that somebody has accepted
    notes      what is to be said of accepted findings that are not used, and of pictures that were left out
    required   ids of the checks that the policy demands
    fail_on    the severity from which on a finding fails the file; 'never'
    manifest   the run manifest
    subject    what was audited, for the report's pictures
    """

    checks: tuple[Check, ...]
    accepted: dict[str, str]
    notes: tuple[str, ...]
    required: frozenset[str]
    fail_on: str
    manifest: dict[str, Any] = field(repr=False)
    subject: Subject = field(repr=False)
    by: str | None = None
    when: datetime | None = None

    @property
    def findings(self) -> list[Finding]:
        """Of all checks: first those that nobody accepted, the gravest before the others."""
        return ordered(self.checks, self.accepted)

    @property
    def failing(self) -> list[Finding]:
        """The findings at or over `fail_on` that nobody accepted."""
        return [one for one in self.findings if counts(one, self.fail_on, self.accepted)]

    @property
    def lacking(self) -> list[Check]:
        """The checks that have to run and did not."""
        return [one for one in self.checks if one.id in self.required and one.state == "not-run"]

    @property
    def verdict(self) -> str:
        """'fail': a finding at or over `fail_on` that nobody accepted. 'incomplete': a check that the policy requires
        did not run, or the audit was interrupted. Else 'pass'."""
        if self.failing:
            return "fail"
        return "incomplete" if self.lacking or self.manifest.get("incomplete") else "pass"

    @property
    def states(self) -> dict[str, int]:
        """How many checks there are of each state."""
        states = [one.state for one in self.checks]
        return {state: states.count(state) for state in get_args(State)}

    def __repr__(self) -> str:
        counted = ", ".join(f"{count} {state}" for state, count in self.states.items())
        return f"<Audit: {self.verdict}, {len(self.findings)} findings (checks: {counted})>"

    def to_dict(self) -> dict[str, Any]:
        """The whole report for machines; its form is docs/schemas/report.schema.json."""
        from onnxviz.auditing.report.write import to_dict

        return to_dict(self.page())

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the report: report.html, report.json, audit.sarif, junit.xml, findings.csv, evidence, SHA256SUMS.

        With pictures also photos.csv and photos.parquet, as `onnxviz.report` writes them; up to 60 stand on the page.

        returns   the path of report.html
        raises    OutputRefused
        """
        from onnxviz.auditing.report.write import write

        page, files = self.page(), dict[str, bytes]()
        album = self._album()
        if album is not None:
            files = album.files()
            if len(album.embedding) <= _FEW:
                page = replace(page, sections=[*page.sections, album.shown()])
        return write(page, folder, self.manifest, files=files)

    def _album(self) -> Album | None:
        """The pictures as `onnxviz.report` has them, the few with maps; None without, or where they say nothing."""
        from onnxviz.auditing.album import report

        subject = self.subject
        if subject.opened is None or not subject.images or self.manifest.get("incomplete"):
            return None
        places = [place for place, _, _ in subject.each()]
        truth = None if subject.truth is None else [subject.truth[place] for place in places]
        known = truth is not None and any(one is not None for one in truth)
        named = {one.where for one in self.findings if one.id in ("faith.gain", "sanity.cascade")}
        try:
            return report(
                subject.net,
                [subject.images[place] for place in places],
                truth=truth if known else None,
                methods=[name for name in _MAPS if name not in named][:1],
                explained=_FEW if len(places) <= _FEW else 0,
                seed=subject.seed,
                progress=silent,
            )
        except OnnxVizError as reason:
            if type(reason).exit_code == OnnxVizError.exit_code:
                raise
            self.manifest["photos"] = f"no photos.parquet: {reason}"
            return None

    def page(self) -> Page:
        """The report as content."""
        from onnxviz.auditing.report.page import Page, Section, Text

        model = self.manifest.get("model", {})
        notes = [Section("Notes", [Text("\n\n".join(self.notes))])] if self.notes else []
        return Page(
            kind="audit",
            title=Path(self._file).name,
            verdict=self.verdict,  # type: ignore[arg-type]
            lead=[*self._said(), _BLIND],
            facts=self._facts(model),
            when=self.when,
            checks=self.checks,
            accepted=self.accepted,
            fail_on=self.fail_on,
            sections=notes,
            figures=dict(self.manifest.get("figures", {})),
            model=self._file,
            clauses=True,
        )

    @property
    def _file(self) -> str:
        """The path of the file from here; what it is called where it came from memory."""
        from onnxviz.auditing.report.facts import file_of

        if self.subject.opened is not None:
            return file_of(self.subject.opened)
        model = self.manifest.get("model", {})
        return str(model.get("path") or model.get("name") or "model")

    def _said(self) -> list[str]:
        """The verdict in a sentence, or the gravest findings."""
        if self.verdict == "pass":
            return [f"No finding at or over {self.fail_on!r} that nobody has accepted."]
        means = dict.fromkeys(one.headline or one.sentence for one in self.failing)
        said = [f"{one}." for one in list(means)[:3]]
        said += [f"{one.id} has to run and did not: {one.reason}." for one in self.lacking]
        if self.manifest.get("incomplete"):
            said.append("The audit was interrupted: what was not made yet is marked.")
        return said

    def _facts(self, model: dict[str, Any]) -> dict[str, Any]:
        from onnxviz.auditing.report.facts import facts

        more = {"photos": len(self.subject.images) or None, "seed": self.subject.seed}
        if self.subject.opened is not None:
            recipe = self.manifest["preprocessing"]["name"]
            return facts({"network": self.manifest}, by=self.by, **{"pictures go in as": recipe}, **more)
        told = facts({}, by=self.by, **more)
        return {"file": model.get("path"), "file, SHA-256": model.get("sha256"), **told}
