"""A picture's result does not depend on the pictures beside it, nor on how many go through at once."""

from __future__ import annotations

import tempfile
from pathlib import Path

import networks
import numpy as np
import onnx
import pytest

import onnxviz
from onnxviz import objectives
from onnxviz.errors import ModelUnsuitable, UsageError
from onnxviz.synthesis.machine import Machine
from onnxviz.synthesis.parametrise import Fourier
from onnxviz.synthesis.transforms import Jitter
from onnxviz.synthesis.updates import Adam
from tests.techniques import SAMPLED, made


def dynamic(batch: int | str = "N") -> onnx.ModelProto:
    """A network whose int8 ranges are measured while it runs, over the whole tensor: its batch mixes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "a.onnx", Path(folder) / "b.onnx"
        onnx.save(networks.tiny_cnn(batch=batch), before)
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
    "embed": lambda net, images, batch: onnxviz.embed(net, images, batch=batch).values[0],
    "fool": lambda net, images, _: made("fool", net, images, method="pgd", target=1, seed=5).values[0],
    **{
        name: lambda net, images, batch, name=name: made(name, net, images, target=1, batch=batch)[0].values
        for name in ("saliency", "smoothgrad", "vargrad", "expected-gradients", "integrated-gradients",
                     "full-gradient", "grad-cam", "score-cam")
    },
}  # fmt: skip


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("technique", MANY)
def test_alone_and_in_company(technique, network):
    run = MANY[technique]
    alone = run(network, [DULL], 1)
    close(run(network, [DULL, LOUD], None), alone)
    close(run(network, [DULL, LOUD, LOUD, LOUD, DULL], 8), alone)


@pytest.mark.parametrize("technique", ["occlusion", "rise"])
def test_any_batch(technique, network):
    """One picture, so many runs at once."""
    alone, *others = (made(technique, network, DULL, target=1, batch=batch).values for batch in (1, None, 8))
    for found in others:
        close(found, alone)


def test_the_manifest_says_why(network):
    found = onnxviz.occlusion(network, DULL, target=1, window=16, stride=8, batch=8)
    told = [text for text in found.manifest["warnings"] if "one at a time" in text]
    mixes = network.alone is not None
    assert len(told) == mixes
    assert found.manifest["parameters"]["batch"] == (1 if mixes else found.manifest["parameters"]["batch"])
    if mixes:
        assert "DynamicQuantizeLinear" in told[0]


# --- pictures that are made -----------------------------------------------------------------------


def climbed(net, targets, **options) -> np.ndarray:
    return onnxviz.ascent(net, target=targets, steps=6, size=32, seed=5, **options).values


@pytest.mark.parametrize("preset", ["lucid", "lecture"])
def test_ascent_alone_and_in_company(preset, network):
    """Each picture by the seed and its own place in the list, whatever is made beside it and however many at once."""
    noisy = {"deviation": 0.1} if preset == "lecture" else {}
    alone = climbed(network, [3], preset=preset, **noisy)[0]
    many = climbed(network, [3, 1, 2, 0, 4], preset=preset, **noisy)
    correlated(many[0], alone)
    for batch in (1, 2, 8):
        again = climbed(network, [3, 1, 2, 0, 4], preset=preset, batch=batch, **noisy)
        for one, other in zip(again, many, strict=True):
            correlated(one, other)
    assert np.abs(many[0] - many[1]).max() > 0.01


def correlated(one: np.ndarray, other: np.ndarray) -> None:
    """Bit for bit where the order of sums allows."""
    assert np.corrcoef(one.ravel(), other.ravel())[0, 1] > 0.9999


def test_ascent_of_one_picture_starts_as_the_seed_says(network):
    """One picture's numbers are those of its machine: start, then every transform, from one generator."""

    def machine(optimiser):
        return Machine(
            network, onnxviz.objectives.logit(3), size=(32, 32), parametrise=Fourier(), transforms=[Jitter(4)],
            optimiser=optimiser,
        )  # fmt: skip

    still, moving = machine(None), machine(Adam())
    rng = np.random.default_rng(7)
    start, first = still.start(rng), still.plan.feeds(rng)
    step = next(moving.run(1, seed=7))
    np.testing.assert_array_equal(step.parameters(), start)
    np.testing.assert_allclose(step.value, still.evaluate(start, first)["value"], rtol=1e-5)


def test_a_file_of_fixed_batch_that_mixes_makes_the_same_pictures():
    """Filled with copies of the one picture at work, its batch is as good as one."""
    fixed = onnxviz.load(dynamic(batch=2), preprocess="imagenet", provider="cpu")
    free = onnxviz.load(dynamic(), preprocess="imagenet", provider="cpu")
    for one, other in zip(climbed(fixed, [3, 1]), climbed(free, [3, 1]), strict=True):
        correlated(one, other)
    values = [onnxviz.saliency(net, [DULL, LOUD], target=1)[0].values for net in (fixed, free)]
    close(values[0], values[1])


def test_what_is_compared_needs_a_batch_that_keeps_pictures_apart():
    """It is not told to take a larger batch, which would not help."""
    net = onnxviz.load(dynamic(), preprocess="imagenet", provider="cpu")
    with pytest.raises(ModelUnsuitable, match="one at a time"):
        climbed(net, [3], copies=2, alignment=1.0)
    compared = net.gradients(objectives.match("logits", np.zeros((2, 10), np.float32)))
    with pytest.raises(UsageError, match="one at a time") as error:
        compared(net.prepare([DULL, LOUD]), batch=2)
    assert "batch=" not in str(error.value)


# --- the same network with its axes the other way round -------------------------------------------


@pytest.fixture(scope="module")
def layouts():
    first, last = networks.tiny_cnn(), networks.tiny_cnn()
    shape = onnx.helper.make_tensor_type_proto(1, ("N", 32, 32, 3))
    last.graph.input[0].type.CopyFrom(shape)
    for node in last.graph.node:
        node.input[:] = ["turned" if name == "image" else name for name in node.input]
    last.graph.node.insert(0, onnx.helper.make_node("Transpose", ["image"], ["turned"], perm=[0, 3, 1, 2]))
    nets = [onnxviz.load(proto, preprocess="imagenet", provider="cpu") for proto in (first, last)]
    assert [net.input.layout for net in nets] == ["NCHW", "NHWC"]
    return nets


SEEDED = {
    **{name: {"target": 1} for name in SAMPLED},
    "integrated-gradients": {"target": 1, "baseline": "noise"},
    "occlusion": {"target": 1, "fill": "noise"},
    "rise": {"target": 1, "fill": "noise"},
    "fool": {"target": 1, "method": "pgd"},
    "ascent": {"target": [1, 2]},
    **{name: {} for name in ("dream", "invert", "texture")},
}


@pytest.mark.parametrize("technique", SEEDED)
def test_the_axes_order_changes_nothing(technique, layouts):
    first, last = (made(technique, net, DULL, seed=2, **SEEDED[technique]).values for net in layouts)
    np.testing.assert_allclose(last, first, rtol=1e-3, atol=1e-4 * np.abs(first).max())
