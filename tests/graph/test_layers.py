"""What `layers` tells of networks in every form, and how a layer is found by name."""

from __future__ import annotations

import time
from pathlib import Path

import networks
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from networks import Maker, bare, tiny_cnn

from onnxviz.errors import ModelUnsuitable, UnknownLayer
from onnxviz.graph.layers import field, layers, module_path, resolve
from onnxviz.graph.open.load import load

MODELS = Path(__file__).parents[2] / "models"


def told(proto, **options):
    """By name; of the file as `load` opens it."""
    return named(load(proto).model, **options)


def named(model, **options):
    return {layer.name: layer for layer in layers(model, **options)}


def total(found, what):
    return sum(getattr(layer, what) for layer in found)


def test_everything_of_a_small_network():
    found = told(tiny_cnn())
    assert list(found) == [
        "conv1", "norm1", "relu1", "conv2", "relu2", "pool", "pooled", "features", "logits", "prob",
    ]  # fmt: skip
    conv = found["conv2"]
    assert (conv.op, conv.shape, conv.inputs) == ("Conv", ("N", 16, 16, 16), ("relu1",))
    assert conv.parameters == 16 * 8 * 9 + 16
    assert conv.macs == 16 * 16 * 16 * 8 * 9
    assert (conv.receptive_field, conv.stride, conv.offset) == ((7, 7), (2, 2), (-3, -3))
    assert conv.local_field == conv.receptive_field
    assert found["conv1"].inputs == ()
    assert found["norm1"].parameters == 16  # scale and bias; running statistics are not learned
    assert found["logits"].parameters == 10 * 16 + 10
    assert found["logits"].macs == 160
    assert found["logits"].stride is None
    assert total(found.values(), "parameters") == 8 * 27 + 8 + 16 + conv.parameters + 170


def test_the_model_is_only_read():
    model = load(networks.static_batch()).model
    before = ir.to_proto(model).SerializeToString()
    layers(model)
    assert ir.to_proto(model).SerializeToString() == before


@pytest.mark.parametrize(
    ("name", "parameters", "giga_macs"),
    [  # the published sizes, without running statistics
        ("bvlc_alexnet", 60_965_224, 0.655),
        ("vgg19", 143_667_240, 19.632),
        ("inception_v1", 6_998_552, 1.43),
        ("resnet50", 25_557_032, 4.09),
        ("squeezenet", 1_235_496, 0.349),
    ],
)
def test_published_sizes(name, parameters, giga_macs):
    """Also with weights that ConstantOfShape makes, as these files have them."""
    found = layers(load(bare(name)).model)
    assert total(found, "parameters") == parameters
    assert total(found, "macs") / 1e9 == pytest.approx(giga_macs, rel=3e-3)
    assert all(layer.op not in ("ConstantOfShape", "Unsqueeze") for layer in found)
    assert all(isinstance(size, int) for layer in found for size in layer.shape)
    assert all(layer.receptive_field is not None for layer in found)


def test_resnet_50_is_fast():
    model = load(bare("resnet50")).model
    layers(model)
    start = time.process_time()
    layers(model)
    assert time.process_time() - start < 0.5


# --- what is a layer ------------------------------------------------------------------------------


def test_masks_indices_and_shape_arithmetic_are_left_out():
    m = Maker()
    x = m("Conv", "image", m.random(4, 3, 3, 3))
    height = m("Gather", m("Shape", x), m.constant([2]), axis=0)
    scale = m("Cast", height, to=1)
    mask = m("Greater", x, m.constant(np.float32(0)))
    kept = m("Where", mask, x, m.constant(np.float32(0)))
    largest = m("ArgMax", kept, axis=1)
    back = m("Cast", largest, to=1)
    y = m("Mul", back, scale)
    found = told(m.model({"image": ("N", 3, 8, 8)}, {y: None}))
    assert list(found) == [x, kept, back, y]
    assert found[kept].inputs == (x,)
    assert found[back].inputs == (kept,)  # through the indices


def test_shared_weights_count_once():
    m = Maker()
    weight, slope = m.random(3, 3, 3, 3), m.random(3, 1, 1)
    x = m("PRelu", m("Conv", "image", weight, pads=[1] * 4), slope)
    y = m("PRelu", m("Conv", x, weight, pads=[1] * 4), slope)
    found = told(m.model({"image": ("N", 3, 8, 8)}, {y: None}))
    assert [layer.parameters for layer in found.values()] == [81, 3, 0, 0]


