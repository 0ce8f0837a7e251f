"""Running single pieces of the machine: a graph of its own for a piece, from NumPy arrays to NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxviz.grad.model import differentiate
from onnxviz.graph.shapes import infer
from onnxviz.graph.tape import Tape
from onnxviz.programs import compile
from onnxviz.synthesis.transforms import RULES


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


def gradient(build: Callable[..., Any], g: np.ndarray, x: np.ndarray, **arrays: np.ndarray) -> np.ndarray:
    """The cotangent of `x` from that of `build(op, x, **arrays)`, as the step's graph has it."""

    def whole(op: Any, g: ir.Value, x: ir.Value, **given: ir.Value) -> list[ir.Value]:
        y = build(op, x, **given)
        infer(ir.Model(op.graph, ir_version=8))
        return differentiate(op, {y: g}, [x], RULES)

    return run(whole, g=g, x=x, **arrays)[0]


def there_and_back(transform: Any, x: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(y, g, the gradient of ⟨y, g⟩ by x) of a transform drawn from a seed, for a random g."""
    height, width = x.shape[2:]
    rng = np.random.default_rng(seed)
    drawn = transform.draw(rng, height, width)
    size = transform.size(height, width)
    g = rng.standard_normal((*x.shape[:2], *size)).astype(np.float32)

    def build(op: Any, x: ir.Value, **fed: ir.Value) -> ir.Value:
        return transform.append(op, x, fed, height, width)

    (y,) = run(lambda op, **given: [build(op, **given)], x=x, **drawn)
    return y, g, gradient(build, g, x, **drawn)
