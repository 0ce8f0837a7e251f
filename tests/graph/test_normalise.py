"""The normal form computes what the file computed: opset lift, folds, padding, branches, functions, half precision."""

from __future__ import annotations

import copy
import itertools
import sys
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
from tests.networks import node

FLOAT = TensorProto.FLOAT


def model(nodes, weights=None, *, opset=18, shape=(2, 3, 6, 7), out=None, functions=(), ir_version=8):
    imports = {"local": 1} if functions else {}
    return networks.from_nodes(
        nodes, {"x": shape}, {"y": out}, weights or {}, opset=opset, ir=ir_version, imports=imports,
        functions=functions,
    )  # fmt: skip


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


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v1", "densenet121"])
def test_opset_9(name: str) -> None:
    proto = networks.light(name)
    shape = tuple(d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim)
    found = same(proto, shape, atol=1e-4)
    assert found.opset_imports[""] == 18


def one(opset, op, inputs="x", outputs="y", weights=None, **attributes):
    """A file of one node; of several outputs the product is y."""
    made = outputs.split()
    nodes = [node(op, inputs.split(), made, **attributes)]
    if "y" not in made:
        nodes.append(node("Mul", made, ["y"]))
    return opset, nodes, weights or {}


OLD = {
    "clip": one(7, "Clip", min=-0.5, max=0.7),
    "clip without bounds": one(7, "Clip"),
    "softmax flattens": one(7, "Softmax"),
    "softmax from the end": one(11, "Softmax", axis=-2),
    "logsoftmax": one(12, "LogSoftmax", axis=2),
    "hardmax": one(11, "Hardmax", axis=1),
    "pad": one(10, "Pad", pads=[0, 0, 1, 2, 0, 0, 3, 1], value=1.5),
    "slice": one(9, "Slice", starts=[1, -3], ends=[9, 2**31], axes=[1, 3]),
    "slice without axes": one(7, "Slice", starts=[0, 1], ends=[1, 3]),
    "split": one(7, "Split", outputs="a b", axis=2),
    "split sizes": one(11, "Split", outputs="a b", axis=1, split=[1, 2]),
    "squeeze": (11, [node("Unsqueeze", ["x"], ["a"], axes=[0, 2]), node("Squeeze", ["a"], ["y"], axes=[0])], {}),
    "topk": one(9, "TopK", outputs="y i", k=2, axis=3),
    "upsample 7": one(7, "Upsample", scales=[1.0, 1.0, 2.0, 3.0]),
    "upsample 9": one(9, "Upsample", "x s", mode="linear", weights={"s": np.float32([1, 1, 2, 2])}),
    "resize 10": one(10, "Resize", "x s", mode="linear", weights={"s": np.float32([1, 1, 1.5, 2])}),
    "resize 11": one(11, "Resize", "x r r s", weights={"r": np.zeros(0, np.float32), "s": np.int64([2, 3, 9, 4])}),
    "dropout": (9, [node("Dropout", ["x"], ["a"], ratio=0.7), node("Relu", ["a"], ["y"])], {}),
    "dropout at the end": one(7, "Dropout", ratio=0.7),
    "scatter": one(9, "Scatter", "x i u", axis=1, weights={"i": np.int64([[[[2]]]]), "u": normal(1, 1, 1, 1)}),
    **{f"reduce {k}": one(11, f"Reduce{k}", axes=[1, -1], keepdims=0) for k in ("Sum", "Mean", "Max", "L2")},
    "reduce all": one(9, "ReduceMean"),
    "batch norm": one(7, "BatchNormalization", "x s b m v", momentum=0.8,
                      weights={"s": positive(3), "b": normal(3), "m": normal(3), "v": positive(3)}),
}  # fmt: skip


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
    newer = model([node("Relu", ["x"], ["y"])], opset=22, ir_version=10)
    assert same(newer, (2, 3, 6, 7)).opset_imports[""] == 22


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
    nodes = [node("Conv", ["x", "w"], ["a"]), node("BatchNormalization", ["a", *"sbmv"], ["y"])]
    weights = {"w": w, **{k: np.full(800, 2, np.float32) for k in "sbmv"}}
    graph = ir.from_proto(model(nodes, weights, shape=(1, 700, 3, 3)))
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
    weights, shape = {"w": normal(4, 4, 3, 3), **NORM}, ("N", 4, 6, 7)
    found = same(model(nodes, weights, shape=shape), (2, 4, 6, 7))
    assert types(found) == ["Conv", "BatchNormalization", "Add"]
    shown = model([*nodes[:2], node("Relu", ["n"], ["y"])], weights, shape=shape)
    shown.graph.output.append(helper.make_tensor_value_info("a", FLOAT, None))
    assert "BatchNormalization" in types(same(shown, (2, 4, 6, 7)))


