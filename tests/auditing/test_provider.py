"""runtime.provider: another provider against the CPU, layer by layer; here one that lies, and one that does not."""

from __future__ import annotations

import os

import pytest

import onnxviz
from onnxviz.runtime import providers
from tests.auditing.checking import checked, pooled
from tests.elsewhere import NAME, package, stand_in
from tests.networks import Maker

SIZE = 16


def stack(kinds=("Relu", "Relu", "Relu")):
    m = Maker(seed=3)
    x, width = "image", 3
    for at, kind in enumerate(kinds):
        x = m("Conv", x, m.random(8, width, 3, 3, name=f"w{at}"), pads=[1] * 4, name=f"conv{at}")
        x, width = m(kind, x), 8
    return pooled(m, x, classes=4, size=SIZE)


@pytest.fixture
def elsewhere(monkeypatch):
    return stand_in(monkeypatch).everywhere


@pytest.fixture
def gradients_elsewhere(monkeypatch):
    return stand_in(monkeypatch).gradient


def ran(model, provider: str | None = "elsewhere"):
    net = onnxviz.load(model, preprocess="unit", threads=1, provider="cpu")
    if provider:
        net.provider = provider
        net._programs.clear()
        net._ran.clear()
    return checked(net, "runtime.provider"), net


def test_the_cpu_is_not_held_against_itself():
    one, _ = ran(stack(), None)
    assert one.state == "not-applicable"
    assert "CPU" in one.reason


def test_a_provider_that_tells_the_truth_is_clean(elsewhere):
    one, net = ran(stack())
    assert (one.state, one.figure) == ("clean", "the same numbers")
    assert one.figures["provider"] == NAME
    assert set(one.figures["decibels"]) == {layer.name for layer in net.layers}


@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_first_layer_that_lies_is_named(elsewhere, at):
    elsewhere[f"w{at}"] = -1.0
    one, net = ran(stack())
    (finding,) = one.findings
    conv = [layer.name for layer in net.layers if layer.op == "Conv"][at]
    assert (finding.where, finding.severity) == (conv, "high")
    assert NAME in finding.sentence
    assert one.evidence[0].table["layer"][-1] == net.layers[-1].name


def test_a_small_lie_is_no_grave_one(elsewhere):
    elsewhere["w1"] = 1.05
    one, _ = ran(stack())
    assert [finding.severity for finding in one.findings] == ["medium"]
    elsewhere["w1"] = 1.001  # 60 dB
    assert ran(stack())[0].state == "clean"


def test_places_of_maxima_are_no_numbers_to_compare(elsewhere):
    m = Maker(seed=1)
    x = m("Conv", "image", m.random(4, 3, 3, 3, name="w0"))
    places = m("Cast", m("ArgMax", x, axis=1), to=1)
    model = m.model({"image": ("N", 3, SIZE, SIZE)}, {m("Relu", places): ("N", 1, SIZE - 2, SIZE - 2)})
    assert ran(model)[0].state == "clean"


def test_a_gradient_that_lies_alone_is_found(gradients_elsewhere):
    gradients_elsewhere["w1"] = -1.0
    one, _ = ran(stack())
    (finding,) = one.findings
    assert (finding.where, finding.severity) == ("gradient", "medium")
    assert NAME in finding.sentence
    assert one.figures["gradient"] < one.figures["least"] <= one.figures["network"]


def test_a_provider_that_crashes_is_a_finding(tmp_path, monkeypatch):
    text = """
import os, signal
def get_ep_names(): return ["CrashingExecutionProvider"]
def get_library_path():
    if os.getpid() != {pid}: os.kill(os.getpid(), signal.SIGKILL)
    return "nowhere"
"""
    package(tmp_path, monkeypatch, text.format(pid=os.getpid()))
    try:
        one, _ = ran(stack(), "crashing")
    finally:
        providers.plugins.cache_clear()
    (finding,) = one.findings
    assert (one.state, finding.severity, finding.where) == ("found", "high", "CrashingExecutionProvider")
    assert "SIGKILL" in finding.sentence
