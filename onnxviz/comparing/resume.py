"""Going on with a comparison that was interrupted: its parts, as the folder has them that it was saved in.

They are written as JSON, and read into the dataclasses that are named here and no others: a folder is a file that
anybody may have made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from onnxviz._version import __version__
from onnxviz.auditing.resume import digest, earlier, pictured, read
from onnxviz.auditing.statistics import Likeness, Share
from onnxviz.comparing.answers import Answers, Truth
from onnxviz.comparing.dense import Detections, Pixels
from onnxviz.comparing.local import Advice, Exclusion, Local, LocalEffect, Split
from onnxviz.comparing.match import Pair
from onnxviz.comparing.noise import Noise
from onnxviz.comparing.weights import WeightFigures
from onnxviz.comparing.why import LayerFigures, Why
from onnxviz.errors import UsageError, ways
from onnxviz.image.folder import Skipped
from onnxviz.network import Network
from onnxviz.text import quoted

#: The file of the parts.
PARTS: Final = "parts.json"
_SCHEMA: Final = "onnxviz.parts/1"
_KINDS: Final = {
    kind.__name__: kind
    for kind in (
        *(Advice, Answers, Detections, Exclusion, LayerFigures, Likeness, Local, LocalEffect, Noise, Pair),
        *(Pixels, Share, Skipped, Split, Truth, WeightFigures, Why),
    )
}
_WORDS: Final = {
    "models": "one of the models",
    "recipes": "how pictures become their inputs",
    "pictures": "the pictures",
    "request": "what was asked for, or how a model is run,",
    "version": "onnxviz itself",
}


def rests(nets: Sequence[Network], images: Sequence[Any], request: Mapping[str, Any]) -> dict[str, str]:
    """What the parts rest on, a digest of each.

    request   all else that decides what comes of it, as plain values
    """
    run = [[net.provider, net.backend, net.optimise] for net in nets]
    return {
        "models": digest([net.digest for net in nets]),
        "recipes": digest([net.preprocessing.to_dict() for net in nets]),
        "pictures": pictured(images),
        "request": digest([repr(request), run]),
        "version": __version__,
    }


def made(
    folder: str | os.PathLike[str], now: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The parts of an earlier comparison by name, and its manifest; None where there is no report.

    raises   UsageError where the report is of something else, naming what has changed
    """
    manifest = earlier(folder, now, "compare", _WORDS)
    if manifest is None:
        return None
    path = Path(folder) / PARTS
    message = read(path)
    try:
        if message["schema"] != _SCHEMA:
            raise ValueError(f"its schema is {message['schema']!r}")
        parts = {str(name): _loaded(one) for name, one in message["parts"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"--resume: {quoted(path)} does not hold the parts of a comparison: {error}"
            + ways("leave out --resume")
        ) from error
    return parts, manifest


def written(parts: Mapping[str, Any]) -> bytes:
    """The parts as a file."""
    plain = {name: _plain(one) for name, one in parts.items()}
    return json.dumps({"schema": _SCHEMA, "parts": plain}, separators=(",", ":")).encode()


def _plain(value: Any) -> Any:
    """As JSON has it; what it has no word for is an object with one key, which tells what it is."""
    if is_dataclass(value) and not isinstance(value, type):
        own = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        return {type(value).__name__: own}
    if isinstance(value, Mapping):
        return {"dict": [[_plain(key), _plain(one)] for key, one in value.items()]}
    if isinstance(value, (list, tuple)):
        listed = [_plain(one) for one in value]
        return {"tuple": listed} if isinstance(value, tuple) else listed
    if isinstance(value, Path):
        return {"Path": os.fsdecode(value)}
    return value.item() if isinstance(value, np.generic) else value


def _loaded(value: Any) -> Any:
    if isinstance(value, list):
        return [_loaded(one) for one in value]
    if not isinstance(value, dict):
        return value
    ((kind, own),) = value.items()
    if kind == "dict":
        return {_loaded(key): _loaded(one) for key, one in own}
    if kind == "tuple":
        return tuple(map(_loaded, own))
    if kind == "Path":
        return Path(own)
    return _KINDS[kind](**{str(name): _loaded(one) for name, one in own.items()})
