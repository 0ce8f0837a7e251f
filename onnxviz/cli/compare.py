"""`onnxviz compare`: two models opened, what changed between them told on a screen, and a folder written."""

from __future__ import annotations

from typing import Any

import typer

from onnxviz.cli import saving
from onnxviz.cli.command import Call
from onnxviz.cli.run import Run


def compare(run: Run, call: Call) -> None:
    """Findings, figures and a page; exit code 1 where a finding counts, or what was asked for could not be done."""
    from onnxviz.auditing import accept
    from onnxviz.comparing.judge import verdict

    target, fail_on = run.output(), call.own["fail_on"]
    run.claim(target)
    if call.options.pop("resume", False):
        call.options["resume"] = target
    entries = accept.read(call.own["accept"])  # what cannot be read is told before any work
    a, b = (run.load(call.arguments[name], name=name) for name in ("a", "b"))

    def save(found: Any) -> None:
        applied = accept.apply(entries, found.findings)
        for note in applied.notes:
            run.note(note)
        path = found.save(target, fail_on=fail_on, accepted=applied.accepted, model=call.arguments["b"])
        for line in found.lines():
            run.say(line)
        outcome = verdict(found, fail_on, applied.accepted)
        run.say()
        run.say(f"{outcome}: {path}")
        run.emit({**found.to_dict(fail_on=fail_on, accepted=applied.accepted), "out": str(path)})
        outcomes.append(outcome)

    outcomes: list[str] = []
    note = ": what was compared so far is saved, and says incomplete"
    saving.finish(run, lambda: call(a, b, call.arguments["images"]), save, note)
    if outcomes != ["pass"]:
        raise typer.Exit(1)
