import json

import onnxviz
from onnxviz.errors import spelt, ways
from onnxviz.files import json_bytes


def test_the_totals_are_the_architectures(net):
    found = onnxviz.inspect(net)
    # Tan & Le's table: 4.7 M parameters (with BatchNorm's) and 0.39 G multiply-accumulates.
    assert 4.6e6 < found.parameters < 4.7e6
    assert 3.8e8 < found.macs < 4.1e8
    assert found.classes == 1000
    assert found.operators["Conv"] == 49


def test_it_is_plain_json(net):
    value = json.loads(json_bytes(onnxviz.inspect(net).to_dict()))
    assert value["input"]["name"] == "image"
    assert value["layers"][0]["name"] == "stem"
    assert value["layers"][0]["receptive_field"] == [3, 3]


def test_a_reader_sees_layers_under_their_modules(net):
    lines = onnxviz.inspect(net).lines()
    branch = lines.index("blocks/")
    assert lines[branch + 1] == "  0/"
    assert lines[branch + 2].split()[:2] == ["blocks.0.depthwise", "Conv"]
    assert not any(line != line.rstrip() for line in lines)


def test_ways_on_that_there_are_not_leave_no_trace():
    assert spelt("no scores" + ways()) == "no scores"


def test_warnings_spell_the_way_on_as_the_caller_does(net, monkeypatch):
    monkeypatch.setattr(net, "warnings", ["a guess" + ways("give --labels FILE")])
    (line,) = [line for line in onnxviz.inspect(net).lines() if line.startswith("warning")]
    assert line == "warning     a guess; give labels="
