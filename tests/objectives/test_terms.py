"""Objectives: each against its formula in numpy, its gradient against central differences; composition; refusals."""

from __future__ import annotations

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


def total_variation(x):
    return rough(x, 2.0)


def unlike(a):
    grams = torch.nn.functional.normalize(gram_of(a).flatten(1), dim=1)
    alike = grams @ grams.T
    return -(alike.sum(1) - alike.diagonal()) / (len(a) - 1)


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
    "match": (
        o.match("relu2", RELU2),
        lambda v: -0.5 * ((v["relu2"] - torch.tensor(RELU2)) ** 2).mean((1, 2, 3)),
    ),
    "gram": (
        o.gram("relu2", GRAM),
        lambda v: -((gram_of(v["relu2"]) - torch.tensor(GRAM)) ** 2).mean((1, 2)),
    ),
    "tv": (o.tv(), lambda v: total_variation(v["image"])),
    "tv of a layer": (o.tv("relu2"), lambda v: total_variation(v["relu2"])),
    "l2": (o.l2(), lambda v: (v["image"] ** 2).mean((1, 2, 3))),
    "l2 of a layer": (o.l2("relu2"), lambda v: (v["relu2"] ** 2).mean((1, 2, 3))),
    "direction": (o.direction("conv2", VECTOR), lambda v: directed(v["conv2"], 0)),
    "direction with cosine": (o.direction("conv2", VECTOR, 2), lambda v: directed(v["conv2"], 2)),
    "direction of a vector": (
        o.direction("features", VECTOR),
        lambda v: v["features"] @ torch.tensor(VECTOR, dtype=torch.float64),
    ),
    "whole layer": (o.layer("conv2"), lambda v: (v["conv2"] ** 2).sum((1, 2, 3)) / 2),
    "norm": (o.norm(6), lambda v: (v["image"].abs() ** 6).mean((1, 2, 3))),
    "norm, odd": (o.norm(3, "conv2"), lambda v: (v["conv2"].abs() ** 3).mean((1, 2, 3))),
    "norm, sum": (o.norm(1), lambda v: v["image"].abs().mean((1, 2, 3))),
    "tv, rough": (o.tv(beta=1.0), lambda v: rough(v["image"], 1.0)),
    "tv, smooth": (o.tv("conv2", 3.0), lambda v: rough(v["conv2"], 3.0)),
    "diversity": (o.diversity("relu2"), lambda v: unlike(v["relu2"])),
    "channel, last": (
        o.channel("turned", 5, last=True),
        lambda v: v["relu2"][:, 5].mean((1, 2)),
    ),
    "neuron, last": (o.neuron("turned", 5, 2, 3, last=True), lambda v: v["relu2"][:, 5, 2, 3]),
    "sum": (
        2 * o.logit(4) - o.tv() * 0.5 + -o.l2("relu2") / 4,
        lambda v: (
            2 * v["logits"][:, 4] - total_variation(v["image"]) / 2 - (v["relu2"] ** 2).mean((1, 2, 3)) / 4
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name: str) -> None:
    objective, expected = CASES[name]
    proto = ir.to_proto(value_and_gradient(ir.from_proto(MODEL), objective))
    onnx.checker.check_model(proto, full_check=True)
    engine = session(proto)
    value, gradient = engine.run(None, {"image": X})
    assert value.shape == (3,)
    assert gradient.shape == X.shape
    image = torch.tensor(X, dtype=torch.float64, requires_grad=True)
    wanted = expected(torch_graph.run(MODEL, {"image": image}, torch.float64))
    wanted.sum().backward()
    np.testing.assert_allclose(value, wanted.detach().numpy(), rtol=2e-4, atol=1e-5)
    gap = np.linalg.norm(gradient - image.grad.numpy())
    assert gap <= 1e-4 * np.linalg.norm(gradient)


def test_what_is_fed() -> None:
    """A class, activations and a Gram matrix may be inputs of the graph: one graph for every target."""
    objective = o.logit(o.FED) + o.match("relu2") + o.gram("relu2") + 0 * o.logit(o.FED)
    proto = ir.to_proto(value_and_gradient(ir.from_proto(MODEL), objective))
    feeds = {
        "image": X,
        "target": np.int64([1, 2, 3]),
        "relu2.target": np.broadcast_to(RELU2, (3, *RELU2.shape)),
        "relu2.gram": GRAM,
    }
    assert {i.name for i in proto.graph.input} == set(feeds)
    value, _ = session(proto).run(None, feeds)
    expected = layer("logits")[range(3), [1, 2, 3]] - 0.5 * ((layer("relu2") - RELU2) ** 2).mean((1, 2, 3))
    expected -= ((gram_of(layer("relu2")) - GRAM) ** 2).mean((1, 2))
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_a_channel_may_be_fed() -> None:
    """One graph for all channels of a layer, in either layout."""
    objective = o.channel("relu2", o.FED) + 10 * o.neuron("turned", o.FED, 2, 3, last=True)
    proto = ir.to_proto(value_and_gradient(ir.from_proto(MODEL), objective))
    assert {i.name for i in proto.graph.input} == {"image", "channel"}
    value, _ = session(proto).run(None, {"image": X, "channel": np.int64([1, 2, 3])})
    a = layer("relu2")
    expected = [a[i, c].mean() + 10 * a[i, c, 2, 3] for i, c in enumerate((1, 2, 3))]
    np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-5)


