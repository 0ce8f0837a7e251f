"""Pictures that are too small for a network of open size: refused before anything runs, left out of sweeps, counted.

The networks here end in a pool of windows of 5×5 behind a stride of 2: the smallest picture has 10×10 pixels. Below 9
the pool's size is negative, which ONNX Runtime refuses by itself; at 8 or 9 it is 0, which ends its process.
"""

from __future__ import annotations

import json
import subprocess
import sys

import networks
import numpy as np
import pytest
from PIL import Image

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import ImageRejected
from tests.techniques import made

SMALL, ZERO, FITS = 5, 8, 10
FLAGS = ["--preprocess", "unit", "--resize", "keep", "--provider", "cpu"]


def pooled(size: int | None = None) -> bytes:
    """image (N, 3, H, W) -> Conv, Relu, pool 2, Conv, Relu, pool of 5×5 without padding, head -> scores (N, 4)."""
    m = networks.Maker()
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), pads=[1] * 4))
    x = m("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = m("Relu", m("Conv", x, m.random(16, 8, 3, 3), pads=[1] * 4))
    x = m("AveragePool", x, kernel_shape=[5, 5])
    y = m("Gemm", m("Flatten", m("GlobalAveragePool", x)), m.random(16, 4))
    sides = ("H", "W") if size is None else (size, size)
    return m.model({"image": ("N", 3, *sides)}, {y: ("N", 4)}).SerializeToString()


@pytest.fixture(scope="module")
def net() -> onnxviz.Network:
    return opened()


def photo(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Three pictures, of which the second is too small."""
    (tmp_path / "toy.onnx").write_bytes(pooled())
    (tmp_path / "photos").mkdir()
    for name, side in (("a", 24), ("b", SMALL), ("c", 16)):
        Image.fromarray(photo(side)).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path


def opened(model=None, **options) -> onnxviz.Network:
    return onnxviz.load(model or pooled(), preprocess="unit", resize="keep", provider="cpu", **options)


RUNS = {
    "predict": onnxviz.predict,
    "activations": lambda net, x: onnxviz.activations(net, x, net.layers[-2].name),
    "occlusion": lambda net, x: onnxviz.occlusion(net, x, target=0, window=2, stride=2),
    **{
        name: lambda net, x, name=name: made(name, net, x, target=0)
        for name in ("rise", "saliency", "cam", "score-cam", "fool")
    },
    "torch": lambda net, x: onnxviz.saliency(opened(backend="torch"), x, target=0),
    "isolated": lambda net, x: onnxviz.predict(opened(isolate=True), x),
    "gradient": lambda net, x: net.value_and_gradient(onnxviz.objectives.logit(0))(net.prepare(x)),
    "ascent": lambda net, x: onnxviz.ascent(net, target=0, size=x.shape[:2], steps=1),
    "embed": lambda net, x: onnxviz.embed(net, [x]),
    "patches": lambda net, x: onnxviz.patches(net, [x], net.layers[-2].name),
}


def test_a_convolution_that_cuts_off_more_than_it_makes():
    m = networks.Maker()
    x = m("ConvTranspose", m("Conv", "image", m.random(8, 3, 3, 3)), m.random(8, 8, 3, 3), pads=[8] * 4)
    y = m("Gemm", m("Flatten", m("GlobalAveragePool", x)), m.random(8, 4))
    net = opened(m.model({"image": ("N", 3, "H", "W")}, {y: ("N", 4)}))
    assert len(net.predict(photo(17))) == 1
    with pytest.raises(ImageRejected, match="makes a value of 1×8×-6×-6 places; the smallest .* 17×17"):
        net.predict(photo(10))


@pytest.mark.parametrize("technique", RUNS)
def test_every_technique_refuses_a_picture_that_is_too_small(technique, net) -> None:
    with pytest.raises(ImageRejected, match=r"windows of 5×5 do not fit into the 2×2 places"):
        RUNS[technique](net, photo(SMALL))


def test_the_message_names_the_smallest_size_and_that_goes_through(net) -> None:
    with pytest.raises(ImageRejected, match=f"5×5 pixels .* has {FITS}×{FITS}"):
        onnxviz.predict(net, photo(SMALL))
    with pytest.raises(ImageRejected, match="40×8 pixels"):
        onnxviz.predict(net, photo(40)[:8])
    assert len(onnxviz.predict(net, photo(FITS))[0]) == 4


def test_a_layer_before_the_pool_takes_what_the_scores_do_not(net) -> None:
    name = next(layer.name for layer in net.layers if layer.op == "MaxPool")
    assert net.activations(photo(SMALL), name)[name].shape == (1, 8, 2, 2)
    assert np.isfinite(onnxviz.saliency(net, photo(SMALL), layer=name, channel=0).values).all()


def test_a_stream_leaves_it_out_and_lists_it(net) -> None:
    pictures = [photo(16), photo(SMALL), photo(16, 1), photo(24), photo(SMALL, 2)]
    found = onnxviz.embed(net, pictures)
    assert [one.path.name for one in found.skipped] == ["image 1", "image 4"]
    assert all("too few" in one.reason for one in found.skipped)
    assert found.manifest["figures"]["skipped"] == 2
    assert list(found.files) == ["image 0", "image 2", "image 3"]
    alone = [onnxviz.embed(net, [pictures[i]]).values[0] for i in (0, 2, 3)]
    np.testing.assert_allclose(found.values, alone, rtol=1e-5)


def test_a_size_for_all_ends_a_stream_at_once() -> None:
    net = onnxviz.load(pooled(), preprocess="unit", size=SMALL, provider="cpu")
    with pytest.raises(ImageRejected, match="5×5 pixels are too few"):
        onnxviz.embed(net, [photo(16)] * 40)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("predict", ""),
        ("occlusion", "--window 4 --stride 8 --target 0 -o o.png"),
        ("embed", "-o e.npy"),
        ("neighbours", "-o o.png"),
        ("activations", "--layer {pool} -o o.png"),
        ("patches", "--layer {pool} -o p"),
    ],
)
@pytest.mark.parametrize("odd", [False, True], ids=["small", "odd"])
def test_a_folder_loses_the_odd_picture_and_says_so(
    command, options, odd, folder, capsys, monkeypatch
) -> None:
    monkeypatch.chdir(folder)
    if odd:
        (folder / "toy.onnx").write_bytes(forked())
        Image.fromarray(photo(15)).save(folder / "photos" / "b.png")
    layers = opened(folder / "toy.onnx").layers
    pool = next(layer.name for layer in layers if layer.op in ("AveragePool", "Concat"))
    given = options.format(pool=pool).split()
    code = run([command, "toy.onnx", "photos", *given, *FLAGS, "--json"])
    told = capsys.readouterr()
    assert code == 0, told.err
    words = (
        ["a picture of this size does not go through"] if odd else ["5×5 pixels", "the picture has too few"]
    )
    assert any(f"b.png: {one}" in told.err for one in words)
    listed = json.loads(told.out)
    skipped = listed.get("skipped") or listed["manifest"]["skipped"]
    assert [one["path"].endswith("b.png") for one in skipped] == [True]


def test_a_folder_of_maps_of_one_size_loses_it_too(folder, capsys) -> None:
    Image.fromarray(photo(24, 5)).save(folder / "photos" / "c.png")
    for command in ("saliency", "cam"):
        out = ["--target", "0", "-o", str(folder / "o.png")]
        assert run([command, str(folder / "toy.onnx"), str(folder / "photos"), *FLAGS, *out]) == 0
        assert "skipped" in capsys.readouterr().err
        assert "b.png" in json.loads((folder / "o.json").read_text())["skipped"][0]


@pytest.mark.parametrize(
    ("command", "size", "fits"),
    [
        ("predict toy.onnx", ZERO, FITS),
        ("saliency toy.onnx --target 0 -o o.png", ZERO, FITS),
        ("predict squeezenet.onnx", 20, 23),
    ],
)
def test_a_size_of_zero_ends_with_a_line_and_not_with_a_signal(command, size, fits, folder) -> None:
    """SIGFPE before; in a child, since it would end the tests."""
    if "squeezenet" in command:
        (folder / "squeezenet.onnx").write_bytes(networks.light("squeezenet").SerializeToString())
    name, model, *options = command.split()
    line = [sys.executable, "-m", "onnxviz", name, model, "photos/a.png", *options, "--provider", "cpu"]
    line += ["--preprocess", "unit", "--size", str(size)]
    done = subprocess.run(line, check=False, capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 3, done.stderr
    assert f"{size}×{size} pixels are too few" in done.stderr or size == ZERO, done.stderr
    assert f"take --size {fits}x{fits} or more" in done.stderr


def test_tensors_without_a_picture_are_a_mistake_of_the_caller(net) -> None:
    with pytest.raises(onnxviz.errors.UsageError, match="no picture was given"):
        net.activations(np.zeros((0, 3, 16, 16), np.float32), net.layers[0].name)
    with pytest.raises(ImageRejected, match="0×0 places"):
        net.activations(np.zeros((1, 3, 0, 0), np.float32), net.layers[0].name)


def forked() -> bytes:
    """Two branches that halve the picture, rounding up and down: an odd side does not go through their Concat."""
    m = networks.Maker()
    x = m("Relu", m("Conv", "image", m.random(4, 3, 3, 3), pads=[1] * 4, strides=[2, 2]))
    x = m("Concat", x, m("MaxPool", "image", kernel_shape=[2, 2], strides=[2, 2]), axis=1)
    x = m("Relu", m("Conv", x, m.random(8, 7, 3, 3), pads=[1] * 4))
    y = m("Gemm", m("Flatten", m("GlobalAveragePool", x)), m.random(8, 4))
    return m.model({"image": ("N", 3, "H", "W")}, {y: ("N", 4)}).SerializeToString()


@pytest.mark.parametrize("isolate", [False, True])
def test_sizes_that_do_not_go_together_are_the_pictures_fault(isolate) -> None:
    net = opened(forked(), isolate=isolate)
    for technique in ("predict", "saliency", "occlusion"):
        with pytest.raises(ImageRejected, match="this size does not go through .*Concat"):
            RUNS[technique](net, photo(15))
    pictures = [photo(16), photo(15), photo(24)]
    found = onnxviz.embed(net, pictures)
    assert [one.path.name for one in found.skipped] == ["image 1"]
    alone = [onnxviz.embed(net, [pictures[i]]).values[0] for i in (0, 2)]
    np.testing.assert_allclose(found.values, alone, rtol=1e-5)


def test_inspect_says_that_the_size_is_too_small(folder, capsys) -> None:
    for size in (SMALL, FITS):
        assert run(["inspect", str(folder / "toy.onnx"), "--preprocess", "unit", "--size", str(size)]) == 0
        assert (f"{size}×{size} pixels are too few" in capsys.readouterr().out) == (size == SMALL)
