"""`onnxviz.audit`: every check that the file, the pictures and the labels allow, and the verdict."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from onnxviz._version import __version__
from onnxviz.auditing import accept as accepting
from onnxviz.auditing import policy as policies
from onnxviz.auditing import resume as resuming
from onnxviz.auditing.accept import Entry
from onnxviz.auditing.checks import rules
from onnxviz.auditing.finding import FAIL_ON, Check
from onnxviz.auditing.policy import Policy, Setting
from onnxviz.auditing.registry import Found, NotApplicable, NotRun, Rule, changed
from onnxviz.auditing.report.facts import now
from onnxviz.auditing.result import Audit
from onnxviz.auditing.subject import Subject
from onnxviz.errors import OnnxVizError, UsageError, WorkerCrashed, near
from onnxviz.network import Network
from onnxviz.progress import Shown, told, until_interrupted
from onnxviz.provenance import recorded
from onnxviz.text import quoted

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
    chosen, plan, entries = planned(policy, accept, only, skip, fail_on, 1)
    made = _audit(Subject(None, reason), chosen, plan, entries, fail_on, by, told("auto"), [], {})
    made.manifest |= manifest
    return made


def planned(
    policy: Any, accept: Any, only: Sequence[str], skip: Sequence[str], fail_on: str, sample: int
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
    """Find the pictures, their classes and masks."""
    if images is None:
        if truth is not None or masks is not None:
            raise UsageError("labels and masks belong to pictures, and none were given")
        return []
    from onnxviz.features.stream import sources

    listing = sources(images, subject.net).require()
    found, notes = list(listing.images), [f"skipped {one}" for one in listing.skipped]
    if len(found) > sample:
        notes.append(f"{sample} of {len(found)} pictures are looked at, spread evenly (--sample)")
        found = [found[i * len(found) // sample] for i in range(sample)]
    subject.images = found
    if masks is not None:
        from onnxviz.auditing.truth import find_masks

        recipe = subject.net.preprocessing
        if not recipe.pictorial:
            arrays = f"arrays of {recipe.count} channels"
            raise UsageError(f"--masks: this network takes {arrays}, and masks are of pictures")
        subject.masks = find_masks(masks, found, recipe)
    if truth is not None:
        from onnxviz.auditing.truth import read_truth

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
    applied = accepting.apply(entries, findings)
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
    told = (*notes, *applied.notes)
    found = Audit(checks, applied.accepted, told, required, fail_on, manifest, subject, by, when)
    manifest["figures"] = {"verdict": found.verdict, "findings": len(findings), **found.states}
    progress(len(chosen), len(chosen), "checks")
    return ending.given(found)


def _made(rule: Rule, subject: Subject) -> Check:
    """One check; what it stumbles over is its reason, and never ends the audit. A bug of ours does."""
    try:
        reason = _unmet(rule, subject)
        if reason is not None:
            return rule.idle(*reason)
        return rule.check(rule.run(subject, rule))
    except NotApplicable as reason:
        return rule.idle("not-applicable", str(reason))
    except WorkerCrashed as reason:
        if subject.crashed:
            return rule.idle("not-run", str(reason))
        subject.crashed = True
        text = f"the process that runs the file died: {reason}"
        return rule.check(Found("crashed", [rule.finding("crashed", "", text, _CRASHED, severity="high")]))
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
