"""How far a computation is: a bar on a terminal, a line now and then without one, nothing where Python is piped."""

from __future__ import annotations

import io
import sys
import types

import numpy as np
import pytest
from networks import tiny_cnn

import onnxviz
from onnxviz import progress
from onnxviz.errors import UsageError

PHOTO = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.fixture
def net():
    return onnxviz.load(tiny_cnn(), preprocess="unit", provider="cpu")


@pytest.fixture
def bars(monkeypatch) -> list[progress.Bar]:
    """What is made to show it."""
    made = []

    class Noted(progress.Bar):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            made.append(self)
            self.calls, self.closed = [], 0

        def __call__(self, *call):
            self.calls.append(call)
            super().__call__(*call)

        def close(self):
            self.closed += 1
            super().close()

    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    monkeypatch.setattr("onnxviz.provenance.Bar", Noted)
    return made


class Terminal(io.StringIO):
    def isatty(self):
        return True


def occlusion(net, **options):
    return onnxviz.occlusion(net, PHOTO, window=16, stride=16, **options)


def notebook(monkeypatch, display) -> None:
    """Python in a kernel of a notebook, whose `display` is this."""
    ours = types.ModuleType("IPython.display")
    ours.display = display
    for name in ("ipykernel", "IPython"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "IPython.display", ours)


def test_what_takes_long_shows_a_bar_by_itself(net, bars, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    occlusion(net)
    (bar,) = bars
    done, total, what = bar.calls[-1]
    assert done == total and what == "windows" and bar.closed
    assert "occlusion" in sys.stderr.getvalue()


def test_a_notebook_shows_a_bar_and_leaves_nothing_of_it(net, bars, monkeypatch):
    shown = []

    class Handle:
        def update(self, data, raw):
            shown.append((data, raw))

    notebook(monkeypatch, lambda data, raw, display_id: Handle())
    occlusion(net)
    assert any('<progress value="4" max="4">' in data.get("text/html", "") for data, _ in shown), shown
    assert any(data["text/plain"].startswith("occlusion: 4 of 4  ") for data, _ in shown)
    assert shown[-1] == ({"text/plain": "", "text/html": ""}, True)


def test_outside_a_kernel_nothing_is_shown(net, bars, monkeypatch):
    """`display` gives no handle where no shell runs."""
    notebook(monkeypatch, lambda *_, **__: None)
    assert occlusion(net).values.shape == (32, 32)


def test_one_technique_inside_another_has_no_bar_of_its_own(net, bars):
    onnxviz.segment(net, PHOTO, method="smoothgrad")
    assert len(bars) == 1


def test_a_function_or_silence_instead(net, bars):
    calls = []
    occlusion(net, progress=lambda *call: calls.append(call))
    assert calls and not any(bar.calls for bar in bars)
    for nothing in (None, progress.silent):
        occlusion(net, progress=nothing)
        assert not any(bar.calls for bar in bars)
    for wrong in ("always", True):
        with pytest.raises(UsageError, match=f"'auto' or None, got {wrong!r}"):
            occlusion(net, progress=wrong)


def test_nothing_is_shown_where_stderr_is_piped(net, capsys, monkeypatch):
    monkeypatch.setattr(progress, "_PATIENCE", 0.0)
    monkeypatch.setattr(progress, "_FIRST", 0.0)
    occlusion(net)
    assert capsys.readouterr() == ("", "")


def test_a_command_without_a_terminal_tells_in_lines(monkeypatch):
    clock = iter([0.0, 20.0, 31.0, 32.0, 40.9, 41.5])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    lines = []
    bar = progress.Bar("rise", lines.append)
    for call in (
        *((done, 90, "masks") for done in (10, 31, 32)),
        *((done, None, "images") for done in (1, 6)),
    ):
        bar(*call)
    # The rate is that of what it does now: six images since the last mask, at 32 s.
    assert lines == ["rise: 31 of 90 masks, 1.0 masks/s", "rise: 6 images, 0.6 images/s"]
    monkeypatch.setattr(progress.time, "monotonic", lambda: 1e9)
    progress.Bar("rise", lines.append, enabled=False)(1, 2, "masks")
    assert len(lines) == 2