def test_alignment() -> None:
    """Neighbours weigh 1/2, next but one 1/4; the sum over pictures is minus each pair once."""
    model = networks.tiny_cnn(batch=3)
    proto = ir.to_proto(value_and_gradient(ir.from_proto(model), o.alignment()))
    value, gradient = session(proto).run(None, {"image": X})
    pairs = {(i, j): ((X[i] - X[j]) ** 2).mean() / 2 ** (j - i) for i, j in ((0, 1), (1, 2), (0, 2))}
    np.testing.assert_allclose(value.sum(), -sum(pairs.values()), rtol=1e-4)
    np.testing.assert_allclose(value[0], -(pairs[0, 1] + pairs[0, 2]) / 2, rtol=1e-4)
    np.testing.assert_allclose(
        gradient[0], ((X[1] - X[0]) + (X[2] - X[0]) / 2) / X[0].size, rtol=1e-3, atol=1e-7
    )
    with pytest.raises(ModelUnsuitable, match="known size"):
        value_and_gradient(ir.from_proto(MODEL), o.alignment())


def test_by_layers_with_activations() -> None:
    """The gradient by several values at once, and values given out beside."""
    built = value_and_gradient(ir.from_proto(MODEL), o.logit(3), ["relu2", "image"], also=["relu2"])
    proto = ir.to_proto(built)
    assert [v.name for v in proto.graph.output] == ["objective", "relu2.gradient", "image.gradient", "relu2"]
    _, by_layer, by_image, activations = session(proto).run(None, {"image": X})
    np.testing.assert_allclose(activations, layer("relu2"), atol=1e-5)
    alone = ir.to_proto(value_and_gradient(ir.from_proto(MODEL), o.logit(3)))
    np.testing.assert_allclose(by_image, session(alone).run(None, {"image": X})[1], atol=1e-6)
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
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    objective, error, text = REFUSED[name]
    with pytest.raises(error, match=text):
        value_and_gradient(ir.from_proto(MODEL), objective)


@pytest.mark.parametrize(
    "make",
    [
        lambda: o.direction("conv2", np.zeros(16)),
        lambda: o.direction("conv2", [np.nan]),
        lambda: o.direction("conv2", VECTOR, -1),
        lambda: o.tv(beta=0),
        lambda: o.norm(0.5),
        lambda: o.alignment(decay=0),
    ],
)
def test_arguments_that_make_no_sense(make) -> None:
    with pytest.raises(UsageError, match="expected|needs"):
        make()


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_total_variation_is_the_lectures_sum_over_places_with_both_neighbours(beta) -> None:
    """Added up place by place; the last row and column, which lack a neighbour, only serve as neighbours."""
    proto = ir.to_proto(value_and_gradient(ir.from_proto(MODEL), o.tv("conv2", beta)))
    value = session(proto).run(None, {"image": X})[0]
    maps = layer("conv2").astype(np.float64)
    rows, columns = maps.shape[2] - 1, maps.shape[3] - 1
    total = np.zeros(len(maps))
    for i in range(rows):
        for j in range(columns):
            here = maps[:, :, i, j]
            squares = (maps[:, :, i, j + 1] - here) ** 2 + (maps[:, :, i + 1, j] - here) ** 2
            total += (squares ** (beta / 2)).sum(axis=1)
    np.testing.assert_allclose(value, total / (maps.shape[1] * rows * columns), rtol=1e-4)


def test_total_variation_needs_neighbours() -> None:
    with pytest.raises(ModelUnsuitable, match="two columns"):
        value_and_gradient(ir.from_proto(MODEL), o.tv("features"))


def test_a_label_is_no_index() -> None:
    with pytest.raises(UsageError, match=r"net.target\('tabby cat'\)"):
        o.logit("tabby cat")


def test_text() -> None:
    assert str(2 * o.logit(4) - o.tv()) == "2*logit(4) - tv(input)"
    assert repr(2 * o.logit(4) - o.tv()) == "<Objective 2*logit(4) - tv(input)>"
    assert str(o.logit(4)) == "logit(4)"
    assert str(-o.logit(4) + 0.5 * o.logit(3)) == "-logit(4) + 0.5*logit(3)"
    with pytest.raises(TypeError):
        o.logit(1) + 3
    with pytest.raises(TypeError):
        o.logit(1) * o.logit(2)


@pytest.mark.parametrize("technique", [onnxviz.saliency, onnxviz.cam, onnxviz.occlusion])
@pytest.mark.parametrize("text", ["channel({0}, 3)", "neuron({0}, 3, 4, 5)"])
def test_channels_are_counted_where_the_layer_has_them(technique, text):
    """Channel 3 of a layer (N, H, W, C) is none of its rows: in a text, and of an object that does not say."""
    made = {}
    for last in (False, True):
        m = networks.Maker(seed=3)
        x = m("Relu", m("Conv", "image", m.random(6, 3, 3, 3), pads=[1] * 4, strides=[2, 2]))
        x = m("Transpose", x, perm=[0, 2, 3, 1]) if last else x
        layer = x
        pooled = m("ReduceMean", x, axes=[1, 2] if last else [2, 3], keepdims=0)
        out = m("Gemm", pooled, m.random(5, 6), transB=1)
        net = onnxviz.load(
            m.model({"image": ("N", 3, 16, 16)}, {out: None}), preprocess="unit", provider="cpu"
        )
        photo = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        options = {"window": 4, "stride": 4} if technique is onnxviz.occlusion else {}
        made[last] = technique(net, photo, objective=text.format(repr(layer)), **options).values
        thing = o.channel(layer, 3) if text.startswith("channel") else o.neuron(layer, 3, 4, 5)
        same = technique(net, photo, objective=2 * thing - thing, **options).values
        np.testing.assert_allclose(same, made[last], rtol=1e-4, atol=1e-5 * np.abs(made[last]).max())
    assert np.abs(made[False]).max() > 0
    np.testing.assert_allclose(made[True], made[False], rtol=1e-4, atol=1e-5 * np.abs(made[False]).max())


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
