"""Ending single operators that go on for long: in a plain process, and Ctrl-C where it is listened for."""

from __future__ import annotations

import math
import mmap
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from onnxviz import isolate
from onnxviz.errors import LimitExceeded
from onnxviz.programs import compile
from onnxviz.runtime import endings
from tests.runtime.stateful import parsed

# What a child process reads first, to import from this folder.
_HERE = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})"
_LONG = 7000  # about ten seconds of one core: it goes on in this process after its test


def square():
    """The sum of a matrix times itself: one operator that takes as long as one likes."""
    return parsed("g (float[n, n] x) => (float[1, 1] s) { y = MatMul(x, x) s = ReduceSum(y) }")


@pytest.fixture
def threads(monkeypatch):
    """The names of the threads that are started."""
    found = []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda self: (found.append(self.name), start(self))[1])
    return found


def test_one_operator_that_goes_on_is_left_behind_at_the_limit():
    program = compile(square(), provider="cpu", threads=1, seconds=0.3)
    with pytest.raises(LimitExceeded, match=r"0\.3 s.*run_seconds"):
        program({"x": np.ones((_LONG, _LONG), np.float32)})
    assert any(thread.name == "onnxviz-run" for thread in threading.enumerate())  # it still runs
    x = np.eye(3, dtype=np.float32)  # and the program goes on
    assert program({"x": x})["s"] == 3


def test_ctrl_c_in_one_operator_that_goes_on():
    code = f"""{_HERE}
import numpy as np
from onnxviz.programs import compile
from stateful import parsed
# The maximum of a million windows of a million numbers: one operator that takes minutes.
graph = "g (float[1, 1, 2000, 2000] x) => (float[1, 1, 1001, 1001] y) {{ y = MaxPool<kernel_shape = [1000, 1000]>(x) }}"
program = compile(parsed(graph), provider="cpu", threads=1, seconds=600)
x = np.ones((1, 1, 2000, 2000), np.float32)
try:
    print("runs", flush=True)
    program({{"x": x}})
except KeyboardInterrupt:
    print("interrupted", flush=True)
sys.exit(3)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "runs\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    begun = time.monotonic()
    assert process.stdout.readline() == "interrupted\n"
    assert time.monotonic() - begun < 60
    process.communicate()
    assert process.returncode == 3  # the thread that is left behind does not disturb the end


def test_the_end_of_the_program_waits_for_a_run_that_was_left_behind():
    """Out of native code while the interpreter is taken down, its thread would abort the process."""
    code = """
import atexit, time, types
ended = []
atexit.register(lambda: print("ended" if ended else "still running"))  # what is registered first comes last
from onnxviz.runtime.endings import waited
for _ in range(2):
    try:
        waited(lambda: (time.sleep(1.5), ended.append(1)), types.SimpleNamespace(terminate=False), -1.0)
    except TimeoutError:
        print("left behind", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "left behind\nleft behind\nended\n", "")


def test_quick_runs_of_sizes_seen_before_get_no_thread(threads, monkeypatch):
    monkeypatch.setattr("onnxviz.runtime.ort._QUICK", 60)  # on a busy machine, the smallest run takes long
    program = compile(square(), provider="cpu", seconds=60)
    for side in (4, 4, 4, 8, 8, 4):
        assert program({"x": np.eye(side, dtype=np.float32)})["s"] == side
    assert threads.count("onnxviz-run") == 2


def test_work_that_follows_values_always_gets_one(threads):
    graph = parsed("g (int64[1] n) => (int64[1] y) { zeros = ConstantOfShape(n) y = Shape(zeros) }")
    program = compile(graph, provider="cpu", seconds=60)
    for length in (3, 3, 5):
        assert program({"n": np.array([length])})["y"] == length
    assert threads.count("onnxviz-run") == 3


def test_the_childs_runs_hear_ctrl_c_between_operators():
    """What the command line's child does: the run ends, and its thread gets KeyboardInterrupt, not LimitExceeded."""
    code = f"""{_HERE}
import mmap, numpy as np
from onnxviz import isolate
isolate.serve(isolate.Board(mmap.mmap(-1, isolate.SIZE)))
isolate.answer_interrupts()
from onnxviz.programs import compile
from stateful import endless
program = compile(endless(), provider="cpu", seconds=600)
try:
    print("runs", flush=True)
    program({{"x": np.zeros(1000, np.float32)}})
except KeyboardInterrupt:
    sys.exit(130)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "runs\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    process.stdout.close()


def test_the_watchdog_is_woken_only_for_a_run_that_ends_before_it_looks(monkeypatch):
    monkeypatch.setattr(endings, "_LINGERS", 600)
    dog, options, woken = endings.Watchdog(), SimpleNamespace(terminate=False), []
    with dog.watch(options, 60):
        pass
    while dog._looks == math.inf:  # its thread starts
        time.sleep(0.01)
    notify = dog._wake.notify
    monkeypatch.setattr(dog._wake, "notify", lambda: (woken.append(1), notify()))
    with dog.watch(options, 60):
        pass
    assert (woken, options.terminate) == ([], False)
    with dog.watch(options, 0.01):
        while not options.terminate:
            time.sleep(0.01)
    assert woken == [1]


def test_ctrl_c_leaves_no_lock_taken(monkeypatch):
    """Python's Condition keeps its lock where Ctrl-C comes right behind the taking of it."""
    dog, options, enter = endings.Watchdog(), SimpleNamespace(terminate=False), threading.Condition.__enter__

    def interrupted(condition: threading.Condition) -> None:
        enter(condition)
        if condition is dog._wake:
            raise AssertionError("Ctrl-C may come here")

    monkeypatch.setattr(threading.Condition, "__enter__", interrupted)
    with dog.watch(options, 0.01):
        while not options.terminate:
            time.sleep(0.01)


def test_a_run_whose_thread_was_started_when_ctrl_c_came_is_told_to_stop(monkeypatch):
    options, start, ran = SimpleNamespace(terminate=False), threading.Thread.start, threading.Event()

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        endings.waited(ran.set, options, 60)
    assert options.terminate
    assert ran.wait(60)


def test_a_watched_process_runs_in_the_same_thread(threads):
    isolate.serve(isolate.Board(mmap.mmap(-1, isolate.SIZE)))
    try:
        compile(square(), provider="cpu", seconds=60)({"x": np.eye(3, dtype=np.float32)})
    finally:
        isolate.serve(None)
    assert "onnxviz-run" not in threads
