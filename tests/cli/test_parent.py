"""The thin parent of the command line: real processes that crash, hang, and are told to end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the parent needs os.fork")

# What the child does, in the place of the command line.
_TOY = """
import ctypes, os, signal, struct, sys, time
from onnxviz.cli import parent
from onnxviz import isolate
region = isolate.region
mutex = ctypes.create_string_buffer(64)
locks = ctypes.PyDLL(None)  # its calls hold the interpreter's lock, as onnx's shape inference does
locks.pthread_mutex_lock(mutex)

def deaf(seconds):
    end = struct.pack("qq", int(time.time() + seconds), int((time.time() + seconds) % 1 * 1e9))
    locks.pthread_mutex_timedlock(mutex, end)  # no signal ends it early

def work():
    print(os.getpid(), flush=True)
{body}
    sys.exit(0)

parent._load = lambda: work
parent._ANSWER_KEEPING = {keeping}
parent.main()
"""


def start(body: str, keeping: float = 10.0, **options) -> subprocess.Popen[str]:
    """The parent over a child that runs `body`; its process number is read already, as `.child`."""
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    code = _TOY.format(body=lines, keeping=keeping)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", code], process_group=0, **pipes, **options)
    line = b""
    while not line.endswith(b"\n"):  # no more than the line: what Python buffers, `communicate` does not see
        byte = os.read(process.stdout.fileno(), 1)
        assert byte, process.communicate(timeout=120)
        line += byte
    process.child = int(line)
    assert process.child != process.pid
    return process


def ended(process: subprocess.Popen[str] | str) -> tuple[int, str, str]:
    """How the process ends, or one that is started to do that: exit code, stdout and stderr."""
    process = start(process) if isinstance(process, str) else process
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def state(pid: int) -> str:
    """As the system tells it: 'S', it waits for something; 'Z', it has ended, as one that is not there has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z" if Path("/proc").exists() else "S"


def asleep(pid: int) -> None:
    """Wait until the process waits for something: a process that is only about to is not asleep."""
    while state(pid) != "S":
        time.sleep(0.01)
    time.sleep(0.3)


def gone(pid: int) -> bool:
    """Whether the process has ended, within a minute."""
    until = time.monotonic() + 60
    while state(pid) != "Z" and time.monotonic() < until:
        time.sleep(0.02)
    return state(pid) == "Z"


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 130])
def test_the_childs_exit_code_and_streams_are_the_parents(code):
    body = f"print('out'); print('err', file=sys.stderr); sys.exit({code})"
    assert ended(body) == (code, "out\n", "err\n")


def test_the_end_waits_for_no_thread_and_tidies_up(tmp_path):
    left = tmp_path / "left"
    body = f"""
import atexit, pathlib, threading
global locks
locks = ctypes.CDLL(None)  # lets go of the lock, as runs do
threading.Thread(target=deaf, args=(200,)).start()
threading.Thread(target=time.sleep, args=(200,)).start()
atexit.register(pathlib.Path({str(left)!r}).touch)
print("out", end="")
sys.exit(3)
"""
    assert ended(body) == (3, "out", "")
    assert left.exists()


@pytest.mark.parametrize(
    ("crash", "name"),
    [
        ("ctypes.string_at(0)", "SIGSEGV"),
        ("os.abort()", "SIGABRT"),
        *((f"signal.raise_signal(signal.{name})", name) for name in ("SIGFPE", "SIGBUS", "SIGKILL")),
    ],
)
def test_a_crash_is_one_line_that_names_what_ran(crash, name):
    body = f"with region('opening the model'), region('parsing the model'):\n    {crash}"
    code, out, err = ended(body)
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert err.startswith("onnxviz: ") and name in err and "while parsing the model" in err


def test_a_crash_outside_of_the_model_blames_no_model():
    code, _, err = ended("with region('running the model'):\n    pass\nos.abort()")
    assert code == 4 and "SIGABRT" in err and "running the model" not in err


def test_what_outlives_its_limit_is_killed_and_the_limit_named():
    process = start("with region('running the model', 0.3):\n    deaf(60)")
    begun = time.monotonic()
    told = "onnxviz: the model was still running after 0.3 s; raise it with --limit run_seconds=…\n"
    assert ended(process) == (4, "", told)
    assert time.monotonic() - begun < 50
    assert gone(process.child)


def test_opening_has_a_limit_of_its_own():
    regions = "region('opening the model'), region('inferring the shapes of the model')"
    code, _, err = ended(f"isolate.allow(0.2)\nwith {regions}:\n    deaf(60)")
    assert code == 4
    assert "0.2 s" in err and "inferring the shapes of the model" in err and "--limit load_seconds=" in err


def test_without_a_limit_any_time_is_allowed():
    assert ended("with region('running the model', None):\n    deaf(1.5)")[0] == 0


@pytest.mark.parametrize("to_group", [True, False])
def test_ctrl_c_ends_what_is_deaf_to_it_within_a_second(to_group):
    process = start("with region('running the model', 600):\n    deaf(60)")
    asleep(process.child)
    begun = time.monotonic()
    (os.killpg if to_group else os.kill)(process.pid, signal.SIGINT)
    assert ended(process) == (130, "", "onnxviz: interrupted\n")
    assert time.monotonic() - begun < 50  # 0.7 s on a machine that does nothing else
    assert gone(process.child)


