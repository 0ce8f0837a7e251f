"""Matching finds for each value of one file the value of the other that means the same."""

from __future__ import annotations

import copy

import numpy as np
import onnx
import onnxruntime
import pytest

import onnxviz
from onnxviz.comparing import values
from onnxviz.comparing.compare import read_pairs
from onnxviz.comparing.like import probes
from onnxviz.comparing.match import Matching, _Choice, _Pairing, match
from onnxviz.errors import UnknownLayer, UsageError
from onnxviz.graph.surgery import cut
from tests.comparing import small, variants
from tests.networks import edited, fp16

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


def opened(model):
    return small.opened(model, preprocess="unit")


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
    assert found.image is not None and found.image.b == "image"
    check_order(found)
    assert sum(pair.macs for pair in found.pairs) == sum(layer.macs for layer in opened(model).layers)


def errors(found: Matching, a, b) -> dict[str, float]:
    """Of each pair, how far B's value is from A's on other pictures than it was matched by, in parts of A's."""
    nets = opened(a), opened(b)
    arrays = []
    names = [p.a for p in found.pairs], [p.b for p in found.pairs]
    for net, model, x, own in zip(nets, (found.a, found.b), probes(*nets, seed=7), names, strict=True):
        program = net.compile(lambda m=model, n=own: cut(m, n), key=None, optimise=False)
        runs = [program({net.input.name: one[None]}) for one in x]
        arrays.append({name: np.concatenate([run[name] for run in runs]) for name in own})
    told = {}
    for pair in found.pairs:
        left, right = arrays[0][pair.a], arrays[1][pair.b]
        right = right if pair.axes is None else right.transpose(pair.axes)
        told[pair.a] = float(np.linalg.norm(left - right) / (np.linalg.norm(left) + 1e-9))
    return told


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", small.NETWORKS)
def test_int8_forms_match(files, name, form):
    options = {"form": form.split()[0], **FORMS[form]}
    a, b = files.small(name), files.small(name, **options)
    found = matched(a, b)
    assert found.macs >= 0.99
    check_order(found)
    assert not any(pair.weak for pair in found.pairs)
    # A value that is paired with its neighbour, such as that in front of a rectifier, is off by a half and more.
    assert max(errors(found, a, b).values()) < 0.45


VARIANTS = {"fp16": fp16, "pruned": variants.pruned, "unfolded": variants.unfolded, "nhwc": variants.nhwc}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", small.NETWORKS)
def test_other_forms_match(name, variant):
    a = small.NETWORKS[name]()
    b = VARIANTS[variant](a)
    found = matched(a, b)
    assert found.macs >= 0.99
    assert found.values >= 0.9
    check_order(found)
    assert max(errors(found, a, b).values()) < (0.6 if variant == "pruned" else 0.01)
    if variant == "nhwc":
        assert any(pair.axes == (0, 3, 1, 2) for pair in found.pairs)


@pytest.mark.parametrize("name", ["resnet", "segmenter", "bundled"])
def test_equalised_values_are_no_pairs(name, bundled):
    """Where filters were scaled and the next layer scales back, the layers match and the values between them do not."""
    a = bundled if name == "bundled" else small.NETWORKS[name]()
    b = variants.equalised(variants.unfolded(a)) if name == "resnet" else variants.equalised(a)
    found = matched(a, b)
    assert found.macs >= 0.99
    assert max(errors(found, a, b).values()) < 1e-3
    assert found.pairs[-1].a == a.graph.output[0].name


