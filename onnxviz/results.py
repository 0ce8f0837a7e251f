"""What a technique gives back: arrays first, then a picture, then a manifest.

Nothing here knows how anything is drawn: each result's own `picture` asks `figures` for that.
"""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, SupportsIndex, TypeVar, overload

import numpy as np

from onnxviz.errors import MissingDependency
from onnxviz.files import PICTURES, TABLES, destination, npy_bytes, picture_bytes, png_bytes
from onnxviz.text import printable

if TYPE_CHECKING:
    from PIL import Image

    from onnxviz.tables import Columns

R = TypeVar("R")

_LONGEST: Final = 60  # letters of a text in a repr
_MOST_FIELDS: Final = 6  # fields in a repr
_MOST_LISTED: Final = 50  # entries of a list that `to_dict` spells out
_MOST_SHOWN: Final = 24  # pictures of a list that a notebook shows: it keeps each in its file


def strings(value: Any) -> set[str]:
    """All strings in a value of a manifest: keys, and entries however deep."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        return strings([*value, *value.values()])
    return set().union(*map(strings, value)) if isinstance(value, Iterable) else set()


@dataclass
class Result:
    """The base of every result.

    values     the raw numbers, float32 (every technique has some; a result of your own may hold None)
    manifest   the run manifest: model digest, versions, provider, preprocessing, parameters, seed, figures
    """

    values: np.ndarray
    manifest: dict[str, Any] = field(repr=False)

    def __init_subclass__(cls) -> None:
        # Before `dataclass` writes one that spells out arrays: it keeps what a class has.
        cls.__repr__ = Result.__repr__  # type: ignore[method-assign]

    def __repr__(self) -> str:
        """What it is, on one line: `<Attribution (224, 224) float32: target=285, label='Egyptian cat'>`."""
        shown = [f"{name}={text}" for name, text in self._short() if text]
        more = ", …" if len(shown) > _MOST_FIELDS else ""
        values = "" if self.values is None else f" {self.values.shape} {self.values.dtype}"
        told = f": {', '.join(shown[:_MOST_FIELDS])}{more}" if shown else ""
        mark = " (incomplete)" if self.manifest.get("incomplete") else ""
        return f"<{type(self).__name__}{values}{mark}{told}>"

    def _short(self) -> Iterable[tuple[str, str]]:
        for one in fields(self):
            value = getattr(self, one.name, None)
            if one.name == "values" or not one.repr or value is None or value is False:
                continue
            if isinstance(value, str):
                yield one.name, repr(printable(value, _LONGEST)) if value else ""
            elif isinstance(value, (bool, int)):
                yield one.name, str(value)
            elif isinstance(value, float):
                yield one.name, f"{value:.3g}"
            elif isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
                yield one.name, printable(list(value[:3]), _LONGEST) if value else ""

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The raw values, so that `np.asarray(result)` and what takes arrays take a result.

        raises   TypeError where the technique gives no numbers
        """
        if self.values is None:
            raise TypeError(f"{type(self).__name__} has no values")
        if dtype is not None and np.dtype(dtype) != self.values.dtype:
            if copy is False:
                raise ValueError(f"the values are {self.values.dtype}; as {np.dtype(dtype)} they are a copy")
            return self.values.astype(dtype)
        return self.values.copy() if copy else self.values

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON holds it, small: its kind, fields and manifest; of arrays shape, type and range.

        `save` writes the arrays themselves; `values` holds them.
        """
        return {**_described(self), "manifest": _described(self.manifest)}

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

    def plot(self, ax: Any = None) -> Any:
        """Draw the picture with matplotlib, as a part of a figure of one's own, and give the axes back.

        ax       matplotlib Axes; None: those of a new figure
        raises   MissingDependency where a new figure is wanted and matplotlib is not installed
        """
        picture = self.picture()
        if ax is None:
            try:
                from matplotlib import pyplot
            except ImportError as error:
                raise MissingDependency(
                    'plot() draws with matplotlib, which is not installed: pip install "onnxviz[plot]"; or take '
                    "picture(), save(path) or the values"
                ) from error
            width, height = picture.size
            _, ax = pyplot.subplots(figsize=(width / 100, height / 100), layout="constrained")
        ax.imshow(np.asarray(picture))
        ax.set_axis_off()
        return ax

    def _repr_png_(self) -> bytes | None:
        return None if type(self).picture is Result.picture else png_bytes(self.picture())


class Results(list[R]):
    """The results of several pictures, one each, in their order: a list that a notebook shows as pictures."""

    def __repr__(self) -> str:
        shown = [repr(one) for one in self[:_MOST_FIELDS]]
        more = [f"… {len(self)} in all"] if len(self) > _MOST_FIELDS else []
        return f"[{', '.join([*shown, *more])}]"

    @overload
    def __getitem__(self, index: SupportsIndex) -> R: ...
    @overload
    def __getitem__(self, index: slice) -> Results[R]: ...
    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return Results(found) if isinstance(index, slice) else found

    def _repr_html_(self) -> str:
        def drawn(one: Result) -> str:
            data = base64.b64encode(png_bytes(one.picture())).decode()
            return f'<img src="data:image/png;base64,{data}" alt="{html.escape(repr(one))}" style="max-width:100%">'

        shown = [one for one in self if isinstance(one, Result)]
        more = [f"<p>… {len(shown)} in all; slice the list to see the others</p>"]
        return "\n".join([*map(drawn, shown[:_MOST_SHOWN]), *(more if len(shown) > _MOST_SHOWN else [])])


def _described(value: Any) -> Any:
    """A value as JSON holds it: arrays by what they are like, of long lists the beginning."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        finite = value[np.isfinite(value)] if value.dtype.kind in "fiub" else value[:0]
        ends = {"min": _described(finite.min()), "max": _described(finite.max())} if finite.size else {}
        return {"shape": list(value.shape), "dtype": str(value.dtype), **ends}
    if isinstance(value, Result) or (is_dataclass(value) and not isinstance(value, type)):
        names = [one.name for one in fields(value) if one.name != "manifest"]
        return {"type": type(value).__name__} | {name: _described(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        kept = list(value.items())[:_MOST_LISTED]
        told = {
            key if isinstance(key, str) else printable(key, _LONGEST): _described(item) for key, item in kept
        }
        return told if len(kept) == len(value) else {**told, "…": f"{len(value)} in all"}
    if isinstance(value, (Sequence, set, frozenset)) and not isinstance(value, bytes):
        listed = [_described(item) for item in list(value)[:_MOST_LISTED]]
        return listed if len(listed) == len(value) else [*listed, f"… {len(value)} in all"]
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    return f"<{type(value).__name__}>"  # its text may hold an address, or megabytes


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
        target,
        *(target.with_name(f"{target.stem}-{i}{target.suffix}") for i in range(2, len(files) + 1)),
    ]
    more = {"pages": [name.name for name in names]} if len(names) > 1 else {}
    everything = {**dict(zip(names, files, strict=True)), **(beside or {})}
    first = named or target
    from onnxviz.file_set import FileSet

    with FileSet(target.with_suffix(".json"), first) as together:
        for name in sorted(everything, key=lambda name: name != first):
            together.add(name, everything[name])
        if result.values is not None:
            together.add(target.with_suffix(".npy"), npy_bytes(result.values))
        together.describe(result.manifest, more, checkpoints)
    return target
