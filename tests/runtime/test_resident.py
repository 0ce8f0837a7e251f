"""State that stays where the program runs: what is fed back, what is remembered, and the path of CUDA."""

from __future__ import annotations

import numpy as np
import pytest

from onnxviz.errors import RuntimeFailed
from onnxviz.programs import compile
from onnxviz.runtime.ort import Resident
from tests.runtime import stateful
from tests.runtime.stateful import on_host


def counter():
    return compile(stateful.counter(), provider="cpu")


def test_state_goes_from_run_to_run_and_two_runs_back_are_remembered() -> None:
    resident = Resident(counter(), {"x": np.zeros((2, 3))}, ["total"])
    totals = [float(resident.run({"by": np.float32(by)})["total"]) for by in (1, 2, 3, 4)]
    assert totals == [0, 6, 18, 36]
    assert [float(resident.state("x", back)[0, 0]) for back in (0, 1, 2)] == [10, 6, 3]
    with pytest.raises(ValueError, match="remembered"):
        resident.state("x", 3)
    resident.replace("x", np.full((2, 3), 0.5))
    assert float(resident.run({"by": np.float32(1)})["total"]) == 3
    assert resident.state("x")[0, 0] == 1.5


def test_a_copy_is_given_out() -> None:
    resident = Resident(counter(), {"x": np.zeros((2, 3))}, ["total"])
    before = resident.state("x")
    for _ in range(4):
        resident.run({"by": np.float32(1)})
    assert not before.any()


def test_another_program_may_take_a_turn() -> None:
    resident = Resident(counter(), {"x": np.zeros((2, 3))}, ["total"])
    resident.run({"by": np.float32(2)}, counter())
    assert resident.state("x")[0, 0] == 2


def test_on_a_device_state_is_moved_once(monkeypatch) -> None:
    """The path of CUDA, with the host's memory standing in for the card's."""
    program = counter()
    moved, real = on_host(monkeypatch, program)
    resident = Resident(program, {"x": np.zeros((2, 3))}, ["total"])
    monkeypatch.setattr(program._ort, "OrtValue", real)
    for _ in range(5):
        resident.run({"by": np.float32(1)})
    assert moved == [((2, 3), "cuda")] * 3
    assert resident.state("x")[0, 0] == 5


def test_a_run_that_fails_is_a_typed_error() -> None:
    resident = Resident(counter(), {"x": np.zeros((4, 4))}, ["total"])
    with pytest.raises(RuntimeFailed):
        resident.run({"by": np.float32(1)})
