"""The cases that the onnx package generates for every operator: forward equal, gradient by differences.

Cases at a kink (the example of Relu has a 0 in it) are compared in `test_elementwise` and `test_windows` at separated
inputs instead; they are listed by name here, so that a new one is seen.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import onnx
import pytest

from onnxviz.errors import ModelUnsuitable, UnsupportedOperator
from onnxviz.grad.table import VJP_RULES
from tests.grad.oracle import differentiated, session

FLOAT = onnx.TensorProto.FLOAT

# Inputs on a kink, jumps (the nearest neighbour's grid), numbers too large to be differenced in float32.
NOT_SMOOTH = (
    "test_acosh_example",
    "test_elu_example",
    "test_gridsample",
    "test_l2normalization_axis_0",
    "test_leakyrelu_example",
    "test_logsoftmax_large_number",
    "test_softmax_large_number",
    "test_maxpool",
    "test_mod_",
    "test_pow",
    "test_selu_example",
    "test_reduce_min_default_axes_keepdims_example",
    "test_thresholdedrelu_example",
)
# What is refused, and rightly: what nothing depends on (statistics given in training), boxes, scales and masks as
# variables, the odd attribute.
REFUSED = (
    "test_batchnorm_example_training_mode",
    "test_batchnorm_epsilon_training_mode",
    "test_training_dropout",
    "test_dropout_default",
    "test_dynamicquantizelinear",
    "test_constant_pad_axes",
    "test_constant_pad_negative_axes",
    "test_resize",
    "test_scatter_elements_with_reduction_mul",
    "test_scatternd_multiply",
)


@functools.cache
def cases(operator: str | None = None) -> list[Any]:
    """Those that there is something to differentiate in; of one operator, or all."""
    if operator is not None:
        return [case for case in cases() if case.model.graph.node[0].op_type == operator]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return [case for case in collect_testcases(None) if _fits(case)]


def floats(values: Iterable[onnx.ValueInfoProto]) -> list[str]:
    return [value.name for value in values if value.type.tensor_type.elem_type == FLOAT]


def _fits(case: Any) -> bool:
    graph = case.model.graph
    node = graph.node[0]
    standard = len(graph.node) == 1 and not node.domain and node.op_type in VJP_RULES
    return bool(
        standard and not case.name.endswith("_expanded") and floats(graph.input) and floats(graph.output)
    )


def _one(case: Any) -> str:
    """'ok', or why the case says nothing."""
    model = case.model
    values = [np.asarray(v) for v in case.data_sets[0][0]]
    feeds = dict(zip([i.name for i in model.graph.input], values, strict=False))
    of = floats(model.graph.output)[0]
    try:
        forward = session(model)
        expected = forward.run([of], feeds)[0]
    except Exception:
        return "not in this ONNX Runtime"
    result = "nothing to differentiate"
    rng = np.random.default_rng(0)
    for name in floats(model.graph.input):
        x = feeds[name]
        if not x.size or not expected.size:
            continue
        try:
            proto = differentiated(model, of=of, wrt=name)
        except (UnsupportedOperator, ModelUnsuitable):
            if case.name.startswith(REFUSED) or name in ("roi", "scales"):
                continue
            raise
        assert {n.domain for n in proto.graph.node} == {""}
        cotangent = rng.standard_normal(expected.shape).astype(np.float32)
        known = {i.name for i in proto.graph.input}
        given = {k: v for k, v in feeds.items() if k in known} | {f"{of}.cotangent": cotangent}
        again, gradient = session(proto).run([of, f"{name}.gradient"], given)
        np.testing.assert_allclose(again, expected, rtol=1e-4, atol=1e-5)
        assert gradient.shape == x.shape
        result = "forward only"
        if case.name.startswith(NOT_SMOOTH):
            continue
        errors = []
        for h in (1e-2, 1e-3):
            direction = rng.standard_normal(x.shape).astype(np.float32)
            up, down = (
                forward.run([of], {**feeds, name: np.asarray(x + s * h * direction, np.float32)})[0]
                for s in (1, -1)
            )
            numeric = float((cotangent * (up.astype(np.float64) - down)).sum() / (2 * h))
            analytic = float((gradient.astype(np.float64) * direction).sum())
            errors.append(abs(numeric - analytic) / (np.linalg.norm(gradient) + abs(numeric) + 1e-3))
        assert min(errors) < 5e-3, (name, errors)
        result = "ok"
    return result


@pytest.mark.parametrize("operator", sorted(VJP_RULES))
def test_operator(operator: str) -> None:
    """Every case of one operator."""
    assert all(_one(case) for case in cases(operator))


def test_enough_is_compared() -> None:
    """The exceptions stay exceptions."""
    few = [case for case in cases() if case.name.startswith(NOT_SMOOTH + REFUSED)]
    assert len(cases()) > 500
    assert len(few) < 0.25 * len(cases())
