"""Softmax and sigmoid are recognised however they are written down, and nothing else is taken for them."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
from networks import written

import onnxviz
from onnxviz.graph.head import head
from onnxviz.graph.surgery import cut
from tests.graph.running import session

LOGITS = """sum = Conv <pads = [1, 1, 1, 1], strides = [2, 2]> (image, w) r = Relu(sum)
    mean = GlobalAveragePool(r) flat = Flatten(mean) z = Gemm <transB = 1> (flat, v, b) """
RNG = np.random.default_rng(0)
WEIGHTS = {
    "w": (RNG.standard_normal((8, 3, 3, 3)) / 4).astype(np.float32),
    "v": (RNG.standard_normal((5, 8)) / 2).astype(np.float32),
    "b": (RNG.standard_normal(5) / 10).astype(np.float32),
    "axis": np.array([1]),
    "rows": np.array([-1, 5]),
    "column": np.ones((5, 1), np.float32),
    "columns": np.ones((5, 5), np.float32),
    "row": np.ones((1, 5), np.float32),
    "twos": np.full((5, 1), 2, np.float32),
    "eye": np.eye(5, dtype=np.float32),
    "once": np.ones((1, 1), np.float32),
}
NUMBERS = {
    "zero": 0,
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "half": 0.5,
    "minus": -1,
    "hundred": 100,
}
NUMBERS |= {"third": 0.3, "most": 0.6, "e7": 1e-7, "up7": 1 - 1e-7, "e6": 1e-6, "up6": 1 - 1e-6}
NUMBERS |= {"e8": 1e-8, "e9": 1e-9, "e10": 1e-10, "e12": 1e-12}
WEIGHTS |= {name: np.float32(number) for name, number in NUMBERS.items()}

SHIFT = "m = ReduceMax <axes = [1]> (z) s = Sub(z, m) e = Exp(s) "
SUM = "t = ReduceSum(e, axis) "
PIECES = f"{SHIFT}{SUM}p = Div(e, t) "
SOFTMAX = {
    "sum by ones": f"{SHIFT}t = MatMul(e, column) y = Div(e, t)",
    "sums by ones": f"{SHIFT}t = MatMul(e, columns) y = Div(e, t)",
    "sum by Gemm": f"{SHIFT}t = Gemm <transB = 1> (e, row) y = Div(e, t)",
    "mean times number": f"{SHIFT}a = ReduceMean <axes = [1]> (e) t = Mul(a, five) y = Div(e, t)",
    "node": "y = Softmax(z)",
    "exp-div": f"e = Exp(z) {SUM} y = Div(e, t)",
    "shift-exp-div": f"{SHIFT}{SUM}y = Div(e, t)",
    "reciprocal": f"{SHIFT}{SUM}q = Reciprocal(t) y = Mul(q, e)",
    "power": f"{SHIFT}{SUM}q = Pow(t, minus) y = Mul(e, q)",
    "two exps": f"{SHIFT}{SUM}m2 = ReduceMax <axes = [1]> (z) s2 = Sub(z, m2) e2 = Exp(s2) y = Div(e2, t)",
    "epsilon": f"{SHIFT}{SUM}g = Add(t, e9) y = Div(e, g)",
    "unsqueezed": f"{SHIFT}n = ReduceSum <keepdims = 0> (e, axis) t = Unsqueeze(n, axis) y = Div(e, t)",
    "l1": f"{SHIFT}t = ReduceL1 <axes = [1]> (e) y = Div(e, t)",
    "renormalised": f"e = Softmax(z) {SUM} y = Div(e, t)",
    "exp-log-softmax": "l = LogSoftmax(z) y = Exp(l)",
    "exp-log-of-softmax": "p = Softmax(z) l = Log(p) y = Exp(l)",
    "clip": "p = Softmax(z) y = Clip(p, e7, up7)",
    "max-min": "p = Softmax(z) a = Max(p, zero) y = Min(a, one)",
    "cast": "p = Softmax(z) a = Cast <to = 10> (p) y = Cast <to = 1> (a)",
    "epsilon behind": "p = Softmax(z) y = Add(p, e8)",
    "times one": "p = Softmax(z) y = Mul(p, once)",
    "reshaped": f"{PIECES}y = Reshape(p, rows)",
    "clip of pieces": f"{PIECES}y = Clip(p, zero, one)",
}
LOG_SOFTMAX = {
    "node": "y = LogSoftmax(z)",
    "log of softmax": "p = Softmax(z) y = Log(p)",
    "log of clip": "p = Softmax(z) c = Clip(p, e12) y = Log(c)",
    "log of epsilon": "p = Softmax(z) c = Add(p, e10) y = Log(c)",
    "log-sum-exp": "t = ReduceLogSumExp <axes = [1]> (z) y = Sub(z, t)",
    "shift-log-sum-exp": f"{SHIFT}{SUM}l = Log(t) y = Sub(s, l)",
    "max plus log": f"{SHIFT}{SUM}l = Log(t) a = Add(m, l) y = Sub(z, a)",
    "log-sum": f"e = Exp(z) {SUM}l = Log(t) y = Sub(z, l)",
    "log of pieces": f"{PIECES}y = Log(p)",
    "log of ones": f"{SHIFT}t = MatMul(e, column) l = Log(t) y = Sub(s, l)",
}
SIGMOID = {
    "node": "y = Sigmoid(z)",
    "1/(1+exp(-x))": "n = Neg(z) e = Exp(n) a = Add(one, e) y = Div(one, a)",
    "reciprocal": "n = Mul(z, minus) e = Exp(n) a = Add(e, one) y = Reciprocal(a)",
    "0-x": "n = Sub(zero, z) e = Exp(n) a = Add(e, one) y = Reciprocal(a)",
    "half tanh": "h = Mul(z, half) t = Tanh(h) a = Add(one, t) y = Mul(half, a)",
    "half plus half tanh": "h = Div(z, two) t = Tanh(h) a = Mul(t, half) y = Add(a, half)",
    "(tanh + 1) / 2": "h = Mul(z, half) t = Tanh(h) a = Add(t, one) y = Div(a, two)",
    "tanh / 2 + half": "h = Div(z, two) t = Tanh(h) a = Div(t, two) y = Add(a, half)",
    "clip": "p = Sigmoid(z) y = Clip(p, e6, up6)",
    "exp of log": "p = Sigmoid(z) l = Log(p) y = Exp(l)",
}
ACTIVATIONS = {"softmax": SOFTMAX, "log_softmax": LOG_SOFTMAX, "sigmoid": SIGMOID}


def concluded(text, front=LOGITS, **weights):
    proto = written(front + text, {"image": ("N", 3, 16, 16)}, {"y": None}, WEIGHTS | weights)
    return proto, head(ir.from_proto(proto))


@pytest.mark.parametrize(
    ("activation", "form"),
    [(activation, form) for activation, forms in ACTIVATIONS.items() for form in forms],
)
def test_every_spelling_ends_in_its_logits(activation, form):
    proto, found = concluded(ACTIVATIONS[activation][form])
    assert found.logits == "z"
    assert (found.kind, found.classes, found.told) == ("classes", 5, True)
    if found.scores == "z":  # computed again from the logits, since the file's own form overflows
        assert found.activation is None and "overflows" in found.reason
    else:
        assert found.activation == activation
    # The oracle: what ONNX Runtime gives for the output is that function of the logits.
    whole = ir.serde.serialize_model(cut(ir.from_proto(proto), ["z", found.output]))
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16), dtype=np.float32)
    rows, given = session(whole).run(None, {"image": x})
    rows = rows.astype(np.float64)
    exact = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
    wanted = {"softmax": exact, "log_softmax": np.log(exact), "sigmoid": 1 / (1 + np.exp(-rows))}[activation]
    assert np.abs(given - wanted).max() < 1e-3


@pytest.mark.parametrize(
    "form",
    [
        "y = HardSigmoid(z)",
        "y = Clip(z, zero, one)",
        "p = Softmax(z) y = Clip(p, third, most)",
        "p = Softmax(z) y = Mul(p, hundred)",
        "e = Exp(z) y = Div(e, three)",
        f"n = Neg(z) e = Exp(n) {SUM}a = Exp(z) y = Div(a, t)",
        "t = ReduceSum(z, axis) y = Div(z, t)",
        "e = Exp(z) t = MatMul(e, eye) y = Div(e, t)",
        "e = Exp(z) t = MatMul(e, twos) y = Div(e, t)",
        "e = Exp(z) a = ReduceMean <axes = [1]> (e) t = Mul(a, four) y = Div(e, t)",
        "n = Neg(z) e = Exp(n) a = Add(two, e) y = Reciprocal(a)",
        "y = Tanh(z)",
        "m = ReduceMax <axes = [1]> (z) y = Sub(z, m)",
    ],
)
def test_what_looks_like_it_and_is_not(form):
    assert concluded(form)[1].activation is None


def loaded(proto, **options):
    """The network, a photo, and what the file itself gives of it."""
    net = onnxviz.load(proto, preprocess="unit", provider="cpu", **options)
    photo = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    return net, photo, net.run(net.prepare(photo), ["y"])["y"][0].astype(np.float64)


@pytest.mark.parametrize(
    "form",
    [
        "n = Sub(one, p) y = Concat <axis = 1> (n, p)",
        """rest = Squeeze(p, axis) n = Sub(one, rest) no = Unsqueeze(n, axis) yes = Unsqueeze(rest, axis)
        y = Concat <axis = 1> (no, yes)""",
    ],
)
def test_a_sigmoid_behind_its_complement_is_one_score_of_two_classes(form):
    """Its logit moves where both probabilities are saturated."""
    front = """sum = Conv <pads = [1, 1, 1, 1]> (image, w) r = Relu(sum) mean = GlobalAveragePool(r)
        pooled = Flatten(mean) x = Gemm <transB = 1> (pooled, alone) z = Add(x, far) p = Sigmoid(z) """
    proto, found = concluded(form, front, alone=WEIGHTS["v"][:1], far=np.full(1, 40, np.float32))
    assert (found.kind, found.classes, found.logits, found.activation) == ("binary", 2, "z", "sigmoid")
    net, photo, given = loaded(proto, labels=["no", "yes"])
    best = net.predict(photo, top=2)[0]
    assert [one.label for one in best] == ["yes", "no"]
    np.testing.assert_allclose([one.probability for one in best], given[::-1], atol=1e-6)
    assert onnxviz.saliency(net, photo, target="yes").values.max() > 1e-4


@pytest.mark.parametrize("negative", ["Neg(l)", "Mul(l, minus)", "Sub(zero, l)"])
@pytest.mark.parametrize("form", ["node", "log of softmax", "log-sum-exp"])
def test_negative_logarithms_are_not_scores(form, negative):
    """-log p, a loss of each class: the likeliest class has the smallest."""
    proto, found = concluded(f"{LOG_SOFTMAX[form].replace('y =', 'l =')} y = {negative}")
    assert (found.kind, found.classes, found.told) == ("classes", 5, True)
    assert (found.logits, found.scores, found.activation) == ("z", "z", None)
    assert "negative logarithms" in found.reason
    net, photo, losses = loaded(proto)
    top = net.predict(photo, top=5)[0]
    assert [one.index for one in top] == np.argsort(losses).tolist()
    np.testing.assert_allclose([one.probability for one in top], np.exp(-np.sort(losses)), rtol=1e-4)


@pytest.mark.parametrize("form", ["half tanh", "1/(1+exp(-x))"])
def test_pieces_between_quantisers(form):
    """Each value of a QDQ file passes a QuantizeLinear and a DequantizeLinear; so may constants."""
    quantised = r"\1_0 = \2 \1_1 = QuantizeLinear(\1_0, step, point) \1 = DequantizeLinear(\1_1, step, point)"
    text = re.sub(r"(\w+) = ((?:Neg|Exp|Add|Tanh)\([^)]*\))", quantised, SIGMOID[form])
    for name in ("one", "half"):
        text = f"{name}_real = DequantizeLinear({name}_code, unit, point) " + re.sub(
            rf"\b{name}\b", f"{name}_real", text
        )
    codes = {"one_code": np.uint8(53), "half_code": np.uint8(28), "unit": np.float32(0.02)}
    _, found = concluded(text, **codes, step=np.float32(0.03), point=np.uint8(3))
    assert (found.logits, found.activation) == ("z", "sigmoid")


def test_softmaxes_over_groups_are_not_one_softmax():
    groups = "a = Reshape(z, groups) p = Softmax <axis = 2> (a) y = Reshape(p, flat6)"
    front = "mean = GlobalAveragePool(image) flat = Flatten(mean) z = MatMul(flat, six) "
    six = RNG.standard_normal((3, 6)).astype(np.float32)
    _, found = concluded(groups, front, six=six, groups=np.array([-1, 3, 2]), flat6=np.array([-1, 6]))
    assert found.kind == "numbers"
    assert "over 2 each" in found.reason


@pytest.mark.parametrize("outer", ["Softmax", "LogSoftmax"])
def test_a_softmax_of_a_softmax_has_its_order_from_the_first_logits(outer):
    """A trained Softmax with another one around it: gradients by the probabilities in between vanish."""
    _, found = concluded(f"p = Softmax <axis = 1> (z) y = {outer} <axis = 1> (p)")
    assert (found.logits, found.scores) == ("z", "y")
    assert found.activation == {"Softmax": "softmax", "LogSoftmax": "log_softmax"}[outer]
