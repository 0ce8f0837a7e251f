"""The features of a set of pictures, and their files: .npy, .npz, .csv or .parquet, with NAME.json beside them."""

from __future__ import annotations

import csv
import io
import json
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxviz import tables
from onnxviz.errors import (
    ImageRejected,
    InputRefused,
    MissingDependency,
    ModelUnsuitable,
    PreprocessingRejected,
    UsageError,
)
from onnxviz.features.stream import fingerprint
from onnxviz.figures.grids import square
from onnxviz.file_set import FileSet
from onnxviz.files import PICTURES, destination, npy_bytes
from onnxviz.image.folder import Skipped, decode
from onnxviz.image.preprocessing import Preprocessing
from onnxviz.progress import Progress, silent
from onnxviz.results import Result
from onnxviz.text import printable

if TYPE_CHECKING:
    from PIL import Image

    from onnxviz.figures.charts import Groups
    from onnxviz.network import Network

_ENDINGS = (".npy", ".npz", ".csv", ".parquet")
_SCHEMA = "onnxviz.embed/"
# Columns of features in a table: f0, f1...
_FEATURE = "f"


# So many classes are told apart in a picture: the palette and its darker round.
_NAMED = 14


@dataclass
class Embedding(Result):
    """One vector of features for each image that could be read, in the order of the images.

    values       (N, D) float32
    files        N names: the path of a file, 'image 3' for a picture that came as an array
    layer        the layer that the features are of
    classes      (N,) int64, the network's top class for each image; None where the network is no classifier
    confidence   (N,) float32, the probability of that class, 0 to 1; None likewise
    names        what the classes that occur are called
    prints       (N,) int64, CRC-32 of each picture as the network saw it: tells if a file was replaced since
    sources      what each image was read from; None where it cannot be read again
    skipped      what could not be read, with reasons
    """

    files: list[str] = field(repr=False)
    layer: str
    classes: np.ndarray | None = field(repr=False)
    confidence: np.ndarray | None = field(repr=False)
    names: dict[int, str] = field(repr=False)
    prints: np.ndarray = field(repr=False)
    sources: list[Any] = field(repr=False)
    skipped: list[Skipped] = field(repr=False)

    def __len__(self) -> int:
        return len(self.files)

    @property
    def features(self) -> np.ndarray:
        """`values`, by what they are."""
        return self.values

    def usable(self) -> np.ndarray:
        """(N,) bool: the rows without NaN or infinity.

        raises   ModelUnsuitable where there is none
        """
        finite = np.isfinite(self.features).all(axis=1)
        if not finite.any():
            raise ModelUnsuitable(
                f"the features of layer {self.layer!r} are NaN or infinite for every picture; choose an "
                "earlier --layer, and look for broken weights with `onnxviz inspect`"
            )
        return np.asarray(finite)

    def groups(self, rows: np.ndarray | None = None) -> Groups | None:
        """The most frequent top classes of these rows (None: all), for colouring; None for no classifier."""
        from onnxviz.figures.charts import Groups

        if self.classes is None:
            return None
        classes = self.classes if rows is None else self.classes[rows]
        common = Counter(classes.tolist()).most_common()
        # One more class than there are colours for gets the grey for itself.
        shown = [index for index, _ in common[: _NAMED if len(common) > _NAMED + 1 else _NAMED + 1]]
        place = {index: number for number, index in enumerate(shown)}
        of = np.array([place.get(index, -1) for index in classes.tolist()], dtype=np.int64)
        rest = len(common) - len(shown)
        return Groups(of, [self.names[index] for index in shown], f"{rest} other classes")

    def picture(self) -> Image.Image:
        """The plane of greatest variance (PCA), points coloured by the network's top class."""
        from onnxviz.features.project import project
        from onnxviz.figures.charts import scatter

        rows = np.flatnonzero(self.usable())
        found = project(self.features[rows], "pca")
        return scatter(found.points, self.groups(rows), axes=found.axes)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the features as .npy, .npz, .csv or .parquet, by the ending, and NAME.json with the files.

        .npy holds the features alone; .npz also the files and top classes; .csv and .parquet are tables with
        a row an image. A .png, .jpg or .webp gives `picture()` with NAME.npy beside it. Each file appears whole or not
        at all; the features come last.

        raises   UsageError for another ending, MissingDependency for Parquet without pyarrow, OutputRefused
        """
        if Path(path).suffix.lower() in PICTURES:
            return super().save(path)
        target = destination(path, "embed.npy", (*_ENDINGS, *PICTURES))
        ending = check_ending(target)
        self.manifest["checksum"] = checksum(self.features)
        if ending == ".npy":
            data = npy_bytes(self.features)
        elif ending == ".npz":
            data = _npz(self)
        else:
            data = tables.encoder(ending[1:])(table(self))
        with FileSet(target.with_suffix(".json"), target) as files:
            files.add(target, data)
            files.describe(self.manifest)
        return target

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Embedding:
        """The features that `save` wrote, with the manifest beside them.

        raises   InputRefused for a file that is none of ours, or whose manifest is missing or does not fit
        """
        target = Path(path)
        name = printable(target, 200)
        if target.suffix.lower() not in _ENDINGS:
            raise InputRefused(
                f"{name}: features are read from {', '.join(_ENDINGS)}, as `onnxviz embed` writes them"
            )
        manifest = _manifest(target)
        reader = {".csv": _read_csv, ".parquet": _read_parquet}.get(target.suffix.lower(), _read_npy)
        try:
            values = reader(target)
        except FileNotFoundError as error:
            raise InputRefused(f"{name}: there is no such file; `onnxviz embed` writes it") from error
        except MissingDependency:
            raise
        except Exception as error:  # NumPy, csv and pyarrow each raise their own kinds on a broken file
            raise InputRefused(f"{name}: not features that can be read ({printable(error, 200)})") from error
        return _joined(name, values, manifest)

    def check(self, net: Network) -> None:
        """raises   InputRefused when another network or other preprocessing made these features."""
        made = self.manifest.get("model", {}).get("sha256")
        if made != net.digest:
            raise InputRefused(
                f"these features were made by another model (SHA-256 {str(made)[:12]}…, this one is "
                f"{net.digest[:12]}…); give the model that made them, or run `onnxviz embed` again"
            )
        recipe = None
        with suppress(PreprocessingRejected):  # what an incomplete manifest, or a later version's, says
            recipe = Preprocessing.from_dict(self.manifest.get("preprocessing") or {})
        if recipe != net.preprocessing:
            raise InputRefused(
                "these features were made with other preprocessing (size, mean, std, channels…); give the "
                "same options, or run `onnxviz embed` again"
            )


def check_ending(path: str | os.PathLike[str]) -> str:
    """The path's ending, which says what kind of file it is; '.npy' where it has none.

    raises   UsageError for another ending than these, MissingDependency for Parquet without pyarrow
    """
    ending = Path(path).suffix.lower() or ".npy"
    if ending not in _ENDINGS:
        raise UsageError(f"features are written to {', '.join(_ENDINGS)}; got {printable(Path(path).name)!r}")
    if ending == ".parquet":
        tables.encoder("parquet")
    return ending


def checksum(values: np.ndarray) -> int:
    """CRC-32 of the features: tells whether a features file and a manifest belong together."""
    plain = np.where(np.isnan(values), np.float32(np.nan), values).astype("<f4")
    return zlib.crc32(np.ascontiguousarray(plain).data)


def table(found: Embedding) -> dict[str, Any]:
    """One row an image: file, top_class, label, probability (of a classifier), then the features f0, f1..."""
    columns: dict[str, Any] = {"file": found.files}
    if found.classes is not None and found.confidence is not None:
        columns["top_class"] = found.classes
        columns["label"] = [printable(found.names[index]) for index in found.classes.tolist()]
        columns["probability"] = found.confidence
    return columns | {f"{_FEATURE}{i}": column for i, column in enumerate(found.features.T)}


def _npz(found: Embedding) -> bytes:
    arrays = {"features": found.features, "files": np.array(found.files), "prints": found.prints}
    if found.classes is not None and found.confidence is not None:
        arrays |= {"top_class": found.classes, "probability": found.confidence}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type, unused-ignore]
    return buffer.getvalue()


def _manifest(target: Path) -> dict[str, Any]:
    beside = target.with_suffix(".json")
    name = printable(beside, 200)
    try:
        found = json.loads(beside.read_bytes())
    except FileNotFoundError as error:
        raise InputRefused(
            f"{name}: the manifest that belongs to the features is missing; `onnxviz embed` writes both"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputRefused(f"{name}: not a manifest ({printable(error, 200)})") from error
    if not isinstance(found, dict) or not str(found.get("schema")).startswith(_SCHEMA):
        raise InputRefused(f"{name}: not the manifest of features; `onnxviz embed` writes one")
    if "files" not in found and found.get("incomplete"):
        raise InputRefused(f"{name}: a run ended while it saved these features; run `onnxviz embed` again")
    return found


def _joined(name: str, values: np.ndarray, manifest: dict[str, Any]) -> Embedding:
    try:
        files = [str(file) for file in manifest["files"]]
        prints = np.array(manifest["prints"], np.int64)
        given = manifest["top_class"], manifest["top_probability"]
        classes, confidence = (
            (None, None) if None in given else (np.array(given[0], np.int64), np.array(given[1], np.float32))
        )
        names = {int(index): str(label) for index, label in manifest["class_names"].items()}
        skipped = [Skipped(Path(one["path"]), str(one["reason"])) for one in manifest["skipped"]]
        layer = str(manifest["layer"])
        known = classes is None or set(classes.tolist()) <= set(names)
        counts = {len(files), len(prints), *(len(one) for one in (classes, confidence) if one is not None)}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputRefused(
            f"{name}: its manifest is damaged ({type(error).__name__}: {printable(error, 100)})"
        ) from error
    fits = (
        values.ndim == 2 and values.dtype == np.float32 and counts == {len(values)} and known and len(values)
    )
    if not fits or manifest.get("checksum", checksum(values)) != checksum(values):
        raise InputRefused(
            f"{name}: it does not belong to the manifest beside it, which is of {len(files)} pictures (the "
            f"features have shape {values.shape}); run `onnxviz embed` again"
        )
    return Embedding(
        values=values,
        manifest=manifest,
        files=files,
        layer=layer,
        classes=classes,
        confidence=confidence,
        names=names,
        prints=prints,
        sources=[file if Path(file).is_file() else None for file in files],
        skipped=skipped,
    )


def _read_npy(target: Path) -> np.ndarray:
    found = np.load(target, allow_pickle=False)
    return np.asarray(found if isinstance(found, np.ndarray) else found["features"])


def _read_csv(target: Path) -> np.ndarray:
    with target.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        first = _first_feature(next(rows))
        parts = [np.array([cell or "nan" for cell in row[first:]], np.float32) for row in rows]
    return np.stack(parts)


def _read_parquet(target: Path) -> np.ndarray:
    tables.encoder("parquet")
    import pyarrow.parquet

    found = pyarrow.parquet.read_table(target)
    columns = found.columns[_first_feature(found.column_names) :]
    return np.stack([column.to_numpy() for column in columns], axis=1)


def _first_feature(names: list[str]) -> int:
    first = names.index(f"{_FEATURE}0")
    if names[first:] != [f"{_FEATURE}{i}" for i in range(len(names) - first)]:
        raise ValueError("the columns of features are not f0, f1, f2...")
    return first


def thumbnails(
    net: Network, found: Embedding, rows: Sequence[int] | np.ndarray, edge: int, progress: Progress = silent
) -> dict[int, np.ndarray | None]:
    """The pictures of these rows as the network saw them, (edge, edge, 3) uint8 each.

    A picture that is gone, or whose file was replaced since its features were made, is None: it must not be
    shown beside numbers that are not its own.
    """

    def small(row: int) -> np.ndarray:
        source = found.sources[row]
        if source is None:
            raise ImageRejected("it is not there any more")
        view = net.preprocessing.view(net.preprocessing.read(source))
        if fingerprint(view) != found.prints[row]:
            raise ImageRejected("it was replaced")
        return np.asarray(square(net.preprocessing.shown(view), edge))

    tiles: dict[int, np.ndarray | None] = {}
    for row, drawn in decode(map(int, rows), small):
        tiles[row] = None if isinstance(drawn, ImageRejected) else drawn
        progress(len(tiles), len(rows), "pictures")
    return tiles


def left_out_of(broken: int, blank: int) -> list[str]:
    """Warnings of features that are not finite, and of pictures that `thumbnails` could not read again."""
    told = {
        "pictures with NaN or infinite features were left out": broken,
        "pictures could not be read again and are drawn crossed out": blank,
    }
    return [f"{count} {what}" for what, count in told.items() if count]
