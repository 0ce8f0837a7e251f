"""The command that paints one picture in the style of others: style."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from onnxviz.cli.dream import longer_side
from onnxviz.cli.making import AnimateOption, EveryOption, GramOption, make
from onnxviz.cli.options import ModelArgument, command
from onnxviz.cli.run import Run
from onnxviz.cli.weights import layer_weights


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, images=True)
    def style(
        run: Run,
        model: ModelArgument,
        content: Annotated[Path, typer.Argument(metavar="CONTENT", help="The picture to paint.")],
        styles: Annotated[
            list[Path], typer.Argument(metavar="STYLE...", help="A picture in the wanted style, or several.")
        ],
        weight: Annotated[
            list[float] | None,
            typer.Option(
                "--weight", "-w", help="Of a style, one for each in this order.", show_default="equal"
            ),
        ] = None,
        layer: Annotated[
            list[str] | None,
            typer.Option(
                "--layer",
                "-l",
                help="A style layer, or LAYER=WEIGHT; may be given again.",
                show_default="one a stride",
            ),
        ] = None,
        content_layer: Annotated[
            list[str] | None,
            typer.Option(
                help="A content layer, or LAYER=WEIGHT; may be given again.", show_default="one at stride 8"
            ),
        ] = None,
        content_weight: Annotated[float, typer.Option(help="How much of the content stays.")] = 1.0,
        style_weight: Annotated[
            float | None,
            typer.Option(help="How much of the style comes.", show_default="100; centred 10"),
        ] = None,
        gram: GramOption = "uncentred",
        tv: Annotated[float, typer.Option(help="Weight of total variation: more is smoother.")] = 0.05,
        start: Annotated[str, typer.Option(help="content, noise, or a picture.")] = "content",
        size: Annotated[
            str | None,
            typer.Option(
                help="The longer side of the result, or WIDTHxHEIGHT.",
                show_default="the content's, up to 512",
            ),
        ] = None,
        style_scale: Annotated[
            float, typer.Option(help="The style's longer side as a share of the result's.")
        ] = 1.0,
        steps: Annotated[int, typer.Option(min=1, help="At each resolution.")] = 150,
        scales: Annotated[int, typer.Option(min=1, help="Resolutions, each twice the one before.")] = 2,
        colour: Annotated[
            str, typer.Option(help="style; or keep the content's by luminance or histogram.")
        ] = "style",
        optimiser: Annotated[str, typer.Option(help="lbfgs or adam.")] = "lbfgs",
        rate: Annotated[float, typer.Option(help="Of adam.")] = 0.03,
        pixels: Annotated[
            bool, typer.Option("--pixels", help="Move the pixels, as in the paper, not the spectrum.")
        ] = False,
        every: EveryOption = None,
        animate: AnimateOption = None,
    ) -> None:
        """Paint the content of one picture in the style of another, or of several.

        Example: onnxviz style efficientnet-lite0 photo.jpg painting.jpg --size 384 -o painted.png
        """
        import onnxviz

        make(
            run,
            onnxviz.style,
            run.load(model),
            content,
            styles,
            style_weights=weight or None,
            layers=layer_weights(layer, "--layer"),
            content_layers=layer_weights(content_layer, "--content-layer"),
            content_weight=content_weight,
            style_weight=style_weight,
            gram=gram,
            tv=tv,
            start=start,
            size=longer_side(size),
            style_scale=style_scale,
            steps=steps,
            scales=scales,
            colour=colour,
            optimiser=optimiser,
            rate=rate,
            spectrum=not pixels,
            seed=run.seed,
            every=every,
            animate=animate,
        )
