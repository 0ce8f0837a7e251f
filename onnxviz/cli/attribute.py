"""Commands that show which parts of a picture a network's answer rests on, without gradients: occlusion, rise."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from onnxviz.cli.options import BatchOption, ImagesArgument, LayerOption, ModelArgument, TargetOption, command
from onnxviz.cli.pictures import each
from onnxviz.cli.run import Run, is_whole

ChannelOption = Annotated[
    int | None,
    typer.Option("--channel", "-c", min=0, help="With --layer: the channel to measure, not a class."),
]
NeuronOption = Annotated[
    str | None,
    typer.Option(
        help="With --layer and --channel: one neuron of the map, such as 3,5. Of a sequence: the step, such as 3.",
        metavar="Y,X",
    ),
]
ObjectiveOption = Annotated[
    str | None,
    typer.Option(
        help="Instead of a class: such as \"2*logit(285) - logit('tabby')\" or \"part('boxes', 0, 3)\".",
        metavar="TEXT",
    ),
]
_FILLS = "grey, mean, blur, noise or zero"


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""

    @command(app, images=True)
    def occlusion(
        run: Run,
        model: ModelArgument,
        images: ImagesArgument,
        target: TargetOption = None,
        window: Annotated[
            str | None,
            typer.Option(
                help="The window's side in pixels, or WIDTHxHEIGHT.",
                show_default="32, or a seventh of a small image",
            ),
        ] = None,
        stride: Annotated[
            str | None,
            typer.Option(
                help="Pixels from window to window, or ACROSSxDOWN.",
                show_default="16, or half of a small window",
            ),
        ] = None,
        fill: Annotated[str, typer.Option(help=f"What the window shows: {_FILLS}.")] = "grey",
        objective: ObjectiveOption = None,
        layer: LayerOption = None,
        channel: ChannelOption = None,
        neuron: NeuronOption = None,
        batch: BatchOption = None,
    ) -> None:
        """What the network needs to see: the fall in probability when a window covers each place.

        Several pictures or folders give a file each: NAME-PICTURE.png.

        Example: onnxviz occlusion efficientnet-lite0 cat.jpg --window 48 --stride 12 -o occlusion.png
        """
        import onnxviz

        net = run.load(model, each=True)
        options: dict[str, Any] = dict(
            target=target,
            window=_pixels(window, "--window"),
            stride=_pixels(stride, "--stride"),
            fill=fill,
            objective=objective,
            layer=layer,
            channel=channel,
            neuron=neuron,
            seed=run.seed,
            batch=batch,
            progress=run.progress,
        )
        each(run, net, images, lambda image: onnxviz.occlusion(net, image, **options))

    @command(app, images=True)
    def rise(
        run: Run,
        model: ModelArgument,
        images: ImagesArgument,
        target: TargetOption = None,
        masks: Annotated[int, typer.Option(min=1, help="Random masks; more give less noise.")] = 2000,
        grid: Annotated[int, typer.Option(min=1, help="Cells along each side of a mask.")] = 8,
        probability: Annotated[float, typer.Option(help="The chance that a cell shows the image.")] = 0.5,
        fill: Annotated[str, typer.Option(help=f"What shows where the image does not: {_FILLS}.")] = "zero",
        divide: Annotated[
            str, typer.Option(help="By how often a pixel showed (coverage) or does on average (paper).")
        ] = "coverage",
        objective: ObjectiveOption = None,
        layer: LayerOption = None,
        channel: ChannelOption = None,
        neuron: NeuronOption = None,
        batch: BatchOption = None,
    ) -> None:
        """What is enough for the network: the mean probability when each place shows through random masks.

        Several pictures or folders give a file each: NAME-PICTURE.png.

        Example: onnxviz rise efficientnet-lite0 cat.jpg --target "Egyptian cat" --masks 4000 -o rise.png
        """
        import onnxviz

        net = run.load(model)
        options: dict[str, Any] = dict(
            target=target,
            masks=masks,
            grid=grid,
            probability=probability,
            fill=fill,
            divide=divide,
            objective=objective,
            layer=layer,
            channel=channel,
            neuron=neuron,
            seed=run.seed,
            batch=batch,
            progress=run.progress,
        )
        each(run, net, images, lambda image: onnxviz.rise(net, image, **options))


def _pixels(text: str | None, option: str) -> tuple[int, int] | None:
    """(vertical, horizontal) from '32' or '48x16', which is width x height."""
    from onnxviz.errors import UsageError

    if text is None:
        return None
    parts = text.lower().replace("×", "x").split("x")
    if len(parts) > 2 or not all(is_whole(part) for part in parts):
        raise UsageError(f"{option} takes a number of pixels such as 32, or WIDTHxHEIGHT; got {text!r}")
    return int(parts[-1]), int(parts[0])
