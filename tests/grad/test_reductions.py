"""Reductions, normalising operators, matrix products: central differences in float64."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from tests.grad.oracle import (
    ORT,
    Case,
    apart,
    case,
    differentiated,
    ints,
    normal,
    positive,
    rule_test,
    session,
)


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
            given = {"x": x} if axes is None else {"x": x, "axes": axes}
            for keep in (0, 1):
                yield case(name, **given, keepdims=keep, label=str(axes))
        yield case(name, x=x, noop_with_empty_axes=1, label="noop")
        yield case(name, x=x, axes=[0, -1], keepdims=0, opset=11, **ORT | {"step": 1e-2})
        yield case(name, x=x, axes=ints([1]), constant="", label="moving")
        yield case(name, x=x, axes=ints([1]), constant="", keepdims=0, label="moving")


ZEROS = np.array([[2.0, 0.0, 3.0], [0.0, 0.0, 1.0], [1.5, -2.0, 0.5]], np.float32)
C = 4


def batch_norm(*shape: int, constant="s b m v", label="", **options) -> Case:
    values = {"s": positive(C), "b": normal(C), "m": normal(C), "v": positive(C)}
    return case("BatchNormalization", x=normal(*shape), **values, constant=constant, label=label, **options)


def layer_norm(op="LayerNormalization", opset=17, **given) -> Case:
    return case(op, x=normal(2, 3, 4), opset=opset, **given, **ORT)


group_norm = partial(case, "GroupNormalization", x=normal(2, 6, 3, 2), num_groups=3, dynamic=False, **ORT)
NORMS = [
    batch_norm(2, C, 3, label="{}"),
    batch_norm(2, C, 3, epsilon=0.1),
    batch_norm(2, C, 3, 2, constant="", label="all"),
    *(
        batch_norm(2, C, 3, opset=o, oracle="ort", step=0.1, **a)
        for o, a in ((7, {}), (7, {"spatial": 1}), (9, {"momentum": 0.8}), (14, {}))
    ),
    batch_norm(3, C, 3, 2, constant="m v", outputs="y p q", training_mode=1, label="training"),
    # ONNX Runtime 1.32 errs where all four are constant: it writes statistics over shared constants.
    batch_norm(
        3,
        C,
        3,
        2,
        constant="m v",
        outputs="y p q r t",
        opset=7,
        oracle="ort",
        step=0.02,
        label="old training",
    ),
    case("InstanceNormalization", x=normal(2, 3, 5), s=positive(3), b=normal(3)),
    case("InstanceNormalization", x=normal(2, 3, 4, 3), s=positive(3), b=normal(3), epsilon=0.1, **ORT),
    layer_norm(s=positive(4), b=normal(4)),
    layer_norm(s=positive(4), axis=2),
    layer_norm(s=positive(3, 4), b=normal(3, 4), axis=1, epsilon=0.1),
    layer_norm(s=positive(3, 4), b=normal(3, 4), axis=-2),
    layer_norm("RMSNormalization", 23, s=positive(4)),
    layer_norm("RMSNormalization", 23, s=positive(3, 4), axis=1, epsilon=0.1),
    # The number of channels must be known, and always is in files.
    group_norm(s=positive(3), b=normal(3), opset=18),
    group_norm(s=positive(6), b=normal(6), epsilon=0.1, opset=21),
    case("MeanVarianceNormalization", x=normal(2, 3, 4, 2), **ORT),
    case("MeanVarianceNormalization", x=normal(2, 3, 4, 2), axes=[1, 3], **ORT),
    *(
        case("LRN", x=normal(2, 6, 3, 2), size=n, **a, **ORT)
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
        yield case("MatMul", a=normal(*a), b=normal(*b), label=f"{a}x{b}".replace(" ", ""))
    for ta in (0, 1):
        for tb in (0, 1):
            for c in (None, (2, 4), (4,), (2, 1), ()):
                a, b = normal(*((3, 2) if ta else (2, 3))), normal(*((4, 3) if tb else (3, 4)))
                bias = {} if c is None else {"c": np.asarray(normal(*c))}
                yield case("Gemm", a=a, b=b, **bias, transA=ta, transB=tb, label=str(c))
    yield case("Gemm", a=normal(2, 3), b=normal(3, 4), c=normal(4), alpha=0.5, beta=2.0)
    yield case("Gemm", a=normal(2, 3), b=normal(3, 4), c=normal(4), alpha=0.5, opset=7, **ORT)
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
        yield case("Einsum", **{f"x{i}": normal(*s) for i, s in enumerate(shapes)}, equation=equation)


# One zero: only it has a derivative. Several: none has.
WITH_ZEROS = case("ReduceProd", x=ZEROS, axes=ints([1]), step=1e-3, label="zeros")
test_rule = rule_test([*reductions(), *NORMS, *products(), WITH_ZEROS])


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
    form = (
        {"outputs": "y p q r t", "opset": 7} if old else {"outputs": "y p q", "opset": 15, "training_mode": 1}
    )
    statistics = {"m": normal(C, seed=1), "v": positive(C, seed=1)}
    one = case("BatchNormalization", **inputs, **statistics, constant="m v", **form, **attributes)
    leaves = {
        name: torch.tensor(array, dtype=torch.float64, requires_grad=True) for name, array in inputs.items()
    }
    y = torch.nn.functional.batch_norm(
        leaves["x"], None, None, leaves["s"], leaves["b"], training=True, eps=attributes.get("epsilon", 1e-5)
    )
    cotangent = normal(*shape, seed=2)
    expected = torch.autograd.grad((y * torch.tensor(cotangent)).sum(), list(leaves.values()))
    for name, wanted in zip(leaves, expected, strict=True):
        found = session(differentiated(one.model(), of="y", wrt=name))
        again, gradient = found.run(["y", f"{name}.gradient"], one.feeds() | {"y.cotangent": cotangent})
        np.testing.assert_allclose(again, y.detach().numpy(), rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(gradient, wanted.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
