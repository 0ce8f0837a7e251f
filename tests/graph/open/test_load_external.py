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

from onnxviz.errors import LimitExceeded, ModelRejected
from onnxviz.graph.open import confine
from onnxviz.graph.open import protobuf_scan as wire
from onnxviz.graph.open.load import load
from onnxviz.limits import Limits
from tests.graph import hostile
from tests.graph.hostile import array, choice, local, model, same, weights

ADD = "y = Add(x, w)"


@pytest.fixture(params=["walk", "by name"])
def opening(request, monkeypatch):
    """Both ways of opening: by folder descriptors, and as on systems without them."""
    monkeypatch.setattr(confine, "_WALKS", request.param == "walk")
    return request.param


@pytest.fixture
def folder(tmp_path):
    """The model's folder, beside a file that it must not reach; in it a file of four numbers."""
    inside = tmp_path / "models"
    inside.mkdir()
    (tmp_path / "secret.bin").write_bytes(b"secret bytes 16.")
    (inside / "w.bin").write_bytes(FOUR.tobytes())
    return inside


FOUR = np.arange(4, dtype=np.float32)


def refused(path, *words):
    assert "secret bytes" not in hostile.refused(path, *words)


# --- what works -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "location", ["weights.bin", "a/b/weights.bin", "./weights.bin", "a//weights.bin", "..w/…"]
)
def test_external_weights(folder, opening, location):
    path = hostile.move_out(hostile.network(), folder, location)
    loaded = load(path)
    assert loaded.files == [location]
    same(loaded, hostile.network())
    assert not any(isinstance(tensor, ir.ExternalTensor) for tensor in weights(loaded).values())


def test_the_current_folder_and_one_that_the_user_reaches_through_a_link(folder, opening, monkeypatch):
    hostile.move_out(hostile.network(), folder)
    monkeypatch.chdir(folder)
    load("model.onnx")
    monkeypatch.chdir(folder.parent)
    load("models/model.onnx")
    Path("link").symlink_to(folder, target_is_directory=True)
    load(folder.parent / "link/model.onnx")


def test_weights_may_share_their_bytes_and_leave_out_offset_and_length(folder):
    shared = [array(name, np.zeros(4)) for name in "wv"]
    hostile.point(shared[0], location="w.bin", offset=0, length=16)
    hostile.point(shared[1], location="w.bin")
    loaded = load(hostile.save(model("a = Add(w, v) y = Add(x, a)", shared, shape=(1, 4)), folder))
    for tensor in weights(loaded).values():
        np.testing.assert_array_equal(tensor.numpy(), FOUR)


def test_one_file_a_weight_takes_no_descriptor_each(folder):
    held, nodes = [array(f"w{place}", np.full(4, place)) for place in range(300)], []
    for place, weight in enumerate(held):
        hostile.put([weight], folder / f"{place}.bin")
        nodes.append(f"v{place + 1} = Add({f'v{place}' if place else 'x'}, w{place})")
    path = hostile.save(model(" ".join(nodes), held, shape=(1, 4), outputs=("v300",)), folder)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
    try:
        loaded = load(path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert len(loaded.files) == 300
    assert weights(loaded)["w299"].numpy()[0] == 299


def test_a_weight_without_elements(folder):
    (folder / "w.bin").write_bytes(b"")
    loaded = load(hostile.external(folder, "w.bin", size=0, offset=0, length=0))
    assert weights(loaded)["w"].numpy().shape == (0,)


def test_what_is_not_read_may_name_anything(folder):
    """Entries left behind by a tool that took the data in; a training graph."""
    proto = hostile.network()
    proto.graph.initializer[0].external_data.add(key="location", value="../secret.bin")
    weight = proto.training_info.add().algorithm.initializer.add()
    weight.CopyFrom(array("w", np.zeros(4)))
    hostile.point(weight, location="../secret2.bin")
    assert load(hostile.save(proto, folder)).files == []
    assert b"secret2" not in wire.split(proto.SerializeToString(), Limits()).message


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
        (None, "absolute"),
    ],
)
def test_locations_that_are_refused(folder, opening, location, word):
    (folder / "a").mkdir()
    (folder / "a/w.bin").write_bytes(bytes(16))
    location = str(folder / "w.bin") if location is None else location
    refused(hostile.external(folder, location, offset=0, length=16), word)


