"""Names of nodes and of values are two namespaces: whatever a file puts in them, graphs come out right."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import helper

import onnxviz
from onnxviz.graph.naming import taken_apart
from onnxviz.graph.shapes import infer
from tests.grad.oracle import session
from tests.networks import Maker, from_nodes, node

PICTURE = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
PLAIN = ("a", "b", "c", "d", "e", "f")
NODES = {
    "no names": [None] * 7,
    "a node has another's output": [None, "a", None, "c", None, None, None],
    "a later one": ["b", None, None, None, "a", None, None],
    "exchanged": ["b", "a", "d", "c", "f", "e", "x"],
    "all alike": ["n"] * 7,
    "weights and ends": ["w0", "w1", "x", "y", None, None, None],
    "what is added": ["a/gradient/Mul_1", "y/half", "objective", "y/float32_0", None, "x.gradient", "y.cotangent"],
}  # fmt: skip
VALUES = {
    "plain": PLAIN,
    "odd characters": ("/conv/Conv_output_0", "a b", "ü:0", "a;b|c\"d'", "c\n", "-"),
    "results": ("objective", "value", "norm", "y.cotangent", "x.gradient", "parameters"),
    "helpers": ("y/float32_0", "y/half", "lifted/constant_0", "gradient/constant_1", "parameters.next", "term.0"),
}  # fmt: skip


def network(nodes, values=PLAIN, dtype=np.float32):
    """conv - relu - conv - relu - mean - flatten - linear, with these names."""
    a, b, c, d, e, f = values
    rng = np.random.default_rng(0)
    weights = {"w0": (8, 3, 3, 3), "w1": (8, 8, 3, 3), "w2": (5, 8)}
    parts = [
        ("Conv", ["x", "w0"], a, {"pads": [1] * 4}),
        ("Relu", [a], b, {}),
        ("Conv", [b, "w1"], c, {"pads": [1] * 4}),
        ("Relu", [c], d, {}),
        ("GlobalAveragePool", [d], e, {}),
        ("Flatten", [e], f, {}),
        ("Gemm", [f, "w2"], "y", {"transB": 1}),
    ]
    made = [
        node(op, inputs, [output], name=name, **attributes)
        for (op, inputs, output, attributes), name in zip(parts, nodes, strict=True)
    ]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    arrays = {name: rng.normal(size=shape).astype(dtype) for name, shape in weights.items()}
    model = from_nodes(made, {"x": ("N", 3, 16, 16)}, {"y": ("N", 5)}, arrays, dtype=kind)
    model.graph.output[0].type.tensor_type.elem_type = kind
    return model


@pytest.fixture(scope="module")
def expected():
    return onnxviz.saliency(onnxviz.load(network([None] * 7), preprocess="unit"), PICTURE, target=2).values


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("nodes", NODES)
def test_gradients_whatever_the_names(nodes, values, expected):
    model = network(NODES[nodes], VALUES[values])
    net = onnxviz.load(model, preprocess="unit")
    assert [layer.name for layer in net.layers] == [*VALUES[values], "y"]
    found = onnxviz.saliency(net, PICTURE, target=2).values
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize("nodes", NODES)
def test_gradient_files_whatever_the_names(nodes, values, dtype):
    made = onnxviz.gradient_model(network(NODES[nodes], VALUES[values], dtype))
    onnx.checker.check_model(made, full_check=True)
    names = [node.name for node in made.graph.node]
    assert len(set(names)) == len(names)
    running = session(made)
    assert [value.name for value in running.get_inputs()] == ["x", "y.cotangent"]
    assert [value.name for value in running.get_outputs()] == ["y", "x.gradient"]
    feeds = {"x": np.ones((2, 3, 16, 16), dtype), "y.cotangent": np.ones((2, 5), np.float32)}
    assert all(np.isfinite(array).all() for array in running.run(None, feeds))


@pytest.mark.parametrize("values", ["results", "helpers"])
def test_techniques_on_layers_that_have_the_names_of_results(values):
    model, plain = network([None] * 7, VALUES[values]), network([None] * 7)
    net, other = (onnxviz.load(one, preprocess="unit") for one in (model, plain))
    layer = VALUES[values][3]
    for run in (
        lambda one, name: onnxviz.cam(one, PICTURE, target=2, layer=name),
        lambda one, name: onnxviz.ascent(one, layer=name, channel=1, steps=2, seed=1),
        lambda one, name: onnxviz.invert(one, PICTURE, name, steps=2, seed=1),
        lambda one, name: onnxviz.saliency(one, PICTURE, target=2, method="full-gradient"),
    ):
        np.testing.assert_allclose(run(net, layer).values, run(other, "d").values, rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_called_as_a_result_is_refused_beside_it():
    net = onnxviz.load(network([None] * 7, VALUES["results"]), preprocess="unit")
    with pytest.raises(onnxviz.errors.UsageError, match="'objective' cannot be given out"):
        onnxviz.cam(net, PICTURE, target=2, layer="objective")


# --- lengths that only the run will tell ----------------------------------------------------------


def shapes(m: Maker, last: str, shape: tuple) -> dict[str, list]:
    model = ir.from_proto(m.model({"image": shape}, {last: None}, ir=9))
    infer(model)
    values = (one.outputs[0] for one in model.graph)
    return {value.name: [d if isinstance(d, int) else d.value for d in value.shape] for value in values}


def test_both_sides_of_a_residual_have_one_shape() -> None:
    m = Maker(opset=18)
    stem = m("Conv", "image", m.random(8, 3, 3, 3), strides=[2, 2], pads=[1] * 4)
    branch = m("Relu", m("Conv", stem, m.random(8, 8, 3, 3), pads=[1] * 4))
    total = m("Add", stem, branch)
    pooled = m("MaxPool", total, kernel_shape=[2, 2], strides=[2, 2])
    joined = m("Concat", pooled, pooled, axis=1)
    found = shapes(m, joined, ("N", 3, "H", "W"))
    assert found[stem] == found[branch] == found[total] == ["N", 8, "((H-1)//2+1)", "((W-1)//2+1)"]
    assert found[joined] == ["N", 16, "((((H-1)//2+1)-2)//2+1)", "((((W-1)//2+1)-2)//2+1)"]


@pytest.mark.parametrize(("kernel", "stride", "pad"), [(1, 1, 0), (3, 2, 1), (3, 1, 0), (5, 3, 1), (2, 2, 0)])
@pytest.mark.parametrize("size", [11, 12, 13])
def test_the_formula_is_right(kernel, stride, pad, size) -> None:
    def length(height):
        m = Maker(opset=18)
        weights = m.random(8, 3, kernel, kernel)
        y = m("Conv", "image", weights, strides=[stride] * 2, pads=[pad] * 4)
        return shapes(m, y, ("N", 3, height, 12))[y][2]

    name = str(length("H"))
    assert eval(name, {"H": size}) == length(size)
    inner, extra, step = taken_apart(name) or ("H", 0, 0)
    assert inner == "H"
    assert (size + extra if step == 0 else (size + extra) // step + 1) == length(size)


def test_what_cannot_be_told_has_no_name() -> None:
    """A broadcast between two unlike names, a ceil_mode, a Resize to a size of the run."""
    m = Maker(opset=18)
    pooled = m("MaxPool", "image", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1)
    other = m("Conv", "image", m.random(3, 3, 2, 2), strides=[2, 2])
    total = m("Add", pooled, other)
    found = shapes(m, total, ("N", 3, "H", "W"))
    assert found[pooled][2:] == [None, None]
    assert found[total][2:] == [None, None]
    assert found[other][0] == "N"


def test_a_name_of_its_own_is_not_taken_apart() -> None:
    assert taken_apart("H") is None
    assert taken_apart("batch+1") is None
    assert taken_apart("((((H-1)//2+1)-2)//2+1)") == ("((H-1)//2+1)", -2, 2)
