"""Gradient attributions on networks whose maps can be worked out by hand, and what every method keeps to."""

from __future__ import annotations

import networks
import numpy as np
import pytest
from networks import Maker
from onnx import TensorProto

import onnxviz
from onnxviz import objectives
from onnxviz.attribution.methods import of
from onnxviz.errors import GradientNotFinite, ImageRejected, ModelUnsuitable, UnknownLabel, UsageError
from onnxviz.progress import Interrupted
from onnxviz.runtime.ort import Program
from tests import toys

# What methods of many samples need so that a test is quick.
QUICK = {
    "smoothgrad": {"samples": 3},
    "smoothgrad-squared": {"samples": 3},
    "vargrad": {"samples": 3},
    "integrated-gradients": {"steps": 3},
    "expected-gradients": {"samples": 3},
}
BOX = np.zeros((12, 12), bool)
BOX[4:8, 6:10] = True

METHODS = of("saliency")


@pytest.fixture(scope="module")
def toy():
    return onnxviz.load(toys.detector(), preprocess="raw", labels=["red", "green"], provider="cpu")


def test_the_map_is_the_gradient(toy) -> None:
    """The red logit is the mean red of 16 pixels, / 64: each moves it by 1/1024, no other pixel does."""
    found = onnxviz.saliency(toy, toys.photo(), target="red")
    np.testing.assert_allclose(found.values, np.where(BOX, 1 / 1024, 0), rtol=1e-6)
    assert (found.target, found.label, found.method, found.signed) == (0, "red", "saliency", False)
    assert found.score == pytest.approx(toys.softmax(toys.logits(toys.photo()[None]))[0, 0], abs=1e-6)
    assert found.manifest["figures"]["objective"] == pytest.approx(
        toys.logits(toys.photo()[None])[0, 0], rel=1e-6
    )


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_shares_add_up_to_the_score_in_both_layouts(layout) -> None:
    net = onnxviz.load(toys.detector(layout=layout), preprocess="raw", layout=layout, provider="cpu")
    picture = toys.photo()
    red = picture[..., 0] * BOX / 1024
    for method in ("input-x-gradient", "integrated-gradients"):
        found = onnxviz.saliency(net, picture, target=0, method=method, **QUICK.get(method, {}))
        np.testing.assert_allclose(found.values, red, rtol=1e-5, atol=1e-9)
        assert found.signed


@pytest.mark.parametrize("method", METHODS)
def test_a_list_gives_what_single_pictures_give(toy, method) -> None:
    pictures = [toys.photo(seed) for seed in range(5)]
    several = onnxviz.saliency(
        toy, pictures, target=[0, 1, "red", None, "green"], method=method, batch=3, **QUICK.get(method, {})
    )
    assert [one.target for one in several] == [0, 1, 0, 0, 1]
    for picture, one in zip(pictures, several, strict=True):
        single = onnxviz.saliency(
            toy, picture, target=one.target, method=method, batch=1, **QUICK.get(method, {})
        )
        np.testing.assert_allclose(one.values, single.values, rtol=1e-4, atol=1e-7)
        assert one.score == pytest.approx(single.score)
        np.testing.assert_array_equal(one.image, picture)


def test_the_input_tensor_counts_as_a_list(toy) -> None:
    x = toy.prepare([toys.photo(0), toys.photo(1)])
    found = onnxviz.saliency(toy, x, target=0)
    assert [one.values.shape for one in found] == [(12, 12)] * 2
    np.testing.assert_array_equal(found[1].image, toys.photo(1))


def test_a_file_of_one_batch_size_gives_the_same() -> None:
    pictures = [toys.photo(seed) for seed in range(3)]
    fixed = onnxviz.load(toys.detector(batch=2), preprocess="raw", provider="cpu")
    free = onnxviz.load(toys.detector(), preprocess="raw", provider="cpu")
    for one, other in zip(
        onnxviz.saliency(fixed, pictures, target=0, method="smoothgrad", samples=3),
        onnxviz.saliency(free, pictures, target=0, method="smoothgrad", samples=3),
        strict=True,
    ):
        np.testing.assert_allclose(one.values, other.values, rtol=1e-6)


