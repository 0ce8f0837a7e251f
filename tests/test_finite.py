"""Weights that are NaN, numbers that overflow: told with the weight or the layer, and never ranked or drawn."""

from __future__ import annotations

import json
import warnings

import networks
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import NotFinite
from onnxviz.graph.open.load import load as opened
from tests.techniques import made

SIDE = 32
FLAGS = ["--preprocess", "raw", "--provider", "cpu"]
DARK = np.zeros((SIDE, SIDE, 3), np.uint8)


def shown() -> tuple[bytes, str]:
    """`networks.tiny_cnn` with a NaN among its last weights, and what these are called."""
    model = networks.tiny_cnn(softmax=False)
    tensor = next(one for one in model.graph.initializer if list(one.dims) == [10, 16])
    array = numpy_helper.to_array(tensor).copy()
    array[3, 5] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model.SerializeToString(), tensor.name


def headed(m: networks.Maker, x: str, channels: int) -> bytes:
    y = m("Gemm", m("Flatten", m("GlobalAveragePool", x)), m.random(channels, 5))
    return m.model({"image": ("N", 3, SIDE, SIDE)}, {y: ("N", 5)}).SerializeToString()


def hidden() -> tuple[bytes, str]:
    """A NaN in a filter whose channel nobody reads: all that comes out is finite."""
    m = networks.Maker()
    filters = np.ones((4, 3, 3, 3), np.float32)
    filters[3] = np.nan
    weight = m.constant(filters)
    x = m("Relu", m("Conv", "image", weight))
    x = m("Slice", x, *(m.constant(np.array([n], np.int64)) for n in (0, 3, 1)))
    return headed(m, x, 3), weight


def bright() -> bytes:
    """It overflows in pictures that are not dark: squares of squares, in a layer 'fourth' (a Mul)."""
    m = networks.Maker()
    x = m("Conv", "image", m.constant(np.full((4, 3, 3, 3), 1e9, np.float32)))
    x = m("Mul", x, x)
    return headed(m, m("Mul", x, x), 4)


def load(content: bytes, **options) -> onnxviz.Network:
    return onnxviz.load(content, preprocess="raw", provider="cpu", **options)


def photo(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 256, (SIDE, SIDE, 3), np.uint8)


TECHNIQUES = {
    "predict": lambda net: net.predict(photo()),
    **{
        name: lambda net, name=name: made(name, net, photo())
        for name in ("occlusion", "rise", "score-cam", "saliency")
    },
    "occlusion of a class": lambda net: made("occlusion", net, photo(), target=1),
    "occlusion of a part": lambda net: made(
        "occlusion", net, photo(), objective=f"part({net.layers[-1].name!r}, 3)"
    ),
    "cam": lambda net: onnxviz.cam(net, photo(), target=3),
    "fool": lambda net: made("fool", net, photo(), target=3),
    "embed": lambda net: onnxviz.embed(net, [photo()], layer=net.layers[-1].name),
    "patches": lambda net: onnxviz.patches(net, [photo()], net.layers[-1].name, channel=3),
}


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_scores_that_are_nan_are_refused_naming_the_weight(technique):
    content, name = shown()
    net = load(content)
    with warnings.catch_warnings(), pytest.raises(NotFinite, match=f"'{name}' holds 1 NaN"):
        warnings.simplefilter("error")
        TECHNIQUES[technique](net)
    assert NotFinite.exit_code == 3
    assert any(f"'{name}' holds 1 NaN among its 160 elements" in text for text in net.warnings)


@pytest.mark.parametrize("isolate", [False, True])
def test_a_nan_that_does_not_show_is_a_warning(isolate):
    content, name = hidden()
    net = load(content, isolate=isolate)
    assert all(np.isfinite(one.probability) for one in net.predict(photo())[0])
    told = [text for text in net.warnings if f"the weight '{name}' holds 27 NaN" in text]
    assert len(told) == 1
    found = onnxviz.occlusion(net, photo(), target=0, window=16, stride=16)
    assert [text for text in found.manifest["warnings"] if f"'{name}'" in text] == told
    assert len(onnxviz.filters(load(content)).manifest["warnings"]) == 1


