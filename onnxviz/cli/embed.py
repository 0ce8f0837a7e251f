"""Commands on the features of many pictures: embed, neighbours, map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from onnxviz.cli.options import BatchOption, FolderArgument, LayerOption, ModelArgument, command
from onnxviz.cli.run import Run
from onnxviz.files import PICTURES, TABLES

if TYPE_CHECKING:
    from onnxviz.features.embedding import Embedding
    from onnxviz.image.folder import Skipped

_FoldersArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="DIR...", help="Folders of pictures, or pictures; may be left out with --features."
    ),
]
_FeaturesOption = Annotated[
    Path | None,
    typer.Option(
        "--features", help="What `embed` wrote of these pictures: nothing is computed twice.", metavar="FILE"
    ),
]


_FEATURES = (".npy", ".npz", *TABLES)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""

    @command(app, images=True, writes=(*_FEATURES, *PICTURES))
    def embed(
        run: Run,
        model: ModelArgument,
        folders: FolderArgument,
        layer: LayerOption = None,
        batch: BatchOption = None,
    ) -> None:
        """The last hidden layer's features of pictures, as a file: .npy, .npz, .csv or .parquet.

        Example: onnxviz embed efficientnet-lite0 photos/ -o features.npy
        """
        import onnxviz
        from onnxviz.features.embedding import check_ending
        from onnxviz.interrupted import Interrupted

        if run.output().suffix.lower() in _FEATURES:
            check_ending(run.output())  # a missing pyarrow is told before the work
        net = run.load(model)
        try:
            found = onnxviz.embed(net, folders, layer=layer, batch=batch, progress=run.progress)
        except Interrupted as stop:
            run.save(stop.partial)
            run.note("interrupted: the features so far were saved, and their manifest says incomplete")
            raise
        _tell(run, found.skipped)
        run.save(found)

    @command(app, images=True, writes=(*PICTURES, *TABLES))
    def neighbours(
        run: Run,
        model: ModelArgument,
        folders: _FoldersArgument = None,
        query: Annotated[
            list[Path] | None,
            typer.Option(
                "--query", help="A picture to find neighbours of; may be given again.", metavar="IMAGE"
            ),
        ] = None,
        queries: Annotated[
            int, typer.Option(min=1, help="How many to draw from the set where no --query is given.")
        ] = 8,
        k: Annotated[int, typer.Option("--k", "-k", min=1, help="Neighbours a query.")] = 5,
        metric: Annotated[str, typer.Option(help="l2 or cosine.")] = "l2",
        features: _FeaturesOption = None,
        layer: LayerOption = None,
        batch: BatchOption = None,
    ) -> None:
        """The pictures that the network takes for most alike, as rows: a query and its nearest neighbours.

        Example: onnxviz neighbours efficientnet-lite0 photos/ --query cat.jpg -o neighbours.png
        """
        import onnxviz

        net = run.load(model)
        found = _keeping(
            run,
            onnxviz.neighbours,
            net,
            _set(folders, features),
            queries=query or queries,
            k=k,
            metric=metric,
            layer=layer,
            batch=batch,
            seed=run.seed,
        )
        _tell(run, found.embedding.skipped if features is None else [])
        run.save(found)

    @command(app, images=True, writes=(*PICTURES, *TABLES))
    def map(
        run: Run,
        model: ModelArgument,
        folders: _FoldersArgument = None,
        method: Annotated[
            str | None,
            typer.Option(
                help="pca, tsne or umap (extra `maps`).", show_default="tsne, pca for fewer than 10"
            ),
        ] = None,
        perplexity: Annotated[
            float | None,
            typer.Option(
                min=1, help="About how many neighbours stay close.", show_default="tsne 30, umap 15"
            ),
        ] = None,
        features: _FeaturesOption = None,
        layer: LayerOption = None,
        batch: BatchOption = None,
    ) -> None:
        """A map of pictures: those that the network takes for alike lie together, as a scatter and on a grid.

        Example: onnxviz map efficientnet-lite0 photos/ --method tsne -o map.png
        """
        import onnxviz

        net = run.load(model)
        found = _keeping(
            run,
            onnxviz.map,
            net,
            _set(folders, features),
            method=method,
            perplexity=perplexity,
            layer=layer,
            batch=batch,
            seed=run.seed,
        )
        _tell(run, found.embedding.skipped if features is None else [])
        for note in found.manifest["notes"]:
            run.note(note)
        run.save(found)


def _set(folders: list[Path] | None, features: Path | None) -> list[Path] | Embedding:
    """The pictures, or their features where a file of them is given."""
    from onnxviz.errors import UsageError
    from onnxviz.features.embedding import Embedding
    from onnxviz.image.folder import find
    from onnxviz.text import printable

    if features is None:
        if not folders:
            raise UsageError("no picture was given; expected folders or pictures, or --features FILE")
        return folders
    found = Embedding.load(features)
    known = {*found.files, *(str(one.path) for one in found.skipped)}
    new = [path for path in find(folders or []).images if printable(path) not in known]
    if new:
        raise UsageError(
            f"{len(new)} of the pictures given are not in {printable(features)} ({printable(new[0])}...); "
            "run `onnxviz embed` again, or leave out --features"
        )
    return found


def _keeping(run: Run, technique: Callable[..., Any], *given: Any, **options: Any) -> Any:
    """Run the technique; on Ctrl-C save the features, which took long, and let the interruption go on."""
    from onnxviz.interrupted import Interrupted

    try:
        return technique(*given, progress=run.progress, **options)
    except Interrupted as stop:
        target = run.output()
        run.out, run.writes = str(target.with_name(f"{target.stem}-features.npy")), _FEATURES
        run.save(stop.partial)
        run.note("interrupted: the features so far were saved; --features takes them back")
        raise


def _tell(run: Run, skipped: list[Skipped]) -> None:
    most = 5
    for one in skipped[:most]:
        run.note(f"skipped {one}")
    if len(skipped) > most:
        run.note(f"skipped {len(skipped) - most} more; the JSON file beside the result lists them all")
