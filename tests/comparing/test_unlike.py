"""What B computes otherwise: named, told from what its weights and quantisers do, and not seen where it is not."""

from __future__ import annotations

import copy
import re
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import quantise  # tools/ is on the path: tests/comparing/conftest.py
from onnx import helper, numpy_helper

import onnxviz
from onnxviz.comparing.cause import mostly, source
from onnxviz.comparing.hybrids import Hybrids
from onnxviz.comparing.local import split
from onnxviz.comparing.match import match
from onnxviz.graph.seams import setting
from tests.comparing import small, variants
from tests.networks import edited, fp16

PARTS = ("weights", "activations", "clipping")
BEFORE = "in the place of"
#: Network, node, what is done to it (attributes, another operator, its inputs the other way round), and what is told.
CHANGES = [
    ("mobilenet", "block1.gate", {"alpha": 0.25}, "alpha of HardSigmoid is 0.25, in A 0.166667"),
    ("mobilenet", "block1.gate", {"beta": 0.25}, "beta of HardSigmoid is 0.25, in A 0.5"),
    ("mobilenet", "block1.swish1", "Relu", f"Relu {BEFORE} HardSwish"),
    ("detector", "neck.up", {"mode": "linear"}, "mode of Resize is linear, in A nearest"),
    ("detector", "neck.join", "turn", "the inputs of Concat stand in another order"),
    ("segmenter", "down1.relu", "Sigmoid", f"Sigmoid {BEFORE} Relu"),
    ("segmenter", "down1.relu", "Identity", f"nothing {BEFORE} Relu (down1.relu)"),
    ("resnet", "pool", {"pads": [0, 0, 2, 2]}, "pads of MaxPool is (0, 0, 2, 2), in A (1, 1, 1, 1)"),
    ("resnet", "block0.conv2", {"dilations": [2, 2], "pads": [2] * 4}, "dilations of Conv is (2, 2), in A (1, 1)"),
    ("resnet", "stem.norm", {"epsilon": 0.5}, "epsilon of BatchNormalization is 0.5, in A 1e-05"),
    ("resnet", "block1.relu1", "Elu", f"Elu {BEFORE} Relu"),
    ("resnet", "block2.add", "Sub", f"Sub {BEFORE} Add (block2.add)"),
    ("resnet", "gap", "GlobalMaxPool", f"GlobalMaxPool {BEFORE} GlobalAveragePool"),
]  # fmt: skip


def changed(model: onnx.ModelProto, name: str, change) -> onnx.ModelProto:
    model = copy.deepcopy(model)
    (at,) = (one for one in model.graph.node if one.name == name)
    if change == "turn":
        at.input[:] = list(at.input)[::-1]
    elif isinstance(change, str):
        at.op_type = change
    else:
        kept = [one for one in at.attribute if one.name not in change]
        del at.attribute[:]
        at.attribute.extend([*kept, *(helper.make_attribute(*one) for one in change.items())])
    return model


def opened(model, **options):
    return small.opened(model, **small.SCALED, **options)


def compared(a, b, count: int = 4):
    return onnxviz.compare(opened(a), opened(b), small.photos(count), methods=(), restore=0)


def reason(found, layer: str | None = None) -> str:
    """Of a layer, or of the one that does most."""
    wanted = layer or found.effects.ranked[0].layer
    return found.layers["reason"][found.layers["layer"].index(wanted)]


@pytest.mark.parametrize(("name", "node", "change", "told"), CHANGES)
def test_what_is_computed_otherwise_is_named_and_no_doing_of_weights(files, name, node, change, told):
    """An attribute that a converter lost, another operator, inputs in another order: no weight differs."""
    model = onnx.load(files.small(name))
    found = compared(model, changed(model, node, change))
    assert told in found.effects.ranked[0].unlike
    assert told in reason(found) or "has no activation" in reason(found)
    assert found.split.shares["operators"] > 0.99 and found.split.cause == "operators"
    said = [one.sentence for one in found.findings if one.id == "compare.layer"]
    assert len(said) == (found.effects.ranked[0].share > 0.9) and all(told in text for text in said)
    assert any("operators 100%, weights 0%" in line for line in found.lines())
    assert "operators that B has otherwise" in source(found.split, found.why, found.effects)
    assert found.to_dict()["figures"]["split"]["shares"]["operators"] > 0.99


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
@pytest.mark.parametrize(
    ("name", "node", "change", "told"),
    [one for one in CHANGES if one[1] not in ("down1.relu", "block1.swish1")],
)
def test_in_a_quantised_file_too(files, form, name, node, change, told):
    """Both at once: what is rounded, and what is computed otherwise."""
    model, x = onnx.load(files.small(name)), small.pictures(4)
    other = changed(model, node, change)
    ranges = None if form == "dynamic" else quantise.calibrate(other, x)
    a, b = opened(model), opened(quantise.quantise(other, quantise.Scheme(form), ranges))
    both = Hybrids(a, b, match(a, b, x[:2]), x[:2], x[:2])
    assert any(told in both.graft.unlike(layer).told for layer in both.graft.layers)
    assert split(both).shares["operators"] > 0.6


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic"])
def test_a_rectifier_that_a_quantised_file_lacks_is_named(files, form):
    model = onnx.load(files.small("resnet"))
    other = changed(model, "block1.relu1", "Identity")
    ranges = None if form == "dynamic" else quantise.calibrate(other, small.pictures())
    found = compared(model, quantise.quantise(other, quantise.Scheme(form), ranges))
    assert f"nothing {BEFORE} Relu" in reason(found) or "no activation behind it" in reason(found)
    assert found.split.shares["operators"] > 0.9


