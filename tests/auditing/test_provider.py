"""runtime.provider: another provider against the CPU, layer by layer; here one that lies, and one that does not."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

import onnxviz
from onnxviz import running
from onnxviz.runtime import providers
from tests.networks import Maker

SIZE = 16


def stack(kinds=("Relu", "Relu", "Relu")):
    m = Maker(seed=3)
    x, width = "image", 3
    for at, kind in enumerate(kinds):
        x = m("Conv", x, m.random(8, width, 3, 3, name=f"w{at}"), pads=[1] * 4, name=f"conv{at}")
        x, width = m(kind, x), 8
    x = m("Gemm", m("Flatten", m("GlobalAveragePool", x)), m.random(4, 8), transB=1)
    return m.model({"image": ("N", 3, SIZE, SIZE)}, {m("Softmax", x): ("N", 4)})


@pytest.fixture
def elsewhere(monkeypatch):
    """A provider that computes on the CPU; gives a function that makes it scale one weight before."""
    lies: dict[str, float] = {}
    made, name = running.compile, providers.name

    def compile(graph: ir.Model, *, provider: str, **settings):
        if provider != "elsewhere":
            return made(graph, provider=provider, **settings)
        held = graph.graph.initializers
        for weight, factor in lies.items():
            if weight in held:
                truth = held[weight].const_value
                held[weight].const_value = ir.tensor(truth.numpy() * np.float32(factor), name=weight)
        try:
            program = made(graph, provider="cpu", **settings)
        finally:
            for weight in lies.keys() & held.keys():
                held[weight].const_value = truth
        program.provider = "ElsewhereExecutionProvider"
        return program

    monkeypatch.setattr(running, "compile", compile)
    monkeypatch.setattr(providers, "name", lambda one: one if one == "elsewhere" else name(one))
    return lies


def checked(model, provider: str | None = "elsewhere"):
    net = onnxviz.load(model, preprocess="unit", threads=1, provider="cpu")
    if provider:
        net.provider = provider
        net._programs.clear()
    found = onnxviz.audit(net, only=["runtime.provider"])
    (one,) = [one for one in found.checks if one.id == "runtime.provider"]
    return one, net


def test_the_cpu_is_not_held_against_itself():
    one, _ = checked(stack(), None)
    assert one.state == "not-applicable"
    assert "CPU" in one.reason


def test_a_provider_that_tells_the_truth_is_clean(elsewhere):
    one, net = checked(stack())
    assert (one.state, one.figure) == ("clean", "the same numbers")
    assert one.figures["provider"] == "ElsewhereExecutionProvider"
    assert set(one.figures["decibels"]) == {layer.name for layer in net.layers}


@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_first_layer_that_lies_is_named(elsewhere, at):
    elsewhere[f"w{at}"] = -1.0
    one, net = checked(stack())
    (finding,) = one.findings
    conv = [layer.name for layer in net.layers if layer.op == "Conv"][at]
    assert (finding.where, finding.severity) == (conv, "high")
    assert "ElsewhereExecutionProvider" in finding.sentence
    assert one.evidence[0].table["layer"][-1] == net.layers[-1].name


def test_a_small_lie_is_no_grave_one(elsewhere):
    elsewhere["w1"] = 1.05
    one, _ = checked(stack())
    assert [finding.severity for finding in one.findings] == ["medium"]
    elsewhere["w1"] = 1.001  # 60 dB
    assert checked(stack())[0].state == "clean"


def test_places_of_maxima_are_no_numbers_to_compare(elsewhere):
    m = Maker(seed=1)
    x = m("Conv", "image", m.random(4, 3, 3, 3, name="w0"))
    places = m("Cast", m("ArgMax", x, axis=1), to=1)
    model = m.model({"image": ("N", 3, SIZE, SIZE)}, {m("Relu", places): ("N", 1, SIZE - 2, SIZE - 2)})
    assert checked(model)[0].state == "clean"
