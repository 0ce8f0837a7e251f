"""The gradient rules, one file a family; importing this package enters them all into the table."""

from onnxviz.grad.rules import elementwise, layers, movement, quantised, reduction, sampling
from onnxviz.grad.table import VJP_RULES as PLAIN

__all__ = ["PLAIN", "elementwise", "layers", "movement", "quantised", "reduction", "sampling"]
