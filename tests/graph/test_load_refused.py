"""Files that are no models, broken ones, and models that use what does not exist: each refused, with what to do."""

import os
import random
import socket
import struct
import time
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.graph import hostile

from onnxviz.errors import ModelRejected
from onnxviz.graph.load import load
from onnxviz.graph.sniff import describe

RELU = [helper.make_node("Relu", ["x"], ["y"])]


def refused(source, *words):
    with pytest.raises(ModelRejected) as caught:
        load(source)
    message = str(caught.value)
    assert caught.value.exit_code == 3
    assert "\n" not in message
    assert len(message) < 700
    for word in words:
        assert word in message, message
    return message


# --- files that are something else ------------------------------------------------------------


def zipped(*names):
    import io

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    return buffer.getvalue()


KINDS = {
    "empty": (b"", "empty", "downloaded"),
    "zeros": (bytes(5000), "zeros", "downloaded"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, "PNG", "command line"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(range(256)) * 20, "JPEG", "command line"),
    "text": (b"just some words\n" * 100, "text file", ""),
    "html": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "web page", "download"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "Git LFS", "git lfs pull"),
    "torch": (zipped("archive/data.pkl", "archive/version"), "PyTorch checkpoint", "onnxviz export"),
    "keras": (zipped("metadata.json", "config.json"), "Keras", "tf2onnx"),
    "zip": (zipped("model.onnx"), ".onnx file in it", "unpack"),
    "pickle": (b"\x80\x02}q\x00.", "pickle", "onnxviz export"),
    "safetensors": (struct.pack("<Q", 60) + b'{"w":{"dtype":"F32"}}', "safetensors", "onnxviz export"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(100), "TensorFlow Lite", "tf2onnx"),
    "ort": (b"\x1c\x00\x00\x00ORTM" + bytes(100), "ORT format", ".onnx file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5", "tf2onnx"),
    "savedmodel": (b"\x08\x01\x12\x10\n\x05serve" + bytes(3), "TensorFlow", "tf2onnx"),
    "frozen": (hostile.field(1, hostile.field(1, b"x") + hostile.field(2, b"Placeholder")), "TensorFlow", "tf2onnx"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "gzip", "unpack"),
    "tar": (bytes(257) + b"ustar" + bytes(250), "tar archive", "unpack"),
    "program": (b"\x7fELF" + bytes(100), "program", ""),
    "json": (b'{"not": "a model"}', "JSON", ""),
    "textproto": (b"ir_version: 8\ngraph {\n}\n", "text form", "onnx.save"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_another_kind_is_told_by_its_kind(tmp_path, kind):
    content, *words = KINDS[kind]
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    refused(path, *words)


def test_what_bytes_do_not_tell_the_name_does():
    assert "PyTorch" in describe(b"\x01\x02\x03", "net.PT")
    assert "weights file" in describe(b"\x01\x02\x03", "net.onnx_data")
    assert "no kind of file" in describe(b"\x01\x02\x03", "net.onnx")


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes(tmp_path, seed):
    path = tmp_path / "model.onnx"
    path.write_bytes(random.Random(seed).randbytes(10 ** (seed % 5)))
    refused(path)


def test_a_file_that_was_cut_short(tmp_path):
    whole = hostile.save(hostile.network(), tmp_path).read_bytes()
    for size in range(1, len(whole) - 40, 29):
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[:size])
        refused(path)


def test_files_that_are_not_there_or_are_no_files(tmp_path):
    hostile.save(hostile.network(), tmp_path, "resnet50.onnx")
    refused(tmp_path / "resnet5.onnx", "there is no file", "did you mean 'resnet50.onnx'")
    refused(tmp_path, "folder")
    refused("", "")
    refused("a\0b", "cannot open")
    refused(tmp_path / ("long" * 200), "cannot open")


def test_a_file_that_may_not_be_read(tmp_path):
    path = hostile.save(hostile.network(), tmp_path)
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser may
        load(path)
    else:
        refused(path, "cannot open", "ermission")


