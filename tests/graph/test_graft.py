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
from tests.networks import nodes as parsed
from tests.networks import written as network

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
) -> onnx.ModelProto:
    """image (N, 3, 8, 8) - convolution - Relu - convolution - Relu - mean - product: logits (N, 5).

    own    the weights of "first", "second" and "logits"
    held   scales and zero points of the quantisers behind layers
    bare   layers without their Relu
    prefix of all names
    """
    lines: list[str] = []
    arrays = {f"{prefix}{name}_w": array for name, array in own.items()}
    for name, (scale, zero) in held.items():
        arrays |= {f"{prefix}{name}_scale": np.float32(scale), f"{prefix}{name}_zero": np.uint8(zero)}

    def layer(name: str, x: str, *steps: str) -> str:
        kept = [step for step in steps if name not in bare or not step.startswith("Relu")]
        if name in held:
            kept += [
                f"{op}({{}}, {{p}}{name}_scale, {{p}}{name}_zero)"
                for op in ("QuantizeLinear", "DequantizeLinear")
            ]
        for i, step in enumerate(kept, 1):
            y = f"{prefix}{name}" + ("" if i == len(kept) and name != "image" else f"_{i}")
            lines.append(f"{y} = {step.format(x, p=prefix)}")
            x = y
        return x

    x = layer("image", f"{prefix}image")
    for name in ("first", "second"):
        x = layer(name, x, f"Conv({{}}, {{p}}{name}_w)", "Relu({})")
    x = layer("flat", layer("mean", x, "GlobalAveragePool({})"), "Flatten({})")
    x = layer("logits", x, "Gemm({}, {p}logits_w)")
    made = network("\n".join(lines), {f"{prefix}image": ("N", 3, 8, 8)}, {x: ("N", 5)}, arrays, opset=18)
    for node in made.graph.node:
        node.name = f"{node.output[0]}/{node.op_type}"
    return made


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


def grafted(a: onnx.ModelProto, b: onnx.ModelProto, *seams: str | Seam) -> Grafting:
    """The two grown together at these seams, by names where both have the same; the last is the answer."""
    pairs = [one if isinstance(one, Seam) else Seam(one, one) for one in seams]
    return Grafting(model(a), model(b), pairs, pairs[-1:])


def grafting(a: onnx.ModelProto, b: onnx.ModelProto, prefix: str = "") -> Grafting:
    names = ("image", "first", "second", "mean", "flat", "logits")
    return grafted(a, b, *(Seam(name, f"{prefix}{name}") for name in names))


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)


A = weights()
B = weights() | {"first": A["first"] * 1.2, "logits": A["logits"] * 0.9}


# --- quantised: B has no Relu, the ranges of its quantisers cut at 0 ------------------------------


@pytest.fixture
def int8() -> Grafting:
    return grafting(written(A), written(B, HELD, bare=("first", "second"), prefix="b_"), "b_")


def test_layers_are_what_b_does_otherwise(int8):
    assert int8.layers == ["image", "first", "second", "logits"]
    assert [node.name for node in int8.nodes("first")] == ["first_1/Conv", "first/Relu"]
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
    graft = Grafting(one, two, [Seam(name, name) for name in LAYERS], [Seam("logits", "logits")])
    variants = [graft.local("first"), graft.heal("first"), graft.weights(), graft.activations()]
    assert len(measured(graft, [*variants, graft.restored(["first"])], x)) == 5
    assert [ir.serde.serialize_model(each).SerializeToString() for each in (one, two)] == before


def test_answers_are_given_out_of_any_number_of_pictures(int8, x):
    """The batch stays free; of several pictures the squares are summed."""
    found = int8.measured([int8.whole()], answers=True)
    program = compile(found.model, optimise=False, provider="cpu")
    for pictures in (x, np.concatenate([x, 2 * x])):
        arrays = program(dict.fromkeys(found.inputs, pictures))
        np.testing.assert_allclose(arrays[found.answers[0]], run(written(A), pictures), rtol=1e-5)
        np.testing.assert_allclose(arrays[found.answers[1]], run(written(B, HELD), pictures), rtol=1e-5)


# --- other differences ------------------------------------------------------------------------------


def test_the_same_twice_has_no_layers():
    assert grafting(written(A), written(A, prefix="b_"), "b_").layers == []
    assert grafting(written(A), written(B, prefix="b_"), "b_").layers == ["first", "logits"]


