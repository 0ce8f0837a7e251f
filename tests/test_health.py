from onnxviz import health, isolate
from onnxviz.cli.main import run
from onnxviz.runtime import worker


def states(name):
    return {check.name: check for check in health.doctor()}[name]


def test_a_sound_machine_has_no_problem():
    checks = health.doctor()
    assert [check for check in checks if check.state == "problem"] == []
    assert states("CPUExecutionProvider").detail.startswith("runs")
    assert states("bundled network").state == "ok"


def test_what_is_not_guarded_is_told(monkeypatch):
    for lacking, guarded, state, words in (
        (None, True, "ok", "memory, too"),
        (None, False, "missing", "memory is not"),
        ("no files are handed on", False, "missing", "load(isolate=True) is refused: no files are handed on"),
    ):
        monkeypatch.setattr(worker, "lacking", lambda lacking=lacking: lacking)
        monkeypatch.setattr(isolate, "memory_is_guarded", lambda guarded=guarded: guarded)
        told = states("strangers' models")
        assert told.state == state and words in told.detail


def test_two_runtimes_at_once_and_none_are_problems(monkeypatch):
    real = health._version
    monkeypatch.setattr(health, "_version", lambda name: "1.0" if name == "onnxruntime-gpu" else real(name))
    check = states("onnxruntime")
    assert check.state == "problem"
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in check.detail
    monkeypatch.setattr(health, "_version", lambda name: None)
    assert 'pip install "onnxviz[cpu]"' in states("onnxruntime").detail
    assert states("numpy").state == "problem"
    assert states("extra maps").state == "missing"


def test_the_checks_print_as_a_table_of_short_lines(capsys):
    assert health._provider("CUDAExecutionProvider").state == "problem"  # listed, but it does not start
    checks = health.doctor()
    lines = repr(checks).splitlines()
    assert len(lines) == len(checks)
    assert all(check.name in line and check.detail in line for check, line in zip(checks, lines, strict=True))
    assert "Check(" not in repr(checks)
    assert run(["doctor"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [line.split() for line in lines]
