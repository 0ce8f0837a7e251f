"""The commands that write a report in a folder: what is told on the terminal besides, and what the exit code says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer

from onnxviz._version import __version__
from onnxviz.cli import saving
from onnxviz.cli.command import Call
from onnxviz.cli.run import Run
from onnxviz.errors import LimitExceeded, ModelRejected, ModelUnsuitable, UsageError, WorkerCrashed
from onnxviz.files import sha256, write_atomic
from onnxviz.text import quoted


def audit(run: Run, call: Call) -> None:
    """The audit of one file; exit code 1 where it does not pass."""
    from onnxviz.auditing.run import planned, refused

    written = call.own.pop("write_accept")
    if written is not None:
        _refuse(written)
    if run.out is not None:
        _claim(run, run.output())
    if call.options.pop("resume", False):
        call.options["resume"] = run.output()
    of_plan = ("policy", "accept", "only", "skip", "fail_on", "sample")
    planned(**{name: call.options[name] for name in of_plan if name in call.options})

    def show(found: Any) -> None:
        _show(run, found, written)

    try:
        net = run.load(call.model, isolate=_isolated(run))
    except (ModelRejected, LimitExceeded, WorkerCrashed) as reason:
        path = Path(call.model)
        if isinstance(reason, ModelUnsuitable) or not path.is_file():
            raise
        of_pictures = ("truth", "masks", "sample", "resume")
        options = {key: value for key, value in call.options.items() if key not in of_pictures}
        found = refused(reason, _known(path), **options)
        show(found)
    else:
        images = call.arguments["images"] or None
        note = ": the checks that were made are in the report, which says incomplete"
        found = saving.finish(run, lambda: call(net, images), show, note)
    if found.verdict != "pass":
        raise typer.Exit(1)


def _claim(run: Run, target: Path, *more: str, checks: bool = True) -> None:
    """Before any work: the report's own names, and more of them, in the folder that it goes to."""
    from onnxviz.auditing.report.write import names

    run.claim(target, *(target / name for name in (*names(run.command, checks), *more)))


def _isolated(run: Run) -> bool:
    """Whether the file runs in a process of its own: what it crashes is then one check, and not the audit."""
    from onnxviz.runtime.worker import lacking

    return run.model.get("backend", "native") == "native" and lacking() is None


def _refuse(written: Path) -> None:
    """Before any work: what lies there may be the model, or reasons that somebody wrote."""
    if written.suffix.lower() != ".toml":
        raise UsageError(f"--write-accept {quoted(written)}: expected a name that ends in .toml")
    if os.path.lexists(written):
        raise UsageError(
            f"--write-accept {quoted(written)}: it is there already; give another name, or delete it"
        )


def _known(path: Path) -> dict[str, Any]:
    """What a manifest says of a file that could not be opened."""
    from onnxviz.provenance import command

    try:
        digest = sha256(path)
    except OSError:
        digest = ""
    model = {"name": path.stem, "path": str(path), "sha256": digest}
    return {"model": model, "versions": {"onnxviz": __version__}, **command()}


def _show(run: Run, found: Any, written: Path | None) -> None:
    """The checks as lines, the findings under theirs; the report where --out names a folder."""
    *told, verdict = found.lines()
    for text in told:
        run.say(text)
    for text in found.notes:
        run.note(text)
    if written is not None:
        from onnxviz.auditing.accept import skeleton

        open_ = [one for one in found.findings if one.fingerprint not in found.accepted]
        write_atomic(written, skeleton(open_))
        run.note(f"{len(open_)} findings to be accepted, each with a reason, are in {written}")
    if run.out is not None:
        run.say(str(found.save(run.output())))
    run.say(verdict)
    run.emit({**found.to_dict(), "manifest": found.manifest})


def compare(run: Run, call: Call) -> None:
    """Findings, figures and a page; exit code 1 where a finding counts, or what was asked for could not be done."""
    from onnxviz.auditing import accept
    from onnxviz.comparing.judge import verdict

    target, fail_on = run.output(), call.own["fail_on"]
    _claim(run, target, "layers.csv", "layers.parquet", "exclude.json")
    if call.options.pop("resume", False):
        call.options["resume"] = target
    entries = accept.read(call.own["accept"])  # what cannot be read is told before any work
    a, b = (run.load(call.arguments[name], name=name) for name in ("a", "b"))

    def save(found: Any) -> None:
        accepted, unused = accept.apply(entries, found.findings)
        for note in unused:
            run.note(note)
        path = found.save(target, fail_on=fail_on, accepted=accepted, model=call.arguments["b"])
        for line in found.lines(accepted):
            run.say(line)
        outcome = verdict(found, fail_on, accepted)
        run.say()
        run.say(f"{outcome}: {path}")
        run.emit({**found.to_dict(fail_on=fail_on, accepted=accepted), "out": str(path)})
        outcomes.append(outcome)

    outcomes: list[str] = []
    note = ": what was compared so far is saved, and says incomplete"
    saving.finish(run, lambda: call(a, b, call.arguments["images"]), save, note)
    if outcomes != ["pass"]:
        raise typer.Exit(1)


def report(run: Run, call: Call) -> None:
    """A folder with the page of a network and photos."""
    target = run.output()
    _claim(run, target, "photos.csv", "photos.parquet", checks=False)
    net = run.load(call.model)
    one_file = call.own.pop("one_file")

    def save(found: Any) -> None:
        for one in found.embedding.skipped:
            run.note(f"skipped {one}")
        path = found.save(target, one_file=one_file)
        run.say(str(path))
        run.emit({"out": str(path), "manifest": found.manifest})

    saving.finish(
        run, lambda: call(net, call.arguments["images"]), save, ": the page holds what was done so far"
    )
