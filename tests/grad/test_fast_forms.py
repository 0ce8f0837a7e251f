"""The forms that are only taken on ONNX Runtime's CPU provider: against torch, kinks and ties included."""

from __future__ import annotations

from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F

from onnxviz.backends.torch.executor import Executor
from onnxviz.graph.normalise import normalise
from tests import networks
from tests.grad.oracle import differentiated, session
from tests.networks import node

GEOMETRIES = [
    ((3, 3), (2, 2), (0, 0, 0, 0), 0),
    ((3, 3), (2, 2), (0, 0, 0, 0), 1),
    ((3, 3), (2, 2), (1, 1, 1, 1), 0),
    ((3, 3), (2, 2), (0, 0, 1, 1), 0),
    ((3, 3), (1, 1), (1, 1, 1, 1), 0),
    ((2, 2), (2, 2), (0, 0, 0, 0), 0),
    ((2, 2), (2, 2), (0, 0, 0, 0), 1),
    ((2, 2), (1, 1), (0, 0, 0, 0), 0),
    ((5, 5), (1, 1), (2, 2, 2, 2), 0),
    ((5, 3), (2, 2), (2, 1, 2, 1), 0),
    ((4, 4), (2, 2), (1, 1, 1, 1), 0),
    ((3, 2), (2, 1), (1, 0, 1, 0), 0),
    ((1, 3), (1, 2), (0, 1, 0, 1), 0),
    ((3, 1), (1, 1), (0, 0, 0, 0), 0),
]


def one(nodes: list[onnx.NodeProto], shape: tuple, weights: dict | None = None) -> onnx.ModelProto:
    model = networks.from_nodes(nodes, {"x": shape}, {"y": None}, weights or {}, opset=18, ir=9)
    return onnx.shape_inference.infer_shapes(model)


built = partial(differentiated, cpu=True)


def kinds(model: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in model.graph.node]


@pytest.mark.parametrize("before", ["Relu", "Identity"])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_max_pool(geometry, before) -> None:
    """Equal maxima, negative ones and padding; a Relu in front, whose mask is taken before the pool."""
    kernel, strides, pads, ceil = geometry
    for height, width in ((11, 12), (12, 9)):
        window = {"kernel_shape": kernel, "strides": strides, "pads": pads, "ceil_mode": ceil}
        nodes = [node(before, ["x"], ["r"]), node("MaxPool", ["r"], ["y"], **window)]
        proto = built(one(nodes, ("N", 16, height, width)))
        assert "ScatterElements" not in kinds(proto)
        engine = session(proto)
        rng = np.random.default_rng(0)
        ties = rng.integers(-2, 3, (2, 16, height, width)).astype(np.float32)
        ties[:, :4] = -1.0
        for x in (ties, rng.standard_normal(ties.shape).astype(np.float32)):
            leaf = torch.tensor(x, requires_grad=True)
            inner = leaf.relu() if before == "Relu" else leaf
            inner = F.pad(inner, (pads[1], pads[3], pads[0], pads[2]), value=-np.inf)
            y = F.max_pool2d(inner, kernel, strides, ceil_mode=bool(ceil))
            g = rng.standard_normal(y.shape).astype(np.float32)
            y.backward(torch.tensor(g))
            again, found = engine.run(None, {"x": x, "y.cotangent": g})
            np.testing.assert_array_equal(again, y.detach().numpy())
            np.testing.assert_allclose(found, leaf.grad.numpy(), atol=2e-6)


