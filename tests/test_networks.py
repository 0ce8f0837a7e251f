"""Every command of the contract on every kind of network: the nine classic architectures and the odd forms."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import networks
import numpy as np
import onnx
import pytest

import onnxviz
from onnxviz.cli.main import run

ODD = {
    "fp16": lambda: networks.fp16(networks.light("squeezenet", width=256)),
    "qdq": lambda: networks.qdq(networks.light("squeezenet", width=256)),
    "qoperator": lambda: networks.qoperator(networks.light("squeezenet", width=256)),
    "nhwc": networks.nhwc,
    "static_batch": networks.static_batch,
}


def third_party() -> Path:
    """A trained text-direction classifier of the PaddleOCR project, as another exporter wrote it."""
    package = importlib.util.find_spec("rapidocr_onnxruntime")
    assert package is not None, "the test command installs rapidocr-onnxruntime for its models"
    return Path(package.origin).parent / "models" / "ch_ppocr_mobile_v2.0_cls_infer.onnx"


@pytest.fixture(scope="module", params=["bundled", "third_party", *networks.LIGHT, *ODD])
def model(request, tmp_path_factory) -> str:
    if request.param == "bundled":
        return "efficientnet-lite0"
    if request.param == "third_party":
        return str(third_party())
    path = tmp_path_factory.mktemp("model") / f"{request.param}.onnx"
    proto = ODD[request.param]() if request.param in ODD else networks.light(request.param, width=256)
    onnx.save(proto, path)
    return str(path)


@pytest.fixture(scope="module")
def described(model) -> dict:
    return onnxviz.inspect(onnxviz.load(model, provider="cpu")).to_dict()


def command(*arguments, capsys) -> dict:
    code = run([*map(str, arguments), "--json", "--quiet", "--provider", "cpu"])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out)


def middle(described) -> str:
    """A layer with feature maps, about a third into the network."""
    maps = [
        layer["name"]
        for layer in described["layers"]
        if len(layer["shape"]) == 4 and layer["op"] != "Identity"
    ]
    return maps[len(maps) // 3]


def test_inspect(model, capsys):
    value = command("inspect", model, capsys=capsys)
    assert value["schema"] == "onnxviz.inspect/1"
    assert value["parameters"] > 1000
    assert value["macs"] > 1000
    convolutions = [layer for layer in value["layers"] if "Conv" in layer["op"]]
    assert convolutions
    assert convolutions[0]["receptive_field"][0] >= 1
    assert convolutions[0]["macs"] > 0


def test_predict(model, photo_files, capsys):
    value = command("predict", model, *photo_files, "--top", 2, capsys=capsys)
    assert [Path(row["path"]) for row in value["images"]] == photo_files
    for row in value["images"]:
        assert len(row["top"]) == 2
        assert 0 <= row["top"][1]["probability"] <= row["top"][0]["probability"] <= 1


def test_expose(model, described, tmp_path, capsys):
    layer = middle(described)
    out = tmp_path / "exposed.onnx"
    value = command("expose", model, "--layer", layer, "-o", out, capsys=capsys)
    assert layer in value["outputs"]
    assert layer in [output.name for output in onnx.load(out, load_external_data=False).graph.output]


def test_filters(model, tmp_path, capsys):
    out = tmp_path / "filters.png"
    value = command("filters", model, "-o", out, capsys=capsys)
    weights = np.load(out.with_suffix(".npy"))
    assert list(weights.shape) == value["manifest"]["figures"]["shape"]
    assert weights.dtype == np.float32
    assert np.ptp(weights) > 0


def test_activations(model, described, photo_files, tmp_path, capsys):
    out = tmp_path / "maps.png"
    command("activations", model, photo_files[0], "--layer", middle(described), "-o", out, capsys=capsys)
    maps = np.load(out.with_suffix(".npy"))
    assert maps.ndim == 3
    assert np.ptp(maps) > 0


def test_occlusion_and_rise(model, described, photo_files, tmp_path, capsys):
    out = tmp_path / "occlusion.png"
    edge = min(described["preprocessing"]["size"])
    window, stride = edge // 4, edge // 3
    command(
        "occlusion", model, photo_files[0], "--window", window, "--stride", stride, "-o", out, capsys=capsys
    )
    values = np.load(out.with_suffix(".npy"))
    assert values.ndim == 2
    assert np.isfinite(values).all()
    out = tmp_path / "rise.png"
    command("rise", model, photo_files[0], "--masks", 8, "-o", out, capsys=capsys)
    assert np.isfinite(np.load(out.with_suffix(".npy"))).all()


def test_patches(model, described, photo_files, tmp_path, capsys):
    folder = photo_files[0].parent
    layer = middle(described)
    out = tmp_path / "patches"
    command("patches", model, folder, "--layer", layer, "--channel", 0, "--top", 2, "-o", out, capsys=capsys)
    assert (out / "patches.csv").is_file()
    assert list(out.rglob("*.png"))


def test_embed_neighbours_and_map(model, photo_files, tmp_path, capsys):
    folder = photo_files[0].parent
    features = tmp_path / "features.npy"
    command("embed", model, folder, "-o", features, capsys=capsys)
    assert np.load(features).shape[0] == len(photo_files)
    command("neighbours", model, folder, "-k", 2, "-o", tmp_path / "neighbours.png", capsys=capsys)
    command("map", model, folder, "--method", "pca", "-o", tmp_path / "map.png", capsys=capsys)
    assert np.load(tmp_path / "map.npy").shape == (len(photo_files), 2)
    assert (tmp_path / "neighbours.png").is_file()
