"""The gradient rules, one file a family; importing this package enters them all into the table."""

from onnxviz.grad.rules import (
    activation,
    convolution,
    einsum,
    elementwise,
    indexing,
    matrix,
    movement,
    normalisation,
    pooling,
    quantised,
    reduction,
    resize,
    sampling,
)

__all__ = [
    "activation",
    "convolution",
    "einsum",
    "elementwise",
    "indexing",
    "matrix",
    "movement",
    "normalisation",
    "pooling",
    "quantised",
    "reduction",
    "resize",
    "sampling",
]
