"""Export from torch: what the file computes, what it is called inside, and what it says about itself."""

import enum
import json
import sys
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from onnxviz.catalogue import data_file
from onnxviz.errors import (
    InputRefused,
    LabelsRejected,
    MissingDependency,
    ModelUnsuitable,
    OutputRefused,
    RuntimeFailed,
    UsageError,
)
from onnxviz.exporting import efficientnet, hubs, trace
from onnxviz.exporting.export import _exposed, _fields, build, export
from onnxviz.exporting.source import Source, Wanted, package, parse_options
from onnxviz.exporting.trace import pick_output
from onnxviz.graph import metadata
from onnxviz.graph.open.load import load
from onnxviz.image.preprocessing import PRESETS, Preprocessing

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 1)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(self.conv2(self.act(self.bn1(self.conv1(x)))) + x)


class Net(nn.Module):
    """A residual classifier of three classes; statistics of the BatchNorm are not those it starts with."""

    def __init__(self, classes=3, channels=3, wrap=None):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, stride=2, padding=1)
        self.layer1 = nn.Sequential(Block(8), Block(8))
        self.fc = nn.Linear(8, classes)
        self.wrap = wrap
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        x = self.fc(torch.flatten(nn.functional.adaptive_avg_pool2d(self.layer1(x), 1), 1))
        return x if self.wrap is None else self.wrap(x)


