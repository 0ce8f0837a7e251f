"""What a result rests on, for its manifest: the pictures that were read, and the command or call that was made.

While a technique runs (`recorded`), `image.io.read` notes each picture: its path as given and the SHA-256 of the bytes
that were read anyway, so nothing is read twice. Worker threads note nothing by themselves; a stream over many pictures
keeps one digest of them all (`Pictures`). No clock and no name of the machine is ever noted.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

from onnxviz.errors import SMALLER, LimitExceeded, UsageError, renamed
from onnxviz.progress import Bar
from onnxviz.text import printable, quoted

if TYPE_CHECKING:
    import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

#: The arguments of the command line that runs, as they were given; None: the library is called from Python.
COMMAND_LINE: ContextVar[tuple[str, ...] | None] = ContextVar("command line", default=None)
_RECORD: ContextVar[Record | None] = ContextVar("record", default=None)

_MOST_LISTED: Final = 50  # items of a list among the arguments of a call


@dataclass(frozen=True)
class Likeness:
    """Another file of the network, whose names the layers have (`onnxviz.like`).

    name, sha256   of that file
    own            what this file calls them, by those names
    nearly         names that fit a layer only nearly, and what is said where one is asked for
    """

    name: str
    sha256: str
    own: Mapping[str, str]
    nearly: Mapping[str, str]


class Pictures:
    """The digest of a set of pictures, in order: the SHA-256 of their SHA-256 digests, a line each."""

    def __init__(self) -> None:
        self.count = 0
        self._hash = hashlib.sha256()

    def add(self, digests: Sequence[str]) -> None:
        """The next pictures of the set, by the digests of their bytes."""
        self.count += len(digests)
        self._hash.update("".join(f"{one}\n" for one in digests).encode())

    def to_dict(self) -> dict[str, Any]:
        """How many there were, and the digest."""
        return {"count": self.count, "sha256": self._hash.hexdigest()}


class Record:
    """The pictures that were read since it was opened.

    pictures   one entry each, in order: path (or shape and dtype of an array), sha256, size (height, width), and what
               of it the network sees
    sets       what was streamed
    """

    def __init__(self) -> None:
        self.pictures: list[dict[str, Any]] = []
        self.sets: list[Pictures] = []

    def to_dict(self) -> dict[str, Any]:
        """Its part of a manifest."""
        sets = [one.to_dict() for one in self.sets]
        return {key: value for key, value in (("pictures", self.pictures), ("picture_sets", sets)) if value}


# --- noting -----------------------------------------------------------------------------------


@contextlib.contextmanager
def recording() -> Iterator[Record]:
    """Note what is read inside, in this thread."""
    record = Record()
    token = _RECORD.set(record)
    try:
        yield record
    finally:
        _RECORD.reset(token)


def active() -> bool:
    """Whether anybody asks for a note."""
    return _RECORD.get() is not None


@contextlib.contextmanager
def unnoted() -> Iterator[None]:
    """Note nothing of what is read inside: whoever reads it notes it by another name."""
    token = _RECORD.set(None)
    try:
        yield
    finally:
        _RECORD.reset(token)


def note(source: Any, data: bytes | None, picture: np.ndarray) -> None:
    """A picture (H, W, ...) was read from `source`: a path with its bytes (None: those on the disk), or an array."""
    record = _RECORD.get()
    if record is None or record.sets:  # pictures of a set are read again for thumbnails
        return
    from onnxviz.files import sha256

    if data is not None or isinstance(source, (str, os.PathLike)):
        found = hashlib.sha256(data).hexdigest() if data is not None else sha256(source)
        entry: dict[str, Any] = {"path": printable(os.fsdecode(source)), "sha256": found}
    else:
        kind = "array" if hasattr(source, "dtype") else "PIL image"
        given = source if kind == "array" else picture
        entry = {"given": kind, **_array(given)}
    entry["size"] = [int(side) for side in picture.shape[:2]]
    record.pictures.append(entry)


def note_tensor(x: np.ndarray) -> None:
    """The network's own input was given as an array."""
    record = _RECORD.get()
    if record is not None and not record.pictures and not record.sets:
        record.pictures.append({"given": "tensor", **_array(x)})


def note_view(recipe: Any, picture: np.ndarray) -> None:
    """What of the picture read last the network sees: the box in its pixels, and the size that this is brought to.

    recipe   its `image.preprocessing.Preprocessing`
    """
    record = _RECORD.get()
    if record is None or not record.pictures or "seen" in record.pictures[-1]:
        return
    height, width = picture.shape[:2]
    if record.pictures[-1].get("size") != [height, width]:
        return
    g = recipe.geometry(height, width)
    top, left, bottom, right = recipe.window(height, width)
    low, high = {"top": max(0.0, top), "left": max(0.0, left)}, {"bottom": min(float(height), bottom)}
    box = {**low, **high, "right": min(float(width), right)}
    seen: dict[str, Any] = {
        "box": {name: round(edge, 3) for name, edge in box.items()},
        "size": list(recipe.seen(height, width)),
    }
    if g.top < 0 or g.left < 0:
        seen["padding"] = {"top": max(0, -g.top), "left": max(0, -g.left)}
    record.pictures[-1]["seen"] = seen


