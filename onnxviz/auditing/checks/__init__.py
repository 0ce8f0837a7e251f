"""The checks, a file a subject; importing this enters them, in the order of the report."""

# isort: off
from onnxviz.auditing.checks import graph as graph
from onnxviz.auditing.checks import weights as weights
from onnxviz.auditing.checks import runtime as runtime
from onnxviz.auditing.checks import input as input
from onnxviz.auditing.checks import answers as answers
from onnxviz.auditing.checks import stability as stability
from onnxviz.auditing.checks import shortcut as shortcut
from onnxviz.auditing.checks import maps as maps
from onnxviz.auditing.checks import attention as attention

# isort: on
from onnxviz.auditing.finding import entered as rules

__all__ = ["rules"]
