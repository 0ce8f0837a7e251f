"""What loading gives for sound models: the same network, its weights in memory, nothing left that names a file."""

import gc
import hashlib
import logging
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper

from onnxviz.errors import LimitExceeded, ModelRejected, UsageError
from onnxviz.graph.open.load import load
from onnxviz.limits import Limits
from tests.graph import hostile
from tests.graph.hostile import same, weights

# --- sources ----------------------------------------------------------------------------------


def test_every_kind_of_source_gives_the_same_network(tmp_path):
    original = hostile.network()
    path = hostile.save(original, tmp_path)
    content = path.read_bytes()
    parsed = onnx.load(path)
    sources = [path, str(path), content, bytearray(content), memoryview(content), parsed, ir.load(path)]
    for source in sources:
        loaded = load(source)
        same(loaded, original)
        assert loaded.warnings == []
        assert loaded.limits == Limits()
    assert load(path).source == str(path)
    assert load(content).source == "<bytes>"
    assert parsed.SerializeToString() == content


def test_a_given_ir_model_is_copied_and_not_changed(tmp_path):
    given = ir.load(hostile.save(hostile.network(ir_version=3), tmp_path))
    before = ir.to_proto(given).SerializeToString(deterministic=True)
    loaded = load(given)
    loaded.model.graph.initializers["fc.b"].name = "changed"
    loaded.model.graph.remove(loaded.model.graph.node("relu"), safe=False)
    assert ir.to_proto(given).SerializeToString(deterministic=True) == before


def test_external_data_of_an_ir_model_is_opened_by_us(tmp_path):
    original = hostile.network()
    path = hostile.move_out(hostile.network(), tmp_path)
    loaded = load(ir.load(path))
    same(loaded, original)
    assert loaded.files == ["weights.bin"]
    os.link(tmp_path / "weights.bin", tmp_path / "other.bin")
    with pytest.raises(ModelRejected, match="hard link"):
        load(ir.load(path))


@pytest.mark.parametrize("source", [None, 5, ["model.onnx"]])
def test_another_type_of_source_is_wrong_usage(source):
    with pytest.raises(UsageError, match="a model is a path, bytes"):
        load(source)


def test_the_digest_is_of_the_file(tmp_path):
    path = hostile.save(hostile.network(), tmp_path)
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    assert load(path).digest == load(path.read_bytes()).digest == expected


def test_the_digest_of_an_ir_model_follows_its_weights():
    one, two = (ir.from_proto(hostile.network()) for _ in range(2))
    assert load(one).digest == load(two).digest
    two.graph.initializers["fc.b"].const_value = ir.tensor(np.ones(10, np.float32))
    assert load(one).digest != load(two).digest


# --- weights in memory ------------------------------------------------------------------------


@pytest.mark.parametrize("pad", range(4))
def test_weights_are_aligned_wherever_they_lie(tmp_path, pad):
    original = hostile.network()
    original.graph.doc_string = "x" * pad
    path = hostile.save(original, tmp_path)
    moved = hostile.move_out(hostile.network(), tmp_path / str(pad), align=1)
    for source in (path, path.read_bytes(), moved):
        for tensor in weights(load(source)).values():
            assert tensor.numpy().flags.aligned
            assert not tensor.numpy().flags.writeable


@pytest.fixture
def large(monkeypatch):
    """Files count as large, and so are read where and when they are needed."""
    monkeypatch.setattr("onnxviz.graph.open.load._READ_UP_TO", 0)


def test_large_files_are_read_when_used(tmp_path, large):
    original = hostile.network()
    path = hostile.save(original, tmp_path)
    loaded = load(path)
    same(loaded, original)
    assert loaded.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    tensor = weights(loaded)["conv.w"]
    assert tensor.numpy() is tensor.numpy()


def test_very_large_weights_are_mapped(tmp_path, large, monkeypatch):
    monkeypatch.setattr("onnxviz.graph.open.weights.READ_UP_TO", 0)
    original = hostile.network()
    moved = hostile.move_out(hostile.network(), tmp_path / "e", align=1)
    for source in (hostile.save(original, tmp_path), moved):
        loaded = load(source)
        same(loaded, original)
        assert all(tensor.numpy().flags.aligned for tensor in weights(loaded).values())


def test_a_file_that_changes_after_it_was_opened_is_an_error_not_a_crash(tmp_path, large):
    path = hostile.save(hostile.network(), tmp_path)
    loaded = load(path)
    path.write_bytes(b"short")
    for read in (weights(loaded)["conv.w"].numpy, lambda: loaded.digest):
        with pytest.raises(ModelRejected, match="changed after it was opened"):
            read()


def test_a_file_may_be_replaced_by_another_one(tmp_path, large):
    original = hostile.network()
    path = hostile.save(original, tmp_path)
    loaded = load(path)
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "new").replace(path)
    same(loaded, original)


def test_files_are_closed(tmp_path):
    path = hostile.move_out(hostile.network(), tmp_path)
    opened = next(folder for folder in map(Path, ("/proc/self/fd", "/dev/fd")) if folder.exists())
    gc.collect()
    before = len(list(opened.iterdir()))
    for _ in range(5):
        load(path)
        for bad in (tmp_path / "nothing", tmp_path):
            with pytest.raises(ModelRejected):
                load(bad)
        with pytest.raises(LimitExceeded):
            load(path, limits=Limits(file_bytes=1))
    gc.collect()
    assert len(list(opened.iterdir())) <= before


def test_nothing_is_logged(caplog, tmp_path):
    with caplog.at_level(logging.DEBUG):
        load(hostile.save(hostile.network(), tmp_path))
        with pytest.raises(ModelRejected):
            load(hostile.model("y = Relu(nothing)"))
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# --- findings ---------------------------------------------------------------------------------


def test_odd_weights_are_findings():
    original = hostile.network()
    conv = numpy_helper.to_array(original.graph.initializer[0]).copy()
    conv[0, 0, 0] = [np.nan, np.inf, -np.inf]
    original.graph.initializer[0].CopyFrom(hostile.array("conv.w", conv))
    half = np.ones(2000, np.float16)
    half[5] = np.nan
    original.graph.initializer.append(hostile.array("half", half, np.float16))
    original.graph.initializer.append(hostile.array("bound", np.inf))
    loaded = load(original)
    assert loaded.findings() == [
        "the weight 'conv.w' holds 1 NaN and 2 infinite among its 432 elements",
        "the weight 'half' holds 1 NaN among its 2000 elements",
    ]
    assert loaded.warnings == []


def test_sound_weights_give_no_findings():
    assert load(hostile.network()).findings() == []
    # Sums that overflow are not odd elements.
    big = hostile.array("w", np.full(3000, 60000), np.float16)
    assert load(hostile.model("y = Relu(x)", [big])).findings() == []
