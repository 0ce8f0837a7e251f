"""The command that makes a larger image of the same texture."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxviz.cli.making import AnimateOption, EveryOption, make
from onnxviz.cli.options import ImageArgument, ModelArgument, command
from onnxviz.cli.run import Run, parse_size


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, images=True)
    def texture(
        run: Run,
        model: ModelArgument,
        image: ImageArgument,
        method: Annotated[
            str, typer.Option("--method", "-m", help="gram (of the network), nearest or quilt (without it).")
        ] = "gram",
        size: Annotated[
            str | None,
            typer.Option(help="Pixels of the texture, or WIDTHxHEIGHT.", show_default="twice the image"),
        ] = None,
        layers: Annotated[
            list[str] | None,
            typer.Option("--layer", "-l", help="gram: a layer to match; may be given again."),
        ] = None,
        gram: Annotated[
            str | None,
            typer.Option(
                help="gram: matrices centred on the image's means, or uncentred, as in the paper.",
                metavar="FORM",
                show_default="centred",
            ),
        ] = None,
        steps: Annotated[int | None, typer.Option(min=1, help="gram: steps of the optimiser.")] = None,
        window: Annotated[
            int | None,
            typer.Option(min=3, help="nearest: side of the neighbourhood, odd.", show_default="15"),
        ] = None,
        block: Annotated[
            int | None,
            typer.Option(min=3, help="quilt: side of a block.", show_default="a third of the image"),
        ] = None,
        overlap: Annotated[
            int | None, typer.Option(min=1, help="quilt: overlap of blocks.", show_default="a sixth of one")
        ] = None,
        tolerance: Annotated[
            float | None,
            typer.Option(
                min=0, help="nearest, quilt: how much worse than the best may be drawn.", show_default="0.1"
            ),
        ] = None,
        evenness: Annotated[
            float | None,
            typer.Option(
                min=0, help="nearest, quilt: 0 as in the papers; more repeats less.", show_default="0.5"
            ),
        ] = None,
        every: EveryOption = None,
        animate: AnimateOption = None,
    ) -> None:
        """A larger image of the same texture.

        Example: onnxviz texture efficientnet-lite0 bricks.png --method nearest --size 192x192 -o texture.png
        """
        import onnxviz

        run.claim(run.output())
        # The methods that need no network open none: the name may be any.
        net = None if method in ("nearest", "quilt") else run.load(model)
        result = make(
            run,
            onnxviz.texture,
            net,
            image,
            method,
            every=every,
            animate=animate,
            size=parse_size(size) if size else None,
            layers=layers or None,
            gram=gram,
            steps=steps,
            window=window,
            block=block,
            overlap=overlap,
            tolerance=tolerance,
            evenness=evenness,
            seed=run.seed,
            limits=run.limits,
        )
        if net is None:
            for warning in result.manifest["warnings"]:
                run.note(warning)
