"""What an operator is: one-element operands are scalars, whatever their rank."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxviz
from onnxviz.graph.normalise import normalise
from tests.grad.oracle import normal, session
from tests.networks import written

both_backends = pytest.mark.parametrize("backend", ["native", "torch"])
W1, B1, W2 = normal(6, 3, 3, 3), normal(6), normal(4, 6, 3, 3)


def model(text: str, weights, *, opset: int = 18, size: int = 12, batch="N", out=("N", 4)) -> onnx.ModelProto:
    """A network of one picture input `image` and one output `logits`."""
    return written(text, {"image": (batch, 3, size, size)}, {"logits": out}, weights, opset=opset)


def differentiated(source: onnx.ModelProto, backend: str, x: np.ndarray, rules: str = "plain"):
    """The value and the gradient of a logit."""
    net = onnxviz.load(source, preprocess="imagenet", backend=backend)
    return net.value_and_gradient(onnxviz.objectives.logit(2), rules=rules)(x)


def alike(found: list, rtol: float = 1e-6, atol: float = 0) -> None:
    for value, gradient in found[1:]:
        np.testing.assert_allclose(value, found[0][0], rtol=1e-6)
        np.testing.assert_allclose(gradient, found[0][1], rtol=rtol, atol=atol)
    assert found[0][1].any()


def scalars(shape: tuple[int, ...], *, computed: bool = False) -> onnx.ModelProto:
    """A network whose numbers, bounds, pad value, exponent and factors, have this shape."""
    numbers = {"low": 0.0, "high": 3.0, "rim": 0.5, "two": 2.0, "half": 0.5}
    weights = {k: np.full(shape, v, np.float32) for k, v in numbers.items()}
    weights |= {"w1": W1, "b1": B1, "w2": W2, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)}
    # A bound that only the run tells: half of twice the bound, over the picture's batch of ones.
    highest = """top = ReduceMax <keepdims = 0> (image) halved = Mul(top, half) none = Sub(halved, halved)
        highest = Add(none, high)"""
    return model(
        f"""padded = Pad(image, pads, rim) c1 = Conv(padded, w1, b1) lowest = Identity(low)
        {highest if computed else "highest = Identity(high)"}
        r1 = Clip(c1, lowest, highest) squares = Pow(r1, two) halves = Mul(squares, half)
        c2 = Conv <strides = [2, 2]> (halves, w2) r2 = Clip(c2, lowest)
        pooled = GlobalAveragePool(r2) logits = Flatten(pooled)""",
        weights,
    )


@both_backends
@pytest.mark.parametrize("rules", ["plain", "guided", "deconvnet", "redirected"])
def test_one_element_is_a_scalar(rules: str, backend: str) -> None:
    sources = [scalars(()), scalars((1,))]
    for source in sources:
        layers = onnxviz.load(source, preprocess="imagenet", backend=backend).layers
        assert [layer.receptive_field for layer in layers if layer.name == "c1"] == [(3, 3)]
    if rules == "plain":  # bounds that only the run tells: no rectifier for certain
        sources.append(scalars((1,), computed=True))
    alike([differentiated(source, backend, normal(2, 3, 12, 12), rules) for source in sources], 1e-5, 1e-6)


def test_full_gradient_takes_one_element() -> None:
    nets = [onnxviz.load(scalars(shape), preprocess="imagenet") for shape in ((), (1,))]
    x = normal(1, 3, 12, 12)
    maps = [onnxviz.saliency(net, x, target=1, method="full-gradient")[0].values for net in nets]
    np.testing.assert_allclose(*maps, rtol=1e-5)


def test_shared_with_a_vector() -> None:
    """The same constant as a bound and as a bias of one channel: only the bound changes its rank."""
    weights = {"w": normal(1, 3, 3, 3), "one": np.array([0.25], np.float32)}
    source = model("c = Conv(image, w, one) r = Clip(c, , one) logits = Flatten(r)", weights, out=("N", 100))
    found = ir.to_proto(normalise(ir.from_proto(source)))
    onnx.checker.check_model(found, full_check=True)
    x = normal(2, 3, 12, 12)
    np.testing.assert_array_equal(*(session(m).run(None, {"image": x})[0] for m in (found, source)))
    ranks = {i.name: len(i.dims) for i in found.graph.initializer}
    at = {n.op_type: [ranks.get(i) for i in n.input] for n in found.graph.node}
    assert (at["Clip"][2], at["Conv"][2]) == (0, 1)


BRANCH = "g () => (float[] twice) { twice = Add(pooled, pooled) }"
BODY = """g (int64 i, bool going, float[] carried) => (bool on, float[] twice) {
    twice = Add(carried, pooled) on = Identity(going) }"""
OTHERS = {
    "CumSum": ("y = CumSum(pooled, n)", {"n": np.int64(1)}),
    "Trilu": ("y = Trilu(pooled, n)", {"n": np.int64(1)}),
    "Range": ("r = Range(a, b, c) y = Mul(pooled, r)", dict(zip("abc", np.float32([0, 3, 1]), strict=True))),
    "OneHot": (
        """best = ArgMax <axis = 1, keepdims = 0> (pooled) hot = OneHot(best, n, ends)
        y = Mul(pooled, hot)""",
        {"n": np.int64(3), "ends": np.array([1, 2], np.float32)},
    ),
    "If": (f"y = If <then_branch = {BRANCH}, else_branch = {BRANCH}> (n)", {"n": np.bool_(True)}),
    "Loop": (f"y = Loop <body = {BODY}> (n, , pooled)", {"n": np.int64(2)}),
}


@both_backends
@pytest.mark.parametrize("op", OTHERS)
def test_every_scalar_operand(op: str, backend: str) -> None:
    """Wherever the standard has one number, ONNX Runtime takes a vector of one element, and so do gradients."""
    text, weights = OTHERS[op]
    text = f"g = GlobalAveragePool(image) pooled = Flatten(g) {text} logits = Identity(y)"
    scalar, vector = (
        model(
            text,
            {k: np.reshape(v, form) if np.ndim(v) == 0 else v for k, v in weights.items()},
            size=4,
            out=("N", 3),
        )
        for form in ((), (1,))
    )
    x = normal(2, 3, 4, 4)
    if op == "Loop" and backend == "native":
        with pytest.raises(onnxviz.errors.UnsupportedOperator):
            differentiated(scalar, backend, x)
        return
    found = [differentiated(source, backend, x)[1] for source in (scalar, vector)]
    np.testing.assert_array_equal(*found)
    assert found[0].any()


@both_backends
@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 1, 1)])
def test_one_scale_with_axes_of_its_own(shape: tuple[int, ...], backend: str) -> None:
    """ONNX Runtime fuses such a bias into the convolution; alone it refuses it."""
    weights = {"sx": np.float32(0.05), "sw": np.float32(0.01), "zx": np.int8(3), "zw": np.int8(0)}
    weights |= {"b": np.arange(6, dtype=np.int32) * 100}
    weights |= {"w": np.clip(normal(6, 3, 3, 3) * 60, -127, 127).astype(np.int8)}
    text = """codes = QuantizeLinear(image, sx, zx) x = DequantizeLinear(codes, sx, zx)
        kernel = DequantizeLinear(w, sw, zw) bias = DequantizeLinear(b, sb, zb)
        c = Conv(x, kernel, bias) r = Relu(c) logits = ReduceMean <axes = [2, 3], keepdims = 0> (r)"""
    found = []
    for form in ((), shape):
        own = {"zb": np.full(form, 0, np.int32), "sb": np.full(form, 0.0005, np.float32)}
        source = model(text, weights | own, opset=17, out=("N", 6))
        found.append(differentiated(source, backend, 0.5 * normal(2, 3, 12, 12)))
    alike(found)


@both_backends
@pytest.mark.parametrize("axes", ["", "<axes = [0, 2, 3]>"])
def test_axes_that_the_input_has_not_are_none(axes: str, backend: str) -> None:
    """MeanVarianceNormalization, whose usual axes are those of maps, of three axes."""
    weights = {"w": W1, "shape": np.array([0, 6, -1], np.int64), "three": np.float32(3)}
    found = []
    for named in (axes, "<axes = [0, 2]>"):
        text = f"""c = Conv(image, w) rows = Reshape(c, shape) even = MeanVarianceNormalization {named} (rows)
            cubes = Pow(even, three) logits = ReduceMean <axes = [2], keepdims = 0> (cubes)"""
        source = model(text, weights, opset=17, batch=1, out=(1, 6))
        found.append(differentiated(source, backend, normal(1, 3, 12, 12)))
    alike(found, 1e-5)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 1e-45, 3e38])
@pytest.mark.parametrize("factor", [0.0, np.inf, np.nan, 1e-45, 3e38])
@pytest.mark.parametrize("op", ["Mul", "Div"])
def test_a_ramp_of_no_height_is_none(scale: float, factor: float, op: str) -> None:
    """Whatever numbers a file has for a range and for what comes behind it: none is divided by that gives none."""
    weights = {"w": W1, "scale": np.float32(scale), "zero": np.uint8(0), "factor": np.float32(factor)}
    text = f"""c = Conv(image, w) q = QuantizeLinear(c, scale, zero) d = DequantizeLinear(q, scale, zero)
        e = {op}(d, factor) f = Mul(e, c) g = GlobalAveragePool(f) logits = Flatten(g)"""
    onnxviz.gradient_model(model(text, weights, out=("N", 6)).SerializeToString(), rules="guided")
