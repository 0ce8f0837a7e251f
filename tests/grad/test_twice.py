"""The rule set is closed under its own output: every rule's gradient graph is differentiated again, and right.

By each float input, the derivative of the first gradient is held to central differences of torch's first gradient in
float64 (the executor of the torch backend, which knows no rule of ours); by the cotangent, in which the first gradient
is linear, to the adjoint identity.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from onnxviz.errors import ModelUnsuitable
from onnxviz.grad.model import gradient_model
from onnxviz.grad.table import VJP_RULES, is_zero
from tests import networks
from tests.grad import (
    test_defined,
    test_elementwise,
    test_movement,
    test_reductions,
    test_sampling,
    test_windows,
    torch_graph,
)
from tests.grad.oracle import Case, ints, normal, session
from tests.runtimes import held

STEP = 1e-4


def _more() -> list[Case]:
    """Operators that the other tests have no table of."""
    x = normal(2, 3, 4, 4)
    rois, batch = np.array([[0.3, 0.2, 3.1, 3.4], [0.1, 1.2, 2.7, 2.9]], np.float32), ints([0, 1])
    return [
        Case("Identity", {"x": x}),
        Case("Softmax", {"x": x}, {"axis": 1}),
        Case("Gelu", {"x": x}, opset=20),
        Case("Gelu", {"x": x}, {"approximate": "tanh"}, opset=20),
    ] + [
        Case("GridSample", {"x": x, "grid": normal(2, 3, 3, 2) * 0.4}, {"mode": mode}, opset=20)
        for mode in ("linear", "cubic")
    ] + [
        Case("RoiAlign", {"x": x, "rois": rois, "batch": batch}, {"output_height": 2, "output_width": 2,
             "sampling_ratio": 2}, constant=("rois",)),
        Case("Split", {"x": x, "sizes": ints([1, 2])}, {"axis": 1}, constant=("sizes",), outputs=("z", "y")),
        Case("CastLike", {"x": x, "like": normal(1)}, constant=("like",)),
        Case("Gelu", {"x": x}, domain="com.microsoft"),
        Case("QuickGelu", {"x": x}, domain="com.microsoft"),
    ]  # fmt: skip


# Straight through the rounding (test_quantised): no torch gradient to compare with, and linear in the cotangent.
QUANTISED = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger",
}  # fmt: skip


def _all() -> list[Case]:
    everything = itertools.chain(
        _more(), test_defined.CASES, test_elementwise.UNARY, test_elementwise.BINARY, test_movement.MOVES,
        test_movement.KINKED, test_reductions.reductions(), test_reductions.NORMS, test_reductions.products(),
        test_sampling.RESIZE, test_windows.CONV, test_windows.DECONV, test_windows.POOL,
    )  # fmt: skip
    return list(everything)


def grad(case: Case, feeds: dict[str, np.ndarray], name: str, cotangent: np.ndarray) -> np.ndarray:
    """torch's first gradient by `name`, in float64."""
    tensors = {k: torch.tensor(v) for k, v in feeds.items()}
    x = tensors[name].requires_grad_()
    y = torch_graph.run(case.model(double=True), tensors, torch.float64)[case.of]
    (found,) = torch.autograd.grad((y * torch.tensor(cotangent)).sum(), x, allow_unused=True)
    return np.zeros(x.shape) if found is None else found.numpy()


def by_operator() -> dict[str, list[Case]]:
    """Up to three cases of each operator, the most different in their attributes."""
    found: dict[str, list[Case]] = {}
    for case in _all():
        name = f"{case.domain}::{case.op}" if case.domain else case.op
        chosen = found.setdefault(name, [])
        if len(chosen) < 3 and all(set(case.attributes) != set(other.attributes) for other in chosen):
            chosen.append(case)
    return found


CASES = by_operator()


def twice(case: Case, name: str, wrt: str, cpu: bool) -> onnx.ModelProto | None:
    """The gradient file's gradient, by `wrt`; None where the first does not depend on it."""
    once = gradient_model(ir.from_proto(case.model()), of=case.of, wrt=name, cpu=cpu)
    emitted = {(node.op_type, node.domain) for node in once.graph}
    assert {op for op, domain in emitted if not domain and op not in VJP_RULES and not is_zero(op)} == set()
    try:
        return ir.to_proto(gradient_model(once, of=f"{name}.gradient", wrt=wrt, cpu=cpu))
    except ModelUnsuitable as reason:
        assert "does not depend" in str(reason)
        return None


def run(model: onnx.ModelProto, output: str, feeds: dict[str, Any]) -> np.ndarray:
    known = {value.name for value in model.graph.input}
    return session(model).run([output], {k: v for k, v in feeds.items() if k in known})[0]