def test_what_onnx_runtime_wrote_matches(tmp_path):
    """Its own simplification: batch norms folded, activations fused into com.microsoft's operators."""
    a = small.resnet()
    for level in ("BASIC", "EXTENDED"):
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath = str(tmp_path / f"{level}.onnx")
        options.log_severity_level = 4
        onnxruntime.InferenceSession(a.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found = matched(a, tmp_path / f"{level}.onnx")
        assert found.macs >= 0.99
        assert max(errors(found, a, tmp_path / f"{level}.onnx").values()) < 1e-3


def test_both_exporters_of_torch_match(tmp_path):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.body = nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.Hardswish(),
                nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width),
            )  # fmt: skip

        def forward(self, x):
            return torch.relu(x + self.body(x))

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.BatchNorm2d(16), nn.ReLU6(), Block(16), Block(16), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Dropout(), nn.Linear(16, 10),
    )  # fmt: skip
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 2)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean)
    net.eval()
    x = torch.zeros(2, 3, 32, 32)
    paths = [tmp_path / "new.onnx", tmp_path / "old.onnx"]
    torch.onnx.export(net, (x,), paths[0], dynamo=True, external_data=False, verbose=False)
    torch.onnx.export(net, (x,), paths[1], dynamo=False, do_constant_folding=True)
    found = matched(*paths)
    assert found.macs >= 0.99
    assert len(found.pairs) > 10
    assert max(errors(found, *paths).values()) < 1e-3


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (small.resnet(), small.resnet(seed=1)),
        (small.mobilenet(), small.mobilenet(seed=1)),
        (small.resnet(), small.mobilenet()),
        (small.segmenter(), small.detector()),
    ],
)
def test_different_networks_are_told(a, b):
    found = matched(a, b)
    assert found.macs < 0.3
    with pytest.raises(UsageError, match="'model' and 'model' are not the same network") as refusal:
        found.require_same_network()
    assert refusal.value.exit_code == 2
    matched(a, a).require_same_network()


@pytest.fixture(scope="module")
def whole(sound):
    """The bundled network, and with it each sound int8 file, matched."""
    a = onnxviz.load("efficientnet-lite0", threads=1)
    others = {form: onnxviz.load(path, threads=1) for form, path in sound.items()}
    return a, {form: (b, match(a, b, *probes(a, b))) for form, b in others.items()}


def test_the_bundled_network_in_int8(whole):
    """QDQ's name for the value in front of the clip is A's for that behind it; QOperator holds only that behind."""
    for b, found in whole[1].values():
        assert found.macs >= 0.99
        pairs = {pair.a: pair for pair in found.pairs}
        assert "stem" not in pairs
        stem = next(layer for layer in b.layers if layer.name == pairs["stem.relu6"].b)
        assert stem.quantised is not None
        assert pairs["stem.relu6"].sure > 0.99
        check_order(found)


def test_one_spoilt_channel_is_no_equalisation():
    """Nothing takes its factor back: the layer's values stay a pair."""
    a = small.segmenter()
    factors = np.where(np.arange(32) == 3, 4, 1)[:, None, None, None]
    assert exact(matched(a, edited(a, **{"middle.weight": lambda w: w * factors}))) == exact(matched(a, a))


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("kind", ["scale/4", "zero+24", "4bit"])
def test_what_a_fault_spoils_is_still_matched(files, sound, whole, form, kind):
    """Behind a fault no number is right; the weights, and the order of computation, still tell what is what."""
    import quantise

    fault = quantise.fault(onnx.load(files.bundled), f"{kind}@stem")
    a, known = whole
    broken = onnxviz.load(quantise.plant(onnx.load(sound[form]), fault), threads=1)
    found = match(a, broken, *probes(a, broken))
    assert exact(found) == exact(known[form][1])
    assert found.macs >= 0.99
    if kind == "scale/4":
        assert any(pair.weak for pair in found.pairs)


