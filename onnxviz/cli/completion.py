"""What the shell offers for arguments and options: what is known, and what the model that was given has in it.

Nothing is imported before a tab is pressed; a model that cannot be opened offers nothing.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from onnxviz.network import Network

_Completion = Callable[..., list[str]]

#: typer's way of asking what the shell may offer.
ASKED = "_ONNXVIZ_COMPLETE"


def asked() -> list[str]:
    """The words behind `onnxviz` that are completed, as bash or another shell hands them over."""
    line = os.environ.get("COMP_WORDS", os.environ.get("_TYPER_COMPLETE_ARGS", ""))
    try:
        return shlex.split(line)[1:]
    except ValueError:  # a quotation that is not closed yet
        return line.split()[1:]


def _offered(names: Callable[[typer.Context], Iterable[Any]]) -> _Completion:
    """A completion from a function that lists the names."""

    def complete(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
        with contextlib.suppress(Exception):
            known = map(str, names(ctx))
            return [name for name in known if name.casefold().startswith(incomplete.casefold())]
        return []

    return complete


def words(*known: str) -> _Completion:
    """These words."""
    return _offered(lambda _: known)


def _of_model(names: Callable[[Network], Iterable[Any]]) -> _Completion:
    """What the model that was given has in it."""

    def opened(ctx: typer.Context) -> Iterable[Any]:
        import warnings

        import onnxviz

        warnings.simplefilter("ignore")
        # Behind an option whose value is typed just now, nothing has been read.
        model = (
            ctx.params.get("model")
            or ctx.params.get("a")
            or next(word for word in asked()[1:] if not word.startswith("-"))
        )
        return names(onnxviz.load(model, labels=ctx.params.get("labels"), input=ctx.params.get("input")))

    return _offered(opened)


def _of(module: str, names: Callable[[Any], Iterable[Any]]) -> _Completion:
    """What a module of the package lists."""
    return _offered(lambda _: names(import_module(f"onnxviz.{module}")))


layers = _of_model(lambda net: (layer.name for layer in net.layers))
labels = _of_model(lambda net: net.labels or ())
inputs = _of_model(lambda net: (value.name for value in net.model.graph.inputs))
outputs = _of_model(lambda net: (value.name for value in net.model.graph.outputs))
#: The catalogue; files are the shell's.
models = _of("catalogue", lambda module: (entry.name for entry in module.entries()))
#: Ways in which pictures become the input, and recipes of `ascent`.
presets = _of("image.preprocessing", lambda module: module.PRESETS)
recipes = _of("synthesis.presets", lambda module: module.PRESETS)
providers = _of("runtime.providers", lambda module: ["auto", *module.available()])
limits = _of("limits", lambda module: (f"{name}=" for name in module.Limits.__dataclass_fields__))