# Where a test is about something else than open sizes and the comparison, which take most of the time.
QUICK = {"size": 16, "dynamic_size": False, "verify": False}


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The same network exported once, for the tests that only look at the file."""
    torch.manual_seed(0)
    return export(Net().eval(), tmp_path_factory.mktemp("made") / "net.onnx", size=32)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "net.onnx"


def run(path, x):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})


def said(path):
    return metadata.read({prop.key: prop.value for prop in onnx.load(path).metadata_props})


def layers(path):
    """The outputs of its nodes."""
    return [node.output[0] for node in onnx.load(path).graph.node]


def input_shape(path):
    return shape(onnx.load(path).graph.input[0])


def shape(value):
    return [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]


# --- what the file computes --------------------------------------------------------------------------------


def test_the_file_computes_what_torch_computes_at_any_batch_and_size(net, made):
    assert made.path.name == "net.onnx" and made.warnings == [] and made.classes == 3
    assert (made.dynamic, made.size, made.opset, made.outputs) == ("NHW", (32, 32), 18, ("logits",))
    assert made.difference.relative < 1e-5
    model = onnx.load(made.path)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 10
    assert shape(model.graph.input[0]) == ["N", 3, "H", "W"] and model.graph.input[0].name == "image"
    for size in ((1, 3, 32, 32), (4, 3, 45, 31)):
        x = np.random.default_rng(1).standard_normal(size, dtype=np.float32)
        with torch.no_grad():
            expected = net(torch.from_numpy(x)).numpy()
        np.testing.assert_allclose(run(made.path, x)[0], expected, atol=1e-5)


def test_names_say_where_a_value_comes_from(made):
    graph = onnx.load(made.path).graph
    block = ("conv1", "conv1.relu", "conv2", "add", "add.relu")
    blocks = [f"layer1.{i}.{name}" for i in (0, 1) for name in block]
    names = [node.output[0] for node in graph.node]
    assert names == ["stem", "stem.relu", *blocks, "avgpool", "reshape", "logits"]
    named = {f"{name}.{part}" for name in ("stem", "layer1.1.conv1") for part in ("weight", "bias")}
    assert {*named, "fc.weight"} <= {w.name for w in graph.initializer}
    scopes = {node.name: node.metadata_props for node in graph.node}
    assert {prop.key for props in scopes.values() for prop in props} == {"pkg.torch.onnx.name_scopes"}
    assert scopes["layer1.0.conv1"][0].value == "['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv']"
    assert scopes["layer1.0.conv1.relu"][0].value == "['', 'layer1', 'layer1.0', 'layer1.0.act', 'relu']"
    assert "BatchNormalization" not in {node.op_type for node in graph.node}


def test_a_module_called_once_gives_its_own_name_and_equal_names_are_counted(out):
    class Odd(nn.Sequential):
        def forward(self, x):
            x = super().forward(x)
            return torch.cat([x + 1, x + 2], 1)

    export(Odd(nn.Conv2d(3, 4, 3), nn.ReLU6(), nn.MaxPool2d(2)), out, size=16)
    assert layers(out) == ["0", "1", "2", "add", "add_1", "output"]


def test_the_same_network_gives_the_same_bytes_without_paths(net, made, tmp_path):
    again = export(net, tmp_path / "again.onnx", size=32, verify=False)
    assert again.digest == made.digest
    data = made.path.read_bytes()
    for sign in (b"site-packages", b".py", b"stack_trace", str(Path.cwd()).encode(), str(tmp_path).encode()):
        assert sign not in data


def test_the_module_is_left_as_it_was(out):
    net = Net().train()
    net.layer1[0].bn1.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    x = torch.randn(2, 3, 16, 16)
    export(net, out, **QUICK)
    assert net.training and net.layer1[1].bn1.training and not net.layer1[0].bn1.training
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    net.eval()
    with torch.no_grad():  # the file holds the network in evaluation mode
        np.testing.assert_allclose(run(out, x.numpy())[0], net(x).numpy(), atol=1e-5)


def test_half_precision_weights_become_float32(net, out):
    half = net.half()
    export(half, out, **QUICK)
    assert onnx.load(out).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert next(half.parameters()).dtype == torch.float16


def test_the_output_that_matters_is_taken(out):
    made = export(Net(wrap=lambda x: types.SimpleNamespace(logits=x, hidden=x * 2)), out, **QUICK)
    assert made.outputs == ("logits",)
    assert layers(out)[:3] == ["stem", "stem.relu", "layer1.0.conv1"]  # no trace of the wrapper


def test_which_output_matters():
    x, other = torch.zeros(2), torch.ones(3)
    for output in (x, {"out": x, "aux": other}, {"aux": other, "logits": x}, (x, other), [x]):
        assert pick_output(output) is x
    for output in ("cat", None, (), {"aux": other}, [[x]]):
        with pytest.raises(ModelUnsuitable, match="not a tensor"):
            pick_output(output)


# --- what stays fixed, and why -----------------------------------------------------------------------------


def test_everything_fixed_on_request(net, out):
    made = export(net, out, **QUICK | {"size": (16, 24)}, dynamic_batch=False)
    assert made.dynamic == "" and made.warnings == []
    assert input_shape(out) == [1, 3, 16, 24]


@pytest.mark.parametrize(("size", "pools"), [(7, []), (28, ["AveragePool"])])
def test_adaptive_pooling_is_ordinary_pooling_at_a_fixed_size(out, size, pools):
    """The end of AlexNet and VGG."""
    parts = {"features": nn.Conv2d(3, 4, 3, padding=1), "act": nn.ReLU(), "avgpool": nn.AdaptiveAvgPool2d(7)}
    net = nn.Sequential(OrderedDict(**parts, flat=nn.Flatten(), classifier=nn.Linear(4 * 49, 5)))
    made = export(net, out, size=size)
    assert made.dynamic == "N"
    assert "'avgpool' pools to 7×7" in made.warnings[0]
    operators = [node.op_type for node in onnx.load(out).graph.node]
    assert operators == ["Conv", "Relu", *pools, "Reshape", "Gemm"]
    assert isinstance(net.avgpool, nn.AdaptiveAvgPool2d)  # replaced only while exporting


def test_a_network_that_takes_one_size_only(out):
    flat = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), nn.Flatten(), nn.Linear(4 * 4 * 4, 2))
    made = export(flat, out, size=16)
    assert made.dynamic == "N"
    assert made.warnings == ["height and width stay 16×16: torch itself takes no other size"]
    with pytest.raises(UsageError, match=r"does not take an input of 2×3×20×20.*size="):
        export(flat, out, size=20)


def test_size_dependent_padding_is_not_left_open(out):
    """As in TensorFlow's networks."""

    class Padded(nn.Conv2d):
        def forward(self, x):
            odd = int(x.shape[-1]) % 2
            return super().forward(nn.functional.pad(x, (odd, 1, odd, 1))).mean((2, 3))

    made = export(Padded(3, 4, 3, stride=2), out, size=16)
    assert made.dynamic == "N" and len(made.warnings) == 1
    assert "computed from the size" in made.warnings[0]
    assert made.difference.relative < 1e-5


