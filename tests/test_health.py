from onnxviz import health


def states(name):
    return {check.name: check for check in health.doctor()}[name]


def test_a_sound_machine_has_no_problem():
    checks = health.doctor()
    assert [check for check in checks if check.state == "problem"] == []
    assert states("CPUExecutionProvider").detail.startswith("runs")
    assert states("bundled network").state == "ok"


def test_what_is_not_guarded_is_told(monkeypatch):
    from onnxviz import isolate
    from onnxviz.runtime import worker

    monkeypatch.setattr(worker, "lacking", lambda: None)
    monkeypatch.setattr(isolate, "memory_is_guarded", lambda: True)
    assert states("strangers' models").state == "ok"
    monkeypatch.setattr(isolate, "memory_is_guarded", lambda: False)
    assert "memory is not" in states("strangers' models").detail
    monkeypatch.setattr(worker, "lacking", lambda: "no files are handed on")
    told = states("strangers' models")
    assert told.state == "missing"
    assert "isolate=True" in told.detail
    assert "no files are handed on" in told.detail


def test_two_runtimes_at_once_are_a_problem(monkeypatch):
    real = health._version
    monkeypatch.setattr(health, "_version", lambda name: "1.0" if name == "onnxruntime-gpu" else real(name))
    check = states("onnxruntime")
    assert check.state == "problem"
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in check.detail


def test_no_runtime_says_what_to_install(monkeypatch):
    monkeypatch.setattr(health, "_version", lambda name: None)
    assert 'pip install "onnxviz[cpu]"' in states("onnxruntime").detail
    assert states("numpy").state == "problem"
    assert states("extra maps").state == "missing"


def test_a_provider_that_is_listed_but_does_not_start_is_a_problem():
    assert health._provider("CUDAExecutionProvider").state == "problem"


def test_the_checks_print_as_a_table_of_short_lines(capsys):
    from onnxviz.cli.main import run

    checks = health.doctor()
    lines = repr(checks).splitlines()
    assert len(lines) == len(checks)
    assert all(check.name in line and check.detail in line for check, line in zip(checks, lines, strict=True))
    assert "Check(" not in repr(checks)
    assert run(["doctor"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [line.split() for line in lines]