@pytest.mark.parametrize("form", ["QDQ", "QOperator", "dynamic", "unfolded", "nhwc", "fp16"])
@pytest.mark.parametrize("name", ["resnet", "mobilenet", "detector"])
def test_what_is_only_written_otherwise_is_not_told(files, name, form):
    """Quantisers and what they measure, normalisations in the weights or apart, another layout, another type."""
    model, x = onnx.load(files.small(name)), small.pictures(2)
    if (name, form) == ("detector", "nhwc"):
        pytest.skip("its rows are no maps")
    makers = {"unfolded": variants.unfolded, "nhwc": variants.nhwc, "fp16": fp16}
    a = opened(model)
    b = opened(makers[form](model) if form in makers else files.small(name, form))
    xb = x.transpose(0, 2, 3, 1) if form == "nhwc" else x
    for one, other, first, second in ((a, b, x, xb), (b, a, xb, x)):
        both = Hybrids(one, other, match(one, other, first, second), first, second)
        assert {both.graft.unlike(layer).told for layer in both.graft.layers} <= {()}


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_a_number_that_is_held_as_a_code_is_no_weight(form):
    """Scores of attention times a number: two maps are multiplied, and nothing may have that number in its weights."""
    m, x = small.Named(), small.pictures(2)
    rows = [
        m.layer(f"{n}.rows", "Reshape", m.conv(n, "image", 8, 3, 8, 8), m.constant([0, 8, 81])) for n in "qk"
    ]
    turned = m.layer("turned", "Transpose", rows[0], perm=[0, 2, 1])
    scaled = m.layer(
        "scaled", "Mul", m.layer("scores", "MatMul", turned, rows[1]), m.constant(np.float32(0.2))
    )
    weighed = m.layer("weighed", "MatMul", rows[1], m.layer("soft", "Softmax", scaled, axis=-1))
    model = m.model(
        {"image": ("N", 3, 64, 64)}, {m.layer("mean", "ReduceMean", weighed, axes=[2]): ("N", 8, 1)}
    )
    a = opened(model)
    b = opened(quantise.quantise(model, quantise.Scheme(form), quantise.calibrate(model, x)))
    both = Hybrids(a, b, match(a, b, x), x, x)
    assert {both.graft.unlike(layer).told for layer in both.graft.layers} == {()}


@pytest.mark.parametrize("form", ["unfolded", "folded"])
def test_float32s_own_rounding_is_nobodys_doing(files, form):
    """Normalisations apart in one file and in the weights of the other: 130 dB, and nothing to do about it."""
    plain = onnx.load(files.small("mobilenet"))
    pair = plain, variants.unfolded(plain)
    found = compared(*(pair if form == "unfolded" else pair[::-1]))
    assert 0 < found.effects.moved < 1e-5 and found.effects.still
    assert found.split.cause is None and set(found.split.shares.values()) == {0.0}
    assert {told for told in found.layers["reason"] if told} == {"float32's own rounding"}
    lines = found.lines()
    assert any("none does anything but for float32's own rounding" in line for line in lines)
    assert not any("noise from" in line or "put back" in line for line in lines)


def test_half_precision_is_rounding(files):
    model = onnx.load(files.small("resnet"))
    found = compared(model, fp16(model))
    assert reason(found) == "rounding to float16"
    assert found.split.shares["rounding"] == pytest.approx(1)
    assert "to float16" in source(found.split, found.why, found.effects)


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_dynamic_quantisation_is_rounding(files, name):
    found = compared(files.small(name), files.small(name, "dynamic"))
    told = [reason(found, one.layer) for one in found.effects.ranked if one.e > 1e-5]
    assert told and all("rounding" in text and "otherwise" not in text for text in told)


