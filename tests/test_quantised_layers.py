"""A layer of a quantised file means its real values, in every technique, in both forms of ONNX Runtime's quantiser."""

from __future__ import annotations

import json

import networks
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from PIL import Image
from processors import whole_sums

import onnxviz
from onnxviz import objectives
from onnxviz.catalogue import resolve
from onnxviz.cli.main import run
from onnxviz.errors import UnknownLayer, UsageError
from tests.networks import Maker

FORMS = {"QDQ": networks.qdq, "QOperator": networks.qoperator}


def relu6_network() -> onnx.ModelProto:
    """Convolutions that end in ReLU6, of which much is cut at both ends; a residual sum that is not."""
    m = Maker()
    low, high = m.constant(np.float32(0)), m.constant(np.float32(6))

    def named(name: str, op: str, *inputs: str, **attributes) -> str:
        """A value, and its node, of this name."""
        m(op, *inputs, name=name, **attributes)
        m.nodes[-1].output[0] = name
        return name

    x = named("stem", "Conv", "image", m.random(8, 3, 3, 3), m.constant(np.full(8, 2.0)), pads=[1] * 4)
    first = named("stem.relu6", "Clip", x, low, high)
    x = named("middle", "Conv", first, m.random(8, 8, 3, 3), m.constant(np.full(8, 1.0)), pads=[1] * 4)
    x = named("sum", "Add", named("middle.relu6", "Clip", x, low, high), first)
    x = named("features", "Flatten", named("pool", "GlobalAveragePool", x))
    x = named("logits", "Gemm", x, m.random(5, 8), m.random(5), transB=1)
    return m.model({"image": ("N", 3, 16, 16)}, {x: ("N", 5)})


def opened(proto: onnx.ModelProto):
    return onnxviz.load(proto, preprocess="imagenet", provider="cpu")


def session(proto: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def alike(one: np.ndarray, other: np.ndarray) -> float:
    return np.corrcoef(one.ravel(), other.ravel())[0, 1]


def pictures() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return list(rng.integers(0, 256, (3, 16, 16, 3), np.uint8))


@pytest.fixture(scope="module")
def plain():
    return opened(relu6_network())


@pytest.fixture(scope="module", params=FORMS)
def net(request):
    return opened(FORMS[request.param](relu6_network()))


LAYERS = ["stem.relu6", "middle.relu6", "sum", "pool", "features", "logits"]


def test_layers_are_listed_once_by_the_float_files_names(net, plain):
    names = [layer.name for layer in net.layers]
    assert len(set(names)) == len(names)
    own = {layer.name for layer in plain.layers}
    assert names[0] == "image_DequantizeLinear_Output"
    assert set(names[1:]) <= own
    assert sum(layer.macs for layer in net.layers) == sum(layer.macs for layer in plain.layers)
    assert all(layer.quantised is not None for layer in net.layers)


@pytest.mark.parametrize("layer", LAYERS)
def test_real_values_are_the_float_networks(layer, net, plain):
    found, wanted = (one.activations(pictures(), [layer])[layer] for one in (net, plain))
    held = net.layer(layer).quantised
    assert found.dtype == np.float32
    assert alike(found, wanted) > 0.95
    assert abs(found.max() - wanted.max()) < 0.25 * np.ptp(wanted)
    if "relu6" in layer:
        assert found.min() == 0
        assert 5.9 < found.max() <= 6 + held.scale
    np.testing.assert_allclose(found / held.scale, np.rint(found / held.scale), atol=1e-3)


@whole_sums
@pytest.mark.parametrize("layer", LAYERS)
def test_both_forms_agree_within_a_step(layer):
    """QLinearConv rounds as QuantizeLinear does, up to the order of sums."""
    nets = [opened(form(relu6_network())) for form in FORMS.values()]
    one, other = (net.activations(pictures(), [layer])[layer] for net in nets)
    step = nets[0].layer(layer).quantised.scale
    assert step == pytest.approx(nets[1].layer(layer).quantised.scale)
    assert np.abs(one - other).max() <= step * 2.01
    assert np.mean(np.abs(one - other) > step / 2) < 0.02


@whole_sums
@pytest.mark.parametrize("layer", LAYERS)
def test_the_codes_are_what_the_file_holds(layer):
    """The oracle: ONNX Runtime on the file, with its integers as outputs."""
    for form, quantise in FORMS.items():
        proto = quantise(relu6_network())
        net = opened(proto)
        name = {"QDQ": f"{layer}_QuantizeLinear_Output"}.get(form, f"{net.layer(layer).name}_quantized")
        proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
        wanted = session(proto).run([name], {"image": net.prepare(pictures())})[0]
        found = net.activations(pictures(), [layer], codes=True)[layer]
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, wanted)
        held = net.layer(layer).quantised
        real = net.activations(pictures(), [layer])[layer]
        np.testing.assert_allclose(real, (found - held.zero_point) * held.scale, atol=1e-5)


