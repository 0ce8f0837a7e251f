"""Backprop variants against torch modules with the same rule in an autograd function."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

import onnxviz
from onnxviz.errors import UsageError
from onnxviz.grad.model import gradient_model, rules_named
from onnxviz.grad.overrides import TABLES
from tests.grad.oracle import normal, session
from tests.graph.test_canonical import NONE, NUMBERS, RELU, SIX
from tests.networks import from_nodes, written
from tests.networks import nodes as parsed


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
    rectified = "Clip({}, lo, hi)" if six else "Relu({})"
    text = f"""c1 = Conv(x, w1, b1) a1 = {rectified.format("c1")}
    c2 = Conv(a1, w2, b2) y = {rectified.format("c2")}"""
    model = written(text, {"x": ("N", 3, 8, 8)}, {"y": ("N", 5, 4, 4)}, weights)
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
    proto = ir.to_proto(gradient_model(ir.from_proto(model), rules=rules_named(variant)))
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
        rules_named("guidde")


# --- every spelling -------------------------------------------------------------------------------


def spelled(first: str, second: str, top: float | None):
    """Conv, a rectifier in one spelling, Conv, another; logits. And the rectifier's upper end."""
    rng = np.random.default_rng(3)
    weights = {k: np.float32(v) for k, v in NUMBERS.items()} | {"zeros": np.zeros((4, 1, 1), np.float32)}
    weights["slopes"] = np.full((4, 1, 1), 0.25, np.float32)
    weights |= {"w1": rng.normal(0, 1.2, (4, 3, 3, 3)).astype(np.float32)}
    weights |= {"w2": rng.normal(0, 0.6, (4, 4, 3, 3)).astype(np.float32)}
    nodes = parsed("conv1 = Conv(image, w1)")
    for place, spelling in (("1", first), ("2", second)):
        if place == "2":
            nodes += parsed("conv2 = Conv(y1, w2)")
        outer = {"": "", "x": f"conv{place}", **{name: name for name in weights}}
        for one in parsed(spelling):
            copy = onnx.NodeProto()
            copy.CopyFrom(one)
            copy.input[:] = [outer.get(name, f"{name}{place}") for name in one.input]
            copy.output[:] = [f"{name}{place}" for name in one.output]
            nodes.append(copy)
    nodes += parsed("g = GlobalAveragePool(y2) logits = Flatten(g)")
    used = {name for one in nodes for name in one.input}
    given = {name: array for name, array in weights.items() if name in used}
    model = from_nodes(nodes, {"image": ("N", 3, 9, 9)}, {"logits": ("N", 4)}, given, opset=18)
    return model, weights, top


SPELLED = {
    **{name: (nodes, RELU["Relu"], None) for name, nodes in RELU.items()},
    **{f"six: {name}": (nodes, SIX["Clip"], 6.0) for name, nodes in SIX.items()},
}


@pytest.mark.parametrize("spelling", SPELLED)
def test_every_spelling_is_a_rectifier(spelling: str) -> None:
    """All tables, on ONNX Runtime and on torch, against an autograd function in float64."""
    model, w, top = spelled(*SPELLED[spelling])
    x = np.random.default_rng(4).standard_normal((2, 3, 9, 9)).astype(np.float32)
    for variant in TABLES:
        rectify = rectifier(variant, top)
        tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        w1, w2 = (torch.tensor(w[name], dtype=torch.float64) for name in ("w1", "w2"))
        conv = torch.nn.functional.conv2d
        scores = rectify(conv(rectify(conv(tensor, w1)), w2)).mean((2, 3))
        (expected,) = torch.autograd.grad(scores[:, 1].sum(), tensor)
        for backend in ("native", "torch") if top else ("native",):
            net = onnxviz.load(model, preprocess="imagenet", backend=backend)
            gradients = net.gradients(onnxviz.objectives.logit(1), rules=variant)
            found = gradients(x)["image.gradient"]
            np.testing.assert_allclose(found, expected.numpy(), atol=2e-5, err_msg=f"{variant} on {backend}")
            assert gradients.rectifiers == (None if variant == "plain" else 2)


@pytest.mark.parametrize("spelling", NONE)
def test_what_is_no_rectifier_keeps_the_plain_gradient(spelling: str) -> None:
    """And so it is told: in a warning, and as the number of rectifiers."""
    model, _, _ = spelled(NONE[spelling], NONE["Elu"], None)
    x = np.random.default_rng(4).standard_normal((2, 3, 9, 9)).astype(np.float32)
    net = onnxviz.load(model, preprocess="imagenet")
    _, plain = net.value_and_gradient(onnxviz.objectives.logit(1))(x)
    assert not any("rectifier" in text for text in net.warnings)
    for variant in ("guided", "deconvnet", "redirected"):
        gradients = net.gradients(onnxviz.objectives.logit(1), rules=variant)
        np.testing.assert_array_equal(gradients(x)["image.gradient"], plain)
        assert gradients.rectifiers == 0
        assert any("rectifier" in text and variant in text for text in net.warnings)
