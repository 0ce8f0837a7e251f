"""`onnxviz.audit`: every check that the file, the pictures and the labels allow, what they found, the verdict, and the
report that is made of them.
"""

from __future__ import annotations

import html
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

from onnxviz._version import __version__
from onnxviz.auditing import accept as accepting
from onnxviz.auditing import policy as policies
from onnxviz.auditing import resume as resuming
from onnxviz.auditing.accept import Entry
from onnxviz.auditing.checks import rules
from onnxviz.auditing.finding import (
    FAIL_ON,
    Check,
    Finding,
    NotApplicable,
    NotRun,
    Rule,
    State,
    as_lines,
    changed,
    counts,
    ordered,
)
from onnxviz.auditing.policy import Policy, Setting
from onnxviz.auditing.report.facts import facts, file_of, now
from onnxviz.auditing.subject import Subject, spread
from onnxviz.auditing.truth import find_masks, read_truth
from onnxviz.errors import OnnxVizError, UsageError, WorkerCrashed, near
from onnxviz.features.stream import sources
from onnxviz.network import Network
from onnxviz.progress import Shown, silent, told, until_interrupted
from onnxviz.provenance import recorded
from onnxviz.text import printable, quoted

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
    by, when   who audits, and when that was; None: not told
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

    def lines(self) -> list[str]:
        """What the command prints: the checks, the findings under theirs, the verdict."""
        return [*as_lines(self.checks, self.accepted), f"verdict  {self.verdict}"]

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(chr(10).join(map(printable, self.lines())))}</pre>"

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
        more = {"photos": len(self.subject.images) or None, "seed": self.subject.seed}
        if self.subject.opened is not None:
            recipe = self.manifest["preprocessing"]["name"]
            return facts({"network": self.manifest}, by=self.by, **{"pictures go in as": recipe}, **more)
        told = facts({}, by=self.by, **more)
        return {"file": model.get("path"), "file, SHA-256": model.get("sha256"), **told}


#: Why a check of pictures was not made where there are none.
NO_PICTURES: Final = "no pictures were given; 30 photos or more allow these, some with --truth or --masks"
_CRASHED: Final = (
    "What crashes here crashes whatever runs the file: do not ship it. A crash may be a way in as well: keep such files"
    " in a process of their own (`isolate=True`), and ask the makers of the file, then those of ONNX Runtime."
)
_INTERRUPTED: Final = "the audit was interrupted before"


@recorded
def audit(
    net: Network,
    images: Any = None,
    *,
    truth: Any = None,
    masks: str | os.PathLike[str] | None = None,
    policy: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    accept: str | os.PathLike[str] | Sequence[Entry] | None = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    fail_on: str = "high",
    by: str | None = None,
    resume: str | os.PathLike[str] | None = None,
    sample: int = 500,
    seed: int = 0,
    progress: Shown = "auto",
) -> Audit:
    """May this file ship? Checks of the file, and with pictures of its answers, each with figure, evidence and limits.

    images     pictures or folders of them; None: what the file alone tells
    truth      a CSV of picture and class, or 'folders': each picture's class is called like its folder
    masks      a folder of masks of what the pictures show, each called like its picture and of its size
    policy     a TOML file of severities, thresholds and checks that have to run
    accept     a TOML file of findings that somebody has accepted, why, and until when
    only       ids of checks, such as 'graph.bypass': no others are made
    skip       ids of checks that are left out
    fail_on    'high', 'medium', 'low' or 'never': from which severity on a finding fails the file
    by         who audits, for the report
    resume     the folder of an earlier report: its checks are taken over where nothing has changed since
    sample     the most pictures that are looked at, spread evenly over those given
    raises     UsageError for an unknown id, a policy or accepted findings that cannot be read, labels of unknown
               classes, masks of another size than their picture, all before any work; ImageRejected where no picture
               can be read; Interrupted with what was done
    """
    chosen, plan, entries = planned(policy, accept, only, skip, fail_on, sample)
    subject = Subject(net, seed=seed, demands=dict(plan.truth))
    notes = _pictured(subject, images, truth, masks, sample)
    done = {} if resume is None else resuming.made(resume, resuming.rests(subject, plan, __version__), chosen)
    return _audit(subject, chosen, plan, entries, fail_on, by, told(progress), notes, done)


def refused(
    reason: OnnxVizError,
    manifest: Mapping[str, Any],
    *,
    policy: Any = None,
    accept: Any = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    fail_on: str = "high",
    by: str | None = None,
) -> Audit:
    """The audit of a file that could not be opened: file.loading says why, and nothing else ran.

    manifest   what is known of the file: its name and digest
    """
    chosen, plan, entries = planned(policy, accept, only, skip, fail_on)
    made = _audit(Subject(None, reason), chosen, plan, entries, fail_on, by, told("auto"), [], {})
    made.manifest |= manifest
    return made


def planned(
    policy: Any = None,
    accept: Any = None,
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    fail_on: str = "high",
    sample: int = 1,
) -> tuple[dict[str, Rule], Policy, tuple[Entry, ...]]:
    """The checks that are made, as the policy wants them; what is wrong in the request is told before any work."""
    every = rules()
    counted = [one.id for one in every.values() if not isinstance(one.threshold, str)]
    plan = policies.read(policy, every, counted)
    entries = accepting.read(accept)
    for option, names in (("only", only), ("skip", skip)):
        for name in names:
            if not any(_among(one, [name]) for one in every):
                raise UsageError(f"--{option}: there is no check {quoted(name)}{near(name, every)}")
    if fail_on not in FAIL_ON:
        raise UsageError(f"--fail-on is one of {', '.join(FAIL_ON)}; got {quoted(fail_on)}")
    if isinstance(sample, bool) or not isinstance(sample, int) or sample < 1:
        raise UsageError(f"--sample is a number of pictures from 1 on, got {sample!r}")
    chosen = {}
    for name, rule in every.items():
        said = plan.checks.get(name, Setting())
        if (only and not _among(name, only)) or _among(name, skip):
            continue
        chosen[name] = changed(rule, said.severity, said.threshold)
    if not chosen:
        raise UsageError("--only and --skip leave no check")
    return chosen, plan, entries


