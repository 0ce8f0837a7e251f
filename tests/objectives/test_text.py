"""Objectives as text: what can be said, and that nothing else gets through."""

from __future__ import annotations

import networks
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import onnxviz
from onnxviz import objectives
from onnxviz.errors import OnnxVizError, UnknownLabel, UnknownLayer, UsageError
from onnxviz.objectives.text import forms, parse


@pytest.fixture(scope="module")
def small():
    labels = ["cat", *(f"thing {i}" for i in range(9))]
    return onnxviz.load(networks.tiny_cnn(), preprocess="unit", provider="cpu", labels=labels)


def value(net, objective) -> np.ndarray:
    x = np.random.default_rng(0).random((2, 3, 32, 32), np.float32)
    return net.gradients(objective)(x)["objective"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("logit(3)", objectives.logit(3)),
        ("logit('cat')", objectives.logit(0)),
        ("logit()", objectives.logit()),
        ("logit(None)", objectives.logit()),
        ("logit(2, logits)", objectives.logit(2, "logits")),
        ("2*logit(3) - logit(4)/4", 2 * objectives.logit(3) - objectives.logit(4) / 4),
        ("-(logit(3) + logit(4)) * (1 + 2)", -3 * (objectives.logit(3) + objectives.logit(4))),
        ("channel(relu2, 5)", objectives.channel("relu2", 5)),
        ('neuron("relu2", 5, 1, 2)', objectives.neuron("relu2", 5, 1, 2)),
        ("neuron(relu2, 5)", objectives.neuron("relu2", 5)),
        ("part(relu2, 5, slice(2, 4), None)", objectives.part("relu2", 5, slice(2, 4), None)),
        ("part(relu2, 5, slice(None, -1, 2))", objectives.part("relu2", 5, slice(None, -1, 2))),
        ("l2(relu1) - 0.1 * tv()", objectives.l2("relu1") - 0.1 * objectives.tv()),
        ("part(logits, -1)", objectives.part("logits", -1)),
    ],
)
def test_text_means_what_python_does(small, text, expected) -> None:
    np.testing.assert_allclose(value(small, parse(text, small)), value(small, expected), rtol=1e-6)


def test_layer_names_with_dots_need_no_quotes(net) -> None:
    layer = net.layer("stem.relu6").name
    assert str(parse("channel(stem.relu6, 3)", net)) == str(objectives.channel(layer, 3))


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("", UsageError, "cannot be read"),
        ("logit(3", UsageError, "cannot be read"),
        ("part(blocks.5.expand, 0)", UsageError, "in quotes"),
        ("part(/model/conv, 0)", UsageError, "in quotes"),
        ("7", UsageError, "only a number"),
        ("logit", UsageError, "no objective"),
        ("loggit(3)", UsageError, "did you mean 'logit'"),
        ("logit(3) * logit(4)", UsageError, "by numbers only"),
        ("logit(3) + 1", UsageError, "by numbers only"),
        ("1 / logit(3)", UsageError, "by numbers only"),
        ("logit(3) ** 2", UsageError, "by numbers only"),
        ("logit(3) / 0", UsageError, "divides by zero"),
        ("logit(target=3)", UsageError, "without names"),
        ("logit(1, 2, 3)", UsageError, "0 to 2 arguments"),
        ("logit(2.5)", UsageError, "class index or label"),
        ("logit(True)", UsageError, "class index or label"),
        ("channel(relu2)", UsageError, "takes 2 arguments"),
        ("channel(3, 4)", UsageError, "layer's name"),
        ("channel(relu2, x)", UsageError, "whole number"),
        ("channel(relu2, slice(1, 2))", UsageError, "cannot stand within channel"),
        ("part(relu2, slice(1, 2.5))", UsageError, "no slice"),
        ("match(relu2)", UsageError, "needs an array"),
        ("logit('dog')", UnknownLabel, "dog"),
        ("logit(10)", UnknownLabel, "10"),
        ("channel(relu9, 0)", UnknownLayer, "relu"),
        ("__import__('os').system('true')", UsageError, "no objective is called"),
        ("(lambda: logit(3))()", UsageError, "no objective is called"),
        ("[logit(i) for i in range(9)]", UsageError, "cannot stand"),
        ("logit(open('x'))", UsageError, "cannot stand"),
        ("logit(f'{1}')", UsageError, "cannot stand"),
        ("logit(3) if 1 else logit(4)", UsageError, "cannot stand"),
        ("1e999 * logit(1)", UsageError, "too large"),
        ("9" * 400 + " * logit(1)", UsageError, "too large"),
        ("part(relu2, 99999999999999999999)", UsageError, "too large"),
        ("9**9**9 * logit(1)", UsageError, "by numbers only"),
        ("logit(1)\nlogit(2)", UsageError, "cannot be read"),
        ("(" * 900 + "logit(1)" + ")" * 900, UsageError, "cannot be read"),
        ("logit(1)" + " + logit(1)" * 300, UsageError, "characters"),
    ],
)
def test_everything_else_is_a_typed_error(small, text, error, words) -> None:
    with pytest.raises(error, match=words):
        value(small, parse(text, small))


def test_what_is_deep_but_harmless_is_read_or_refused(small) -> None:
    try:
        parse("-" * 1500 + "logit(1)", small)
    except UsageError as refused:
        assert "nested" in str(refused) or "cannot be read" in str(refused)


def test_without_a_network_names_are_taken_as_they_are() -> None:
    assert str(parse("channel(x.y, 1)")) == str(objectives.channel("x.y", 1))
    with pytest.raises(UsageError, match="looked up in a network"):
        parse("logit('cat')")


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="logitpartchannel()[]{}.,+-*/0123456789'\"= \n_\\:lambda", max_size=60))
def test_no_text_gets_past_the_typed_errors(text) -> None:
    try:
        found = parse(text)
    except OnnxVizError:
        return
    assert isinstance(found, objectives.Objective)


@pytest.mark.parametrize(
    "text", ["part('mask', 3)", "part('a/b', None, slice(1, 4), 2)", "2*logit(3) - part('boxes', 0, 1)"]
)
def test_an_objective_is_told_as_it_is_typed(text):
    assert str(parse(text)) == text


def test_forms_say_how_each_is_written():
    assert forms()["channel"] == "channel(layer, index)"
    assert forms()["part"] == "part(layer, index, ...)"
    assert forms()["tv"] == "tv([layer], [beta])"
