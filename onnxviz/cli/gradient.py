"""The command that writes gradient models, and explainers made of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxviz.cli.options import LayerOption, ModelArgument, command
from onnxviz.cli.run import Run, feeds
from onnxviz.errors import UsageError

if TYPE_CHECKING:
    import onnx_ir as ir

_TECHNIQUE = (
    "Write an explainer instead: picture in, class and heat map out. saliency, gradient, input-x-gradient, guided, "
    "deconvnet, grad-cam, grad-cam++, layercam, hirescam, xgrad-cam, eigencam or guided-grad-cam."
)


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, images=True, writes=(".onnx",))
    def gradient(
        run: Run,
        model: ModelArgument,
        of: Annotated[
            str | None,
            typer.Option(help="The output, or any layer, to differentiate.", show_default="the only one"),
        ] = None,
        wrt: Annotated[
            str | None,
            typer.Option(help="The input, or any layer, to differentiate by.", show_default="the only one"),
        ] = None,
        rules: Annotated[
            str | None,
            typer.Option(help="plain, guided, deconvnet or redirected.", show_default="plain"),
        ] = None,
        technique: Annotated[str | None, typer.Option(help=_TECHNIQUE, metavar="NAME")] = None,
        target: Annotated[
            str | None,
            typer.Option(
                "--target",
                "-t",
                help="Explainer: class index or label, or 'fed': an input of the file.",
                show_default="the top class",
            ),
        ] = None,
        layer: LayerOption = None,
        fixed: Annotated[
            bool, typer.Option("--fixed", help="Explainer: pictures come at the network's size; no resizing.")
        ] = False,
        over: Annotated[
            str | None,
            typer.Option(
                help="Explainer: the heat map lies over the network's 'input' or the whole 'picture'.",
                show_default="input",
            ),
        ] = None,
    ) -> None:
        """Write the gradient model: the model plus its vector-Jacobian product, in standard operators only.

        With --technique it is an explainer: one file from picture to class and heat map, to ship beside the model.

        Example: onnxviz gradient efficientnet-lite0 -o gradient.onnx

        Example: onnxviz gradient efficientnet-lite0 --technique grad-cam -o explainer.onnx
        """
        plain = {"--of": of, "--wrt": wrt, "--rules": rules}
        explaining = {"--target": target, "--layer": layer, "--fixed": fixed or None, "--over": over}
        if technique is None:
            feeding = {"--input", "--feed"}
            others = {name: value for name, value in run.model_options().items() if name not in feeding}
            _unused({**explaining, **others}, "only an explainer takes that; give --technique too")
            _gradient_model(run, model, of, wrt, rules or "plain")
            return
        _unused(plain, "only the gradient model takes that; leave it or --technique out")
        from onnxviz.attribution.explainer import explainer_graph

        out = run.output("explainer.onnx")
        run.claim(out)
        net = run.load(model)
        graph = explainer_graph(net, technique, target=target, layer=layer, fixed=fixed, over=over or "input")
        _write(run, graph, out, technique=technique)


def _gradient_model(run: Run, model: str, of: str | None, wrt: str | None, rules: str) -> None:
    from onnxviz.features.graphs import gradient_graph

    target = run.output("gradient.onnx")
    run.claim(target)
    given = run.model_options()
    graph = gradient_graph(
        model,
        of=of,
        wrt=wrt,
        rules=rules,
        input=given.get("--input"),
        feeds=feeds(given.get("--feed")),
        limits=run.limits,
    )
    run.heed(graph)
    rectifiers = graph.meta["rectifiers"]
    if rectifiers == 0:
        from onnxviz.graph.rectifiers import without_rectifiers

        run.note(without_rectifiers(rules, [str(graph.graph.outputs[-1].name).removesuffix(".gradient")]))
    more = {} if rectifiers is None else {"rectifiers": rectifiers}
    _write(run, graph, target, rules=rules, **more)


def _write(run: Run, graph: ir.Model, target: Path, **more: Any) -> None:
    from onnxviz.graph.save import save
    from onnxviz.text import printable

    path = save(graph, target)
    inputs = [str(value.name) for value in graph.graph.inputs]
    outputs = [str(value.name) for value in graph.graph.outputs]
    shown = (", ".join(printable(name, 120) for name in names) for names in (inputs, outputs))
    run.say(f"{path}: {' -> '.join(shown)}")
    run.emit({"out": str(path), "inputs": inputs, "outputs": outputs, **more})


def _unused(options: dict[str, Any], what: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{', '.join(given)}: {what}")
