"""Networks of any number of channels: arrays and .npy files go through what explains; grey stays grey."""

from __future__ import annotations

import io
import itertools
import json

import networks
import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import ImageRejected, ModelUnsuitable, UsageError
from onnxviz.synthesis.machine import Machine
from onnxviz.synthesis.parametrise import Fourier, Pixels
from onnxviz.synthesis.updates import Ascent
from tests.techniques import made

RNG = np.random.default_rng(3)
SIDE = 24


def network(channels: int, layout: str = "NCHW", size: tuple = (SIDE, SIDE)):
    m = networks.Maker(seed=channels)
    x = m("Transpose", "x", perm=[0, 3, 1, 2]) if layout == "NHWC" else "x"
    x = m("Relu", m("Conv", x, m.random(8, channels, 3, 3), m.random(8), pads=[1] * 4, strides=[2, 2]))
    x = m("Relu", m("Conv", x, m.random(8, 8, 3, 3), m.random(8), pads=[1] * 4))
    y = m("Gemm", m("Flatten", m("GlobalAveragePool", x)), m.random(8, 4), m.random(4))
    shape = ("N", channels, *size) if layout == "NCHW" else ("N", *size, channels)
    return m.model({"x": shape}, {y: ("N", 4)})


def ran(model, x: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x.astype(np.float32)})[0]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", [2, 5, 13])
def test_what_goes_in(channels, layout, tmp_path):
    """The network's own values go in as they are, bytes as pixels of 0 to 1; whatever axis holds the channels."""
    net = onnxviz.load(network(channels, layout), provider="cpu")
    assert any(f"{channels} channels" in text and ".npy" in text for text in net.warnings)
    first = RNG.standard_normal((channels, SIDE, SIDE)).astype(np.float32)
    last = first.transpose(1, 2, 0)
    own = first if layout == "NCHW" else last
    np.save(tmp_path / "a.npy", last)
    np.save(tmp_path / "b.npy", own[None].astype(np.float64))
    for given in (first, last, tmp_path / "a.npy", str(tmp_path / "b.npy"), own[None].astype(np.float32)):
        np.testing.assert_allclose(net.prepare(given)[0], own, rtol=1e-5, atol=1e-6)
    octets = RNG.integers(0, 256, (SIDE, SIDE, channels), dtype=np.uint8)
    wanted = octets / 255 if layout == "NHWC" else octets.transpose(2, 0, 1) / 255
    np.testing.assert_allclose(net.prepare(octets)[0], wanted, atol=1e-6)
    centred = onnxviz.load(network(channels, layout), provider="cpu", mean=(0.5,), std=(0.25,))
    np.testing.assert_allclose(centred.prepare(octets)[0], (wanted - 0.5) / 0.25, atol=1e-5)
    np.testing.assert_allclose(centred.prepare(first)[0], own, rtol=1e-5, atol=1e-5)


def test_arrays_are_resized_plane_by_plane():
    net = onnxviz.load(network(5, size=("H", "W")), provider="cpu", size=(16, 16))
    array = RNG.standard_normal((20, 32, 5)).astype(np.float32)
    found = net.prepare(array)[0]
    assert found.shape == (5, 16, 16)
    for plane, given in zip(found, array.transpose(2, 0, 1), strict=True):
        picture = Image.fromarray(given).resize((25, 16), Image.Resampling.BILINEAR)
        np.testing.assert_allclose(plane, np.asarray(picture)[:, 4:20], atol=1e-4)


@pytest.fixture(scope="module")
def six():
    return onnxviz.load(network(6), provider="cpu")


def bands(channels: int = 6) -> np.ndarray:
    return RNG.standard_normal((channels, SIDE, SIDE)).astype(np.float32)


def probability(model, x, index: int) -> float:
    e = np.exp(ran(model, x[None])[0].astype(np.float64))
    return (e / e.sum())[index]


