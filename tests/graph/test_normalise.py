"""The normal form computes what the file computed: opset lift, folds, padding, branches, functions, half precision."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxviz.errors import ModelUnsuitable
from onnxviz.graph.analysis.dataflow import duplicate
from onnxviz.graph.normalise import normalise
from onnxviz.graph.shapes import infer
from tests import networks
from tests.grad.oracle import normal, positive, session

FLOAT = TensorProto.FLOAT


def model(nodes, weights=None, *, opset=18, shape=(2, 3, 6, 7), out=None, functions=(), ir_version=8):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, out)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid("local", 1) for _ in functions[:1])]
    return helper.make_model(graph, opset_imports=imports, ir_version=ir_version, functions=list(functions))


def same(proto: onnx.ModelProto, *shapes: tuple[int, ...], atol: float = 1e-5) -> ir.Model:
    """Normalise, compare the outputs on inputs of these shapes, and give the result for closer looks."""
    before = ir.to_proto(ir.from_proto(proto)).SerializeToString()
    source = ir.from_proto(proto)
    found = normalise(source)
    assert ir.to_proto(source).SerializeToString() == before, "the given model was changed"
    after = ir.to_proto(found)
    onnx.checker.check_model(after)
    a, b = session(proto), session(after)
    assert [v.name for v in a.get_inputs()] == [v.name for v in b.get_inputs()]
    assert [v.name for v in a.get_outputs()] == [v.name for v in b.get_outputs()]
    for shape in shapes:
        feed = {a.get_inputs()[0].name: np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
        for expected, got in zip(a.run(None, feed), b.run(None, feed), strict=True):
            np.testing.assert_allclose(got, expected, atol=atol, rtol=1e-4)
    return found


def types(found: ir.Model) -> list[str]:
    return [n.op_type for n in found.graph]


node = helper.make_node


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v1", "densenet121"])
def test_opset_9(name: str) -> None:
    proto = networks.light(name)
    found = same(
        proto, tuple(d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim), atol=1e-4
    )
    assert found.opset_imports[""] == 18


OLD = {
    "clip": (7, [node("Clip", ["x"], ["y"], min=-0.5, max=0.7)], {}),
    "clip without bounds": (7, [node("Clip", ["x"], ["y"])], {}),
    "softmax flattens": (7, [node("Softmax", ["x"], ["y"])], {}),
    "softmax from the end": (11, [node("Softmax", ["x"], ["y"], axis=-2)], {}),
    "logsoftmax": (12, [node("LogSoftmax", ["x"], ["y"], axis=2)], {}),
    "hardmax": (11, [node("Hardmax", ["x"], ["y"], axis=1)], {}),
    "pad": (10, [node("Pad", ["x"], ["y"], pads=[0, 0, 1, 2, 0, 0, 3, 1], value=1.5)], {}),
    "slice": (9, [node("Slice", ["x"], ["y"], starts=[1, -3], ends=[9, 2**31], axes=[1, 3])], {}),
    "slice without axes": (7, [node("Slice", ["x"], ["y"], starts=[0, 1], ends=[1, 3])], {}),
    "split": (7, [node("Split", ["x"], ["a", "b"], axis=2), node("Mul", ["a", "b"], ["y"])], {}),
    "split sizes": (
        11,
        [node("Split", ["x"], ["a", "b"], axis=1, split=[1, 2]), node("Mul", ["a", "b"], ["y"])],
        {},
    ),
    "squeeze": (
        11,
        [node("Unsqueeze", ["x"], ["a"], axes=[0, 2]), node("Squeeze", ["a"], ["y"], axes=[0])],
        {},
    ),
    "topk": (9, [node("TopK", ["x"], ["y", "i"], k=2, axis=3)], {}),
    "upsample 7": (7, [node("Upsample", ["x"], ["y"], scales=[1.0, 1.0, 2.0, 3.0])], {}),
    "upsample 9": (9, [node("Upsample", ["x", "s"], ["y"], mode="linear")], {"s": np.float32([1, 1, 2, 2])}),
    "resize 10": (10, [node("Resize", ["x", "s"], ["y"], mode="linear")], {"s": np.float32([1, 1, 1.5, 2])}),
    "resize 11": (
        11,
        [node("Resize", ["x", "r", "r", "s"], ["y"])],
        {"r": np.zeros(0, np.float32), "s": np.int64([2, 3, 9, 4])},
    ),
    "dropout": (9, [node("Dropout", ["x"], ["a"], ratio=0.7), node("Relu", ["a"], ["y"])], {}),
    "dropout at the end": (7, [node("Dropout", ["x"], ["y"], ratio=0.7)], {}),
    "scatter": (
        9,
        [node("Scatter", ["x", "i", "u"], ["y"], axis=1)],
        {"i": np.int64([[[[2]]]]), "u": normal(1, 1, 1, 1)},
    ),
    **{
        f"reduce {k}": (11, [node(f"Reduce{k}", ["x"], ["y"], axes=[1, -1], keepdims=0)], {})
        for k in ("Sum", "Mean", "Max", "L2")
    },
    "reduce all": (9, [node("ReduceMean", ["x"], ["y"])], {}),
    "batch norm": (
        7,
        [node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], momentum=0.8)],
        {"s": positive(3), "b": normal(3), "m": normal(3), "v": positive(3)},
    ),
}


@pytest.mark.parametrize("name", OLD)
def test_lift(name: str) -> None:
    opset, nodes, weights = OLD[name]
    found = same(model(nodes, weights, opset=opset), (2, 3, 6, 7))
    assert found.opset_imports[""] == 18
    onnx.checker.check_model(ir.to_proto(found), full_check=True)


def test_too_old() -> None:
    with pytest.raises(ModelUnsuitable, match="opset 6"):
        normalise(ir.from_proto(model([node("Relu", ["x"], ["y"])], opset=6)))
    with pytest.raises(ModelUnsuitable, match="spatial=0"):
        statistics = dict.fromkeys("sbmv", normal(3, 6, 7))
        norm = node("BatchNormalization", ["x", *"sbmv"], ["y"], spatial=0)
        normalise(ir.from_proto(model([norm], statistics, opset=7)))


def test_newer_opsets_are_kept() -> None:
    assert (
        same(model([node("Relu", ["x"], ["y"])], opset=22, ir_version=10), (2, 3, 6, 7)).opset_imports[""]
        == 22
    )


NORM = {"s": positive(4), "b": normal(4), "m": normal(4), "v": positive(4)}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("group", [1, 2])
def test_batch_norm_is_folded(bias: bool, op: str, group: int) -> None:
    shape = (4, 4 // group, 3, 3)
    weights = {"w": normal(*shape), **NORM} | ({"c": normal(4)} if bias else {})
    nodes = [
        node(op, ["x", "w", *(["c"] if bias else [])], ["a"], group=group, name="conv"),
        node("BatchNormalization", ["a", *"sbmv"], ["n"], epsilon=1e-3, name="norm"),
        node("Relu", ["n"], ["y"]),
    ]
    found = same(model(nodes, weights, shape=("N", 4, 6, 7)), (2, 4, 6, 7), atol=1e-4)
    assert types(found) == [op, "Relu"]
    assert found.graph[0].outputs[0].name == "n"  # it computes the layer of this name now


def test_folding_computes_no_weight_before_it_is_read() -> None:
    """`inspect` asks which operators there are; a large network's weights would be time and memory for nothing."""
    w = np.ones((800, 700, 3, 3), np.float32)
    graph = ir.from_proto(
        model(
            [node("Conv", ["x", "w"], ["a"]), node("BatchNormalization", ["a", *"sbmv"], ["y"])],
            {"w": w, **{k: np.full(800, 2, np.float32) for k in "sbmv"}},
            shape=(1, 700, 3, 3),
        )
    )
    tracemalloc.start()
    found = normalise(graph).graph
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [n.op_type for n in found] == ["Conv"]
    assert peak < w.nbytes / 4
    folded = found[0].inputs[1].const_value
    assert folded.numpy() is folded.numpy()  # computed once
    assert folded.numpy().dtype == np.float32
    np.testing.assert_allclose(folded.numpy(), 2 / np.sqrt(2), rtol=1e-5)


