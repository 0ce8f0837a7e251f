"""Commands around the techniques: models, export, doctor, demo."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxviz.cli.options import command
from onnxviz.cli.run import Run


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""

    @command(app, model=False, writes=(".json",))
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
            from onnxviz.exporting.fetch import fetch as bring

            path = bring(fetch, force=force, progress=run.progress)
            run.say(str(path))
            run.record({"name": fetch, "path": str(path)})
            return
        listed = catalogue.entries()
        width = max(len(entry.name) for entry in listed)
        for entry in listed:
            state = "here" if entry.path is not None else entry.how
            run.say(f"{entry.name.ljust(width)}  {entry.task}, {entry.licence}; {state}")
        run.say()
        run.say("Fetch one with: onnxviz models --fetch NAME")
        run.record(
            {"networks": [{**asdict(entry), "path": entry.path and str(entry.path)} for entry in listed]}
        )

    @command(app, model=False, writes=(".onnx",))
    def export(
        run: Run,
        source: Annotated[
            str,
            typer.Argument(
                metavar="SOURCE",
                help="torchvision:NAME, timm:NAME, transformers:NAME, module:callable or file.py:callable.",
            ),
        ],
        option: Annotated[
            list[str] | None,
            typer.Option(
                help="Given on to whoever builds the network: weights=…, num_classes=10.",
                metavar="NAME=VALUE",
            ),
        ] = None,
        random: Annotated[
            bool, typer.Option("--random", help="Random weights instead of trained ones.")
        ] = False,
        trust_remote_code: Annotated[
            bool,
            typer.Option("--trust-remote-code", help="Let code run that comes with trained weights."),
        ] = False,
        size: Annotated[
            str | None, typer.Option(help="Pixels, such as 224 or 320x240 (width x height).")
        ] = None,
        opset: Annotated[int, typer.Option(min=18, help="Version of the standard operators.")] = 18,
        fixed_batch: Annotated[bool, typer.Option("--fixed-batch", help="Leave the batch at 1.")] = False,
        fixed_size: Annotated[
            bool, typer.Option("--fixed-size", help="Leave height and width fixed.")
        ] = False,
        expose: Annotated[
            list[str] | None, typer.Option(help="A layer to make an output, or 'all'.", metavar="LAYER")
        ] = None,
        preprocess: Annotated[
            str | None,
            typer.Option(help="Written into the file: a preset or a JSON file.", metavar="NAME|FILE"),
        ] = None,
        labels: Annotated[
            str | None,
            typer.Option(help="Written into the file: a labels file, or 'imagenet'.", metavar="FILE"),
        ] = None,
    ) -> None:
        """A torch network as an ONNX file that explains itself. Runs the code that SOURCE names.

        Example: onnxviz export torchvision:resnet50 -o resnet50.onnx
        """
        import onnxviz
        from onnxviz.cli.run import parse_size
        from onnxviz.exporting.source import parse_options

        target = run.output("model.onnx")
        run.claim(target)
        made = onnxviz.export(
            source,
            target,
            options=parse_options(option or []),
            random=random,
            trust_remote_code=trust_remote_code,
            seed=run.seed,
            size=parse_size(size) if size else None,
            opset=opset,
            dynamic_batch=not fixed_batch,
            dynamic_size=not fixed_size,
            expose=True if expose == ["all"] else (expose or False),
            preprocessing=preprocess,
            labels=labels,
        )
        for warning in made.warnings:
            run.note(warning)
        run.say(str(made.path))
        run.emit(made.to_dict())

    @command(app, model=False, writes=(".json",))
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
        run.record({"healthy": healthy, "checks": [vars(check) for check in checks]})
        if not healthy:
            raise typer.Exit(1)

    @command(app, model=False, writes=())
    def demo(run: Run) -> None:
        """Every technique on the bundled network and photos, as one HTML page.

        Example: onnxviz demo -o demo
        """
        from onnxviz.demo import demo as make

        page = make(
            run.output(),
            provider=run.provider,
            threads=run.threads,
            seed=run.seed,
            progress=run.progress,
            say=run.note,
        )
        run.say(str(page.resolve()))
        run.emit({"out": str(page.resolve())})
