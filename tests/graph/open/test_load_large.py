"""Models of more than 2 GB, on sparse files that take no disk: opened without needing their size in memory."""

import resource
import subprocess
import sys
import time

import numpy as np
import onnx
import pytest

from onnxviz.errors import LimitExceeded
from onnxviz.graph.open.load import load
from onnxviz.limits import Limits
from tests.graph import hostile

SIDE = 15_000  # of a square float32 matrix: 0.9 GB
BYTES = SIDE * SIDE * 4


def weights():
    for name in "abc":
        yield onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=[SIDE, SIDE])


def products():
    return hostile.model("p = MatMul(x, a) q = MatMul(p, b) y = MatMul(q, c)", shape=("N", SIDE))


def external(folder):
    proto = products()
    for place, tensor in enumerate(weights()):
        hostile.point(tensor, location="weights.bin", offset=place * BYTES, length=BYTES)
        proto.graph.initializer.append(tensor)
    with (folder / "weights.bin").open("wb") as file:
        file.truncate(3 * BYTES)
        file.seek(BYTES)
        file.write(np.float32(7).tobytes())
    return hostile.save(proto, folder)


def single(folder):
    """One file of 2.7 GB, which protobuf itself cannot read."""
    parts = [tensor.SerializeToString() for tensor in weights()]
    head = products()
    body = head.graph.SerializeToString()
    raw = b"\x4a" + hostile.varint(BYTES)  # raw_data, its elements a hole in the file
    sizes = [len(part) + len(raw) + BYTES for part in parts]
    fields = [b"\x2a" + hostile.varint(size) + part + raw for size, part in zip(sizes, parts, strict=True)]
    total = len(body) + sum(len(field) + BYTES for field in fields)
    head.ClearField("graph")
    path = folder / "model.onnx"
    with path.open("wb") as file:
        file.write(head.SerializeToString() + b"\x3a" + hostile.varint(total) + body)
        for name, field in zip("abc", fields, strict=True):
            file.write(field)
            start = file.tell()
            if name == "b":
                file.write(np.float32(7).tobytes())
            file.seek(start + BYTES)
        file.truncate(file.tell())
    return path


@pytest.mark.parametrize("make", [external, single])
def test_models_over_2_gb(tmp_path, make):
    path = make(tmp_path)
    script = f"""
import resource, sys
from onnxviz.limits import Limits
from onnxviz.graph.open.load import load
resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))
loaded = load({str(path)!r}, limits=Limits(file_bytes=2**32))
found = loaded.model.graph.initializers
assert [tuple(found[name].shape) for name in "abc"] == [({SIDE}, {SIDE})] * 3
if {make is external}:
    assert found["b"].const_value.numpy()[0, 0] == 7
    assert found["a"].const_value.numpy()[-1, -1] == 0
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)
if sys.platform == "linux":  # there ru_maxrss begins with the peak of the process that started this one
    peak = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
assert peak < 400_000, peak
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=240)


def test_one_element_of_a_file_over_2_gb(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    loaded = load(external(tmp_path))
    assert loaded.model.graph.initializers["b"].const_value.numpy()[0, 0] == 7
    assert loaded.files == ["weights.bin"]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200_000 * (1024 if sys.platform == "darwin" else 1)


def test_over_2_gb_in_one_file_is_over_the_default_limit(tmp_path):
    with pytest.raises(LimitExceeded, match=r"limits=onnxviz\.Limits\(file_bytes="):
        load(single(tmp_path), limits=Limits())


def test_opening_does_not_read_the_weights(tmp_path):
    path = external(tmp_path)
    load(path)
    start = time.process_time()
    load(path)
    assert time.process_time() - start < 0.25
