"""An objective's value without its gradient."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from onnxviz import objectives
from onnxviz.errors import ModelUnsuitable, UnknownLayer
from onnxviz.grad.model import value_and_gradient, value_model
from tests import networks
from tests.grad.oracle import session

X = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)


@pytest.mark.parametrize(
    "objective",
    [
        objectives.logit(),
        objectives.logit(objectives.FED),
        2 * objectives.channel("relu1", 3) - objectives.part("pool", 1, 2) + objectives.tv(),
    ],
    ids=str,
)
def test_it_is_the_value_beside_the_gradient(objective):
    model = ir.from_proto(networks.tiny_cnn())
    small, whole = (
        ir.to_proto(one)
        for one in (value_model(model, objective, "image"), value_and_gradient(model, objective))
    )
    assert [output.name for output in small.graph.output] == ["objective"]
    assert len(small.graph.node) < len(whole.graph.node)
    feeds = {"image": X}
    if "target" in {value.name for value in small.graph.input}:
        feeds["target"] = np.array([1, 2, 3])
    found = session(small).run(None, feeds)[0]
    assert found.shape == (3,)
    np.testing.assert_allclose(found, session(whole).run(["objective"], feeds)[0], rtol=1e-5, atol=1e-6)


def test_bytes_stay_bytes():
    """A network that takes bytes is only run: its input needs no gradient."""
    model = value_model(ir.from_proto(networks.tiny_cnn(uint8=True)), objectives.logit(3), "image")
    assert model.graph.inputs[0].dtype == ir.DataType.UINT8
    assert session(ir.to_proto(model)).run(None, {"image": X.astype(np.uint8)})[0].shape == (3,)


def test_an_unknown_layer_is_named():
    with pytest.raises(UnknownLayer, match="relu1"):
        value_model(ir.from_proto(networks.tiny_cnn()), objectives.l2("relu11"), "image")


def test_sums_of_integers_have_a_value_but_no_gradient():
    """What a ConvInteger gives is whole numbers: techniques that only run forwards measure them."""
    m = networks.Maker()
    codes, _, zero = m("DynamicQuantizeLinear", "image", outputs=3)
    weights = np.random.default_rng(1).integers(-50, 50, (4, 3, 3, 3)).astype(np.int8)
    sums = m("ConvInteger", codes, m.constant(weights), zero)
    model = m.model({"image": ("N", 3, 32, 32)}, {m("Cast", sums, to=1): None})
    small = ir.to_proto(value_model(ir.from_proto(model), objectives.channel(sums, 1), "image"))
    expected = session(model).run(None, {"image": X})[0][:, 1].mean(axis=(1, 2))
    np.testing.assert_allclose(session(small).run(None, {"image": X})[0], expected, rtol=1e-5)
    with pytest.raises(ModelUnsuitable, match="INT32"):
        value_and_gradient(ir.from_proto(model), objectives.channel(sums, 1))
