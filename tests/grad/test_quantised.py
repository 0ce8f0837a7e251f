"""Quantised and half-precision models: straight through the rounding, stopped by saturation, as torch fakes it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from processors import whole_sums
from scipy.stats import spearmanr

import onnxviz
from onnxviz import catalogue
from onnxviz.errors import ModelUnsuitable
from onnxviz.grad.model import gradient_model
from onnxviz.graph import rectifiers
from onnxviz.graph.normalise import normalise
from tests import networks
from tests.grad import torch_graph
from tests.grad.oracle import differentiated, normal, session
from tests.networks import node


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))


FORMS = {"qdq": networks.qdq, "qoperator": networks.qoperator}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("make", ["tiny", "squeezenet"])
def test_against_fake_quantisation(form: str, make: str) -> None:
    plain = networks.tiny_cnn(softmax=False) if make == "tiny" else networks.light("squeezenet")
    if plain.graph.node[-1].op_type == "Softmax":  # quantised, it saturates everywhere
        plain.graph.output[0].name = plain.graph.node.pop().input[0]
        del plain.graph.output[0].type.tensor_type.shape.dim[:]
        plain = onnx.shape_inference.infer_shapes(plain)
    model = FORMS[form](plain)
    source, output = model.graph.input[0].name, model.graph.output[0].name
    shape = [d.dim_value or 3 for d in model.graph.input[0].type.tensor_type.shape.dim]
    x = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    expected_y = session(model).run([output], {source: x})[0]
    cotangent = np.random.default_rng(6).standard_normal(expected_y.shape).astype(np.float32)

    y, gradient = session(differentiated(model)).run(None, {source: x, f"{output}.cotangent": cotangent})
    step = np.abs(expected_y).max() / 40  # some steps of the last places: rounding is done in another order
    np.testing.assert_allclose(y, expected_y, atol=step)

    tensor = torch.tensor(x, requires_grad=True)
    found = torch_graph.run(model, {source: tensor})[output]
    found.backward(torch.tensor(cotangent))
    assert cosine(gradient, tensor.grad.numpy()) >= 0.99


def test_saturation_stops_the_gradient() -> None:
    """The range of QuantizeLinear is the clip: 0 beyond it, the straight gradient within."""
    x = np.float32([[-1.0, -0.04, 0.0, 3.14, 25.5, 25.54, 26.0]])
    model = coded(["s", "z"], {"x": ("N", 7)}, {"s": np.float32(0.1), "z": np.uint8(0)})
    gradient = session(differentiated(model)).run(["x.gradient"], {"x": x, "y.cotangent": np.full_like(x, 2)})
    np.testing.assert_array_equal(gradient[0], [[0, 2, 2, 2, 2, 2, 0]])


def coded(names, inputs, weights, between: str = "", **axis) -> onnx.ModelProto:
    """QuantizeLinear and DequantizeLinear, perhaps with another operator between them."""
    nodes = [
        node("QuantizeLinear", ["x", *names], ["q"], **axis),
        *([node(between, ["q"], ["r"])] if between else []),
        node("DequantizeLinear", ["r" if between else "q", *names], ["y"], **axis),
    ]
    return networks.from_nodes(nodes, inputs, {"y": inputs["x"]}, weights, opset=13)


@pytest.mark.parametrize(
    ("scale", "zero", "axis"),
    [
        (np.float32([0.1, 0.02, 0.3]), np.int8([0, 3, -5]), 1),
        (np.float32([0.1, 0.02]), np.uint8([0, 128]), 0),
        (np.float32([0.1, 0.02]), np.uint8([0, 128]), -2),
        (np.float32(0.05), None, 1),
    ],
)
def test_per_axis(scale, zero, axis) -> None:
    x = normal(2, 3) * 3 if axis >= 0 else normal(2, 2, 3) * 3
    weights = {"s": scale} if zero is None else {"s": scale, "z": zero}
    # What stands between leaves no pair: both factors are applied.
    model = coded([*weights], {"x": x.shape}, weights, between="Identity", axis=axis)
    cotangent = normal(*x.shape, seed=3)
    (gradient,) = session(differentiated(model)).run(["x.gradient"], {"x": x, "y.cotangent": cotangent})
    tensor = torch.tensor(x, requires_grad=True)
    low, high = (-128, 127) if zero is not None and zero.dtype == np.int8 else (0, 255)
    if scale.ndim:
        step, offset = torch.tensor(scale), torch.tensor(zero.astype(np.int32))
        faked = torch.fake_quantize_per_channel_affine(tensor, step, offset, axis % x.ndim, low, high)
    else:
        faked = torch.fake_quantize_per_tensor_affine(tensor, float(scale), 0, low, high)
    faked.backward(torch.tensor(cotangent))
    np.testing.assert_allclose(gradient, tensor.grad.numpy(), atol=1e-6)


def test_dynamic_quantisation(tmp_path) -> None:
    """DynamicQuantizeLinear with MatMulInteger and ConvInteger: the float network, up to rounding."""
    from onnxruntime.quantization import quantize_dynamic

    plain = networks.tiny_cnn(softmax=False)
    onnx.save(plain, tmp_path / "a.onnx")
    quantize_dynamic(tmp_path / "a.onnx", tmp_path / "b.onnx")
    model = onnx.load(tmp_path / "b.onnx")
    assert {"DynamicQuantizeLinear", "ConvInteger", "MatMulInteger"} <= {n.op_type for n in model.graph.node}
    x = np.random.default_rng(5).standard_normal((3, 3, 32, 32)).astype(np.float32)
    feeds = {"image": x, "logits.cotangent": normal(3, 10)}
    found, expected = (session(differentiated(m)).run(["image.gradient"], feeds)[0] for m in (model, plain))
    assert cosine(found, expected) >= 0.98  # the float network's own gradient, up to the rounding
    assert session(model).run(None, {"image": x})[0].shape == (3, 10)


def test_half_precision() -> None:
    """Computed in float32: the gradient of the float network, though every half-precision one would underflow."""
    plain = networks.tiny_cnn(softmax=False)
    half = networks.fp16(plain)
    x = np.random.default_rng(5).standard_normal((3, 3, 32, 32)).astype(np.float32)
    cotangent = normal(3, 10) * np.float32(1e-6)
    engine = session(differentiated(half))
    kinds = {v.name: v.type for v in [*engine.get_inputs(), *engine.get_outputs()]}
    assert kinds == {
        "image": "tensor(float16)",
        "logits": "tensor(float16)",
        "logits.cotangent": "tensor(float)",
        "image.gradient": "tensor(float)",
    }
    feeds = {"image": x.astype(np.float16), "logits.cotangent": cotangent}
    y, gradient = engine.run(None, feeds)
    expected_y, expected = session(differentiated(plain)).run(
        None, {**feeds, "image": feeds["image"].astype(np.float32)}
    )
    assert y.dtype == np.float16
    np.testing.assert_allclose(y, expected_y, atol=2e-2)
    assert cosine(gradient, expected) >= 0.999
    assert session(differentiated(half, of="logits", wrt="relu1")).run(["relu1.gradient"], feeds)[0].any()


def test_integer_values_are_refused() -> None:
    model = ir.from_proto(networks.tiny_cnn(uint8=True))
    with pytest.raises(ModelUnsuitable, match="UINT8"):
        gradient_model(model, of="prob", wrt="image")
    with pytest.raises(ModelUnsuitable, match="0 float inputs"):
        gradient_model(model)
    # The layer behind the Cast is float, and can be taken:
    first = next(n for n in model.graph if n.op_type == "Cast").outputs[0].name
    assert gradient_model(model, wrt=first).graph.outputs[-1].name == f"{first}.gradient"


# --- rectifiers in the ranges of quantisers -------------------------------------------------------


@whole_sums
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_variants_of_the_bundled_network(form: str, net, cat) -> None:
    """The ReLU6 of all 33 layers lives in ranges; guided and deconvnet are close to the float file's."""
    x = net.prepare(cat)
    source = onnx.load(catalogue.resolve("efficientnet-lite0"))
    int8 = onnxviz.load(networks.by_ort(source, [x], form, per_channel=True), preprocess=net.preprocessing)
    objective = onnxviz.objectives.logit(285)
    for rules, least in (("guided", 0.85), ("deconvnet", 0.95)):
        maps = []
        for one in (net, int8):
            gradients = one.gradients(objective, rules=rules)
            assert gradients.rectifiers == 33
            maps.append(np.abs(gradients(x)[f"{one.input.name}.gradient"]).max(1).ravel())
        assert spearmanr(*maps).statistic >= least