def test_constants_of_formulas_are_no_parameters():
    m = Maker()
    half = m("Constant", value=onnx.numpy_helper.from_array(np.float32(0.5)))
    x = m("Mul", m("Conv", "image", m.random(2, 3, 1, 1)), half)
    x = m("Clip", x, m.constant(np.float32(0)), m.constant(np.float32(6)))
    x = m("Pow", x, m.constant(np.float32([2.0])))
    x = m("Resize", x, "", m.constant(np.float32([1, 1, 2, 2])), mode="nearest")
    x = m("Add", x, m("Constant", value=onnx.numpy_helper.from_array(np.ones((2, 1, 1), np.float32))))
    found = told(m.model({"image": ("N", 3, 8, 8)}, {x: None}))
    assert [layer.parameters for layer in found.values()] == [6, 0, 0, 0, 0, 2]


@pytest.mark.parametrize("form", ["float", "qdq", "qoperator", "fp16"])
def test_the_same_network_in_every_form(form):
    """Parameters and work are those of the float network; a quantised layer is listed once, by its real values."""
    proto = networks.static_batch()
    plain = layers(load(proto).model)
    found = layers(load(proto if form == "float" else getattr(networks, form)(proto)).model)
    assert all(total(found, what) == total(plain, what) for what in ("parameters", "macs"))
    assert max(layer.receptive_field for layer in found) == max(layer.receptive_field for layer in plain)
    assert not [layer for layer in found if "?" in layer.shape or "..." in layer.shape]
    operators = {layer.op for layer in found}
    assert {"qoperator": "QLinearConv"}.get(form, "Conv") in operators
    assert not operators & {"DequantizeLinear"}
    assert len({layer.name for layer in found}) == len(found)
    if form.startswith("q"):
        # The picture's own codes; what was a rectifier is a part of its layer.
        assert len(found) <= len(plain) + 1
        assert all(layer.quantised for layer in found[:-1])


def test_quantised_operators_of_com_microsoft():
    """Shapes, fields and work of operators that the ONNX standard does not know."""
    m = Maker()
    scale, zero = m.constant(np.float32(0.1)), m.constant(np.uint8(3))
    x = m("QuantizeLinear", "image", scale, zero)
    w, ws = m.constant(np.ones((4, 3, 3, 3), np.uint8)), m.constant(np.float32(0.1))
    q = [scale, zero]
    y = m("QLinearConv", x, *q, w, ws, zero, *q, pads=[1] * 4)
    contrib = {"domain": "com.microsoft"}
    z = m("QLinearSigmoid", m("QLinearLeakyRelu", y, *q, *q, alpha=0.1, **contrib), *q, *q, **contrib)
    added = m("QLinearAdd", y, *q, z, *q, *q, **contrib)
    joined = m("QLinearConcat", *q, added, *q, z, *q, axis=1, **contrib)
    pooled = m("QLinearAveragePool", joined, *q, *q, kernel_shape=[2, 2], strides=[2, 2], **contrib)
    whole = m("QLinearGlobalAveragePool", pooled, *q, *q, channels_last=0, **contrib)
    flat = m("Flatten", whole)
    g = m("QGemm", flat, *q, m.constant(np.ones((8, 5), np.uint8)), ws, zero, "", *q, **contrib)
    gf = m("QGemm", flat, *q, m.constant(np.ones((8, 5), np.uint8)), ws, zero, **contrib)
    soft = m("QLinearSoftmax", g, *q, *q, axis=-1, opset=13, **contrib)
    gelu = m("Gelu", gf, **contrib)
    fused = m("FusedMatMul", gelu, m.random(7, 5), transB=1, **contrib)
    dense = m("DequantizeLinear", soft, *q)
    proto = m.model({"image": ("N", 3, 8, 8)}, {fused: None, dense: None})
    found = named(ir.from_proto(proto))
    shapes = {name: layer.shape for name, layer in found.items()}
    assert shapes[added] == ("N", 4, 8, 8)
    assert shapes[joined] == ("N", 8, 8, 8)
    assert shapes[pooled] == ("N", 8, 4, 4)
    assert shapes[whole] == ("N", 8, 1, 1)
    assert shapes[g] == shapes[gf] == shapes[soft] == shapes[gelu] == ("N", 5)
    assert shapes[fused] == ("N", 7)
    assert found[pooled].stride == (2, 2)
    assert found[pooled].receptive_field == (4, 4)
    assert (found[y].macs, found[g].macs, found[fused].macs) == (4 * 64 * 27, 40, 35)
    assert found[y].parameters == 4 * 27


