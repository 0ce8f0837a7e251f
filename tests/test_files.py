import json
import multiprocessing
import os
from fractions import Fraction

import numpy as np
import pytest

from onnxviz import claims, files
from onnxviz.errors import OutputRefused


def test_write_atomic_replaces_the_whole_file(tmp_path):
    target = tmp_path / "a" / "result.bin"
    files.write_atomic(target, b"old")
    files.write_atomic(target, [b"new ", b"bytes"])
    assert target.read_bytes() == b"new bytes"
    assert os.listdir(target.parent) == ["result.bin"]


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "result.bin"
    target.write_bytes(b"old")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OutputRefused, match="disk is full"):
        files.write_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["result.bin"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    target = tmp_path / "result.bin"
    target.write_bytes(b"old")

    def pieces():
        yield b"new"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_atomic(target, pieces())
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["result.bin"]


def test_writing_over_a_folder_or_under_a_file_is_refused(tmp_path):
    with pytest.raises(OutputRefused, match="folder"):
        files.write_atomic(tmp_path, b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputRefused, match="cannot write"):
        files.write_atomic(tmp_path / "file" / "below.png", b"")


def test_new_files_have_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    files.write_atomic(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_is_strict_whatever_it_is_given(tmp_path):
    text = files.json_bytes(
        {"a": np.float32(np.nan), "b": np.arange(2), "c": (Fraction(1, 2), float("inf")), "d": tmp_path}
    )
    assert json.loads(text) == {"a": None, "b": [0, 1], "c": [0.5, None], "d": str(tmp_path)}


def test_npy_bytes_round_trip_without_pickle(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = files.write_atomic(tmp_path / "x.npy", files.npy_bytes(array))
    assert np.array_equal(np.load(path, allow_pickle=False), array)
    with pytest.raises(ValueError, match="Object arrays"):
        files.npy_bytes(np.array([object()]))


def _hold(out, ready, leave):
    with claims.claimed(out):
        ready.set()
        leave.wait(20)


def test_a_second_run_with_the_same_output_is_told_so(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, leave = context.Event(), context.Event()
    out = tmp_path / "out.png"
    other = context.Process(target=_hold, args=(out, ready, leave))
    other.start()
    try:
        assert ready.wait(20)
        with pytest.raises(OutputRefused, match="another run"), claims.claimed(out):
            pass
    finally:
        leave.set()
        other.join()
    with claims.claimed(out):
        pass
    assert os.listdir(tmp_path) == []
