"""The rule set is closed under its own output: every rule's gradient graph is differentiated again, and right.

By each float input, the derivative of the first gradient is held to central differences of torch's first gradient in
float64 (the executor of the torch backend, which knows no rule of ours); by the cotangent, in which the first gradient
is linear, to the adjoint identity.
"""

from __future__ import annotations

import itertools

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
from tests.grad.oracle import Case, case, ints, normal, run, session
from tests.runtimes import held

STEP = 1e-4


x = normal(2, 3, 4, 4)
boxes = np.array([[0.3, 0.2, 3.1, 3.4], [0.1, 1.2, 2.7, 2.9]], np.float32)
MORE = [  # operators that the other tests have no table of
    case("Identity", x=x),
    case("Softmax", x=x, axis=1),
    case("Gelu", x=x, opset=20),
    case("Gelu", x=x, approximate="tanh", opset=20),
    *(case("GridSample", x=x, grid=normal(2, 3, 3, 2) * 0.4, mode=m, opset=20) for m in ("linear", "cubic")),
    case("RoiAlign", x=x, rois=boxes, batch=ints(0, 1), constant="rois", output_height=2, output_width=2,
         sampling_ratio=2),
    case("Split", x=x, sizes=ints([1, 2]), outputs="z y", axis=1),
    case("CastLike", x=x, like=normal(1), constant="like"),
    case("Gelu", x=x, domain="com.microsoft"),
    case("QuickGelu", x=x, domain="com.microsoft"),
]  # fmt: skip
ALL = itertools.chain(
    MORE, test_defined.CASES, test_elementwise.UNARY, test_elementwise.BINARY, test_movement.MOVES,
    test_movement.KINKED, test_reductions.reductions(), test_reductions.NORMS, test_reductions.products(),
    test_sampling.RESIZE, test_windows.CONV, test_windows.DECONV, test_windows.POOL,
)  # fmt: skip
# Straight through the rounding (test_quantised): no torch gradient to compare with, and linear in the cotangent.
QUANTISED = {
    "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger",
}  # fmt: skip


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
    for one in ALL:
        name = f"{one.domain}::{one.op}" if one.domain else one.op
        chosen = found.setdefault(name, [])
        if len(chosen) < 3 and all(set(one.attributes) != set(other.attributes) for other in chosen):
            chosen.append(one)
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


@pytest.mark.parametrize("cpu", [False, True], ids=["any", "cpu"])
@pytest.mark.parametrize(
    "case",
    [pytest.param(one, id=f"{name}-{i}") for name, found in CASES.items() for i, one in enumerate(found)],
)
def test_rule(case: Case, cpu: bool) -> None:
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


def smooth() -> onnx.ModelProto:
    """Conv (strided, padded), Softplus, AveragePool, depthwise Conv, Tanh, Gemm: twice differentiable everywhere."""
    m = networks.Maker(opset=18)
    y = m("Softplus", m("Conv", "x", m.random(4, 3, 3, 3), m.random(4), strides=[2, 2], pads=[1] * 4))
    y = m("AveragePool", y, kernel_shape=[2, 2], strides=[1, 1])
    y = m("Tanh", m("Conv", y, m.random(4, 1, 3, 3), group=4, strides=[2, 2], pads=[1] * 4))
    y = m("Gemm", m("Reshape", y, m.constant([0, -1])), m.random(36, 5))
    return m.model({"x": ("N", 3, 12, 12)}, {y: ("N", 5)}, ir=10)


FORMS = {
    "attention": lambda: held.network(held.attention, ("N", 6, 12)),
    "norms": lambda: held.network(held.norms, ("N", 8, 12, 10)),
    "smooth": smooth,
}


@pytest.mark.parametrize("cpu", [False, True], ids=["any", "cpu"])
@pytest.mark.parametrize("form", FORMS)
def test_whole_networks(form: str, cpu: bool) -> None:
    """Hessian–vector products against torch differentiated twice in float64: networks with LayerNormalization, and one
    that is smooth everywhere. The gradient is linear in the cotangent: its derivative by that is the Jacobian's."""
    model = FORMS[form]()
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    output = model.graph.output[0].name
    once = gradient_model(ir.from_proto(model), cpu=cpu)
    second, forward = (
        ir.to_proto(gradient_model(once, of="x.gradient", wrt=by, cpu=cpu))
        for by in ("x", f"{output}.cotangent")
    )
    onnx.checker.check_model(second, full_check=True)
    assert [v.name for v in second.graph.output] == [output, "x.gradient", "x.gradient.gradient"]
    rng = np.random.default_rng(5)
    x, direction = (rng.standard_normal((2, *shape[1:])).astype(np.float32) for _ in range(2))
    leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    y = torch_graph.run(model, {"x": leaf}, torch.float64)[output]
    cotangent = rng.standard_normal(y.shape).astype(np.float32)
    (first,) = torch.autograd.grad((y * torch.tensor(cotangent)).sum(), leaf, create_graph=True)
    (expected,) = torch.autograd.grad((first * torch.tensor(direction)).sum(), leaf)
    feeds = {"x": x, f"{output}.cotangent": cotangent, "x.gradient.cotangent": direction}
    found = run(second, "x.gradient.gradient", feeds)
    assert np.linalg.norm(found - expected.numpy()) <= 1e-4 * np.linalg.norm(expected.numpy())
    gradient, tangent = run(second, "x.gradient", feeds), run(forward, f"{output}.cotangent.gradient", feeds)
    first = first.detach().numpy()
    assert np.linalg.norm(gradient - first) <= 1e-4 * np.linalg.norm(first)
    close(float((gradient * direction).sum()), float((tangent * cotangent).sum()), np.linalg.norm(first))


def test_every_rule_has_its_case() -> None:
    assert set(VJP_RULES) - set(CASES) - QUANTISED == set()
