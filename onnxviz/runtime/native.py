"""The native backend: the gradient is an ONNX graph of standard operators, run where the network runs."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from onnxviz.runtime import providers
from onnxviz.runtime.backends import Task
from onnxviz.runtime.ort import Program
from onnxviz.runtime.ort import compile as compile_graph

_LARGE_DENSE = 100_000_000  # bytes of the weights of all Gemms


def available() -> str | None:
    """The version of ONNX Runtime, None where none is installed."""
    try:
        import onnxruntime
    except ImportError:
        return None
    return str(getattr(onnxruntime, "__version__", "")) or None


def compile(task: Task) -> Program:
    """The gradient graph, compiled; see `backends.compile`."""
    from onnxviz.grad.model import value_and_gradient
    from onnxviz.grad.overrides import by_name

    graph = value_and_gradient(
        task.model,
        task.objective,
        task.sources,
        also=task.also,
        rules=by_name(task.rules),
        cpu=providers.name(task.provider) == providers.CPU,
    )
    return compile_gradient(graph, provider=task.provider, threads=task.threads, seconds=task.seconds)


def compile_gradient(graph: ir.Model, **options: Any) -> Program:
    """As `ort.compile`; without packed copies of large dense layers, which a few pictures at once do not pay for.

    There would be one for the way there and one for the way back: VGG-16 takes 1.5 GB without and 2.3 GB with them,
    in the same time.
    """
    return compile_graph(graph, prepack=_dense_bytes(graph) < _LARGE_DENSE, **options)


def _dense_bytes(graph: ir.Model) -> int:
    matrices = {node.inputs[1] for node in graph.graph if node.op_type == "Gemm" and len(node.inputs) > 1}
    return sum(w.const_value.nbytes for w in matrices if w is not None and w.const_value is not None)
