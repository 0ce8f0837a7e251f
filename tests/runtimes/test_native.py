"""Written files on ONNX Runtime's CPU provider at each level of optimisation, and on onnx.reference (NumPy)."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from tests.runtimes import held

LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED")
NOT_REFERENCE = ("quantised", "overhanging pools")  # it lacks DequantizeLinear of opset 18, and such pools


@pytest.mark.parametrize("name", held.FORMS)
def test_every_form(name) -> None:
    case = held.FORMS[name]()
    for level in LEVELS:
        held.hold(case.expected, held.natively(case.model, case.feeds, level), name=level)
    if name in NOT_REFERENCE:
        return
    outputs = ReferenceEvaluator(case.model).run(list(case.expected), case.feeds)
    held.hold(case.expected, dict(zip(case.expected, outputs, strict=True)), name="onnx.reference")


def test_the_bundled_network(net, cat) -> None:
    for name, case in held.bundled(net, cat).items():
        for level in LEVELS:
            held.hold(case.expected, held.natively(case.model, case.feeds, level), name=f"{name}, {level}")


def test_no_form_that_a_runtime_misreads() -> None:
    """HardSigmoid with an attribute of 0 (OpenVINO takes its default), Size and CastLike (it cuts the graph there)."""
    for name, make in held.FORMS.items():
        nodes = make().model.graph.node
        assert not {"Size", "CastLike"} & {node.op_type for node in nodes}, name
        for node in nodes:
            if node.op_type == "HardSigmoid":
                assert all(attribute.f != 0 for attribute in node.attribute), (name, node.name)


def test_a_difference_is_told() -> None:
    expected = {"g": np.array([3.0, 4.0])}
    held.hold(expected, {"g": np.array([3.0, 4.00005])})
    with pytest.raises(AssertionError, match=r"relative error 1, cosine 0\.316"):
        held.hold(expected, {"g": np.array([3.0, -1.0])})
