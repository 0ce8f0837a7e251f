"""What an operator is: one-element operands are scalars, whatever their rank."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from onnxviz.graph.normalise import normalise
from tests.grad.oracle import normal, session

FLOAT = TensorProto.FLOAT
node = helper.make_node


def model(
    nodes, weights, *, opset: int = 18, size: int = 12, channels: int = 3, out=("N", 4)
) -> onnx.ModelProto:
    """A network of one picture input `image` and one output `logits`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("image", FLOAT, ["N", channels, size, size])],
        [helper.make_tensor_value_info("logits", FLOAT, out)],
        [numpy_helper.from_array(np.array(v), k) for k, v in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


W1, B1, W2 = normal(6, 3, 3, 3), normal(6), normal(4, 6, 3, 3)


def scalars(shape: tuple[int, ...], *, computed: bool = False) -> onnx.ModelProto:
    """A network whose numbers, bounds, pad value, exponent and factors, have this shape."""
    numbers = {"low": 0.0, "high": 3.0, "rim": 0.5, "two": 2.0, "half": 0.5}
    weights = {k: np.full(shape, v, np.float32) for k, v in numbers.items()}
    weights |= {"w1": W1, "b1": B1, "w2": W2, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64)}
    nodes = [
        node("Pad", ["image", "pads", "rim"], ["padded"]),
        node("Conv", ["padded", "w1", "b1"], ["c1"], name="c1"),
        node("Identity", ["low"], ["lowest"]),
        # A bound that only the run tells: half of twice the bound, over the picture's batch of ones.
        *(
            [
                node("ReduceMax", ["image"], ["top"], keepdims=0),
                node("Mul", ["top", "half"], ["halved"]),
                node("Sub", ["halved", "halved"], ["none"]),
                node("Add", ["none", "high"], ["highest"]),
            ]
            if computed
            else [node("Identity", ["high"], ["highest"])]
        ),
        node("Clip", ["c1", "lowest", "highest"], ["r1"]),
        node("Pow", ["r1", "two"], ["squares"]),
        node("Mul", ["squares", "half"], ["halves"]),
        node("Conv", ["halves", "w2"], ["c2"], strides=[2, 2]),
        node("Clip", ["c2", "lowest"], ["r2"]),
        node("GlobalAveragePool", ["r2"], ["pooled"]),
        node("Flatten", ["pooled"], ["logits"]),
    ]
    return model(nodes, weights)


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("rules", ["plain", "guided", "deconvnet", "redirected"])
def test_one_element_is_a_scalar(rules: str, backend: str) -> None:
    x = normal(2, 3, 12, 12)
    found = []
    for shape, computed in (((), False), ((1,), False), ((1,), True)):
        net = onnxviz.load(scalars(shape, computed=computed), preprocess="imagenet", backend=backend)
        if computed and rules != "plain":
            continue  # bounds that only the run tells: no rectifier for certain
        found.append(net.value_and_gradient(onnxviz.objectives.logit(2), rules=rules)(x))
        assert [layer.receptive_field for layer in net.layers if layer.name == "c1"] == [(3, 3)]
    for value, gradient in found[1:]:
        np.testing.assert_allclose(value, found[0][0], rtol=1e-6)
        np.testing.assert_allclose(gradient, found[0][1], rtol=1e-5, atol=1e-6)
    assert found[0][1].any()


def test_full_gradient_takes_one_element() -> None:
    x = normal(1, 3, 12, 12)
    maps = [
        onnxviz.saliency(
            onnxviz.load(scalars(shape), preprocess="imagenet"), x, target=1, method="full-gradient"
        )[0].values
        for shape in ((), (1,))
    ]
    np.testing.assert_allclose(*maps, rtol=1e-5)