def test_the_files_own_names_are_found_too(net):
    for layer in net.layers:
        for name in layer.also:
            assert net.layer(name).name == layer.name
    known = {name for layer in net.layers for name in (layer.name, *layer.also)}
    assert {"stem_quantized"} <= known or {
        "stem.relu6_QuantizeLinear_Output", "stem.relu6_DequantizeLinear_Output"
    } <= known  # fmt: skip


def test_objectives_and_gradients_take_the_files_own_names(net):
    x = net.prepare(pictures())
    layer = next(layer for layer in net.layers if layer.name.startswith("stem"))
    value, by = net.value_and_gradient(objectives.channel(layer.name, 2))(x)
    _, wanted = net.value_and_gradient(objectives.channel("sum", 2), wrt=layer.name)(x)
    # What stands in front of a quantiser is a number of its own to gradients: full-gradient counts its rounding.
    for name in (name for name in layer.also if not name.endswith("_QuantizeLinear_Input")):
        found, found_by = net.value_and_gradient(objectives.channel(name, 2))(x)
        np.testing.assert_array_equal(found, value)
        np.testing.assert_array_equal(found_by, by)
        arrays = net.gradients(objectives.channel("sum", 2), name, also=[name])(x)
        np.testing.assert_array_equal(arrays[f"{name}.gradient"], wanted)
        assert arrays[name].min() == 0


def test_a_layer_that_took_its_rectifier_in_says_so():
    net = opened(networks.qoperator(relu6_network()))
    assert net.layer("stem.relu6").name == "stem"
    assert net.layer("stem.relu6").quantised.codes == "stem_quantized"
    told = [text for text in net.warnings if "stem.relu6" in text]
    assert len(told) == 1
    with pytest.raises(UnknownLayer):
        net.layer("stem.other")


def test_the_manifest_says_scale_and_zero_point(net, plain, tmp_path):
    found = onnxviz.activations(net, pictures()[0], "stem.relu6")
    held = found.manifest["quantised"][found.layer]
    assert held["scale"] == pytest.approx(6 / 255, rel=0.02)
    assert held["zero_point"] == -128
    assert held["codes"] in net.layer(found.layer).also
    found.save(tmp_path / "maps.png")
    assert json.loads((tmp_path / "maps.json").read_text())["quantised"] == found.manifest["quantised"]
    assert "quantised" not in onnxviz.activations(plain, pictures()[0], "stem.relu6").manifest
    embedded = onnxviz.embed(net, pictures())
    assert embedded.manifest["quantised"] == {"features": vars(net.layer("features").quantised)}


def test_embed_gives_real_features(net, plain):
    found, wanted = (onnxviz.embed(one, pictures()).values for one in (net, plain))
    assert alike(found, wanted) > 0.98
    np.testing.assert_allclose(found, net.activations(pictures(), ["features"])["features"], atol=1e-6)


def test_patches_report_real_peaks(net, plain):
    found, wanted = (onnxviz.patches(one, pictures(), "sum", top=1).values for one in (net, plain))
    assert np.nanmax(np.abs(found - wanted)) < 0.1 * np.nanmax(wanted)
    cut = onnxviz.patches(net, pictures(), "middle.relu6", top=1).values
    assert np.nanmax(cut) <= 6.05


def test_occlusion_measures_real_channels(net, plain):
    found, wanted = (
        onnxviz.occlusion(one, pictures()[0], layer="sum", channel=3, window=8, stride=8, fill="zero")
        for one in (net, plain)
    )
    assert found.score == pytest.approx(wanted.score, rel=0.1)
    assert np.abs(found.values - wanted.values).max() < 0.1 * max(np.abs(wanted.values).max(), wanted.score)


def test_objectives_and_gradients_of_real_values(net, plain):
    """In the layer's own units: the derivative that a float network of the same function has."""
    x = net.prepare(pictures())
    for layer in ("sum", "middle.relu6"):
        (value, by), (wanted, wanted_by) = (
            one.value_and_gradient(objectives.channel(one.layer(layer).name, 2))(x) for one in (net, plain)
        )
        np.testing.assert_allclose(value, wanted, rtol=0.1, atol=0.05)
        assert alike(by, wanted_by) > 0.9
    own = net.layer("stem.relu6").name
    _, found = net.value_and_gradient(objectives.channel("sum", 2), wrt=own)(x)
    _, wanted = plain.value_and_gradient(objectives.channel("sum", 2), wrt="stem.relu6")(x)
    # Both readers of the layer count, the convolution and the sum: else the norm would be far less.
    assert alike(found, wanted) > 0.8
    assert np.linalg.norm(found) == pytest.approx(np.linalg.norm(wanted), rel=0.25)


