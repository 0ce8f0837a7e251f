"""Explainers of networks in every form that onnxviz opens."""

import networks
import numpy as np
import onnx
import onnxruntime
import pytest

import onnxviz
from onnxviz.attribution.cam import cam
from onnxviz.attribution.saliency import saliency
from onnxviz.errors import ModelUnsuitable, UsageError

FORMS = {
    "NHWC": networks.nhwc,
    "uint8": lambda: networks.tiny_cnn(uint8=True),
    "fp16": lambda: networks.fp16(networks.tiny_cnn()),
    "fp16 NHWC": lambda: networks.fp16(networks.nhwc()),
    "batch 1 that can be freed": networks.static_batch,
    "QDQ": lambda: networks.qdq(networks.tiny_cnn()),
    "QOperator": lambda: networks.qoperator(networks.tiny_cnn()),
    "grey": lambda: networks.tiny_cnn(channels=1),
    "RGBA": lambda: networks.tiny_cnn(channels=4),
    "any size": lambda: networks.tiny_cnn(size=("H", "W")),
    "logits": lambda: networks.tiny_cnn(softmax=False),
}


def opened(model: onnx.ModelProto):
    recipe = onnxviz.Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3)
    return onnxviz.load(model, provider="cpu", preprocess=recipe)


def run(model: onnx.ModelProto, pictures: np.ndarray) -> dict[str, np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": pictures}), strict=True))


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("technique", ["input-x-gradient", "guided-grad-cam"])
@pytest.mark.parametrize("form", FORMS)
def test_the_heat_map_is_the_techniques(form, technique, pictures):
    net = opened(FORMS[form]())
    found = run(onnxviz.explainer_model(net, technique), pictures)
    method = cam if "cam" in technique else saliency
    wanted = method(net, list(pictures), method=technique)
    values = np.stack([one.values for one in wanted])
    assert values.any()
    assert np.abs(found["heatmap"] - values).max() <= 1e-5 * np.abs(values).max()
    assert found["class"].tolist() == [one.target for one in wanted]
    step = 1 / 255 if form.startswith("Q") else 0  # their probabilities come in steps
    np.testing.assert_allclose(
        found["probability"], [one.score for one in wanted], rtol=2e-3, atol=1.01 * step
    )


def test_pictures_of_any_size_where_the_network_keeps_them(pictures):
    recipe = onnxviz.Preprocessing(None, (0.5,) * 3, (0.5,) * 3)
    own = onnxviz.load(networks.tiny_cnn(size=("H", "W")), provider="cpu", preprocess=recipe)
    assert own.preprocessing.size is None
    for technique in ("saliency", "grad-cam", "eigencam"):
        model = onnxviz.explainer_model(own, technique)
        for shape in ((32, 32), (24, 40)):
            picture = np.resize(pictures, (*shape, 3))
            found = run(model, picture[None])["heatmap"][0]
            method = cam if "cam" in technique else saliency
            wanted = method(own, picture, method=technique).values
            assert found.shape == shape
            assert np.abs(found - wanted).max() <= 1e-5 * wanted.max()
    with pytest.raises(UsageError, match="size="):
        onnxviz.explainer_model(own, fixed=True)


def test_a_batch_that_must_stay_stays(pictures):
    m = networks.Maker()
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4))
    x = m(
        "Unsqueeze", m("Gather", x, m.constant(np.int64(0)), axis=0), m.constant([0])
    )  # its first picture only
    x = m("Gemm", m("Flatten", m("GlobalAveragePool", x)), m.random(5, 8), transB=1)
    net = opened(m.model({"image": (1, 3, 32, 32)}, {x: (1, 5)}))
    assert net.batched[1] == 1
    for technique in ("saliency", "grad-cam"):
        made = onnxviz.explainer_model(net, technique)
        assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
        found = run(made, pictures[:1])
        wanted = (cam if "cam" in technique else saliency)(net, pictures[0])
        assert np.abs(found["heatmap"][0] - wanted.values).max() <= 1e-5 * wanted.values.max()
        assert found["class"].tolist() == [wanted.target]


def test_what_is_no_classifier_is_refused():
    m = networks.Maker()
    x = m("Relu", m("Conv", "image", m.random(4, 3, 3, 3), pads=[1] * 4))
    mask = m("Conv", x, m.random(2, 4, 1, 1))
    net = opened(m.model({"image": ("N", 3, 32, 32)}, {mask: ("N", 2, 32, 32)}))
    with pytest.raises(ModelUnsuitable, match="class scores"):
        onnxviz.explainer_model(net)


def test_bytes_that_the_network_computes_with_are_refused():
    m = networks.Maker()
    x = m("Cast", m("BitShift", "image", m.constant(np.uint8([1])), direction="RIGHT"), to=1)
    x = m("Flatten", m("GlobalAveragePool", m("Relu", m("Conv", x, m.random(4, 3, 3, 3), pads=[1] * 4))))
    net = opened(m.model({"image": ("N", 3, 32, 32)}, {x: ("N", 4)}, onnx.TensorProto.UINT8))
    with pytest.raises(ModelUnsuitable, match="BitShift"):
        onnxviz.explainer_model(net)