def test_a_pipe_a_device_and_a_socket_are_refused_at_once(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.onnx")
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s")
        start = time.monotonic()
        refused(tmp_path / "pipe.onnx", "FIFO")
        refused("/dev/zero", "a device")
        refused(tmp_path / "s", "a socket")
        assert time.monotonic() - start < 1


def test_the_model_itself_may_be_reached_through_a_link(tmp_path):
    path = hostile.save(hostile.network(), tmp_path)
    (tmp_path / "link.onnx").symlink_to(path)
    load(tmp_path / "link.onnx")


# --- versions, domains, operators -------------------------------------------------------------


def test_a_newer_ir_version():
    refused(hostile.network(ir_version=onnx.IR_VERSION + 1), f"IR version {onnx.IR_VERSION + 1}", "update")


def test_a_message_without_a_graph_or_version():
    refused(onnx.ModelProto(ir_version=8), "no ONNX graph")
    proto = hostile.network()
    proto.ClearField("ir_version")
    refused(proto, "no ONNX graph")


def test_a_model_that_imports_no_opset():
    proto = hostile.network()
    proto.ClearField("opset_import")
    refused(proto, "opset_import")
    proto.opset_import.add(domain="com.microsoft", version=1)
    refused(proto, "ai.onnx")


@pytest.mark.parametrize("version", [0, -5, -(2**63)])
def test_an_opset_that_cannot_be(version):
    refused(hostile.network(opset=version), str(version))


def test_two_versions_of_one_opset():
    proto = hostile.network()
    proto.opset_import.add(domain="ai.onnx", version=13)
    refused(proto, "13", "17")


@pytest.mark.parametrize(
    ("domain", "op", "words"),
    [
        ("evil.example", "RunMe", ["'RunMe'", "'evil.example'", "does not define"]),
        ("", "Rellu", ["'Rellu'", "ai.onnx", "did you mean 'Relu'"]),
        ("", "Gelu", ["'Gelu'", "newer than opset 17"]),
        ("", "Upsample", ["'Upsample'", "opset 17", "deprecated since 10"]),
        ("ai.onnx.ml", "Relu", ["'Relu'", "ai.onnx.ml"]),
        ("com.microsoft", "NoSuchThing", ["'NoSuchThing'", "com.microsoft"]),
        ("com.microsoft", "EPContext", ["com.microsoft.EPContext", "open a compiled file"]),
        ("com.microsoft", "Snpe", ["com.microsoft.Snpe"]),
        ("com.microsoft.nchwc", "Conv", ["'com.microsoft.nchwc'", "fitting it to one processor"]),
        ("ai.onnx.preview.training", "Gradient", ["training"]),
        ("", "Scale", ["'Scale'"]),
    ],
)
def test_unknown_operators_are_named(domain, op, words):
    node = helper.make_node(op, ["x"], ["y"], domain=domain, name="culprit")
    imports = [(domain, 1)] if domain else []
    refused(hostile.model([node], imports=imports), "'culprit'", *words)
    # Hidden in a subgraph or a function, used or not, it is the same.
    graph = helper.make_graph([node], "b", [], [hostile.value("y")])
    outer = helper.make_node("If", ["c"], ["z"], then_branch=graph, else_branch=graph)
    weights = [hostile.array("c", True, np.bool_)]
    refused(hostile.model([outer], weights, outputs=("z",), imports=imports), *words)
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(*each) for each in imports)]
    function = helper.make_function("local", "F", ["x"], ["y"], [node], opsets)
    refused(hostile.model(RELU, imports=[("local", 1), *imports], functions=[function]), *words)


def test_an_import_of_an_unknown_domain_that_nothing_uses_is_allowed():
    load(hostile.model(RELU, imports=[("never.used", 1)]))


def test_old_experiments_that_onnxruntime_still_runs():
    node = helper.make_node("ImageScaler", ["x"], ["y"], scale=1.0, bias=[0.0, 0.0, 0.0])
    load(hostile.model([node], opset=8))
    refused(hostile.model([node], opset=10), "ImageScaler")


