"""All families of operators: importing this fills the table."""

from onnxviz.backends.torch import (
    activation,
    control,
    convolution,
    elementwise,
    indexing,
    making,
    matrix,
    movement,
    normalisation,
    pooling,
    qlinear,
    quantised,
    recurrent,
    reduction,
    sampling,
)

__all__ = [
    "activation",
    "control",
    "convolution",
    "elementwise",
    "indexing",
    "making",
    "matrix",
    "movement",
    "normalisation",
    "pooling",
    "qlinear",
    "quantised",
    "recurrent",
    "reduction",
    "sampling",
]
