"""Explainers held to the techniques on arrays, of networks in every form, and what stands in the file."""

import json
import re
import subprocess
import sys
from pathlib import Path

import heads
import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from processors import needs_whole_sums

import onnxviz
from onnxviz.attribution.methods import METHODS
from onnxviz.cli import acts
from onnxviz.cli.main import run as command_line
from onnxviz.errors import ModelUnsuitable, OnnxVizError, UnknownLabel, UnknownLayer, UsageError
from tests import networks
from tests.attribution import pieces as attribution

TECHNIQUES = [name for name, row in METHODS.items() if row.one_pass]
OUTPUTS = ["class", "probability", "probabilities", "heatmap"]
# All that is opened with `preprocess=RECIPE`, beside the bundled network.
RECIPE = onnxviz.Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3)
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


def opened(model: onnx.ModelProto, recipe: onnxviz.Preprocessing = RECIPE):
    return onnxviz.load(model, provider="cpu", preprocess=recipe)


def run(model: onnx.ModelProto, pictures, **feeds) -> dict[str, np.ndarray]:
    onnx.checker.check_model(model, full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, {"image": np.stack(pictures), **feeds}), strict=True))


def same(found: np.ndarray, wanted: np.ndarray, tolerance: float = 1e-5) -> None:
    assert found.shape == wanted.shape
    assert wanted.any()
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


def told(model: onnx.ModelProto) -> dict:
    return json.loads(notes(model)["onnxviz.explainer"])


def on_arrays(net, pictures, technique: str, **options):
    function = onnxviz.cam if METHODS[technique].layered else onnxviz.saliency
    found = function(net, list(pictures), method=technique, **options)
    return np.stack([one.values for one in found]), [one.target for one in found]


@pytest.fixture(scope="module")
def views(net, cat):
    from skimage import data

    return [net.preprocessing.view(picture) for picture in (cat, data.coffee())]


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_the_heat_map_is_the_techniques(net, views, technique):
    model = onnxviz.explainer_model(net, technique, fixed=True)
    assert [entry.domain for entry in model.opset_import] == [""]
    assert [value.name for value in model.graph.input] == ["image"]
    assert [value.name for value in model.graph.output] == OUTPUTS
    found = run(model, views)
    wanted, targets = on_arrays(net, views, technique)
    assert wanted.shape == (2, 224, 224)
    same(found["heatmap"], wanted)
    if technique != "eigencam":  # is of no class
        assert found["class"].tolist() == targets