def silu_net() -> onnx.ModelProto:
    """Two convolutions with SiLU, written x·sigmoid(x), beside a skip connection, and a Tanh at the end."""
    m = small.Named(seed=0)

    def silu(name: str, x: str, out: int, into: int, stride: int = 1) -> str:
        y = m.conv(name, x, out, into, 3, stride)
        return m.layer(f"{name}.act", "Mul", y, m.layer(f"{name}.gate", "Sigmoid", y))

    x = silu("stem", "image", 16, 3, 2)
    y = silu("conv2", silu("conv1", x, 16, 16), 16, 16)
    x = m.layer("join", "Concat", x, m.layer("add", "Add", x, y), axis=1)
    out = m.layer("picture", "Tanh", m.conv("last", silu("head", x, 16, 32), 3, 16))
    return m.model({"image": ("N", 3, small.SIZE, small.SIZE)}, {out: ("N", 3, 32, 32)})


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("resnet", ["channel*4@stem", "channel*4@block0.conv1", "channel*4@block1.conv1"]),
        ("silu", ["channel*4@conv1", "channel*4@conv2", "scale/4@last"]),
    ],
)
def test_operators_tell_where_a_fault_spoils_the_numbers(name, wrong, form):
    """Nothing is paired across a BatchNormalization, a gate or a Tanh that both files have, and no layer is lost."""
    import quantise

    model = silu_net() if name == "silu" else small.resnet()
    sound = quantise.quantise(model, quantise.Scheme(form), quantise.calibrate(model, small.pictures(32)))
    a, x = small.opened(model, **small.SCALED), small.pictures(12, seed=5)
    known = exact(match(a, small.opened(sound, **small.SCALED), x))
    for text in wrong:
        broken = quantise.plant(sound, quantise.fault(model, text))
        assert exact(match(a, small.opened(broken, **small.SCALED), x)) == known, text


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
@pytest.mark.parametrize("as_clip", [False, True], ids=["HardSigmoid", "Clip"])
def test_the_same_function_tells_where_a_fault_spoils_the_numbers(as_clip, form):
    """What one file writes out is what the other has as one operator, behind which there may be a gate."""
    import quantise

    model = small.mobilenet()
    written = variants.written_out(model, as_clip)
    scheme = quantise.Scheme(form, reduce_range=True)
    sound = quantise.quantise(written, scheme, quantise.calibrate(written, small.pictures(32)))
    a, x = small.opened(model, **small.SCALED), small.pictures(4, seed=9)
    known = exact(match(a, small.opened(sound, **small.SCALED), x))
    assert known["block1.swish2"] == "block1.swish2"
    for text in ("scale/4@stem", "channel*4@stem"):
        broken = quantise.plant(sound, quantise.fault(model, text))
        assert exact(match(a, small.opened(broken, **small.SCALED), x)) == known, text


@pytest.mark.parametrize("place", ["stem", "block1.conv1"])
def test_folding_is_seen_where_a_fault_spoils_the_numbers(tmp_path, place):
    """What a BatchNormalization gives is what the convolution gives that it was folded into, in either file."""

    def folded(model: onnx.ModelProto) -> str:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(tmp_path / f"{len(list(tmp_path.iterdir()))}.onnx")
        options.log_severity_level = 4
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return options.optimized_model_filepath

    model = small.resnet()
    spoilt = edited(model, **{f"{place}.weight": lambda w: np.concatenate([4 * w[:1], w[1:]])})
    pairs = exact(matched(model, folded(model)))
    assert "stem" not in pairs and "stem.norm" in pairs
    assert exact(matched(model, folded(spoilt))) == pairs
    assert exact(matched(folded(model), spoilt)) == exact(matched(folded(model), model))


@pytest.mark.parametrize(
    ("gate", "gated", "meant"), [(0.9705, 0.9726, 0), (0.9901, 0.9999, 1)], ids=["few codes", "sure"]
)
def test_where_rounding_hides_who_is_more_alike_the_values_tell(gate, gated, meant):
    """SiLU in symmetric int8: x·sigmoid(x) in few codes is more alike the Sigmoid than the Sigmoid in few codes."""
    pairing = _Pairing(None, None, [], [])
    choices = [(0, gate, 0.1), (1, gated, 0.9)]
    pairing._pair([_Choice(0, b, alike, apart, False, None) for b, alike, apart in choices])
    assert pairing.made[0][0].b == meant


