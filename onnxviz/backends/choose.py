"""Where gradients come from: native (ONNX graphs), torch (autograd), ort-training (its gradient builder).

A backend is a module with `compile(task) -> Runnable` and `available() -> str | None`, the version of what it needs.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx_ir as ir

from onnxviz.errors import UnsupportedOperator, UsageError, near, ways

if TYPE_CHECKING:
    from onnxviz.objectives import Objective
    from onnxviz.runtime.worker import Worker

AUTO = "auto"
"""Native where every operator has a rule, else torch."""
BACKENDS = {
    "native": "onnxviz.backends.native",
    "torch": "onnxviz.backends.torch.program",
    "ort-training": "onnxviz.backends.ort_training",
}


@dataclass(frozen=True)
class Task:
    """What is to be differentiated, and where.

    sources    value names to differentiate by
    also       value names to give out beside
    rules      'plain', 'guided', 'deconvnet' or 'redirected'
    seconds    the longest that one run may take; None: any time
    worker     the process to run in, which native can; None: this one
    """

    model: ir.Model
    objective: Objective
    sources: Sequence[str]
    also: Sequence[str]
    rules: str
    provider: str
    threads: int | None
    seconds: float | None
    worker: Worker | None = None


class Runnable(Protocol):
    """A function of named arrays that gives `objective`, `<source>.gradient` for each source, and each of `also`."""

    inputs: list[str]
    outputs: list[str]
    rectifiers: int | None
    """How many rectifiers the rules acted on; None for the plain rules."""

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run once; raises LimitExceeded, ModelFailed, RuntimeFailed."""


@dataclass(frozen=True)
class Compiled:
    """A task made runnable, by which backend, and a note where it is not the one that is usual."""

    program: Runnable
    backend: str
    note: str | None = None


def check(name: str) -> str:
    """The name itself; raises UsageError where there is no such backend."""
    if name not in (AUTO, *BACKENDS):
        raise UsageError(
            f"no backend {name!r}; there are {', '.join((AUTO, *BACKENDS))}{near(name, BACKENDS)}"
        )
    return name


def version(name: str) -> str | None:
    """The version of what the backend needs, None where that is not installed."""
    found: str | None = importlib.import_module(BACKENDS[name]).available()
    return found


def compile(task: Task, backend: str = AUTO) -> Compiled:
    """Make the task runnable.

    'auto' is native, and torch where native lacks a rule and torch is installed.

    raises   UnsupportedOperator, UnknownLayer, ModelUnsuitable, MissingDependency, UsageError (rules, backend)
    """
    if check(backend) not in (AUTO, "native"):
        return Compiled(_module(backend).compile(task), backend)
    try:
        return Compiled(_module("native").compile(task), "native")
    except UnsupportedOperator as lacking:
        if backend == "native" or task.worker is not None or version("torch") is None:
            other = _torch(lacking.operator)
            if task.worker is not None:  # torch would run it in this process
                other = [f"{one}, without isolate=True" for one in other if "--backend" in one]
            remedy = ways(*other, "take a gradient that does not pass this layer")
            raise UnsupportedOperator(lacking.what, remedy, lacking.operator) from lacking
        program = _module("torch").compile(task)
        what = lacking.what.partition(", and it lies")[0]
        return Compiled(program, "torch", f"gradients are computed by torch, which is slower: {what}")


def _torch(operator: str | None) -> list[str]:
    """The way on that torch is: to use it where it knows the operator, to install it where it may."""
    if version("torch") is None:
        if operator is not None and "." in operator and not operator.startswith("com.microsoft."):
            return []
        return ['install torch, whose gradients --backend torch uses: pip install "onnxviz[torch]"']
    return ["use --backend torch"] if operator is not None and _module("torch").knows(operator) else []


def _module(name: str) -> Any:
    return importlib.import_module(BACKENDS[name])
