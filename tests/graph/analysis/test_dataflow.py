"""Which graphs do more or less by the values that they are fed."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from graph.hostile import array, choice, ints, model

from onnxviz.catalogue import resolve
from onnxviz.graph.analysis.dataflow import follows_values
from onnxviz.graph.open.load import load

CAST = "k = Cast<to = 7>(x)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("y = Relu(x)", False),
        ("y = Tile(x, two)", False),
        ("s = Shape(x) y = ConstantOfShape(s)", False),
        (f"{CAST} y = ConstantOfShape(k)", True),
        (f"{CAST} y = Reshape(x, k)", False),
        (f"{CAST} e = Expand(nought, k) y = Relu(e)", True),
        ("m = ReduceMax<keepdims = 0>(x) y = Range(nought, m, m)", True),
        (choice(f"{CAST} b = Expand(nought, k)"), True),
    ],
)
def test_follows_values(text, expected):
    constants = [ints("two", 2, 2), array("nought", 0), array("c", True, np.bool_)]
    proto = model(text, constants, shape=("N", 4))
    assert follows_values(ir.serde.deserialize_model(proto)) is expected


def test_a_usual_network_does_not():
    assert not follows_values(load(resolve("efficientnet-lite0")).model)