def test_the_operators_of_onnxruntime_are_those_listed():
    """`contrib` is data from ONNX Runtime 1.32; a newer one may know more, and then the list should grow."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    from onnxviz.graph.checks import contrib

    known = {schema.name for schema in state.get_all_operator_schema() if schema.domain == contrib.DOMAIN}
    assert known == contrib.MICROSOFT | contrib.REFUSED.keys()


@pytest.mark.parametrize(
    ("node", "words"),
    [
        (helper.make_node("Relu", ["x", "x"], ["y"]), ["2 inputs", "has 1"]),
        (helper.make_node("Relu", [], ["y"]), ["0 inputs"]),
        (helper.make_node("Relu", ["x"], ["y", "z"]), ["2 outputs"]),
        (helper.make_node("Relu", ["x"], ["y"], alpha=1.0), ["'alpha'"]),
        (helper.make_node("LeakyRelu", ["x"], ["y"], alpha=1), ["'alpha'", "INT", "expected FLOAT"]),
        (helper.make_node("Concat", ["x", "x"], ["y"]), ["lacks", "'axis'"]),
        (helper.make_node("If", ["x"], ["y"]), ["lacks", "branch'"]),
    ],
)
def test_calls_that_do_not_fit_the_operator(node, words):
    refused(hostile.model([node]), *words)


def test_attributes_without_a_type_or_twice():
    proto = hostile.model([helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.5)])
    proto.graph.node[0].attribute.append(proto.graph.node[0].attribute[0])
    refused(proto, "'alpha' twice")
    del proto.graph.node[0].attribute[1]
    proto.graph.node[0].attribute[0].ClearField("type")
    refused(proto, "'alpha'", "no type")


def test_an_attribute_that_refers_to_nothing():
    proto = hostile.model([helper.make_node("LeakyRelu", ["x"], ["y"], alpha=0.5)])
    proto.graph.node[0].attribute[0].ref_attr_name = "slope"
    refused(proto, "'slope'")


def test_text_that_is_not_utf8():
    proto = hostile.network()
    content = proto.SerializeToString().replace(b"conv.b", b"co\xff\xfe.b")
    refused(content, "broken")


# --- structure --------------------------------------------------------------------------------


def test_a_cycle():
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], name="first"), helper.make_node("Relu", ["a"], ["b"])]
    refused(hostile.model([*nodes, helper.make_node("Relu", ["b"], ["y"])]), "cycle", "'first'")
    refused(hostile.model([helper.make_node("Add", ["x", "y"], ["y"])]), "cycle")


def test_a_cycle_through_a_subgraph():
    branch = helper.make_graph([helper.make_node("Relu", ["y"], ["b"])], "b", [], [hostile.value("b")])
    node = helper.make_node("If", ["c"], ["a"], then_branch=branch, else_branch=branch)
    weights = [hostile.array("c", True, np.bool_)]
    refused(hostile.model([node, helper.make_node("Relu", ["a"], ["y"])], weights), "cycle")


@pytest.mark.parametrize("names", [["f"], ["f", "g"], ["f", "g", "h"]])
def test_functions_that_call_themselves(names):
    functions = [hostile.function(name, [names[(place + 1) % len(names)]]) for place, name in enumerate(names)]
    refused(hostile.calls("f", functions), "calls itself")
    # Also where nothing calls them.
    refused(hostile.model(RELU, functions=functions), "calls itself")


def test_a_function_that_calls_itself_from_a_subgraph():
    branch = helper.make_graph(
        [helper.make_node("f", ["a"], ["b"], domain="local")], "b", [], [hostile.value("b")]
    )
    node = helper.make_node("If", ["a"], ["b"], then_branch=branch, else_branch=branch)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    function = helper.make_function("local", "f", ["a"], ["b"], [node], opsets)
    refused(hostile.calls("f", [function]), "calls itself")


def test_functions_twice_without_a_name_or_called_wrongly():
    refused(hostile.calls("f", [hostile.function("f", []), hostile.function("f", [])]), "twice")
    refused(hostile.calls("f", [hostile.function("f", []), hostile.function("", [])]), "without a name")
    proto = hostile.calls("f", [hostile.function("f", [])])
    proto.graph.node[0].input.append("x")
    refused(proto, "2 inputs")


def test_a_function_in_the_place_of_an_operator_is_a_warning():
    function = helper.make_function(
        "", "Relu", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    loaded = load(hostile.model(RELU, functions=[function]))
    assert any("'Relu'" in warning and "anew" in warning for warning in loaded.warnings)


def test_values_that_nothing_makes_or_two_nodes_make():
    refused(hostile.model([helper.make_node("Relu", ["nothing"], ["y"])]), "'nothing'")
    refused(hostile.model([helper.make_node("Relu", ["x"], ["z"])]), "output 'y'")
    refused(hostile.model(RELU * 2), "'y' twice")
    refused(hostile.model([helper.make_node("Split", ["x"], ["y", "y"])]), "'y' twice")
    refused(hostile.model(RELU, [hostile.array("y", 1)]), "'y' twice")
    twice = hostile.model(RELU, inputs=[hostile.value("x"), hostile.value("x")])
    refused(twice, "'x'")
    refused(hostile.model(RELU, [hostile.array("", 1)]), "without a name")


def test_a_subgraph_that_hands_an_outer_value_on():
    branch = helper.make_graph([], "b", [], [hostile.value("x")])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    refused(hostile.model([node], [hostile.array("c", True, np.bool_)]), "Identity")


def test_a_map_that_is_no_zipmap():
    proto = hostile.model([helper.make_node("Identity", ["x"], ["y"])])
    tensor = helper.make_tensor_type_proto(hostile.FLOAT, [])
    proto.graph.output[0].type.CopyFrom(helper.make_map_type_proto(TensorProto.INT64, tensor))
    refused(proto, "map")


def test_names_in_messages_are_inert():
    evil = "\x1b[31m\u202e../../<script>\0\n"
    message = refused(hostile.model([helper.make_node("Relu", [evil], ["y"], name=evil)]), "<script>")
    assert message.isprintable()
    refused(hostile.model([helper.make_node("R" * 10**6, ["x"], ["y"])]), "RRR")


# --- tensors ----------------------------------------------------------------------------------


def weight(**changes):
    """A model whose weight w has these fields set."""
    tensor = hostile.array("w", np.zeros(400, np.float32))
    for name, given in changes.items():
        if name == "dims":
            tensor.ClearField("dims")
            tensor.dims.extend(given)
        elif name.endswith("_data") and name != "raw_data":
            tensor.ClearField("raw_data")
            getattr(tensor, name).extend(given)
        else:
            setattr(tensor, name, given)
    return hostile.model([helper.make_node("Add", ["x", "w"], ["y"])], [tensor])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"raw_data": b"\0" * 1599}, ["1599 bytes", "1600"]),
        ({"raw_data": b""}, ["0 bytes", "1600"]),
        ({"raw_data": b"\0" * 16}, ["16 bytes", "1600"]),
        ({"raw_data": b"\0" * 1604}, ["1604 bytes", "1600"]),
        ({"dims": [401]}, ["1600 bytes", "1604"]),
        ({"dims": [-400]}, ["negative"]),
        ({"dims": [-20, -20]}, ["negative"]),
        ({"dims": [1] * 40 + [400]}, ["41 dimensions"]),
        ({"data_type": 0}, ["element type 0"]),
        ({"data_type": 99}, ["element type 99"]),
        ({"data_type": TensorProto.DOUBLE}, ["3200"]),
        ({"data_type": TensorProto.STRING}, ["text"]),
        ({"float_data": [1.0] * 399}, ["1596 bytes", "1600"]),
        ({"float_data": [1.0] * 5}, ["5 entries in float_data", "400"]),
        ({"float_data": []}, ["no data", "400"]),
        ({"int32_data": [1] * 400}, ["FLOAT", "int32_data"]),
        ({"double_data": [1.0] * 400}, ["FLOAT", "double_data"]),
        ({"int64_data": [1] * 400, "data_type": TensorProto.STRING}, ["STRING", "int64_data"]),
        ({"int32_data": [1] * 400, "data_type": TensorProto.INT4}, ["400 entries", "200"]),
        ({"float_data": [1.0] * 400, "data_type": TensorProto.COMPLEX64}, ["400 entries", "800"]),
    ],
)
def test_data_that_does_not_fit_type_and_shape(changes, words):
    refused(weight(**changes), "'w'", *words)


def test_data_twice_or_in_segments():
    proto = weight()
    proto.graph.initializer[0].float_data.extend([1.0] * 400)
    refused(proto, "twice")
    proto = weight(float_data=[1.0] * 400)
    proto.graph.initializer[0].int32_data.append(1)
    refused(proto, "twice")
    proto = weight()
    proto.graph.initializer[0].raw_data = bytes(8)
    proto.graph.initializer[0].segment.begin = 1
    refused(proto, "segments")


@pytest.mark.parametrize("field", ["Constant", "ConstantOfShape"])
def test_data_of_constants_is_held_to_the_same(field):
    tensor = hostile.array("k", np.zeros(1))
    tensor.raw_data = bytes(3)
    nodes = [
        helper.make_node(field, ["s"] if field == "ConstantOfShape" else [], ["k"], value=tensor),
        helper.make_node("Add", ["x", "k"], ["y"]),
    ]
    refused(hostile.model(nodes, [hostile.array("s", [1], np.int64)]), "3 bytes", field)


def sparse(values, indices, dims):
    proto = hostile.model([helper.make_node("Add", ["x", "w"], ["y"])])
    proto.graph.sparse_initializer.append(
        onnx.SparseTensorProto(
            values=hostile.array("w", values), indices=hostile.array("i", indices, np.int64), dims=dims
        )
    )
    return proto


@pytest.mark.parametrize(
    ("indices", "dims", "words"),
    [
        ([0, 9], [4], ["outside"]),
        ([-1, 2], [4], ["outside"]),
        ([[0, 0], [0, 9]], [2, 4], ["outside"]),
        ([1, 1], [4], ["twice"]),
        ([1], [4], ["(1,)"]),
        ([[1], [2]], [2, 2], ["(2, 1)"]),
        ([0, 1], [-4], ["negative"]),
    ],
)
def test_sparse_weights_that_make_no_sense(indices, dims, words):
    refused(sparse([1.0, 2.0], indices, dims), "'w'", *words)


def test_sparse_attributes_of_other_nodes():
    node = helper.make_node("Relu", ["x"], ["y"])
    attribute = node.attribute.add(name="sparse_value", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.CopyFrom(sparse([1.0], [0], [4]).graph.sparse_initializer[0])
    refused(hostile.model([node]), "sparse_value")
    taken = sparse([1.0], [0], [4])
    taken.graph.initializer.append(hostile.array("w", 1))
    refused(taken, "twice")


def test_a_division_that_would_end_the_process():
    nodes = [
        helper.make_node("Div", ["a", "b"], ["c"], name="trap"),
        helper.make_node("Cast", ["c"], ["d"], to=hostile.FLOAT),
        helper.make_node("Add", ["x", "d"], ["y"]),
    ]
    for kind in (np.int32, np.int64):
        least = np.iinfo(kind).min
        for divisor in (-1, [3, -1]):
            proto = hostile.model(nodes, [hostile.array("a", least, kind), hostile.array("b", divisor, kind)])
            refused(proto, "'trap'", "end the process")
        load(hostile.model(nodes, [hostile.array("a", least + 1, kind), hostile.array("b", -1, kind)]))
