"""Network and gradient on other providers against the CPU: what agrees, departs, crashes and refuses."""

from __future__ import annotations

import json
import math
import os

import numpy as np
import pytest

import onnxviz
from onnxviz import elsewhere
from onnxviz.cli.main import run
from onnxviz.errors import ProviderUnavailable, UsageError
from onnxviz.runtime import providers
from tests.auditing.test_provider import stack
from tests.elsewhere import NAME, package, stand_in
from tests.networks import Maker


@pytest.fixture(autouse=True)
def _anew():
    providers.plugins.cache_clear()
    yield
    providers.plugins.cache_clear()


@pytest.fixture
def lies(monkeypatch):
    monkeypatch.setattr(providers, "available", lambda: ["elsewhere", "cpu"])
    return stand_in(monkeypatch)


def opened(model=None, **options):
    return onnxviz.load(stack() if model is None else model, preprocess="unit", threads=1, **options)


def test_the_cpu_alone_departs_from_nothing(monkeypatch):
    monkeypatch.setattr(providers, "available", lambda: ["cpu"])
    found = onnxviz.providers(opened(), runs=1)
    (row,) = found.trials
    assert (row.provider, row.state, set(row.parts)) == ("cpu", "ran", {"network", "gradient"})
    assert [one.difference for one in row.parts.values()] == [0, 0]
    assert found.departing == []
    assert found.notes == ["no other provider is installed here than the CPU: `onnxviz doctor` lists them"]
    assert found.manifest["technique"] == "providers"


def test_a_provider_that_tells_the_truth(lies):
    found = onnxviz.providers(opened(), runs=1)
    cpu, other = found.trials
    assert (cpu.provider, other.provider, other.state) == ("cpu", "elsewhere", "ran")
    # The gradient takes the form for any provider there, the CPU's own here: equal up to rounding.
    assert other.network.difference == 0
    assert other.gradient.difference < 1e-5
    assert other.network.left() == {"Shape": 1}
    assert other.network.to_dict()["nodes"] == {NAME: 6, providers.CPU: 1}
    assert other.network.seconds > 0
    assert found.departing == []


@pytest.mark.parametrize(
    ("where", "parts"), [("everywhere", ["network", "gradient"]), ("gradient", ["gradient"])]
)
def test_what_departs_is_told(lies, where, parts, capsys, tmp_path):
    getattr(lies, where)["w1"] = 1.01
    found = onnxviz.providers(opened(), runs=1)
    assert found.departing == ["elsewhere"]
    assert [name for name, one in found.trials[1].parts.items() if one.difference > found.tolerance] == parts
    assert np.isfinite(found.values).all()
    model = tmp_path / "model.onnx"
    model.write_bytes(stack().SerializeToString())
    assert run(["providers", str(model), "--preprocess", "unit", "--runs", "1", "--threads", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines if "DEPARTS" in line] == [
        ["elsewhere", name] for name in parts
    ]
    given = [str(model), "--preprocess", "unit", "--runs", "1", "--tolerance", "1", "--json"]
    assert run(["providers", *given]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["departing"] == []
    assert [one["provider"] for one in told["providers"]] == ["cpu", "elsewhere"]
    table = tmp_path / "rows.csv"
    assert run(["providers", *given, "-o", str(table)]) == 0
    assert len(table.read_text().splitlines()) == 5


def test_one_that_crashes_is_a_row(tmp_path, monkeypatch):
    """A package that ends every process but this one."""
    text = f"""
import os, signal
EP_NAME = "CrashingExecutionProvider"
def library_path():
    if os.getpid() != {os.getpid()}: os.kill(os.getpid(), signal.SIGKILL)
    return "/none/lib.so"
"""
    package(tmp_path, monkeypatch, text)
    monkeypatch.setattr(providers, "available", lambda: ["crashing", "cpu"])
    found = onnxviz.providers(opened(), runs=1)
    assert [one.state for one in found.trials] == ["ran", "failed"]
    assert "SIGKILL" in found.trials[1].reason
    assert found.departing == ["crashing"]
    assert np.isnan(found.values[1]).all()
    assert "crashing  failed: " in found.lines()[-1]


def test_a_provider_that_was_named_and_refuses_is_an_error(tmp_path, monkeypatch):
    text = "EP_NAME = 'LackingExecutionProvider'\ndef library_path(): return '/none/lib.so'\n"
    package(tmp_path, monkeypatch, text)
    net = opened(provider="lacking")
    with pytest.raises(ProviderUnavailable, match="cannot be loaded"):
        onnxviz.providers(net, runs=1)
    monkeypatch.setattr(providers, "available", lambda: ["lacking", "cpu"])
    found = onnxviz.providers(opened(), runs=1)
    assert [one.state for one in found.trials] == ["ran", "refused"]
    assert found.departing == []  # an installed package without its device is no departure


def test_a_network_without_classes_and_one_without_gradient(lies):
    def convolved(more):
        m = Maker(seed=2)
        x = m("Conv", "image", m.random(5, 3, 3, 3, name="w0"), pads=[1] * 4)
        return m.model({"image": ("N", 3, 16, 16)}, {more(m, x): None})

    maps = convolved(lambda m, x: m("Relu", x))
    found = onnxviz.providers(opened(maps), runs=1)
    assert set(found.trials[1].parts) == {"network", "gradient"}
    steps = convolved(lambda m, x: m("Det", m("Cast", m("Cast", x, to=7), to=1)))
    found = onnxviz.providers(opened(steps), runs=1)
    assert set(found.trials[1].parts) == {"network"}
    assert any("no gradient is compared" in note for note in found.notes)
    lies.everywhere["w0"] = 2.0
    assert onnxviz.providers(opened(maps), runs=1).departing == ["elsewhere"]


def test_differences_are_of_the_largest_number():
    one = np.array([1.0, -4.0], np.float32)
    assert elsewhere.apart(one, one + np.array([0, 0.04], np.float32)) == pytest.approx(0.01, rel=1e-4)
    assert elsewhere.apart(one, np.array([1.0, np.nan], np.float32)) == math.inf
    assert elsewhere.apart(one * np.nan, one * np.nan) == 0
    assert elsewhere.apart(one * 0, one) == math.inf
    assert elsewhere.apart(one, one[:1]) == math.inf


def test_wrong_arguments_are_told(net):
    for options in ({"runs": 0}, {"tolerance": -1.0}, {"tolerance": math.nan}):
        with pytest.raises(UsageError, match=next(iter(options))):
            onnxviz.providers(net, **options)