def test_names_decide_only_between_equals():
    """A clip that nothing reaches leaves two values equal: the name tells which; where it does not, the later."""
    model = small.resnet()
    swapped, idle = copy.deepcopy(model), copy.deepcopy(model)
    turns = {"stem.relu": "block0.relu1", "block0.relu1": "stem.relu"}
    for node in swapped.graph.node:
        node.input[:] = [turns.get(name, name) for name in node.input]
        node.output[:] = [turns.get(name, name) for name in node.output]
    assert exact(matched(model, swapped)).items() >= turns.items()

    place = next(i for i, node in enumerate(idle.graph.node) if node.output[0] == "block0.relu1")
    for reader in idle.graph.node[place + 1 :]:
        reader.input[:] = ["twice" if name == "block0.relu1" else name for name in reader.input]
    idle.graph.node.insert(
        place + 1, onnx.helper.make_node("Relu", ["block0.relu1"], ["twice"], name="twice")
    )
    assert exact(matched(idle, idle))["twice"] == "twice"
    beside = copy.deepcopy(idle)  # both of the same value: their operators do not tell them apart
    beside.graph.node[place + 1].input[0] = beside.graph.node[place].input[0]
    reader = next(i for i, node in enumerate(beside.graph.node) if node.input[0] == "twice")
    beside.graph.node[reader].input[0] = "largest"
    largest = onnx.helper.make_node("Max", ["block0.relu1", "twice"], ["largest"], name="largest")
    beside.graph.node.insert(reader, largest)
    found = {pair.a: pair for pair in matched(beside, beside).pairs}
    assert (found["twice"].b, found["block0.relu1"].b) == ("twice", "block0.relu1")
    assert "name" in {found["twice"].by, found["block0.relu1"].by}
    idle.graph.node[place].output[0] = idle.graph.node[place + 1].input[0] = "other"
    assert exact(matched(model, idle))["block0.relu1"] == "twice"


def test_shared_weights_match_by_place():
    """The head that a detector uses on two scales stands for each scale once."""
    model = small.detector()
    fine = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}[
        "head.fine.weight"
    ]
    shared = edited(model, **{"head.coarse.weight": lambda w: np.resize(fine, w.shape)})
    assert shares(matched(shared, shared)) == (1.0, 1.0)


def test_given_pairs_go_before_all(tmp_path):
    model = small.resnet()
    table = tmp_path / "pairs.csv"
    table.write_text("a,b,note\nblock0.relu1,block0.norm1,mine\n")
    given = read_pairs(table)
    assert given == {"block0.relu1": "block0.norm1"}
    found = {pair.a: pair for pair in matched(model, model, given=given).pairs}
    assert (found["block0.relu1"].b, found["block0.relu1"].by) == ("block0.norm1", "given")
    with pytest.raises(
        UnknownLayer, match=r"no value of 'model' .* 'block0.relu9'; did you mean .*'block0.relu1'"
    ):
        matched(model, model, given={"block0.relu9": "logits"})
    with pytest.raises(UsageError, match="another pair"):
        matched(model, model, given={"block0.relu1": "logits", "logits": "logits"})
    for sizes in ({"stem": "logits"}, {"block0.conv1": "block1.conv2"}):
        with pytest.raises(UsageError, match="have the same sizes"):
            matched(model, model, given=sizes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x,y\n1,2\n", "columns 'x', 'y'"),
        ("a,b\nstem,\n", "line 2"),
        ("a,b\ns,t\ns,u\n", "stands twice"),
        ("", "nothing"),
    ],
)
def test_broken_tables_of_pairs_are_refused(tmp_path, text, said):
    table = tmp_path / "pairs.csv"
    table.write_text(text)
    with pytest.raises(UsageError, match=said):
        read_pairs(table)
    with pytest.raises(UsageError, match="cannot read matches"):
        read_pairs(tmp_path / "none.csv")


def test_values_are_computed_in_portions(monkeypatch):
    """What is held at the same time is bounded; the pairs are the same, of the same seed, and of others."""
    model = small.segmenter()
    b = variants.pruned(model)
    whole = matched(model, b)
    monkeypatch.setattr(values, "_BYTES", 1 << 17)
    assert matched(model, b).pairs == whole.pairs
    assert exact(matched(model, b, seed=3)) == exact(matched(model, b, seed=4)) == exact(whole)
