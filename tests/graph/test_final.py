"""Softmax and sigmoid are recognised however they are written down, and nothing else is taken for them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from networks import Maker
from onnx import numpy_helper

import onnxviz
from onnxviz.graph.head import head


def logits(m):
    """(N, 5)"""
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4, strides=[2, 2]))
    return m("Gemm", m("Flatten", m("GlobalAveragePool", x)), m.random(5, 8), m.random(5), transB=1)


def one(value):
    return np.float32(value)


def total(m, x, op="ReduceSum", axes=1):
    if m.opset >= 13 and op == "ReduceSum":
        return m(op, x, m.constant([axes]), keepdims=1)
    return m(op, x, axes=[axes], keepdims=1)


def shifted(m, z):
    return m("Sub", z, m("ReduceMax", z, axes=[1], keepdims=1))


def exp_div(m, z):
    e = m("Exp", z)
    return m("Div", e, total(m, e))


def shift_exp_div(m, z):
    e = m("Exp", shifted(m, z))
    return m("Div", e, total(m, e))


def shift_exp_reciprocal(m, z):
    e = m("Exp", shifted(m, z))
    return m("Mul", m("Reciprocal", total(m, e)), e)


def shift_exp_power(m, z):
    e = m("Exp", shifted(m, z))
    return m("Mul", e, m("Pow", total(m, e), m.constant(one(-1))))


def two_exps(m, z):
    return m("Div", m("Exp", shifted(m, z)), total(m, m("Exp", shifted(m, z))))


def guarded(m, z):
    e = m("Exp", shifted(m, z))
    return m("Div", e, m("Add", total(m, e), m.constant(one(1e-9))))


def unsqueezed(m, z):
    e = m("Exp", shifted(m, z))
    return m("Div", e, m("Unsqueeze", m("ReduceSum", e, m.constant([1]), keepdims=0), m.constant([1])))


def l1(m, z):
    e = m("Exp", shifted(m, z))
    return m("Div", e, m("ReduceL1", e, axes=[1], keepdims=1))


def renormalised(m, z):
    p = m("Softmax", z)
    return m("Div", p, total(m, p))


def by_ones(columns):
    def form(m, z):
        e = m("Exp", shifted(m, z))
        return m("Div", e, m("MatMul", e, m.constant(np.ones((5, columns), np.float32))))

    return form


def by_gemm(m, z):
    e = m("Exp", shifted(m, z))
    return m("Div", e, m("Gemm", e, m.constant(np.ones((1, 5), np.float32)), transB=1))


def by_mean(m, z):
    e = m("Exp", shifted(m, z))
    return m("Div", e, m("Mul", m("ReduceMean", e, axes=[1], keepdims=1), m.constant(one(5))))


SOFTMAX = {
    "sum by ones": by_ones(1),
    "sums by ones": by_ones(5),
    "sum by Gemm": by_gemm,
    "mean times number": by_mean,
    "node": lambda m, z: m("Softmax", z),
    "exp-div": exp_div,
    "shift-exp-div": shift_exp_div,
    "reciprocal": shift_exp_reciprocal,
    "power": shift_exp_power,
    "two exps": two_exps,
    "epsilon": guarded,
    "unsqueezed": unsqueezed,
    "l1": l1,
    "renormalised": renormalised,
    "exp-log-softmax": lambda m, z: m("Exp", m("LogSoftmax", z)),
    "exp-log-of-softmax": lambda m, z: m("Exp", m("Log", m("Softmax", z))),
    "clip": lambda m, z: m("Clip", m("Softmax", z), m.constant(one(1e-7)), m.constant(one(1 - 1e-7))),
    "max-min": lambda m, z: m("Min", m("Max", m("Softmax", z), m.constant(one(0))), m.constant(one(1))),
    "cast": lambda m, z: m("Cast", m("Cast", m("Softmax", z), to=10), to=1),
    "epsilon behind": lambda m, z: m("Add", m("Softmax", z), m.constant(one(1e-8))),
    "times one": lambda m, z: m("Mul", m("Softmax", z), m.constant(np.ones((1, 1), np.float32))),
    "reshaped": lambda m, z: m("Reshape", shift_exp_div(m, z), m.constant([-1, 5])),
    "clip of pieces": lambda m, z: m("Clip", shift_exp_div(m, z), m.constant(one(0)), m.constant(one(1))),
}
LOG_SOFTMAX = {
    "node": lambda m, z: m("LogSoftmax", z),
    "log of softmax": lambda m, z: m("Log", m("Softmax", z)),
    "log of clip": lambda m, z: m("Log", m("Clip", m("Softmax", z), m.constant(one(1e-12)))),
    "log of epsilon": lambda m, z: m("Log", m("Add", m("Softmax", z), m.constant(one(1e-10)))),
    "log-sum-exp": lambda m, z: m("Sub", z, m("ReduceLogSumExp", z, axes=[1], keepdims=1)),
    "shift-log-sum-exp": lambda m, z: m("Sub", shifted(m, z), m("Log", total(m, m("Exp", shifted(m, z))))),
    "max plus log": lambda m, z: m(
        "Sub",
        z,
        m("Add", m("ReduceMax", z, axes=[1], keepdims=1), m("Log", total(m, m("Exp", shifted(m, z))))),
    ),
    "log-sum": lambda m, z: m("Sub", z, m("Log", total(m, m("Exp", z)))),
    "log of pieces": lambda m, z: m("Log", shift_exp_div(m, z)),
    "log of ones": lambda m, z: m(
        "Sub",
        shifted(m, z),
        m("Log", m("MatMul", m("Exp", shifted(m, z)), m.constant(np.ones((5, 1), np.float32)))),
    ),
}
SIGMOID = {
    "node": lambda m, z: m("Sigmoid", z),
    "1/(1+exp(-x))": lambda m, z: m(
        "Div", m.constant(one(1)), m("Add", m.constant(one(1)), m("Exp", m("Neg", z)))
    ),
    "reciprocal": lambda m, z: m(
        "Reciprocal", m("Add", m("Exp", m("Mul", z, m.constant(one(-1)))), m.constant(one(1)))
    ),
    "0-x": lambda m, z: m(
        "Reciprocal", m("Add", m("Exp", m("Sub", m.constant(one(0)), z)), m.constant(one(1)))
    ),
    "half tanh": lambda m, z: m(
        "Mul",
        m.constant(one(0.5)),
        m("Add", m.constant(one(1)), m("Tanh", m("Mul", z, m.constant(one(0.5))))),
    ),
    "half plus half tanh": lambda m, z: m(
        "Add",
        m("Mul", m("Tanh", m("Div", z, m.constant(one(2)))), m.constant(one(0.5))),
        m.constant(one(0.5)),
    ),
    "(tanh + 1) / 2": lambda m, z: m(
        "Div",
        m("Add", m("Tanh", m("Mul", z, m.constant(one(0.5)))), m.constant(one(1))),
        m.constant(one(2)),
    ),
    "tanh / 2 + half": lambda m, z: m(
        "Add",
        m("Div", m("Tanh", m("Div", z, m.constant(one(2)))), m.constant(one(2))),
        m.constant(one(0.5)),
    ),
    "clip": lambda m, z: m("Clip", m("Sigmoid", z), m.constant(one(1e-6)), m.constant(one(1 - 1e-6))),
    "exp of log": lambda m, z: m("Exp", m("Log", m("Sigmoid", z))),
}


def concluded(m, out, **options):
    proto = m.model({"image": ("N", 3, 16, 16)}, {out: None})
    return proto, head(ir.from_proto(proto), **options)


@pytest.mark.parametrize(
    ("form", "activation"),
    [
        *((one, "softmax") for one in SOFTMAX.values()),
        *((one, "log_softmax") for one in LOG_SOFTMAX.values()),
        *((one, "sigmoid") for one in SIGMOID.values()),
    ],
    ids=[
        *(f"softmax {k}" for k in SOFTMAX),
        *(f"log {k}" for k in LOG_SOFTMAX),
        *(f"sigmoid {k}" for k in SIGMOID),
    ],
)
def test_every_spelling_ends_in_its_logits(form, activation):
    m = Maker(opset=17)
    z = logits(m)
    proto, found = concluded(m, form(m, z))
    assert found.logits == z
    assert (found.kind, found.classes, found.told) == ("classes", 5, True)
    if found.scores == z:  # computed again from the logits, since the file's own form overflows
        assert found.activation is None and "overflows" in found.reason
    else:
        assert found.activation == activation
    # The oracle: what ONNX Runtime gives for the output is that function of the logits.
    from onnxviz.graph.surgery import cut

    whole = ir.serde.serialize_model(cut(ir.from_proto(proto), [z, found.output]))
    x = np.random.default_rng(0).standard_normal((2, 3, 16, 16), dtype=np.float32)
    session = onnxruntime.InferenceSession(whole.SerializeToString())
    rows, given = session.run(None, {"image": x})
    rows = rows.astype(np.float64)
    exact = np.exp(rows) / np.exp(rows).sum(axis=1, keepdims=True)
    wanted = {"softmax": exact, "log_softmax": np.log(exact), "sigmoid": 1 / (1 + np.exp(-rows))}[activation]
    assert np.abs(given - wanted).max() < 1e-3


@pytest.mark.parametrize(
    "form",
    [
        lambda m, z: m("HardSigmoid", z),
        lambda m, z: m("Clip", z, m.constant(one(0)), m.constant(one(1))),
        lambda m, z: m("Clip", m("Softmax", z), m.constant(one(0.3)), m.constant(one(0.6))),
        lambda m, z: m("Mul", m("Softmax", z), m.constant(one(100))),
        lambda m, z: m("Div", m("Exp", z), m.constant(one(3))),
        lambda m, z: m("Div", m("Exp", z), total(m, m("Exp", m("Neg", z)))),
        lambda m, z: m("Div", z, total(m, z)),
        lambda m, z: m("Div", m("Exp", z), m("MatMul", m("Exp", z), m.constant(np.eye(5, dtype=np.float32)))),
        lambda m, z: m(
            "Div", m("Exp", z), m("MatMul", m("Exp", z), m.constant(np.full((5, 1), 2, np.float32)))
        ),
        lambda m, z: m(
            "Div", m("Exp", z), m("Mul", m("ReduceMean", m("Exp", z), axes=[1]), m.constant(one(4)))
        ),
        lambda m, z: m("Reciprocal", m("Add", m.constant(one(2)), m("Exp", m("Neg", z)))),
        lambda m, z: m("Tanh", z),
        lambda m, z: m("Sub", z, m("ReduceMax", z, axes=[1], keepdims=1)),
    ],
)
def test_what_looks_like_it_and_is_not(form):
    m = Maker(opset=17)
    _, found = concluded(m, form(m, logits(m)))
    assert found.activation is None


def beside_complement(m, s):
    return m("Concat", m("Sub", m.constant(one(1)), s), s, axis=1)


def stacked(m, s):
    flat = m("Squeeze", s, m.constant([1]))
    both = m("Sub", m.constant(one(1)), flat), flat
    return m("Concat", *(m("Unsqueeze", x, m.constant([1])) for x in both), axis=1)


@pytest.mark.parametrize("form", [beside_complement, stacked])
def test_a_sigmoid_behind_its_complement_is_one_score_of_two_classes(form):
    """Its logit moves where both probabilities are saturated."""
    m = Maker(opset=17)
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4))
    pooled = m("Flatten", m("GlobalAveragePool", x))
    z = m("Add", m("Gemm", pooled, m.random(1, 8), transB=1), m.constant(np.full(1, 40, np.float32)))
    out = form(m, m("Sigmoid", z))
    proto, found = concluded(m, out)
    assert (found.kind, found.classes, found.logits, found.activation) == ("binary", 2, z, "sigmoid")
    net = onnxviz.load(proto, preprocess="unit", provider="cpu", labels=["no", "yes"])
    photo = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    given = net.run(net.prepare(photo), [out])[out][0]
    best = net.predict(photo, top=2)[0]
    assert [one.label for one in best] == ["yes", "no"]
    np.testing.assert_allclose([one.probability for one in best], given[::-1], atol=1e-6)
    assert onnxviz.saliency(net, photo, target="yes").values.max() > 1e-4


@pytest.mark.parametrize("negative", ["Neg", "Mul", "Sub"])
@pytest.mark.parametrize("form", ["node", "log of softmax", "log-sum-exp"])
def test_negative_logarithms_are_not_scores(form, negative):
    """-log p, a loss of each class: the likeliest class has the smallest."""
    m = Maker(opset=17)
    z = logits(m)
    p = LOG_SOFTMAX[form](m, z)
    out = {
        "Neg": lambda: m("Neg", p),
        "Mul": lambda: m("Mul", p, m.constant(one(-1))),
        "Sub": lambda: m("Sub", m.constant(one(0)), p),
    }[negative]()
    proto, found = concluded(m, out)
    assert (found.kind, found.classes, found.told) == ("classes", 5, True)
    assert (found.logits, found.scores, found.activation) == (z, z, None)
    assert "negative logarithms" in found.reason
    net = onnxviz.load(proto, preprocess="unit", provider="cpu")
    photo = np.random.default_rng(1).integers(0, 256, (16, 16, 3), np.uint8)
    losses = net.run(net.prepare(photo), [out])[out][0].astype(np.float64)
    top = net.predict(photo, top=5)[0]
    assert [one.index for one in top] == np.argsort(losses).tolist()
    np.testing.assert_allclose([one.probability for one in top], np.exp(-np.sort(losses)), rtol=1e-4)


@pytest.mark.parametrize("form", ["half tanh", "1/(1+exp(-x))"])
def test_pieces_between_quantisers(form):
    """Each value of a QDQ file passes a QuantizeLinear and a DequantizeLinear; so may constants."""
    m = Maker(opset=17)
    scale, zero = m.constant(one(0.03)), m.constant(np.array(3, np.uint8))
    z = logits(m)
    out = SIGMOID[form](m, z)
    stored = m.constant(np.array(53, np.uint8)), m.constant(one(0.02)), zero  # 1
    half = m.constant(np.array(28, np.uint8)), m.constant(one(0.02)), zero
    ones = {t.name: t for t in m.weights}
    nodes, m.nodes = m.nodes, []
    for node in nodes:
        for place, name in enumerate(node.input):
            if name in ones and ones[name].data_type == 1 and not ones[name].dims:
                value = float(numpy_helper.to_array(ones[name]))
                node.input[place] = m("DequantizeLinear", *(stored if value == 1 else half))
        m.nodes.append(node)
        if node.op_type in ("Neg", "Exp", "Add", "Tanh"):
            made = m("DequantizeLinear", m("QuantizeLinear", node.output[0], scale, zero), scale, zero)
            for later in nodes:
                later.input[:] = [made if name == node.output[0] else name for name in later.input]
    _, found = concluded(m, out)
    assert (found.logits, found.activation) == (z, "sigmoid")


def test_softmaxes_over_groups_are_not_one_softmax():
    m = Maker()
    z = m("Gemm", m("Flatten", m("GlobalAveragePool", "image")), m.random(6, 3), transB=1)
    grouped = m("Softmax", m("Reshape", z, m.constant([-1, 3, 2])), axis=2)
    _, found = concluded(m, m("Reshape", grouped, m.constant([-1, 6])))
    assert found.kind == "numbers"
    assert "over 2 each" in found.reason


@pytest.mark.parametrize("outer", ["Softmax", "LogSoftmax"])
def test_a_softmax_of_a_softmax_has_its_order_from_the_first_logits(outer):
    """A trained Softmax with another one around it: gradients by the probabilities in between vanish."""
    m = Maker(opset=17)
    z = logits(m)
    out = m(outer, m("Softmax", z, axis=1), axis=1)
    _, found = concluded(m, out)
    assert (found.logits, found.scores) == (z, out)
    assert found.activation == {"Softmax": "softmax", "LogSoftmax": "log_softmax"}[outer]