def test_batch_norm_is_kept_where_it_must_be() -> None:
    """The convolution is an output, or has other readers."""
    nodes = [
        node("Conv", ["x", "w"], ["a"]),
        node("BatchNormalization", ["a", *"sbmv"], ["n"]),
        node("Add", ["a", "n"], ["y"]),
    ]
    found = same(model(nodes, {"w": normal(4, 4, 3, 3), **NORM}, shape=("N", 4, 6, 7)), (2, 4, 6, 7))
    assert types(found) == ["Conv", "BatchNormalization", "Add"]
    shown = model(
        [*nodes[:2], node("Relu", ["n"], ["y"])], {"w": normal(4, 4, 3, 3), **NORM}, shape=("N", 4, 6, 7)
    )
    shown.graph.output.append(helper.make_tensor_value_info("a", FLOAT, None))
    assert "BatchNormalization" in types(same(shown, (2, 4, 6, 7)))


WINDOWS = [
    node("Conv", ["x", "w"], ["y"]),
    node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2]),
    node("AveragePool", ["x"], ["y"], kernel_shape=[3, 2]),
    node("AveragePool", ["x"], ["y"], kernel_shape=[3, 2], count_include_pad=1),
    node("LpPool", ["x"], ["y"], kernel_shape=[3, 2], p=2),
]