def fed(values: Mapping[str, np.ndarray], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What the other inputs hold, for every manifest of the network: by input the tensor, and the file it came from.

    values   the tensors, by input
    given    what they were made of: a path, an array, numbers
    """
    from onnxviz.files import sha256

    found = []
    for name, array in values.items():
        source = given[name]
        entry: dict[str, Any] = {"input": printable(name)}
        if isinstance(source, (str, os.PathLike)):
            entry |= {"path": printable(os.fsdecode(source)), "sha256": sha256(source)}
        if array.size <= _MOST_LISTED:
            entry["value"] = array.tolist()
        found.append(entry | {"tensor": _array(array)})
    return found


def note_set() -> Pictures | None:
    """A stream over many pictures begins: what it adds its digests to; None where nobody asks."""
    record = _RECORD.get()
    if record is None:
        return None
    record.sets.append(Pictures())
    return record.sets[-1]


def _array(array: np.ndarray) -> dict[str, Any]:
    import numpy as np

    digest = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
    return {"shape": list(array.shape), "dtype": str(array.dtype), "sha256": digest}


# --- signing ----------------------------------------------------------------------------------


def recorded(technique: Callable[P, R]) -> Callable[P, R]:
    """A technique whose results name the pictures that they were made of and the call, in their manifests.

    Its `progress` of 'auto' is a bar while it runs. A technique inside another leaves record and bar to the outer one.
    It takes its arguments by their other names, too (`errors.renamed`).
    raises   UsageError where it takes a network first and gets something else; LimitExceeded where memory ends
    """
    parameters = inspect.signature(technique).parameters
    first = next(iter(parameters.values()))
    optional = "None" in str(first.annotation)

    @functools.wraps(technique)
    def wrapper(*args: P.args, **options: P.kwargs) -> R:
        if active():
            return technique(*args, **options)
        net = args[0] if args else options.get("net")
        if first.name == "net" and not (net is None and (optional or not args)):
            check_open(net, technique.__name__)
        with recording() as record, Bar(technique.__name__) as bar:
            if "progress" in parameters and options.get("progress", "auto") == "auto":
                options["progress"] = bar
            try:
                result = technique(*args, **options)
            except MemoryError as error:
                raise LimitExceeded(f"{technique.__name__} ran out of memory: {error}" + SMALLER) from error
            except BaseException as stop:  # Ctrl-C and gradients that run away keep what was done so far
                partial = getattr(stop, "partial", None)
                if partial is not None:
                    _sign(partial, record, _call(technique, args, options))
                raise
        _sign(result, record, _call(technique, args, options))
        return result

    return renamed(wrapper)


def check_open(net: Any, technique: str) -> None:
    """Hold what a technique got as its network to being one.

    raises   UsageError, most often for a path
    """
    if not hasattr(net, "prepare"):
        path = isinstance(net, (str, os.PathLike))
        given = quoted(os.fspath(net)) if path else f"an object of type {type(net).__name__}"
        raise UsageError(
            f"{technique} got {given} in place of a network; open the file first: net = onnxviz.load(...), then "
            f"onnxviz.{technique}(net, ...)"
        )


def command() -> dict[str, Any]:
    """The command line, for a manifest; nothing where the library is called from Python."""
    line = COMMAND_LINE.get()
    return {} if line is None else {"command": ["onnxviz", *line]}


def _call(technique: Callable[..., Any], args: Any, options: Any) -> dict[str, Any]:
    if line := command():
        return line
    given = inspect.signature(technique).bind(*args, **options).arguments
    given = {**given, **given.pop("options", {})}
    names = [
        name
        for name in given
        if name not in ("progress", "watch") and type(given[name]).__name__ != "Network"
    ]
    arguments = {name: _plain(given[name]) for name in names}
    return {"call": {"function": f"onnxviz.{technique.__name__}", "arguments": arguments}}


def _plain(value: Any) -> Any:
    """An argument as a manifest holds it: numbers and texts as they are, anything else by what it is."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, (list, tuple)):
        shown = [_plain(one) for one in value[:_MOST_LISTED]]
        return shown if len(value) <= _MOST_LISTED else [*shown, f"... {len(value)} in all"]
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return {"shape": list(value.shape), "dtype": str(value.dtype)} if value.shape else value.item()
    # An objective says what it is; of anything else the kind, since its text may hold an address.
    ours = type(value).__module__.startswith("onnxviz.objectives")
    return str(value) if ours and type(value).__str__ is not object.__str__ else type(value).__name__


def _sign(result: Any, record: Record, call: dict[str, Any]) -> None:
    """Write record and call into the manifests: of several results of as many pictures, each its own."""
    if isinstance(result, list):
        own = len(result) == len(record.pictures)
        for number, one in enumerate(result):
            part = copy.copy(record)
            part.pictures = record.pictures[number : number + 1] if own else record.pictures
            _sign(one, part, call)
        return
    manifest = getattr(result, "manifest", None)
    if isinstance(manifest, dict):
        manifest |= {**call, **record.to_dict()}
    grid = getattr(result, "grid", None)  # `Attributions`: one row a picture
    if isinstance(grid, list):
        for column in zip(*grid, strict=False):
            _sign(list(column), record, call)
    source = getattr(result, "source", None)  # `Segmentation`: the map that it started from
    if source is not None and hasattr(source, "manifest"):
        _sign(source, record, call)


def of_layers(net: Any, parameters: Mapping[str, Any], quantised: bool) -> dict[str, Any]:
    """What a manifest says of the layers that parameters name.

    quantised   whether the network's file holds values as integers: codes, scale and zero point of each are told.
                Where layers have the names of another file (`onnxviz.like`), that file, and what this one calls them
    """
    if not quantised and net.likeness is None:
        return {}
    from onnxviz.results import strings

    named = strings(value for key, value in parameters.items() if "layer" in key)
    layers = [layer for layer in net.layers if layer.name in named] if named else []
    told: dict[str, Any] = {}
    held = {layer.name: vars(layer.quantised) for layer in layers if layer.quantised is not None}
    if quantised and held:
        told["quantised"] = held
    if (like := net.likeness) is not None:
        own = {layer.name: like.own.get(layer.name, layer.name) for layer in layers}
        told["like"] = {"name": like.name, "sha256": like.sha256, "layers": own}
    return told
