"""Gradient attributions on networks whose maps can be worked out by hand, and what every method keeps to."""

from __future__ import annotations

import networks
import numpy as np
import pytest
from networks import Maker
from onnx import TensorProto
from PIL import Image

import onnxviz
from onnxviz import objectives
from onnxviz.attribution.methods import of
from onnxviz.errors import GradientNotFinite, ImageRejected, ModelUnsuitable, UnknownLabel, UsageError
from onnxviz.progress import Interrupted
from onnxviz.runtime.ort import Program
from tests import toys
from tests.attribution.pieces import correlation, load

# What methods of many samples need so that a test is quick.
SAMPLED = ("smoothgrad", "smoothgrad-squared", "vargrad", "expected-gradients")
QUICK = {**{name: {"samples": 3} for name in SAMPLED}, "integrated-gradients": {"steps": 3}}
BOX = np.zeros((12, 12), bool)
BOX[4:8, 6:10] = True

METHODS = of("saliency")


def quick(net, picture=None, method="saliency", **options):
    """A map of class 0, by few samples."""
    picture = toys.photo() if picture is None else picture
    return onnxviz.saliency(
        net, picture, **{"target": 0, "method": method, **QUICK.get(method, {}), **options}
    )


def odd_warnings(net, found) -> list[str]:
    """Those that are not of the network."""
    return [text for text in found.manifest["warnings"] if text not in net.manifest("saliency")["warnings"]]


def test_the_map_is_the_gradient(toy) -> None:
    """The red logit is the mean red of 16 pixels, / 64: each moves it by 1/1024, no other pixel does."""
    found, logits = quick(toy, target="red"), toys.logits(toys.photo()[None])
    np.testing.assert_allclose(found.values, np.where(BOX, 1 / 1024, 0), rtol=1e-6)
    assert (found.target, found.label, found.method, found.signed) == (0, "red", "saliency", False)
    assert found.score == pytest.approx(toys.softmax(logits)[0, 0], abs=1e-6)
    assert found.manifest["figures"]["objective"] == pytest.approx(logits[0, 0], rel=1e-6)
    whole = quick(toys.load(dtype=TensorProto.UINT8))
    np.testing.assert_allclose(whole.values, np.where(BOX, 1 / 1024, 0), rtol=1e-6)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("method", ["input-x-gradient", "integrated-gradients"])
def test_shares_add_up_to_the_score_in_both_layouts(layout, method) -> None:
    found = quick(load(toys.detector(layout=layout), preprocess="raw", layout=layout), method=method)
    np.testing.assert_allclose(found.values, toys.photo()[..., 0] * BOX / 1024, rtol=1e-5, atol=1e-9)
    assert found.signed


@pytest.mark.parametrize("method", METHODS)
def test_a_list_gives_what_single_pictures_give(toy, method) -> None:
    pictures = [toys.photo(seed) for seed in range(5)]
    several = quick(toy, pictures, method, target=[0, 1, "red", None, "green"], batch=3)
    assert [one.target for one in several] == [0, 1, 0, 0, 1]
    for picture, one in zip(pictures, several, strict=True):
        single = quick(toy, picture, method, target=one.target, batch=1)
        np.testing.assert_allclose(one.values, single.values, rtol=1e-4, atol=1e-7)
        assert one.score == pytest.approx(single.score)
        np.testing.assert_array_equal(one.image, picture)


def test_the_input_tensor_counts_as_a_list(toy) -> None:
    found = quick(toy, toy.prepare([toys.photo(0), toys.photo(1)]))
    assert [one.values.shape for one in found] == [(12, 12)] * 2
    np.testing.assert_array_equal(found[1].image, toys.photo(1))


def test_a_file_of_one_batch_size_gives_the_same(toy) -> None:
    pictures = [toys.photo(seed) for seed in range(3)]
    fixed, free = (quick(net, pictures, "smoothgrad") for net in (toys.load(batch=2), toy))
    for one, other in zip(fixed, free, strict=True):
        np.testing.assert_allclose(one.values, other.values, rtol=1e-6)