def test_by_the_pooled_layer_itself() -> None:
    """The mask that is taken before the pool belongs to the Relu, not to the pool's own input."""
    pool = node("MaxPool", ["r"], ["y"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    proto = built(one([node("Relu", ["x"], ["r"]), pool], ("N", 16, 7, 7)), wrt="r")
    x = np.full((1, 16, 7, 7), -1.0, np.float32)
    (found,) = session(proto).run(["r.gradient"], {"x": x, "y.cotangent": np.ones((1, 16, 4, 4), np.float32)})
    assert found.sum() == 16 * 16  # all maxima are 0, and each still hands its cotangent on


def test_pools_that_it_does_not_take() -> None:
    """Dilated, of few channels, of large or unknown strides: by the indices, as ever."""
    for shape, options in (
        (("N", 16, 12, 12), {"kernel_shape": [2, 2], "dilations": [2, 2]}),
        (("N", 3, 12, 12), {"kernel_shape": [2, 2], "strides": [2, 2]}),
        (("N", 16, 12, 12), {"kernel_shape": [3, 3], "strides": [3, 3]}),
        (("N", 16, "H", "W"), {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ):
        proto = built(one([node("MaxPool", ["x"], ["y"], **options)], shape))
        assert "ScatterElements" in kinds(proto)


@pytest.mark.parametrize("high", [6.0, 1.0, 0.1, 3.3, 20.0, 1e-2, 255.0])
def test_clip_is_flat_at_its_bounds(high) -> None:
    """0 on both bounds and outside, 1 right above the lower one and a little below the upper one."""
    weights = {"low": np.float32(0), "high": np.float32(high)}
    proto = built(one([node("Clip", ["x", "low", "high"], ["y"])], ("N", 16, 1, 8), weights))
    assert kinds(proto).count("HardSigmoid") == 1
    top = np.float32(high)
    x = np.array(
        [0.0, -1.0, 1e-25, top / 2, top * (1 - 1e-6), top, np.nextafter(top, np.inf), 3 * top], np.float32
    )
    x = np.broadcast_to(x, (1, 16, 1, 8)).copy()
    (found,) = session(proto).run(["x.gradient"], {"x": x, "y.cotangent": np.ones_like(x)})
    np.testing.assert_array_equal(found[0, 0, 0], [0, 0, 1, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(found[0, 15, 0], [0, 0, 1, 1, 1, 0, 0, 0])


@pytest.mark.parametrize("name", ["squeezenet", "inception_v1"])
def test_whole_networks_agree_with_the_forms_for_any_device(name) -> None:
    model = networks.light(name)
    x = np.random.default_rng(1).standard_normal((1, 3, 224, 224)).astype(np.float32)
    output, source = model.graph.output[0].name, model.graph.input[0].name
    found = []
    for cpu in (False, True):
        proto = differentiated(model, of=output, wrt=source, cpu=cpu)
        # Where takes five times as long as a product; Resize and a comb three times as long as weaving.
        assert not {"ScatterElements", "LRN", "Where", "Resize"} & set(kinds(proto))
        engine = session(proto)
        shape = next(v for v in engine.get_inputs() if v.name.endswith(".cotangent")).shape
        g = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
        found.append(engine.run([f"{source}.gradient"], {source: x, f"{output}.cotangent": g})[0])
    np.testing.assert_allclose(found[0], found[1], atol=1e-5 * np.abs(found[0]).max())


def optimised(model: onnx.ModelProto, folder: Path) -> list[str]:
    """The operators of its gradient as ONNX Runtime runs it; none where the processor has no blocked layout to keep."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    onnxruntime.InferenceSession(
        built(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found = kinds(onnx.load(folder / "optimised.onnx"))
    return found if "ReorderInput" in found else []


def stem(m: networks.Maker, channels: int = 32, x: str = "image", before: int = 3, **attributes) -> str:
    return m("Relu", m("Conv", x, m.random(channels, before, 3, 3), pads=[1] * 4, **attributes))


def test_it_stays_in_the_blocked_layout(tmp_path) -> None:
    """Conv - Relu - MaxPool, twice, of a dynamic batch: as ONNX Runtime optimises it, hardly anything is reordered."""
    m = networks.Maker(opset=18)
    x = m("MaxPool", stem(m), kernel_shape=[3, 3], strides=[2, 2])
    x = m("MaxPool", stem(m, x=x, before=32), kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    x = m("Conv", m("Relu", m("Conv", x, m.random(32, 32, 1, 1))), m.random(16, 32, 1, 1))
    model = m.model({"image": ("N", 3, 33, 33)}, {x: ("N", 16, 16, 16)})
    assert optimised(model, tmp_path).count("ReorderOutput") <= 6


def against_torch(model: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    """The gradient of the sum of the outputs, at a picture of this shape."""
    x = np.random.default_rng(7).standard_normal(shape).astype(np.float32)
    engine = session(built(model))
    source, output = model.graph.input[0].name, model.graph.output[0].name
    lengths = next(v.shape for v in engine.get_inputs() if v.name == f"{output}.cotangent")
    ones = np.ones([d if isinstance(d, int) else shape[0] for d in lengths], np.float32)
    (found,) = engine.run([f"{source}.gradient"], {source: x, f"{output}.cotangent": ones})
    image = torch.tensor(x, requires_grad=True)
    Executor(normalise(ir.from_proto(model)))({source: image})[output].sum().backward()
    right = image.grad.numpy()
    assert np.abs(right).max() > 0
    np.testing.assert_allclose(found, right, atol=1e-5 * np.abs(right).max())


@pytest.mark.parametrize("strides", [(2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("kernel", [1, 3])
def test_short_cuts_whose_strides_differ(strides, kernel) -> None:
    """As text recognisers have them, whose lines keep their width."""
    m = networks.Maker(opset=18)
    x = stem(m, 16)
    sides = [
        m("Conv", x, m.random(16, 16, size, size), strides=list(strides), pads=[size // 2] * 4)
        for size in (3, kernel)
    ]
    y = m("GlobalAveragePool", m("Relu", m("Add", *sides)))
    model = m.model({"image": ("N", 3, 12, 8)}, {y: ("N", 16, 1, 1)})
    against_torch(model, (2, 3, 12, 8))


@pytest.mark.parametrize("lengths", [(12, 10), ("H", 10), (12, "W"), ("H", "W")])
@pytest.mark.parametrize("strides", [(2, 2), (1, 3), (3, 2)])
def test_zeros_of_a_depthwise_adjoint_are_written_with_the_channels_last(strides, lengths, tmp_path) -> None:
    """Of lengths that the file knows or not, and without a way out of the blocked layout for a product with 0 and 1."""
    m = networks.Maker(opset=18)
    x = m("Conv", stem(m), m.random(32, 1, 3, 2), group=32, strides=list(strides), pads=[1, 0, 1, 1])
    y = m("GlobalAveragePool", m("Conv", x, m.random(16, 32, 1, 1)))
    model = m.model({"image": ("N", 3, *lengths)}, {y: ("N", 16, 1, 1)})
    written = kinds(built(model))
    assert "Pad" in written and "Resize" not in written
    assert not {"Transpose", "Upsample"} & set(optimised(model, tmp_path))
    for height, width in ((12, 10), (13, 10), (12, 11), (14, 13)):
        if lengths[0] in ("H", height) and lengths[1] in ("W", width):
            against_torch(model, (2, 3, height, width))


@pytest.mark.parametrize("head", ["GlobalAveragePool", "ReduceMean"])
def test_residual_sums_stay_in_the_blocked_layout(head, tmp_path) -> None:
    """From the mean at the head through a block whose short cut is strided: each sum is part of a convolution."""
    m = networks.Maker(opset=18)
    x = stem(m)
    for stride in (1, 2):
        branch = m("Relu", m("Conv", x, m.random(32, 32, 1, 1)))
        branch = m("Conv", branch, m.random(32, 32, 3, 3), strides=[stride] * 2, pads=[1] * 4)
        short = x if stride == 1 else m("Conv", x, m.random(32, 32, 1, 1), strides=[2, 2])
        x = m("Relu", m("Add", branch, short))
    axes = () if head == "GlobalAveragePool" else (m.constant(np.asarray([-1, -2])),)
    y = m(head, x, *axes)
    model = m.model({"image": ("N", 3, 16, 16)}, {y: ("N", 32, 1, 1)})
    run = optimised(model, tmp_path)
    assert "Add" not in run
    assert run.count("ReorderOutput") <= 5
    against_torch(model, (2, 3, 16, 16))


def test_a_mean_along_other_axes_is_none_of_a_map(tmp_path) -> None:
    m = networks.Maker(opset=18)
    x = m("Conv", "image", m.random(32, 3, 1, 1))
    y = m("ReduceMean", m("Mul", x, x), m.constant(np.asarray([1, 3])))
    model = m.model({"image": ("N", 3, 5, 6)}, {y: ("N", 1, 5, 1)})
    assert kinds(built(model)).count("Conv") == 2
    against_torch(model, (2, 3, 5, 6))


@pytest.mark.parametrize(("counts", "cut"), [((16, 32), False), ((16, 16, 16), False), ((16, 24), True)])
def test_a_joined_convolution_hands_its_pieces_back_itself(counts, cut) -> None:
    """No Split where each piece lies in the blocked layout; with a second reader there is a sum to be cut."""
    for readers in (1, 2):
        m = networks.Maker(opset=18)
        x = stem(m, 16)
        pieces = [m("Relu", m("Conv", x, m.random(c, 16, 1, 1))) for c in counts]
        joined = m("Concat", *pieces, axis=1)
        read = [m("Conv", joined, m.random(16, sum(counts), 3, 3), pads=[1] * 4) for _ in range(readers)]
        y = read[0] if readers == 1 else m("Add", *read)
        model = m.model({"image": ("N", 3, 9, 8)}, {y: ("N", 16, 9, 8)})
        assert ("Split" in kinds(built(model))) == (cut or readers == 2)
        against_torch(model, (2, 3, 9, 8))


def test_lengths_are_computed_from_the_picture_s(tmp_path) -> None:
    """Of a picture of any size: to read a value's shape would bring all of it out of the blocked layout."""
    m = networks.Maker(opset=18)
    x = stem(m, x=stem(m, strides=[2, 2]), before=1, group=32, strides=[2, 2])
    y = m("GlobalAveragePool", m("Conv", x, m.random(32, 32, 1, 1)))
    model = m.model({"image": ("N", 3, "H", "W")}, {y: ("N", 32, 1, 1)})
    made = built(model)
    inputs = {v.name for v in made.graph.input}
    assert all(n.input[0] in inputs for n in made.graph.node if n.op_type == "Shape")
    for height, width in ((16, 17), (17, 19), (13, 14)):
        against_torch(model, (2, 3, height, width))


@pytest.mark.parametrize(("beta", "size"), list(product([0.5, 0.75, 0.6], [1, 3, 5])))
def test_lrn_gives_the_forward_value_too(beta, size) -> None:
    lrn = node("LRN", ["x"], ["n"], alpha=0.3, beta=beta, bias=1.5, size=size)
    model = one([lrn, node("Relu", ["n"], ["y"])], ("N", 7, 5, 4))
    proto = differentiated(model)
    assert "LRN" not in kinds(proto)
    x = np.random.default_rng(0).standard_normal((2, 7, 5, 4)).astype(np.float32)
    feeds = {"x": x, "y.cotangent": np.ones_like(x)}
    expected = session(model).run(None, {"x": x})[0]
    np.testing.assert_allclose(session(proto).run(["y"], feeds)[0], expected, atol=1e-6)