@pytest.mark.parametrize("method", ["smoothgrad", "smoothgrad-squared", "vargrad", "expected-gradients"])
def test_what_is_random_comes_from_the_seed(curved, method) -> None:
    picture = toys.photo()
    maps = [
        onnxviz.saliency(curved, picture, target=0, method=method, samples=4, seed=seed).values
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert not np.allclose(maps[0], maps[2], rtol=1e-3, atol=0)


@pytest.fixture(scope="module")
def curved():
    """One class whose score is the mean square of the red pixels, so that the gradient is 2·red/144 / 255."""
    m = Maker()
    red = m("Conv", "image", m.constant(np.eye(3, dtype=np.float32)[:1, :, None, None] / 255))
    pooled = m("GlobalAveragePool", m("Mul", red, red))
    logits = m("Gemm", m("Flatten", pooled), m.constant(np.array([[1.0, -1.0]], np.float32)))
    return onnxviz.load(
        m.model({"image": ("N", 3, 12, 12)}, {logits: ("N", 2)}).SerializeToString(),
        preprocess="raw",
        provider="cpu",
    )


def test_noise_methods_are_moments_of_the_gradient(curved) -> None:
    """The gradient is linear in the input here: the mean over noise is the gradient at the picture plus the noise's
    mean, the variance that of the noise."""
    picture = toys.photo()
    slope = 2 / 144 / 255**2
    spread = 0.2 * (float(picture.max()) - float(picture.min()))
    run = {"samples": 400, "noise": 0.2}
    mean = onnxviz.saliency(curved, picture, target=0, method="smoothgrad", **run).values
    squares = onnxviz.saliency(curved, picture, target=0, method="smoothgrad-squared", **run).values
    variance = onnxviz.saliency(curved, picture, target=0, method="vargrad", **run).values
    red = picture[..., 0].astype(float)
    np.testing.assert_allclose(mean, slope * red, atol=5 * slope * spread / 20)
    np.testing.assert_allclose(squares, mean**2 + variance, rtol=1e-4)
    assert variance.mean() == pytest.approx((slope * spread) ** 2, rel=0.03)


def test_integrated_gradients_of_a_square_is_the_square(curved) -> None:
    """∫ 2αr · r dα = r²: exact already with two points of the quadrature."""
    picture = toys.photo()
    found = onnxviz.saliency(curved, picture, target=0, method="integrated-gradients", steps=2)
    expected = np.square(picture[..., 0] / 255.0) / 144
    np.testing.assert_allclose(found.values, expected, rtol=1e-5)
    figures = found.manifest["figures"]
    assert figures["completeness_error"] < 1e-5
    assert figures["change"] == pytest.approx(expected.sum(), rel=1e-5)


@pytest.mark.parametrize("name", ["black", "grey", "mean", "blur", "noise", "zero"])
def test_named_baselines_are_explained_completely(curved, name) -> None:
    found = onnxviz.saliency(
        curved, toys.photo(), target=0, method="integrated-gradients", steps=3, baseline=name
    )
    figures = found.manifest["figures"]
    assert figures["completeness_error"] < 1e-4
    assert found.manifest["parameters"]["baseline"] == name
    assert found.values.sum() == pytest.approx(figures["change"], rel=1e-4)


def test_a_baseline_may_be_a_picture_or_a_tensor(curved) -> None:
    picture, other = toys.photo(0), toys.photo(1)
    by_picture = onnxviz.saliency(
        curved, picture, target=0, method="integrated-gradients", steps=3, baseline=other
    )
    tensor = curved.prepare(other)[0]
    by_tensor = onnxviz.saliency(
        curved, picture, target=0, method="integrated-gradients", steps=3, baseline=tensor
    )
    np.testing.assert_allclose(by_picture.values, by_tensor.values, atol=1e-8)
    expected = np.square(picture[..., 0] / 255.0) - np.square(other[..., 0] / 255.0)
    np.testing.assert_allclose(by_tensor.values, expected / 144, atol=1e-6)


def test_too_few_steps_are_warned_about(kinked) -> None:
    net, _ = kinked
    found = onnxviz.saliency(net, toys.photo(), target=0, method="integrated-gradients", steps=1)
    assert found.manifest["figures"]["completeness_error"] > 0.05
    assert any("completeness error" in text for text in found.manifest["warnings"])
    fine = onnxviz.saliency(net, toys.photo(), target=0, method="integrated-gradients", steps=64)
    assert fine.manifest["figures"]["completeness_error"] < 0.05
    assert (
        fine.manifest["warnings"] == net.manifest("saliency")["warnings"]
    )  # of the network's own, nothing more


@pytest.fixture(scope="module")
def kinked():
    """A class that answers to red only from 100 on, and another that never answers; and an output that is the size."""
    m = Maker()
    weights = np.zeros((2, 3, 1, 1), np.float32)
    weights[0, 0] = 1 / 255
    bias = np.array([-100 / 255, -9], np.float32)
    fired = m("Relu", m("Conv", "image", m.constant(weights), m.constant(bias)))
    logits = m("Flatten", m("GlobalAveragePool", fired))
    size = m("Cast", m("Shape", "image"), to=TensorProto.FLOAT)
    return onnxviz.load(
        m.model({"image": ("N", 3, 12, 12)}, {logits: ("N", 2), size: (4,)}).SerializeToString(),
        preprocess="raw",
        provider="cpu",
    ), size


def test_expected_gradients_of_given_pictures(curved, tmp_path) -> None:
    """The mean of r² − b² over the baselines, for points enough."""
    from PIL import Image

    picture, others = toys.photo(0), [toys.photo(seed) for seed in (1, 2, 3)]
    for number, other in enumerate(others):
        Image.fromarray(other).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    found = onnxviz.saliency(
        curved, picture, target=0, method="expected-gradients", samples=600, baselines=tmp_path
    )
    expected = np.square(picture[..., 0] / 255.0) - np.mean(
        [np.square(o[..., 0] / 255.0) for o in others], axis=0
    )
    assert np.corrcoef(found.values.ravel(), expected.ravel())[0, 1] > 0.99
    assert found.manifest["figures"]["sum"] == pytest.approx(expected.mean(), rel=0.05)
    assert found.manifest["parameters"]["baselines"] == 3
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageRejected, match="baselines"):
        onnxviz.saliency(curved, picture, method="expected-gradients", baselines=tmp_path / "bad")