@pytest.mark.parametrize("method", SAMPLED)
def test_what_is_random_comes_from_the_seed(curved, method) -> None:
    one, same, other = (quick(curved, method=method, samples=4, seed=seed).values for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other, rtol=1e-3, atol=0)


@pytest.fixture(scope="module")
def curved():
    """One class whose score is the mean square of the red pixels, so that the gradient is 2·red/144 / 255."""
    m = Maker()
    red = m("Conv", "image", m.constant(np.eye(3, dtype=np.float32)[:1, :, None, None] / 255))
    pooled = m("GlobalAveragePool", m("Mul", red, red))
    logits = m("Gemm", m("Flatten", pooled), m.constant([[1.0, -1.0]]))
    return load(m.model({"image": ("N", 3, 12, 12)}, {logits: ("N", 2)}), preprocess="raw")


def squares(picture: np.ndarray) -> np.ndarray:
    """What each red pixel of `curved` scores."""
    return np.square(picture[..., 0] / 255.0) / 144


def test_noise_methods_are_moments_of_the_gradient(curved) -> None:
    """The gradient is linear in the input here: the mean over noise is the gradient at the picture plus the noise's
    mean, the variance that of the noise."""
    picture = toys.photo()
    slope = 2 / 144 / 255**2
    spread = 0.2 * (float(picture.max()) - float(picture.min()))
    mean, second, variance = (
        quick(curved, method=method, samples=400, noise=0.2).values
        for method in ("smoothgrad", "smoothgrad-squared", "vargrad")
    )
    np.testing.assert_allclose(mean, slope * picture[..., 0], atol=5 * slope * spread / 20)
    np.testing.assert_allclose(second, mean**2 + variance, rtol=1e-4)
    assert variance.mean() == pytest.approx((slope * spread) ** 2, rel=0.03)


@pytest.mark.parametrize("baseline", ["black", "grey", "mean", "blur", "noise", "zero"])
def test_integrated_gradients_of_a_square_is_the_square(curved, baseline) -> None:
    """∫ 2αr · r dα = r²: exact already with two points of the quadrature."""
    found = quick(curved, method="integrated-gradients", steps=2, baseline=baseline)
    figures = found.manifest["figures"]
    assert figures["completeness_error"] < (1e-5 if baseline == "black" else 1e-4)
    assert found.manifest["parameters"]["baseline"] == baseline
    assert found.values.sum() == pytest.approx(figures["change"], rel=1e-4)
    if baseline == "black":
        np.testing.assert_allclose(found.values, squares(toys.photo()), rtol=1e-5)
        assert figures["change"] == pytest.approx(squares(toys.photo()).sum(), rel=1e-5)


def test_a_baseline_may_be_a_picture_or_a_tensor(curved) -> None:
    other = toys.photo(1)
    by_picture, by_tensor = (
        quick(curved, method="integrated-gradients", baseline=baseline).values
        for baseline in (other, curved.prepare(other)[0])
    )
    np.testing.assert_allclose(by_picture, by_tensor, atol=1e-8)
    np.testing.assert_allclose(by_tensor, squares(toys.photo()) - squares(other), atol=1e-6)


def test_too_few_steps_are_warned_about(kinked) -> None:
    net, _ = kinked
    few, many = (quick(net, method="integrated-gradients", steps=steps) for steps in (1, 64))
    assert (
        few.manifest["figures"]["completeness_error"] > 0.05 > many.manifest["figures"]["completeness_error"]
    )
    assert any("completeness error" in text for text in few.manifest["warnings"])
    assert not odd_warnings(net, many)


