"""The ort-training backend, in the environment that tools/test.py makes for it, against the other two in this one."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxviz
from onnxviz import objectives
from onnxviz.errors import MissingDependency, UsageError
from tests import networks
from tests.backends import operator_cases as cases
from tests.backends.ort_training_child import gradients
from tests.backends.torch_cases import lstm_network
from tests.grad.oracle import agree

ROOT = Path(__file__).resolve().parents[2]
CHILD = Path(__file__).with_name("ort_training_child.py")
NAMES = ("efficientnet-lite0", "squeezenet", "resnet50", "tiny", "half")


def interpreter() -> str:
    """The Python that has onnxruntime-training."""
    usual = ROOT / ".venv-ort-training" / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    found = os.environ.get("ONNXVIZ_ORT_TRAINING_PYTHON", str(usual))
    assert Path(found).exists(), f"{found} is not there: run `python3 tools/test.py` once, which makes it"
    return found


def write(folder: Path, name: str) -> None:
    """The network's file, and what it is fed."""
    rng = np.random.default_rng(0)
    if name == "efficientnet-lite0":
        from skimage import data

        x = onnxviz.load(name, provider="cpu").prepare([data.chelsea(), data.coffee()])
        target, layer = np.array([285, 967]), "blocks.8.project"
    else:
        made = networks.tiny_cnn(softmax=False) if name in ("tiny", "half") else networks.light(name)
        model = networks.fp16(made) if name == "half" else made
        onnx.save(model, folder / f"{name}.onnx")
        size = 32 if name in ("tiny", "half") else 224
        x = rng.standard_normal((1 if size == 224 else 3, 3, size, size)).astype(np.float32)
        net = onnxviz.load(model, provider="cpu", preprocess="unit")
        target = net.probabilities(x).argmax(1)
        relus = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
        layer = relus[len(relus) // 2]
    np.savez(folder / f"{name}.npz", x=x, target=target, layer=layer)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The networks, and what the other environment found."""
    made = tmp_path_factory.mktemp("ort_training")
    for name in NAMES:
        write(made, name)
    onnx.save(lstm_network(), made / "lstm.onnx")
    new = networks.tiny_cnn(opset=22)
    new.ir_version = 10
    onnx.save(new, made / "new.onnx")
    done = subprocess.run(
        [interpreter(), str(CHILD), str(made), *NAMES],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == ""  # the builder of 1.19.2 likes to talk
    return made


@pytest.mark.parametrize("name", NAMES)
def test_three_backends_one_answer(folder: Path, name: str) -> None:
    """ort-training, native on ONNX Runtime 1.19, and here native and torch."""
    path = name if name == "efficientnet-lite0" else str(folder / f"{name}.onnx")
    expected = gradients(path, folder / name, "native")
    others = [gradients(path, folder / name, "torch")]
    for backend in ("native", "ort-training"):
        with np.load(folder / f"{name}.{backend}.npz") as found:
            others.append(dict(found))
    for other in others:
        assert set(other) == {"objective", "image", "layer", "values"}
        for key, array in expected.items():
            assert other[key].dtype == np.float32
            agree(other[key], array)


@pytest.fixture(scope="module")
def facts(folder: Path) -> dict:
    return json.loads((folder / "facts.json").read_text(encoding="utf-8"))


def test_trusted_operators(facts: dict) -> None:
    """Each that is handed to the builder has a case, and its gradient is the native one."""
    from onnxviz.graph.operators import TRAINED

    tried = {node.op_type for name in cases.TRUSTED for node in cases.network(name)[0].graph.node}
    assert tried >= TRAINED
    assert {name: error for name, error in facts["trusted"].items() if not error < 1e-5} == {}
    assert set(facts["trusted"]) == set(cases.TRUSTED)


def test_never_wrong(facts: dict) -> None:
    """What it does not know well is refused: 1.19.2 has wrong gradients, and ones that end the process."""
    wrong = {k: v for k, v in facts["beyond"].items() if v != "refused" and not v < 1e-5}
    assert wrong == {}
    assert set(facts["beyond"]) == set(cases.BEYOND)


def test_the_doctor_there(facts: dict) -> None:
    assert facts["doctor"]["backend ort-training"] == ["ok", "onnxruntime 1.19.2"]
    assert facts["doctor"]["backend native"][0] == "ok"
    assert facts["doctor"]["backend torch"][0] == "missing"
    assert facts["doctor"]["onnxruntime"] == ["ok", "onnxruntime-training-cpu 1.19.2"]


@pytest.mark.parametrize(
    ("case", "error", "way_out"),
    [
        ("guided", "UsageError", "backend='native' or torch"),
        ("lstm", "UnsupportedOperator", "backend='native' or torch"),
        ("new", "ModelUnsuitable", "knows up to 21"),
        ("torch", "MissingDependency", "onnxviz[torch]"),
        ("auto", "UnsupportedOperator", 'pip install "onnxviz[torch]"'),
    ],
)
def test_what_is_refused_there(facts: dict, case: str, error: str, way_out: str) -> None:
    assert facts[case].startswith(f"{error}: ")
    assert way_out in facts[case]


def test_here_it_is_missing() -> None:
    """This environment has the usual ONNX Runtime."""
    net = onnxviz.load(networks.tiny_cnn(), provider="cpu", preprocess="unit", backend="ort-training")
    with pytest.raises(MissingDependency, match="an environment of its own|virtual environment of its own"):
        net.gradients(objectives.logit(0))
    with pytest.raises(UsageError, match="did you mean 'ort-training'"):
        onnxviz.load(networks.tiny_cnn(), backend="ort_training")