def test_other_things_than_classes_can_be_explained(toy) -> None:
    neuron = onnxviz.saliency(toy, toys.photo(), layer="features", channel=1, neuron=(2, 9))
    assert np.argwhere(neuron.values).tolist() == [[2, 9]]
    assert (neuron.target, neuron.label) == (None, "features, channel 1 at (2, 9)")
    difference = objectives.logit(0) - 2 * objectives.logit(1)
    found = onnxviz.saliency(toy, toys.photo(), objective=difference, method="gradient")
    np.testing.assert_allclose(found.values, np.where(BOX, -1 / 1024, 0), rtol=1e-6)
    assert found.score == pytest.approx(found.manifest["figures"]["objective"])


def test_how_far_an_embedding_is_from_another_pictures(toy) -> None:
    """Minus half the mean squared distance of 288 features, each of which is one pixel's red or green."""
    picture, other = toys.photo(0), toys.photo(1)
    wanted = toy.activations(other, "features")["features"]
    found = onnxviz.saliency(toy, picture, objective=objectives.match("features", wanted), method="gradient")
    gap = picture[..., :2].astype(float) - other[..., :2]
    np.testing.assert_allclose(found.values, -gap.sum(axis=2) / 288, atol=1e-5)


def test_a_detectors_box_and_a_segmenters_pixels() -> None:
    """A network with no class scores: boxes (N, 4, 5) and a mask (N, 2, 12, 12)."""
    m = Maker()
    mask = m("Conv", "image", m.random(2, 3, 3, 3), pads=[1] * 4)
    pooled = m("AveragePool", m("Relu", mask), kernel_shape=[6, 6], strides=[6, 6])
    flat = m("Gemm", m("Flatten", pooled), m.random(8, 20))
    boxes = m("Reshape", flat, m.constant([-1, 4, 5]))
    net = onnxviz.load(
        m.model(
            {"image": ("N", 3, 12, 12)}, {boxes: ("N", 4, 5), mask: ("N", 2, 12, 12)}
        ).SerializeToString(),
        preprocess="raw",
        provider="cpu",
    )
    corner = slice(0, 3)
    pixels = onnxviz.saliency(net, toys.photo(), objective=objectives.part(mask, 1, corner, corner))
    assert pixels.values[:4, :4].all()
    assert not pixels.values[5:].any()
    for method in METHODS:
        found = onnxviz.saliency(
            net, [toys.photo(), toys.photo(1)], objective=objectives.part(boxes, 2, 4), method=method,
            **QUICK.get(method, {}),
        )  # fmt: skip
        assert all(one.values.any() and one.values.shape == (12, 12) for one in found)
    with pytest.raises(ModelUnsuitable):
        onnxviz.saliency(net, toys.photo())


