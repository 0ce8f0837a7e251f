"""`onnxviz report`: a page of a network and a person's own photos."""

from __future__ import annotations

from typing import Any

from onnxviz.cli import saving
from onnxviz.cli.command import Call
from onnxviz.cli.run import Run


def report(run: Run, call: Call) -> None:
    """A folder with the page of a network and photos."""
    target = run.output()
    run.claim(target, *(target / name for name in ("report.html", "report.json", "photos.csv")))
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