def test_a_convolution_and_its_relu_are_one_layer(x):
    """Also where both are matched."""
    graft = grafting(written(A), written(B))
    both = grafted(written(A), written(B), "image", "first_1", "first", "second_1", "second", "logits")
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
    layer = "{y}_1 = Transpose <perm = [0, 3, 1, 2]> ({x}) {y}_2 = Conv({y}_1, {y}_w) {y}_3 = Relu({y}_2)"
    layer += " {y} = Transpose <perm = [0, 2, 3, 1]> ({y}_3) "
    text = layer.format(x="image", y="first") + layer.format(x="first", y="second")
    text += (
        "mean = ReduceMean <keepdims = 0> (second, axes) flat = Flatten(mean) logits = Gemm(flat, logits_w)"
    )
    arrays = {f"{name}_w": array for name, array in B.items()} | {"axes": np.array([1, 2])}
    b = network(text, {"image": ("N", 8, 8, 3)}, {"logits": ("N", 5)}, arrays, opset=18)
    turned = [Seam(name, name, (0, 3, 1, 2)) for name in ("image", "first", "second")]
    graft = grafted(written(A), b, *turned, "logits")
    a, last, layers = run(written(A), x), x.transpose(0, 2, 3, 1), ("first", "second", "logits")
    alone = [distance(run(written(A | {name: B[name]}), x), a) for name in layers]
    variants = [graft.local(name) for name in layers]
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
    codes = np.clip(np.rint(B["first"] / 0.01), -127, 127).astype(np.int8)
    text = """y, scale, zero = DynamicQuantizeLinear(image) sums = ConvInteger(y, codes, zero, none)
        product = Cast <to = 1> (sums) unit = Mul(scale, step) real = Mul(product, unit) first = Relu(real)
        sum = Conv(first, second_w) second = Relu(sum)
        mean = GlobalAveragePool(second) flat = Flatten(mean) logits = Gemm(flat, logits_w)"""
    arrays = {"codes": codes, "none": np.int8(0), "step": np.float32(0.01)}
    arrays |= {f"{name}_w": A[name] for name in ("second", "logits")}
    b = network(text, {"image": ("N", 3, 8, 8)}, {"logits": ("N", 5)}, arrays, opset=18)
    graft = grafted(written(A), b, *LAYERS)
    rounded = run(written(A | {"first": codes.astype(np.float32) * np.float32(0.01)}), x)
    assert graft.layers == ["first"]
    whole, alone, bare, clipped = measured(
        graft, [graft.whole(), graft.local("first"), graft.weights(), graft.activations(rounded=False)], x
    )
    assert whole == pytest.approx(alone, rel=1e-4)
    assert bare == pytest.approx(distance(rounded, run(written(A), x)), rel=1e-4)
    assert clipped == 0
    assert 0 < measured(graft, [graft.activations()], x)[0] < whole


def test_bodies_read_what_stands_in_their_place(x):
    """An If in B whose branches read a matched value from outside."""
    b = written(A)
    b.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "always"))
    place = next(i for i, node in enumerate(b.graph.node) if node.output[0] == "first")
    b.graph.node[place].output[0] = "plain"
    branch = "{0}_branch = g () => (float[] {0}_out) <float {0} = {{{1}}}> {{ {0}_out = Mul(plain, {0}) }}"
    branches = f"{branch.format('then', 1.1)}, {branch.format('else', 0.0)}"
    b.graph.node.insert(place + 1, parsed(f"first = If <{branches}> (always)")[0])
    graft = grafted(written(A), b, "image", Seam("first", "plain"), "second", "logits")
    expected = run(written(A | {"first": A["first"] * np.float32(1.1)}), x)
    wanted = [distance(expected, run(written(A), x))]
    assert measured(graft, [graft.whole()], x) == pytest.approx(wanted, rel=1e-4)
    assert measured(graft, [graft.local("second")], x) == measured(graft, [graft.whole()], x)


def test_an_input_beside_the_picture_is_refused():
    b = written(A)
    b.graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1]))
    b.graph.node[0].input[0] = "sum"
    b.graph.node.insert(0, helper.make_node("Add", ["image", "other"], ["sum"]))
    answer = [Seam("logits", "logits")]
    graft = Grafting(model(written(A)), model(b), answer, answer, ("image", "image"))
    with pytest.raises(ModelUnsuitable, match="other"):
        graft.measured([graft.whole()])


def test_a_scale_for_each_channel(x):
    """Ranges along an axis cut each channel by its own."""
    front, quantised = (
        "sum = Conv(image, w) {} = Relu(sum)",
        """codes = QuantizeLinear <axis = 1> (r, scale, zero)
        first = DequantizeLinear <axis = 1> (codes, scale, zero)""",
    )
    back = "mean = GlobalAveragePool(first) flat = Flatten(mean) logits = Gemm(flat, v)"
    arrays = {"w": A["first"], "v": A["logits"][:4], "zero": np.zeros(4, np.uint8)}
    arrays |= {"scale": np.float32([0.002, 0.004, 0.02, 0.02])}
    a, b = (
        network(f"{text} {back}", {"image": ("N", 3, 8, 8)}, {"logits": ("N", 5)}, arrays, opset=18)
        for text in (front.format("first"), f"{front.format('r')} {quantised}")
    )
    graft = grafted(a, b, "image", "first", "logits")
    whole, rounded, clipped = measured(
        graft, [graft.whole(), graft.activations(), graft.activations(rounded=False)], x
    )
    assert rounded == pytest.approx(whole)
    assert 0.01 < clipped < whole * 1.05
    assert measured(graft, [graft.weights()], x) == [0]