@pytest.fixture(scope="module")
def kinked():
    """A class that answers to red only from 100 on, and another that never answers; and an output that is the size."""
    m = Maker()
    weights = np.zeros((2, 3, 1, 1), np.float32)
    weights[0, 0] = 1 / 255
    fired = m("Relu", m("Conv", "image", m.constant(weights), m.constant([-100 / 255, -9])))
    logits = m("Flatten", m("GlobalAveragePool", fired))
    size = m("Cast", m("Shape", "image"), to=TensorProto.FLOAT)
    model = m.model({"image": ("N", 3, 12, 12)}, {logits: ("N", 2), size: (4,)})
    return load(model, preprocess="raw"), size


def test_expected_gradients_of_given_pictures(curved, tmp_path) -> None:
    """The mean of r² − b² over the baselines, for points enough."""
    others = [toys.photo(seed) for seed in (1, 2, 3)]
    for number, other in enumerate(others):
        Image.fromarray(other).save(tmp_path / f"{number}.png")
    (tmp_path / "bad").mkdir()
    for folder in (tmp_path, tmp_path / "bad"):
        (folder / "broken.png").write_bytes(b"\x89PNG")
    found = quick(curved, method="expected-gradients", samples=600, baselines=tmp_path)
    expected = squares(toys.photo()) - np.mean([squares(other) for other in others], axis=0)
    assert correlation(found.values, expected) > 0.99
    assert found.manifest["figures"]["sum"] == pytest.approx(expected.sum(), rel=0.05)
    assert found.manifest["parameters"]["baselines"] == 3
    with pytest.raises(ImageRejected, match="baselines"):
        quick(curved, method="expected-gradients", baselines=tmp_path / "bad")


def test_other_things_than_classes_can_be_explained(toy) -> None:
    neuron = quick(toy, target=None, layer="features", channel=1, neuron=(2, 9))
    assert np.argwhere(neuron.values).tolist() == [[2, 9]]
    assert (neuron.target, neuron.label) == (None, "features, channel 1 at (2, 9)")
    difference = objectives.logit(0) - 2 * objectives.logit(1)
    found = quick(toy, target=None, objective=difference, method="gradient")
    np.testing.assert_allclose(found.values, np.where(BOX, -1 / 1024, 0), rtol=1e-6)
    assert found.score == pytest.approx(found.manifest["figures"]["objective"])
    # Minus half the mean squared distance of 288 features, each of which is one pixel's red or green.
    picture, other = toys.photo(0), toys.photo(1)
    near = objectives.match("features", toy.activations(other, "features")["features"])
    gap = picture[..., :2].astype(float) - other[..., :2]
    values = quick(toy, target=None, objective=near, method="gradient").values
    np.testing.assert_allclose(values, -gap.sum(axis=2) / 288, atol=1e-5)


def test_a_detectors_box_and_a_segmenters_pixels() -> None:
    """A network with no class scores: boxes (N, 4, 5) and a mask (N, 2, 12, 12)."""
    m = Maker()
    mask = m("Conv", "image", m.random(2, 3, 3, 3), pads=[1] * 4)
    pooled = m("AveragePool", m("Relu", mask), kernel_shape=[6, 6], strides=[6, 6])
    flat = m("Gemm", m("Flatten", pooled), m.random(8, 20))
    boxes = m("Reshape", flat, m.constant([-1, 4, 5]))
    outputs = {boxes: ("N", 4, 5), mask: ("N", 2, 12, 12)}
    net = load(m.model({"image": ("N", 3, 12, 12)}, outputs), preprocess="raw")
    corner = slice(0, 3)
    pixels = quick(net, target=None, objective=objectives.part(mask, 1, corner, corner))
    assert pixels.values[:4, :4].all()
    assert not pixels.values[5:].any()
    box = objectives.part(boxes, 2, 4)
    for method in METHODS:
        found = quick(net, [toys.photo(), toys.photo(1)], method, target=None, objective=box)
        assert all(one.values.any() and one.values.shape == (12, 12) for one in found)
    with pytest.raises(ModelUnsuitable):
        quick(net)