def _among(name: str, names: Sequence[str]) -> bool:
    """Whether a check is named, or its family, such as 'graph'."""
    return any(name == one or name.startswith(f"{one}.") for one in names)


def _pictured(subject: Subject, images: Any, truth: Any, masks: Any, sample: int) -> list[str]:
    if images is None:
        if truth is not None or masks is not None:
            raise UsageError("labels and masks belong to pictures, and none were given")
        return []
    listing = sources(images, subject.net).require()
    found, notes = list(listing.images), [f"skipped {one}" for one in listing.skipped]
    if len(found) > sample:
        notes.append(f"{sample} of {len(found)} pictures are looked at, spread evenly (--sample)")
        found = spread(found, sample)
    subject.images = found
    if masks is not None:
        recipe = subject.net.preprocessing
        if not recipe.pictorial:
            arrays = f"arrays of {recipe.count} channels"
            raise UsageError(f"--masks: this network takes {arrays}, and masks are of pictures")
        subject.masks = find_masks(masks, found, recipe)
    if truth is not None:
        head = subject.net.head
        subject.truth = read_truth(truth, found, subject.net.labels, head.classes, subject.net.limits)
    if not subject.views:
        subject.net.pictures(found[:1])  # raises why
    return notes


def _audit(
    subject: Subject,
    chosen: Mapping[str, Rule],
    plan: Policy,
    entries: Sequence[Entry],
    fail_on: str,
    by: str | None,
    progress: Callable[[int, int | None, str], None],
    notes: list[str],
    done: Mapping[str, Check],
) -> Audit:
    every = rules()
    made = dict(done)
    when = now()
    with until_interrupted() as ending:
        for number, (name, rule) in enumerate(chosen.items()):
            progress(number, len(chosen), "checks")
            if name not in made:
                made[name] = _made(rule, subject)
    for name, rule in every.items():
        if name not in made:
            left = _INTERRUPTED if name in chosen else "left out by --only or --skip"
            made[name] = rule.idle("not-run", left)
    checks = tuple(made[name] for name in every)
    findings = [finding for one in checks for finding in one.findings]
    accepted, unused = accepting.apply(entries, findings)
    notes += [f"skipped {name}: {reason}" for name, reason in subject.skipped.items()]
    net = subject.opened
    count = len(subject.images)
    parameters = {"fail_on": fail_on, "checks": list(chosen), "seed": subject.seed, "pictures": count}
    manifest: dict[str, Any] = {"schema": "onnxviz.audit/1", "technique": "audit", "parameters": parameters}
    if net is not None:
        manifest = net.manifest("audit", **parameters)
        manifest[resuming.RESTS] = resuming.rests(subject, plan, __version__)
    if ending.stop is not None:
        manifest["incomplete"] = True
    required = frozenset(name for name, said in plan.checks.items() if said.required)
    told = (*notes, *unused)
    found = Audit(checks, accepted, told, required, fail_on, manifest, subject, by, when)
    manifest["figures"] = {"verdict": found.verdict, "findings": len(findings), **found.states}
    progress(len(chosen), len(chosen), "checks")
    return ending.given(found)


def _made(rule: Rule, subject: Subject) -> Check:
    """One check; what it stumbles over is its reason, and never ends the audit. A bug of ours does."""
    try:
        reason = _unmet(rule, subject)
        if reason is not None:
            return rule.idle(*reason)
        return rule.run(subject, rule)
    except NotApplicable as reason:
        return rule.idle("not-applicable", str(reason))
    except WorkerCrashed as reason:
        if subject.crashed:
            return rule.idle("not-run", str(reason))
        subject.crashed = True
        text = f"the process that runs the file died: {reason}"
        return rule.check("crashed", [rule.finding("crashed", "", text, _CRASHED, severity="high")])
    except (NotRun, OnnxVizError) as reason:
        if isinstance(reason, OnnxVizError) and type(reason).exit_code == OnnxVizError.exit_code:
            raise
        return rule.idle("not-run", str(reason))


def _unmet(rule: Rule, subject: Subject) -> tuple[Any, str] | None:
    """What a check needs and has not: its state, and the reason."""
    if "network" in rule.needs and subject.opened is None:
        return "not-run", "the file could not be opened (file.loading)"
    if "scores" in rule.needs and subject.no_scores:
        return "not-applicable", subject.no_scores
    if "classes" in rule.needs and subject.no_classes:
        return "not-applicable", subject.no_classes
    if "pictures" in rule.needs and not subject.images:
        return "not-run", NO_PICTURES
    if "pictures" in rule.needs and len(subject.images) < rule.least:
        count = len(subject.images)
        return "not-run", f"it needs {rule.least} picture{'s' * (rule.least != 1)} or more, and got {count}"
    if "labels" in rule.needs and subject.truth is None:
        return "not-run", "it needs the pictures' true classes (--truth)"
    if "masks" in rule.needs and subject.masks is None:
        return "not-run", "it needs masks of what the pictures show (--masks)"
    return None
