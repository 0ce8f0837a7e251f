"""Models that crash, hang or fill the memory, through whole commands: one line, exit 4, and the caller goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from onnx import TensorProto

from onnxviz.isolate import memory_is_guarded
from tests.networks import Maker

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the parent needs os.fork")


def network(path, more) -> None:
    """Scores of 3 classes for pictures 32×32, and what `more(m, zero)` makes of a scalar that follows the picture."""
    m = Maker()
    zero = m("Mul", m("ReduceMean", "x", keepdims=0), m.constant(np.float32(0)))
    scores = m("Flatten", m("GlobalAveragePool", "x"))
    y = m("Add", scores, m("ReduceSum", more(m, zero), keepdims=0))
    path.write_bytes(m.model({"x": ("N", 3, 32, 32)}, {y: ("N", 3)}).SerializeToString())


@pytest.fixture
def hangs(tmp_path):
    """The maximum of a million windows of a million numbers, made for the picture: minutes, and little memory."""

    def windows(m, zero):
        wide = m("Expand", zero, m.constant([1, 1, 2000, 2000]))
        return m("MaxPool", wide, kernel_shape=[1000, 1000])

    network(tmp_path / "model.onnx", windows)
    return tmp_path / "model.onnx"


def start(*arguments: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "onnxviz", *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def last_line(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=120)
    return process.returncode, err.splitlines()[-1]


@pytest.fixture
def photo(things):
    return things / "large" / "0.png"


def test_one_operator_that_goes_on_is_ended_at_its_limit(hangs, photo):
    begun = time.monotonic()
    told = "onnxviz: the model was still running after 1 s; raise it with --limit run_seconds=…"
    assert last_line(start("predict", hangs, photo, "--limit", "run_seconds=1")) == (4, told)
    assert time.monotonic() - begun < 60


def test_ctrl_c_in_one_operator_that_goes_on(hangs, photo, tmp_path):
    process = start("saliency", hangs, photo, "-o", tmp_path / "s.png")
    while "assuming" not in process.stderr.readline():
        pass
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)
    begun = time.monotonic()
    assert last_line(process) == (130, "onnxviz: interrupted")
    assert (
        time.monotonic() - begun < 60
    )  # 0.7 s on a machine that does nothing else; the operator takes minutes
    assert not (tmp_path / "s.png").exists()


@pytest.mark.skipif(not memory_is_guarded(), reason="no limit on memory here")
def test_memory_that_follows_the_picture(tmp_path, photo):
    def zeros(m, zero):
        return m("ConstantOfShape", m("Add", m("Cast", zero, to=TensorProto.INT64), m.constant([2**29])))

    network(tmp_path / "model.onnx", zeros)
    code, line = last_line(start("predict", tmp_path / "model.onnx", photo, "--limit", "memory=1GB"))
    assert code == 4 and "memory" in line and "--limit memory=" in line
    assert last_line(start("predict", tmp_path / "model.onnx", photo, "--limit", "memory=4GB"))[0] == 0
