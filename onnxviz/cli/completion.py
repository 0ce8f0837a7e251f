"""What the shell offers for arguments and options: what is known, and what the model that was given has in it.

Nothing is imported before a tab is pressed; a model that cannot be opened offers nothing.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

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


def offered(names: Callable[[typer.Context], Iterable[str]]) -> _Completion:
    """A completion from a function that lists the names."""

    def complete(ctx: typer.Context, args: list[str], incomplete: str) -> list[str]:
        with contextlib.suppress(Exception):
            return [name for name in names(ctx) if name.casefold().startswith(incomplete.casefold())]
        return []

    return complete


def words(*known: str) -> _Completion:
    """These words."""
    return offered(lambda _: known)


def _opened(ctx: typer.Context) -> Network:
    import warnings

    import onnxviz

    warnings.simplefilter("ignore")
    # Behind an option whose value is typed just now, nothing has been read.
    model = (
        ctx.params.get("model")
        or ctx.params.get("a")
        or next(word for word in asked()[1:] if not word.startswith("-"))
    )
    return onnxviz.load(model, labels=ctx.params.get("labels"), input=ctx.params.get("input"))


@offered
def layers(ctx: typer.Context) -> Iterator[str]:
    """The layers of the model."""
    return (layer.name for layer in _opened(ctx).layers)


@offered
def labels(ctx: typer.Context) -> list[str]:
    """The labels of the model's classes."""
    return _opened(ctx).labels or []


@offered
def inputs(ctx: typer.Context) -> Iterator[str]:
    """The model's inputs."""
    return (str(value.name) for value in _opened(ctx).model.graph.inputs)


@offered
def outputs(ctx: typer.Context) -> Iterator[str]:
    """The model's outputs."""
    return (str(value.name) for value in _opened(ctx).model.graph.outputs)


@offered
def models(_: typer.Context) -> Iterator[str]:
    """The catalogue; files are the shell's."""
    from onnxviz.catalogue import entries

    return (entry.name for entry in entries())


@offered
def presets(_: typer.Context) -> Iterable[str]:
    """Ways in which pictures become the input."""
    from onnxviz.image.preprocessing import PRESETS

    return PRESETS


@offered
def recipes(_: typer.Context) -> Iterable[str]:
    """Presets of `ascent`."""
    from onnxviz.synthesis.presets import PRESETS

    return PRESETS


@offered
def providers(_: typer.Context) -> list[str]:
    """What is installed to run on."""
    from onnxviz.runtime.providers import available

    return ["auto", *available()]


@offered
def limits(_: typer.Context) -> Iterator[str]:
    """The limits, as they are given."""
    from dataclasses import fields

    from onnxviz.limits import Limits

    return (f"{field.name}=" for field in fields(Limits))