def test_cam_and_expose_take_the_real_values(net, tmp_path):
    assert np.isfinite(onnxviz.cam(net, pictures()[0], layer="sum", method="eigencam").values).all()
    for form in FORMS.values():
        proto = form(relu6_network())
        made = onnxviz.expose(proto, ["sum", "stem.relu6"])
        names = [value.name for value in made.graph.output]
        x = net.prepare(pictures())
        for name, array in zip(names, session(made).run(None, {"image": x}), strict=True):
            assert array.dtype == np.float32
            if name.startswith("stem"):
                assert array.min() == 0 and array.max() <= 6.05
        read = {name for node in made.graph.node for name in node.input} | set(names)
        assert all(node.output[0] in read for node in made.graph.node if node.op_type == "DequantizeLinear")


def test_what_the_network_computes_is_untouched(net):
    for form in FORMS.values():
        proto = form(relu6_network())
        loaded = opened(proto)
        x = loaded.prepare(pictures())
        wanted = session(proto).run(["logits"], {"image": x})[0]
        np.testing.assert_array_equal(loaded.run(x, ["logits"])["logits"], wanted)


def test_codes_of_a_float_layer_are_refused(plain):
    with pytest.raises(UsageError, match="no codes"):
        plain.activations(pictures(), ["sum"], codes=True)


def test_codes_on_the_command_line(tmp_path):
    onnx.save(networks.qdq(relu6_network()), tmp_path / "q.onnx")
    Image.fromarray(pictures()[0]).save(tmp_path / "p.png")
    files = [str(tmp_path / name) for name in ("q.onnx", "p.png")]
    arguments = ["activations", *files, "-l", "stem.relu6", "--quiet"]
    for more, low, high in (([], 0, 6.05), (["--codes"], -128, 127)):
        assert run([*arguments, *more, "-o", str(tmp_path / "m.png")]) == 0
        values = np.load(tmp_path / "m.npy")
        assert (values.min(), values.max()) == (low, pytest.approx(high, abs=0.06))


# --- files of other exporters ---------------------------------------------------------------------


def quantise(m: Maker, x: str, step: float, op: str = "QuantizeLinear") -> str:
    return m(op, x, m.constant(np.float32(step)), m.constant(np.uint8(0)))


def dequantise(m: Maker, x: str, step: float) -> str:
    return quantise(m, x, step, "DequantizeLinear")


def finish(m: Maker, x: str) -> onnx.ModelProto:
    x = m("Gemm", m("Flatten", m("GlobalAveragePool", x)), m.random(5, 4), m.random(5), transB=1)
    return m.model({"image": ("N", 3, 16, 16)}, {x: None})


def conv(m: Maker, x: str = "image") -> str:
    return m("Conv", x, m.random(4, 3, 3, 3), pads=[1] * 4)


def test_scales_of_their_own_and_a_pair_for_every_reader():
    """Each QuantizeLinear and DequantizeLinear with an initialiser of its own; one pair for each reader."""
    m = Maker()
    before = conv(m)
    codes = quantise(m, before, 0.02)
    x = m("Add", dequantise(m, codes, 0.02), dequantise(m, codes, 0.02))
    net = opened(finish(m, x))
    assert [layer.name for layer in net.layers][:2] == [before, x]
    values = net.activations(pictures(), [before, x])
    assert values[before].min() == 0
    np.testing.assert_allclose(values[x], 2 * values[before], atol=1e-6)
    _, by = net.value_and_gradient(objectives.l2(x), wrt=before)(net.prepare(pictures()))
    _, by_sum = net.value_and_gradient(objectives.l2(x), wrt=x)(net.prepare(pictures()))
    np.testing.assert_allclose(by, 2 * by_sum, rtol=1e-5, atol=1e-9)  # both readers count
    assert alike(by, values[x]) > 0.999


def test_a_quantizer_for_every_reader():
    m = Maker()
    before = conv(m)
    one, other = (dequantise(m, quantise(m, before, 0.02), 0.02) for _ in range(2))
    x = m("Add", one, other)
    proto = finish(m, x)
    net = opened(proto)
    assert [layer.name for layer in net.layers][:2] == [before, x]
    assert {one, other} <= set(net.layer(before).also)
    values = net.activations(pictures(), [before, x])
    np.testing.assert_allclose(values[x], 2 * values[before], atol=1e-6)
    images = net.prepare(pictures())
    _, by = net.value_and_gradient(objectives.l2(x), wrt=before)(images)
    _, by_sum = net.value_and_gradient(objectives.l2(x), wrt=x)(images)
    np.testing.assert_allclose(by, 2 * by_sum, rtol=1e-5, atol=1e-9)
    (output,) = (value.name for value in proto.graph.output)
    wanted = session(proto).run(None, {"image": images})[0]
    np.testing.assert_allclose(net.run(images, [output])[output], wanted, rtol=1e-5)


