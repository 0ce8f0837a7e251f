"""The command that writes gradient models and explainers."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import onnxviz
from tests import networks


def session(path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def test_an_explainer_is_written_with_the_preprocessing_that_was_given(shell):
    line = "gradient tiny.onnx --technique guided --target 'thing 3' --labels ten.txt --preprocess unit --size 32"
    told = shell(f"{line} --mean 0.5 --std 0.25 --channels BGR -o explainer.onnx --json --quiet").json
    assert (told["out"], told["technique"], told["inputs"]) == ("explainer.onnx", "guided", ["image"])
    assert told["outputs"] == ["class", "probability", "probabilities", "heatmap"]
    onnx.checker.check_model(onnx.load("explainer.onnx"), full_check=True)
    recipe = onnxviz.Preprocessing((32, 32), (0.5,) * 3, (0.25,) * 3, channels="BGR")
    net = onnxviz.load(networks.tiny_cnn(), provider="cpu", preprocess=recipe)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    found = session("explainer.onnx").run(["heatmap"], {"image": picture[None]})[0][0]
    wanted = onnxviz.saliency(net, picture, method="guided", target=3).values
    np.testing.assert_allclose(found, wanted, atol=1e-5 * wanted.max())


def test_target_fed_layer_fixed_and_over(shell):
    line = "gradient tiny.onnx --technique layercam --layer relu1 --preprocess unit --quiet -o explainer.onnx"
    assert shell(f"{line} --fixed --target fed").code == 0
    made = session("explainer.onnx")
    assert [value.name for value in made.get_inputs()] == ["image", "target"]
    assert made.get_inputs()[0].shape[1:] == [32, 32, 3]
    assert json.loads(made.get_modelmeta().custom_metadata_map["onnxviz.explainer"])["layer"] == "relu1"
    assert shell(f"{line} --over picture").code == 0
    picture = np.zeros((1, 40, 70, 3), np.uint8)
    assert session("explainer.onnx").run(["heatmap"], {"image": picture})[0].shape == (1, 40, 70)


def test_rules_that_find_no_rectifier_are_told_so(shell):
    proto = networks.tiny_cnn()
    for node in proto.graph.node:
        node.op_type = "Elu" if node.op_type == "Relu" else node.op_type
    Path("elu.onnx").write_bytes(proto.SerializeToString())
    for path, count in (("tiny.onnx", 2), ("elu.onnx", 0)):
        told = shell(f"gradient {path} --rules guided -o gradient.onnx --json")
        assert told.json["rectifiers"] == count
        assert ("no rectifier" in told.err) == (count == 0)
