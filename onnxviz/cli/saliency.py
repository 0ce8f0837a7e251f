"""Commands that follow gradients back to the picture: saliency, segment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxviz.cli.attribute import ChannelOption, NeuronOption, ObjectiveOption
from onnxviz.cli.options import BatchOption, ImagesArgument, LayerOption, ModelArgument, command
from onnxviz.cli.pictures import each, readable, save
from onnxviz.cli.run import Run

_METHODS = (
    "saliency, gradient, input-x-gradient, guided, deconvnet, smoothgrad, smoothgrad-squared, vargrad, "
    "integrated-gradients, expected-gradients or full-gradient"
)
TargetsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--target",
        "-t",
        help="Class index or label; several: one for each picture.",
        show_default="the top class",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""

    @command(app, images=True, gradients=True)
    def saliency(
        run: Run,
        model: ModelArgument,
        images: ImagesArgument,
        target: TargetsOption = None,
        method: Annotated[
            list[str] | None,
            typer.Option(
                "--method",
                "-m",
                help=f"{_METHODS}, those of the command cam, or all; several: a sheet.",
                show_default="saliency",
            ),
        ] = None,
        objective: ObjectiveOption = None,
        layer: LayerOption = None,
        channel: ChannelOption = None,
        neuron: NeuronOption = None,
        samples: Annotated[
            int | None,
            typer.Option(
                min=1, help="Of smoothgrad, its like, and expected-gradients.", show_default="25, 100"
            ),
        ] = None,
        noise: Annotated[
            float | None,
            typer.Option(
                help="Of smoothgrad and its like: a part of the input's range.", show_default="0.15"
            ),
        ] = None,
        steps: Annotated[
            int | None, typer.Option(min=1, help="Of integrated-gradients.", show_default="50")
        ] = None,
        baseline: Annotated[
            str | None,
            typer.Option(
                help="Of integrated-gradients: black, grey, mean, blur, noise, zero, or a picture.",
                show_default="black",
            ),
        ] = None,
        baselines: Annotated[
            Path | None,
            typer.Option(help="Of expected-gradients: a folder of pictures.", show_default="noise"),
        ] = None,
        percentile: Annotated[
            float | None,
            typer.Option(
                help="Of the magnitudes, drawn in the deepest colour with all above.", show_default="99"
            ),
        ] = None,
        batch: BatchOption = None,
    ) -> None:
        """Which pixels move the score: the gradient, and what averages, integrates or filters it.

        Example: onnxviz saliency efficientnet-lite0 cat.jpg --method smoothgrad --method guided -o saliency.png
        """
        from onnxviz.attribution.methods import METHODS, of
        from onnxviz.attribution.saliency import saliency as one
        from onnxviz.attribution.sheet import attributions

        net = run.load(model)
        files, skipped = readable(run, net, images, layer)
        names = list(METHODS) if method == ["all"] else list(method or ["saliency"])
        options = _aimed(target, objective, layer, channel, neuron) | {
            "seed": run.seed,
            "batch": batch,
            "progress": run.progress,
        }
        own = {
            "samples": samples,
            "noise": noise,
            "steps": steps,
            "baseline": baseline,
            "baselines": baselines,
        }
        own |= {"percentile": percentile}
        given: dict[str, Any] = {key: value for key, value in own.items() if value is not None}
        if len(files) == 1 and len(names) == 1 and names[0] in of("saliency"):
            save(run, lambda: one(net, files[0], method=names[0], **given, **options), skipped)
        else:
            save(run, lambda: attributions(net, files, names, **given, **options), skipped)

    @command(app, images=True, gradients=True)
    def segment(
        run: Run,
        model: ModelArgument,
        images: ImagesArgument,
        target: Annotated[
            str | None,
            typer.Option("--target", "-t", help="Class index or label.", show_default="the top class"),
        ] = None,
        method: Annotated[
            str, typer.Option("--method", "-m", help=f"Where it starts: {_METHODS}.")
        ] = "full-gradient",
        objective: ObjectiveOption = None,
        layer: LayerOption = None,
        channel: ChannelOption = None,
        neuron: NeuronOption = None,
        cut: Annotated[
            str,
            typer.Option(help="grabcut, or paper: one cut by colours, as Simonyan et al. 2014 have it."),
        ] = "grabcut",
        foreground: Annotated[
            float | None,
            typer.Option(
                help="Quantile of the map over which it is object.", show_default="0.99; paper 0.95"
            ),
        ] = None,
        background: Annotated[
            float | None,
            typer.Option(help="Quantile under which it is ground.", show_default="0.2; paper 0.3"),
        ] = None,
        rounds: Annotated[int, typer.Option(min=1, help="Of colours and cut in turn, at most.")] = 5,
        batch: BatchOption = None,
    ) -> None:
        """The object that a score rests on, cut out of the photo, without any mask to learn from; several: a file each.

        Example: onnxviz segment efficientnet-lite0 cat.jpg -o object.png
        """
        import onnxviz

        net = run.load(model, each=True)
        options = _aimed([target] if target else None, objective, layer, channel, neuron)
        options |= {
            "method": method,
            "cut": cut,
            "foreground": foreground,
            "background": background,
            "rounds": rounds,
            "seed": run.seed,
            "batch": batch,
            "progress": run.progress,
        }
        each(run, net, images, lambda image: onnxviz.segment(net, image, **options))


def _aimed(
    target: list[str] | None,
    objective: str | None,
    layer: str | None,
    channel: int | None,
    neuron: str | None,
) -> dict[str, Any]:
    """What is explained, as the techniques take it."""
    several: Any = target[0] if target and len(target) == 1 else target or None
    return {
        "target": several,
        "objective": objective,
        "layer": layer,
        "channel": channel,
        "neuron": neuron,
    }
