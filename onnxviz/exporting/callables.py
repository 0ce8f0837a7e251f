"""Networks from any Python callable: `module:callable` or `file.py:callable`."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

from onnxviz.errors import UsageError, near
from onnxviz.exporting.source import Source, Wanted, torch


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
        with library.random.fork_rng(devices=[]):
            library.manual_seed(wanted.seed)
            try:
                made = found(**wanted.options)
            except Exception as error:
                raise UsageError(f"{source!r} failed: {type(error).__name__}: {error}") from error
    else:
        raise UsageError(
            f"{source!r} is {type(found).__name__}; expected a callable that returns a torch.nn.Module"
        )
    if isinstance(made, Source):
        return made
    if not isinstance(made, library.nn.Module):
        raise UsageError(f"{source!r} returned {type(made).__name__}; expected a torch.nn.Module")
    return Source(made, attribute.split(".")[-1], _described(place, attribute, wanted))


def _described(place: str, attribute: str, wanted: Wanted) -> str:
    """The name for the metadata; of a file only its own name, never where it lies on this machine."""
    shown = Path(place).name if place.endswith(".py") else place
    given = ", ".join(f"{key}={value!r}" for key, value in wanted.options.items())
    return f"{shown}:{attribute}({given})"


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
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise UsageError(
                f"{source!r}: there is no Python module {place!r}; install it, run where it lies, "
                "or give file.py:callable"
            ) from error
        raise UsageError(f"{source!r}: {place!r} needs {error.name!r}, which is not installed") from error
    except Exception as error:
        raise UsageError(
            f"{source!r}: importing {place!r} failed: {type(error).__name__}: {error}"
        ) from error
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
        spec.loader.exec_module(module)
    except Exception as error:
        sys.modules.pop(spec.name, None)
        raise UsageError(f"{source!r} failed: {type(error).__name__}: {error}") from error
    return module
