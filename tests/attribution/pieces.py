"""What tests of attributions share: networks opened, pictures of noise, functions on the graph builder that run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

import onnxviz
from tests.synthesis.pieces import run


def load(model: onnx.ModelProto | bytes, **options: Any) -> onnxviz.Network:
    """The network of a model, on the CPU."""
    return onnxviz.load(model, provider="cpu", **{"preprocess": "unit", **options})


def pictures(count: int, size: int = 32, seed: int = 0) -> list[np.ndarray]:
    """So many different ones."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(count)]


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def evaluated(function: Callable[..., ir.Value], *arrays: np.ndarray) -> np.ndarray:
    """What the function, (op, values...) -> value, makes of these arrays."""
    feeds = {f"x{number}": array for number, array in enumerate(arrays)}
    return run(lambda op, **values: [function(op, *values.values())], **feeds)[0]
