"""The command that writes gradient models and explainers."""

import json

import networks
import numpy as np
import onnx
import onnxruntime
import pytest

import onnxviz
from onnxviz.cli.main import run


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / "toy.onnx"
    onnx.save(networks.tiny_cnn(), path)
    return str(path)


def session(path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_an_explainer_is_written_with_the_preprocessing_that_was_given(toy, tmp_path, capsys):
    out = tmp_path / "explainer.onnx"
    options = ["--preprocess", "unit", "--size", "32", "--mean", "0.5", "--std", "0.25", "--channels", "BGR"]
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(f"thing {i}" for i in range(10)))
    command = ["gradient", toy, "--technique", "guided", "--target", "thing 3", "--labels", str(labels)]
    assert run([*command, *options, "-o", str(out), "--json", "--quiet"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["out"] == str(out)
    assert told["technique"] == "guided"
    assert told["inputs"] == ["image"]
    assert told["outputs"] == ["class", "probability", "probabilities", "heatmap"]
    onnx.checker.check_model(onnx.load(out), full_check=True)
    recipe = onnxviz.Preprocessing((32, 32), (0.5,) * 3, (0.25,) * 3, channels="BGR")
    net = onnxviz.load(toy, provider="cpu", preprocess=recipe)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    found = session(out).run(["heatmap"], {"image": picture[None]})[0][0]
    wanted = onnxviz.saliency(net, picture, method="guided", target=3).values
    np.testing.assert_allclose(found, wanted, atol=1e-5 * wanted.max())


def test_target_fed_layer_fixed_and_over(toy, tmp_path):
    out = tmp_path / "explainer.onnx"
    common = [
        "gradient",
        toy,
        "--technique",
        "layercam",
        "--layer",
        "relu1",
        "--preprocess",
        "unit",
        "--quiet",
    ]
    assert run([*common, "--fixed", "--target", "fed", "-o", str(out)]) == 0
    made = session(out)
    assert [value.name for value in made.get_inputs()] == ["image", "target"]
    assert made.get_inputs()[0].shape[1:] == [32, 32, 3]
    assert json.loads(made.get_modelmeta().custom_metadata_map["onnxviz.explainer"])["layer"] == "relu1"
    assert run([*common, "--over", "picture", "-o", str(out)]) == 0
    picture = np.zeros((1, 40, 70, 3), np.uint8)
    assert session(out).run(["heatmap"], {"image": picture})[0].shape == (1, 40, 70)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--technique", "saliency", "--of", "logits"], "--of: only the gradient model"),
        (["--technique", "saliency", "--rules", "guided"], "--rules: only the gradient model"),
        (["--fixed", "--mean", "0.5"], "--fixed, --mean: only an explainer"),
        (["--target", "3"], "--target: only an explainer"),
        (["--technique", "smoothgrad"], "'smoothgrad'"),
        (["--technique", "grad-cam", "--over", "frame"], "'frame'"),
    ],
)
def test_options_that_do_not_belong_together_are_wrong_usage(toy, tmp_path, capsys, options, said):
    out = tmp_path / "out.onnx"
    assert run(["gradient", toy, *options, "-o", str(out)]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_rules_that_find_no_rectifier_are_told_so(toy, tmp_path, capsys):
    proto = networks.tiny_cnn()
    for node in proto.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Elu"
    onnx.save(proto, tmp_path / "elu.onnx")
    for path, count in ((toy, 2), (str(tmp_path / "elu.onnx"), 0)):
        out = str(tmp_path / "gradient.onnx")
        assert run(["gradient", path, "--rules", "guided", "-o", out, "--json"]) == 0
        told = capsys.readouterr()
        assert json.loads(told.out)["rectifiers"] == count
        assert ("no rectifier" in told.err) == (count == 0)