@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_where_a_is_the_quantised_one_it_is_a_that_rounds(files, form):
    """The other way round: what A's quantisers do is no doing of B's weights, nor a rectifier that they stood for."""
    there, back = files.small("resnet"), files.small("resnet", form)
    found = compared(back, there)
    told = {reason(found, one.layer) for one in found.effects.ranked[:5]}
    assert any("A rounds to uint8 per tensor, and B does not" in text for text in told)
    assert not any("otherwise" in text for text in told)
    assert found.split.of_a
    assert found.split.shares == pytest.approx(compared(there, back).split.shares, abs=1e-6)
    assert "it is A that is quantised" in source(found.split, found.why, found.effects)
    assert not any("put back" in line or "in float" in line for line in found.lines())


def test_what_no_part_does_alone_is_not_put_down_to_one(files):
    """Two dynamic files lost 13 dB by sums that the processor cut, and their weights alone would have left 36 dB."""
    found = compared(files.small("resnet"), files.small("resnet", "QDQ"))
    assert mostly(found.split, found.why, found.effects).startswith("mostly ")
    tenth = replace(found.split, **{name: getattr(found.split, name) / 10 for name in PARTS}, together=None)
    told = mostly(tenth, found.why, found.effects)
    assert re.match(r"these by themselves would leave \d+ dB at the answers, where B has \d+: most", told)
    lines = " ".join(replace(found, split=tenth).lines())
    assert told in lines and "mostly" not in lines and "of the noise comes from" not in lines


@pytest.mark.parametrize("form", ["unfolded", "folded"])
def test_an_equalised_bound_is_no_other_operator_and_wastes_no_codes(form):
    """Clip(0, 6) of A is Relu and a bound for each channel in B, whose units these are: 24 is 6 times 4."""
    plain = small.bounded()
    equal = variants.equalised(plain)
    scheme = quantise.Scheme("QDQ", reduce_range=True)
    b = quantise.quantise(equal, scheme, quantise.calibrate(equal, small.pictures()))
    found = compared(variants.unfolded(plain) if form == "unfolded" else plain, b)
    assert not any("Min" in text for text in found.layers["reason"])
    assert not [one for one in found.findings if one.severity != "low"]
    assert not any("of B's range" in text for text in found.layers["reason"])


def test_weights_that_are_no_integers_are_told(files):
    """Pruning leaves 15 dB and more: no rounding of float32, and no operator."""
    model = onnx.load(files.small("resnet"))
    found = compared(model, variants.pruned(model, 0.1))
    assert "its weights differ" in reason(found) and "otherwise" not in reason(found)
    assert found.split.cause == "weights" and found.split.shares["operators"] == 0


@pytest.mark.parametrize(
    ("tensor", "change", "told"),
    [
        ("stem.bias", lambda a: a + 1, r"its bias differs: -\d+\.\d dB"),
        ("block1.norm1.mean", lambda a: a + 1, r"mean of BatchNormalization differs: -\d+\.\d dB"),
        ("block1.norm1.scale", lambda a: a * 1.5, r"scale of BatchNormalization differs: 6\.0 dB"),
    ],
)
def test_constants_that_are_no_weights_are_told(files, tensor, change, told):
    found = compared(files.small("resnet"), edited(files.small("resnet"), **{tensor: change}))
    assert re.fullmatch(told, reason(found))


@pytest.mark.parametrize("form", ["float", "QDQ", "QOperator"])
@pytest.mark.parametrize("part", ["scale", "var"])
@pytest.mark.parametrize("fault", [False, True])
def test_what_a_layer_and_its_norm_make_together_is_told(form, part, fault):
    """Filters times factors that the norm behind them takes back by its mean and one of its other numbers."""
    model = small.resnet()
    s = np.random.default_rng(0).uniform(0.4, 2.5, 32).astype(np.float32)
    other = edited(
        model,
        **{
            "block1.conv1.weight": lambda w: w * s[:, None, None, None],
            "block1.conv1.bias": lambda bias: bias * s,
            "block1.norm1.mean": lambda mean: mean * s,
            "block1.norm1.scale": lambda scale: scale / s if part == "scale" else scale,
            "block1.norm1.var": lambda var: (var + 1e-5) * s**2 - 1e-5 if part == "var" else var,
            "block1.norm1.bias": lambda bias: bias * 3 if fault else bias,
        },
    )
    if form != "float":
        other = quantise.quantise(
            other, quantise.Scheme(form, reduce_range=True), quantise.calibrate(other, small.pictures())
        )
    told = reason(compared(model, other), "block1.relu1")
    assert "BatchNormalization" not in told
    assert ("its bias differs" in told) is fault


