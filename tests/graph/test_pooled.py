"""Features made inside the graph, against means over whole feature maps."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from onnxviz.errors import ModelUnsuitable, UnknownLayer
from onnxviz.graph.reduce import FEATURES, pooled
from onnxviz.runtime.ort import compile
from tests.features.patch_toys import load, photos

FORMS = {
    "opset 7": {"opset": 7},
    "newest opset": {"opset": 24},
    "fp16": {"dtype": TensorProto.FLOAT16},
    "NHWC": {"layout": "NHWC"},
}


def run(model, net, images):
    return compile(model, provider="cpu")({net.input.name: net.prepare(images)})


@pytest.mark.parametrize("form", FORMS)
def test_a_map_is_averaged_over_its_places(form):
    net, images = load(**FORMS[form]), photos(3)
    got = run(pooled(net.model, "maps", 4), net, images)
    maps = net.activations(images, "maps")["maps"]
    assert list(got) == [FEATURES]
    assert got[FEATURES].dtype == np.float32
    np.testing.assert_allclose(
        got[FEATURES], maps.mean(axis=(2, 3)), rtol=2e-3 if form == "fp16" else 1e-5, atol=1e-3
    )


def test_channels_last_maps_are_averaged_by_channel():
    net, images = load(), photos(3)
    got = run(pooled(net.model, "turned", 4, channels_last=True), net, images)[FEATURES]
    maps = net.activations(images, "turned")["turned"]
    np.testing.assert_allclose(got, maps.mean(axis=(1, 2)), rtol=1e-5)


def test_a_vector_stays_as_it_is_and_outputs_are_kept():
    net, images = load(), photos(3)
    got = run(pooled(net.model, "end", 2, keep=["end"]), net, images)
    np.testing.assert_array_equal(got[next(iter(got))], got["end"])


def test_the_graph_is_valid_and_holds_nothing_behind_the_layer():
    net = load()
    made = pooled(net.model, "active", 4)
    proto = ir.serde.serialize_model(made)
    onnx.checker.check_model(proto, full_check=True)
    assert {node.op_type for node in proto.graph.node} == {
        "Conv",
        "Relu",
        "GlobalAveragePool",
        "Flatten",
        "Identity",
    }
    assert [value.name for value in net.model.graph.outputs] == ["end"]  # the model itself is as it was


def test_what_has_no_features_is_refused():
    net = load()
    with pytest.raises(ModelUnsuitable, match="3 dimensions"):
        pooled(net.model, "maps", 3)
    with pytest.raises(UnknownLayer):
        pooled(net.model, "nowhere", 4)