def _ranks(source: onnx.ModelProto, **options) -> list[str]:
    """The operators in front of the quantisers that count as rectifiers, in the order of the graph."""
    shape = [d.dim_value or 2 for d in source.graph.input[0].type.tensor_type.shape.dim]
    pictures = np.random.default_rng(0).standard_normal((3, *shape[1:])).astype(np.float32)
    found = normalise(ir.from_proto(networks.by_ort(source, pictures[:, None], **options)))
    return [one.inputs[0].producer().op_type if one.op_type == "QuantizeLinear" else one.op_type
            for one in rectifiers.rectifiers(found)]  # fmt: skip


def _branches() -> onnx.ModelProto:
    """Relu, two pools of it and a Concat, a linear Conv, a sum with the first and a Relu, the logits."""
    m = networks.Maker(opset=13)
    first = m("Relu", m("Conv", "x", m.random(4, 3, 3, 3), pads=[1] * 4))
    pools = [m(op, first, kernel_shape=[3, 3], pads=[1] * 4) for op in ("MaxPool", "AveragePool")]
    total = m("Add", m("Conv", m("Concat", *pools, axis=1), m.random(4, 8, 3, 3), pads=[1] * 4), first)
    c3 = m("Conv", m("Relu", total), m.random(5, 4, 3, 3))
    y = m("Flatten", m("GlobalAveragePool", m("Mul", c3, m("Sigmoid", c3))))
    return m.model({"x": ("N", 3, 10, 10)}, {y: ("N", 5)})


