"""What a technique gives back: arrays first, then a picture, then a manifest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from onnxviz.files import (
    PICTURES,
    TABLES,
    FileSet,
    destination,
    npy_bytes,
    picture_bytes,
    png_bytes,
)

if TYPE_CHECKING:
    from PIL import Image

    from onnxviz.tables import Columns


def strings(value: Any) -> set[str]:
    """All strings in a value of a manifest: keys, and entries however deep."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        return strings([*value, *value.values()])
    return set().union(*map(strings, value)) if isinstance(value, Iterable) else set()


class Prediction(NamedTuple):
    """One class with its probability (0 to 1)."""

    index: int  # type: ignore[assignment]  # a tuple's own method of this name is not missed
    label: str
    probability: float


@dataclass
class Result:
    """The base of every result.

    values     the raw numbers, float32, or None where a technique has none
    manifest   the run manifest: model digest, versions, provider, preprocessing, parameters, seed, figures
    """

    values: np.ndarray | None
    manifest: dict[str, Any] = field(repr=False)

    def picture(self) -> Image.Image:
        """The result drawn as a picture (a PIL image, RGB)."""
        raise TypeError(f"{type(self).__name__} has no picture")

    def pages(self) -> list[Image.Image]:
        """The result drawn as pictures that can be looked at: `picture`, and more where it is too much for one."""
        return [self.picture()]

    def table(self) -> Columns | None:
        """The result as columns, for CSV and Parquet; None where it has no rows."""
        return None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the picture to `path`, and beside it NAME.npy (raw values) and NAME.json (manifest).

        The ending says what is written: .png, .jpg, .jpeg or .webp, and .csv or .parquet where the result has rows. A
        folder (or a name that ends in a slash) gets the technique's name. Further pages are NAME-2.png, NAME-3.png...
        All of them appear together or none does. While they are exchanged NAME.json says "incomplete"; it comes last
        and lists the files, and those that an earlier run of the technique wrote under this name are removed.

        returns  the file, or the first of its pages
        raises   UsageError for another ending, MissingDependency for Parquet without pyarrow, OutputRefused; that too
                 where NAME.json or NAME.npy is of another technique, or not of onnxviz
        """
        return write(self, path)

    def _repr_png_(self) -> bytes:
        return png_bytes(self.picture())


def write(
    result: Result,
    path: str | os.PathLike[str],
    beside: Mapping[Path, bytes] | None = None,
    checkpoints: Sequence[Path] = (),
    named: Path | None = None,
) -> Path:
    """`Result.save`, with more files in the set.

    beside       where these go, and their bytes
    checkpoints  what was written on the way, for the manifest
    named        the one of `beside` that was asked for by name; None: the picture
    """
    columns = result.table()
    kinds = PICTURES if columns is None else PICTURES + TABLES
    target = destination(path, f"{result.manifest.get('technique') or 'result'}.png", kinds)
    ending = target.suffix.lower()
    if columns is not None and ending in TABLES:
        from onnxviz.tables import encoder

        files = [encoder(ending[1:])(columns)]
    else:
        files = [picture_bytes(page, ending) for page in result.pages()]
    names = [
        target if number == 1 else target.with_name(f"{target.stem}-{number}{target.suffix}")
        for number in range(1, len(files) + 1)
    ]
    more = {"pages": [name.name for name in names]} if len(names) > 1 else {}
    everything = {**dict(zip(names, files, strict=True)), **(beside or {})}
    first = named or target
    with FileSet(target.with_suffix(".json"), first) as together:
        for name in sorted(everything, key=lambda name: name != first):
            together.add(name, everything[name])
        if result.values is not None:
            together.add(target.with_suffix(".npy"), npy_bytes(result.values))
        together.describe(result.manifest, more, checkpoints)
    return target


@dataclass
class Attribution(Result):
    """A map over the input that says how much each place matters to one objective.

    values   (H, W) float32; larger is more important, negative speaks against the objective
    image    (H, W, 3) uint8, the picture as the network sees it
    target   the class index, or None for another objective
    label    what `target` is called
    method   the technique's name
    score    the objective's value on the whole image (a probability for a class)
    signed   whether negative values mean something: drawn in a diverging colour map
    percentile   of the magnitudes that is drawn in the deepest colour, with all that lies above; None: the method's own
    view     what the network sees, (H, W, C), where that is no picture and `image` only shows it; else None
    """

    image: np.ndarray = field(repr=False)
    target: int | None
    label: str
    method: str
    score: float | None = None
    signed: bool = False
    percentile: float | None = None
    view: np.ndarray | None = field(default=None, repr=False)

    def picture(self) -> Image.Image:
        """The map over the photo, deeper where it matters more, with a scale."""
        from onnxviz.figures.attribution import draw

        return draw(self)
