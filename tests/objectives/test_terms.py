"""Objectives: each against its formula in numpy, its gradient against central differences; composition; refusals."""

from __future__ import annotations

import operator

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

import onnxviz
from onnxviz import objectives as o
from onnxviz.errors import ModelUnsuitable, UnknownLabel, UnknownLayer, UsageError
from onnxviz.grad.model import value_and_gradient
from tests import networks
from tests.grad import torch_graph
from tests.grad.oracle import session

X = np.random.default_rng(3).standard_normal((3, 3, 32, 32)).astype(np.float32)
MODEL = networks.tiny_cnn()
MODEL.graph.node.append(onnx.helper.make_node("Transpose", ["relu2"], ["turned"], perm=[0, 2, 3, 1]))
RNG = np.random.default_rng(4)
RELU2 = RNG.standard_normal((16, 16, 16)).astype(np.float32)
VECTOR = RNG.standard_normal(16).astype(np.float32)
GRAM = RNG.standard_normal((16, 16)).astype(np.float32)


def layer(name: str) -> np.ndarray:
    model = onnx.ModelProto()
    model.CopyFrom(MODEL)
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
    return session(model).run([name], {"image": X})[0]


def built(objective, model=MODEL, **more) -> onnx.ModelProto:
    """The graph of its value and gradient."""
    return ir.to_proto(value_and_gradient(ir.from_proto(model), objective, **more))


def gram_of(a):
    rows = a.reshape(a.shape[0], a.shape[1], -1)
    return rows @ rows.swapaxes(1, 2) / (rows.shape[1] * rows.shape[2])


def directed(a, power):
    dot = torch.einsum("nchw,c->nhw", a, torch.tensor(VECTOR, dtype=a.dtype))
    cosine = dot / (a.norm(dim=1) * float(np.linalg.norm(VECTOR)) + 1e-12)
    return (dot * cosine.clamp(min=0.1) ** power).mean((1, 2))


def rough(x, beta):
    """Mahendran & Vedaldi 2015, equation 4, averaged."""
    down, right = x[:, :, 1:, :-1] - x[:, :, :-1, :-1], x[:, :, :-1, 1:] - x[:, :, :-1, :-1]
    return ((down**2 + right**2 + (1e-8 if beta != 2 else 0)) ** (beta / 2)).mean((1, 2, 3))


def unlike(a):
    grams = torch.nn.functional.normalize(gram_of(a).flatten(1), dim=1)
    alike = grams @ grams.T
    return -(alike.sum(1) - alike.diagonal()) / (len(a) - 1)


