"""Files that are no models, broken ones, and models that use what does not exist: each refused, with what to do."""

import io
import os
import random
import socket
import struct
import time
import zipfile

import numpy as np
import onnx
import pytest

from onnxviz.graph.open import signatures
from onnxviz.graph.open.confine import describe
from onnxviz.graph.open.load import load
from tests.graph import hostile
from tests.graph.hostile import array, choice, local, model, refused

# --- files that are something else ------------------------------------------------------------


def zipped(*names):
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
    "lfs": (b"version https://git-lfs.github.com/spec/v1\nsize 5\n", "Git LFS", "git lfs pull"),
    "torch": (zipped("archive/data.pkl", "archive/version"), "PyTorch checkpoint", "onnxviz export"),
    "keras": (zipped("metadata.json", "config.json"), "Keras", "tf2onnx"),
    "zip": (zipped("model.onnx"), ".onnx file in it", "unpack"),
    "pickle": (b"\x80\x02}q\x00.", "pickle", "onnxviz export"),
    "safetensors": (struct.pack("<Q", 60) + b'{"w":{"dtype":"F32"}}', "safetensors", "onnxviz export"),
    "tflite": (b"\x1c\x00\x00\x00TFL3" + bytes(100), "TensorFlow Lite", "tf2onnx"),
    "ort": (b"\x1c\x00\x00\x00ORTM" + bytes(100), "ORT format", ".onnx file"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5", "tf2onnx"),
    "savedmodel": (b"\x08\x01\x12\x10\n\x05serve" + bytes(3), "TensorFlow", "tf2onnx"),
    "frozen": (hostile.field(1, b"\n\x01x\x12\x0bPlaceholder"), "TensorFlow", "tf2onnx"),
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


@pytest.mark.parametrize(
    ("name", "kind"),
    [("net.PT", "PyTorch"), ("net.onnx_data", "weights file"), ("net.onnx", "no kind of file")],
)
def test_what_bytes_do_not_tell_the_name_does(name, kind):
    assert kind in describe(b"\x01\x02\x03", name)


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes(tmp_path, seed):
    path = tmp_path / "model.onnx"
    path.write_bytes(random.Random(seed).randbytes(10 ** (seed % 5)))
    refused(path)


def test_a_file_that_was_cut_short(tmp_path):
    whole = hostile.save(hostile.network(), tmp_path).read_bytes()
    for size in range(2, len(whole) - 40, 29):
        path = tmp_path / "cut.onnx"
        path.write_bytes(whole[:size])
        refused(path, "cut short", "downloaded")


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


NETWORK = hostile.network()


def without(field, **imports):
    proto = hostile.network()
    proto.ClearField(field)
    for domain, version in imports.items():
        proto.opset_import.add(domain=domain.replace("_", "."), version=version)
    return proto


@pytest.mark.parametrize(
    ("proto", "words"),
    [
        (hostile.network(ir_version=onnx.IR_VERSION + 1), [f"IR version {onnx.IR_VERSION + 1}", "update"]),
        (onnx.ModelProto(ir_version=8), ["no ONNX graph"]),
        (without("ir_version"), ["no ONNX graph"]),
        (without("opset_import"), ["opset_import"]),
        (without("opset_import", com_microsoft=1), ["ai.onnx"]),
        (without("doc_string", ai_onnx=13), ["13", "17"]),
        *((hostile.network(opset=version), [str(version)]) for version in (0, -5, -(2**63))),
        (NETWORK.SerializeToString().replace(b"conv.b", b"co\xff\xfe.b"), ["UTF-8", "graph.node[0].input[2]"]),
    ],
)  # fmt: skip
def test_versions_and_texts(proto, words):
    refused(proto, *words)


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
    name = f"{domain}.{op}".lstrip(".")
    node, imports = f"[culprit] y = {name}(x)", [(domain, 1)] if domain else []
    refused(model(node, imports=imports), "'culprit'", *words)
    # Hidden in a subgraph or a function, used or not, it is the same.
    inside = choice(f"b = {name}(x)")
    refused(model(inside, [array("c", True, np.bool_)], imports=imports), *words)
    function = local(f"F (x) => (y) {{ {node} }}")
    function.opset_import.extend(
        onnx.helper.make_opsetid(*each) for each in imports if each[0] != "com.microsoft"
    )
    refused(model("y = Relu(x)", functions=[function], imports=imports), *words)


def test_an_import_of_an_unknown_domain_that_nothing_uses_is_allowed():
    load(model("y = Relu(x)", imports=[("never.used", 1)]))


def test_old_experiments_that_onnxruntime_still_runs():
    node = "y = ImageScaler<scale = 1.0, bias = [0.0, 0.0, 0.0]>(x)"
    load(model(node, opset=8))
    refused(model(node, opset=10), "ImageScaler")


def test_the_operators_of_onnxruntime_are_those_listed():
    """The list is data from ONNX Runtime 1.32; a newer one may know more, and then the list should grow."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds = {"Single": ".", "Optional": "?", "Variadic": "*"}
    known = {
        schema.name: [
            "".join(kinds[each.option.name] for each in schema.inputs),
            *filter(None, [",".join(sorted(n for n, a in schema.attributes.items() if a.required))]),
        ]
        for schema in state.get_all_operator_schema()
        if schema.domain == signatures.MICROSOFT
    }
    for name in signatures.REFUSED:
        del known[name]
    assert known == signatures.CONTRIBUTED


CALLS = {
    "y = com.microsoft.Attention(x, x)": ["'num_heads'"],
    "y = com.microsoft.FusedConv(x)": ["1 inputs", "has 2 to 4"],
    'y = com.microsoft.FusedMatMul("", x)': ["leaves out its input 1 (of 2)"],
    "y = Relu(x, x)": ["2 inputs", "has 1"],
    "y = Relu()": ["0 inputs"],
    "y, z = Relu(x)": ["2 outputs"],
    "y = Relu<alpha = 1.0>(x)": ["'alpha'"],
    "y = LeakyRelu<alpha = 1>(x)": ["'alpha'", "INT", "expected FLOAT"],
    "y = Concat(x, x)": ["lacks", "'axis'"],
    "y = If(x)": ["lacks", "branch'"],
    "y = LeakyRelu<alpha: float = @slope>(x)": ["'slope'"],
    "y = LeakyRelu<alpha = 0.5, alpha = 0.5>(x)": ["'alpha' twice"],
}


@pytest.mark.parametrize("node", CALLS)
def test_calls_that_do_not_fit_the_operator(node):
    refused(model(node, imports=[("com.microsoft", 1)]), *CALLS[node])


def test_an_attribute_without_a_type():
    proto = model("y = LeakyRelu<alpha = 0.5>(x)")
    proto.graph.node[0].attribute[0].ClearField("type")
    refused(proto, "'alpha'", "no type")
