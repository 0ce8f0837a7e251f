"""The gradient rules, one file a family; importing this package enters them all into the table."""

from onnxviz.grad.rules import (
    elementwise,
    linear,
    movement,
    normalisation,
    pooling,
    quantised,
    reduction,
    sampling,
)

__all__ = [
    "elementwise",
    "linear",
    "movement",
    "normalisation",
    "pooling",
    "quantised",
    "reduction",
    "sampling",
]
