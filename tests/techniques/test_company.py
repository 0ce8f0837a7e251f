"""A picture's result does not depend on the pictures beside it, nor on how many go through at once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import networks
import numpy as np
import onnx
import pytest

import onnxviz


def dynamic() -> onnx.ModelProto:
    """A network whose int8 ranges are measured while it runs, over the whole tensor: its batch mixes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        onnx.save(networks.tiny_cnn(), before)
        quantize_dynamic(before, after, weight_type=QuantType.QInt8)
        return onnx.load(after)


FILES = {"float": networks.tiny_cnn, "dynamic int8": dynamic}


@pytest.fixture(scope="module", params=FILES)
def network(request):
    return onnxviz.load(FILES[request.param](), preprocess="imagenet", provider="cpu")


def pictures() -> list[np.ndarray]:
    """A dull picture and one that is black and white: of other ranges."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (2, 8, 8, 3)).repeat(4, axis=1).repeat(4, axis=2)
    return [(small[0] // 8 + 110).astype(np.uint8), np.where(small[1] > 128, 255, 0).astype(np.uint8)]


DULL, LOUD = pictures()

# For one picture of several: what a technique finds for DULL, given this list and this batch.
MANY = {
    "probabilities": lambda net, images, batch: net.probabilities(net.prepare(images), batch=batch)[0],
    "activations": lambda net, images, batch: net.activations(images, ["logits"], batch=batch)["logits"][0],
    "saliency": lambda net, images, batch: onnxviz.saliency(net, images, target=1, batch=batch)[0].values,
    "smoothgrad": lambda net, images, batch: onnxviz.saliency(
        net, images, method="smoothgrad", target=1, samples=5, batch=batch
    )[0].values,
    "vargrad": lambda net, images, batch: onnxviz.saliency(
        net, images, method="vargrad", target=1, samples=5, batch=batch
    )[0].values,
    "expected-gradients": lambda net, images, batch: onnxviz.saliency(
        net, images, method="expected-gradients", target=1, samples=5, batch=batch
    )[0].values,
    "integrated-gradients": lambda net, images, batch: onnxviz.saliency(
        net, images, method="integrated-gradients", target=1, steps=5, batch=batch
    )[0].values,
    "full-gradient": lambda net, images, batch: onnxviz.saliency(
        net, images, method="full-gradient", target=1, batch=batch
    )[0].values,
    "grad-cam": lambda net, images, batch: onnxviz.cam(net, images, target=1, batch=batch)[0].values,
    "score-cam": lambda net, images, batch: onnxviz.cam(
        net, images, target=1, method="score-cam", batch=batch
    )[0].values,
    "embed": lambda net, images, batch: onnxviz.embed(net, images, batch=batch).values[0],
    "fool": lambda net, images, batch: onnxviz.fool(net, images, method="pgd", target=1, steps=3, seed=5).values[0],
}  # fmt: skip
# For one picture at a time: what it finds with so many runs at once.
ONE = {
    "occlusion": lambda net, batch: onnxviz.occlusion(net, DULL, target=1, window=8, stride=4, batch=batch),
    "rise": lambda net, batch: onnxviz.rise(net, DULL, target=1, masks=24, grid=4, batch=batch),
}


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("technique", MANY)
def test_alone_and_in_company(technique, network):
    run = MANY[technique]
    alone = run(network, [DULL], 1)
    close(run(network, [DULL, LOUD], None), alone)
    close(run(network, [DULL, LOUD, LOUD, LOUD, DULL], 8), alone)


@pytest.mark.parametrize("technique", ONE)
def test_any_batch(technique, network):
    alone = ONE[technique](network, 1)
    for batch in (None, 8):
        close(ONE[technique](network, batch).values, alone.values)


def test_the_manifest_says_why(network):
    found = onnxviz.occlusion(network, DULL, target=1, window=16, stride=8, batch=8)
    told = [text for text in found.manifest["warnings"] if "one at a time" in text]
    mixes = network.alone is not None
    assert len(told) == mixes
    assert found.manifest["parameters"]["batch"] == (1 if mixes else found.manifest["parameters"]["batch"])
    if mixes:
        assert "DynamicQuantizeLinear" in told[0]
