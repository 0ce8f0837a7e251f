"""The native backend: the gradient is an ONNX graph of standard operators, run where the network runs."""

from __future__ import annotations

from onnxviz.runtime import providers
from onnxviz.runtime.backends import Task
from onnxviz.runtime.ort import Program
from onnxviz.runtime.ort import compile as compile_graph


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
    return compile_graph(graph, provider=task.provider, threads=task.threads, seconds=task.seconds)
