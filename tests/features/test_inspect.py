import html
import json

import networks
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

import onnxviz
from onnxviz import tables
from onnxviz.errors import spelt, ways
from onnxviz.files import json_bytes
from tests.test_quantised_layers import relu6_network


def test_the_totals_are_the_architectures(net):
    found = onnxviz.inspect(net)
    # Tan & Le's table: 4.7 M parameters (with BatchNorm's) and 0.39 G multiply-accumulates.
    assert 4.6e6 < found.parameters < 4.7e6
    assert 3.8e8 < found.macs < 4.1e8
    assert (found.classes, found.operators["Conv"], found.quantisation) == (1000, 49, None)
    assert set(found.table()) == {"name", "op", "shape", "parameters", "macs", "receptive_field", "stride"}
    value = json.loads(json_bytes(found.to_dict()))
    assert value["input"]["name"] == "image"
    assert value["layers"][0].items() >= {"name": "stem", "receptive_field": [3, 3]}.items()
    assert value["quantisation"] is None
    # All parameters are float32; what else there is are the shapes of the graph and BatchNorm's statistics.
    assert value["bytes"]["float32"] >= 4 * found.parameters
    assert not any(line.startswith(("quantised", "bytes")) for line in found.lines())


def test_a_reader_sees_layers_under_their_modules(net):
    lines = onnxviz.inspect(net).lines()
    branch = lines.index("blocks/")
    assert lines[branch + 1] == "  0/"
    assert lines[branch + 2].split()[:2] == ["blocks.0.depthwise", "Conv"]
    assert not any(line != line.rstrip() for line in lines)


def test_a_notebook_shows_what_the_command_prints(net):
    found = onnxviz.inspect(net)
    assert found._repr_html_() == f"<pre>{html.escape(chr(10).join(found.lines()))}</pre>"


def test_ways_on_that_there_are_not_leave_no_trace():
    assert spelt("no scores" + ways()) == "no scores"


def test_warnings_spell_the_way_on_as_the_caller_does(net, monkeypatch):
    monkeypatch.setattr(net, "warnings", ["a guess" + ways("give --labels FILE")])
    (line,) = [line for line in onnxviz.inspect(net).lines() if line.startswith("warning")]
    assert line == "warning     a guess; give labels="


# --- quantised files ------------------------------------------------------------------------------


def _opened(model):
    return onnxviz.inspect(onnxviz.load(model, preprocess="imagenet", provider="cpu"))


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_what_an_int8_file_is(form):
    """The oracle: the scales and zero points as the file stores them."""
    model = {"QDQ": networks.qdq, "QOperator": networks.qoperator}[form](relu6_network())
    numbers = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    found = _opened(model)
    held = found.quantisation
    assert held.format == form
    assert set(held.activations) == {layer.name for layer in found.network.layers}
    for name, one in held.activations.items():
        # What only moves codes has no scale of its own.
        stored = {"image_DequantizeLinear_Output": "image", "features": "pool"}.get(name, name)
        scale, zero = float(numbers[f"{stored}_scale"]), int(numbers[f"{stored}_zero_point"])
        info = np.iinfo(numbers[f"{stored}_zero_point"].dtype)
        assert (one.codes, one.bits, one.granularity) == (info.dtype.name, 8, "per tensor")
        ends = [scale, (info.min - zero) * scale, (info.max - zero) * scale]
        assert [one.scale.item(), one.low.item(), one.high.item()] == pytest.approx(ends)
    assert [(one.codes, one.bits, one.symmetric) for one in held.weights.values()] == [("int8", 8, True)] * 3
    biases = {one.name: one.quantiser.codes for one in held.held if one.kind == "bias"}
    whole = [n for n, array in numbers.items() if array.dtype == np.int32 and not n.endswith("zero_point")]
    assert biases == dict.fromkeys(whole, "int32")
    octets = sum(array.nbytes for array in numbers.values() if array.dtype == np.int8)
    assert found.to_dict()["bytes"]["int8"] == octets


@pytest.mark.parametrize(("per_channel", "kind"), [(True, QuantType.QInt8), (False, QuantType.QInt16)])
def test_granularity_and_symmetry_are_told(per_channel, kind):
    noise = np.random.default_rng(0).standard_normal((2, 1, 3, 16, 16), np.float32)
    options = {"per_channel": per_channel, "activation_type": kind, "weight_type": kind}
    held = _opened(networks.by_ort(relu6_network(), noise, **options)).quantisation
    codes = kind.name[1:].lower()
    assert {one.codes for one in held.activations.values()} == {codes}
    convolutions = [one for one in held.weights.values() if one.scale.size > 1]
    assert bool(convolutions) == per_channel
    assert all(one.granularity == "per channel" for one in convolutions)
    assert all(one.bits == int(codes.removeprefix("int")) for one in held.weights.values())
    if kind == QuantType.QInt16:
        (one, *_) = [one for one in held.activations.values() if one.symmetric is False]
        assert one.zero.item() != 0


def test_ranges_that_are_measured_have_no_numbers(tmp_path):
    onnx.save(relu6_network(), tmp_path / "before.onnx")
    quantize_dynamic(tmp_path / "before.onnx", tmp_path / "after.onnx")
    found = _opened(onnx.load(tmp_path / "after.onnx"))
    held = found.quantisation
    assert (held.format, len(held.weights), len(held.activations)) == (
        "dynamic",
        3,
        3,
    )  # what each of them reads
    assert all(one.scale is None and one.symmetric is None for one in held.activations.values())
    assert any("measured while it runs" in line for line in found.lines())


def test_a_quantised_file_on_screen_and_in_tables():
    found = _opened(networks.qdq(relu6_network()))
    lines = found.lines()
    assert "quantised   QDQ" in lines
    assert any(line.startswith("bytes       ") and "of int8" in line for line in lines)
    (row,) = [line for line in lines if line.lstrip().startswith("stem.relu6 ")]
    scale = found.quantisation.activations["stem.relu6"].scale.item()
    assert f"step {scale:.4g}" in row
    assert not any(line != line.rstrip() for line in lines)
    table = found.table()
    cells = {name: column[table["name"].index("stem.relu6")] for name, column in table.items()}
    assert cells["codes"] in ("int8", "uint8")
    assert cells["scale"] == pytest.approx(scale)
    assert (cells["weight_codes"], cells["weight_granularity"]) == ("int8", "per tensor")
    assert tables.csv_bytes(table)
    value = json.loads(json_bytes(found.to_dict()))["quantisation"]
    assert value["format"] == "QDQ"
    assert {one["kind"] for one in value["held"]} == {"activation", "weight", "bias"}