def bounded(written: str, bound: float = 6.0) -> onnx.ModelProto:
    """A network whose values end at 6, but for one: as Clip, or as Relu and Min."""
    model = small.bounded(seed=3)
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Clip":
            nodes.append(node)
            continue
        y = node.output[0]
        end = np.float32(bound if y == "block1.relu1" else 6)
        model.graph.initializer.append(numpy_helper.from_array(end, f"{y}.end"))
        if written == "Clip":
            node.input[2] = f"{y}.end"
            nodes.append(node)
        else:
            nodes += [
                helper.make_node("Relu", node.input[:1], [f"{y}/low"], name=f"{y}/low"),
                helper.make_node("Min", [f"{y}/low", f"{y}.end"], [y], name=f"{y}/high"),
            ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("form", ["float", "QDQ"])
@pytest.mark.parametrize("a", ["Clip", "Min"])
@pytest.mark.parametrize("b", ["Clip", "Min"])
def test_a_wrong_bound_is_named_however_it_is_written(form, a, b):
    """A quantiser does the work of a Clip in front of it, and its range tells; of a Min it leaves the bound."""
    for bound in (6, 5):
        other = bounded(b, bound)
        if form != "float":
            ranges = quantise.calibrate(other, small.pictures(32))
            other = quantise.quantise(other, quantise.Scheme(form, reduce_range=True), ranges)
        found = compared(bounded(a), other)
        told = reason(found, "block1.relu1")
        assert ("is 5, in A 6" in told) is (bound == 5 and (form == "float" or b == "Min"))
        assert ("over 5, beyond B's range" in told) is (bound == 5 and form != "float")
        assert told.count("differs") == 0
        assert bound == 5 or not [one for one in found.findings if one.severity != "low"]


def sloped() -> onnx.ModelProto:
    """A PRelu of one slope a channel between two convolutions."""
    m = small.Named()
    x = m.layer("prelu", "PRelu", m.conv("stem", "image", 16, 3, 3, 2), m.random(16, 1, 1, name="slope"))
    x = m.layer("features", "Flatten", m.layer("gap", "GlobalAveragePool", m.conv("head", x, 16, 16)))
    return m.model({"image": ("N", 3, small.SIZE, small.SIZE)}, {m.linear("logits", x, 10, 16): ("N", 10)})


@pytest.mark.parametrize(
    ("tensor", "change", "told"),
    [
        ("slope", lambda a: a * 3, "slope of PRelu differs: -6.0 dB"),
        ("stem.bias_quantized", lambda a: a * -3, "its bias differs: -12.0 dB"),
        ("stem.bias_quantized", lambda a: a + (1 << 20), "its bias differs: -"),
        ("stem.bias_quantized", lambda a: a + 1, "rounding to uint8"),
    ],
)
def test_constants_of_a_quantised_file_are_told(tensor, change, told):
    """What a code more or less does is rounding."""
    model = sloped()
    b = quantise.quantise(model, quantise.Scheme("QDQ"), quantise.calibrate(model, small.pictures()))
    names = [one.name for one in b.graph.initializer]
    if tensor not in names:  # held as codes: its scale says the same
        tensor = next(name for name in names if name.startswith(tensor) and name.endswith("scale"))
    found = compared(model, edited(b, **{tensor: change}))
    layer = "stem" if "stem" in found.effects.columns()["layer"] and "bias" in tensor else "prelu"
    assert told in reason(found, layer)


def node(op: str, **attributes):
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(op, ["x", "w"][: 1 + op.startswith("Conv")], ["y"], **attributes)],
            "one",
            [helper.make_tensor_value_info("x", 1, (1, 2, 8, 8))],
            [helper.make_tensor_value_info("y", 1, None)],
            [numpy_helper.from_array(np.zeros((2, 2, 3, 3), np.float32), "w")],
        )
    )
    return next(iter(ir.from_proto(model).graph))


@pytest.mark.parametrize(
    ("op", "name", "stated"),
    [
        ("Conv", "dilations", [1, 1]),
        ("Conv", "strides", [1, 1]),
        ("Conv", "pads", [0] * 4),
        ("Conv", "group", 1),
        ("Conv", "kernel_shape", [3, 3]),
        ("Conv", "auto_pad", "NOTSET"),
        ("ConvTranspose", "output_padding", [0, 0]),
        ("MaxPool", "strides", [1, 1]),
        ("Flatten", "axis", 1),
        ("LeakyRelu", "alpha", pytest.approx(0.01)),
    ],
)
def test_what_is_not_stated_is_what_the_standard_says(op, name, stated):
    other = node(op, **{name: stated if not hasattr(stated, "expected") else 0.01})
    assert setting(node(op), name, other) == stated
    assert setting(other, name, node(op)) == stated
