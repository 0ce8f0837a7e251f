"""The torch backend: the network and its objective run on torch, differentiated by autograd.

This module imports without torch, so that one can ask whether the backend is available.
"""

from __future__ import annotations

import contextlib
import importlib.util
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz import isolate
from onnxviz.backends.choose import Task
from onnxviz.errors import MissingDependency, ProviderUnavailable, RuntimeFailed
from onnxviz.grad.model import Forward, forward, independent
from onnxviz.graph.rectifiers import rectifiers
from onnxviz.isolate import region
from onnxviz.runtime import providers


def available() -> str | None:
    """The version of torch, None where it is not installed. torch itself is not imported: that takes a second."""
    if importlib.util.find_spec("torch") is None:
        return None
    from importlib import metadata

    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return "of unknown version"


class TorchProgram:
    """A function of named arrays that gives the objective, its gradients and layers beside them.

    inputs, outputs   the names, in order
    """

    def __init__(self, task: Task, graph: Forward, device: str) -> None:
        from onnxviz.backends.torch.activation import by_name
        from onnxviz.backends.torch.executor import Executor

        self._graph = graph
        self._device = device
        self._threads = task.threads
        self._seconds = task.seconds
        self._what = str(task.objective)
        # A layer that does not depend on an input that is differentiated by must still be on record.
        inner = {value for value in graph.sources.values() if value.producer() is not None}
        self._run = Executor(graph.model, table=by_name(task.rules), device=device, leaves=inner)
        self.inputs = [value.name or "" for value in graph.model.graph.inputs]
        self.rectifiers = None if task.rules == "plain" else len(rectifiers(graph.model))
        self.outputs = ["objective", *(f"{name}.gradient" for name in graph.sources), *graph.also]

    def __call__(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Run once.

        raises   ModelUnsuitable where the objective does not depend on a source, LimitExceeded, ModelFailed,
                 RuntimeFailed
        """
        import torch

        from onnxviz.backends.torch.executor import typed

        sources = self._graph.sources
        tensors = {
            value.name or "": self._tensor(value, feeds[value.name or ""])
            for value in self._graph.model.graph.inputs
        }
        for value in sources.values():
            if value.producer() is None:
                tensors[value.name or ""].requires_grad_(True)
        deadline = None if self._seconds is None else time.monotonic() + self._seconds
        with self._settings(), region("running the model on torch", self._seconds):
            values = self._run(tensors, deadline=deadline)
            objective = values[self._graph.objective.name or ""]
            wanted = [{**tensors, **values}[value.name or ""] for value in sources.values()]
            if not objective.requires_grad:
                raise independent(self._what, next(iter(sources)))
            try:
                gradients = torch.autograd.grad(objective.sum(), wanted, allow_unused=True)
            except Exception as error:
                raise typed(error, "in the backward pass: ", RuntimeFailed) from error
        found = {"objective": objective}
        for name, gradient in zip(sources, gradients, strict=True):
            if gradient is None:
                raise independent(self._what, name)
            found[f"{name}.gradient"] = gradient
        for name, value in self._graph.also.items():
            found[name] = {**tensors, **values}[value.name or ""]
        return {name: _array(tensor) for name, tensor in found.items()}

    def _tensor(self, value: ir.Value, array: Any) -> Any:
        import torch

        from onnxviz.backends.torch.table import from_numpy, torch_type

        tensor = from_numpy(np.asarray(array), self._device)
        half = self._graph.halves.get(value.name or "")
        if half is not None:
            tensor = tensor.to(torch_type(int(half)))
        return tensor.to(torch.float32 if value.dtype is None else torch_type(int(value.dtype)))

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        """The number of threads, and full precision on CUDA, for the time of one run."""
        import torch

        before = torch.get_num_threads()
        try:
            if self._threads is not None:
                torch.set_num_threads(self._threads)
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False), torch.enable_grad():
                yield
        finally:
            if self._threads is not None:
                torch.set_num_threads(before)


def knows(operator: str) -> bool:
    """Whether torch computes this operator here."""
    from onnxviz.backends.torch import executor

    return executor.knows(operator)


def compile(task: Task) -> TorchProgram:
    """The network and its objective on torch; see `backends.compile`.

    raises   MissingDependency, UnsupportedOperator, ProviderUnavailable
    """
    if available() is None:
        raise MissingDependency(
            "backend 'torch' needs torch, which is not installed: pip install \"onnxviz[torch]\""
        )
    device = _device(task.provider)
    if device != "cpu":
        isolate.free_memory()
    return TorchProgram(task, forward(task.model, task.objective, task.sources, task.also), device)


def _device(provider: str) -> str:
    import torch

    name = providers.parted(provider)[0].lower().removesuffix("executionprovider")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if name in ("auto", "cuda"):
        if not torch.cuda.is_available():
            raise ProviderUnavailable(
                "torch sees no CUDA device here: use --provider cpu, or --backend native"
            )
        return "cuda"
    raise ProviderUnavailable(
        f"backend 'torch' runs on cpu and cuda, not on {provider!r}: use --provider cpu, or --backend native"
    )


def _array(tensor: Any) -> np.ndarray:
    found = tensor.detach().cpu()
    array: np.ndarray = (found.float() if found.dtype.is_floating_point else found).numpy()
    return array