def test_only_ranges_behind_what_can_be_negative() -> None:
    """Not those behind pools and joins of what is rectified already, of linear layers, or of another activation."""
    from onnxruntime.quantization import QuantType

    assert _ranks(_branches()) == ["Conv", "Add"]
    assert _ranks(_branches(), activation_type=QuantType.QUInt8) == ["Conv", "Add"]
    # Ranges around 0 hold no Relu: it stays, and the range that it shares in front of it counts with it.
    assert _ranks(_branches(), extra_options={"ActivationSymmetric": True}) == ["Relu", "Relu"]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("rules", ["guided", "deconvnet", "redirected"])
def test_variants_of_ranges_on_both_backends(rules: str, symmetric: bool) -> None:
    source = _branches()
    x = np.random.default_rng(0).standard_normal((3, 3, 10, 10)).astype(np.float32)
    model = networks.by_ort(
        source, x[:, None], per_channel=True, extra_options={"ActivationSymmetric": symmetric}
    )
    found = []
    for proto, backend in ((source, "native"), (model, "native"), (model, "torch")):
        net = onnxviz.load(proto, preprocess="imagenet", backend=backend)
        gradients = net.gradients(onnxviz.objectives.logit(2), rules=rules)
        found.append(gradients(x)["x.gradient"])
        assert gradients.rectifiers == 2
    assert cosine(found[1], found[2]) > 0.99  # equal integers in a window: each takes another for the largest
    assert cosine(found[0], found[1]) > 0.95


def _mobile(order: int) -> onnx.ModelProto:
    """As MobileNetV3: h-swish written out, a ReLU6, a squeeze-and-excite with a Relu and an h-sigmoid whose 3 is folded
    into the bias, h-swish again."""
    m = networks.Maker(opset=17)

    def number(value: float) -> str:
        return m.constant(np.float32(value))

    def h_swish(x: str) -> str:
        ramp = m("Clip", m("Add", x, number(3)), number(0), number(6))
        if order == 0:
            return m("Div", m("Mul", x, ramp), number(6))
        return m(
            "Mul", *((x, m("Mul", ramp, number(1 / 6))) if order == 1 else (m("Div", ramp, number(6)), x))
        )

    x = h_swish(m("Conv", "image", m.random(8, 3, 3, 3), m.random(8), strides=[2, 2]))
    x = m("Clip", m("Conv", x, m.random(8, 8, 3, 3), m.random(8)), number(0), number(6))
    gate = m("Relu", m("Conv", m("GlobalAveragePool", x), m.random(4, 8, 1, 1), m.random(4)))
    gate = m("Conv", gate, m.random(8, 4, 1, 1), m.constant(np.full(8, 3, np.float32)))
    x = m("Mul", x, m("Div", m("Clip", gate, number(0), number(6)), number(6)))
    x = h_swish(m("Conv", x, m.random(8, 8, 1, 1), m.random(8)))
    y = m("Gemm", m("Flatten", m("GlobalAveragePool", x)), m.random(8, 5))
    return m.model({"image": ("N", 3, 32, 32)}, {y: ("N", 5)})


@pytest.mark.parametrize("order", [0, 1, 2])
def test_gates_are_no_rectifiers(order: int) -> None:
    """Of a network as MobileNetV3 the ReLU6 and the Relu are, in float32 and int8; not the ramps of h-swish and
    h-sigmoid, whose range in an int8 file ends where the measured values do."""
    source = _mobile(order)
    found = rectifiers.rectifiers(normalise(ir.from_proto(source)))
    assert [one.op_type for one in found] == ["Clip", "Relu"]
    assert _ranks(source, per_channel=True) == ["Conv", "Conv"]
    assert _ranks(source, per_channel=True, extra_options={"ActivationSymmetric": True}) == ["Clip", "Relu"]
