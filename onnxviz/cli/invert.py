"""The command that shows what a layer still knows of a photo: invert."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxviz.cli.making import AnimateOption, EveryOption, make
from onnxviz.cli.options import ImageArgument, ModelArgument, command
from onnxviz.cli.run import Run


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, images=True)
    def invert(
        run: Run,
        model: ModelArgument,
        image: ImageArgument,
        layer: Annotated[
            list[str],
            typer.Option("--layer", "-l", help="A layer; may be given again for a row from shallow to deep."),
        ],
        steps: Annotated[int, typer.Option(min=1, help="Of each layer.")] = 200,
        alpha: Annotated[float, typer.Option(help="Exponent of the norm.")] = 6.0,
        alpha_weight: Annotated[float, typer.Option(help="Weight of the norm.")] = 1e-3,
        beta: Annotated[float, typer.Option(help="Exponent of total variation.")] = 2.0,
        tv_weight: Annotated[float, typer.Option(help="Weight of total variation: more is smoother.")] = 0.1,
        jitter: Annotated[
            int, typer.Option(min=0, help="Random shift before each step; by Adam instead of L-BFGS.")
        ] = 0,
        rate: Annotated[float, typer.Option(help="With --jitter: of Adam.")] = 0.05,
        every: EveryOption = None,
        animate: AnimateOption = None,
    ) -> None:
        """A picture with the same activations as the photo: what a layer still knows of it.

        Example: onnxviz invert efficientnet-lite0 cat.jpg --layer stem --layer blocks.8.add -o inverted.png
        """
        import onnxviz

        make(
            run,
            onnxviz.invert,
            run.load(model),
            image,
            layer,
            steps=steps,
            alpha=alpha,
            alpha_weight=alpha_weight,
            beta=beta,
            tv_weight=tv_weight,
            jitter=jitter,
            rate=rate,
            seed=run.seed,
            every=every,
            animate=animate,
        )
