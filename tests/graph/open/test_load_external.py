"""Weights in other files: read from inside the model's folder, from plain files, and from nowhere else."""

import os
import resource
import socket
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

from onnxviz.errors import LimitExceeded, ModelRejected
from onnxviz.graph.open import confine
from onnxviz.graph.open import protobuf_scan as wire
from onnxviz.graph.open.load import load
from onnxviz.limits import Limits
from tests.graph import hostile

X = np.random.default_rng(1).normal(size=(1, 3, 8, 8)).astype(np.float32)


@pytest.fixture(params=["walk", "by name"])
def opening(request, monkeypatch):
    """Both ways of opening: by folder descriptors, and as on systems without them."""
    monkeypatch.setattr(confine, "_WALKS", request.param == "walk")
    return request.param


@pytest.fixture
def folder(tmp_path):
    """The model's folder, beside a file that it must not reach."""
    inside = tmp_path / "models"
    inside.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"secret bytes 16.")
    return inside


def refused(path, *words):
    with pytest.raises(ModelRejected) as caught:
        load(path)
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert "secret bytes" not in str(caught.value)


# --- what works -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location", ["weights.bin", "a/b/weights.bin", "./weights.bin", "a//weights.bin", "..w/…"]
)
def test_external_weights(folder, opening, location):
    path = hostile.move_out(hostile.network(), folder, location)
    loaded = load(path)
    assert loaded.files == [location]
    (got,) = hostile.run(ir.to_proto(loaded.model), X)
    np.testing.assert_array_equal(got, hostile.run(hostile.network(), X)[0])
    assert not any(
        isinstance(value.const_value, ir.ExternalTensor) for value in loaded.model.graph.initializers.values()
    )


def test_a_relative_path_and_the_current_folder(folder, opening, monkeypatch):
    hostile.move_out(hostile.network(), folder)
    monkeypatch.chdir(folder)
    load("model.onnx")
    monkeypatch.chdir(folder.parent)
    load("models/model.onnx")


def test_a_folder_that_the_user_reaches_through_a_link(folder, opening):
    hostile.move_out(hostile.network(), folder)
    (folder.parent / "link").symlink_to(folder, target_is_directory=True)
    load(folder.parent / "link/model.onnx")


