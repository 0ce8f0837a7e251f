"""Commands around the techniques: models, export, doctor, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxviz.cli.options import command
from onnxviz.cli.run import Run


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""

    @command(app, model=False)
    def models(
        run: Run,
        fetch: Annotated[
            str | None, typer.Option(help="Bring this network onto this machine.", metavar="NAME")
        ] = None,
        force: Annotated[bool, typer.Option("--force", help="Fetch it again even if it is here.")] = False,
    ) -> None:
        """The catalogue: networks that are known by name.

        Example: onnxviz models
        """
        from dataclasses import asdict

        from onnxviz import catalogue

        if fetch is not None:
            path = catalogue.fetch(fetch, force=force, progress=run.progress)
            run.say(str(path))
            run.emit({"name": fetch, "path": str(path)})
            return
        listed = catalogue.entries()
        width = max(len(entry.name) for entry in listed)
        for entry in listed:
            state = "here" if entry.path is not None else entry.how
            run.say(f"{entry.name.ljust(width)}  {entry.task}, {entry.licence}; {state}")
        run.say()
        run.say("Fetch one with: onnxviz models --fetch NAME")
        run.emit({"networks": [{**asdict(entry), "path": entry.path and str(entry.path)} for entry in listed]})

    @command(app, model=False)
    def doctor(run: Run) -> None:
        """What this machine has, and what is wrong with it. Exit code 1 where something is.

        Example: onnxviz doctor
        """
        from onnxviz.health import doctor as examine

        checks = examine()
        marks = {"ok": "ok     ", "missing": "-      ", "problem": "PROBLEM"}
        width = max(len(check.name) for check in checks)
        for check in checks:
            run.say(f"{marks[check.state]}  {check.name.ljust(width)}  {check.detail}")
        healthy = all(check.state != "problem" for check in checks)
        run.emit({"healthy": healthy, "checks": [vars(check) for check in checks]})
        if not healthy:
            raise typer.Exit(1)

    @command(app, model=False)
    def demo(run: Run) -> None:
        """Every technique on the bundled network and photos, as one HTML page.

        Example: onnxviz demo -o demo
        """
        from onnxviz.demo import demo as make

        folder = run.out or Path("demo")
        page = make(
            folder, provider=run.provider, threads=run.threads, seed=run.seed, progress=run.progress, say=run.note
        )
        run.say(str(page.resolve()))
        run.emit({"out": str(page.resolve())})
