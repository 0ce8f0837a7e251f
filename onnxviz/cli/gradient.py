"""The command that writes gradient models."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxviz.cli.options import ModelArgument, command
from onnxviz.cli.run import Run


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app)
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
        rules: Annotated[str, typer.Option(help="plain, guided, deconvnet or redirected.")] = "plain",
    ) -> None:
        """Write the gradient model: the model plus its vector-Jacobian product, in standard operators only.

        Example: onnxviz gradient efficientnet-lite0 -o gradient.onnx
        """
        from onnxviz.graph.limits import Limits
        from onnxviz.graph.save import save
        from onnxviz.techniques.gradient import gradient_graph

        graph = gradient_graph(model, of=of, wrt=wrt, rules=rules, limits=Limits.parse(list(run.limit or ())))
        path = save(graph, run.output("gradient.onnx"))
        inputs = [str(value.name) for value in graph.graph.inputs]
        outputs = [str(value.name) for value in graph.graph.outputs]
        run.say(f"{path}: {', '.join(inputs)} -> {', '.join(outputs)}")
        run.emit({"out": str(path), "inputs": inputs, "outputs": outputs, "rules": rules})
