"""Bodies of If, Loop and Scan that do not fit their node, against what ONNX Runtime says of the same file."""

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from onnxviz.errors import ModelRejected
from onnxviz.graph.open.load import load
from tests.graph import hostile

FLOAT, INT64, BOOL = 1, 7, 9


def body(inputs, outputs, condition=False):
    """A body whose values are the outer x, rectified."""
    names = [f"r{place}" for place in range(max(outputs, 1))]
    nodes = [helper.make_node("Relu", ["x"], [name]) for name in names]
    given = [hostile.value("i", (), INT64), hostile.value("on", (), BOOL)] if condition else []
    given = (given + [hostile.value(f"s{place}") for place in range(inputs)])[: inputs if condition else None]
    made = [hostile.value(name) for name in names[:outputs]]
    if condition:
        nodes.append(helper.make_node("Identity", ["on"], ["go"]))
        made = [hostile.value("go", (), BOOL), *made][:outputs]
    return helper.make_graph(nodes, "body", given, made)


def branches(then, other, outputs):
    return helper.make_node("If", ["c"], outputs, then_branch=body(0, then), else_branch=body(0, other))


def loop(inputs, outputs, made):
    names = [f"y{place}" for place in range(made)]
    return helper.make_node("Loop", ["n", "c", "x"], names, body=body(inputs, outputs, condition=True))


def scan(inputs, outputs):
    return helper.make_node("Scan", ["x"], ["y0"], body=body(inputs, outputs), num_scan_inputs=1)


def model(node):
    constants = [hostile.array("c", True, np.bool_), numpy_helper.from_array(np.array(2), "n")]
    nodes = [node, helper.make_node("Relu", ["x"], ["z"])]
    return hostile.model(nodes, constants, outputs=("z",), shape=(1, 3, 4, 4))


FITTING = [branches(1, 1, ["y0"]), branches(2, 2, ["y0", "y1"]), loop(3, 2, 1), loop(3, 3, 2), scan(1, 1)]
BROKEN = [
    (branches(0, 0, ["y0"]), "else_branch"), (branches(1, 0, ["y0"]), "else_branch"),
    (branches(2, 1, ["y0"]), "then_branch"), (branches(1, 1, ["y0", "y1"]), "branch"),
    (loop(2, 2, 1), "inputs"), (loop(3, 3, 1), "outputs"), (loop(3, 1, 1), "outputs"),
    (scan(2, 1), "inputs"), (scan(0, 1), "inputs"), (scan(1, 2), "outputs"),
]  # fmt: skip


@pytest.mark.parametrize("node", FITTING)
def test_bodies_that_fit(node):
    proto = model(node)
    hostile.run(proto, np.ones((1, 3, 4, 4), np.float32))
    load(proto)


@pytest.mark.parametrize(("node", "named"), BROKEN)
def test_bodies_that_do_not_fit(node, named):
    proto = model(node)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    with pytest.raises(Exception, match="INVALID_GRAPH|FAIL"):
        onnxruntime.InferenceSession(proto.SerializeToString(), options)
    with pytest.raises(ModelRejected, match=named):
        load(proto)
