"""The command that finds what each channel of a layer answers to most: patches."""

from __future__ import annotations

from typing import Annotated

import typer

from onnxviz.cli.options import BatchOption, FolderArgument, ModelArgument, command
from onnxviz.cli.run import Run

_MOST_NOTES = 10


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""

    @command(app, images=True, writes=())
    def patches(
        run: Run,
        model: ModelArgument,
        folder: FolderArgument,
        layer: Annotated[
            list[str],
            typer.Option("--layer", "-l", help="A layer's name (onnxviz inspect lists them); repeatable."),
        ],
        channel: Annotated[
            list[int] | None,
            typer.Option(
                "--channel", "-c", help="A channel to draw a sheet of; repeatable.", show_default="all"
            ),
        ] = None,
        top: Annotated[int, typer.Option(min=1, help="Patches a channel.")] = 9,
        table: Annotated[str, typer.Option(help="csv, or parquet (needs pyarrow).")] = "csv",
        batch: BatchOption = None,
    ) -> None:
        """Maximally activating patches: the images, and the places in them, that each channel answers most.

        Writes a folder: overview.png, a sheet a channel (of all channels where
        they are up to 64, else of those asked for with --channel), the table
        patches.csv and patches.json, and manifest.json. An image counts once a
        channel.

        Example: onnxviz patches efficientnet-lite0 photos/ --layer head.relu6 -o patches/
        """
        import onnxviz
        from onnxviz.errors import UsageError
        from onnxviz.features.patch_pictures import describe
        from onnxviz.interrupted import Interrupted
        from onnxviz.tables import encoder
        from onnxviz.text import printable

        if table not in ("csv", "parquet"):
            raise UsageError(f"--table takes csv or parquet; got {table!r}")
        encoder(table)  # a missing pyarrow is told before the work, not after it
        target = run.output()
        run.claim(target, *(target / name for name in ("overview.png", f"patches.{table}", "patches.json")))
        stopped = None
        try:
            result = onnxviz.patches(
                run.load(model),
                folder,
                layer,
                channel=channel,
                top=top,
                batch=batch,
                progress=run.progress,
            )
        except Interrupted as stop:
            stopped, result = stop, stop.partial
            run.note("interrupted; saving what was found so far")
        for one in result.skipped[:_MOST_NOTES]:
            run.note(f"skipped {one}")
        if len(result.skipped) > _MOST_NOTES:
            run.note(f"{len(result.skipped)} images were skipped in all; manifest.json lists them")
        result.save(target, table=table, progress=run.progress)
        for line in [printable(str(target)), *describe(result)]:
            run.say(line)
        run.emit({"out": str(target), "manifest": result.manifest})
        if stopped is not None:
            raise stopped
