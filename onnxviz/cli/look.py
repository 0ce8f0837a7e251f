"""Commands that look at a network as it is: inspect, predict, expose, filters, activations."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxviz.cli.options import ImageArgument, ImagesArgument, LayerOption, ModelArgument, command
from onnxviz.cli.run import Run


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""

    @command(app, images=True)
    def inspect(run: Run, model: ModelArgument) -> None:
        """Input, layers (shape, parameters, MACs, receptive field) and operators of a network.

        Example: onnxviz inspect efficientnet-lite0
        """
        import onnxviz
        from onnxviz.files import json_bytes, write_atomic
        from onnxviz.image.text import printable

        found = onnxviz.inspect(run.load(model))
        if run.out is not None:
            write_atomic(run.out, json_bytes(found.to_dict()))
        for line in found.lines():
            run.say(printable(line))
        run.emit(found.to_dict())

    @command(app, images=True)
    def predict(
        run: Run,
        model: ModelArgument,
        images: ImagesArgument,
        top: Annotated[int, typer.Option(min=1, help="Classes an image.")] = 5,
    ) -> None:
        """The most probable classes of pictures.

        Example: onnxviz predict efficientnet-lite0 cat.jpg
        """
        from onnxviz.errors import ImageRejected
        from onnxviz.files import json_bytes, write_atomic
        from onnxviz.image.folder import find
        from onnxviz.image.text import printable

        net = run.load(model)
        listing = find(images)
        skipped = [(item.path, item.reason) for item in listing.skipped]
        rows = []
        for done, path in enumerate(listing.images, 1):
            try:
                best = net.predict(path, top=top)[0]
            except ImageRejected as error:
                if len(listing.images) == 1 and not skipped:
                    raise
                skipped.append((path, str(error)))
                continue
            rows.append({"path": str(path), "top": [item._asdict() for item in best]})
            run.say(printable(str(path)))
            for item in best:
                run.say(f"  {item.probability:7.2%}  {item.index:5d}  {printable(item.label)}")
            run.progress(done, len(listing.images), "images")
        if not rows:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in skipped[:3])
            raise ImageRejected(f"none of the pictures could be used ({reasons or 'no picture was found'})")
        for path, reason in skipped:
            run.note(f"skipped {path}: {reason}")
        value = {
            "images": rows,
            "skipped": [{"path": str(path), "reason": reason} for path, reason in skipped],
            "manifest": net.manifest("predict", top=top),
        }
        if run.out is not None:
            write_atomic(run.out, json_bytes({"schema": "onnxviz.predict/1", **value}))
        run.emit(value)

    @command(app)
    def expose(
        run: Run,
        model: ModelArgument,
        layer: Annotated[
            list[str] | None,
            typer.Option("--layer", "-l", help="A layer to make an output.", show_default="all"),
        ] = None,
    ) -> None:
        """Write the model with intermediate values as outputs, for any other program to read.

        Example: onnxviz expose efficientnet-lite0 --layer stem -o exposed.onnx
        """
        from onnxviz.graph.limits import Limits
        from onnxviz.graph.save import save
        from onnxviz.techniques.expose import exposed

        graph = exposed(model, layer, limits=Limits.parse(list(run.limit or ())))
        path = save(graph, run.output("exposed.onnx"))
        names = [str(value.name) for value in graph.graph.outputs]
        run.say(f"{path}: {len(names)} outputs")
        run.emit({"out": str(path), "outputs": names})

    @command(app, images=True)
    def filters(run: Run, model: ModelArgument, layer: LayerOption = None) -> None:
        """The weights of a convolution as tiles: RGB where it sees the picture itself.

        Example: onnxviz filters efficientnet-lite0 -o filters.png
        """
        import onnxviz

        run.save(onnxviz.filters(run.load(model), layer))

    @command(app, images=True)
    def activations(
        run: Run,
        model: ModelArgument,
        image: ImageArgument,
        layer: Annotated[
            str, typer.Option("--layer", "-l", help="A layer's name (onnxviz inspect lists them).")
        ],
    ) -> None:
        """The feature maps of a layer for one picture.

        Example: onnxviz activations efficientnet-lite0 cat.jpg --layer stem -o maps.png
        """
        import onnxviz

        run.save(onnxviz.activations(run.load(model), image, layer))