@pytest.mark.parametrize("window", WINDOWS, ids=lambda n: f"{n.op_type}-{len(n.attribute)}")
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_same_padding(window, dynamic: bool) -> None:
    for mode, stride in itertools.product(("SAME_UPPER", "SAME_LOWER"), (1, 2, 3)):
        padded = onnx.NodeProto()
        padded.CopyFrom(window)
        padded.attribute.extend(
            [helper.make_attribute("auto_pad", mode), helper.make_attribute("strides", [stride, stride])]
        )
        shape = ("N", 3, "H", "W") if dynamic else (2, 3, 6, 7)
        weights = {"w": normal(4, 3, 3, 2)} if window.op_type == "Conv" else {}
        found = same(
            model([padded], weights, shape=shape), *[(2, 3, 6, 7), (1, 3, 7, 5)][: 2 if dynamic else 1]
        )
        assert not any("auto_pad" in n.attributes for n in found.graph)
        assert ("Pad" in types(found)) == (dynamic and stride > 1)


@pytest.mark.parametrize("window", WINDOWS[1:], ids=lambda n: f"{n.op_type}-{len(n.attribute)}")
def test_ceil_mode_becomes_pads(window) -> None:
    for pads, strides in itertools.product(
        ([0, 0, 0, 0], [1, 1, 1, 1], [2, 0, 1, 1]), ([2, 2], [3, 3], [2, 5])
    ):
        ceiled = onnx.NodeProto()
        ceiled.CopyFrom(window)
        ceiled.attribute.extend(
            [helper.make_attribute(k, v) for k, v in (("ceil_mode", 1), ("pads", pads), ("strides", strides))]
        )
        found = same(model([ceiled]), (2, 3, 6, 7))
        assert not any("ceil_mode" in n.attributes for n in found.graph)


