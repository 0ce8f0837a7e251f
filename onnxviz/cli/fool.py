"""The command that makes fooling images."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxviz.cli.options import ImagesArgument, ModelArgument, command
from onnxviz.cli.run import Run

_MOST_LINES = 40


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, images=True, gradients=True)
    def fool(
        run: Run,
        model: ModelArgument,
        image: ImagesArgument,
        target: Annotated[
            str | None,
            typer.Option(
                "--target",
                "-t",
                help="Class index or label to be mistaken for.",
                show_default="the most probable other class",
            ),
        ] = None,
        method: Annotated[
            str, typer.Option("--method", "-m", help="gradient (smallest change), fgsm or pgd.")
        ] = "gradient",
        norm: Annotated[
            str | None,
            typer.Option(
                help="What is kept small: l2 (length) or linf (largest pixel).",
                show_default="l2 for gradient, else linf",
            ),
        ] = None,
        bound: Annotated[
            float | None,
            typer.Option(
                help="The most it may be, in grey levels of 0 to 255.", show_default="none; fgsm 4, pgd 2"
            ),
        ] = None,
        steps: Annotated[
            int | None, typer.Option(min=1, help="Steps at most.", show_default="200; pgd 20")
        ] = None,
        confidence: Annotated[
            float,
            typer.Option(min=0, max=1, help="Probability that the target must have, beside being on top."),
        ] = 0.0,
    ) -> None:
        """Change an image invisibly until the network takes it for something else.

        Writes the image before and after with their difference, and beside it
        NAME.fooled.png, which fools as it is saved (always PNG: JPEG would undo
        it). For several images or a folder: a sheet, the success rate, and a
        folder NAME.fooled.

        Example: onnxviz fool efficientnet-lite0 cat.jpg --target toaster --confidence 0.9 -o fool.png
        """
        import onnxviz
        from onnxviz.interrupted import Interrupted
        from onnxviz.synthesis.fool_result import Fooled, percent
        from onnxviz.text import printable

        def save(result: Fooled) -> None:
            for one in result.manifest["skipped"]:
                run.note(f"skipped {one['path']}: {one['reason']}")
            for one in result.outcomes[:_MOST_LINES]:
                said = (
                    f"{printable(one.source_label, 80)} {percent(one.source_before)} -> "
                    f"{printable(one.top_label, 80)} {percent(one.top_after)}"
                )
                state = "already" if one.already else "fooled" if one.fooled else "not fooled"
                run.say(f"{one.name}: {state}: {said}, largest change {one.linf:g} of 255")
            if len(result.outcomes) > 1:
                figures = result.manifest["figures"]
                run.say(f"{figures['fooled']} of {figures['images'] - figures['already']} images fooled")
            target = run.save(result)
            files = result.files(target)
            run.say(str(files[0].parent if len(files) > 1 else files[0]))

        out = run.output()
        run.claim(out, out.with_suffix(".fooled.png"))
        net = run.load(model)
        try:
            result = onnxviz.fool(
                net,
                image,
                target=target,
                method=method,
                norm=norm,
                bound=bound,
                steps=steps,
                confidence=confidence,
                seed=run.seed,
                progress=run.progress,
            )
        except Interrupted as stop:
            assert isinstance(stop.partial, Fooled)
            save(stop.partial)
            run.note("interrupted: this is what was done so far, and its manifest says incomplete")
            raise
        save(result)