def test_a_map_of_zeros_is_said(kinked) -> None:
    """Class 1 never answers: its unit is off everywhere."""
    net, _ = kinked
    for method in ("saliency", "guided", "smoothgrad", "full-gradient"):
        found = onnxviz.saliency(net, toys.photo(), target=1, method=method, **QUICK.get(method, {}))
        assert not found.values.any()
        assert any("zero everywhere" in text for text in found.manifest["warnings"])
    alive = onnxviz.saliency(net, toys.photo(), target=0)
    assert alive.manifest["warnings"] == net.manifest("saliency")["warnings"]


def test_what_does_not_depend_on_the_picture_is_refused(kinked) -> None:
    net, size = kinked
    with pytest.raises(ModelUnsuitable, match="does not depend"):
        onnxviz.saliency(net, toys.photo(), objective=objectives.part(size))


def test_gradients_that_are_not_finite_are_refused() -> None:
    m = Maker()
    roots = m("Sqrt", m("Conv", "image", m.constant(np.ones((2, 3, 1, 1), np.float32))))
    logits = m("Flatten", m("GlobalAveragePool", roots))
    model = m.model({"image": ("N", 3, 12, 12)}, {logits: ("N", 2)})
    net = onnxviz.load(model.SerializeToString(), preprocess="raw", provider="cpu")
    with pytest.raises(GradientNotFinite, match="picture 1"):
        onnxviz.saliency(net, [toys.photo(), np.zeros((12, 12, 3), np.uint8)], target=0)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"method": "smothgrad"}, UsageError, "did you mean 'smoothgrad'"),
        ({"method": "saliency", "steps": 5}, UsageError, "integrated-gradients does"),
        ({"method": "guided", "samples": 5}, UsageError, "smoothgrad, smoothgrad-squared, vargrad"),
        ({"method": "smoothgrad", "samples": 0}, UsageError, "at least 1"),
        ({"method": "vargrad", "samples": 1}, UsageError, "at least 2"),
        ({"method": "smoothgrad", "noise": 0.0}, UsageError, "noise is a part"),
        ({"method": "integrated-gradients", "baseline": "blak"}, UsageError, "did you mean 'black'"),
        (
            {"method": "integrated-gradients", "baseline": np.zeros((3, 4, 4), np.float32)},
            UsageError,
            "shape",
        ),
        ({"method": "integrated-gradients", "baseline": "no/such.png"}, ImageRejected, "no/such.png"),
        ({"percentile": 0}, UsageError, "percentile"),
        ({"target": 2}, UnknownLabel, "2"),
        ({"target": "blue"}, UnknownLabel, "blue"),
        ({"target": [0, 1]}, UsageError, "2 targets"),
        ({"target": 0, "layer": "features", "channel": 0}, UsageError, "one of target"),
        ({"layer": "features"}, UsageError, "channel"),
        ({"channel": 0}, UsageError, "layer"),
    ],
)
def test_wrong_usage_is_a_typed_error(toy, options, error, words) -> None:
    with pytest.raises(error, match=words):
        onnxviz.saliency(toy, toys.photo(), **options)


