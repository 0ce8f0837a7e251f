"""The command that makes the picture which a class, a channel or a neuron answers to most: ascent."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from onnxviz.cli.making import AnimateOption, EveryOption, make
from onnxviz.cli.options import BatchOption, LayerOption, ModelArgument, command
from onnxviz.cli.run import Run

_PRESET = "the preset's"


def _number(help: str, name: str | None = None, low: float | None = None) -> Any:
    names = () if name is None else (name,)
    return typer.Option(*names, help=help, show_default=_PRESET, min=low, rich_help_panel="Recipe")


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, images=True)
    def ascent(
        run: Run,
        model: ModelArgument,
        target: Annotated[
            list[str] | None,
            typer.Option("--target", "-t", help="Class index or label; may be given again for a sheet."),
        ] = None,
        layer: LayerOption = None,
        channel: Annotated[
            list[str] | None,
            typer.Option(
                "--channel", "-c", help="With --layer: a channel; may be given again; 'all' for every one."
            ),
        ] = None,
        neuron: Annotated[
            str | None,
            typer.Option(
                help="With --layer and --channel: one neuron of the map, such as 3,5, or 'middle'.",
                metavar="Y,X",
            ),
        ] = None,
        objective: Annotated[
            str | None,
            typer.Option(
                help="Any sum of terms instead, such as 'logit(285) - logit(281)'.",
                metavar="TEXT",
            ),
        ] = None,
        preset: Annotated[
            str,
            typer.Option(help="lucid, lecture, simonyan, or yosinski-1 to yosinski-4."),
        ] = "lucid",
        copies: Annotated[int, typer.Option(min=1, help="Pictures of each, from different noise.")] = 1,
        diversity: Annotated[
            float, typer.Option(help="With --layer: weight of the term that makes the copies differ.")
        ] = 0.0,
        start: Annotated[
            Path | None, typer.Option(help="A picture to start from.", show_default="noise or grey")
        ] = None,
        patches: Annotated[
            Path | None,
            typer.Option(
                help="With --channel all: a folder that `onnxviz patches` wrote, for the page to link to."
            ),
        ] = None,
        every: EveryOption = None,
        animate: AnimateOption = None,
        batch: BatchOption = None,
        steps: Annotated[int | None, _number("How many steps.", low=1)] = None,
        rate: Annotated[float | None, _number("Length of a step.")] = None,
        optimiser: Annotated[str | None, _number("adam or ascent.")] = None,
        norm: Annotated[
            str | None, _number("What ascent divides the gradient by: mean, rms, l2, none, progress.")
        ] = None,
        rate_limit: Annotated[
            float | None, _number("Of progress: the largest factor of the gradient.")
        ] = None,
        momentum: Annotated[float | None, _number("Of ascent.")] = None,
        taper: Annotated[
            float | None, _number("The last share of the steps, over which the rate falls.")
        ] = None,
        parametrise: Annotated[str | None, _number("fourier or pixels.")] = None,
        power: Annotated[float | None, _number("Fourier: how steeply frequencies fall.")] = None,
        band: Annotated[float | None, _number("Fourier: the share of all frequencies that are used.")] = None,
        colour: Annotated[float | None, _number("Fourier: strength of colours.")] = None,
        deviation: Annotated[float | None, _number("Of the noise to start from.")] = None,
        margin: Annotated[
            int | None, _number("Pixels by which the picture exceeds the network's view.")
        ] = None,
        pad: Annotated[int | None, _number("Grey border, in pixels.")] = None,
        jitter: Annotated[int | None, _number("Random shift, in pixels.")] = None,
        turn: Annotated[float | None, _number("Random rotation, in degrees.")] = None,
        scale_low: Annotated[float | None, _number("Random enlargement, from.")] = None,
        scale_high: Annotated[float | None, _number("Random enlargement, to.")] = None,
        blur_low: Annotated[float | None, _number("Random blur of the view, from, in pixels.")] = None,
        blur_high: Annotated[float | None, _number("Random blur of the view, to, in pixels.")] = None,
        draws: Annotated[int | None, _number("Transformed views a step.", low=1)] = None,
        l2: Annotated[float | None, _number("Weight of the picture's mean square.")] = None,
        tv: Annotated[float | None, _number("Weight of total variation.")] = None,
        tv_beta: Annotated[float | None, _number("Exponent of total variation.")] = None,
        decay: Annotated[float | None, _number("Pixels: share lost each step.")] = None,
        blur_radius: Annotated[float | None, _number("Pixels: Gaussian blur of the picture.")] = None,
        blur_every: Annotated[int | None, _number("Pixels: steps from blur to blur.", low=1)] = None,
        small_pixels: Annotated[float | None, _number("Pixels: % nearest to grey that are cleared.")] = None,
        small_contributions: Annotated[
            float | None, _number("Pixels: % contributing least that are cleared.")
        ] = None,
        small_gradients: Annotated[float | None, _number("% of smallest gradients that are cleared.")] = None,
        redirected: Annotated[int | None, _number("First steps with redirected ReLU gradients.")] = None,
        keep: Annotated[str | None, _number("last or best: which step's picture.")] = None,
        stretch: Annotated[bool | None, _number("Show it with stretched contrast.")] = None,
    ) -> None:
        """The picture that a class, a channel or a neuron answers to most, by gradient ascent.

        With --channel all, NAME.html beside the picture is a page of all channels.

        Example: onnxviz ascent efficientnet-lite0 --target volcano -o volcano.png
        """
        import onnxviz
        from onnxviz.errors import UsageError

        if patches is not None and channel != ["all"]:
            raise UsageError("--patches belongs to --channel all: the page of all channels links to them")
        page = run.output().with_suffix(".html")
        run.claim(run.output(), *([page] if channel == ["all"] else []))
        net = run.load(model)
        recipe = {
            "steps": steps, "rate": rate, "optimiser": optimiser, "norm": norm, "momentum": momentum, "taper": taper,
            "parametrise": parametrise, "power": power, "band": band, "colour": colour, "deviation": deviation,
            "margin": margin, "pad": pad, "jitter": jitter, "turn": turn, "scale_low": scale_low,
            "scale_high": scale_high, "blur_low": blur_low, "blur_high": blur_high, "draws": draws, "l2": l2, "tv": tv,
            "tv_beta": tv_beta, "decay": decay, "blur_radius": blur_radius, "blur_every": blur_every,
            "small_pixels": small_pixels, "small_contributions": small_contributions,
            "small_gradients": small_gradients, "redirected": redirected, "keep": keep, "rate_limit": rate_limit,
            "stretch": stretch,
        }  # fmt: skip

        def beside(result: Any) -> dict[Path, bytes]:
            if channel != ["all"]:
                return {}
            from onnxviz.synthesis.ascent import page_bytes

            return {page: page_bytes(result, page, patches)}

        make(
            run,
            onnxviz.ascent,
            net,
            every=every,
            animate=animate,
            beside=beside,
            target=target or None,
            layer=layer,
            channel="all" if channel == ["all"] else channel or None,
            neuron=neuron,
            objective=objective,
            preset=preset,
            copies=copies,
            diversity=diversity,
            start=start,
            seed=run.seed,
            batch=batch,
            **recipe,
        )