def test_shared_with_a_vector() -> None:
    """The same constant as a bound and as a bias of one channel: only the bound changes its rank."""
    weights = {"w": normal(1, 3, 3, 3), "one": np.array([0.25], np.float32)}
    nodes = [
        node("Conv", ["image", "w", "one"], ["c"]),
        node("Clip", ["c", "", "one"], ["r"]),
        node("Flatten", ["r"], ["logits"]),
    ]
    source = model(nodes, weights, out=("N", 100))
    found = ir.to_proto(normalise(ir.from_proto(source)))
    onnx.checker.check_model(found, full_check=True)
    x = normal(2, 3, 12, 12)
    np.testing.assert_array_equal(
        session(found).run(None, {"image": x})[0], session(source).run(None, {"image": x})[0]
    )
    ranks = {i.name: len(i.dims) for i in found.graph.initializer}
    at = {n.op_type: [ranks.get(i) for i in n.input] for n in found.graph.node}
    assert at["Clip"][2] == 0
    assert at["Conv"][2] == 1


def _body(kind: str) -> onnx.GraphProto:
    """A Loop's body, or a branch of an If, that doubles `pooled`."""
    double = [node("Add", ["pooled", "pooled"], ["twice"])]
    value = helper.make_tensor_value_info("twice", FLOAT, None)
    if kind == "branch":
        return helper.make_graph(double, "branch", [], [value])
    carried = helper.make_tensor_value_info("carried", FLOAT, None)
    going = [helper.make_tensor_value_info(n, TensorProto.BOOL, []) for n in ("going", "on")]
    return helper.make_graph(
        [node("Add", ["carried", "pooled"], ["twice"]), node("Identity", ["going"], ["on"])],
        "body",
        [helper.make_tensor_value_info("i", TensorProto.INT64, []), going[0], carried],
        [going[1], value],
    )