def test_no_picture_and_pictures_of_two_sizes_are_refused(toy) -> None:
    with pytest.raises(UsageError, match="no picture"):
        onnxviz.saliency(toy, [])
    with pytest.raises(UsageError, match="no picture"):
        onnxviz.saliency(toy, np.zeros((0, 3, 12, 12), np.float32))


def test_an_input_of_whole_pixels_has_a_map_too() -> None:
    net = onnxviz.load(toys.detector(dtype=TensorProto.UINT8), preprocess="uint8", provider="cpu")
    found = onnxviz.saliency(net, toys.photo(), target=0)
    np.testing.assert_allclose(found.values, np.where(BOX, 1 / 1024, 0), rtol=1e-6)


@pytest.mark.parametrize("method", ["smoothgrad", "integrated-gradients", "expected-gradients"])
def test_ctrl_c_keeps_the_samples_so_far(curved, method, monkeypatch) -> None:
    whole, runs = Program.__call__, []

    def interrupted(self, *arguments, **more):
        runs.append(1)
        if len(runs) == 5:
            raise KeyboardInterrupt
        return whole(self, *arguments, **more)

    options = {"steps": 8} if method == "integrated-gradients" else {"samples": 8}
    kept = {"target": 0, "method": method, "batch": 1, **options}
    onnxviz.saliency(curved, toys.photo(), **kept)
    monkeypatch.setattr(Program, "__call__", interrupted)
    with pytest.raises(Interrupted) as stop:
        onnxviz.saliency(curved, toys.photo(), **kept)
    partial = stop.value.partial
    assert partial.manifest["incomplete"] is True
    assert next(v for k, v in partial.manifest["figures"].items() if k.endswith("_done")) == 3
    assert partial.values.any()
    runs.clear()
    with pytest.raises(KeyboardInterrupt) as early:  # a picture has no sample yet
        onnxviz.saliency(curved, [toys.photo(seed) for seed in range(6)], **kept)
    assert not isinstance(early.value, Interrupted)


@pytest.mark.parametrize("activation", ["Elu", "HardSwish", "LeakyRelu", "Softplus"])
def test_a_network_without_rectifiers_is_told_so(activation):
    """guided, deconvnet and guided Grad-CAM are the plain gradient there, which the warning and the manifest say."""
    proto = networks.tiny_cnn()
    for node in proto.graph.node:
        node.op_type = activation if node.op_type == "Relu" else node.op_type
    x = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    net = onnxviz.load(proto, preprocess="unit")
    (plain,) = onnxviz.saliency(net, x, target=3)
    assert "rectifiers" not in plain.manifest["parameters"]
    assert not any("rectifier" in text for text in plain.manifest["warnings"])
    for method in ("guided", "deconvnet"):
        (one,) = onnxviz.saliency(net, x, target=3, method=method)
        np.testing.assert_array_equal(one.values, plain.values)
        assert one.manifest["parameters"]["rectifiers"] == 0
        assert any("no rectifier" in text and method in text for text in one.manifest["warnings"])
    (cam,) = onnxviz.cam(net, x, target=3, method="guided-grad-cam")
    assert cam.manifest["parameters"]["rectifiers"] == 0


def test_rectifiers_are_counted():
    """One of two activations is a rectifier."""
    proto = networks.tiny_cnn()
    next(node for node in proto.graph.node if node.op_type == "Relu").op_type = "Elu"
    net = onnxviz.load(proto, preprocess="unit")
    x = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    (one,) = onnxviz.saliency(net, x, target=3, method="guided")
    assert one.manifest["parameters"]["rectifiers"] == 1
    assert not any("no rectifier" in text for text in one.manifest["warnings"])