def test_class_and_probabilities_are_predicts(net, cat):
    found = run(onnxviz.explainer_model(net, "grad-cam"), [cat, cat[:, ::-1]])
    predicted = [rows[0] for rows in net.predict([cat, cat[:, ::-1]])]
    assert found["class"].dtype == np.int64
    assert found["class"].tolist() == [one.index for one in predicted]
    np.testing.assert_allclose(found["probability"], [one.probability for one in predicted], rtol=1e-3)
    np.testing.assert_allclose(found["probabilities"].sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(found["probabilities"].max(axis=1), found["probability"])


def test_targets_are_an_index_a_label_or_fed(net, views):
    wanted, _ = on_arrays(net, views, "gradient", target=282)
    label = net.label(282)
    for target in (282, label):
        model = onnxviz.explainer_model(net, "gradient", target=target, fixed=True)
        same(run(model, views)["heatmap"], wanted)
        assert told(model)["label"] == label
    fed = onnxviz.explainer_model(net, "gradient", target="fed", fixed=True)
    assert [value.name for value in fed.graph.input] == ["image", "target"]
    found = run(fed, views, target=np.array([282, 967]))
    second, _ = on_arrays(net, views[1:], "gradient", target=967)
    same(found["heatmap"][0], wanted[0])
    same(found["heatmap"][1], second[0])
    assert found["class"][0] == 285  # what the network says, whatever is explained


@pytest.mark.parametrize("technique", ["gradient", "grad-cam"])
def test_any_objective_is_explained(net, views, technique):
    text = "2*logit(282) - logit(285)"
    model = onnxviz.explainer_model(net, technique, objective=text, fixed=True)
    found = run(model, views)
    same(found["heatmap"], on_arrays(net, views, technique, objective=text)[0])
    assert found["class"][0] == 285
    assert told(model)["objective"] == text


def test_a_network_without_classes_is_explained_by_an_objective():
    net = opened(heads.segmenter(), onnxviz.Preprocessing())
    mask = net.model.graph.outputs[0].name
    with pytest.raises(ModelUnsuitable, match="class scores"):
        onnxviz.explainer_model(net)
    model = onnxviz.explainer_model(net, "gradient", objective=f"part({mask!r}, 1)", fixed=True)
    assert [value.name for value in model.graph.output] == ["heatmap"]
    photos = attribution.pictures(1, 16)
    wanted, _ = on_arrays(net, photos, "gradient", objective=f"part({mask!r}, 1)")
    same(run(model, photos)["heatmap"], wanted, 1e-4)


def test_a_layer_can_be_chosen(net, views):
    layer = next(one.name for one in reversed(net.layers) if one.shape[2:] == (14, 14))
    model = onnxviz.explainer_model(net, "layercam", layer=layer, fixed=True)
    same(run(model, views)["heatmap"], on_arrays(net, views, "layercam", layer=layer)[0])
    assert told(model)["layer"] == layer


@pytest.mark.parametrize(("resize", "fraction"), [("crop", 0.875), ("squash", 1.0), ("pad", 1.0)])
def test_the_map_over_the_picture_lies_where_the_network_looked(net, cat, resize, fraction):
    recipe = net.preprocessing.override(resize=resize, crop_fraction=fraction)
    other = onnxviz.load("efficientnet-lite0", provider="cpu", preprocess=recipe)
    small = run(onnxviz.explainer_model(other, "layercam"), [cat])["heatmap"][0]
    whole = run(onnxviz.explainer_model(other, "layercam", over="picture"), [cat])["heatmap"][0]
    assert whole.shape == cat.shape[:2]
    # Every pixel of the view is found again in the picture, at the place that Preprocessing.geometry says.
    at = recipe.geometry(*cat.shape[:2])
    y, x = np.mgrid[20:204:8, 20:204:8]
    rows = (y + at.top + 0.5) * cat.shape[0] / at.height - 0.5
    columns = (x + at.left + 0.5) * cat.shape[1] / at.width - 0.5
    inside = (rows > 1) & (rows < cat.shape[0] - 2) & (columns > 1) & (columns < cat.shape[1] - 2)
    there = whole[rows[inside].round().astype(int), columns[inside].round().astype(int)]
    np.testing.assert_allclose(there, small[y[inside], x[inside]], atol=0.02 * small.max())
    if resize == "crop":
        left = round(at.left * cat.shape[1] / at.width)
        assert not whole[:, : left - 2].any()
        assert whole[:, left + 2].any()


def test_the_file_says_what_it_is(net):
    props = notes(onnxviz.explainer_model(net, "grad-cam", target=285))
    assert json.loads(props["onnxviz.labels"]) == net.labels
    said = json.loads(props["onnxviz.explainer"])
    assert (said["technique"], said["target"]) == ("grad-cam", 285)
    assert said["network"]["sha256"] == net.digest
    assert onnxviz.Preprocessing.from_dict(said["preprocessing"]) == net.preprocessing
    assert "onnxviz.preprocessing" not in props  # whoever opens the file must not prepare its pictures twice


def test_the_same_call_gives_the_same_bytes(net):
    one, two = (onnxviz.explainer_model(net, "guided-grad-cam").SerializeToString(True) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("weight", ["class_2", "heatmap"])
def test_names_that_the_network_uses_itself_are_no_trouble(weight, pictures):
    toy = networks.tiny_cnn()
    renamed = {"conv1": "class", "relu1": "heatmap", "norm1": "probability", "conv2": "probabilities",
               "logits": "target", "relu2": "preprocessing/Resize"}  # fmt: skip
    renamed = {} if weight == "heatmap" else renamed
    renamed[toy.graph.initializer[0].name] = toy.graph.initializer[0].name = weight
    for node in toy.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    results = []
    for model in (toy, networks.tiny_cnn()):
        net = opened(model, onnxviz.Preprocessing((32, 32)))
        results.append(run(onnxviz.explainer_model(net, target="fed"), pictures, target=np.array([3, 4])))
        if model is toy:
            assert net.model.graph.initializers[weight].const_value.name == weight
    for name in OUTPUTS:
        np.testing.assert_array_equal(results[0][name], results[1][name])


@pytest.mark.parametrize(
    ("order", "error", "words"),
    [
        ({"technique": "smoothgrad"}, UsageError, "one pass"),
        ({"technique": "grad_cam"}, UsageError, "did you mean 'grad-cam'"),
        ({"layer": "head.relu6"}, UsageError, "takes no layer"),
        ({"over": "photo"}, UsageError, "input or picture"),
        ({"target": "a cat of sorts"}, UnknownLabel, "a cat of sorts"),
        ({"target": 1000}, UnknownLabel, "1000"),
        ({"technique": "grad-cam", "layer": "head.relu7"}, UnknownLayer, "head.relu7"),
        ({"technique": "grad-cam", "layer": "logits"}, UsageError, "head"),
    ],
)
def test_wrong_orders_are_typed_errors(net, order, error, words):
    with pytest.raises(error, match=words):
        onnxviz.explainer_model(net, **order)


def test_what_only_some_runtimes_have_is_refused():
    m = networks.Maker()
    x = m("BiasSplitGelu", heads.linear(m, heads.pooled(m), 8), m.random(8), domain="com.microsoft")
    net = opened(heads.finished(m, x), onnxviz.Preprocessing((16, 16)))
    with pytest.raises(OnnxVizError, match="BiasSplitGelu"):
        onnxviz.explainer_model(net)
    with pytest.raises(ModelUnsuitable, match=r"com\.microsoft\.BiasSplitGelu"):
        onnxviz.explainer_model(net, "eigencam", layer="relu3")


def notes(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


# --- networks in every form that onnxviz opens -----------------------------------------------------


@pytest.fixture
def pictures() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)


@pytest.mark.parametrize("technique", ["input-x-gradient", "guided-grad-cam"])
@pytest.mark.parametrize("form", FORMS)
def test_the_heat_map_is_the_techniques_in_every_form(form, technique, pictures):
    if form.startswith("Q"):
        needs_whole_sums()
    net = opened(FORMS[form]())
    found = run(onnxviz.explainer_model(net, technique), pictures)
    values, targets = on_arrays(net, pictures, technique)
    same(found["heatmap"], values)
    assert found["class"].tolist() == targets
    step = 1 / 255 if form.startswith("Q") else 0  # their probabilities come in steps
    best = [row[0].probability for row in net.predict(list(pictures), top=1)]
    np.testing.assert_allclose(found["probability"], best, rtol=2e-3, atol=1.01 * step)


def test_pictures_of_any_size_where_the_network_keeps_them(pictures):
    recipe = onnxviz.Preprocessing(None, (0.5,) * 3, (0.5,) * 3)
    own = opened(networks.tiny_cnn(size=("H", "W")), recipe)
    assert own.preprocessing.size is None
    for technique in ("saliency", "grad-cam", "eigencam"):
        model = onnxviz.explainer_model(own, technique)
        for shape in ((32, 32), (24, 40)):
            picture = np.resize(pictures, (*shape, 3))
            wanted, _ = on_arrays(own, [picture], technique)
            assert wanted.shape[1:] == shape
            same(run(model, picture[None])["heatmap"], wanted)
    with pytest.raises(UsageError, match="size="):
        onnxviz.explainer_model(own, fixed=True)


def test_a_batch_that_must_stay_stays(pictures):
    m = networks.Maker()
    first = m("Gather", heads.trunk(m), m.constant(np.int64(0)), axis=0)  # its first picture only
    x = m("Flatten", m("GlobalAveragePool", m("Unsqueeze", first, m.constant([0]))))
    net = opened(m.model({"image": (1, 3, 32, 32)}, {heads.linear(m, x, 5): (1, 5)}))
    assert net.batched[1] == 1
    for technique in ("saliency", "grad-cam"):
        made = onnxviz.explainer_model(net, technique)
        assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
        found = run(made, pictures[:1])
        wanted, targets = on_arrays(net, pictures[:1], technique)
        same(found["heatmap"], wanted)
        assert found["class"].tolist() == targets


def test_bytes_that_the_network_computes_with_are_refused():
    m = networks.Maker()
    x = m("Cast", m("BitShift", "image", m.constant(np.uint8([1])), direction="RIGHT"), to=1)
    x = m("Flatten", m("GlobalAveragePool", m("Relu", m("Conv", x, m.random(4, 3, 3, 3), pads=[1] * 4))))
    net = opened(m.model({"image": ("N", 3, 32, 32)}, {x: ("N", 4)}, onnx.TensorProto.UINT8))
    with pytest.raises(ModelUnsuitable, match="BitShift"):
        onnxviz.explainer_model(net)


# --- docs/explainer.md ----------------------------------------------------------------------------

DOCUMENT = (Path(__file__).parents[2] / "docs" / "explainer.md").read_text(encoding="utf-8")


def test_the_python_code_runs_on_onnx_runtime_alone(tmp_path, photo_files):
    command = re.search(r"```sh\nonnxviz (.*?)\n```", DOCUMENT, flags=re.S)[1].split()
    command[command.index("-o") + 1] = str(tmp_path / "explainer.onnx")
    assert command_line([*command, "--quiet"]) == 0
    with Image.open(photo_files[0]) as photo:
        photo.save(tmp_path / "photo.jpg", quality=95)
    code = re.search(r"```python\n(.*?)```", DOCUMENT, flags=re.S)[1]
    assert "onnxviz." not in code.replace('"onnxviz.labels"', "")
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.match(r"Egyptian cat  \d\d\.\d%", done.stdout)
    with Image.open(tmp_path / "heat.png") as heat:
        assert heat.size == (224, 224)
        assert heat.getextrema()[1] == 255


def test_every_technique_and_output_is_named(net):
    named = re.search(r"`--technique` is (.*?); `--layer`", DOCUMENT, flags=re.S)[1]
    assert re.findall(r"`([^`]+)`", named) == TECHNIQUES
    assert acts.methods() == TECHNIQUES  # what `gradient --help` lists
    for technique in TECHNIQUES:
        text = onnxviz.explainer_model.__doc__
        assert re.search(rf"[ \n]{re.escape(technique)}(,|\.| or|\n)", text), technique
    model = onnxviz.explainer_model(net, "grad-cam", target="fed")
    listed = re.findall(r"^\| (in|out) \| `(\w+)`", DOCUMENT, flags=re.M)
    assert [name for kind, name in listed if kind == "in"] == [value.name for value in model.graph.input]
    assert [name for kind, name in listed if kind == "out"] == [value.name for value in model.graph.output]