def test_a_map_of_zeros_is_said(kinked) -> None:
    """Class 1 never answers: its unit is off everywhere; and the size does not depend on what is seen."""
    net, size = kinked
    for method in ("saliency", "guided", "smoothgrad", "full-gradient"):
        found = quick(net, method=method, target=1)
        assert not found.values.any()
        assert any("zero everywhere" in text for text in found.manifest["warnings"])
    assert not odd_warnings(net, quick(net))
    with pytest.raises(ModelUnsuitable, match="does not depend"):
        quick(net, target=None, objective=objectives.part(size))


def test_gradients_that_are_not_finite_are_refused() -> None:
    m = Maker()
    roots = m("Sqrt", m("Conv", "image", m.constant(np.ones((2, 3, 1, 1)))))
    logits = m("Flatten", m("GlobalAveragePool", roots))
    net = load(m.model({"image": ("N", 3, 12, 12)}, {logits: ("N", 2)}), preprocess="raw")
    with pytest.raises(GradientNotFinite, match="picture 1"):
        quick(net, [toys.photo(), np.zeros((12, 12, 3), np.uint8)])


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
        ({"channel": 0}, UsageError, "layer"),
        ({"image": []}, UsageError, "no picture"),
        ({"image": np.zeros((0, 3, 12, 12), np.float32)}, UsageError, "no picture"),
    ],
)
def test_wrong_usage_is_a_typed_error(toy, options, error, words) -> None:
    with pytest.raises(error, match=words):
        onnxviz.saliency(toy, **{"image": toys.photo(), **options})


@pytest.mark.parametrize("method", ["smoothgrad", "integrated-gradients", "expected-gradients"])
def test_ctrl_c_keeps_the_samples_so_far(curved, method, monkeypatch) -> None:
    whole, runs = Program.__call__, []

    def interrupted(self, *arguments, **more):
        runs.append(1)
        if len(runs) == 5:
            raise KeyboardInterrupt
        return whole(self, *arguments, **more)

    kept = {"method": method, "batch": 1, "steps" if method == "integrated-gradients" else "samples": 8}
    quick(curved, **kept)
    monkeypatch.setattr(Program, "__call__", interrupted)
    with pytest.raises(Interrupted) as stop:
        quick(curved, **kept)
    partial = stop.value.partial
    assert partial.manifest["incomplete"] is True
    assert next(v for k, v in partial.manifest["figures"].items() if k.endswith("_done")) == 3
    assert partial.values.any()
    runs.clear()
    with pytest.raises(KeyboardInterrupt) as early:  # a picture has no sample yet
        quick(curved, [toys.photo(seed) for seed in range(6)], **kept)
    assert not isinstance(early.value, Interrupted)


@pytest.mark.parametrize("left", [0, 1])  # of two activations
@pytest.mark.parametrize("activation", ["Elu", "HardSwish", "LeakyRelu", "Softplus"])
def test_a_network_without_rectifiers_is_told_so(activation, left):
    """guided, deconvnet and guided Grad-CAM are the plain gradient there, which the warning and the manifest say."""
    proto = networks.tiny_cnn()
    for node in [node for node in proto.graph.node if node.op_type == "Relu"][left:]:
        node.op_type = activation
    x = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
    net = load(proto)
    (plain,) = onnxviz.saliency(net, x, target=3)
    assert "rectifiers" not in plain.manifest["parameters"]
    assert not any("rectifier" in text for text in plain.manifest["warnings"])
    for method in ("guided", "deconvnet"):
        (one,) = onnxviz.saliency(net, x, target=3, method=method)
        assert np.array_equal(one.values, plain.values) == (left == 0)
        assert one.manifest["parameters"]["rectifiers"] == left
        said = any("no rectifier" in text and method in text for text in one.manifest["warnings"])
        assert said == (left == 0)
    (cam,) = onnxviz.cam(net, x, target=3, method="guided-grad-cam")
    assert cam.manifest["parameters"]["rectifiers"] == left
