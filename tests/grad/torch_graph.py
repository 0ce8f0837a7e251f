"""The oracle of the gradient tests: ONNX graphs on the torch backend's executor, which knows no rule of ours."""

from __future__ import annotations

from typing import Any

import onnx
import onnx_ir as ir
import torch

from onnxviz.backends.torch.executor import Executor


def run(
    model: onnx.ModelProto, feeds: dict[str, torch.Tensor], precision: torch.dtype | None = None
) -> dict[str, Any]:
    """Every value of the graph by name."""
    graph = ir.from_proto(model)
    graph.graph.outputs[:] = [value for node in graph.graph for value in node.outputs if value.name]
    return {**feeds, **Executor(graph, precision=precision)(feeds)}
