"""The int8 files that comparisons are tested and measured on, and the faults in them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image

from tests.comparing import small

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))

import quantise


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return small.resnet()


@pytest.fixture(scope="module")
def ranges(model):
    return quantise.calibrate(model, small.pictures())


@pytest.fixture(scope="module")
def sound(model, ranges) -> dict[str, onnx.ModelProto]:
    return {form: quantise.quantise(model, quantise.Scheme(form), ranges) for form in ("QDQ", "QOperator")}


def values(model: onnx.ModelProto, *names: str) -> list[np.ndarray]:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in names if name != "logits"
    )
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        copy.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(list(names) or ["logits"], {"image": small.pictures(4, seed=2)})


def sqnr(clean: np.ndarray, noisy: np.ndarray) -> float:
    return 20 * np.log10(np.linalg.norm(clean) / max(np.linalg.norm(clean - noisy), 1e-30))


def stored(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize(
    ("scheme", "least"),
    [
        (quantise.Scheme("QDQ"), 20),
        (quantise.Scheme("QOperator"), 20),
        (quantise.Scheme("QDQ", per_channel=False), 15),
        (quantise.Scheme("QOperator", activations="int8"), 20),
        (quantise.Scheme("QDQ", activations="uint16", weights="int16"), 50),
        (quantise.Scheme("QDQ", reduce_range=True), 15),
        (quantise.Scheme("QDQ", pairs=True), 20),
        (quantise.Scheme("QDQ", weights="float32"), 20),
        (quantise.Scheme("dynamic"), 20),
    ],
    ids=str,
)
def test_every_form_computes_what_the_network_does(model, ranges, scheme, least):
    int8 = quantise.quantise(model, scheme, ranges)
    (clean,), (noisy,) = values(model), values(int8)
    assert least < sqnr(clean, noisy) < least + 40
    held = {array.dtype for name, array in stored(int8).items() if name.endswith(".weight_quantized")}
    assert held == (set() if scheme.pairs or scheme.weights == "float32" else {np.dtype(scheme.weights)})
    if scheme.reduce_range:
        assert all(
            np.abs(array).max() <= 64
            for name, array in stored(int8).items()
            if name.endswith(".weight_quantized")
        )


def test_excluded_nodes_stay_float(model, ranges):
    int8 = quantise.quantise(model, quantise.Scheme("QDQ", exclude=("stem", "block1.conv2")), ranges)
    held = stored(int8)
    for name in ("stem", "block1.conv2"):
        np.testing.assert_array_equal(held[f"{name}.weight"], stored(model)[f"{name}.weight"])
    assert "block0.conv1.weight_quantized" in held


@pytest.mark.parametrize("kind", quantise.KINDS)
def test_a_fault_is_numbers_alone_and_means_the_same_in_both_forms(kind, model, sound):
    fault = quantise.fault(model, f"{kind}@block0.conv2")
    outputs = []
    for form, clean in sound.items():
        wrong = quantise.plant(clean, fault)
        assert [n.SerializeToString() for n in wrong.graph.node] == [
            n.SerializeToString() for n in clean.graph.node
        ]
        before, after = stored(clean), stored(wrong)
        changed = {name for name in before if not np.array_equal(before[name], after[name])}
        assert changed
        own = ("block0.conv2", "block0.norm2", "block0.add")
        assert all(name.startswith(own) for name in changed), (form, changed)
        outputs.append(values(wrong)[0])
    (whole,), (healthy,) = values(model), values(sound["QDQ"])
    assert sqnr(outputs[0], outputs[1]) > sqnr(whole, healthy) - 6
    assert sqnr(healthy, outputs[0]) < 60


def test_wrong_weights_keep_the_bias(model, sound):
    fault = quantise.fault(model, "weights*1.5@block0.conv2")
    wrong = quantise.plant(sound["QDQ"], fault)
    weights = "block0.conv2.weight_DequantizeLinear_Output"
    bias = next(
        name for node in wrong.graph.node for name in node.output if name.startswith("block0.conv2.bias")
    )
    for name, factor in ((weights, 1.5), (bias, 1)):
        (before,), (after,) = values(sound["QDQ"], name), values(wrong, name)
        np.testing.assert_allclose(after, factor * before, rtol=1e-4, atol=2e-4)


def test_faults_are_spread_from_the_first_layer_to_the_last(model):
    found = quantise.faults(model, 4)
    assert len(found) == 4 * len(quantise.KINDS)
    layers = list(dict.fromkeys(fault.place.layer for fault in found))
    assert layers[0] == "stem" and layers[-1] == "logits"
    assert str(found[0]) == "scale*8@stem"


def test_what_is_no_fault_is_told(model):
    with pytest.raises(ValueError, match="no fault is called 'scale\\*9'; there are scale\\*8, "):
        quantise.fault(model, "scale*9@stem")
    with pytest.raises(ValueError, match="no layer with weights is called 'pool'; there are stem, "):
        quantise.fault(model, "4bit@pool")


def test_the_command_writes_what_it_names(tmp_path, capsys, model):
    onnx.save(model, tmp_path / "net.onnx")
    advised = {"schema": "onnxviz.exclude/1", "nodes_to_exclude": ["block0.conv1"], "exclude": []}
    (tmp_path / "exclude.json").write_text(json.dumps(advised))
    (tmp_path / "exclude.txt").write_text("block0.conv1\nblock9.conv9\n")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "a.png")
    arguments = [str(tmp_path / "net.onnx"), str(tmp_path / "a.png"), "-o", str(tmp_path / "out")]
    assert (
        quantise.main([*arguments, "--exclude-nodes", str(tmp_path / "exclude.json"), "--fault", "4bit@stem"])
        == 0
    )
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name for path in paths] == ["net.qdq.onnx", "net.qoperator.onnx"]
    for path in paths:
        held = stored(onnx.load(path))
        assert "block0.conv1.weight" in held
        assert len(np.unique(held["stem.weight_quantized"])) <= 15
    with pytest.raises(SystemExit):
        quantise.main([*arguments, "--fault", "4bit@nowhere"])
    assert "no layer with weights is called 'nowhere'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        quantise.main([*arguments, "--exclude-nodes", str(tmp_path / "exclude.txt")])
    assert "no node is called 'block9.conv9'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.onnx"], "missing.onnx"),
        ([__file__], "is no ONNX file"),
        (["efficientnet-lite0", "--form", "QOperator", "--weights", "float32"], "for QDQ alone"),
        (["efficientnet-lite0", "missing.jpg"], "missing.jpg"),
    ],
)
def test_a_mistake_is_one_line_and_no_traceback(arguments, words, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        quantise.main([*arguments, "-o", str(tmp_path)])
    assert stop.value.code == 2
    assert words in capsys.readouterr().err.splitlines()[-1]
