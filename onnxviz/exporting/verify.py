"""Does the exported graph compute what torch computes?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.errors import RuntimeFailed
from onnxviz.exporting.source import torch
from onnxviz.exporting.trace import run_torch

# Of the largest output: float32 in another order of summation, through a hundred layers, stays well below this.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Difference:
    """The largest differences found between the graph and torch.

    absolute   of any output value
    relative   to the largest output value of that input
    at         the input shape where it was largest
    """

    absolute: float
    relative: float
    at: tuple[int, ...]


def compare(model: ir.Model, module: Any, shapes: list[tuple[int, int, int, int]], seed: int) -> Difference:
    """Run both on normal random input of each shape; gives the largest difference found.

    raises   RuntimeFailed when ONNX Runtime cannot run the graph, MissingDependency where it is not installed
    """
    from onnxviz.runtime.ort import compile

    program = compile(model, provider="cpu", own=())
    output = str(model.graph.outputs[0].name)
    random = np.random.default_rng(seed)
    device = next((p.device for p in module.parameters()), torch().device("cpu"))
    worst = Difference(0.0, 0.0, shapes[0])
    for shape in shapes:
        x = random.standard_normal(shape, dtype=np.float32)
        expected = run_torch(module, torch().from_numpy(x).to(device)).cpu().numpy()
        got = program({str(model.graph.inputs[0].name): x})[output]
        if got.shape != expected.shape:
            raise RuntimeFailed(
                f"for an input of {shape} the graph gives {got.shape}, torch {expected.shape}"
            )
        absolute = float(np.abs(got - expected).max(initial=0.0))
        if not np.isfinite(absolute):
            absolute = float("inf") if np.isfinite(expected).all() else 0.0
        largest = float(np.abs(expected).max(initial=0.0))
        relative = absolute / largest if largest else absolute
        if relative >= worst.relative:
            worst = Difference(absolute, relative, shape)
    return worst
