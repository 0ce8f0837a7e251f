"""One network object does one thing after another: none changes it, and none changes what the next one gives."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxviz
from onnxviz.graph.normalise import normalise
from onnxviz.graph.surgery import cut, expose, free_batch
from onnxviz.objectives import logit
from tests import networks

PICTURES = [np.random.default_rng(i).integers(0, 256, (32, 32, 3), dtype=np.uint8) for i in range(4)]
PICTURE = PICTURES[0]

OPERATIONS = {
    "saliency": lambda net: onnxviz.saliency(net, PICTURE, target=1).values,
    "full-gradient": lambda net: onnxviz.saliency(net, PICTURE, target=1, method="full-gradient").values,
    "guided": lambda net: onnxviz.saliency(net, PICTURE, target=1, method="guided").values,
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
    "occlusion": lambda net: onnxviz.occlusion(net, PICTURE, target=1, window=8, stride=8).values,
    "rise": lambda net: onnxviz.rise(net, PICTURE, target=1, masks=16, seed=1).values,
    "patches": lambda net: onnxviz.patches(net, PICTURES, "relu1", top=2).values,
    "embed": lambda net: onnxviz.embed(net, PICTURES).values,
    "cam": lambda net: onnxviz.cam(net, PICTURE, target=1, layer="relu2").values,
    "score-cam": lambda net: onnxviz.cam(net, PICTURE, target=1, layer="relu2", method="score-cam").values,
    "ascent": lambda net: onnxviz.ascent(net, target=1, steps=2, seed=1).values,
    "invert": lambda net: onnxviz.invert(net, PICTURE, "relu1", steps=2, seed=1).values,
    "fool": lambda net: onnxviz.fool(net, PICTURE, target=1, steps=2, seed=1).values,
    "inspect": lambda net: np.array([layer.macs for layer in net.layers]),
}


def with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The file with the type and shape of each intermediate value declared, as exporters write it."""
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


FILES = {
    "half": lambda: with_shapes(networks.fp16(networks.tiny_cnn())),
    "half, fixed batch": lambda: with_shapes(networks.fp16(networks.tiny_cnn(batch=1))),
    "uint8 in": lambda: with_shapes(networks.tiny_cnn(uint8=True)),
    "int8": lambda: with_shapes(networks.qdq(networks.tiny_cnn())),
}


def fingerprint(net) -> bytes:
    return ir.serde.serialize_model(net.model).SerializeToString(deterministic=True)


@pytest.fixture(scope="module", params=FILES)
def file(request):
    return FILES[request.param]()


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