@pytest.mark.parametrize(
    ("technique", "options"),
    [
        *((name, {}) for name in ("saliency", "cam", "occlusion", "rise", "segment")),
        *(("integrated-gradients", {"baseline": baseline}) for baseline in ("blur", "black")),
        *((name, {}) for name in ("smoothgrad", "expected-gradients")),
    ],
)
def test_attributions(technique, options, six):
    x, model = bands(), network(6)
    found = made(technique, six, x, target=1, **options)
    assert found.values.shape == (SIDE, SIDE) and np.isfinite(found.values).all() and found.values.any()
    assert found.image.shape == (SIDE, SIDE, 3) and found.image.dtype == np.uint8
    assert (
        found.image.std() > 5 and np.ptp(found.image, axis=2).max() == 0
    )  # the mean of the channels, in grey
    found.picture()
    if technique == "segment":  # what is hidden is the mean of each channel
        rest = x.mean(axis=(1, 2), keepdims=True)
        for mask, name in ((found.values > 0, "alone"), (found.values == 0, "without")):
            expected = probability(model, np.where(mask, x, rest), 1)
            np.testing.assert_allclose(found.manifest["figures"][name], expected, rtol=1e-3)
    if technique == "saliency":
        tensor = onnxviz.saliency(six, x[None], target=1)[0]
        np.testing.assert_allclose(found.values, tensor.values, rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(found.score, probability(model, x, 1), rtol=1e-4)


@pytest.mark.parametrize("fill", ["grey", "mean", "blur", "noise", "zero"])
def test_what_hides_an_array(fill, six):
    """Brute force: each window hidden by hand."""
    x, model = bands(), network(6)
    found = onnxviz.occlusion(six, x, target=2, window=12, stride=12, fill=fill)
    assert np.isfinite(found.values).all() and np.ptp(found.values) > 0
    if fill not in ("mean", "zero"):
        return
    hidden = x.mean(axis=(1, 2), keepdims=True) if fill == "mean" else np.zeros((6, 1, 1), np.float32)
    for top, left in itertools.product((0, 12), repeat=2):
        covered = x.copy()
        covered[:, top : top + 12, left : left + 12] = hidden
        fall = probability(model, x, 2) - probability(model, covered, 2)
        np.testing.assert_allclose(found.values[top + 3, left + 3], fall, rtol=2e-3, atol=1e-6)


def test_folders_of_arrays(tmp_path, six):
    """embed and patches take the .npy files of a folder, and nothing else of it."""
    net = six
    arrays = RNG.standard_normal((3, 6, SIDE, SIDE)).astype(np.float32)
    for number, array in enumerate(arrays):
        np.save(tmp_path / f"{number}.npy", array)
    Image.new("RGB", (8, 8)).save(tmp_path / "preview.png")
    found = onnxviz.embed(net, tmp_path)
    assert found.features.shape == (3, 8) and not found.skipped
    name = net.head.features
    expected = net.run(arrays, [name])[name].reshape(3, 8)
    np.testing.assert_allclose(found.features, expected, rtol=1e-4, atol=1e-6)
    best = onnxviz.patches(net, tmp_path, net.layers[1].name, top=2)
    maps = net.run(arrays, [net.layers[1].name])[net.layers[1].name]
    peaks = np.sort(maps.max(axis=(2, 3)), axis=0)[::-1][:2].T
    np.testing.assert_allclose(best.layers[0].unclipped, peaks, rtol=1e-4, atol=1e-5)
    best.picture()
    found = onnxviz.activations(net, tmp_path / "0.npy", net.layers[1].name)
    np.testing.assert_allclose(found.values, maps[0], rtol=1e-4, atol=1e-5)


def test_the_command_line(tmp_path, capsys):
    model = tmp_path / "bands.onnx"
    model.write_bytes(network(6).SerializeToString())
    array = tmp_path / "scene.npy"
    np.save(array, RNG.standard_normal((6, SIDE, SIDE)).astype(np.float32))
    Image.new("RGB", (30, 30), (200, 10, 10)).save(tmp_path / "photo.png")
    for command in (["saliency"], ["cam"], ["occlusion", "--window", "12"], ["rise", "--masks", "8"]):
        out = tmp_path / f"{command[0]}.png"
        assert run([command[0], str(model), str(array), *command[1:], "-o", str(out), "--target", "1"]) == 0
        assert np.load(out.with_suffix(".npy")).shape == (SIDE, SIDE)
        assert json.loads(out.with_suffix(".json").read_text())["preprocessing"]["channels"] == "6"
    assert run(["predict", str(model), str(array), "--json"]) == 0
    assert "6 channels" in capsys.readouterr().err
    for command in ("saliency", "predict", "occlusion"):
        assert run([command, str(model), str(tmp_path / "photo.png")]) == 3
        assert "(H, W, 6)" in capsys.readouterr().err


def test_what_is_refused(tmp_path, six):
    net = six
    photo = np.zeros((SIDE, SIDE, 3), np.uint8)
    for given, words in (
        (photo, r"\(24, 24, 3\), uint8.*6 channels"),
        (np.zeros((6, SIDE, SIDE), np.uint8), "transpose"),
        (np.full((6, SIDE, SIDE), np.nan, np.float32), "not finite"),
        (np.zeros((6, SIDE, SIDE), complex), "no numbers"),
        (np.zeros((SIDE, SIDE), np.float32), "6 channels"),
        (Image.new("RGB", (9, 9)), "6 channels"),
        ("photo.jpg", "photo.jpg.*6 channels"),
        (tmp_path / "none.npy", "no such file"),
    ):
        with pytest.raises(ImageRejected, match=words):
            net.prepare(given)
    layer = net.layers[1].name
    for make in (
        lambda: onnxviz.ascent(net, target=1, steps=2),
        lambda: onnxviz.dream(net, photo, layer),
        lambda: onnxviz.invert(net, photo, layer),
        lambda: onnxviz.texture(net, photo, layers=[layer]),
        lambda: onnxviz.style(net, photo, photo),
        lambda: onnxviz.fool(net, photo, target=1),
        lambda: onnxviz.explainer_model(net, "saliency"),
    ):
        with pytest.raises(ModelUnsuitable, match="6 channels"):
            make()
    with pytest.raises(UsageError, match="takes 6 channels"):
        onnxviz.load(network(6), channels="RGB")


def test_files_of_strangers(tmp_path, six):
    path = tmp_path / "x.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ImageRejected, match="Python objects"):
        six.prepare(path)
    whole = io.BytesIO()
    np.save(whole, np.zeros((6, SIDE, SIDE), np.float32))
    data = whole.getvalue()
    bomb = data[:128].replace(b"(6, 24, 24)", b"(6, 2**40,)"[:11])
    huge = data[:128].replace(b"(6, 24, 24), ", b"(99999999999,")
    for bad in (data[:90], data[:500], b"\x93NUMPY\x09\x09", b"", b"hello", bomb, huge):
        path.write_bytes(bad)
        with pytest.raises(ImageRejected):
            six.prepare(path)


def test_four_channels_as_they_are():
    """Pictures are opaque; an array of four channels is no picture with transparency."""
    net = onnxviz.load(network(4), provider="cpu")
    octets = RNG.integers(0, 256, (SIDE, SIDE, 4), dtype=np.uint8)
    np.testing.assert_allclose(net.prepare(octets)[0], octets.transpose(2, 0, 1) / 255, atol=1e-6)
    opaque = net.prepare(octets[:, :, :3].copy())[0]
    np.testing.assert_allclose(opaque[:3], octets[:, :, :3].transpose(2, 0, 1) / 255, atol=1e-6)
    assert (opaque[3] == 1).all()
    alone = RNG.standard_normal((1, 4, SIDE, SIDE)).astype(np.float32)  # a batch of one
    np.testing.assert_allclose(net.prepare(alone), alone, rtol=1e-5, atol=1e-5)
    numbered = onnxviz.load(network(3), provider="cpu", channels="3")
    own = RNG.standard_normal((3, SIDE, SIDE)).astype(np.float32)
    np.testing.assert_allclose(numbered.prepare(own)[0], own, rtol=1e-5, atol=1e-6)


# --- grey -----------------------------------------------------------------------------------------


def test_one_channel_makes_grey_pictures():
    """Every maker of pictures moves one plane, and what it says of it is what the network says of the grey picture."""
    model = network(1)
    net = onnxviz.load(model, provider="cpu")
    photo = RNG.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    layer = {"layers": net.layers[1].name}
    options = {
        "ascent": {"target": 1},
        "invert": layer,
        "dream": {**layer, "size": SIDE},
        "fool": {"target": 1},
    }
    for technique, given in options.items():
        picture = np.asarray(made(technique, net, photo, **given).values)
        assert picture.shape[-1] == 3 and np.ptp(picture, axis=-1).max() == 0, technique
        assert picture.std() > 0, technique
    for way in (Pixels(deviation=0.1), Fourier()):
        machine = Machine(net, onnxviz.objectives.logit(2), parametrise=way, optimiser=Ascent(0.02, "rms"))
        step = next(machine.run(1, seed=1))
        picture = step.pictures()[0]
        assert step.parameters().shape[1] == 1
        x = (picture[None, :, :, :1].transpose(0, 3, 1, 2)).astype(np.float32)  # the preset 'unit'
        np.testing.assert_allclose(step.value[0], ran(model, x)[0, 2], rtol=1e-4, atol=1e-5)