OTHERS = {
    "CumSum": ([node("CumSum", ["pooled", "n"], ["y"])], {"n": np.int64(1)}),
    "Trilu": ([node("Trilu", ["pooled", "n"], ["y"])], {"n": np.int64(1)}),
    "Range": (
        [node("Range", ["a", "b", "c"], ["r"]), node("Mul", ["pooled", "r"], ["y"])],
        {"a": np.float32(0), "b": np.float32(3), "c": np.float32(1)},
    ),
    "OneHot": (
        [
            node("ArgMax", ["pooled"], ["best"], axis=1, keepdims=0),
            node("OneHot", ["best", "n", "ends"], ["hot"]),
            node("Mul", ["pooled", "hot"], ["y"]),
        ],
        {"n": np.int64(3), "ends": np.array([1, 2], np.float32)},
    ),
    "If": (
        [node("If", ["n"], ["y"], then_branch=_body("branch"), else_branch=_body("branch"))],
        {"n": np.bool_(True)},
    ),
    "Loop": (
        [node("Loop", ["n", "", "pooled"], ["y"], body=_body("loop"))],
        {"n": np.int64(2)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("op", OTHERS)
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_every_scalar_operand(op: str, backend: str) -> None:
    """Wherever the standard has one number, ONNX Runtime takes a vector of one element, and so do gradients."""
    nodes, weights = OTHERS[op]
    x, found = normal(2, 3, 4, 4), []
    for shape in ((), (1,)):
        shaped = {k: np.reshape(v, shape) if np.ndim(v) == 0 else v for k, v in weights.items()}
        source = model(
            [
                node("GlobalAveragePool", ["image"], ["g"]),
                node("Flatten", ["g"], ["pooled"]),
                *nodes,
                node("Identity", ["y"], ["logits"]),
            ],
            shaped,
            size=4,
            out=("N", 3),
        )
        if op == "Loop" and backend == "native":
            with pytest.raises(onnxviz.errors.UnsupportedOperator):
                _gradient(source, backend, x)
            return
        found.append(_gradient(source, backend, x))
    np.testing.assert_array_equal(found[0], found[1])
    assert found[0].any()


def _gradient(source: onnx.ModelProto, backend: str, x: np.ndarray) -> np.ndarray:
    net = onnxviz.load(source, preprocess="imagenet", backend=backend)
    return net.value_and_gradient(onnxviz.objectives.logit(1))(x)[1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 1, 1)])
@pytest.mark.parametrize("backend", ["native", "torch"])
def test_one_scale_with_axes_of_its_own(shape: tuple[int, ...], backend: str) -> None:
    """ONNX Runtime fuses such a bias into the convolution; alone it refuses it."""
    found = []
    for form in ((), shape):
        weights: dict = {"sx": np.float32(0.05), "sw": np.float32(0.01)}
        weights |= {"zx": np.int8(3), "zw": np.int8(0), "zb": np.full(form, 0, np.int32)}
        weights |= {"sb": np.full(form, 0.0005, np.float32), "b": np.arange(6, dtype=np.int32) * 100}
        weights["w"] = np.clip(normal(6, 3, 3, 3) * 60, -127, 127).astype(np.int8)
        nodes = [
            node("QuantizeLinear", ["image", "sx", "zx"], ["codes"]),
            node("DequantizeLinear", ["codes", "sx", "zx"], ["x"]),
            node("DequantizeLinear", ["w", "sw", "zw"], ["kernel"]),
            node("DequantizeLinear", ["b", "sb", "zb"], ["bias"]),
            node("Conv", ["x", "kernel", "bias"], ["c"]),
            node("Relu", ["c"], ["r"]),
            node("ReduceMean", ["r"], ["logits"], axes=[2, 3], keepdims=0),
        ]
        source = model(nodes, weights, opset=17, out=("N", 6))
        net = onnxviz.load(source, preprocess="imagenet", backend=backend)
        found.append(net.value_and_gradient(onnxviz.objectives.logit(2))(0.5 * normal(2, 3, 12, 12)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert found[0][1].any()


@pytest.mark.parametrize("backend", ["native", "torch"])
@pytest.mark.parametrize("axes", [None, [0, 2, 3]])
def test_axes_that_the_input_has_not_are_none(axes: list[int] | None, backend: str) -> None:
    """MeanVarianceNormalization, whose usual axes are those of maps, of three axes."""
    found = []
    for named in (axes, [0, 2]):
        nodes = [
            node("Conv", ["image", "w"], ["c"]),
            node("Reshape", ["c", "shape"], ["rows"]),
            node(
                "MeanVarianceNormalization", ["rows"], ["even"], **({} if named is None else {"axes": named})
            ),
            node("Pow", ["even", "three"], ["cubes"]),
            node("ReduceMean", ["cubes"], ["logits"], axes=[2], keepdims=0),
        ]
        weights = {"w": W1, "shape": np.array([0, 6, -1], np.int64), "three": np.float32(3)}
        source = model(nodes, weights, opset=17, out=(1, 6))
        source.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        net = onnxviz.load(source, preprocess="imagenet", backend=backend)
        found.append(net.value_and_gradient(onnxviz.objectives.logit(2))(normal(1, 3, 12, 12)))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)
    assert found[0][1].any()


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf, 1e-45, 3e38])
@pytest.mark.parametrize("factor", [0.0, np.inf, np.nan, 1e-45, 3e38])
@pytest.mark.parametrize("op", ["Mul", "Div"])
def test_a_ramp_of_no_height_is_none(scale: float, factor: float, op: str) -> None:
    """Whatever numbers a file has for a range and for what comes behind it: none is divided by that gives none."""
    weights = {
        "w": W1,
        "scale": np.float32(scale),
        "zero": np.uint8(0),
        "factor": np.float32(factor),
    }
    nodes = [
        node("Conv", ["image", "w"], ["c"]),
        node("QuantizeLinear", ["c", "scale", "zero"], ["q"]),
        node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
        node(op, ["d", "factor"], ["e"]),
        node("Mul", ["e", "c"], ["f"]),
        node("GlobalAveragePool", ["f"], ["g"]),
        node("Flatten", ["g"], ["logits"]),
    ]
    file = model(nodes, weights, out=("N", 6)).SerializeToString()
    onnxviz.gradient_model(file, rules="guided")