TARGET, GRAMS = (torch.tensor(array, dtype=torch.float64) for array in (RELU2, GRAM))
CASES = {
    "logit": (o.logit(4), lambda v: v["logits"][:, 4]),
    "last logit": (o.logit(-1), lambda v: v["logits"][:, -1]),
    "top logit": (o.logit(), lambda v: v["logits"].amax(1)),
    "probability": (o.logit(4, layer="prob"), lambda v: v["prob"][:, 4]),
    "channel": (o.channel("relu2", 5), lambda v: v["relu2"][:, 5].mean((1, 2))),
    "neuron": (o.neuron("conv2", 5, 2, 3), lambda v: v["conv2"][:, 5, 2, 3]),
    "middle neuron": (o.neuron("conv2", 5), lambda v: v["conv2"][:, 5, 8, 8]),
    "part": (o.part("relu2", slice(2, 5), None, 3), lambda v: v["relu2"][:, 2:5, :, 3].sum((1, 2))),
    "whole": (o.part("relu2"), lambda v: v["relu2"].sum((1, 2, 3))),
    "stepped": (o.part("relu2", slice(None, None, 2)), lambda v: v["relu2"][:, ::2].sum((1, 2, 3))),
    "match": (o.match("relu2", RELU2), lambda v: -0.5 * ((v["relu2"] - TARGET) ** 2).mean((1, 2, 3))),
    "gram": (o.gram("relu2", GRAM), lambda v: -((gram_of(v["relu2"]) - GRAMS) ** 2).mean((1, 2))),
    "tv": (o.tv(), lambda v: rough(v["image"], 2.0)),
    "tv of a layer": (o.tv("relu2"), lambda v: rough(v["relu2"], 2.0)),
    "l2": (o.l2(), lambda v: (v["image"] ** 2).mean((1, 2, 3))),
    "l2 of a layer": (o.l2("relu2"), lambda v: (v["relu2"] ** 2).mean((1, 2, 3))),
    "direction": (o.direction("conv2", VECTOR), lambda v: directed(v["conv2"], 0)),
    "direction with cosine": (o.direction("conv2", VECTOR, 2), lambda v: directed(v["conv2"], 2)),
    "direction of a vector": (
        o.direction("features", VECTOR), lambda v: v["features"] @ torch.tensor(VECTOR, dtype=torch.float64)
    ),
    "whole layer": (o.layer("conv2"), lambda v: (v["conv2"] ** 2).sum((1, 2, 3)) / 2),
    "norm": (o.norm(6), lambda v: (v["image"].abs() ** 6).mean((1, 2, 3))),
    "norm, odd": (o.norm(3, "conv2"), lambda v: (v["conv2"].abs() ** 3).mean((1, 2, 3))),
    "norm, sum": (o.norm(1), lambda v: v["image"].abs().mean((1, 2, 3))),
    "tv, rough": (o.tv(beta=1.0), lambda v: rough(v["image"], 1.0)),
    "tv, smooth": (o.tv("conv2", 3.0), lambda v: rough(v["conv2"], 3.0)),
    "diversity": (o.diversity("relu2"), lambda v: unlike(v["relu2"])),
    "channel, last": (o.channel("turned", 5, last=True), lambda v: v["relu2"][:, 5].mean((1, 2))),
    "neuron, last": (o.neuron("turned", 5, 2, 3, last=True), lambda v: v["relu2"][:, 5, 2, 3]),
    "sum": (
        2 * o.logit(4) - o.tv() * 0.5 + -o.l2("relu2") / 4,
        lambda v: 2 * v["logits"][:, 4] - rough(v["image"], 2.0) / 2 - (v["relu2"] ** 2).mean((1, 2, 3)) / 4,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name: str) -> None:
    objective, expected = CASES[name]
    proto = built(objective)
    onnx.checker.check_model(proto, full_check=True)
    value, gradient = session(proto).run(None, {"image": X})
    assert (value.shape, gradient.shape) == ((3,), X.shape)
    image = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    wanted = expected(torch_graph.run(MODEL, {"image": image}, torch.float64))
    wanted.sum().backward()
    np.testing.assert_allclose(value, wanted.detach().numpy(), rtol=2e-4, atol=1e-5)
    gap = np.linalg.norm(gradient - image.grad.numpy())
    assert gap <= 1e-4 * np.linalg.norm(gradient)


def test_what_is_fed() -> None:
    """A class, activations and a Gram matrix may be inputs of the graph: one graph for every target."""
    proto = built(o.logit(o.FED) + o.match("relu2") + o.gram("relu2") + 0 * o.logit(o.FED))
    feeds = {
        "image": X,
        "target": np.int64([1, 2, 3]),
        "relu2.target": np.stack([RELU2] * 3),
        "relu2.gram": GRAM,
    }
    assert {i.name for i in proto.graph.input} == set(feeds)
    value, _ = session(proto).run(None, feeds)
    expected = layer("logits")[range(3), [1, 2, 3]] - 0.5 * ((layer("relu2") - RELU2) ** 2).mean((1, 2, 3))
    expected -= ((gram_of(layer("relu2")) - GRAM) ** 2).mean((1, 2))
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_a_channel_may_be_fed() -> None:
    """One graph for all channels of a layer, in either layout."""
    proto = built(o.channel("relu2", o.FED) + 10 * o.neuron("turned", o.FED, 2, 3, last=True))
    assert {i.name for i in proto.graph.input} == {"image", "channel"}
    value, _ = session(proto).run(None, {"image": X, "channel": np.int64([1, 2, 3])})
    a = layer("relu2")[np.arange(3), [1, 2, 3]]
    np.testing.assert_allclose(value, a.mean((1, 2)) + 10 * a[:, 2, 3], rtol=1e-4, atol=1e-5)


def test_alignment() -> None:
    """Neighbours weigh 1/2, next but one 1/4; the sum over pictures is minus each pair once."""
    proto = built(o.alignment(), networks.tiny_cnn(batch=3))
    value, gradient = session(proto).run(None, {"image": X})
    pairs = {(i, j): ((X[i] - X[j]) ** 2).mean() / 2 ** (j - i) for i, j in ((0, 1), (1, 2), (0, 2))}
    np.testing.assert_allclose(value.sum(), -sum(pairs.values()), rtol=1e-4)
    np.testing.assert_allclose(value[0], -(pairs[0, 1] + pairs[0, 2]) / 2, rtol=1e-4)
    slope = ((X[1] - X[0]) + (X[2] - X[0]) / 2) / X[0].size
    np.testing.assert_allclose(gradient[0], slope, rtol=1e-3, atol=1e-7)


def test_by_layers_with_activations() -> None:
    """The gradient by several values at once, and values given out beside."""
    proto = built(o.logit(3), wrt=["relu2", "image"], also=["relu2"])
    assert [v.name for v in proto.graph.output] == ["objective", "relu2.gradient", "image.gradient", "relu2"]
    _, by_layer, by_image, activations = session(proto).run(None, {"image": X})
    np.testing.assert_allclose(activations, layer("relu2"), atol=1e-5)
    np.testing.assert_allclose(by_image, session(built(o.logit(3))).run(None, {"image": X})[1], atol=1e-6)
    assert by_layer.shape == activations.shape


REFUSED = {
    "class": (o.logit(10), UnknownLabel, "classes 0 to 9"),
    "layer": (o.l2("relu3"), UnknownLayer, "relu2"),
    "channel": (o.channel("relu2", 16), UsageError, "length 16"),
    "place": (o.neuron("relu2", 0, 16, 0), UsageError, "axis 2"),
    "rank": (o.neuron("logits", 0), ModelUnsuitable, "rank 4"),
    "direction's length": (o.direction("conv2", [1.0, 2.0]), UsageError, "16 channels"),
    "maps": (o.diversity("features"), ModelUnsuitable, "feature maps"),
    "indices": (o.part("logits", 1, 2), UsageError, "1 axes"),
    "a batch": (o.alignment(), ModelUnsuitable, "known size"),
    "neighbours": (o.tv("features"), ModelUnsuitable, "two columns"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    objective, error, text = REFUSED[name]
    with pytest.raises(error, match=text):
        built(objective)


@pytest.mark.parametrize(
    ("make", "given"),
    [
        (o.direction, ["conv2", np.zeros(16)]),
        (o.direction, ["conv2", [np.nan]]),
        (o.direction, ["conv2", VECTOR, -1]),
        (o.tv, [None, 0]),
        (o.norm, [0.5]),
        (o.alignment, [None, 0]),
        (o.logit, ["tabby cat"]),
    ],
)
def test_arguments_that_make_no_sense(make, given) -> None:
    with pytest.raises(UsageError, match=r"expected|needs|net.target\('tabby cat'\)"):
        make(*given)


def test_text() -> None:
    assert str(2 * o.logit(4) - o.tv()) == "2*logit(4) - tv(input)"
    assert repr(2 * o.logit(4) - o.tv()) == "<Objective 2*logit(4) - tv(input)>"
    assert str(o.logit(4)) == "logit(4)"
    assert str(-o.logit(4) + 0.5 * o.logit(3)) == "-logit(4) + 0.5*logit(3)"
    for compose in (operator.add, operator.mul):
        with pytest.raises(TypeError):
            compose(o.logit(1), 3 if compose is operator.add else o.logit(2))


@pytest.mark.parametrize("technique", [onnxviz.saliency, onnxviz.cam, onnxviz.occlusion])
@pytest.mark.parametrize("text", ["channel({0}, 3)", "neuron({0}, 3, 4, 5)"])
def test_channels_are_counted_where_the_layer_has_them(technique, text):
    """Channel 3 of a layer (N, H, W, C) is none of its rows: in a text, and of an object that does not say."""
    photo = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    options = {"window": 4, "stride": 4} if technique is onnxviz.occlusion else {}
    made = []
    for last in (False, True):
        m = networks.Maker(seed=3)
        x = m("Relu", m("Conv", "image", m.random(6, 3, 3, 3), pads=[1] * 4, strides=[2, 2]))
        x = m("Transpose", x, perm=[0, 2, 3, 1]) if last else x
        pooled = m("ReduceMean", x, axes=[1, 2] if last else [2, 3], keepdims=0)
        model = m.model({"image": ("N", 3, 16, 16)}, {m("Gemm", pooled, m.random(5, 6), transB=1): None})
        net = onnxviz.load(model, preprocess="unit", provider="cpu")
        thing = o.channel(x, 3) if text.startswith("channel") else o.neuron(x, 3, 4, 5)
        for objective in (text.format(repr(x)), 2 * thing - thing):
            made.append(technique(net, photo, objective=objective, **options).values)
    largest = np.abs(made[0]).max()
    assert largest > 0
    for other in made[1:]:
        np.testing.assert_allclose(other, made[0], rtol=1e-4, atol=1e-5 * largest)


@pytest.mark.parametrize("given", [3, ["logit(0)"], {"logit": 0}])
@pytest.mark.parametrize("technique", [onnxviz.saliency, onnxviz.cam, onnxviz.occlusion, onnxviz.rise])
def test_what_is_no_objective_is_refused(technique, given):
    net = onnxviz.load(networks.tiny_cnn(), preprocess="unit", provider="cpu")
    with pytest.raises(UsageError, match="got a"):
        technique(net, np.zeros((32, 32, 3), np.uint8), objective=given)


def test_values_that_are_no_layers_have_their_channels_first():
    """An objective may read what `inspect` lists as no layer: an Identity's value, say."""
    net = onnxviz.load(networks.nhwc(), preprocess="unit", provider="cpu")
    assert net.settled(o.channel("nothing", 1)).terms[0][1].last is False