def test_symbolic_links(folder, opening):
    (folder / "deep").mkdir()
    (folder / "deep/w.bin").write_bytes(bytes(16))
    links = {
        "out.bin": folder.parent / "secret.bin",
        "in.bin": folder / "w.bin",
        "relative.bin": "w.bin",
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
    os.link(folder.parent / "secret.bin", folder / "hard.bin")
    refused(hostile.external(folder, "hard.bin"), "hard link")


def test_what_is_no_regular_file(folder, opening, monkeypatch):
    monkeypatch.chdir(folder)
    os.mkfifo("pipe")
    (folder / "dir").mkdir()
    start = time.monotonic()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("sock")
        for name, word in (("pipe", "FIFO"), ("sock", "socket"), ("dir", "folder")):
            refused(hostile.external(folder, name), word)
    refused(hostile.external(folder, "model.onnx/w.bin"), "cannot open")
    with pytest.raises(ModelRejected, match="a device"):
        confine.Folder(Path("/dev")).open("zero")
    assert time.monotonic() - start < 1


def test_a_file_that_is_swapped_while_it_is_opened(folder, monkeypatch):
    """What was opened is looked at again: a link put there after the first look is not followed."""
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
    bad = array("w", np.zeros(4))
    sparse = onnx.SparseTensorProto(
        values=array("w", [1.0, 2.0]), indices=array("i", [0, 1], np.int64), dims=[4]
    )
    values = (sparse.values, 8) if "sparse" in where else (bad, 16)
    part, length = (sparse.indices, 16) if where == "sparse indices" else values
    hostile.point(part, location=location, offset=0, length=length)
    constant, function = f"w = Constant() {ADD}", local("f (a) => (b) { w = Constant() b = Add(a, w) }")
    if where == "function":
        proto = hostile.calls("f", [function])
        proto.functions[0].node[0].attribute.append(onnx.helper.make_attribute("value", bad))
    elif where == "subgraph":
        proto = model(choice("b = Add(x, w)"), [array("c", True, np.bool_)])
        for attribute in proto.graph.node[0].attribute:
            attribute.g.initializer.append(bad)
    elif where.endswith("constant"):
        proto = model(constant)
        key, given = ("value", bad) if where == "constant" else ("sparse_value", sparse)
        proto.graph.node[0].attribute.append(onnx.helper.make_attribute(key, given))
    else:
        proto = model(ADD)
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
        ({"location": "../secret.bin"}, ["'location' twice"]),
        ({"location": "w.bin"}, ["'location' twice"]),
        ({"raw_data": bytes(16)}, ["twice"]),
        ({"data_type": onnx.TensorProto.STRING}, ["text"]),
        ({"external_data": []}, ["without a location"]),
    ],
)
def test_offset_length_and_what_else_is_said(folder, entries, words):
    fields = {
        key: entries.pop(key)
        for key in ("raw_data", "data_type", "external_data", "location")
        if key in entries
    }
    proto = onnx.load(hostile.external(folder, "w.bin", **entries), load_external_data=False)
    weight = proto.graph.initializer[0]
    for key, given in fields.items():
        if key == "location":
            weight.external_data.add(key=key, value=given)
        elif key == "external_data":
            del weight.external_data[:]
        else:
            setattr(weight, key, given)
    refused(hostile.save(proto, folder), "'w'", *words)


def test_a_file_that_is_missing_or_too_short(folder, opening):
    refused(hostile.external(folder, "none.bin"), "'none.bin' is missing", str(folder)[-30:])
    refused(hostile.external(folder, "no/w.bin"), "missing")
    (folder / "w.bin").write_bytes(bytes(15))
    refused(hostile.external(folder, "w.bin"), "has only 15", "downloaded")
    (folder / "w.bin").write_bytes(b"")
    refused(hostile.external(folder, "w.bin"), "has only 0")


def test_a_model_without_a_folder(folder):
    path = hostile.external(folder, "w.bin")
    for source in (path.read_bytes(), onnx.load(path, load_external_data=False)):
        refused(source, "no folder", "path of the .onnx file")


def test_the_weights_of_all_files_together_are_limited(folder):
    path = hostile.move_out(hostile.network(), folder)
    with pytest.raises(LimitExceeded, match="weight_bytes"):
        load(path, limits=Limits(weight_bytes=2000))
    load(path, limits=Limits(weight_bytes=(16 * 27 + 16 + 160 + 10) * 4))