def test_if_with_a_constant_condition() -> None:
    def branch(name: str, op: str) -> onnx.GraphProto:
        out = helper.make_tensor_value_info(f"{name}_out", FLOAT, None)
        scale = node("Constant", [], [f"{name}_scale"], value_float=2.0)
        nodes = [
            scale,
            node(op, ["x"], [f"{name}_in"]),
            node("Mul", [f"{name}_in", f"{name}_scale"], [f"{name}_out"]),
        ]
        return helper.make_graph(nodes, name, [], [out])

    for condition, op in ((True, "Relu"), (False, "Sigmoid")):
        choose = node(
            "If",
            ["c"],
            ["a"],
            then_branch=branch("t", "Relu"),
            else_branch=branch("e", "Sigmoid"),
            name="choose",
        )
        found = same(model([choose, node("Neg", ["a"], ["y"])], {"c": np.array(condition)}), (2, 3, 6, 7))
        assert types(found) == [op, "Mul", "Neg"]
        last = node("If", ["c"], ["y"], then_branch=branch("t", "Relu"), else_branch=branch("e", "Sigmoid"))
        assert op in types(same(model([last], {"c": np.array(condition)}), (2, 3, 6, 7)))


def test_functions_are_inlined() -> None:
    body = [node("Relu", ["a"], ["b"]), node("Mul", ["b", "b"], ["c"])]
    function = helper.make_function("local", "Square", ["a"], ["c"], body, [helper.make_opsetid("", 18)])
    nodes = [node("Square", ["x"], ["m"], domain="local"), node("Square", ["m"], ["y"], domain="local")]
    assert types(same(model(nodes, functions=[function]), (2, 3, 6, 7))) == ["Relu", "Mul"] * 2


def test_constants_become_weights() -> None:
    nodes = [
        node("Constant", [], ["shape"], value_ints=[1, 3, 1, 1]),
        node("ConstantOfShape", ["shape"], ["w"], value=numpy_helper.from_array(np.float32([2]))),
        node("Identity", ["w"], ["v"]),
        node("Mul", ["x", "v"], ["y"]),
    ]
    assert types(same(model(nodes), (2, 3, 6, 7))) == ["Mul"]


def test_stale_shapes_are_dropped() -> None:
    """Exporters leave a static batch in the middle of a dynamic model."""
    proto = model(
        [node("Relu", ["x"], ["a"]), node("Neg", ["a"], ["y"])], shape=("N", 3, 4, 4), out=("N", 3, 4, 4)
    )
    proto.graph.value_info.append(helper.make_tensor_value_info("a", FLOAT, (1, 3, 4, 4)))
    found = normalise(ir.from_proto(proto))
    assert str(found.graph[0].outputs[0].shape[0]) == "N"


def test_half_precision_is_computed_in_single() -> None:
    half = networks.fp16(networks.tiny_cnn())
    found = normalise(ir.from_proto(half))
    inner = [v.dtype for n in found.graph for v in n.outputs if not v.is_graph_output()]
    assert set(inner) == {ir.DataType.FLOAT}
    assert [v.dtype for v in (*found.graph.inputs, *found.graph.outputs)] == [ir.DataType.FLOAT16] * 2
    x = np.random.default_rng(1).standard_normal((2, 3, 32, 32)).astype(np.float16)
    expected, got = (session(p).run(None, {"image": x})[0] for p in (half, ir.to_proto(found)))
    np.testing.assert_allclose(got, expected, atol=5e-3)


def test_a_function_called_in_two_precisions_has_types_of_its_own_in_each() -> None:
    """The body declares a type; inlined twice, one call must not retype the other."""
    body = [node("Neg", ["a"], ["n"]), node("Abs", ["n"], ["b"])]
    block = helper.make_function("local", "Block", ["a"], ["b"], body, [helper.make_opsetid("", 18)])
    block.value_info.append(helper.make_tensor_value_info("n", FLOAT, None))
    nodes = [
        node("Block", ["x"], ["wide"], domain="local"),
        node("Cast", ["wide"], ["narrow"], to=TensorProto.FLOAT16),
        node("Block", ["narrow"], ["half"], domain="local"),
        node("Cast", ["half"], ["y"], to=FLOAT),
    ]
    copy = duplicate(ir.from_proto(model(nodes, functions=[block], ir_version=10)))
    infer(copy)
    assert [n.outputs[0].dtype for n in copy.graph if n.op_type == "Neg"] == [
        ir.DataType.FLOAT,
        ir.DataType.FLOAT16,
    ]