def test_a_graph_that_is_wrong_at_other_sizes_is_made_fixed(net, out, monkeypatch):
    """As if torch had baked something in without noticing."""
    real = trace.compare

    def wrong(model, module, shapes, seed):
        found = real(model, module, shapes, seed)
        return trace.Difference(1.0, 0.5, shapes[-1]) if len(shapes) > 1 else found

    monkeypatch.setattr(trace, "compare", wrong)
    made = export(net, out, size=16)
    assert made.dynamic == "N"
    assert "differs from torch by 5.0e-01" in made.warnings[0]
    assert input_shape(out) == ["N", 3, 16, 16]


def test_a_wrong_graph_is_not_written(net, out, monkeypatch):
    out.write_bytes(b"old")
    monkeypatch.setattr(trace, "compare", lambda *_: trace.Difference(1.0, 0.5, (1,)))
    with pytest.raises(RuntimeFailed, match="nothing was written"):
        export(net, out, size=16, dynamic_size=False)
    assert out.read_bytes() == b"old"


def test_the_comparison_sees_a_changed_weight(net, made):
    model = load(made.path).model
    assert trace.compare(model, net, [(2, 3, 16, 16)], 0).relative < 1e-5
    with torch.no_grad():
        net.fc.weight[0, 0] += 0.5
    assert trace.compare(model, net, [(2, 3, 16, 16)], 0).relative > 1e-3


def test_a_network_that_torch_cannot_export(out):
    class Wayward(nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x * 3

    with pytest.raises(ModelUnsuitable, match="torch cannot export this network"):
        export(Wayward(), out, size=8)

    assert not out.exists()


# --- intermediate outputs ----------------------------------------------------------------------------------


def test_all_intermediate_values_as_outputs(net, out):
    made = export(net, out, **QUICK, expose=True)
    assert made.outputs[0] == "logits"
    assert {"stem", "stem.relu", "layer1.0.add", "avgpool"} <= set(made.outputs)
    x = torch.randn(2, 3, 16, 16)
    values = dict(zip(made.outputs, run(out, x.numpy()), strict=True))
    with torch.no_grad():
        np.testing.assert_allclose(values["stem"], net.stem(x).numpy(), atol=1e-5)
        first = net.layer1[0].bn1(net.layer1[0].conv1(torch.relu(net.stem(x))))
        np.testing.assert_allclose(values["layer1.0.conv1"], first.numpy(), atol=1e-5)


def test_some_intermediate_values_as_outputs(made):
    model = load(made.path).model
    some = _exposed(model, ["layer1.0.add", "stem.relu"])
    assert [value.name for value in some.graph.outputs] == ["logits", "layer1.0.add", "stem.relu"]
    with pytest.raises(UsageError, match=r"did you mean 'layer1\.0\.add'"):
        _exposed(model, ["layer1.0.addd"])


# --- what the file says about itself -----------------------------------------------------------------------


@pytest.mark.parametrize("word", ["preprocess", "preprocessing"])
def test_preprocessing_and_labels_are_written_into_the_file(net, out, word):
    fields = PRESETS["imagenet"].to_dict()
    told = {word: "imagenet", "labels": ["a", "b", "c"], "licence": "MIT"}
    export(net, out, **QUICK | {"size": (16, 24)}, **told)
    found = said(out)
    assert found.preprocessing == {**fields, "size": [16, 24]}
    assert found.labels == ("a", "b", "c") and found.licence == "MIT"
    assert found.source.endswith(".Net")


@pytest.mark.parametrize("form", ["preset", "object", "fields", "file"])
def test_preprocessing_in_every_form(form, tmp_path):
    recipe = PRESETS["efficientnet-lite"]
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe.to_dict()))
    forms = {"preset": recipe.name, "object": recipe, "fields": recipe.to_dict(), "file": file}
    assert _fields(forms[form]) == recipe.to_dict()


def test_labels_that_do_not_fit(net, out):
    with pytest.raises(LabelsRejected, match="2 labels were given, but the network has 3 classes"):
        export(net, out, **QUICK, labels=["a", "b"])
    assert not out.exists()


