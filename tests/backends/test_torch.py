"""The torch backend: gradients as native ones, the fallback, what it refuses."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper

import onnxviz
from onnxviz import objectives
from onnxviz.backends import choose as backends
from onnxviz.backends.torch.executor import Executor
from onnxviz.backends.torch.table import operator
from onnxviz.errors import (
    LimitExceeded,
    ModelUnsuitable,
    ProviderUnavailable,
    RuntimeFailed,
    UnsupportedOperator,
    UsageError,
)
from tests import networks
from tests.backends import operator_cases
from tests.backends.torch_cases import loop_network, lstm_network
from tests.networks import written

torch.set_num_threads(1)

# --- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", operator_cases.CASES)
def test_gradient_as_native(name: str) -> None:
    found, expected = (operator_cases.gradients(name, backend) for backend in ("torch", "native"))
    assert operator_cases.worst(found, expected) < 2e-5


@pytest.mark.parametrize("rules", ["plain", "guided", "deconvnet", "redirected"])
@pytest.mark.parametrize("six", [False, True], ids=["Relu", "ReLU6"])
def test_variants_as_native(rules: str, six: bool) -> None:
    model = networks.tiny_cnn(softmax=False)
    if six:
        model.graph.initializer.extend(
            [numpy_helper.from_array(np.float32(v), k) for k, v in (("low", 0), ("high", 0.6))]
        )
        for node in model.graph.node:
            if node.op_type == "Relu":
                node.op_type = "Clip"
                node.input.extend(["low", "high"])
    x = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    found, expected = (
        onnxviz.load(model, provider="cpu", preprocess="unit", backend=backend).gradients(
            objectives.logit(2), ["image", "relu1"], rules=rules
        )(x)
        for backend in ("torch", "native")
    )
    assert operator_cases.worst(found, expected) < 1e-5


PLAIN = networks.tiny_cnn(softmax=False)
FORMS = {
    "fp16": lambda: networks.fp16(PLAIN),
    "qdq": lambda: networks.qdq(PLAIN),
    "qoperator": lambda: networks.qoperator(PLAIN),
    "uint8": lambda: networks.tiny_cnn(softmax=False, uint8=True),
    "nhwc": networks.nhwc,
    "static_batch": networks.static_batch,
    "with_function": networks.with_function,
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_as_native(form: str) -> None:
    """Half precision, quantised (straight through, stopped by saturation), bytes, and other forms of files."""
    model, preset = FORMS[form](), "uint8" if form == "uint8" else "unit"
    nets = [
        onnxviz.load(model, provider="cpu", preprocess=preset, backend=name) for name in ("torch", "native")
    ]
    sizes = [d or 8 for d in nets[0].input.shape[1:] if not isinstance(d, str)]
    x = np.random.default_rng(0).standard_normal((4, *sizes)).astype(np.float32)
    x = np.round(np.abs(x) * 80) if form == "uint8" else x
    last = nets[0].model.graph.outputs[0].name or ""
    found, expected = (net.gradients(objectives.l2(last), also=[last])(x) for net in nets)
    assert set(found) == set(expected)
    for name, array in expected.items():
        cosine = float((found[name] * array).sum() / np.linalg.norm(found[name]) / np.linalg.norm(array))
        assert cosine >= 0.9999, name  # one quantisation step either way is another integer


# --- as a backend ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader():
    return onnxviz.load(lstm_network(), provider="cpu", preprocess="unit")


def test_fallback_says_so(reader) -> None:
    """An operator without a rule: torch takes over, with a warning and in the manifest."""
    x = np.random.default_rng(0).random((3, 3, 16, 16), dtype=np.float32)
    found = reader.gradients(objectives.logit(2))(x)
    reader.gradients(objectives.logit(3))
    assert np.abs(found["image.gradient"]).max() > 0
    notes = [text for text in reader.warnings if "torch" in text]
    assert len(notes) == 1
    assert "LSTM" in notes[0]
    manifest = reader.manifest("test")
    assert manifest["backend"] == "torch"
    assert manifest["versions"]["torch"] == backends.version("torch")
    assert notes[0] in manifest["warnings"]
    h = np.float32(1e-4)
    step = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    scores = [reader.run(x + s * h * step, [reader.head.logits])[reader.head.logits][:, 2] for s in (1, -1)]
    slope = (found["image.gradient"] * step).sum((1, 2, 3))
    np.testing.assert_allclose((scores[0] - scores[1]) / (2 * h), slope, atol=3e-4)


def test_native_when_it_can() -> None:
    net = onnxviz.load(networks.tiny_cnn(), provider="cpu", preprocess="unit")
    assert net.manifest("test")["backend"] is None
    net.gradients(objectives.logit(2))
    assert net.manifest("test")["backend"] == "native"
    assert "torch" not in net.manifest("test")["versions"]
    assert not any("torch" in text for text in net.warnings)


def test_without_torch_the_way_out_is_named(monkeypatch, reader) -> None:
    from onnxviz.backends.torch import program

    monkeypatch.setattr(program, "available", lambda: None)
    with pytest.raises(UnsupportedOperator, match=r"LSTM.*backend='torch'.*onnxviz\[torch\]"):
        reader.gradients(objectives.logit(1))
    assert onnxviz.inspect(reader).torch_only is None


def test_inspect_names_what_only_torch_does(reader) -> None:
    found = onnxviz.inspect(reader)
    assert found.torch_only == ["LSTM"]
    assert "no rule for LSTM; torch does" in found.lines()[-1]
    plain = onnxviz.inspect(onnxviz.load(networks.tiny_cnn(), provider="cpu", preprocess="unit"))
    assert plain.torch_only == []


def test_the_command_line_says_so(tmp_path, capsys) -> None:
    from PIL import Image

    from onnxviz.cli.main import run

    onnx.save(lstm_network(), tmp_path / "reader.onnx")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    names = [str(tmp_path / "reader.onnx"), str(tmp_path / "a.png"), "--preprocess", "unit"]
    out = ["-o", str(tmp_path / "map.png")]
    assert run(["saliency", *names, "--target", "1", *out]) == 0
    assert "gradients are computed by torch" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "map.json").read_text())
    assert manifest["backend"] == "torch"
    assert run(["saliency", *names, "--backend", "native", *out]) == 3
    assert "--backend torch" in capsys.readouterr().err
    assert run(["saliency", *names, "--backend", "pytorch", *out]) == 2
    assert "did you mean 'torch'" in capsys.readouterr().err


def task(model: onnx.ModelProto, objective: Any, **options: Any) -> backends.Task:
    given = {
        "sources": ("image",), "also": (), "rules": "plain", "provider": "cpu", "threads": 1, "seconds": None,
        **options,
    }  # fmt: skip
    return backends.Task(model=ir.from_proto(model), objective=objective, **given)


@pytest.mark.parametrize("op", ["Floor", "Round", "Sign", "Ceil"])
def test_no_silent_zero_map(op) -> None:
    """What has no derivative is refused, as native gradients do, not answered with zeros."""
    model = written(f"f = {op}(image) y = Flatten(f)", {"image": ("N", 1, 2, 2)}, {"y": ("N", 4)})
    program = backends.compile(task(model, objectives.logit(1, layer="y")), "torch").program
    with pytest.raises(ModelUnsuitable, match="zero everywhere"):
        program({"image": np.ones((1, 1, 2, 2), np.float32)})


def test_a_layer_that_nothing_leads_to() -> None:
    text = "first = Relu(image) other = Sigmoid(image) y = Flatten(first)"
    model = written(text, {"image": ("N", 1, 2, 2)}, {"y": ("N", 4), "other": None})
    made = task(model, objectives.logit(1, layer="y"), sources=("image", "other"))
    with pytest.raises(ModelUnsuitable, match="other"):
        backends.compile(made, "torch").program({"image": np.ones((1, 1, 2, 2), np.float32)})


def test_unknown_operators_and_attributes() -> None:
    secret = written("s = acme.Secret(image)", {"image": ("N", 3, 2, 2)}, {"s": ("N", 3)})
    secret.graph.node[0].name = "block3/secret"
    secret.opset_import.add(domain="acme", version=1)
    with pytest.raises(UnsupportedOperator, match="acme::Secret.*block3/secret.*torch"):
        backends.compile(task(secret, objectives.part("s")), "torch")
    bent = written("y = Relu <alpha = 0.3> (image)", {"image": ("N", 3, 8, 8)}, {"y": None})
    with pytest.raises(UnsupportedOperator, match="'alpha'"):
        Executor(ir.from_proto(bent))({"image": torch.zeros(1, 3, 8, 8)})
    with pytest.raises(RuntimeError, match="two torch functions for Relu"):
        operator("Relu")(torch.relu)


def test_limits_and_failures() -> None:
    endless = task(loop_network(), objectives.part("y"), sources=("x",), seconds=0.0)
    program = backends.compile(endless, "torch").program
    with pytest.raises(LimitExceeded, match="run_seconds"):
        program({"x": np.ones((1, 3), np.float32)})
    fine = backends.compile(task(networks.tiny_cnn(), objectives.logit(1)), "torch").program
    with pytest.raises(RuntimeFailed, match="operator Conv"):
        fine({"image": np.ones((1, 4, 32, 32), np.float32)})
    with pytest.raises(ProviderUnavailable, match="cpu and cuda"):
        backends.compile(task(networks.tiny_cnn(), objectives.logit(1), provider="tensorrt"), "torch")
    with pytest.raises(UsageError, match="unknown rules"):
        backends.compile(task(networks.tiny_cnn(), objectives.logit(1), rules="guide"), "torch")


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    program = backends.compile(task(networks.tiny_cnn(), objectives.logit(1), threads=2), "torch").program
    program({"image": np.ones((1, 3, 32, 32), np.float32)})
    assert torch.get_num_threads() == before
