"""The command that lets a network see in a photo what it likes to see: dream."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxviz.cli.making import AnimateOption, EveryOption, animation, make
from onnxviz.cli.options import ImageArgument, ModelArgument, command
from onnxviz.cli.run import Run, parse_size
from onnxviz.cli.weights import layer_weights


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, images=True)
    def dream(
        run: Run,
        model: ModelArgument,
        image: ImageArgument,
        layer: Annotated[
            list[str] | None,
            typer.Option(
                "--layer",
                "-l",
                help="A layer, or LAYER=WEIGHT; may be given again.",
                show_default="one of the middle",
            ),
        ] = None,
        channel: Annotated[
            list[int] | None,
            typer.Option("--channel", "-c", min=0, help="Only this channel; may be given again."),
        ] = None,
        guide: Annotated[
            Path | None, typer.Option(help="A picture whose features are to appear.", metavar="IMAGE")
        ] = None,
        size: Annotated[
            str | None,
            typer.Option(
                help="The longer side of the result, or WIDTHxHEIGHT.", show_default="the image's, up to 512"
            ),
        ] = None,
        octaves: Annotated[int, typer.Option(min=1, help="Sizes from small to large.")] = 4,
        scale: Annotated[float, typer.Option(help="From octave to octave.")] = 1.4,
        steps: Annotated[int, typer.Option(min=1, help="Of each octave.")] = 10,
        rate: Annotated[float, typer.Option(help="Mean length of a step, in levels of 256.")] = 1.5,
        jitter: Annotated[
            int, typer.Option(min=0, help="Random shift before each step, up to so many pixels.")
        ] = 32,
        zoom: Annotated[
            int, typer.Option(min=0, help="So many frames of a way into the picture, as NAME.webp.")
        ] = 0,
        zoom_by: Annotated[float, typer.Option(help="Enlargement from frame to frame.")] = 1.05,
        every: EveryOption = None,
        animate: AnimateOption = None,
    ) -> None:
        """DeepDream: change a photo until a layer sees in it what it likes to see.

        Example: onnxviz dream efficientnet-lite0 clouds.jpg --layer blocks.7.add -o dream.png
        """
        import onnxviz

        out = run.output()
        # A picture that is itself a .webp keeps its name.
        way = out.with_suffix(".zoom.webp" if out.suffix.lower() == ".webp" else ".webp")
        run.claim(out, *([way] if zoom else []))

        def beside(result: Any) -> dict[Path, bytes]:
            from PIL import Image

            frames = [Image.fromarray(frame) for frame in result.frames]
            return {way: animation(frames, ".webp")} if frames else {}

        result: Any = make(
            run,
            onnxviz.dream,
            run.load(model),
            image,
            layer_weights(layer, "--layer"),
            channels=channel or None,
            guide=guide,
            size=longer_side(size),
            octaves=octaves,
            scale=scale,
            steps=steps,
            rate=rate,
            jitter=jitter,
            zoom=zoom,
            zoom_by=zoom_by,
            seed=run.seed,
            every=every,
            animate=animate,
            beside=beside,
        )
        if result.frames:
            run.note(f"{len(result.frames)} frames in {way}")


def longer_side(text: str | None) -> int | tuple[int, int] | None:
    """A longer side from '320', (height, width) from '320x240'.

    raises   UsageError
    """
    if text is None:
        return None
    height, width = parse_size(text)
    return (height, width) if "x" in text.lower().replace("×", "x") else width