def test_labels_of_the_package_that_do_not_fit_are_left_out(out):
    made = export(Source(Net(), "net", "test", labels=["a", "b"]), out, **QUICK)
    assert said(out).labels is None
    assert made.warnings == ["the package's 2 labels are left out: the output is (1, 3)"]
    with pytest.raises(LabelsRejected, match="for classifiers"):
        export(nn.Conv2d(3, 4, 1), out, **QUICK, labels=["a"])


def test_other_channels(out):
    export(Net(channels=1), out, **QUICK, channels=1)
    assert input_shape(out)[1] == 1
    with pytest.raises(UsageError, match="channels="):
        export(Net(channels=1), out, size=16)


def test_to_dict_is_plain(made):
    assert json.loads(json.dumps(made.to_dict()))["digest"] == made.digest


def test_wrong_wishes(net, out, tmp_path):
    for wish, told in (({"opset": 11}, "opset 11 is too old"), ({"size": (1, 2, 3)}, "size")):
        with pytest.raises(UsageError, match=told):
            export(net, out, **wish)
    with pytest.raises(OutputRefused):
        export(net, tmp_path, **QUICK)


# --- sources -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["resnet50", "torchvision:", ":x", "", 3, None, "vgg16"])
def test_what_names_no_network(source):
    told = (
        "torchvision:vgg16" if source == "vgg16" else "module:callable"
    )  # a catalogue name is told its source
    with pytest.raises(UsageError, match=told):
        build(source, Wanted({}))


def test_options():
    assert parse_options(["a=1", "b=x", "c=[1, 2]", "d=a=b"]) == {"a": 1, "b": "x", "c": [1, 2], "d": "a=b"}
    for wrong in ("a", "=1", "a b=1"):
        with pytest.raises(UsageError, match="NAME=VALUE"):
            parse_options([wrong])


