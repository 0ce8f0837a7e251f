"""What is to be exported: a torch module together with what is known about it."""

from __future__ import annotations

import ast
import contextlib
import importlib
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxviz.errors import InputRefused, MissingDependency, PreprocessingRejected, UsageError, ways

if TYPE_CHECKING:
    from onnxviz.image.preprocessing import Preprocessing

FORMS = "torchvision:NAME, timm:NAME, transformers:NAME, module:callable or file.py:callable"


# torch's own switches for `torch.load`: to force that no code is run, and to force the opposite.
_CHECKPOINTS = ("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")


def _same(path: str) -> str:
    return path


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
    rename: Callable[[str], str] = _same
    finish: Callable[[ir.Model], None] | None = None
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Wanted:
    """What the caller wants of a source.

    options   given on to whoever builds the network: `{"num_classes": 10}`
    random    seeded random weights instead of trained ones
    seed      for these
    size      (height, width) in pixels, or None for the network's own
    trusted   whether code that comes with trained weights may run
    """

    options: Mapping[str, Any]
    random: bool = False
    seed: int = 0
    size: tuple[int, int] | None = None
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
