"""Sizes that a file fixes in one direction only."""

from __future__ import annotations

import networks
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from PIL import Image

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import OnnxVizError, PreprocessingRejected, ProviderUnavailable, UsageError

RNG = np.random.default_rng(0)
WIDE = RNG.integers(0, 256, (48, 160, 3), dtype=np.uint8)
TALL = RNG.integers(0, 256, (90, 60, 3), dtype=np.uint8)


def network(height, width, channels: int = 1):
    """As text recognisers are: weights fix the height where it is a number; the head averages over the width."""
    m = networks.Maker()
    x = m("Relu", m("Conv", "image", m.random(6, channels, 3, 3), pads=[1] * 4, strides=[2, 2]))
    if isinstance(height, int):
        x = m("Conv", x, m.random(6, 6, height // 2, 1))
    elif isinstance(width, int):
        x = m("Conv", x, m.random(6, 6, 1, width // 2))
    y = m("Gemm", m("Flatten", m("GlobalAveragePool", m("Relu", x))), m.random(6, 5), m.random(5))
    return m.model({"image": ("N", channels, height, width)}, {y: ("N", 5)})


def logits(model, x):
    return ort.InferenceSession(model.SerializeToString()).run(None, {"image": x})[0]


def test_a_fixed_height_and_an_open_width():
    model = network(64, "W")
    net = onnxviz.load(model, provider="cpu")
    assert net.preprocessing.size == (64, None)
    assert net.prepare(WIDE).shape == (1, 1, 64, round(160 * 64 / 48))
    assert net.prepare(TALL).shape == (1, 1, 64, round(60 * 64 / 90))
    grey = Image.fromarray(WIDE).convert("L").resize((213, 64), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(net.prepare(WIDE)[0, 0], np.asarray(grey) / np.float32(255), atol=1e-6)
    found = onnxviz.saliency(net, WIDE, target=1)
    assert found.values.shape == (64, 213)
    scores = logits(model, net.prepare(WIDE))[0]
    np.testing.assert_allclose(found.score, np.exp(scores[1]) / np.exp(scores).sum(), rtol=1e-4)
    for technique in (onnxviz.cam, onnxviz.occlusion):
        assert technique(net, WIDE, target=1).values.shape == (64, 213)
    assert net.manifest("x")["preprocessing"]["size"] == [64, None]
    again = onnxviz.Preprocessing.from_dict(net.manifest("x")["preprocessing"])
    assert again == net.preprocessing


def test_an_open_height_and_a_fixed_width():
    net = onnxviz.load(network("H", 32, channels=3), provider="cpu")
    assert net.prepare(TALL).shape == (1, 3, 48, 32)
    assert onnxviz.saliency(net, TALL, target=1).values.shape == (48, 32)


def grey(*size):
    return {"preprocess": onnxviz.Preprocessing(size=size, channels="L", mean=(0.0,), std=(1.0,))}


@pytest.mark.parametrize(
    ("sides", "asked", "wanted"),
    [
        (("H", "W"), {}, (224, 224)),
        ((64, 96), {}, (64, 96)),
        ((64, "W"), {}, (64, None)),
        ((64, "W"), {"size": (64, 100)}, (64, 100)),
        ((64, "W"), {"size": 100}, (64, 100)),
        ((64, "W"), {"resize": "keep"}, (64, None)),
        ((64, "W"), grey(64, 200), (64, 200)),
        ((64, "W"), grey(224, 224), (64, None)),
    ],
)
def test_sizes_that_the_file_the_caller_and_the_recipe_name(sides, asked, wanted):
    net = onnxviz.load(network(*sides), provider="cpu", **asked)
    assert net.preprocessing.size == wanted
    assert net.prepare(WIDE).shape[2] == wanted[0]


def test_pictures_of_several_aspects():
    """Each as if it had come alone."""
    net = onnxviz.load(network(64, "W"), provider="cpu")
    together = net.predict([WIDE, TALL])
    assert together == [net.predict(WIDE)[0], net.predict(TALL)[0]]
    for technique in (onnxviz.saliency, onnxviz.cam):
        found = technique(net, [WIDE, TALL], target=[1, 2])
        assert [one.values.shape for one in found] == [(64, 213), (64, 43)]
        assert [one.target for one in found] == [1, 2]
        alone = technique(net, image=TALL, target=2)
        np.testing.assert_array_equal(found[1].values, alone.values)
    both, one = (onnxviz.embed(net, given, layer=net.head.features) for given in ([WIDE, TALL], WIDE))
    np.testing.assert_allclose(both.features[0], one.features[0], rtol=1e-5)
    onnxviz.patches(net, [WIDE, TALL], net.layers[1].name, top=2).picture()


def test_the_command_line(tmp_path, capsys):
    model, photo = tmp_path / "m.onnx", tmp_path / "p.png"
    model.write_bytes(network(64, "W").SerializeToString())
    Image.fromarray(WIDE).save(photo)
    for size, wanted in ((None, 213), ("100", 100), ("120x64", 120)):
        out = tmp_path / f"{wanted}.png"
        args = ["saliency", str(model), str(photo), "-t", "1", "-o", str(out)]
        assert run([*args, *(["--size", size] if size else [])]) == 0
        assert np.load(out.with_suffix(".npy")).shape == (64, wanted)
    capsys.readouterr()
    assert run(["inspect", str(model)]) == 0
    assert "W×64" in capsys.readouterr().out
    assert run(["gradient", str(model), "--technique", "saliency", "-o", str(tmp_path / "e.onnx")]) == 3
    assert "--size" in capsys.readouterr().err


def test_inspect_says_each_warning_once(tmp_path, capsys):
    path = tmp_path / "plain.onnx"
    onnx.save(network("H", "W"), path)
    assert run(["inspect", str(path)]) == 0
    out, err = capsys.readouterr()
    assert (out.count("does not say how pictures become its input"), err) == (1, "")
    assert run(["inspect", str(path), "--json"]) == 0
    assert "does not say how pictures become its input" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"size": "abc"}, "size takes a whole number of pixels"),
        ({"size": 64.0}, "size takes a whole number of pixels"),
        ({"size": (64, None, 3)}, "size takes a whole number of pixels"),
        ({"threads": "2"}, "threads must be a whole number"),
        ({"provider": 3}, "provider is a text, got 3"),
        ({"provider": None}, "provider is a text, got None"),
        ({"layout": 3}, "layout is a text, got 3"),
        ({"preprocess": len}, "preprocess is a preset's name"),
        *(
            (
                {"limits": {"run_seconds": 10}, "isolate": isolate},
                r"onnxviz\.Limits\(run_seconds=10\).*'dict'",
            )
            for isolate in (False, True)
        ),
    ],
)
def test_settings_of_another_kind_are_the_callers_mistake(given, words):
    with pytest.raises(UsageError, match=words):
        onnxviz.load(network(64, 64), **{"provider": "cpu", **given})


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gpu", r"'gpu' is not in this ONNX Runtime.*did you mean 'cuda'"),
        ("CPUExecutionProvidr", "did you mean 'CPUExecutionProvider'"),
        ("opnvino", "did you mean 'openvino'"),
    ],
)
def test_a_provider_that_there_is_not_is_refused_when_the_network_is_opened(name, words, isolate):
    with pytest.raises(ProviderUnavailable, match=words):
        onnxviz.load("there is no such file.onnx", provider=name, isolate=isolate)


def test_a_network_closes_at_the_end_of_with():
    with onnxviz.load(network(64, 64), provider="cpu", isolate=True) as net:
        net.prepare(WIDE)
    with pytest.raises(UsageError, match="closed"):
        net.predict(WIDE)


def test_sizes_that_make_no_sense():
    for size in ((None, None), (0, None), (None, True), (None, "64"), (1 << 40, None)):
        with pytest.raises(PreprocessingRejected):
            onnxviz.Preprocessing(size=size)
    with pytest.raises(OnnxVizError):
        net = onnxviz.load(network(64, "W"), size=(32, 100), provider="cpu")
        net.predict(WIDE)