FILE = """
import torch
from onnxviz.exporting.source import Source

def net(width=2, fail=False):
    if fail:
        raise ValueError("no such thing")
    return torch.nn.Sequential(torch.nn.Conv2d(3, width, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())

class Named:
    net = net

def described():
    return Source(net(), "mine", "by me", size=(12, 10), labels=["x", "y"], licence="MIT", rename=lambda p: "m." + p)

ready = net()
number = 3
words = str
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some_networks.py"
    path.write_text(FILE)
    return path


def test_a_callable_of_a_file_with_options(file, out):
    made = export(f"{file}:net", out, options={"width": 5}, **QUICK)
    assert made.classes == 5
    assert said(out).source == "some_networks.py:net(width=5)"


def test_a_callable_that_describes_itself(file, out):
    made = export(f"{file}:described", out)
    assert made.size == (12, 10) and made.source == "by me"
    assert said(out).labels == ("x", "y")
    assert onnx.load(out).graph.name == "mine"
    assert layers(out)[0] == "m.0"


def test_a_module_in_the_current_folder(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    before = list(sys.path)
    for name in ("net", "Named.net", "ready"):
        found = build(f"some_networks:{name}", Wanted({}))
        assert isinstance(found.module, nn.Sequential)
        assert found.text == f"some_networks:{name}()"
    assert sys.path == before
    sys.modules.pop("some_networks")


@pytest.mark.parametrize(
    ("source", "options", "told"),
    [
        ("{file}:nett", {}, "did you mean 'net'"),
        ("{file}:net", {"fail": True}, "ValueError: no such thing"),
        ("{file}:net", {"colour": 1}, "TypeError"),
        ("{file}:words", {}, "returned str"),
        ("{file}:number", {}, "is int"),
        ("{broken}:net", {}, "no_such_package_at_all"),
        ("no_such_module.x:y", {}, "no Python module 'no_such_module.x'"),
        ("no_such.py:y", {}, "no file"),
        ("a-b:y", {}, "neither"),
    ],
)
def test_what_a_callable_may_do_wrong(source, options, told, file, tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_package_at_all")
    with pytest.raises(UsageError, match=told):
        build(source.format(file=file, broken=tmp_path / "broken.py"), Wanted(options))


@pytest.mark.parametrize(
    "source", ["{file}:net", "torchvision:net", "timm:net", "transformers:ResNetForImageClassification"]
)
def test_random_weights_follow_the_seed_and_leave_torch_alone(source, file, request):
    kind = source.partition(":")[0]
    if kind in ("torchvision", "timm"):
        request.getfixturevalue(kind)
    state, options = torch.random.get_rng_state(), TINY if kind == "transformers" else {}
    one, same, other = (
        next(build(source.format(file=file), Wanted(options, kind[0] == "t", seed)).module.parameters())
        for seed in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    # The file itself draws when it is imported.
    assert kind == "{file}" or torch.equal(state, torch.random.get_rng_state())


# --- transformers ------------------------------------------------------------------------------------------

TINY = {"depths": [1, 1], "embedding_size": 8, "hidden_sizes": [8, 16], "layer_type": "basic"}


@pytest.mark.parametrize(
    ("source", "options", "told", "named"),
    [
        (
            "ResNetForImageClassification", TINY, ("NHW", 2, ("logits",)),
            ["resnet.embedder.embedder.convolution", "resnet.encoder.stages.1.layers.0.shortcut.convolution"],
        ),
        (
            "convnext", {"depths": [1, 1], "hidden_sizes": [8, 16], "num_stages": 2, "num_labels": 4},
            ("N", 4, ("logits",)),
            [f"convnext.encoder.stages.0.layers.0.{name}" for name in ("dwconv", "pwconv1")],
        ),
        ("MobileNetV2Model", {"depth_multiplier": 0.25, "finegrained_output": False}, ("N", None, ("output",)), []),
    ],
)  # fmt: skip
def test_transformers_by_class_and_by_type(out, source, options, told, named):
    fixed = {} if "H" in told[0] else {"dynamic_size": False}
    made = export(f"transformers:{source}", out, random=True, options=options, size=32, seed=3, **fixed)
    assert (made.dynamic, made.classes, made.outputs) == told
    assert made.difference.relative < 1e-4
    name = "ConvNextForImageClassification" if source == "convnext" else source
    assert made.source == f"transformers {name}, random weights, seed 3"
    assert {*named} <= {*layers(out)}
    if source.startswith("ResNet"):
        assert said(out).preprocessing == {**PRESETS["imagenet"].to_dict(), "size": [32, 32]}
        assert said(out).labels is None  # LABEL_0 and LABEL_1 are no names


def test_a_trained_transformers_network_of_a_folder(tmp_path, out):
    import transformers

    config = transformers.ResNetConfig(**TINY, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    trained = transformers.ResNetForImageClassification(config).eval()
    folder = tmp_path / "tiny"
    trained.save_pretrained(folder)
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "resample": 3,
        "do_normalize": True,
    }
    sizes = {"size": {"height": 24, "width": 32}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor | sizes))
    made = export(f"transformers:{folder}", out, dynamic_size=False)
    assert made.size == (24, 32) and made.source.endswith("weights tiny")
    assert said(out).labels == ("cat", "dog")
    fields = said(out).preprocessing
    assert (fields["size"], fields["resize"], fields["interpolation"]) == ([24, 32], "stretch", "bicubic")
    assert (fields["mean"], fields["std"]) == ([0.5] * 3, [0.25] * 3)
    x = torch.randn(1, 3, 24, 32)
    with torch.no_grad():
        np.testing.assert_allclose(run(out, x.numpy())[0], trained(x).logits.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("source", "wanted", "told"),
    [
        ("transformers:resnet", Wanted({}), "random="),
        ("transformers:ResNetForImageClassification", Wanted({}), "random="),
        ("transformers:resnett", Wanted({}, random=True), r"did you mean .*resnet"),
        ("transformers:resnet", Wanted({"depths": "many"}, random=True), "could not be built"),
        ("torchvision:nett", Wanted({}), "did you mean 'net'"),
        ("torchvision:net", Wanted({"weights": "OLD"}), "it has IMAGENET1K_V1"),
        ("torchvision:net", Wanted({"colour": 1}), "options"),
        ("timm:nett", Wanted({}, True), "did you mean 'net'"),
    ],
)
def test_what_a_hub_does_not_have(source, wanted, told, request):
    if not source.startswith("transformers"):
        request.getfixturevalue(source.partition(":")[0])
    with pytest.raises(UsageError, match=told):
        build(source, wanted)


def test_a_folder_without_a_network(tmp_path):
    with pytest.raises((InputRefused, UsageError)):
        build(f"transformers:{tmp_path}", Wanted({}))


def test_a_processor_that_cannot_be_expressed_is_left_out_with_a_note(tmp_path, out):
    import transformers

    folder = tmp_path / "tiny"
    transformers.ResNetForImageClassification(transformers.ResNetConfig(**TINY)).save_pretrained(folder)
    odd = {"do_resize": True, "size": {"longest_edge": 9}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(odd))
    made = export(f"transformers:{folder}", out, **QUICK)
    assert said(out).preprocessing is None
    assert len(made.warnings) == 1 and "preprocessing is left out" in made.warnings[0]


# --- torchvision and timm: their interfaces imitated, since neither can be installed everywhere -----------


class Preset:
    """What `weights.transforms()` gives."""

    def __init__(self, crop_size=224, resize_size=256, interpolation="bilinear"):
        self.crop_size, self.resize_size = [crop_size], [resize_size]
        self.mean, self.std = IMAGENET["mean"], IMAGENET["std"]
        self.interpolation = types.SimpleNamespace(value=interpolation)


class Net_Weights(enum.Enum):  # noqa: N801 - as torchvision spells them
    IMAGENET1K_V1 = (Preset(), {"categories": ["a", "b", "c"]})
    IMAGENET1K_V2 = (Preset(16, 20, "bicubic"), {"categories": ["d", "e", "f"]})
    DEFAULT = IMAGENET1K_V2

    @property
    def meta(self):
        return self.value[1]

    def transforms(self):
        return self.value[0]


@pytest.fixture
def torchvision(monkeypatch):
    asked = {}

    def get_model(name, weights=None, **options):
        asked.update(name=name, weights=weights, **options)
        return Net(**options)

    models = types.ModuleType("torchvision.models")
    models.list_models = lambda: ["net", "vgg16"]
    models.get_model_weights = lambda name: Net_Weights
    models.get_model = get_model
    package = types.ModuleType("torchvision")
    package.models = models
    monkeypatch.setitem(sys.modules, "torchvision", package)
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    return asked


def test_torchvision_with_its_default_weights(torchvision):
    found = build("torchvision:net", Wanted({}))
    assert torchvision["weights"] is Net_Weights.IMAGENET1K_V2
    assert found.text == "torchvision net, weights Net_Weights.IMAGENET1K_V2"
    assert found.labels == ["d", "e", "f"] and found.size == (16, 16) and found.licence == "BSD-3-Clause"
    fields = found.preprocessing
    assert (fields["crop_fraction"], fields["interpolation"]) == (0.8, "bicubic")
    assert (fields["mean"], fields["std"]) == (IMAGENET["mean"], IMAGENET["std"])
    assert Preprocessing.from_dict(dict(fields)).to_dict() == {**fields, "unit": "pixel/255"}


def test_torchvision_with_chosen_weights_to_a_file(torchvision, monkeypatch, out):
    assert build("torchvision:net", Wanted({"weights": "IMAGENET1K_V1"})).labels == ["a", "b", "c"]
    source = build("torchvision:net", Wanted({"weights": "Net_Weights.IMAGENET1K_V1"}))
    monkeypatch.undo()  # torch and transformers look for a real torchvision
    made = export(source, out, **QUICK)
    assert "IMAGENET1K_V1" in made.source
    assert said(out).labels == ("a", "b", "c")
    assert said(out).preprocessing["crop_fraction"] == 0.875
    assert said(out).preprocessing["size"] == [16, 16]


def test_torchvision_with_random_weights(torchvision):
    found = build("torchvision:net", Wanted({"classes": 7}, True))
    assert torchvision["weights"] is None and torchvision["classes"] == 7
    assert found.labels is None and found.preprocessing is None


def test_torchvision_without_a_network(torchvision, monkeypatch):
    def offline(name, **_):
        raise OSError("no route to host")

    monkeypatch.setattr(sys.modules["torchvision"].models, "get_model", offline)
    with pytest.raises(InputRefused, match="no route to host"):
        build("torchvision:net", Wanted({}))


def test_presets_of_other_tasks_say_nothing():
    detection = types.SimpleNamespace()
    segmentation = types.SimpleNamespace(resize_size=[520], mean=IMAGENET["mean"], std=IMAGENET["std"])
    assert hubs._torchvision_preprocessing(detection) is None
    assert hubs._torchvision_preprocessing(segmentation) is None


def test_a_package_that_is_not_there_or_does_not_fit(monkeypatch, tmp_path):
    for name in ("torchvision", "timm", "transformers"):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingDependency, match=f"needs {name}, which is not installed: pip install"):
            build(f"{name}:x", Wanted({}))
    broken = "raise RuntimeError('operator torchvision::nms does not exist')"
    (tmp_path / "broken_package.py").write_text(broken)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependency, match="does not work with the torch that is installed"):
        package("broken_package", "pip install it")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependency, match=r"onnxviz\[export\]"):
        build("torchvision:vgg16", Wanted({}))


@pytest.fixture
def timm(monkeypatch):
    asked = {}

    def create_model(name, pretrained=False, **options):
        asked.update(name=name, pretrained=pretrained, **options)
        net = Net(**options)
        net.pretrained_cfg = {"tag": "in1k", "license": "apache-2.0", **asked.get("config", {})}
        return net

    names = {1000: "imagenet-1k", 4: "imagenet-4"}
    described = types.SimpleNamespace(label_descriptions=lambda: ["p", "q", "r", "s"])
    config = {"input_size": (3, 16, 20), "interpolation": "bicubic", "crop_pct": 0.95, "crop_mode": "center"}
    config |= {key: tuple(value) for key, value in IMAGENET.items()}
    package = types.ModuleType("timm")
    package.is_model = lambda name: name == "net"
    package.list_models = lambda: ["net", "resnet50"]
    package.create_model = create_model
    package.data = types.SimpleNamespace(
        resolve_model_data_config=lambda module: config,
        infer_imagenet_subset=lambda module: names.get(module.fc.out_features),
        ImageNetInfo=lambda subset: described,
    )
    monkeypatch.setitem(sys.modules, "timm", package)
    return asked


def test_timm(timm):
    found = build("timm:net", Wanted({}))
    assert timm["pretrained"] is True
    assert (found.size, found.channels, found.licence) == ((16, 20), 3, "apache-2.0")
    assert found.text == "timm net, weights in1k"
    fields = found.preprocessing
    assert (fields["crop_fraction"], fields["interpolation"], fields["resize"]) == (0.95, "bicubic", "crop")
    assert Preprocessing.from_dict(dict(fields)).to_dict() == {**fields, "unit": "pixel/255"}
    assert found.labels is None


def test_labels_of_timm(timm):
    assert build("timm:net", Wanted({"classes": 1000})).labels[285] == "Egyptian cat"
    assert build("timm:net", Wanted({"classes": 4})).labels == ["p", "q", "r", "s"]
    timm["config"] = {"label_names": ["n1", "n2"], "label_descriptions": {"n1": "cat"}}
    assert build("timm:net", Wanted({})).labels == ["cat", "n2"]


def test_timm_with_random_weights(timm):
    found = build("timm:net", Wanted({"classes": 1000}, True, 5))
    assert timm["pretrained"] is False
    assert found.labels is None and found.licence is None and found.text == "timm net, random weights, seed 5"


# --- the bundled network -----------------------------------------------------------------------------------


def test_the_bundled_network_is_what_its_packages_export(out):
    """The packages' weights, exported again, give the graph and the numbers of the file that is carried.

    `models/bundle.py --check` compares the very bytes, which takes the versions of torch that made them.
    """
    export(efficientnet.lite0(), out, dynamic_size=False)
    carried = data_file("efficientnet-lite0.onnx")
    assert layers(out) == layers(carried) and said(out) == said(carried)
    weights = (onnx.load(path).graph.initializer for path in (out, carried))
    for one, other in zip(*weights, strict=True):
        np.testing.assert_allclose(*map(onnx.numpy_helper.to_array, (one, other)), rtol=1e-5)