@pytest.mark.parametrize("cpu", [False, True], ids=["any", "cpu"])
@pytest.mark.parametrize("operator", sorted(CASES))
def test_rule(operator: str, cpu: bool) -> None:
    for case in CASES[operator]:
        _check(case, cpu)


def _check(case: Case, cpu: bool) -> None:
    name = case.wanted[0]
    y = session(case.model()).run([case.of], case.feeds())[0]
    case._rank[:] = [y.ndim]
    rng = np.random.default_rng(3)
    x = case.inputs[name]
    assert x is not None
    cotangent = rng.standard_normal(y.shape).astype(np.float32)
    direction = rng.standard_normal(x.shape).astype(np.float32)
    feeds = {**case.feeds(), f"{case.of}.cotangent": cotangent, f"{name}.gradient.cotangent": direction}
    once = ir.to_proto(gradient_model(ir.from_proto(case.model()), of=case.of, wrt=name, cpu=cpu))
    first = run(once, f"{name}.gradient", feeds)

    # ⟨gradient, direction⟩ is ⟨cotangent, J·direction⟩, and the second is the derivative by the cotangent.
    forward = twice(case, name, f"{case.of}.cotangent", cpu)
    if forward is None:
        assert not first.any()
    else:
        tangent = run(forward, f"{case.of}.cotangent.gradient", feeds)
        close(float((first * direction).sum()), float((tangent * cotangent).sum()), np.linalg.norm(first))

    doubles = case.feeds(double=True)
    for wrt in case.wanted:
        model = twice(case, name, wrt, cpu)
        at = doubles[wrt]
        product = np.zeros(at.shape) if model is None else run(model, model.graph.output[-1].name, feeds)
        assert np.isfinite(product).all()
        for _ in range(2):
            step = rng.standard_normal(at.shape)
            up, down = (
                grad(case, {**doubles, wrt: np.asarray(at + h * step)}, name, cotangent.astype(np.float64))
                for h in (STEP, -STEP)
            )
            numeric = float((direction * (up - down)).sum() / (2 * STEP))
            close(numeric, float((product * step).sum()), np.linalg.norm(product) + np.linalg.norm(first))


def close(a: float, b: float, scale: float) -> None:
    assert abs(a - b) <= 2e-4 * (abs(a) + scale + 1e-3), (a, b, scale)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_quantised(form: str) -> None:
    """Straight through the rounding, so linear in the cotangent: the second gradient by it is the adjoint."""
    model = getattr(networks, form)(networks.tiny_cnn(softmax=False))
    once = gradient_model(ir.from_proto(model))
    second = ir.to_proto(gradient_model(once, of="image.gradient", wrt="logits.cotangent"))
    rng = np.random.default_rng(0)
    sizes = {"image": (2, 3, 32, 32), "logits.cotangent": (2, 10), "image.gradient.cotangent": (2, 3, 32, 32)}
    feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in sizes.items()}
    first = run(ir.to_proto(once), "image.gradient", feeds)
    tangent = run(second, "logits.cotangent.gradient", feeds)
    assert first.any()
    a = float((first * feeds["image.gradient.cotangent"]).sum())
    b = float((tangent * feeds["logits.cotangent"]).sum())
    close(a, b, np.linalg.norm(first))


@pytest.mark.parametrize("cpu", [False, True], ids=["any", "cpu"])
@pytest.mark.parametrize("form", ["attention", "norms"])
def test_whole_networks(form: str, cpu: bool) -> None:
    """Hessian–vector products of networks with LayerNormalization, against torch differentiated twice in float64."""
    write, shape = {
        "attention": (held.attention, ("N", 6, 12)),
        "norms": (held.norms, ("N", 8, 12, 10)),
    }[form]
    model = held.network(write, shape)
    output = model.graph.output[0].name
    once = gradient_model(ir.from_proto(model), cpu=cpu)
    second = ir.to_proto(gradient_model(once, of="x.gradient", wrt="x", cpu=cpu))
    rng = np.random.default_rng(5)
    x, direction = (rng.standard_normal((2, *shape[1:])).astype(np.float32) for _ in range(2))
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    y = torch_graph.run(model, {"x": leaf}, torch.float64)[output]
    cotangent = rng.standard_normal(y.shape).astype(np.float32)
    (first,) = torch.autograd.grad((y * torch.tensor(cotangent)).sum(), leaf, create_graph=True)
    (expected,) = torch.autograd.grad((first * torch.tensor(direction)).sum(), leaf)
    feeds = {"x": x, f"{output}.cotangent": cotangent, "x.gradient.cotangent": direction}
    found = run(second, second.graph.output[-1].name, feeds)
    assert np.linalg.norm(found - expected.numpy()) <= 1e-4 * np.linalg.norm(expected.numpy())


def test_every_rule_has_its_case() -> None:
    assert set(VJP_RULES) - set(CASES) - QUANTISED == set()
