"""One network object does one thing after another: none changes it, and none changes what the next one gives."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxviz
from onnxviz.graph.dynamic_batch import free_batch
from onnxviz.graph.normalise import normalise
from onnxviz.graph.surgery import cut, expose
from onnxviz.objectives import logit
from tests import networks
from tests.techniques import made

PICTURES = [np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8) for i in range(4)]
PICTURE = PICTURES[0]

CHEAP = {
    **{
        name: {"target": 1}
        for name in ("saliency", "full-gradient", "guided", "occlusion", "rise", "ascent", "fool")
    },
    **{name: {"target": 1, "layer": "relu2"} for name in ("cam", "score-cam")},
    "invert": {"layers": "relu1"},
}
OPERATIONS = {
    **{name: lambda net, name=name: made(name, net, PICTURE, **CHEAP[name]).values for name in CHEAP},
    "gradient by a layer": lambda net: net.value_and_gradient(logit(1), wrt="relu1")(net.prepare(PICTURE))[1],
    "activations": lambda net: net.activations(PICTURES, ["relu1"])["relu1"],
    "graph copies": lambda net: [
        ir.serde.serialize_model(copy).SerializeToString(deterministic=True)
        for copy in (
            normalise(net.model),
            expose(net.model),
            free_batch(net.model),
            cut(net.model, ["relu1"]),
        )
    ],
    "predict": lambda net: np.array([one.probability for one in net.predict(PICTURE)[0]]),
    "patches": lambda net: onnxviz.patches(net, PICTURES, "relu1", top=2).values,
    "embed": lambda net: onnxviz.embed(net, PICTURES).values,
    "inspect": lambda net: np.array([layer.macs for layer in net.layers]),
}


FILES = {
    "half": lambda: networks.fp16(networks.tiny_cnn()),
    "half, fixed batch": lambda: networks.fp16(networks.tiny_cnn(batch=1)),
    "uint8 in": lambda: networks.tiny_cnn(uint8=True),
    "int8": lambda: networks.qdq(networks.tiny_cnn()),
}


def fingerprint(net) -> bytes:
    return ir.serde.serialize_model(net.model).SerializeToString(deterministic=True)


@pytest.fixture(scope="module", params=FILES)
def file(request):
    """With the type and shape of each intermediate value declared, as exporters write it."""
    return onnx.shape_inference.infer_shapes(FILES[request.param](), data_prop=True)


@pytest.fixture(scope="module")
def fresh(file):
    """Each operation's result on a network object of its own, or the error that it raises."""
    return {name: outcome(name, onnxviz.load(file, preprocess="unit")) for name in OPERATIONS}


def outcome(name, net):
    try:
        return OPERATIONS[name](net)
    except onnxviz.errors.OnnxVizError as error:
        return str(error)


def test_one_after_another_gives_what_fresh_networks_give(file, fresh):
    net = onnxviz.load(file, preprocess="unit")
    before = fingerprint(net)
    for name in OPERATIONS:
        found = outcome(name, net)
        assert fingerprint(net) == before, name
        if isinstance(found, np.ndarray):
            np.testing.assert_array_equal(found, fresh[name], err_msg=name)
        else:
            assert found == fresh[name], name


def test_every_operation_runs_on_every_file(fresh):
    assert not {name: found for name, found in fresh.items() if isinstance(found, str)}
