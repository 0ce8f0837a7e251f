"""The gradient rules, one file a family; importing this package enters them all into the table."""

from onnxviz.grad.rules import elementwise, layers, movement, quantised, reduction, sampling

__all__ = ["elementwise", "layers", "movement", "quantised", "reduction", "sampling"]
