"""The real numbers behind a quantised activation: the same network, and a value that can be used."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from processors import needs_whole_sums

import onnxviz
from onnxviz import objectives
from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.dequantised import dequantised
from onnxviz.graph.normalise import normalise
from tests import networks
from tests.grad.oracle import session


@pytest.fixture(scope="module")
def model() -> ir.Model:
    return normalise(ir.from_proto(networks.qoperator(networks.tiny_cnn())))


def values(model: ir.Model) -> dict[str, ir.Value]:
    return {value.name: value for node in model.graph for value in node.outputs}


@pytest.mark.parametrize(
    "name", ["conv1_quantized", "pool_quantized", "features_quantized", "logits_quantized"]
)
def test_the_network_computes_the_same_through_them(name, model):
    """Read by DequantizeLinear, by MaxPool in integers, or behind such a MaxPool or Flatten itself."""
    needs_whole_sums()  # what is added moves ONNX Runtime from one kernel to another
    copy = model.clone()
    integers = values(copy)[name]
    real = dequantised(copy.graph, integers)
    assert real.name == name and integers.name == f"{name}/quantised"
    copy.graph.outputs.extend([real, integers])
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32)
    before = session(ir.to_proto(model)).run(None, {"image": x})[0]
    after, given, held = session(ir.to_proto(copy)).run(None, {"image": x})
    np.testing.assert_array_equal(after, before)
    assert given.dtype == np.float32 and held.dtype == np.int8
    assert len(np.unique(given)) == len(np.unique(held)) > 1
    steps = np.polyfit(held.ravel().astype(float), given.ravel().astype(float), 1)
    np.testing.assert_allclose(np.polyval(steps, held.ravel().astype(float)), given.ravel(), atol=1e-5)


def test_what_is_no_quantised_activation_is_left_alone(model):
    copy = model.clone()
    nodes = len(list(copy.graph))
    assert dequantised(copy.graph, values(copy)["relu1"]) is None
    assert dequantised(copy.graph, copy.graph.inputs[0]) is None
    assert len(list(copy.graph)) == nodes


def test_gradients_by_and_of_quantised_layers():
    """The gradient by a quantised layer is what a small step of its real numbers moves the logit by."""
    net = onnxviz.load(networks.qoperator(networks.tiny_cnn()), provider="cpu", preprocess="unit")
    x = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    found = net.gradients(objectives.logit(3), "pool_quantized", also=["pool_quantized", "logits_quantized"])(
        x
    )
    plain = onnxviz.load(networks.tiny_cnn(), provider="cpu", preprocess="unit")
    wanted = plain.gradients(objectives.logit(3), "pool", also=["pool", "logits"])(x)
    assert found["pool_quantized"].shape == wanted["pool"].shape
    np.testing.assert_allclose(found["objective"], found["logits_quantized"][:, 3], rtol=1e-6)
    for one, other in (("pool_quantized.gradient", "pool.gradient"), ("pool_quantized", "pool")):
        assert np.corrcoef(found[one].ravel(), wanted[other].ravel())[0, 1] > 0.95
        assert found[one].std() == pytest.approx(wanted[other].std(), rel=0.2)


def test_integers_that_stand_for_nothing_are_still_refused():
    net = onnxviz.load(networks.tiny_cnn(uint8=True), provider="cpu", preprocess="raw")
    with pytest.raises(ModelUnsuitable, match="UINT8"):
        from onnxviz.grad.model import value_and_gradient

        value_and_gradient(net.model, objectives.logit(3), "image")


def test_half_precision_is_given_out_under_its_own_name():
    net = onnxviz.load(networks.fp16(networks.tiny_cnn()), provider="cpu", preprocess="unit")
    x = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    found = net.gradients(objectives.logit(3), "pool", also=["pool", "logits"])(x)
    assert {"pool", "logits", "pool.gradient", "objective"} <= set(found)
    np.testing.assert_allclose(found["pool"], net.activations(x, ["pool"])["pool"], rtol=2e-2, atol=2e-2)
