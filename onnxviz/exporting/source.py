"""What is to be exported: a torch module together with what is known about it, from any Python callable.

The packages of trained networks are in `hubs`.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxviz.errors import InputRefused, MissingDependency, PreprocessingRejected, UsageError, near, ways

if TYPE_CHECKING:
    from onnxviz.image.preprocessing import Preprocessing

FORMS = "torchvision:NAME, timm:NAME, transformers:NAME, module:callable or file.py:callable"


# torch's own switches for `torch.load`: to force that no code is run, and to force the opposite.
_CHECKPOINTS = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")


@dataclass
class Source:
    """A torch module and what is known about it. A `module:callable` may return one, to say more than a module can.

    module          torch.nn.Module; its forward takes the image batch (N, C, H, W) as its first argument
    name            what the graph is called
    text            where it comes from, for the metadata
    size            (height, width) in pixels that it was made for
    channels        of its input
    preprocessing   fields of a `Preprocessing`; None where nothing is known
    labels          one name a class; None where nothing is known
    licence         of the weights
    rename          applied to each torch module path, for shorter value names
    finish          last touches on the named graph
    notes           what could not be found out
    """

    module: Any
    name: str
    text: str
    size: tuple[int, int] | None = None
    channels: int = 3
    preprocessing: Mapping[str, Any] | None = None
    labels: Sequence[str] | None = None
    licence: str | None = None
    rename: Callable[[str], str] = str
    finish: Callable[[ir.Model], None] | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Wanted:
    """What the caller wants of a source.

    options   given on to whoever builds the network: `{"num_classes": 10}`
    random    seeded random weights instead of trained ones
    seed      for these
    trusted   whether code that comes with trained weights may run
    """

    options: Mapping[str, Any]
    random: bool = False
    seed: int = 0
    trusted: bool = False


@contextlib.contextmanager
def weights_alone() -> Iterator[None]:
    """torch takes nothing but tensors from the checkpoints that it reads, whoever reads them: a pickle may run code."""
    before = {name: os.environ.pop(name, None) for name in _CHECKPOINTS}
    os.environ[_CHECKPOINTS[0]] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def would_run_code(error: BaseException | None) -> bool:
    """Whether a package failed because code was not allowed to run: a pickle's, or a folder's own."""
    while error is not None:
        if isinstance(error, pickle.UnpicklingError) or "trust_remote_code" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def untrusted(what: str) -> InputRefused:
    """The refusal of a source that brings code, with the way on."""
    return InputRefused(
        f"{what} brings code of its own, which would run on this machine with your rights; nothing of it was run"
        + ways("give --trust-remote-code where you trust whoever wrote it")
    )


def torch() -> Any:
    """The torch package.

    raises   MissingDependency
    """
    return package("torch", 'pip install "onnxviz[export]"')


def package(name: str, install: str) -> Any:
    """Import a package that only export needs.

    raises   MissingDependency, naming how to install it
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] == name
        why = "is not installed" if missing else f"cannot be imported ({error})"
        raise MissingDependency(f"exporting this network needs {name}, which {why}: {install}") from error
    except (RuntimeError, OSError) as error:  # built for another version of torch
        raise MissingDependency(
            f"{name} does not work with the torch that is installed ({error}): {install}"
        ) from error


def described(
    fields: Mapping[str, Any], reader: Callable[[Mapping[str, Any]], Preprocessing]
) -> tuple[dict[str, Any] | None, list[str]]:
    """The fields of the `Preprocessing` that `reader` finds in a package's own words; else None and a note."""
    try:
        return reader(fields).to_dict(), []
    except PreprocessingRejected as error:
        return None, [f"the package's preprocessing is left out ({error}); give it with --preprocess"]


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`["num_classes=10", "act=relu"]` → `{"num_classes": 10, "act": "relu"}`: Python literals, else text.

    raises   UsageError
    """
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.strip().isidentifier():
            raise UsageError(f"option {pair!r} is not NAME=VALUE")
        try:
            options[key.strip()] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[key.strip()] = text
    return options


# --- module:callable and file.py:callable --------------------------------------------------------


def from_callable(source: str, wanted: Wanted) -> Source:
    """Call what `source` names, with the caller's options, and take the torch module (or `Source`) that it gives.

    The module is imported as usual, or from the current folder. A random network is the callable's own affair;
    torch is seeded with `wanted.seed` around the call, so what it draws is the same every time.

    raises   UsageError, with the callable's own words when it fails
    """
    place, _, attribute = source.rpartition(":")
    found: Any = _module(place, source)
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name in dir(found) if not name.startswith("_")]
            raise UsageError(f"{source!r}: {place!r} has no {attribute!r}{near(part, names)}")
        found = getattr(found, part)
    library = torch()
    if isinstance(found, library.nn.Module):
        made: Any = found
    elif callable(found):
        with seeded(wanted.seed), _told(f"{source!r} failed"):
            made = found(**wanted.options)
    else:
        raise UsageError(
            f"{source!r} is {type(found).__name__}; expected a callable that returns a torch.nn.Module"
        )
    if isinstance(made, Source):
        return made
    if not isinstance(made, library.nn.Module):
        raise UsageError(f"{source!r} returned {type(made).__name__}; expected a torch.nn.Module")
    # For the metadata, of a file only its own name, never where it lies on this machine.
    shown = Path(place).name if place.endswith(".py") else place
    given = ", ".join(f"{key}={value!r}" for key, value in wanted.options.items())
    return Source(made, attribute.split(".")[-1], f"{shown}:{attribute}({given})")


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw initial weights from `seed`, and leave the caller's random state as it was."""
    with torch().random.fork_rng(devices=[]):
        torch().manual_seed(seed)
        yield


@contextlib.contextmanager
def _told(what: str) -> Iterator[None]:
    """A failure of a stranger's code in its own words; raises UsageError."""
    try:
        yield
    except Exception as error:
        raise UsageError(f"{what}: {type(error).__name__}: {error}") from error


def _module(place: str, source: str) -> Any:
    if place.endswith(".py"):
        return _from_file(Path(place), source)
    if not all(part.isidentifier() for part in place.split(".")):
        raise UsageError(f"{source!r}: {place!r} is neither a Python module's name nor a .py file")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)  # a console script, unlike `python -m`, does not look in the current folder
    try:
        with _told(f"{source!r}: importing {place!r} failed"):
            return importlib.import_module(place)
    except UsageError as failed:
        error = failed.__cause__
        if not isinstance(error, ModuleNotFoundError):
            raise
        why = f"{place!r} needs {error.name!r}, which is not installed"
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            why = f"there is no Python module {place!r}; install it, run where it lies, or give file.py:callable"
        raise UsageError(f"{source!r}: {why}") from error
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def _from_file(path: Path, source: str) -> Any:
    if not path.is_file():
        raise UsageError(f"{source!r}: there is no file {str(path)!r}")
    spec = importlib.util.spec_from_file_location(f"_onnxviz_export_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{source!r}: {str(path)!r} is no Python file")
    module = importlib.util.module_from_spec(spec)
    # Registered while it runs: dataclasses and pickling look their module up by name.
    sys.modules[spec.name] = module
    try:
        with _told(f"{source!r} failed"):
            spec.loader.exec_module(module)
    except UsageError:
        sys.modules.pop(spec.name, None)
        raise
    return module
