"""The regions that a child announces on the memory that its parent reads."""

from __future__ import annotations

import math
import mmap
import os
import subprocess
import sys
import threading
import time

import pytest

from onnxviz import isolate


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
    code = "import sys, onnxviz.isolate; print(sorted({'numpy', 'onnx', 'typer', 'ctypes'} & {*sys.modules}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def in_a_child(code: str) -> str:
    text = "import resource, sys; from onnxviz import isolate; data = resource.RLIMIT_DATA\n" + code
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout


needs_rlimit = pytest.mark.skipif(not isolate.memory_is_guarded(), reason="no limit on memory here")


@needs_rlimit
def test_memory_is_limited_and_freed_again():
    code = """
before = resource.getrlimit(data)
isolate.limit_memory(500_000_000)
print(resource.getrlimit(data)[0], isolate.memory_is_limited())
try:
    bytes(600_000_000)
except MemoryError:
    print("ended")
isolate.free_memory()
print(resource.getrlimit(data) == before, isolate.memory_is_limited(), len(bytes(600_000_000)))
"""
    assert in_a_child(code).split() == ["500000000", "True", "ended", "True", "False", "600000000"]


@needs_rlimit
def test_a_limit_of_the_callers_is_never_raised():
    code = """
resource.setrlimit(data, (400_000_000, resource.getrlimit(data)[1]))
for most in (800_000_000, None, 2**70, 300_000_000, 800_000_000):
    isolate.limit_memory(most)
    print(resource.getrlimit(data)[0])
"""
    assert in_a_child(code).split() == ["400000000"] * 3 + ["300000000", "400000000"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({"memory.max": "max\n"}, None),
        ({"memory.max": "123456789\n"}, 123456789),
        (
            {"self": "0::/pods/one\n", "pods/memory.max": "2000000\n", "pods/one/memory.max": "1000000\n"},
            1000000,
        ),
        ({"memory/memory.limit_in_bytes": "3000000\n"}, 3000000),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, None),
    ],
)
def test_memory_of_the_machine_or_its_container(files, expected, monkeypatch):
    def read(path: str) -> str:
        name = "self" if path == "/proc/self/cgroup" else path.removeprefix("/sys/fs/cgroup/")
        if name not in files:
            raise FileNotFoundError(path)
        return files[name]

    monkeypatch.setattr(isolate, "_read", read)
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert isolate.machine_memory() == (physical if expected is None else expected)


def test_what_is_claimed_outlives_its_child(board):
    assert board.claims == []
    isolate.claims(["/there/.a.lock", "/there/.é\udcff.lock"])
    assert board.claims == ["/there/.a.lock", "/there/.é\udcff.lock"]
    isolate.claims(["/there/.a.lock"])
    assert board.claims == ["/there/.a.lock"]
    isolate.claims("x" * 300 for _ in range(100))  # more than there is room for: none rather than half
    assert board.claims == []
    with isolate.region("running the model", 3.0):
        assert [one.what for one in board.under_way()] == ["running the model"]
