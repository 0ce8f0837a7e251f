from onnxviz import health


def states(name):
    return {check.name: check for check in health.doctor()}[name]


def test_a_sound_machine_has_no_problem():
    checks = health.doctor()
    assert [check for check in checks if check.state == "problem"] == []
    assert states("CPUExecutionProvider").detail.startswith("runs")
    assert states("bundled network").state == "ok"


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
