"""Reductions, normalising operators, matrix products: central differences in float64."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxviz.grad.model import gradient_model
from tests.grad.oracle import Case, apart, check, ints, normal, positive, session

ORT = {"oracle": "ort", "step": 2e-2, "tolerance": 2e-3}


def reductions():
    kinds = {
        "Sum": normal(2, 3, 4),
        "Mean": normal(2, 3, 4),
        "Max": apart(2, 3, 4),
        "Min": apart(2, 3, 4),
        "L1": apart(2, 3, 4),
        "L2": normal(2, 3, 4),
        "SumSquare": normal(2, 3, 4),
        "LogSum": positive(2, 3, 4),
        "LogSumExp": normal(2, 3, 4),
        "Prod": positive(2, 3, 4),
    }
    for kind, x in kinds.items():
        name = f"Reduce{kind}"
        for axes in (None, ints([1]), ints([0, -1])):
            for keep in (0, 1):
                inputs = {"x": x} if axes is None else {"x": x, "axes": axes}
                yield Case(name, inputs, {"keepdims": keep}, constant=("axes",), label=str(axes))
        yield Case(name, {"x": x}, {"noop_with_empty_axes": 1}, label="noop")
        yield Case(
            name,
            {"x": x},
            {"axes": [0, -1], "keepdims": 0},
            opset=11,
            oracle="ort",
            step=1e-2,
            tolerance=2e-3,
        )
        yield Case(name, {"x": x, "axes": ints([1])}, {}, label="moving")
        yield Case(name, {"x": x, "axes": ints([1])}, {"keepdims": 0}, label="moving")


ZEROS = np.array([[2.0, 0.0, 3.0], [0.0, 0.0, 1.0], [1.5, -2.0, 0.5]], np.float32)
C = 4
NORMS = [
    Case(
        "BatchNormalization",
        {"x": normal(2, C, 3), "s": positive(C), "b": normal(C), "m": normal(C), "v": positive(C)},
        a,
        constant=("s", "b", "m", "v"),
        label=str(a),
    )
    for a in ({}, {"epsilon": 0.1})
] + [
    Case(
        "BatchNormalization",
        {"x": normal(2, C, 3, 2), "s": positive(C), "b": normal(C), "m": normal(C), "v": positive(C)},
        label="all",
    ),
    *(
        Case(
            "BatchNormalization",
            {"x": normal(2, C, 3), "s": positive(C), "b": normal(C), "m": normal(C), "v": positive(C)},
            a,
            opset=o,
            constant=("s", "b", "m", "v"),
            oracle="ort",
            step=0.1,
        )
        for o, a in ((7, {}), (7, {"spatial": 1}), (9, {"momentum": 0.8}), (14, {}))
    ),
    Case(
        "BatchNormalization",
        {"x": normal(3, C, 3, 2), "s": positive(C), "b": normal(C), "m": normal(C), "v": positive(C)},
        {"training_mode": 1},
        constant=("m", "v"),
        outputs=("y", "p", "q"),
        label="training",
    ),
    Case(
        "BatchNormalization",
        {"x": normal(3, C, 3, 2), "s": positive(C), "b": normal(C), "m": normal(C), "v": positive(C)},
        constant=(
            "m",
            "v",
        ),  # ONNX Runtime 1.32 errs where all four are: it writes statistics over shared constants
        outputs=("y", "p", "q", "r", "t"),
        opset=7,
        oracle="ort",
        step=0.02,
        label="old training",
    ),
    Case("InstanceNormalization", {"x": normal(2, 3, 5), "s": positive(3), "b": normal(3)}),
    Case(
        "InstanceNormalization",
        {"x": normal(2, 3, 4, 3), "s": positive(3), "b": normal(3)},
        {"epsilon": 0.1},
        **ORT,
    ),
    Case("LayerNormalization", {"x": normal(2, 3, 4), "s": positive(4), "b": normal(4)}, opset=17, **ORT),
    Case("LayerNormalization", {"x": normal(2, 3, 4), "s": positive(4)}, {"axis": 2}, opset=17, **ORT),
    Case(
        "LayerNormalization",
        {"x": normal(2, 3, 4), "s": positive(3, 4), "b": normal(3, 4)},
        {"axis": 1, "epsilon": 0.1},
        opset=17,
        **ORT,
    ),
    Case(
        "LayerNormalization",
        {"x": normal(2, 3, 4), "s": positive(3, 4), "b": normal(3, 4)},
        {"axis": -2},
        opset=17,
        **ORT,
    ),
    Case(
        "GroupNormalization",
        {"x": normal(2, 6, 3, 2), "s": positive(3), "b": normal(3)},
        {"num_groups": 3},
        opset=18,
        **ORT,
    ),
    Case(
        "GroupNormalization",
        {"x": normal(2, 6, 3, 2), "s": positive(6), "b": normal(6)},
        {"num_groups": 3, "epsilon": 0.1},
        opset=21,
        **ORT,
    ),
    Case("RMSNormalization", {"x": normal(2, 3, 4), "s": positive(4)}, opset=23, **ORT),
    Case(
        "RMSNormalization",
        {"x": normal(2, 3, 4), "s": positive(3, 4)},
        {"axis": 1, "epsilon": 0.1},
        opset=23,
        **ORT,
    ),
    Case("MeanVarianceNormalization", {"x": normal(2, 3, 4, 2)}, **ORT),
    Case("MeanVarianceNormalization", {"x": normal(2, 3, 4, 2)}, {"axes": [1, 3]}, **ORT),
    *(
        Case("LRN", {"x": normal(2, 6, 3, 2)}, {"size": n, **a}, **ORT)
        for n in (1, 3, 5)
        for a in ({}, {"alpha": 0.4, "beta": 0.6, "bias": 2.0})
    ),
]


def products():
    for a, b in (
        ((2, 3), (3, 4)),
        ((3,), (3, 4)),
        ((2, 3), (3,)),
        ((3,), (3,)),
        ((5, 2, 3), (3, 4)),
        ((2, 3), (5, 3, 4)),
        ((5, 2, 3), (5, 3, 4)),
        ((1, 2, 3), (5, 3, 4)),
        ((5, 1, 2, 3), (2, 3, 4)),
        ((3,), (5, 3, 4)),
        ((5, 2, 3), (3,)),
        ((2, 5, 2, 3), (3,)),
        ((3,), (2, 5, 3, 4)),
    ):
        yield Case("MatMul", {"a": normal(*a), "b": normal(*b)}, label=f"{a}x{b}".replace(" ", ""))
    for ta in (0, 1):
        for tb in (0, 1):
            for c in (None, (2, 4), (4,), (2, 1), ()):
                a, b = normal(*((3, 2) if ta else (2, 3))), normal(*((4, 3) if tb else (3, 4)))
                inputs = {"a": a, "b": b} if c is None else {"a": a, "b": b, "c": np.asarray(normal(*c))}
                yield Case("Gemm", inputs, {"transA": ta, "transB": tb}, label=str(c))
    yield Case("Gemm", {"a": normal(2, 3), "b": normal(3, 4), "c": normal(4)}, {"alpha": 0.5, "beta": 2.0})
    yield Case("Gemm", {"a": normal(2, 3), "b": normal(3, 4), "c": normal(4)}, {"alpha": 0.5}, opset=7, **ORT)
    for equation, shapes in {
        "ij,jk->ik": ((2, 3), (3, 4)),
        "bij,bkj->bik": ((5, 2, 3), (5, 4, 3)),
        "ij->ji": ((2, 3),),
        "ij->i": ((2, 3),),
        "ij->": ((2, 3),),
        "i,j->ij": ((2,), (3,)),
        "ij,ij->": ((2, 3), (2, 3)),
        "bchw,c->bhw": ((2, 3, 2, 2), (3,)),
        "ij,jk,kl->il": ((2, 3), (3, 2), (2, 4)),
        "ij,jk": ((2, 3), (3, 4)),
        "ii->i": ((3, 3),),
        "ii": ((3, 3),),
        "iji->j": ((3, 2, 3),),
        "iij,jk->ik": ((3, 3, 2), (2, 4)),
        "iii->": ((2, 2, 2),),
        "...ij,...jk->...ik": ((5, 2, 3), (5, 3, 4)),
        "...ij,jk->i...k": ((2, 5, 2, 3), (3, 4)),
        "...i->...": ((2, 3, 4),),
        "...ii->...i": ((2, 3, 3),),
        "i...,i...": ((2, 3), (2, 3)),
        "...,...->...": ((1, 3), (2, 1)),
        "...i,...i->...": ((4, 1, 3), (1, 5, 3)),
    }.items():
        inputs = {f"x{i}": normal(*s) for i, s in enumerate(shapes)}
        yield Case("Einsum", inputs, {"equation": equation})


@pytest.mark.parametrize("case", [*reductions(), *NORMS, *products()], ids=lambda case: case.id)
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_rule(case: Case, dynamic: bool) -> None:
    if dynamic and case.op == "GroupNormalization":
        dynamic = False  # the number of channels must be known, and always is in files
    check(case, dynamic=dynamic)


def test_product_with_zeros() -> None:
    """One zero: only it has a derivative. Several: none has."""
    check(Case("ReduceProd", {"x": ZEROS, "axes": ints([1])}, constant=("axes",), step=1e-3))


@pytest.mark.parametrize("old", [False, True], ids=["training_mode", "five outputs"])
@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((3, C, 3, 2), {}),
        ((5, C), {"epsilon": 0.1}),
        ((2, C, 7), {"momentum": 0.5}),
        ((1, C, 4, 4), {"epsilon": 1e-3}),
    ],
)
def test_batch_normalization_in_training_has_torchs_gradient(shape, attributes, old) -> None:
    """By all inputs that count, element by element: torch's own batch_norm in float64, which knows no rule of ours."""
    torch = pytest.importorskip("torch")
    inputs = {"x": normal(*shape), "s": positive(C), "b": normal(C)}
    case = Case(
        "BatchNormalization",
        {**inputs, "m": normal(C, seed=1), "v": positive(C, seed=1)},
        attributes if old else {**attributes, "training_mode": 1},
        constant=("m", "v"),
        outputs=("y", "p", "q", "r", "t") if old else ("y", "p", "q"),
        opset=7 if old else 15,
    )
    leaves = {
        name: torch.tensor(array, dtype=torch.float64, requires_grad=True) for name, array in inputs.items()
    }
    y = torch.nn.functional.batch_norm(
        leaves["x"], None, None, leaves["s"], leaves["b"], training=True, eps=attributes.get("epsilon", 1e-5)
    )
    cotangent = normal(*shape, seed=2)
    expected = torch.autograd.grad((y * torch.tensor(cotangent)).sum(), list(leaves.values()))
    for name, wanted in zip(leaves, expected, strict=True):
        found = ir.to_proto(gradient_model(ir.from_proto(case.model()), of="y", wrt=name))
        again, gradient = session(found).run(
            ["y", f"{name}.gradient"], case.feeds() | {"y.cotangent": cotangent}
        )
        np.testing.assert_allclose(again, y.detach().numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(gradient, wanted.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
