"""One run at a time writes an output, by whatever spelling, on whatever file system."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import subprocess
import sys

import pytest

from onnxviz import claims
from onnxviz.claims import claimed, hidden, saving
from onnxviz.errors import OutputRefused

posix = pytest.mark.skipif(sys.platform == "win32", reason="flock")


def refused(out) -> bool:
    try:
        with claimed(out):
            return False
    except OutputRefused as error:
        assert "another run is writing to" in str(error)
        return True


def test_every_spelling_of_an_output_is_that_output(tmp_path, monkeypatch):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    with claimed("real/a.png"):
        same = ["link/a.png", "./real/../real/a.png", "real/a.jpg", "link/a.npy", "real/a"]
        for other in (tmp_path / "real" / "a.png", *same, "real/b.png", "a.png", "real/a.b.png"):
            assert refused(other) == (other in same or other == tmp_path / "real" / "a.png"), other
    with claimed("real"):
        assert refused("link") and refused(tmp_path / "link") and refused("real/")
    assert os.listdir(tmp_path / "real") == [] and sorted(os.listdir(tmp_path)) == ["link", "real"]


def test_long_names_are_two_outputs_and_what_no_file_can_have_is_told_at_once(tmp_path):
    first, second = (tmp_path / f"{'名' * 78}{i}.png" for i in "12")
    with claimed(first):
        assert refused(first) and not refused(second)
    assert len(os.fsencode(hidden(first, ".onnxviz.part").name)) < 200
    (tmp_path / "file").write_bytes(b"")
    for out in (tmp_path / f"{'x' * 255}.png", tmp_path / f"{'x' * 250}.png", tmp_path / "file" / "a.png"):
        with pytest.raises(OutputRefused, match="cannot write"), claimed(out):
            pass
    assert os.listdir(tmp_path) == ["file"]


@posix
def test_a_lock_on_a_marker_that_is_gone_holds_nothing(tmp_path, monkeypatch):
    """Another run opened the marker, the holder ended and removed it, and only then the other came to lock it."""
    import fcntl

    out = tmp_path / "a.png"
    marker = hidden(out, ".lock")
    real, raced = fcntl.flock, []

    def flock(handle, how):
        if not raced:
            raced.append(marker.unlink())
        real(handle, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with claimed(out):
        assert raced
        held = os.stat(marker)  # noqa: PTH116
        assert any(os.path.samestat(held, os.fstat(handle)) for handle in claims._claims.values())
        assert refused(out)


def _holder(out, counter, rounds):
    for _ in range(rounds):
        with contextlib.suppress(OutputRefused), claimed(out):
            if counter.exists() and counter.read_text():
                os._exit(7)  # two hold it
            counter.write_text("held")
            counter.write_text("")


@posix
def test_no_two_processes_hold_one_output(tmp_path):
    context = multiprocessing.get_context("fork")
    arguments = (tmp_path / "a.png", tmp_path / "counter", 300)
    runs = [context.Process(target=_holder, args=arguments) for _ in range(4)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0] * 4
    assert not hidden(arguments[0], ".lock").exists()


@posix
@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_locks_the_marker_names_who_holds_it(tmp_path, monkeypatch, number):
    import fcntl

    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    out = tmp_path / "a.png"
    marker = hidden(out, ".lock")
    with claimed(out), saving(out):
        assert refused(out)
    assert os.listdir(tmp_path) == []
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    marker.write_text(f"onnxviz {other.pid} {claims._here()}\n")
    assert refused(out)
    other.communicate(b"\n")
    assert not refused(out)  # it is dead
    marker.write_text(f"onnxviz {other.pid} another.host\n")
    with pytest.raises(OutputRefused, match=r"on another\.host \(if it is not, remove "), claimed(out):
        pass
    marker.write_text("")
    assert not refused(out)


def test_saving_waits_for_another_save_and_then_tells(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "_PATIENCE", 0.1)
    out = tmp_path / "a.png"
    with saving(out):
        assert refused(out)
        with pytest.raises(OutputRefused, match="another run"), saving(out):
            pass
    with claimed(out), saving(out):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links are followed here")
@pytest.mark.parametrize("kind", ["link", "dangling", "file", "pipe"])
def test_what_has_the_name_of_the_lock_is_neither_followed_nor_emptied(tmp_path, kind):
    """`-o poetry.png` beside somebody's .poetry.lock; a folder of a stranger's with a link of that name."""
    marker, precious = tmp_path / ".poetry.lock", tmp_path / "precious"
    {
        "file": lambda: marker.write_bytes(b"content-hash = 1"),
        "pipe": lambda: os.mkfifo(marker),
        "link": lambda: (marker.symlink_to(precious), precious.write_bytes(b"precious")),
        "dangling": lambda: marker.symlink_to(precious),
    }[kind]()
    with pytest.raises(OutputRefused, match=r"poetry\.lock' is in the way"), claimed(tmp_path / "poetry.png"):
        pass
    assert os.path.lexists(marker)
    assert precious.read_bytes() == b"precious" if kind == "link" else not precious.exists()
    assert kind != "file" or marker.read_bytes() == b"content-hash = 1"


def test_the_markers_of_a_dead_process_go_and_no_others(tmp_path):
    dead, other, plain = (tmp_path / name for name in (".b.lock", ".c.lock", "notes.lock"))
    dead.write_bytes(b"onnxviz 1 somewhere\n")
    other.write_text("what somebody keeps here")
    plain.write_bytes(b"onnxviz 1 somewhere\n")
    with claimed(tmp_path / "a.png"):
        held = hidden(tmp_path / "a.png", ".lock")
        claims.sweep(str(path) for path in (held, dead, other, plain, tmp_path / ".never.lock"))
        assert {path.name for path in tmp_path.iterdir()} == {held.name, other.name, plain.name}
        assert refused(tmp_path / "a.png")
