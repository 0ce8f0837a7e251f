"""Commands around feed-forward style networks: style-apply, style-train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from onnxviz.cli.dream import longer_side
from onnxviz.cli.making import GramOption
from onnxviz.cli.options import FolderArgument, ImageArgument, ModelArgument, command
from onnxviz.cli.run import Run

if TYPE_CHECKING:
    from onnxviz.synthesis.style_train import StyleTrained


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""

    @command(app, "style-apply", images=True)
    def style_apply(
        run: Run,
        model: ModelArgument,
        image: ImageArgument,
        size: Annotated[
            str | None,
            typer.Option(
                help="The result's longer side in pixels, or WIDTHxHEIGHT.", show_default="the picture's own"
            ),
        ] = None,
        output_range: Annotated[
            str | None,
            typer.Option(
                help="Black and white in the network's output: 0..255, 0..1 or -1..1.",
                show_default="told by its values",
            ),
        ] = None,
    ) -> None:
        """Paint a picture with a feed-forward style network: any ONNX file from a picture to a picture.

        How pictures become its input stands in the file, or is given with
        --preprocess (raw: 0 to 255, unit: 0 to 1), or is found by trying.

        Example: onnxviz style-apply tissue photo.jpg -o painted.png
        """
        import onnxviz

        net = run.load(model)
        result = onnxviz.style_apply(net, image, size=longer_side(size), output_range=output_range)
        run.note(
            f"pictures go in as {result.manifest['preprocessing']['name']!r} "
            f"({result.manifest['preprocessing_from']}) and come out as {result.manifest['parameters']['output_range']}"
        )
        run.save(result)

    @command(app, "style-train", images=True, gradients=True, writes=(".onnx",))
    def style_train(
        run: Run,
        model: ModelArgument,
        style: Annotated[Path, typer.Argument(metavar="STYLE", help="The picture whose style it is.")],
        folder: FolderArgument,
        style_layer: Annotated[
            list[str] | None,
            typer.Option(help="A layer that measures style; repeatable.", show_default="one at each stride"),
        ] = None,
        content_layer: Annotated[
            list[str] | None,
            typer.Option(help="A layer that measures content; repeatable.", show_default="one at stride 8"),
        ] = None,
        style_weight: Annotated[
            float | None, typer.Option(min=0, help="Weight of the style.", show_default="10; centred 1")
        ] = None,
        gram: GramOption = "uncentred",
        content_weight: Annotated[float, typer.Option(min=0, help="Weight of the content.")] = 4.0,
        colour_weight: Annotated[float, typer.Option(min=0, help="Weight of the style's own colours.")] = 1.0,
        tv_weight: Annotated[float, typer.Option(min=0, help="Weight of smoothness.")] = 0.1,
        style_size: Annotated[
            int | None,
            typer.Option(
                min=16, help="The style picture's longer side in pixels.", show_default="as the crops"
            ),
        ] = None,
        steps: Annotated[
            int | None,
            typer.Option(min=1, help="Training steps.", show_default="two passes, at least 2000"),
        ] = None,
        batch: Annotated[int, typer.Option(min=1, help="Pictures a step.")] = 4,
        rate: Annotated[float, typer.Option(help="Adam's learning rate.")] = 1e-3,
        width: Annotated[int, typer.Option(min=1, help="Channels of the first layer.")] = 32,
        blocks: Annotated[int, typer.Option(min=0, help="Residual blocks.")] = 5,
    ) -> None:
        """Train a feed-forward style network against the perceptual loss of MODEL, and write it as ONNX.

        MODEL is any network; --size is the size of the crops that it is trained
        on. Needs torch. Beside OUT.onnx: the losses, the manifest and a sheet.

        Example: onnxviz style-train efficientnet-lite0 style.jpg photos/ --size 256 -o painter.onnx
        """
        import onnxviz
        from onnxviz.interrupted import Interrupted

        out = run.output("style.onnx")
        run.claim(out, out.with_suffix(".png"))
        net = run.load(model)
        try:
            result = onnxviz.style_train(
                net,
                style,
                folder,
                style_layers=style_layer or None,
                content_layers=content_layer or None,
                style_weight=style_weight,
                gram=gram,
                content_weight=content_weight,
                colour_weight=colour_weight,
                tv_weight=tv_weight,
                style_size=style_size,
                steps=steps,
                batch=batch,
                rate=rate,
                width=width,
                blocks=blocks,
                seed=run.seed,
                progress=run.progress,
            )
        except Interrupted as stop:
            _save(run, stop.partial)
            run.note("interrupted: the network has learned so far, and its manifest says incomplete")
            raise
        _save(run, result)


def _save(run: Run, result: StyleTrained) -> None:
    for one in result.manifest["skipped"]:
        run.note(f"skipped {one['path']}: {one['reason']}")
    figures = result.manifest["figures"]
    run.say(f"loss {figures['loss_start']:.4g} -> {figures['loss_end']:.4g} in {figures['steps_done']} steps")
    run.save(result, "style.onnx")