@pytest.mark.parametrize("to_group", [True, False])
def test_ctrl_c_outside_of_the_model_is_the_childs_own(to_group):
    answer = 'time.sleep(1.5)\n    print("kept")\n    sys.exit(130)'
    process = start(f"try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    {answer}")
    asleep(process.child)
    (os.killpg if to_group else os.kill)(process.pid, signal.SIGINT)
    assert ended(process) == (130, "kept\n", "")


def test_ctrl_c_leaves_longer_to_what_holds_a_result_and_a_second_one_does_not():
    body = """
isolate.keeps(True)
try:
    with region('running the model', 600):
        deaf({})
except KeyboardInterrupt:
    print("kept")
    sys.exit(130)
"""
    process = start(body.format(2))
    asleep(process.child)
    os.killpg(process.pid, signal.SIGINT)
    assert ended(process) == (130, "kept\n", "")

    process = start(body.format(60), keeping=600)
    asleep(process.child)
    begun = time.monotonic()
    while process.poll() is None:  # two, unless the parent sleeps so long that it takes them for one
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.4)
    assert ended(process) == (130, "", "onnxviz: interrupted\n")
    assert time.monotonic() - begun < 50


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_what_ends_a_program_is_handed_on_without_a_word(number):
    process = start("time.sleep(60)")
    process.send_signal(number)
    assert ended(process) == (-number, "", "")
    assert gone(process.child)


def test_a_child_that_answers_sigterm_decides():
    answer = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))"
    process = start(f"{answer}\nprint('ready', flush=True)\ntime.sleep(60)")
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert ended(process)[0] == 7


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, signal.SIGSEGV])
def test_a_child_that_is_ended_leaves_no_marker_behind(number, tmp_path):
    """Whatever ends it: its parent gives back what it held, and a marker that another holds by then stays."""
    body = f"""
from onnxviz.claims import claimed
with claimed({str(tmp_path / "a.png")!r}), claimed({str(tmp_path / "é 2.npy")!r}):
    print("held", flush=True)
    time.sleep(60)
"""
    process = start(body)
    process.stdout.readline()
    assert {path.name for path in tmp_path.iterdir()} == {".a.lock", ".é 2.lock"}
    handed = number in (signal.SIGTERM, signal.SIGHUP)
    os.kill(process.pid if handed else process.child, number)
    assert ended(process)[0] == (-number if handed else 4)
    assert list(tmp_path.iterdir()) == []


_EARLY = """
import importlib.abc, os, runpy, signal, sys

class CtrlC(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
sys.argv = ["onnxviz", "--version"]
runpy.run_module("onnxviz", run_name="__main__", alter_sys=False)
"""


@pytest.mark.parametrize("module", ["onnxviz.cli.parent", "onnxviz.isolate", "typer", "onnxviz.cli.table"])
def test_ctrl_c_while_the_program_is_imported_is_one_line(module):
    code = _EARLY.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "onnxviz: interrupted\n")


def test_ignored_signals_stay_ignored():
    def nohup() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    process = start("time.sleep(1)\nprint('done')", preexec_fn=nohup)
    for number in (signal.SIGHUP, signal.SIGINT):
        os.killpg(process.pid, number)
    assert ended(process) == (0, "done\n", "")


def test_the_child_ends_with_the_parent_even_where_it_is_deaf():
    process = start("with region('running the model', 600):\n    deaf(60)")
    process.kill()
    assert process.wait(120) == -signal.SIGKILL
    assert gone(process.child)
    process.communicate()


def test_stopping_and_going_on_counts_for_no_limit():
    process = start("with region('running the model', 3):\n    time.sleep(0.8)\nprint('done')")
    os.killpg(process.pid, signal.SIGTSTP)  # as Ctrl-Z does
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    time.sleep(7)
    os.killpg(process.pid, signal.SIGCONT)
    assert ended(process) == (0, "done\n", "")


def test_a_reader_that_has_enough_is_no_error():
    process = start("""
import select
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
closed = select.poll()
closed.register(1, 0)
closed.poll()
os.write(1, b'x')
""")
    process.stdout.close()
    assert process.wait(120) == -signal.SIGPIPE
    assert process.stderr.read() == ""
    process.stderr.close()


def test_the_parent_imports_next_to_nothing():
    code = (
        "import sys; before = {*sys.modules}; from onnxviz.cli import parent; print(*{*sys.modules} - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = set(done.stdout.split())
    assert found.isdisjoint(
        {"typer", "click", "rich", "numpy", "onnx", "PIL", "asyncio", "ctypes", "pathlib"}
    )
    own = {name.removeprefix("onnxviz.") for name in found if name.startswith("onnxviz.")}
    assert own == {"_version", "cli", "cli.parent", "isolate"}
    assert len(found) < 60


@pytest.mark.parametrize(
    "arguments", [["--version"], ["--help"], ["nonsense"], ["inspect", "not-there.onnx"]]
)
def test_commands_end_as_they_do_without_a_parent(arguments):
    environment = {**os.environ, "COLUMNS": "100"}
    alone = "import sys; from onnxviz.cli.main import main; sys.argv[0] = 'onnxviz'; main()"
    ends = []
    for how in (["-m", "onnxviz"], ["-c", alone]):
        words = [sys.executable, *how, *arguments]
        done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
        ends.append((done.returncode, done.stdout, done.stderr))
    assert ends[0] == ends[1]


def test_closed_streams():
    """stdin, stdout and stderr closed: the numbers of the pipes must not be taken for them."""
    closed = ["bash", "-c", f"exec {sys.executable} -m onnxviz --version <&- >&- 2>&-"]
    assert subprocess.run(closed, timeout=120, check=False).returncode in (0, 3)
