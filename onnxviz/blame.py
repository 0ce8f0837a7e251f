"""Whose mistake an unexpected exception is: the file's where ONNX Runtime refuses it, too, and otherwise ours.

When a file is opened, what can be told of each operator by itself is checked. Whether sizes fit together that only
inference over the whole graph, or a run, can tell is not: ONNX Runtime checks that anyway when it opens the file and
when it runs it, and opening a network must not wait for it. So an analysis may meet a graph that nothing can run, and
stumble over it. Then, and only then, ONNX Runtime is asked for its verdict on the file as it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from onnxviz.errors import OnnxVizError

if TYPE_CHECKING:
    import onnx_ir as ir


class Judge(Protocol):
    """What can run the file as it is: a network."""

    def judge(self) -> None:
        """Run it."""


T = TypeVar("T")
N = TypeVar("N", bound=Judge)
_OURS = 5  # the exit code of internal errors


@contextmanager
def judged(judge: Callable[[], object]) -> Iterator[None]:
    """Around an analysis of a graph.

    judge    runs the file as it is, see `Network.judge` and `opened`
    raises   what the analysis raised, where that is a typed error, or where the file runs: then it is a mistake of
             onnxviz; in its place ModelRejected where ONNX Runtime refuses the file, ModelFailed where it fails to run,
             LimitExceeded and WorkerCrashed where it takes too much or dies over it
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OnnxVizError) and error.exit_code != _OURS:
            raise
        try:
            judge()
        except OnnxVizError as refusal:
            if refusal.exit_code != _OURS:
                raise refusal from error
        raise


def judging(analysis: Callable[[N], T]) -> Callable[[N], T]:
    """A method of a network, `judged`."""

    @functools.wraps(analysis)
    def wrapped(net: N) -> T:
        with judged(net.judge):
            return analysis(net)

    return wrapped


def opened(model: ir.Model) -> None:
    """Open a graph that belongs to no network, and run it on zeros where it says how large its inputs are.

    raises   ModelRejected, ModelFailed, LimitExceeded
    """
    from onnxviz.programs import compile

    program = compile(model, provider="cpu")
    feeds: dict[str, np.ndarray] = {}
    for value in model.graph.inputs:
        if value.name not in program.inputs:
            continue
        if value.shape is None or value.dtype is None:
            return
        sizes = [1 if axis == 0 and not isinstance(d, int) else d for axis, d in enumerate(value.shape)]
        shape = tuple(d for d in sizes if isinstance(d, int))
        if len(shape) < len(sizes):
            return  # at a size that was not meant, even a sound network fails
        feeds[str(value.name)] = np.zeros(shape, value.dtype.numpy())
    program(feeds)
