"""The pass over sizes against the truth: the node cases of the onnx package, with the outputs that they expect.

A shape that is claimed larger than it is would refuse a sound model.
"""

import warnings
from collections import Counter

import numpy as np
import onnx
import pytest

from onnxviz.errors import ModelRejected
from onnxviz.graph.open import sizes, structure
from onnxviz.graph.open.known import Known, constant
from onnxviz.graph.open.load import load
from onnxviz.limits import Limits

# Operators of the case collection that no model may use.
REFUSED = ("FlexAttention", "Adagrad", "Adam", "Momentum", "Gradient")


@pytest.fixture(scope="module")
def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return collect_testcases(None)


def test_every_operator_of_onnx_loads(cases):
    refused = set()
    for case in cases:
        try:
            load(case.model)
        except ModelRejected:
            refused |= {node.op_type for node in case.model.graph.node}
    assert refused <= set(REFUSED)


def lookup(tensor):
    if tensor.data_type == onnx.TensorProto.STRING:
        return None
    array = onnx.numpy_helper.to_array(tensor)
    return array if array.size <= 1024 and array.dtype.kind in "iufb" else None


@pytest.mark.parametrize("known", ["shapes", "values"])
def test_what_is_certain_is_true(cases, known):
    counts = Counter()
    for case in cases:
        if any(node.op_type in REFUSED for node in case.model.graph.node):
            continue
        found = structure.check(case.model, Limits())
        inputs, outputs = case.data_sets[0]
        scope = {}
        for value, array in zip(case.model.graph.input, inputs, strict=False):
            if isinstance(array, np.ndarray) and value.type.HasField("tensor_type"):
                certain = known == "values" and array.dtype.kind in "iufb"
                dtype = value.type.tensor_type.elem_type
                scope[value.name] = constant(array, dtype) if certain else Known(array.shape, dtype=dtype)
        run = sizes._Pass(found, lookup, 0, Limits())
        results, _ = run.graph(case.model.graph, sizes._Scope(scope, None), found.opsets, {})
        for result, expected in zip(results, outputs, strict=True):
            if result.shape is None or not isinstance(expected, np.ndarray):
                continue
            counts["shape"] += 1
            assert len(result.shape) == expected.ndim, case.name
            for size, true in zip(result.shape, expected.shape, strict=True):
                assert size in (None, true), f"{case.name}: {result.shape}, true {expected.shape}"
            if result.value is not None:
                counts["value"] += 1
                np.testing.assert_allclose(result.value, expected, err_msg=case.name)
    assert counts["shape"] > 1000
    assert counts["value"] > (200 if known == "values" else 0)