def test_a_value_that_others_read_uncut_stays_itself():
    """As TensorRT's exporters write it: the convolution reads quantised, the sum beside it does not."""
    m = Maker()
    before = conv(m)
    real = dequantise(m, quantise(m, before, 0.02), 0.02)
    x = m("Add", before, real)
    net = opened(finish(m, x))
    values = net.activations(pictures(), [before, real])
    assert values[before].min() < 0 == values[real].min()
    assert net.layer(before).quantised is None
    assert net.layer(real).quantised.scale == pytest.approx(0.02)


def test_integers_that_are_moved_and_pooled():
    m = Maker()
    before = conv(m)
    pooled = m("MaxPool", quantise(m, before, 0.02), kernel_shape=[2, 2], strides=[2, 2])
    real = dequantise(m, pooled, 0.02)
    net = opened(finish(m, real))
    values = net.activations(pictures(), [before, pooled])
    assert values[before].min() == 0
    kept = values[before].reshape(3, 4, 8, 2, 8, 2).max(axis=(3, 5))
    np.testing.assert_allclose(values[pooled], kept, atol=1e-6)
    assert net.layer(pooled).op == "MaxPool"


def test_a_scale_for_each_channel():
    m = Maker(opset=17)
    before = conv(m)
    scale, zero = m.constant(np.float32([0.01, 0.02, 0.03, 0.04])), m.constant(np.zeros(4, np.uint8))
    q = m("QuantizeLinear", before, scale, zero, axis=1)
    real = m("DequantizeLinear", q, scale, zero, axis=1)
    net = opened(finish(m, real))
    held = net.layer(before).quantised
    np.testing.assert_allclose(held.scale, [0.01, 0.02, 0.03, 0.04], rtol=1e-6)
    assert net.activations(pictures(), [before])[before].min() == 0


def test_ranges_measured_while_it_runs_leave_the_values_as_they_are():
    m = Maker()
    x = m("Relu", conv(m))
    codes, scale, zero = m("DynamicQuantizeLinear", x, outputs=3)
    weights = m.constant(np.ones((4, 4, 1, 1), np.uint8))
    sums = m("ConvInteger", codes, weights, zero)
    y = m("Mul", m("Cast", sums, to=1), scale)
    net = opened(finish(m, y))
    values = net.activations(pictures(), [x, codes])
    np.testing.assert_array_equal(values[x], values[codes])
    assert codes not in [layer.name for layer in net.layers]
    held = net.layer(x).quantised
    assert (held.codes, held.scale) == (codes, None)
    assert net.activations(pictures(), [x], codes=True)[x].max() == 255


def test_names_that_are_taken_are_left_to_their_owners():
    m = Maker()
    before = conv(m)
    m.nodes[-1].output[0] = "a"
    codes = quantise(m, "a", 0.02)
    real = dequantise(m, codes, 0.02)
    other = m("Relu", real)
    m.nodes[-1].output[0] = "a_QuantizeLinear_Input"
    net = opened(finish(m, "a_QuantizeLinear_Input"))
    assert before != "a" and other
    assert [layer.name for layer in net.layers][:2] == ["a", "a_QuantizeLinear_Input"]
    values = net.activations(pictures(), ["a", "a_QuantizeLinear_Input"])
    assert values["a"].min() == 0
    np.testing.assert_array_equal(values["a"], values["a_QuantizeLinear_Input"])


# --- the bundled network --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundled(cat):
    """EfficientNet-Lite0 in QDQ form, calibrated on the cat itself."""
    net = onnxviz.load("efficientnet-lite0", provider="cpu")
    int8 = networks.by_ort(onnx.load(resolve("efficientnet-lite0")), [net.prepare([cat])])
    return net, onnxviz.load(int8, preprocess=net.preprocessing, provider="cpu")


def test_the_bundled_network_in_int8(bundled, cat):
    plain, net = bundled
    names = ["stem.relu6", "blocks.2.add", "head.relu6", "features", "logits"]
    found, wanted = (one.activations(cat, names) for one in (net, plain))
    for name in names:
        assert alike(found[name], wanted[name]) > (0.9 if "head" not in name else 0.75)
    assert (found["stem.relu6"].min(), found["stem.relu6"].max()) == (0, pytest.approx(6, abs=0.03))
    assert ir.to_proto(net.model).graph.output[0].name == "logits"
