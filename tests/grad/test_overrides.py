"""Backprop variants against torch modules with the same rule in an autograd function."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from onnxviz.errors import UsageError
from onnxviz.grad.model import gradient_model
from onnxviz.grad.overrides import TABLES, by_name
from tests.grad.oracle import normal, session


def network(six: bool, shift: float = 0.0):
    """Conv, rectifier, Conv, the same rectifier again (functional, reused), sum over channels."""
    weights = {
        "w1": normal(4, 3, 3, 3),
        "b1": normal(4) - np.float32(shift),
        "w2": normal(5, 4, 3, 3),
        "b2": normal(5) - np.float32(shift),
        "lo": np.float32(0),
        "hi": np.float32(6),
    }
    bounds = ["lo", "hi"] if six else []
    op = "Clip" if six else "Relu"
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"]),
        helper.make_node(op, ["c1", *bounds], ["a1"]),
        helper.make_node("Conv", ["a1", "w2", "b2"], ["c2"]),
        helper.make_node(op, ["c2", *bounds], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "n",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5, 4, 4])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model, {k: torch.tensor(v) for k, v in weights.items()}


def rectifier(variant: str, high: float | None):
    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return torch.clamp(x, 0, high)

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            on = (x > 0) if high is None else (x > 0) & (x < high)
            plain = torch.where(on, g, 0.0)
            if variant == "guided":
                return torch.where(g > 0, plain, 0.0)
            if variant == "deconvnet":
                return torch.where(g > 0, g, 0.0)
            if variant == "redirected":
                block = (x < 0) & (g < 0)
                if high is not None:
                    block |= (x > high) & (g > 0)
                alive = plain.abs().flatten(1).sum(1) > 0
                return torch.where(alive[:, None, None, None], plain, torch.where(block, 0.0, g))
            return plain

    return Function.apply


@pytest.mark.parametrize("variant", TABLES)
@pytest.mark.parametrize("six", [False, True], ids=["Relu", "Clip"])
@pytest.mark.parametrize("shift", [0.0, 100.0], ids=["alive", "dead"])
def test_variant(variant: str, six: bool, shift: float) -> None:
    model, w = network(six, shift)
    x, cotangent = normal(2, 3, 8, 8), normal(2, 5, 4, 4)
    proto = ir.to_proto(gradient_model(ir.from_proto(model), rules=by_name(variant)))
    found = session(proto).run(["x.gradient"], {"x": x, "y.cotangent": cotangent})[0]
    rectify = rectifier(variant, 6.0 if six else None)
    tensor = torch.tensor(x, requires_grad=True)
    conv = torch.nn.functional.conv2d
    rectify(conv(rectify(conv(tensor, w["w1"], w["b1"])), w["w2"], w["b2"])).backward(torch.tensor(cotangent))
    np.testing.assert_allclose(found, tensor.grad.numpy(), atol=2e-4)
    if shift and variant in ("redirected", "deconvnet"):
        assert found.any()  # it gets going where every unit is off


def test_unknown_name() -> None:
    with pytest.raises(UsageError, match="guided"):
        by_name("guidde")
