"""The gradient rules, one file a family; importing this package enters them all into the table."""

from onnxviz.grad.rules import (
    activation,
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
    "activation",
    "elementwise",
    "linear",
    "movement",
    "normalisation",
    "pooling",
    "quantised",
    "reduction",
    "sampling",
]
