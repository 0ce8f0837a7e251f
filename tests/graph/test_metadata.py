"""`onnxviz.*` metadata: what is written is read again, and nothing that a stranger writes can do harm."""

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import onnxviz
from onnxviz.errors import OutputRefused
from onnxviz.graph import metadata
from onnxviz.graph.metadata import LABELS, PREPROCESSING, Metadata, read, save, write
from onnxviz.image import preprocessing
from onnxviz.image.preprocessing import PRESETS
from onnxviz.limits import Limits
from tests.networks import from_nodes, node

FIELDS = {"size": [4, 6], "mean": [0.5, 0.5, 0.5], "name": "x"}


def model(**props):
    graph = ir.Graph([], [], nodes=[], opset_imports={"": 18}, name="g")
    found = ir.Model(graph, ir_version=10)
    found.metadata_props.update({f"onnxviz.{key}": value for key, value in props.items()})
    return found


@pytest.mark.parametrize(
    "given",
    [
        Metadata(FIELDS, ("tench", "Brüssel 'griffon'\n"), "a paper", "Apache-2.0"),
        Metadata(labels=("\ud800", "\u202e")),  # a lone half of a pair
        Metadata(),
    ],
)
def test_what_is_written_is_read_again(given):
    props = {"author": "me"}
    write(props, given)
    assert read(props) == given
    "".join(props.values()).encode()  # what protobuf's text can hold


def test_the_same_facts_give_the_same_text_and_none_leaves_what_was_there():
    one, other = {LABELS: '["a"]', "author": "me"}, {}
    write(one, Metadata(preprocessing={"a": 1, "b": 2}, source="s"))
    write(other, Metadata(preprocessing={"b": 2, "a": 1}, labels=("\ud800", "\u202e")))
    assert other == {PREPROCESSING: '{"a":1,"b":2}', LABELS: '["\\ud800","\\u202e"]'}
    kept = {LABELS: '["a"]', "author": "me"}
    assert one == {**kept, "onnxviz.source": "s", PREPROCESSING: other[PREPROCESSING]}


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *((PREPROCESSING, text) for text in ("{", "[1]", "null", "[" * 100_000)),
        *((LABELS, text) for text in ("not json", '{"0": "cat"}', '["cat", 3]', '["cat", null]', '"cat"')),
    ],
)
def test_what_cannot_be_read_is_left_out_with_a_warning(key, text):
    found = read({key: text})
    assert found.preprocessing is None
    assert found.labels is None
    if text != "null":  # no fact at all
        (warning,) = found.warnings
        assert key in warning and "ignored" in warning


@pytest.mark.parametrize(
    "props",
    [{LABELS: '["a","b","c"]'}, {"names": "{0: 'a', 1: 'b', 2: 'c'}", "task": "classify"}],
    ids=["JSON", "Python"],
)
def test_a_flood_of_labels_is_not_read(props):
    assert read(props, Limits(labels=3)).labels == ("a", "b", "c")
    for limits in (Limits(labels=2), Limits(text_bytes=5)):
        found = read(props, limits)
        assert found.labels is None and "limit" in found.warnings[0]
    assert "13 characters" in read({LABELS: '["a","b","c"]'}, limits).warnings[0]


def test_labels_and_preprocessing_of_a_model():
    preset = PRESETS["imagenet"]
    found = model(labels='["a","b"]', preprocessing=json.dumps(preset.to_dict()))
    assert metadata.read_labels(found) == ["a", "b"]
    assert preprocessing.recorded(found) == preset
    assert metadata.read_labels(model()) is None
    assert preprocessing.recorded(model()) is None


@pytest.mark.parametrize("text", ["[]", '{"size": "large"}', '{"mean": "x"}', "{"])
def test_preprocessing_that_makes_no_sense_is_a_warning(text):
    warnings = []
    assert preprocessing.recorded(model(preprocessing=text), warnings) is None
    assert len(warnings) == 1 and PREPROCESSING in warnings[0]
    assert preprocessing.recorded(model(preprocessing=text)) is None


def test_each_reader_notes_only_its_own_troubles():
    found = model(labels="[", preprocessing="[")
    warnings = []
    assert metadata.read_labels(found, warnings) is None
    assert len(warnings) == 1 and LABELS in warnings[0]


# --- files ----------------------------------------------------------------------------------------


@pytest.fixture
def network():
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    nodes, shapes = [node("Conv", ["x", "w"], ["y"])], ({"x": (1, 3, 8, 8)}, {"y": (1, 4, 6, 6)})
    return ir.from_proto(from_nodes(nodes, *shapes, {"w": weight}))


@pytest.mark.parametrize("limit", [1 << 30, 10])
def test_what_is_saved_loads_again_as_the_same(network, tmp_path, limit):
    path = save(network, tmp_path / "m.onnx", one_file_bytes=limit)
    assert (tmp_path / "m.onnx.data").exists() == (limit == 10)
    onnx.checker.check_model(path)
    weights = onnxviz.load(path).model.graph.initializers["w"].const_value.numpy()
    np.testing.assert_array_equal(weights, network.graph.initializers["w"].const_value.numpy())


def test_the_callers_model_keeps_its_weights(network, tmp_path):
    save(network, tmp_path / "m.onnx", one_file_bytes=10)
    assert isinstance(network.graph.initializers["w"].const_value.numpy(), np.ndarray)


def test_a_folder_is_no_file(network, tmp_path):
    with pytest.raises(OutputRefused):
        save(network, tmp_path)