def test_offset_and_length_may_be_left_out(folder):
    (folder / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    loaded = load(hostile.external(folder, "w.bin"))
    np.testing.assert_array_equal(loaded.model.graph.initializers["w"].const_value.numpy(), range(4))


def test_weights_may_share_their_bytes(folder):
    (folder / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    weights = [hostile.array(name, np.zeros(4)) for name in "wv"]
    for weight in weights:
        hostile.point(weight, location="w.bin", offset=0, length=16)
    nodes = [helper.make_node("Add", ["w", "v"], ["a"]), helper.make_node("Add", ["x", "a"], ["y"])]
    loaded = load(hostile.save(hostile.model(nodes, weights, shape=(1, 4)), folder))
    for name in "wv":
        np.testing.assert_array_equal(loaded.model.graph.initializers[name].const_value.numpy(), range(4))


def test_one_file_a_weight_takes_no_descriptor_each(folder):
    weights, nodes = [], []
    for place in range(300):
        (folder / f"{place}.bin").write_bytes(np.full(4, place, np.float32).tobytes())
        weights.append(hostile.array(f"w{place}", np.zeros(4)))
        hostile.point(weights[-1], location=f"{place}.bin")
        nodes.append(helper.make_node("Add", [f"v{place}" if place else "x", f"w{place}"], [f"v{place + 1}"]))
    path = hostile.save(hostile.model(nodes, weights, shape=(1, 4), outputs=("v300",)), folder)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
    try:
        loaded = load(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(loaded.files) == 300
    assert loaded.model.graph.initializers["w299"].const_value.numpy()[0] == 299


def test_a_weight_without_elements(folder):
    (folder / "w.bin").write_bytes(b"")
    loaded = load(hostile.external(folder, "w.bin", size=0, offset=0, length=0))
    assert loaded.model.graph.initializers["w"].const_value.numpy().shape == (0,)


def test_entries_left_behind_by_a_tool_that_took_the_data_in(folder):
    proto = hostile.network()
    proto.graph.initializer[0].external_data.add(key="location", value="../secret.bin")
    loaded = load(hostile.save(proto, folder))
    assert loaded.files == []


def test_a_training_graph_is_not_looked_at(folder):
    proto = hostile.network()
    weight = proto.training_info.add().algorithm.initializer.add()
    weight.CopyFrom(hostile.array("w", np.zeros(4)))
    hostile.point(weight, location="../secret.bin")
    loaded = load(hostile.save(proto, folder))
    assert loaded.files == []
    assert b"secret" not in wire.split(proto.SerializeToString(), Limits()).message


# --- leaving the folder -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("location", "word"),
    [
        ("../secret.bin", "leads out"),
        ("a/../../secret.bin", "leads out"),
        ("a/..", "leads out"),
        ("..", "leads out"),
        ("/etc/passwd", "absolute"),
        ("//server/share", "absolute"),
        ("C:\\secret.bin", "absolute"),
        ("c:secret.bin", "absolute"),
        ("\\\\server\\share", "absolute"),
        ("..\\secret.bin", "backslashes"),
        ("", "1 to 4096"),
        (".", "folder"),
        ("./", "folder"),
        ("a/", "folder"),
        ("w\0.bin", "NUL"),
        ("w" * 5000, "4096"),
        ("w" * 1000, "cannot open"),
        ("*/_ORT_MEM_ADDR_/*", "address in memory"),
        ("_ORT_MEM_ADDR_", "address in memory"),
    ],
)
def test_locations_that_are_refused(folder, opening, location, word):
    (folder / "a").mkdir()
    (folder / "a/w.bin").write_bytes(bytes(16))
    path = hostile.external(folder, location, offset=0, length=16)
    refused(path, word)


def test_an_absolute_path_to_a_file_inside(folder, opening):
    (folder / "w.bin").write_bytes(bytes(16))
    refused(hostile.external(folder, str(folder / "w.bin")), "absolute")


def test_symbolic_links(folder, opening):
    inside = folder / "real.bin"
    inside.write_bytes(bytes(16))
    (folder / "deep").mkdir()
    (folder / "deep/w.bin").write_bytes(bytes(16))
    links = {
        "out.bin": folder.parent / "secret.bin",
        "in.bin": inside,
        "relative.bin": "real.bin",
        "dangling.bin": "nothing",
        "circle.bin": "circle.bin",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
        refused(hostile.external(folder, name), "symbolic link", "copies")
    (folder / "linked").symlink_to(folder / "deep", target_is_directory=True)
    (folder / "up").symlink_to(folder.parent, target_is_directory=True)
    refused(hostile.external(folder, "linked/w.bin"), "symbolic link", "'linked'")
    refused(hostile.external(folder, "up/secret.bin"), "symbolic link", "'up'")


def test_a_hard_link(folder, opening):
    """ONNX Runtime 1.32 reads such a file."""
    os.link(folder.parent / "secret.bin", folder / "w.bin")
    refused(hostile.external(folder, "w.bin"), "hard link")


def test_what_is_no_regular_file(folder, opening, monkeypatch):
    monkeypatch.chdir(folder)
    os.mkfifo("pipe")
    (folder / "dir").mkdir()
    start = time.monotonic()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock")
        refused(hostile.external(folder, "pipe"), "FIFO")
        refused(hostile.external(folder, "sock"), "socket")
        refused(hostile.external(folder, "dir"), "folder")
    refused(hostile.external(folder, "model.onnx/w.bin"), "cannot open")
    assert time.monotonic() - start < 1


def test_a_device(opening):
    with pytest.raises(ModelRejected, match="a device"):
        confine.Folder(Path("/dev")).open("zero")


def test_a_file_that_is_swapped_while_it_is_opened(folder, monkeypatch):
    """What was opened is looked at again: a link put there after the first look is not followed."""
    (folder / "w.bin").write_bytes(bytes(16))
    path = hostile.external(folder, "w.bin")
    real = os.open

    def swap(name, *arguments, **options):
        if name == "w.bin":
            (folder / "w.bin").unlink()
            os.link(folder.parent / "secret.bin", folder / "w.bin")
        return real(name, *arguments, **options)

    monkeypatch.setattr(confine.os, "open", swap)
    refused(path, "replaced")


@pytest.mark.parametrize(
    "where", ["sparse values", "sparse indices", "constant", "sparse constant", "subgraph", "function"]
)
@pytest.mark.parametrize(
    "location", ["../secret.bin", "linked.bin", "hard.bin", "*/_ORT_MEM_ADDR_/*", "missing.bin"]
)
def test_the_same_wherever_a_tensor_can_be(folder, where, location):
    (folder / "linked.bin").symlink_to(folder.parent / "secret.bin")
    os.link(folder.parent / "secret.bin", folder / "hard.bin")
    bad = hostile.array("w", np.zeros(4))
    hostile.point(bad, location=location, offset=0, length=16)
    add = helper.make_node("Add", ["x", "w"], ["y"])
    holder = helper.make_node("Constant", [], ["w"], value=bad)
    if where == "constant":
        proto = hostile.model([holder, add])
    elif where == "function":
        body = [holder, helper.make_node("Add", ["a", "w"], ["b"])]
        function = helper.make_function("local", "f", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
        proto = hostile.calls("f", [function])
    elif where == "subgraph":
        graph = helper.make_graph(
            [helper.make_node("Add", ["x", "w"], ["b"])], "g", [], [hostile.value("b")], [bad]
        )
        node = helper.make_node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)
        proto = hostile.model([node], [hostile.array("c", True, np.bool_)])
    else:
        sparse = onnx.SparseTensorProto(
            values=hostile.array("w", [1.0, 2.0]), indices=hostile.array("i", [0, 1], np.int64), dims=[4]
        )
        if where == "sparse indices":
            sparse.indices.CopyFrom(hostile.array("i", [0, 1], np.int64))
            hostile.point(sparse.indices, location=location, offset=0, length=16)
        else:
            hostile.point(sparse.values, location=location, offset=0, length=8)
        if where == "sparse constant":
            proto = hostile.model([helper.make_node("Constant", [], ["w"], sparse_value=sparse), add])
        else:
            proto = hostile.model([add])
            proto.graph.sparse_initializer.append(sparse)
    refused(hostile.save(proto, folder), f"'{location}'")


# --- entries that make no sense ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"offset": -1}, ["offset", "'-1'"]),
        ({"offset": "0x10"}, ["offset"]),
        ({"offset": "1_0"}, ["offset"]),
        ({"offset": "٣"}, ["offset"]),
        ({"offset": 10**30}, ["offset"]),
        ({"offset": 1}, ["16 bytes at 1", "has only 16"]),
        ({"offset": 2**60}, ["has only 16"]),
        ({"length": 2**60}, [str(2**60), "need 16"]),
        ({"length": -16}, ["length"]),
        ({"length": 8}, ["8 bytes", "need 16"]),
        ({"length": 0}, ["0 bytes", "need 16"]),
        ({"offset": [0, 0]}, ["'offset' twice"]),
        ({"length": [16, 8]}, ["'length' twice"]),
    ],
)
def test_offset_and_length(folder, entries, words):
    (folder / "w.bin").write_bytes(bytes(16))
    refused(hostile.external(folder, "w.bin", **entries), "'w'", *words)


def test_two_locations(folder):
    (folder / "w.bin").write_bytes(bytes(16))
    for second in ("../secret.bin", "w.bin"):
        proto = onnx.load(hostile.external(folder, "w.bin"), load_external_data=False)
        proto.graph.initializer[0].external_data.add(key="location", value=second)
        refused(hostile.save(proto, folder), "'location' twice")


def test_no_location(folder):
    proto = hostile.model([helper.make_node("Add", ["x", "w"], ["y"])], [hostile.array("w", np.zeros(4))])
    hostile.point(proto.graph.initializer[0], offset=0)
    refused(hostile.save(proto, folder), "without a location")


def test_a_file_that_is_missing_or_too_short(folder, opening):
    refused(hostile.external(folder, "w.bin"), "'w.bin' is missing", str(folder)[-30:])
    refused(hostile.external(folder, "no/w.bin"), "missing")
    (folder / "w.bin").write_bytes(bytes(15))
    refused(hostile.external(folder, "w.bin"), "has only 15", "downloaded")
    (folder / "w.bin").write_bytes(b"")
    refused(hostile.external(folder, "w.bin"), "has only 0")


def test_elements_both_inside_and_outside(folder):
    (folder / "w.bin").write_bytes(bytes(16))
    proto = onnx.load(hostile.external(folder, "w.bin"), load_external_data=False)
    proto.graph.initializer[0].raw_data = bytes(16)
    refused(hostile.save(proto, folder), "twice")


def test_text_outside(folder):
    proto = onnx.load(hostile.external(folder, "w.bin"), load_external_data=False)
    proto.graph.initializer[0].data_type = onnx.TensorProto.STRING
    refused(hostile.save(proto, folder), "text")


def test_a_model_without_a_folder(folder):
    (folder / "w.bin").write_bytes(bytes(16))
    path = hostile.external(folder, "w.bin")
    for source in (path.read_bytes(), onnx.load(path, load_external_data=False)):
        refused(source, "no folder", "path of the .onnx file")


def test_the_weights_of_all_files_together_are_limited(folder):
    path = hostile.move_out(hostile.network(), folder)
    with pytest.raises(LimitExceeded, match="weight_bytes"):
        load(path, limits=Limits(weight_bytes=2000))
    load(path, limits=Limits(weight_bytes=(16 * 27 + 16 + 160 + 10) * 4))
