"""Commands that look at a network as it is: inspect, predict, expose, filters, activations."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from onnxviz.cli.options import ImagesArgument, LayerOption, ModelArgument, command
from onnxviz.cli.pictures import each
from onnxviz.cli.run import Run
from onnxviz.files import TABLES

_ROWS = (".json", *TABLES)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""

    @command(app, images=True, writes=_ROWS)
    def inspect(run: Run, model: ModelArgument) -> None:
        """Input, layers (shape, parameters, MACs, receptive field) and operators of a network.

        Example: onnxviz inspect efficientnet-lite0
        """
        import onnxviz
        from onnxviz.text import printable

        found = onnxviz.inspect(run.load(model, warned=not run.as_json))
        for line in found.lines():
            run.say(printable(line))
        run.record(found.to_dict(), found.table())

    @command(app, images=True, writes=_ROWS)
    def predict(
        run: Run,
        model: ModelArgument,
        images: ImagesArgument,
        top: Annotated[int, typer.Option(min=1, help="Classes an image.")] = 5,
    ) -> None:
        """The most probable classes of pictures; of a recogniser of text, the best class of each step.

        Example: onnxviz predict efficientnet-lite0 cat.jpg
        """
        from onnxviz.errors import ImageRejected, NotFinite
        from onnxviz.graph.output import SEQUENCE
        from onnxviz.image.folder import find
        from onnxviz.provenance import command as command_line
        from onnxviz.provenance import recording
        from onnxviz.text import printable

        net = run.load(model)
        listing = find(images, endings=net.preprocessing.endings)
        skipped = [(item.path, item.reason) for item in listing.skipped]
        rows = []
        for done, path in enumerate(listing.images, 1):
            try:
                with recording() as record:
                    best = net.predict(path, top=top)[0]
            except (ImageRejected, NotFinite) as error:
                broken = isinstance(error, NotFinite) and bool(
                    net.findings
                )  # every picture would come out so
                if broken or (len(listing.images) == 1 and not skipped):
                    raise
                skipped.append((path, str(error)))
                continue
            steps = net.end.kind == SEQUENCE
            listed = [item._asdict() for item in best]
            if steps:  # the best class of each step
                listed = [{"step": i, **one} for i, one in enumerate(listed)]
            # The path as it was given, and what identifies the picture.
            rows.append({**record.pictures[0], "path": str(path), "steps" if steps else "top": listed})
            run.say(printable(str(path)))
            for number, item in enumerate(best):
                before = f"  step {number:3d}" if steps else ""
                run.say(f"{before}  {item.probability:7.2%}  {item.index:5d}  {printable(item.label, 200)}")
            run.progress(done, len(listing.images), "images")
        if not rows:
            reasons = "; ".join(f"{path}: {reason}" for path, reason in skipped[:3])
            raise ImageRejected(f"none of the pictures could be used ({reasons or 'no picture was found'})")
        for path, reason in skipped:
            run.note(f"skipped {path}: {reason}")
        value = {
            "images": rows,
            "skipped": [{"path": str(path), "reason": reason} for path, reason in skipped],
            "manifest": {**net.manifest("predict", top=top), **command_line()},
        }
        run.record(value, _predictions(rows))

    @command(app, writes=(".onnx",))
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
        from onnxviz.features.graphs import exposed
        from onnxviz.graph.save import save

        target = run.output("exposed.onnx")
        run.claim(target)
        graph = exposed(model, layer, limits=run.limits)
        run.heed(graph)
        path = save(graph, target)
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
        images: ImagesArgument,
        layer: Annotated[
            str, typer.Option("--layer", "-l", help="A layer's name (onnxviz inspect lists them).")
        ],
        codes: Annotated[
            bool, typer.Option("--codes", help="The integers of a quantised file, not what they stand for.")
        ] = False,
    ) -> None:
        """The feature maps of a layer for a picture; for several pictures a file each.

        Example: onnxviz activations efficientnet-lite0 cat.jpg --layer stem -o maps.png
        """
        import onnxviz

        net = run.load(model, each=True)
        each(run, net, images, lambda image: onnxviz.activations(net, image, layer, codes=codes))


def _predictions(images: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The columns of a table with a row for each picture and class, or for each picture and step of a sequence."""
    key, number, first = ("steps", "step", 0) if images and "steps" in images[0] else ("top", "rank", 1)
    rows = [
        (one["path"], count, best["index"], best["label"], best["probability"])
        for one in images
        for count, best in enumerate(one[key], first)
    ]
    names = ("file", number, "index", "label", "probability")
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}
