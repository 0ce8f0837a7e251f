"""A gradient model can be differentiated again: Hessian–vector products, against torch in float64."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, helper, numpy_helper

from onnxviz.grad.model import gradient_model
from tests.grad.oracle import normal, session


def smooth_network() -> onnx.ModelProto:
    """Conv (strided, padded), Softplus, AveragePool, depthwise Conv, Tanh, Gemm: twice differentiable everywhere."""
    weights = {
        "w1": normal(4, 3, 3, 3) * 0.4,
        "b1": normal(4),
        "w2": normal(4, 1, 3, 3) * 0.5,
        "w3": normal(36, 5) * 0.4,
        "flat": np.array([0, -1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c1"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Softplus", ["c1"], ["a1"]),
        helper.make_node("AveragePool", ["a1"], ["p1"], kernel_shape=[2, 2], strides=[1, 1]),
        helper.make_node("Conv", ["p1", "w2"], ["c2"], group=4, strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["c2"], ["a2"]),
        helper.make_node("Reshape", ["a2", "flat"], ["f"]),
        helper.make_node("Gemm", ["f", "w3"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "smooth",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def torch_network(model: onnx.ModelProto, x: torch.Tensor) -> torch.Tensor:
    w = {
        t.name: torch.tensor(numpy_helper.to_array(t)).double()
        for t in model.graph.initializer
        if t.name != "flat"
    }
    f = torch.nn.functional
    a = f.softplus(f.conv2d(x, w["w1"], w["b1"], stride=2, padding=1))
    a = torch.tanh(f.conv2d(f.avg_pool2d(a, 2, 1), w["w2"], stride=2, padding=1, groups=4))
    return a.reshape(a.shape[0], -1) @ w["w3"]


def test_hessian_vector_product() -> None:
    model = smooth_network()
    once = gradient_model(ir.from_proto(model))
    twice = ir.to_proto(gradient_model(once, of="x.gradient", wrt="x"))
    onnx.checker.check_model(twice, full_check=True)
    assert [v.name for v in twice.graph.output] == ["y", "x.gradient", "x.gradient.gradient"]
    x, cotangent, direction = normal(3, 3, 12, 12), normal(3, 5), normal(3, 3, 12, 12, seed=4)
    last = twice.graph.output[-1].name
    feeds = {"x": x, "y.cotangent": cotangent, "x.gradient.cotangent": direction}
    gradient, product = session(twice).run(["x.gradient", last], feeds)

    tensor = torch.tensor(x).double().requires_grad_()
    total = (torch_network(model, tensor) * torch.tensor(cotangent).double()).sum()
    (first,) = torch.autograd.grad(total, tensor, create_graph=True)
    (second,) = torch.autograd.grad((first * torch.tensor(direction).double()).sum(), tensor)
    np.testing.assert_allclose(gradient, first.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(product, second.numpy(), atol=2e-5)


def test_the_cotangent_can_be_differentiated_by() -> None:
    """The gradient is linear in the cotangent: its derivative by it is the Jacobian–vector product."""
    model = smooth_network()
    once = gradient_model(ir.from_proto(model))
    forward = ir.to_proto(gradient_model(once, of="x.gradient", wrt="y.cotangent"))
    x, direction = normal(2, 3, 12, 12), normal(2, 3, 12, 12, seed=4)
    feeds = {"x": x, "y.cotangent": normal(2, 5), "x.gradient.cotangent": direction}
    feeds = {k: v for k, v in feeds.items() if k in {i.name for i in forward.graph.input}}
    found = session(forward).run([forward.graph.output[-1].name], feeds)[0]
    _, expected = torch.autograd.functional.jvp(
        lambda t: torch_network(model, t), torch.tensor(x).double(), torch.tensor(direction).double()
    )
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
