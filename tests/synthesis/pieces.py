"""Running single pieces of the machine: a graph of its own for a piece, from NumPy arrays to NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.grad.tape import Tape
from onnxviz.runtime.ort import compile


def run(build: Callable[..., Any], **arrays: np.ndarray) -> list[np.ndarray]:
    """What `build(op, **values)` gives for these arrays: it returns a list of values."""
    inputs = [
        ir.Value(
            name=name,
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            shape=ir.Shape(array.shape),
        )
        for name, array in arrays.items()
    ]
    graph = ir.Graph(inputs, [], nodes=[], name="piece", opset_imports={"": 18})
    tape = Tape(graph)
    outputs = build(tape, **{value.name: value for value in inputs})
    graph.outputs.extend(tape.Identity(value) for value in outputs)
    names = [value.name for value in graph.outputs]
    program = compile(ir.Model(graph, ir_version=8), provider="cpu")
    found = program({name: array for name, array in arrays.items() if name in program.inputs})
    return [found[name] for name in names]


def there_and_back(
    transform: Any, x: np.ndarray, g: np.ndarray | None = None, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(y, g, back(g)) of a transform drawn from a seed; g is random where it is not given."""
    height, width = x.shape[2:]
    rng = np.random.default_rng(seed)
    drawn = transform.draw(rng, height, width)
    size = transform.size(height, width)
    if g is None:
        g = rng.standard_normal((*x.shape[:2], *size)).astype(np.float32)

    def build(op: Any, x: ir.Value, g: ir.Value, **fed: ir.Value) -> list[Any]:
        y, back = transform.append(op, x, fed, height, width)
        return [y, back(g)]

    y, back = run(build, x=x, g=g, **drawn)
    return y, g, back
