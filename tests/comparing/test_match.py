"""Matching finds for each value of one file the value of the other that means the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxviz
from onnxviz.comparing.like import probes
from onnxviz.comparing.match import Matching, match, read_pairs
from onnxviz.errors import UnknownLayer, UsageError
from tests.comparing import small, variants
from tests.networks import fp16

FORMS = {
    "QDQ": {},
    "QDQ per tensor": {"form": "QDQ", "per_channel": False},
    "QDQ int8": {"form": "QDQ", "activations": "int8"},
    "QDQ 16 bits": {"form": "QDQ", "activations": "uint16", "weights": "int8"},
    "QDQ reduced range": {"form": "QDQ", "reduce_range": True},
    "QDQ float weights": {"form": "QDQ", "weights": "float32"},
    "QDQ pairs": {"form": "QDQ", "pairs": True},
    "QOperator": {},
    "QOperator per tensor": {"form": "QOperator", "per_channel": False},
    "QOperator int8": {"form": "QOperator", "activations": "int8"},
    "dynamic": {"weights": "uint8"},
    "dynamic per channel": {"form": "dynamic", "per_channel": True},
}


def opened(model, **options):
    return onnxviz.load(model, provider="cpu", threads=1, preprocess="unit", **options)


def matched(a, b, **options) -> Matching:
    one, other = (opened(m) for m in (a, b))
    return match(one, other, *probes(one, other), **options)


def shares(found: Matching) -> tuple[float, float]:
    return round(found.macs, 4), round(found.values, 4)


def check_order(found: Matching) -> None:
    """Pairs stand in A's order, each value in one of them, and what they name exists."""
    for model, names in ((found.a, [p.a for p in found.pairs]), (found.b, [p.b for p in found.pairs])):
        values = {value.name: i for i, value in enumerate(v for node in model.graph for v in node.outputs)}
        assert len(set(names)) == len(names)
        assert set(names) <= {*values, *(value.name for value in model.graph.inputs)}
        if model is found.a:
            assert [values[name] for name in names] == sorted(values[name] for name in names)


def exact(found: Matching) -> dict[str, str]:
    return {pair.a: pair.b for pair in found.pairs}


@pytest.mark.parametrize("name", small.NETWORKS)
def test_the_same_file_twice_matches_whole(name):
    model = small.NETWORKS[name]()
    found = matched(model, model)
    assert shares(found) == (1.0, 1.0)
    assert all(pair.a == pair.b and not pair.weak and pair.axes is None for pair in found.pairs)
    assert found.image is not None
    assert found.image.b == "image"
    check_order(found)
    total = sum(layer.macs for layer in opened(model).layers)
    assert sum(pair.macs for pair in found.pairs) == total


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", small.NETWORKS)
def test_int8_forms_match(files, name, form):
    options = {"form": form.split()[0], **FORMS[form]}
    found = matched(files.small(name), files.small(name, **options))
    assert found.macs >= 0.99
    check_order(found)
    quantised = {pair.a: found for pair in found.pairs}
    assert len(quantised) == len(found.pairs)
    # What an int8 file holds is behind the rectifier, and its name may be that of what stands in front.
    assert not any(pair.layer.endswith(".conv") for pair in found.pairs if pair.op == "Relu")
