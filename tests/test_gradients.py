"""Value and gradients of an objective on arrays: batches, files with a fixed batch, what is not finite."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto

import onnxviz
from onnxviz import objectives
from onnxviz.errors import GradientNotFinite, ModelRejected, ModelUnsuitable, UsageError
from tests import heads, networks


def load(model, **options):
    return onnxviz.load(model, provider="cpu", preprocess="unit", **options)


def pictures(count, size=16, seed=0):
    return np.random.default_rng(seed).random((count, 3, size, size), dtype=np.float32)


def root_network() -> onnx.ModelProto:
    """The mean square root of each channel: its gradient at 0 is infinite."""
    m = networks.Maker()
    scores = m("Flatten", m("GlobalAveragePool", m("Sqrt", "x", name="root")))
    return m.model({"x": ("N", 3, 4, 4)}, {scores: ("N", 3)})


@pytest.fixture(scope="module")
def tiny():
    return load(networks.tiny_cnn())


def test_batches_give_what_single_pictures_give(tiny):
    x = pictures(5, tiny.size[0])
    gradients = tiny.gradients(objectives.logit(objectives.FED), also=[tiny.head.logits])
    fed = {"target": np.array([0, 1, 2, 1, 0])}
    whole = gradients(x, fed, batch=5)
    side_by_side = gradients(x, fed)
    for one in (gradients(x, fed, batch=2), gradients(x, fed, batch=1), side_by_side):
        for name, array in whole.items():
            assert array.dtype == np.float32
            np.testing.assert_allclose(one[name], array, rtol=1e-5, atol=1e-7)
    rows = whole[tiny.head.logits]
    np.testing.assert_allclose(whole["objective"], rows[np.arange(5), fed["target"]], rtol=1e-6)
    assert whole[f"{tiny.input.name}.gradient"].shape == x.shape


def test_a_file_that_allows_only_its_own_batch(tiny):
    """The last batch is filled up, and what the filling gives is thrown away."""
    fixed = load(networks.tiny_cnn(batch=3))
    fixed.__dict__["batched"] = (fixed.model, 3)  # as where nothing can free it
    x, fed = pictures(4, tiny.size[0]), {"target": np.array([4, 3, 2, 1])}
    found = fixed.gradients(objectives.logit(objectives.FED))(x, fed)
    expected = tiny.gradients(objectives.logit(objectives.FED))(x, fed)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-7)


def test_several_sources_at_once(tiny):
    x = pictures(2, tiny.size[0])
    layer = next(one.name for one in tiny.layers if one.op == "Relu")
    both = tiny.gradients(objectives.logit(1), [tiny.input.name, layer])(x)
    alone = tiny.gradients(objectives.logit(1), layer)(x)
    np.testing.assert_allclose(both[f"{layer}.gradient"], alone[f"{layer}.gradient"], rtol=1e-6)


def test_a_key_keeps_the_program(tiny):
    first = tiny.gradients(objectives.logit(0), key="zero")
    assert tiny.gradients(objectives.logit(0), key="zero") is first
    assert tiny.gradients(objectives.logit(0), key="zero", rules="guided") is not first
    assert tiny.gradients(objectives.logit(0)) is not tiny.gradients(objectives.logit(0))


def test_what_is_not_finite_is_never_a_map():
    net = load(root_network())
    x = np.ones((3, 3, 4, 4), np.float32)
    gradients = net.gradients(objectives.logit(0))
    assert np.isfinite(gradients(x)["x.gradient"]).all()
    x[1, 0, 2, 2] = 0
    with pytest.raises(GradientNotFinite, match="gradient by 'x'.*picture 1"):
        gradients(x)
    x[1, 0, 2, 2] = -1
    with pytest.raises(GradientNotFinite, match="the value of"):
        gradients(x)
    assert GradientNotFinite.exit_code == 3


def test_a_network_that_takes_bytes():
    """Its gradient is that of the same network taking floats."""
    net = load(networks.tiny_cnn(uint8=True))
    x = np.random.default_rng(0).integers(0, 256, (2, 3, *net.size)).astype(np.float32)
    found = net.gradients(objectives.logit(1))(x)
    np.testing.assert_allclose(
        found["objective"], net.run(x, [net.head.logits])[net.head.logits][:, 1], rtol=1e-5
    )
    twin = load(networks.tiny_cnn())
    expected = twin.gradients(objectives.logit(1))(x / 255)
    np.testing.assert_allclose(
        found["image.gradient"], expected["image.gradient"] / 255, rtol=1e-4, atol=1e-9
    )


def test_integers_that_are_needed_as_such():
    m = networks.Maker()
    table = m.constant(np.linspace(0, 1, 256))
    looked_up = m("Gather", table, m("Cast", "x", to=TensorProto.INT64), name="embed")
    scores = m("ReduceMean", looked_up, axes=[2, 3], keepdims=0)
    net = load(m.model({"x": ("N", 3, 4, 4)}, {scores: ("N", 3)}, TensorProto.UINT8))
    with pytest.raises(ModelUnsuitable, match="UINT8, and Gather"):
        net.gradients(objectives.logit(0))


def test_what_is_compared_with_must_follow_the_pictures(tiny):
    """A batch of targets built into the objective fits one batch only: told, not broadcast."""
    x = pictures(3, tiny.size[0])
    wanted = tiny.run(x, ["relu2"])["relu2"] * 0.5
    gradients = tiny.gradients(objectives.match("relu2", wanted))
    with pytest.raises(UsageError, match="batch=3"):
        gradients(x, batch=1)
    fed = tiny.gradients(objectives.match("relu2"))(x, {"relu2.target": wanted}, batch=1)
    for name, array in gradients(x, batch=3).items():
        np.testing.assert_allclose(fed[name], array, rtol=1e-4, atol=1e-7)


def one_picture(squeezed: bool) -> onnx.ModelProto:
    """A classifier of one picture of 16×16; squeezed: its scores are (10,), not (1, 10)."""
    m = networks.Maker(seed=3)
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4))
    x = m("Gemm", m("Flatten", m("GlobalAveragePool", x)), m.random(8, 10), m.random(10))
    x = m("Softmax", x, axis=-1)
    if squeezed:
        x = m("Squeeze", x, m.constant([0]))
    return m.model({"image": (1, 3, 16, 16)}, {x: (10,) if squeezed else (1, 10)})


@pytest.mark.parametrize("target", [None, 0, 7])
def test_scores_whose_only_picture_is_squeezed_away(target):
    """They are the same scores: of one class each, not of all at once."""
    x, results = pictures(1), []
    for squeezed in (False, True):
        net = load(one_picture(squeezed))
        value, gradient = net.value_and_gradient(objectives.logit(target, layer=net.head.scores))(x)
        photo = np.round(255 * x[0]).astype(np.uint8).transpose(1, 2, 0)
        heat = onnxviz.saliency(net, photo, target=target).values
        feeds = {"image": photo[None]}
        model = onnxviz.explainer_model(net, target=target, fixed=True).SerializeToString()
        explained = ort.InferenceSession(model).run(["class", "probabilities", "heatmap"], feeds)
        results.append([value, gradient, heat, *explained])
    for plain, other in zip(*results, strict=True):
        assert plain.shape == other.shape
        np.testing.assert_allclose(other, plain, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("target", [None, 0])
def test_one_score_without_any_axis(target):
    """Squeezed of a batch of one it is a single number: only the run tells."""
    photo = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    plain, other = (
        onnxviz.saliency(load(heads.one(form)), photo, target=target).values
        for form in ("logit", "squeeze-all")
    )
    np.testing.assert_allclose(other, plain, rtol=1e-4, atol=1e-7)


def test_scores_without_a_number():
    m = networks.Maker()
    x = heads.linear(m, heads.pooled(m), 10)
    model = heads.finished(
        m, heads.renamed(m, m("Add", x, m.constant(np.zeros((0, 1), np.float32))), "scores")
    )
    with pytest.raises(ModelRejected):
        load(model).predict(np.zeros((16, 16, 3), np.uint8))
