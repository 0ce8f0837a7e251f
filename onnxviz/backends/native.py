"""The native backend: the gradient is an ONNX graph of standard operators, run where the network runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from functools import cached_property
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.backends.choose import Task
from onnxviz.graph.naming import names
from onnxviz.graph.operators import computes
from onnxviz.programs import compile as compile_graph
from onnxviz.runtime import providers
from onnxviz.runtime.ort import Program
from onnxviz.runtime.pool import Pool

_LARGE_DENSE = 100_000_000  # bytes of the weights of all Gemms


def available() -> str | None:
    """The version of ONNX Runtime, None where none is installed."""
    return providers.version()


def compile(task: Task) -> SideBySide:
    """The gradient graph, to be compiled when it is first run; see `backends.compile`."""
    from onnxviz.grad.model import rules_named, value_and_gradient

    graph = value_and_gradient(
        task.model,
        task.objective,
        task.sources,
        also=task.also,
        rules=rules_named(task.rules),
        cpu=providers.name(task.provider) == providers.CPU,
    )
    return SideBySide(
        graph,
        provider=task.provider,
        threads=task.threads,
        seconds=task.seconds,
        worker=task.worker,
        own=names(task.model.graph),
    )


class SideBySide:
    """A gradient graph that gives all threads to one picture, and one thread to each of several, side by side.

    Small operators gain little from a second thread: 8 pictures on 2 cores take half to two thirds of the time so, and
    the largest graph in memory is that of one picture a core. The same picture gives the same numbers beside others.
    """

    def __init__(self, graph: ir.Model, *, threads: int | None, **options: Any) -> None:
        self.inputs = [str(value.name) for value in graph.graph.inputs]
        self.outputs = [str(value.name) for value in graph.graph.outputs]
        self.rectifiers: int | None = graph.meta["rectifiers"]
        self.threads = threads
        self._graph = graph
        self._options = options

    @cached_property
    def _wide(self) -> Program:
        return compile_gradient(self._graph, threads=self.threads, **self._options)

    @cached_property
    def _narrow(self) -> Program:
        # The workers are the parallelism: threads that wait busily within an operator would take their cores.
        return compile_gradient(self._graph, threads=1, spin=False, **self._options)

    @property
    def placed(self) -> Mapping[str, Mapping[str, int]]:
        """As `Program`'s."""
        return self._wide.placed

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run once, on all threads; raises LimitExceeded, ModelRejected, ModelFailed, RuntimeFailed."""
        return self._wide(feeds)

    def each(self, feeds: Iterable[Mapping[str, Any]], workers: int) -> Iterator[dict[str, np.ndarray]]:
        """Run each of several, `workers` at a time on one thread each, and give the results in their order."""
        program, waiting = self._narrow, deque[Future[dict[str, np.ndarray]]]()
        with Pool(workers, "onnxviz-gradient") as pool:
            for one in feeds:
                waiting.append(pool.submit(program, one))
                if len(waiting) > workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def compile_gradient(graph: ir.Model, **options: Any) -> Program:
    """As `ort.compile`; without packed copies of large dense layers, which a few pictures at once do not pay for.

    There would be one for the way there and one for the way back: VGG-16 takes 1.5 GB without and 2.3 GB with them,
    in the same time.
    """
    return compile_graph(graph, prepack=packs_dense(graph), **options)


def packs_dense(graph: ir.Model) -> bool:
    """Whether the dense layers are few enough for packed copies of them."""
    matrices = {
        node.inputs[1] for node in graph.graph if computes(node.op_type) == "gemm" and len(node.inputs) > 1
    }
    known = [w.const_value for w in matrices if w is not None and w.const_value is not None]
    return sum(weights.nbytes for weights in known) < _LARGE_DENSE
