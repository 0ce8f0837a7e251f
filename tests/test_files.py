import json
import os
from fractions import Fraction

import numpy as np
import pytest

from onnxviz import files
from onnxviz.errors import OutputRefused
from onnxviz.text import json_bytes


def test_writing_over_a_folder_or_under_a_file_is_refused(tmp_path):
    with pytest.raises(OutputRefused, match="folder"):
        files.write_atomic(tmp_path, b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputRefused, match="cannot write"):
        files.write_atomic(tmp_path / "file" / "below.png", b"")


def test_new_files_have_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    files.write_atomic(tmp_path / "deep" / "ours", [b"new ", b"bytes"])
    assert (tmp_path / "deep" / "ours").read_bytes() == b"new bytes"
    assert os.listdir(tmp_path / "deep") == ["ours"]
    assert (tmp_path / "deep" / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_json_is_strict_whatever_it_is_given(tmp_path):
    text = json_bytes(
        {"a": np.float32(np.nan), "b": np.arange(2), "c": (Fraction(1, 2), float("inf")), "d": tmp_path}
    )
    assert json.loads(text) == {"a": None, "b": [0, 1], "c": [0.5, None], "d": str(tmp_path)}


def test_npy_bytes_round_trip_without_pickle(tmp_path):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = files.write_atomic(tmp_path / "x.npy", files.npy_bytes(array))
    assert np.array_equal(np.load(path, allow_pickle=False), array)
    with pytest.raises(ValueError, match="Object arrays"):
        files.npy_bytes(np.array([object()]))