def test_normalisations_from_before_the_standard_had_them():
    """ONNX Runtime's optimiser writes these into files of any opset."""
    m = Maker(opset=12)
    x = m("LayerNormalization", m("Transpose", "image", perm=[0, 2, 3, 1]), m.random(4), m.random(4), axis=-1)
    y = m("SimplifiedLayerNormalization", x, m.random(4), axis=-1)
    found = named(ir.from_proto(m.model({"image": ("N", 4, 8, 8)}, {y: None})))
    assert found[x].shape == found[y].shape == ("N", 8, 8, 4)
    assert found[y].parameters == 4
    assert found[y].receptive_field == (1, 1)


def test_channels_last_operators_of_com_microsoft():
    m = Maker()
    q = [m.constant(np.float32(0.1)), m.constant(np.uint8(3))]
    x = m("QuantizeLinear", "image", *q)
    w = m.constant(np.ones((4, 3, 3, 3), np.uint8))
    contrib = {"domain": "com.microsoft"}
    x = m("QLinearConv", x, *q, w, *q, *q, pads=[1] * 4, strides=[2, 1], channels_last=1, **contrib)
    y = m("NhwcMaxPool", x, kernel_shape=[2, 2], strides=[2, 2], **contrib)
    z = m("DequantizeLinear", y, *q)
    found = told(m.model({"image": ("N", 8, 12, 3)}, {z: None}))
    assert found[x].shape == ("N", 4, 12, 4)
    assert found[y].shape == ("N", 2, 6, 4)
    assert found[y].stride == (4, 2)
    assert found[y].receptive_field == (5, 4)


def test_several_inputs():
    m = Maker()
    x = m("Mul", "image", "gain")
    proto = m.model({"gain": (1,), "image": ("N", 3, 4, 4)}, {x: None})
    assert list(told(proto)) == [x]  # the only one of rank 4
    m = Maker()
    y = m("Sub", "left", "right")
    proto = m.model({"left": ("N", 3, 4, 4), "right": ("N", 3, 4, 4)}, {y: None})
    with pytest.raises(ModelUnsuitable, match="'left', 'right'"):
        told(proto)
    assert list(told(proto, input="right")) == [y]
    with pytest.raises(UnknownLayer, match="did you mean 'left'"):
        told(proto, input="leftt")


def test_another_size_than_the_declared_one():
    found = told(tiny_cnn(size=("H", "W")), size=(64, 48))
    assert found["conv2"].shape == ("N", 16, 32, 24)
    assert found["conv2"].macs == 16 * 32 * 24 * 8 * 9
    assert told(tiny_cnn(), size=(64, 48))["conv2"].shape == ("N", 16, 32, 24)
    assert told(tiny_cnn(size=("H", "W")))["conv2"].macs == 0


def test_model_local_functions_are_looked_into():
    found = told(networks.with_function())
    assert [layer.op for layer in found.values()] == ["Add", "Relu", "Add", "Relu"]
    assert found["second"].inputs == (list(found)[2],)


# --- names ----------------------------------------------------------------------------------------


def test_resolve_by_value_by_node_and_by_module():
    proto = tiny_cnn()
    for node, name in zip(proto.graph.node, ["/stem/conv/Conv", "/stem/bn/Norm", "/stem/act/Relu",
                                             "/body/body.0/conv/Conv"], strict=False):  # fmt: skip
        node.name = name
    found = layers(load(proto).model)
    assert found[3].path == ("body", "0", "conv")
    assert resolve(found, "relu1").name == "relu1"
    assert resolve(found, "/stem/bn/Norm").name == "norm1"
    assert resolve(found, "body.0.conv").name == "conv2"
    assert resolve(found, "stem").name == "relu1"  # a module's result is its last layer
    with pytest.raises(UnknownLayer, match=r"did you mean .*'body\.0\.conv'"):
        resolve(found, "body.0.cnv")
    with pytest.raises(UnknownLayer, match="give them one by one"):
        resolve(found, "relu1, conv2")


SCOPES = "pkg.torch.onnx.name_scopes"
PATHS = [
    ("Conv", {"name": "/layer1/layer1.0/conv1/Conv"}, ("layer1", "0", "conv1")),
    ("Conv", {"name": "model/conv1/Conv2D"}, ("model", "conv1")),
    ("Conv", {"name": "layer1.0.conv1"}, ("layer1", "0", "conv1")),
    ("Conv", {"name": "p2o.Conv.0"}, ()),
    ("Relu", {"name": "n17"}, ()),
    ("Relu", {"name": ""}, ()),
    ("Relu", {SCOPES: "[" * 5000}, ()),
    ("Relu", {SCOPES: "[" * 5000, "namespace": ": Net/layer1.0: Block/conv1: aten.conv"}, ("layer1", "0")),
    # Scopes are read as Python writes them.
    ("Relu", {SCOPES: repr(["", "layer1", "layer1.0", "conv"])}, ("layer1", "0")),
    ("Relu", {SCOPES: repr(("", "layer1", "layer1.0", "conv"))}, ("layer1", "0")),
    ("Relu", {SCOPES: repr(["it's", "layer1.0", ""])}, ("layer1", "0")),
]


