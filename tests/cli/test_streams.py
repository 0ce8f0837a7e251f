"""What becomes of a command whose stdout or stderr is full or closed: exit code 3 and one line, or silence."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a shell's redirections")
LITE0 = "efficientnet-lite0"


def shell(arguments: str) -> subprocess.CompletedProcess[str]:
    command = f"{sys.executable} -m onnxviz {arguments}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("command", ["--version", "--help", "predict --help", "models", "models --json"])
@pytest.mark.parametrize(
    ("to", "why"), [("/dev/full", "No space left on device"), ("&-", "Bad file descriptor")]
)
def test_a_result_that_cannot_be_printed_is_exit_3_and_one_line(command, to, why):
    done = shell(f"{command} >{to}")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", f"onnxviz: cannot write to stdout: {why}\n")


def test_more_than_a_buffer_of_it(tmp_path):
    """The failure shows in the middle of the command, and what --out names is written by then."""
    done = shell(f"inspect {LITE0} -o {tmp_path}/i.json >/dev/full")
    assert done.returncode == 3
    assert done.stderr.splitlines()[-1] == "onnxviz: cannot write to stdout: No space left on device"
    assert "bug" not in done.stderr


def test_a_reader_that_has_enough_is_no_error():
    done = shell(f"inspect {LITE0} | head -1; exit ${{PIPESTATUS[0]}}")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("to", ["/dev/full", "&-"])
def test_without_stderr_a_command_does_its_work_in_silence(to):
    done = shell(f"models 2>{to}")
    assert done.returncode == 0 and "onnxviz models --fetch NAME" in done.stdout
    done = shell(f"nonsense 2>{to}")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")
    assert shell(f"models >/dev/full 2>{to}").returncode == 3


def test_without_any_stream_what_is_opened_takes_no_streams_place(tmp_path):
    """A file that took the number of stdout would hold what is printed."""
    done = shell(f"filters {LITE0} -o {tmp_path}/f.png <&- >&- 2>&-")
    assert done.returncode == 3
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.json", "f.npy", "f.png"]