WINDOWS = [
    node("Conv", ["x", "w"], ["y"]),
    node("MaxPool", ["x"], ["y"], kernel_shape=[3, 2]),
    node("AveragePool", ["x"], ["y"], kernel_shape=[3, 2]),
    node("AveragePool", ["x"], ["y"], kernel_shape=[3, 2], count_include_pad=1),
    node("LpPool", ["x"], ["y"], kernel_shape=[3, 2], p=2),
]


def with_attributes(window: onnx.NodeProto, **attributes) -> onnx.NodeProto:
    changed = copy.deepcopy(window)
    changed.attribute.extend([helper.make_attribute(k, v) for k, v in attributes.items()])
    return changed


@pytest.mark.parametrize("window", WINDOWS, ids=lambda n: f"{n.op_type}-{len(n.attribute)}")
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_same_padding(window, dynamic: bool) -> None:
    for mode, stride in itertools.product(("SAME_UPPER", "SAME_LOWER"), (1, 2, 3)):
        padded = with_attributes(window, auto_pad=mode, strides=[stride, stride])
        weights = {"w": normal(4, 3, 3, 2)} if window.op_type == "Conv" else {}
        shape, sizes = (2, 3, 6, 7), [(2, 3, 6, 7)]
        if dynamic:
            shape, sizes = ("N", 3, "H", "W"), [(2, 3, 6, 7), (1, 3, 7, 5)]
        found = same(model([padded], weights, shape=shape), *sizes)
        assert not any("auto_pad" in n.attributes for n in found.graph)
        assert ("Pad" in types(found)) == (dynamic and stride > 1)


@pytest.mark.parametrize("window", WINDOWS[1:], ids=lambda n: f"{n.op_type}-{len(n.attribute)}")
def test_ceil_mode_becomes_pads(window) -> None:
    amounts = [0, 0, 0, 0], [1, 1, 1, 1], [2, 0, 1, 1]
    for pads, strides in itertools.product(amounts, ([2, 2], [3, 3], [2, 5])):
        ceiled = with_attributes(window, ceil_mode=1, pads=pads, strides=strides)
        found = same(model([ceiled]), (2, 3, 6, 7))
        assert not any("ceil_mode" in n.attributes for n in found.graph)


def test_if_with_a_constant_condition() -> None:
    text = """<ir_version: 8, opset_import: ["" : 18]>
        g (float[2,3,6,7] x) => (float[2,3,6,7] y) <bool c = {%d}> {
            %s = If (c) <
                then_branch = t () => (float[2,3,6,7] r)
                    { s = Constant<value_float=2.0>() i = Relu(x) r = Mul(i, s) },
                else_branch = e () => (float[2,3,6,7] q)
                    { z = Constant<value_float=2.0>() j = Sigmoid(x) q = Mul(j, z) }
            >
            %s
        }"""
    for condition, op in ((1, "Relu"), (0, "Sigmoid")):
        for made, behind, more in (("a", "y = Neg(a)", ["Neg"]), ("y", "", [])):
            found = same(onnx.parser.parse_model(text % (condition, made, behind)), (2, 3, 6, 7))
            assert types(found) == [op, "Mul", *more]


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


def test_weights_that_stand_as_codes_bring_no_folder_in(monkeypatch) -> None:
    """onnxscript's takes half a second and 24 MB, and leaves them as they are."""
    codes = {"q": np.arange(3, dtype=np.int8).reshape(1, 3, 1, 1), "s": np.float32(0.1), "z": np.int8(0)}
    held = [node("DequantizeLinear", ["q", "s", "z"], ["w"]), node("Mul", ["x", "w"], ["y"])]
    lengths = {"one": np.int64([1]), "side": np.int64([3, 1, 1])}
    computed = [node("Concat", ["one", "side"], ["s"], axis=0), node("Reshape", ["v", "s"], ["w"])]
    monkeypatch.setitem(sys.modules, "onnxscript.optimizer", None)  # cannot be imported
    assert types(same(model(held, codes), (2, 3, 6, 7))) == ["DequantizeLinear", "Mul"]
    with pytest.raises(ImportError):
        normalise(
            ir.from_proto(
                model([*computed, node("Mul", ["x", "w"], ["y"])], {"v": np.ones(3, "f"), **lengths})
            )
        )


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
    twice = duplicate(ir.from_proto(model(nodes, functions=[block], ir_version=10)))
    infer(twice)
    inner = [n.outputs[0].dtype for n in twice.graph if n.op_type == "Neg"]
    assert inner == [ir.DataType.FLOAT, ir.DataType.FLOAT16]
