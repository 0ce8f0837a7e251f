"""Models that crash, hang or fill the memory, through whole commands: one line, exit 4, and the caller goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from onnxviz.isolate import memory_is_guarded

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the parent needs os.fork")
node = helper.make_node


def network(folder: Path, nodes, constants) -> Path:
    """Scores of 3 classes for 32x32 pictures, and what `nodes` make of the scalar `zero`, which follows the picture."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 32, 32])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])]
    front = [
        node("ReduceMean", ["x"], ["mean"], keepdims=0),
        node("Mul", ["mean", "nought"], ["zero"]),
        node("GlobalAveragePool", ["x"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
    ]
    back = [node("Add", ["flat", "more"], ["y"])]
    tensors = {"nought": np.float32(0), **constants}
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in tensors.items()]
    graph = helper.make_graph([*front, *nodes, *back], "g", inputs, outputs, initializers)
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def hangs(tmp_path):
    """The maximum of a million windows of a million numbers, made for the picture: minutes, and little memory."""
    nodes = [
        node("Expand", ["zero", "large"], ["wide"]),
        node("MaxPool", ["wide"], ["most"], kernel_shape=[1000, 1000]),
        node("ReduceSum", ["most"], ["more"], keepdims=0),
    ]
    return network(tmp_path, nodes, {"large": np.array([1, 1, 2000, 2000])})


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "onnxviz", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def last_line(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=120)
    return process.returncode, err.splitlines()[-1]


def test_one_operator_that_goes_on_is_ended_at_its_limit(hangs, photo):
    begun = time.monotonic()
    code, line = last_line(start("predict", hangs, photo, "--limit", "run_seconds=1"))
    assert (code, line) == (
        4,
        "onnxviz: the model was still running after 1 s; raise it with --limit run_seconds=…",
    )
    assert time.monotonic() - begun < 60


def test_ctrl_c_in_one_operator_that_goes_on(hangs, photo, tmp_path):
    out = tmp_path / "s.png"
    process = start("saliency", hangs, photo, "-o", out)
    while "assuming" not in process.stderr.readline():
        pass
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)
    begun = time.monotonic()
    assert last_line(process) == (130, "onnxviz: interrupted")
    assert (
        time.monotonic() - begun < 60
    )  # 0.7 s, on a machine that does nothing else; the operator takes minutes
    assert not out.exists()


@pytest.mark.skipif(not memory_is_guarded(), reason="no limit on memory here")
def test_memory_that_follows_the_picture(tmp_path, photo):
    nodes = [
        node("Cast", ["zero"], ["whole"], to=TensorProto.INT64),
        node("Add", ["whole", "count"], ["length"]),
        node("ConstantOfShape", ["length"], ["zeros"]),
        node("ReduceSum", ["zeros"], ["more"], keepdims=0),
    ]
    model = network(tmp_path, nodes, {"count": np.array([2**29])})
    code, line = last_line(start("predict", model, photo, "--limit", "memory=1GB"))
    assert code == 4
    assert "memory" in line
    assert "--limit memory=" in line
    assert last_line(start("predict", model, photo, "--limit", "memory=4GB"))[0] == 0
