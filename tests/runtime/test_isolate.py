"""The regions that a child announces on the memory that its parent reads."""

from __future__ import annotations

import math
import mmap
import subprocess
import sys
import threading
import time

import pytest

from onnxviz.runtime import isolate


@pytest.fixture
def board():
    """A board that this process writes, as a child of its own would."""
    found = isolate.Board(mmap.mmap(-1, isolate.SIZE))
    isolate.serve(found)
    yield found
    isolate.serve(None)
    isolate.allow(None)


def test_a_region_is_nothing_in_a_plain_process():
    assert not isolate.watched()
    assert isolate.region("running the model", 3.0) is isolate.region("parsing the model")


def test_nested_regions_innermost_first(board):
    isolate.allow(20.0)
    before = time.monotonic()
    with isolate.region("opening the model"), isolate.region("running the model", 3.0):
        inner, outer = board.under_way()
        assert (inner.what, inner.seconds) == ("running the model", 3.0)
        assert (outer.what, outer.seconds) == ("opening the model", 20.0)
        assert before <= outer.since <= inner.since <= time.monotonic()
    assert board.under_way() == []


def test_a_region_is_left_by_an_error_and_without_limit_any_time_is_allowed(board):
    with pytest.raises(ZeroDivisionError), isolate.region("running the model", None):
        assert board.under_way()[0].seconds == math.inf
        raise ZeroDivisionError
    assert board.under_way() == []


def test_regions_of_many_threads(board):
    entered, leave = threading.Barrier(9), threading.Event()

    def work(i: int) -> None:
        with isolate.region(f"running picture {i}"):
            entered.wait()
            leave.wait()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    entered.wait()
    assert {one.what for one in board.under_way()} == {f"running picture {i}" for i in range(8)}
    leave.set()
    for thread in threads:
        thread.join()
    assert board.under_way() == []


def test_more_regions_than_there_is_room_for_are_let_through(board):
    slots = [board.enter("running the model", 1.0) for _ in range(1000)]
    assert slots[-1] == -1
    for slot in slots:
        board.leave(slot)
    assert board.under_way() == []
    assert board.enter("running the model", 1.0) >= 0


def test_long_and_odd_words_are_cut_between_letters(board):
    with isolate.region("ä" * 500 + "\udc80"):
        assert board.under_way()[0].what == "ä" * 119


def test_importing_it_is_light():
    code = "import sys, onnxviz.runtime.isolate; print(sorted({'numpy', 'onnx', 'typer', 'ctypes'} & {*sys.modules}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