def path_of(op, told):
    props = {key: text for key, text in told.items() if key != "name"}
    return module_path(ir.Node("", op, [], name=told.get("name", ""), metadata_props=props), [])


@pytest.mark.parametrize(("op", "told", "path"), PATHS)
def test_paths_from_names_and_metadata(op, told, path):
    assert path_of(op, told) == path


@pytest.mark.parametrize("key", [SCOPES, "namespace", "name"])
def test_endless_names_and_metadata_give_no_path(key):
    """Megabytes of metadata took gigabytes to read, and a path of 100,000 parts a tree of as many rows."""
    for text in ("['a', " + "'a', " * 1_000_000 + "]", repr([".".join("a" * 100), "x"]), "a/" * 100 + "Relu"):
        assert len(path_of("Relu", {key: text})) <= 64


def test_module_paths_of_a_torch_export():
    """The bundled network, as torch.onnx.export(dynamo=True) wrote it: paths in metadata, norms folded."""
    found = layers(load(MODELS / "efficientnet-lite0.onnx").model, size=(224, 224))
    stem = found[0]
    assert (stem.op, stem.shape) == ("Conv", ("N", 32, 112, 112))
    assert len(stem.path) == 1
    block = resolve(found, "blocks.1")
    assert block.shape == ("N", 24, 56, 56)
    inside = [layer for layer in found if layer.path[:2] == ("blocks", "1")]
    assert block is inside[-1]
    assert len(inside) > 3
    assert field(block, 0, 0)[0] < 0
    assert found[-1].shape == ("N", 1000)
    assert total(found, "parameters") == 4_631_000  # 4,652,008 less what the folded norms held


def test_a_folded_norm_bears_the_path_of_its_convolution():
    """The exporter writes the batch norm's path on the convolution that it was folded into; the weight knows better."""
    m = Maker()
    weights = m.random(4, 3, 1, 1, name="body.0.conv.weight"), m.random(4, name="body.0.conv.weight_bias")
    y = m("Relu", m("Conv", "image", *weights))
    proto = m.model({"image": ("N", 3, 4, 4)}, {y: None})
    scopes = ["", "body.0", "body.0.norm", "norm_1"], ["", "body.0", "relu"]
    for node, listed in zip(proto.graph.node, scopes, strict=True):
        node.metadata_props.add(key=SCOPES, value=repr(listed))
    found = layers(ir.from_proto(proto))
    assert [layer.path for layer in found] == [("body", "0", "conv"), ("body", "0")]
    assert resolve(found, "body.0").name == y


@pytest.mark.parametrize("per_channel", [False, True])
def test_dynamically_quantised_files_have_the_float_file_s_fields(per_channel, tmp_path):
    """And its layers' strides, parameters and work: measured scales are constants."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    source = networks.tiny_cnn()
    onnx.save(source, tmp_path / "float.onnx")
    files = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    quantize_dynamic(*files, weight_type=QuantType.QUInt8, per_channel=per_channel)
    plain, dynamic = (layers(load(file).model, size=(32, 32)) for file in files)
    by_name = {layer.name: layer for layer in dynamic}
    for layer in plain:
        other = by_name[layer.name]
        for what in ("receptive_field", "local_field", "stride", "offset", "shape"):
            assert getattr(other, what) == getattr(layer, what), (layer.name, what)
    assert all(total(dynamic, what) == total(plain, what) for what in ("parameters", "macs"))
    assert not [layer.name for layer in dynamic if layer.name.endswith(("scale", "scales_mul:0"))]


def test_layers_print_one_a_line_and_of_many_the_ends():
    found = layers(load(tiny_cnn()).model)
    assert repr(found).splitlines() == [repr(one) for one in found]
    assert repr(found[3]) == "<Layer conv2 Conv N×16×16×16>"
    assert found == tuple(found)
    m, x = Maker(), "image"
    for _ in range(40):
        x = m("Relu", x)
    many = layers(load(m.model({"image": ("N", 3, 8, 8)}, {x: ("N", 3, 8, 8)})).model)
    lines = repr(many).splitlines()
    assert len(lines) == 25
    assert (lines[0], lines[12], lines[-1]) == (repr(many[0]), "… 16 more …", repr(many[-1]))
    assert max(map(len, lines)) < 120
