"""Grafts of small networks, held against the same hybrids written out by hand."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.graft import Grafting, Variant
from onnxviz.graph.seams import Seam
from onnxviz.programs import compile
from tests.networks import Maker

LAYERS = ("image", "first", "second", "logits")
#: Scale and zero point of B's quantiser behind each layer.
HELD = {"image": (0.03, 128), "first": (0.008, 0), "second": (0.02, 0), "logits": (0.05, 120)}


def weights(factor: float = 1.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    drawn = {
        "first": rng.standard_normal((4, 3, 3, 3)) * 0.3,
        "second": rng.standard_normal((6, 4, 3, 3)) * 0.3,
        "logits": rng.standard_normal((6, 5)),
    }
    return {name: (array * factor).astype(np.float32) for name, array in drawn.items()}


def written(
    own: Mapping[str, np.ndarray],
    held: Mapping[str, tuple[float, int]] = {},
    *,
    bare: tuple[str, ...] = (),
    prefix: str = "",
    opset: int = 18,
) -> onnx.ModelProto:
    """image (N, 3, 8, 8) - convolution - Relu - convolution - Relu - mean - product: logits (N, 5).

    own    the weights of "first", "second" and "logits"
    held   scales and zero points of the quantisers behind layers
    bare   layers without their Relu
    prefix of all names
    """
    m = Maker(opset)

    def node(name: str, op: str, *inputs: str, **attributes) -> str:
        m(op, *inputs, name=f"{prefix}{name}/{op}", **attributes)
        m.nodes[-1].output[0] = f"{prefix}{name}"
        return f"{prefix}{name}"

    def layer(name: str, op: str, *inputs: str, relu: bool = False) -> str:
        relu = relu and name not in bare
        parts = [*([f"{name}.sum"] if relu else []), *([f"{name}.raw"] if name in held else [])]
        x = inputs[0] if op == "" else node((parts or [name])[0], op, *inputs)
        if relu:
            x = node(f"{name}.raw" if name in held else name, "Relu", x)
        if name in held:
            scale, zero = held[name]
            numbers = [m.constant(np.float32(scale), f"{prefix}{name}.scale"), f"{prefix}{name}.zero"]
            m.weights.append(onnx.numpy_helper.from_array(np.uint8(zero), numbers[1]))
            codes = node(f"{name}.codes", "QuantizeLinear", x, *numbers)
            x = node(f"{name}.real" if name == "image" else name, "DequantizeLinear", codes, *numbers)
        return x

    x = layer("image", "", f"{prefix}image")
    for name in ("first", "second"):
        x = layer(name, "Conv", x, m.constant(own[name], f"{prefix}{name}.w"), relu=True)
    x = node("flat", "Flatten", node("mean", "GlobalAveragePool", x))
    x = layer("logits", "Gemm", x, m.constant(own["logits"], f"{prefix}logits.w"))
    return m.model({f"{prefix}image": ("N", 3, 8, 8)}, {x: ("N", 5)})


def model(proto: onnx.ModelProto) -> ir.Model:
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(proto))


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    program = compile(model(proto), optimise=False, provider="cpu")
    [out] = program({program.inputs[0]: x}).values()
    return out


def distance(z: np.ndarray, a: np.ndarray) -> float:
    z, a = (array.astype(np.float64) - array.astype(np.float64).mean() for array in (z, a))
    return float(np.linalg.norm(z - a) / np.linalg.norm(a))


def measured(
    graft: Grafting, variants: list[Variant], x: np.ndarray, xb: np.ndarray | None = None
) -> list[float]:
    found = graft.measured(variants)
    program = compile(found.model, optimise=False, provider="cpu")
    arrays = program(dict(zip(found.inputs, (x, x if xb is None else xb), strict=True)))
    return [float(np.sqrt(arrays[name] / arrays[found.reference]).item()) for name in found.squares]


def grafting(a: onnx.ModelProto, b: onnx.ModelProto, prefix: str = "", **axes: tuple[int, ...]) -> Grafting:
    names = ("image", "first", "second", "mean", "flat", "logits")
    seams = [Seam(name, f"{prefix}{name}", axes.get(name)) for name in names]
    return Grafting(model(a), model(b), seams, [Seam("logits", f"{prefix}logits")])


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)


A = weights()
B = weights() | {"first": A["first"] * 1.2, "logits": A["logits"] * 0.9}


# --- quantised: B has no Relu, the ranges of its quantisers cut at 0 ------------------------------


@pytest.fixture
def int8() -> Grafting:
    return grafting(written(A), written(B, HELD, bare=("first", "second"), prefix="b."), "b.")


def test_layers_are_what_b_does_otherwise(int8):
    assert int8.layers == ["image", "first", "second", "logits"]
    assert [node.name for node in int8.nodes("first")] == ["first.sum/Conv", "first/Relu"]
    assert [node.name for node in int8.nodes("logits")] == ["logits/Gemm"]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_alone(int8, x, layer):
    own = A | ({layer: B[layer]} if layer in B else {})
    by_hand = run(written(own, {layer: HELD[layer]}), x)
    expected = distance(by_hand, run(written(A), x))
    assert expected > 1e-4
    assert measured(int8, [int8.local(layer)], x) == pytest.approx([expected], rel=1e-4)


def test_the_whole_and_all_layers_healed(int8, x):
    a, b = run(written(A), x), run(written(B, HELD), x)
    healed = run(
        written(B | {"first": A["first"]}, {k: v for k, v in HELD.items() if k not in ("image", "first")}), x
    )
    assert measured(int8, [int8.whole(), int8.heal("first"), int8.heal("logits")], x) == pytest.approx(
        [distance(b, a), distance(healed, a), 0.0], rel=1e-4
    )


def test_restored_layers_keep_quantisers_that_others_read(int8, x):
    """A quantised convolution quantises what it reads, whoever computed that."""
    a = run(written(A), x)
    first = run(written(B | {"first": A["first"]}, HELD), x)
    behind = {name: HELD[name] for name in ("image", "second", "logits")}
    both = run(written(A | {"logits": B["logits"]}, behind), x)
    found = measured(int8, [int8.restored(["first"]), int8.restored(["second", "first"])], x)
    assert found == pytest.approx([distance(first, a), distance(both, a)], rel=1e-4)


def test_the_split(int8, x):
    a = run(written(A), x)
    found = measured(int8, [int8.weights(), int8.activations(), int8.activations(rounded=False)], x)
    lows = {name: (0 - zero) * scale for name, (scale, zero) in HELD.items()}
    highs = {name: (255 - zero) * scale for name, (scale, zero) in HELD.items()}
    assert found[:2] == pytest.approx(
        [distance(run(written(B), x), a), distance(run(written(A, HELD), x), a)], rel=1e-4
    )
    clipped = clipped_by_hand(x, lows, highs)
    assert distance(clipped, a) > 1e-4
    assert found[2] == pytest.approx(distance(clipped, a), rel=1e-4)


def clipped_by_hand(x: np.ndarray, lows: dict[str, float], highs: dict[str, float]) -> np.ndarray:
    import torch

    at = torch.clamp(torch.from_numpy(x), lows["image"], highs["image"])
    for name in ("first", "second"):
        at = torch.relu(torch.nn.functional.conv2d(at, torch.from_numpy(A[name])))
        at = torch.clamp(at, lows[name], highs[name])
    at = at.mean(dim=(2, 3)) @ torch.from_numpy(A["logits"])
    return torch.clamp(at, lows["logits"], highs["logits"]).numpy()


def test_a_is_computed_once_for_all(int8):
    found = int8.measured([int8.local(layer) for layer in LAYERS])
    kinds = [node.op_type for node in found.model.graph]
    # A: 2. By layers: behind the image 2; first of B, second of A; second of B; none.
    assert kinds.count("Conv") == 2 + 2 + 2 + 1
    assert kinds.count("Gemm") == 1 + 4


def test_the_models_stay_as_they_are(x):
    one, two = model(written(A)), model(written(B, HELD, bare=("first",)))
    before = [ir.serde.serialize_model(each).SerializeToString() for each in (one, two)]
    seams = [Seam(name, name) for name in ("image", "first", "second", "logits")]
    graft = Grafting(one, two, seams, [Seam("logits", "logits")])
    variants = [
        graft.local("first"),
        graft.heal("first"),
        graft.weights(),
        graft.activations(),
        graft.restored(["first"]),
    ]
    assert len(measured(graft, variants, x)) == 5
    assert [ir.serde.serialize_model(each).SerializeToString() for each in (one, two)] == before


def test_answers_are_given_out_on_request(int8, x):
    found = int8.measured([int8.whole()], answers=True)
    arrays = compile(found.model, optimise=False, provider="cpu")(dict.fromkeys(found.inputs, x))
    np.testing.assert_allclose(arrays[found.answers[0]], run(written(A), x), rtol=1e-5)
    np.testing.assert_allclose(arrays[found.answers[1]], run(written(B, HELD), x), rtol=1e-5)


# --- other differences ------------------------------------------------------------------------------


def test_the_same_twice_has_no_layers():
    assert grafting(written(A), written(A, prefix="b."), "b.").layers == []
    assert grafting(written(A), written(B, prefix="b."), "b.").layers == ["first", "logits"]


def test_a_convolution_and_its_relu_are_one_layer(x):
    """Also where both are matched."""
    graft = grafting(written(A), written(B))
    seams = [Seam(name, name) for name in ("image", "first.sum", "first", "second.sum", "second", "logits")]
    both = Grafting(model(written(A)), model(written(B)), seams, [Seam("logits", "logits")])
    assert both.layers == graft.layers == ["first", "logits"]
    expected = measured(graft, [graft.local("first")], x)
    assert measured(both, [both.local("first")], x) == pytest.approx(expected)


def test_half_precision(x):
    """Types are cast at the seams."""
    b = written(B)
    for tensor in b.graph.initializer:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    for value in (*b.graph.input, *b.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    graft = grafting(written(A), b)
    halved = A | {"first": B["first"].astype(np.float16).astype(np.float32)}
    [alone] = measured(graft, [graft.local("first")], x)
    assert alone == pytest.approx(distance(run(written(halved), x), run(written(A), x)), rel=2e-2)
    assert measured(graft, [graft.local("second")], x)[0] < 2e-3


def test_channels_last(x):
    """B reads (N, H, W, C) and turns it for each convolution."""
    m = Maker(18)
    at = "image"
    for name in ("first", "second"):
        turned = m("Transpose", at, perm=[0, 3, 1, 2])
        made = m("Relu", m("Conv", turned, m.constant(B[name], f"{name}.w")))
        at = m("Transpose", made, perm=[0, 2, 3, 1])
        m.nodes[-1].output[0] = at = name
    at = m("Flatten", m("ReduceMean", at, m.constant(np.array([1, 2])), keepdims=0))
    m("Gemm", at, m.constant(B["logits"], "logits.w"))
    m.nodes[-1].output[0] = "logits"
    b = m.model({"image": ("N", 8, 8, 3)}, {"logits": ("N", 5)})
    axes = (0, 3, 1, 2)
    seams = [Seam("image", "image", axes), Seam("first", "first", axes), Seam("second", "second", axes)]
    graft = Grafting(
        model(written(A)), model(b), [*seams, Seam("logits", "logits")], [Seam("logits", "logits")]
    )
    a, last = run(written(A), x), x.transpose(0, 2, 3, 1)
    alone = [distance(run(written(A | {name: B[name]}), x), a) for name in ("first", "second", "logits")]
    variants = [graft.local(name) for name in ("first", "second", "logits")]
    assert measured(graft, [graft.whole(), *variants], x, last) == pytest.approx(
        [distance(run(written(B), x), a), *alone], rel=1e-4, abs=1e-7
    )


def test_other_units(x):
    """A factor for each channel, which the next layer takes back."""
    factor = np.float32([0.5, 2, 4, 0.25])
    first = A["first"] * factor[:, None, None, None]
    second = A["second"] / factor[None, :, None, None]
    graft = grafting(written(A), written(A | {"first": first, "second": second}))
    assert min(measured(graft, [graft.local("first"), graft.local("second")], x)) > 0.1
    graft.scale({"first": factor.reshape(1, -1, 1, 1)})
    assert max(measured(graft, [graft.local("first"), graft.local("second"), graft.heal("first")], x)) < 1e-6


def test_measured_ranges(x):
    """ConvInteger behind DynamicQuantizeLinear: without it, the same convolution of real numbers."""
    m = Maker(18)
    codes = np.clip(np.rint(B["first"] / 0.01), -127, 127).astype(np.int8)
    m.weights.append(onnx.numpy_helper.from_array(codes, "first.codes"))
    m.weights.append(onnx.numpy_helper.from_array(np.int8(0), "first.zero"))
    y, scale, zero = m("DynamicQuantizeLinear", "image", outputs=3)
    product = m("Cast", m("ConvInteger", y, "first.codes", zero, "first.zero"), to=TensorProto.FLOAT)
    m("Relu", m("Mul", product, m("Mul", scale, m.constant(np.float32(0.01)))))
    m.nodes[-1].output[0] = "first"
    m("Relu", m("Conv", "first", m.constant(A["second"], "second.w")))
    m.nodes[-1].output[0] = "second"
    m("Gemm", m("Flatten", m("GlobalAveragePool", "second")), m.constant(A["logits"], "logits.w"))
    m.nodes[-1].output[0] = "logits"
    b = m.model({"image": ("N", 3, 8, 8)}, {"logits": ("N", 5)})
    seams = [Seam(name, name) for name in ("image", "first", "second", "logits")]
    graft = Grafting(model(written(A)), model(b), seams, [Seam("logits", "logits")])
    a = run(written(A), x)
    rounded = run(written(A | {"first": codes.astype(np.float32) * np.float32(0.01)}), x)
    assert graft.layers == ["first"]
    whole, alone, bare, clipped = measured(
        graft, [graft.whole(), graft.local("first"), graft.weights(), graft.activations(rounded=False)], x
    )
    assert whole == pytest.approx(alone, rel=1e-4)
    assert bare == pytest.approx(distance(rounded, a), rel=1e-4)
    assert clipped == 0
    assert 0 < measured(graft, [graft.activations()], x)[0] < whole


def test_bodies_read_what_stands_in_their_place(x):
    """An If in B whose branches read a matched value from outside."""
    bodies = []
    for name, factor in (("then", 1.1), ("else", 0.0)):
        made = helper.make_node("Mul", ["first.plain", f"{name}.factor"], [f"{name}.out"])
        number = onnx.numpy_helper.from_array(np.float32(factor), f"{name}.factor")
        out = helper.make_tensor_value_info(f"{name}.out", TensorProto.FLOAT, None)
        bodies.append(helper.make_graph([made], name, [], [out], [number]))
    b = written(A)
    b.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "always"))
    relu = next(node for node in b.graph.node if node.output[0] == "first")
    relu.output[0] = "first.plain"
    place = list(b.graph.node).index(relu)
    chosen = helper.make_node("If", ["always"], ["first"], then_branch=bodies[0], else_branch=bodies[1])
    nodes = [*b.graph.node[: place + 1], chosen, *b.graph.node[place + 1 :]]
    del b.graph.node[:]
    b.graph.node.extend(nodes)
    one, two = model(written(A)), model(b)
    seams = [
        Seam("image", "image"),
        Seam("first", "first.plain"),
        Seam("second", "second"),
        Seam("logits", "logits"),
    ]
    graft = Grafting(one, two, seams, [Seam("logits", "logits")])
    expected = run(written(A | {"first": A["first"] * np.float32(1.1)}), x)
    assert measured(graft, [graft.whole()], x) == pytest.approx(
        [distance(expected, run(written(A), x))], rel=1e-4
    )
    assert measured(graft, [graft.local("second")], x) == measured(graft, [graft.whole()], x)


def test_any_number_of_pictures(int8, x):
    """The batch stays free; of several pictures the squares are summed."""
    many = np.concatenate([x, 2 * x])
    found = int8.measured([int8.whole()], answers=True)
    arrays = compile(found.model, optimise=False, provider="cpu")(dict.fromkeys(found.inputs, many))
    np.testing.assert_allclose(arrays[found.answers[1]], run(written(B, HELD), many), rtol=1e-5)


def test_an_input_beside_the_picture_is_refused():
    a = written(A)
    b = written(A)
    b.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1]))
    b.graph.node[0].input[0] = "sum"
    b.graph.node.insert(0, helper.make_node("Add", ["image", "other"], ["sum"]))
    graft = Grafting(
        model(a), model(b), [Seam("logits", "logits")], [Seam("logits", "logits")], ("image", "image")
    )
    with pytest.raises(ModelUnsuitable, match="other"):
        graft.measured([graft.whole()])


def test_a_scale_for_each_channel(x):
    """Ranges along an axis cut each channel by its own."""
    m = Maker(18)
    made = m("Relu", m("Conv", "image", m.constant(A["first"], "first.w")))
    scale = m.constant(np.float32([0.002, 0.004, 0.02, 0.02]), "scale")
    m.weights.append(onnx.numpy_helper.from_array(np.zeros(4, np.uint8), "zero"))
    m("DequantizeLinear", m("QuantizeLinear", made, scale, "zero", axis=1), scale, "zero", axis=1)
    m.nodes[-1].output[0] = "first"
    m("Gemm", m("Flatten", m("GlobalAveragePool", "first")), m.constant(A["logits"][:4], "logits.w"))
    m.nodes[-1].output[0] = "logits"
    b = m.model({"image": ("N", 3, 8, 8)}, {"logits": ("N", 5)})
    a = onnx.ModelProto.FromString(b.SerializeToString())
    kept = [node for node in a.graph.node if "Linear" not in node.op_type]
    next(node for node in kept if node.op_type == "Relu").output[0] = "first"
    del a.graph.node[:]
    a.graph.node.extend(kept)
    seams = [Seam(name, name) for name in ("image", "first", "logits")]
    graft = Grafting(model(a), model(b), seams, [Seam("logits", "logits")])
    whole, rounded, clipped = measured(
        graft, [graft.whole(), graft.activations(), graft.activations(rounded=False)], x
    )
    assert rounded == pytest.approx(whole)
    assert 0.01 < clipped < whole * 1.05
    assert measured(graft, [graft.weights()], x) == [0]
