"""The catalogue: networks that are known by name, and how each one comes onto this machine.

One network, efficientnet-lite0, is part of the package. The others are fetched only when asked for
(`onnxviz models --fetch NAME`, `exporting.fetch`), into a cache folder.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from onnxviz.errors import UsageError, near


@dataclass(frozen=True)
class Entry:
    """One network of the catalogue.

    name            what commands call it
    task            'classification' or 'style'
    get             'bundled' (part of the package), 'download' or 'export' (made here from a package's weights)
    file            its file name
    source          paper, package and weights, in words
    sha256          of the file; None for 'export', whose bytes depend on the versions of torch and the package
    size            bytes; approximate where sha256 is None
    preprocessing   the fields of a `Preprocessing`
    labels          'imagenet', or None where it is no classifier
    licence         SPDX identifier, with a remark where there is one
    urls            where to download, tried in order
    export          what to give to `onnxviz.export`
    weights         which of the package's weights, where it has several
    packages        what to install before exporting
    """

    name: str
    task: str
    get: str
    file: str
    source: str
    sha256: str | None
    size: int
    preprocessing: Mapping[str, Any]
    labels: str | None
    licence: str
    urls: tuple[str, ...] = ()
    export: str | None = None
    weights: str | None = None
    packages: tuple[str, ...] = ()

    @property
    def path(self) -> Path | None:
        """Where the file lies, or None when it has not been fetched."""
        path = data_file(self.file) if self.get == "bundled" else cache_folder() / self.file
        return path if path.is_file() else None

    @property
    def how(self) -> str:
        """How it comes onto this machine, in one line."""
        if self.get == "bundled":
            return "part of onnxviz"
        if self.get == "download":
            return f"download of {self.size / 1e6:.1f} MB"
        return f"export, about {self.size / 1e6:.0f} MB (needs pip install {' '.join(self.packages)})"


@cache
def entries() -> tuple[Entry, ...]:
    """Every network of the catalogue, in its order."""
    listed = json.loads(data_file("catalogue.json").read_text("utf-8"))["networks"]
    return tuple(_entry(fields) for fields in listed)


def _entry(fields: dict[str, Any]) -> Entry:
    values: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in fields.items()}
    return Entry(**values)


def entry(name: str) -> Entry:
    """The network called `name`.

    raises   UsageError, naming the nearest
    """
    named = {listed.name: listed for listed in entries()}
    if name not in named:
        raise UsageError(
            f"no network is called {name!r}{near(name, named)}; "
            "`onnxviz models` lists the catalogue, and a model file is given by its path"
        )
    return named[name]


def resolve(model: str | os.PathLike[str]) -> Path:
    """The file that `model` means: a path, or a name of the catalogue (`./NAME` is always a path).

    Nothing is fetched here.

    raises   UsageError for an unknown name, or a network that is not on this machine yet (naming the command
             that fetches it)
    """
    text = os.fspath(model)
    if text not in {listed.name for listed in entries()}:
        path = Path(text)
        if path.exists() or path.suffix or len(path.parts) > 1 or isinstance(model, Path):
            return path  # whoever opens it says what is wrong with it
    found = entry(text)
    if found.path is not None:
        return found.path
    if found.get == "bundled":
        raise UsageError(
            f"{found.name!r} should be part of onnxviz but {found.file!r} is missing; reinstall it"
        )
    raise UsageError(
        f"{found.name!r} is not on this machine yet; fetch it with `onnxviz models --fetch {found.name}` ({found.how})"
    )


def cache_folder() -> Path:
    """Where fetched networks lie: $ONNXVIZ_CACHE, or onnxviz in the user's cache folder of this system."""
    given = os.environ.get("ONNXVIZ_CACHE")
    if given:
        return Path(given).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
        return Path(base) / "onnxviz" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "onnxviz"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "onnxviz"


def data_file(name: str) -> Path:
    """The path of a file that travels with the package: the catalogue, the bundled network, the labels.

    In an installed package they lie in `onnxviz/_models`, in a checkout in `models` beside the package.
    """
    package = Path(__file__).resolve().parent
    installed = package / "_models" / name
    return installed if installed.is_file() else package.parent / "models" / name
