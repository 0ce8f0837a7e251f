"""The command for class activation maps."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from onnxviz.cli.attribute import ObjectiveOption
from onnxviz.cli.options import BatchOption, ImagesArgument, ModelArgument, command
from onnxviz.cli.pictures import readable, save
from onnxviz.cli.run import Run
from onnxviz.cli.saliency import TargetsOption

_METHODS = "grad-cam, grad-cam++, layercam, hirescam, xgrad-cam, eigencam, score-cam, guided-grad-cam, or all"


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, images=True, gradients=True)
    def cam(
        run: Run,
        model: ModelArgument,
        images: ImagesArgument,
        target: TargetsOption = None,
        objective: ObjectiveOption = None,
        layer: Annotated[
            list[str] | None,
            typer.Option(
                "--layer",
                "-l",
                help="A layer with a map; several: their mean.",
                show_default="the last one before the places are pooled",
            ),
        ] = None,
        method: Annotated[
            list[str] | None,
            typer.Option("--method", "-m", help=f"{_METHODS}; several: a sheet.", show_default="grad-cam"),
        ] = None,
        neuron: Annotated[
            str | None,
            typer.Option(help="Of a sequence (a recogniser of text): the step, such as 3.", metavar="STEP"),
        ] = None,
        signed: Annotated[
            bool, typer.Option("--signed", help="Keep what speaks against the class, in blue.")
        ] = False,
        align: Annotated[
            str,
            typer.Option(
                help="The map over the whole picture (stretch), or where the receptive fields lie (field)."
            ),
        ] = "stretch",
        percentile: Annotated[
            float | None,
            typer.Option(
                help="Of the values, drawn in the deepest colour with all above.",
                show_default="100, or 99 of guided-grad-cam",
            ),
        ] = None,
        batch: BatchOption = None,
    ) -> None:
        """Where a deep layer finds what speaks for a class: Grad-CAM and its relatives.

        Example: onnxviz cam efficientnet-lite0 cat.jpg --method grad-cam --method score-cam -o cam.png
        """
        from onnxviz.attribution.cam import cam as one
        from onnxviz.attribution.methods import of
        from onnxviz.attribution.sheet import cams

        net = run.load(model)
        files, skipped = readable(run, net, images)
        methods = list(of("cam")) if method == ["all"] else list(method or ["grad-cam"])
        options: dict[str, Any] = {
            "target": target[0] if target and len(target) == 1 else target or None,
            "objective": objective,
            "layer": layer or None,
            "neuron": neuron,
            "signed": signed,
            "align": align,
            "percentile": percentile,
            "batch": batch,
            "progress": run.progress,
        }
        if len(files) == 1 and len(methods) == 1:
            save(run, lambda: one(net, files[0], method=methods[0], **options), skipped)
        else:
            names = [path.stem for path in files]
            save(run, lambda: cams(net, files, methods, names=names, **options), skipped)