@pytest.mark.parametrize(
    "command",
    [
        "gradient m.onnx -o g.onnx",
        "expose m.onnx -o g.onnx",
        "gradient m.onnx --technique saliency --preprocess raw -o g.onnx",
        "predict m.onnx a.png --json --preprocess raw --provider cpu",
    ],
)
def test_files_that_are_made_of_it_are_told_of_too(command, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, name = hidden()
    (tmp_path / "m.onnx").write_bytes(content)
    Image.fromarray(photo()).save(tmp_path / "a.png")
    assert run(command.split()) == 0
    told = capsys.readouterr()
    assert f"the weight '{name}' holds 27 NaN" in told.err
    if "--json" in command:
        assert any(f"'{name}'" in text for text in json.loads(told.out)["manifest"]["warnings"])


def test_no_row_of_nan_is_printed(tmp_path, capsys):
    content, name = shown()
    (tmp_path / "m.onnx").write_bytes(content)
    for seed in range(3):
        Image.fromarray(photo(seed)).save(tmp_path / f"{seed}.png")
    assert run(["predict", str(tmp_path / "m.onnx"), str(tmp_path), *FLAGS]) == 3
    told = capsys.readouterr()
    assert "nan%" not in told.out and f"'{name}'" in told.err
    assert told.err.count("the scores are NaN") == 1


def test_an_overflow_names_the_layer_where_it_begins():
    net = load(bright())
    first, second = (layer.name for layer in net.layers if layer.op == "Mul")
    told = f"all weights are finite, and the numbers overflow at layer '{second}'"
    with pytest.raises(NotFinite, match=told):
        net.predict(photo())
    assert np.isfinite(net.activations(photo(), first)[first]).all()
    with pytest.raises(NotFinite, match="picture 1 .from 0. of 2"):
        net.predict([DARK, photo()])
    assert len(net.predict(DARK)[0]) == 5
    x = net.prepare(photo())
    x[0, 0, 3, 3] = np.nan
    with pytest.raises(NotFinite, match="the given tensor holds NaN"):
        net.predict(x)


def test_one_picture_of_a_folder_that_overflows_is_left_out(tmp_path, capsys):
    (tmp_path / "m.onnx").write_bytes(bright())
    Image.fromarray(photo()).save(tmp_path / "bright.png")
    Image.fromarray(DARK).save(tmp_path / "dark.png")
    assert run(["predict", str(tmp_path / "m.onnx"), str(tmp_path), *FLAGS, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["path"].endswith("dark.png") for one in listed["images"]] == [True]
    assert [one["path"].endswith("bright.png") for one in listed["skipped"]] == [True]


def test_what_is_not_finite_is_not_ranked():
    net = load(bright())
    layer = [one.name for one in net.layers if one.op == "Mul"][1]
    found = onnxviz.patches(net, [photo(), DARK, photo(1)], layer, top=2)
    assert found.layers[0].index[:, 0].tolist() == [1] * 4
    assert found.layers[0].index[:, 1].tolist() == [-1] * 4
    assert found.layers[0].undefined.tolist() == [2] * 4
    assert any("8 values are NaN or infinite, and not ranked" in text for text in found.manifest["warnings"])


def test_masks_and_bounds_of_infinity_are_meant():
    m = networks.Maker()
    mask = m.constant(np.array([0, -np.inf, 0, -np.inf, 0], np.float32))
    x = m("Gemm", m("Flatten", m("GlobalAveragePool", "image")), m.random(3, 5))
    y = m("Softmax", m("Add", x, mask), axis=1)
    net = load(m.model({"image": ("N", 3, SIDE, SIDE)}, {y: ("N", 5)}).SerializeToString())
    assert all(one.probability == 0 for one in net.predict(photo())[0] if one.index in (1, 3))
    assert net.findings == []


@pytest.mark.parametrize(
    "kind", [onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE]
)
@pytest.mark.parametrize("odd", [np.nan, -np.nan, np.inf, -np.inf, None])
def test_narrow_and_wide_types_are_looked_at_alike(kind, odd):
    values = np.linspace(-3e38 if kind == onnx.TensorProto.BFLOAT16 else -65504, 7, 3000).astype(np.float32)
    if odd is not None:
        values[1234] = odd
    tensor = onnx.helper.make_tensor("w", kind, [3000], values.astype(np.float64))
    m = networks.Maker()
    m.weights.append(tensor)
    model = m.model({"image": ("N", 3, 8, 8)}, {m("Identity", "w"): [3000]})
    model.graph.output[0].type.tensor_type.elem_type = kind
    assert len(opened(model).findings()) == (odd is not None)
