"""The checks of attribution maps, on networks that look at known places."""

from __future__ import annotations

import numpy as np
import pytest

import onnxviz
from onnxviz.attribution import methods as registry
from onnxviz.auditing.checks import maps
from onnxviz.auditing.subject import made
from onnxviz.figures.captions import Caption
from tests.auditing.checking import SIZE, checked, ending, pooled
from tests.networks import Maker

PICTURES = made(SIZE, SIZE, 1, 8)


@pytest.fixture(scope="module")
def deep():
    """Six convolutions with ReLU, and a head."""
    m = Maker(seed=3)
    x, width = "image", 3
    for _ in range(6):
        drawn = np.random.default_rng([width, len(x)]).standard_normal((8, width, 3, 3))
        weight = drawn / np.sqrt(width * 4.5)
        x, width = m("Relu", m("Conv", x, weight, pads=[1, 1, 1, 1])), 8
    return pooled(m, x, classes=5)


@pytest.fixture
def edges():
    """A method that shows the picture's edges, whatever the weights."""

    @registry.method("edges", Caption("edges", ""), colours="largest")
    def edges(op, input):
        """Where the picture changes."""
        return op.Sub(input, op.AveragePool(input, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))

    yield "edges"
    del registry.METHODS["edges"]


def test_a_method_that_ignores_weights_is_named(deep, edges, monkeypatch):
    monkeypatch.setattr(maps, "_CASCADED", ("gradient", edges))
    one = checked(deep, "sanity.cascade", PICTURES)
    assert [(finding.severity, finding.where) for finding in one.findings] == [("info", "edges")]
    figures = one.figures["correlation"]
    assert figures["edges"]["absolute"] == [pytest.approx(1)] * 4
    assert figures["gradient"]["signed"][-1] < 0.8
    assert one.figures["layers"] == {"head": 1, "upper quarter": 1, "upper half": 3, "all": 7}


def test_guided_backprop_of_the_bundled_network_is_named(net, cat):
    audit = onnxviz.audit(net, [cat], only=["sanity"])
    one = next(one for one in audit.checks if one.id == "sanity.cascade")
    assert [finding.where for finding in one.findings] == ["guided"]
    # Without the first layers there are no edges.
    assert one.figures["correlation"]["guided"]["absolute"][-1] < 0.5
    assert audit.verdict == "pass"


def test_maps_are_held_against_chance(deep):
    one = checked(deep, "faith.gain", PICTURES)
    assert {finding.severity for finding in one.findings} <= {"info"}
    assert {"random", "centre", "grad-cam"} <= set(one.figures)
    for finding in one.findings:
        assert one.figures[finding.where]["low"] <= one.figures["random"]["high"]
    named = {finding.where for finding in one.findings}
    for name in {"grad-cam", "saliency", "smoothgrad", "guided"} - named:
        assert one.figures[name]["low"] > one.figures["random"]["high"]
    assert one.evidence[0].picture is not None


def test_what_is_too_little_is_said(deep):
    assert checked(deep, "faith.gain", PICTURES[:2]).state == "not-run"
    m = Maker()
    linear = ending(m, m("Gemm", m("Flatten", "image"), m.random(4, 3 * SIZE * SIZE), transB=1), 4)
    one = checked(linear, "sanity.cascade", PICTURES)
    assert (one.state, "it takes two" in one.reason) == ("not-applicable", True)
    assert "grad-cam" not in checked(linear, "faith.gain", PICTURES).figures
