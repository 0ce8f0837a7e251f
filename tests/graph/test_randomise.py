"""Random weights in chosen layers, the rest untouched."""

from __future__ import annotations

import networks
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxviz.errors import UnknownLayer
from onnxviz.graph.randomise import randomise, weighted


def weights(model: ir.Model) -> dict[str, np.ndarray]:
    """The weights by the layer that they belong to."""
    return {
        node.outputs[0].name: node.inputs[1].const_value.numpy()
        for node in model.graph
        if node.op_type in ("Conv", "Gemm")
    }


@pytest.fixture
def model() -> ir.Model:
    return ir.from_proto(networks.tiny_cnn())


def test_layers_are_listed_from_the_head_down(model) -> None:
    assert weighted(model) == ["logits", "conv2", "conv1"]


def test_only_the_chosen_layers_change_and_keep_their_spread(model) -> None:
    before = {name: array.copy() for name, array in weights(model).items()}
    made = randomise(model, ["conv2"], seed=1)
    after = weights(made)
    for name in ("conv1", "logits"):
        np.testing.assert_array_equal(after[name], before[name])
    assert abs(np.corrcoef(after["conv2"].ravel(), before["conv2"].ravel())[0, 1]) < 0.1
    assert after["conv2"].std() == pytest.approx(before["conv2"].std(), rel=0.1)
    assert after["conv2"].dtype == np.float32
    for name, array in weights(model).items():  # the given model is left as it was
        np.testing.assert_array_equal(array, before[name])
    onnx.checker.check_model(ir.to_proto(made), full_check=True)


def test_cascades_share_their_draws_and_seeds_tell_them_apart(model) -> None:
    one, two, every = (
        weights(randomise(model, layers, seed=1)) for layers in (["logits"], ["logits", "conv2"], None)
    )
    np.testing.assert_array_equal(one["logits"], two["logits"])
    assert not np.array_equal(one["logits"], weights(randomise(model, ["logits"], seed=2))["logits"])
    np.testing.assert_array_equal(every["conv2"], two["conv2"])
    assert not np.array_equal(every["conv1"], two["conv1"])


def test_weights_listed_as_inputs_are_found() -> None:
    """As files of IR version 3 list them."""
    model = ir.from_proto(networks.light("squeezenet"))
    names = weighted(model)
    assert len(names) == 26
    made = randomise(model, names[:1])
    assert len(list(made.graph)) == len(list(model.graph))


def test_an_unknown_layer_is_a_typed_error(model) -> None:
    with pytest.raises(UnknownLayer, match="did you mean 'conv2'"):
        randomise(model, ["conv3"])
