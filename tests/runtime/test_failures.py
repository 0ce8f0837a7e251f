"""Whose fault a failed run is: of the network (exit 3), of a limit (4), of onnxviz (5)."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import (
    LimitExceeded,
    ModelFailed,
    ModelRejected,
    OnnxVizError,
    RuntimeFailed,
    UsageError,
)
from onnxviz.programs import compile
from onnxviz.runtime.endings import places, typed


def network(*nodes: onnx.NodeProto, size: int | str = 32, **tensors: np.ndarray) -> onnx.ModelProto:
    """image (N, 3, size, size) -> conv, relu -> the nodes, from 'r' to 'y' -> mean -> scores (N, 4)."""
    random = np.random.default_rng(0)
    tensors |= {
        "w": random.standard_normal((8, 3, 3, 3)).astype(np.float32) / 5,
        "v": random.standard_normal((8, 4)).astype(np.float32),
    }
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w"], ["c"], name="first", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], name="rectified"),
            *nodes,
            helper.make_node("ReduceMean", ["y"], ["m"], name="mean", axes=[2, 3], keepdims=0),
            helper.make_node("MatMul", ["m", "v"], ["scores"], name="dense"),
        ],
        "failing",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, size, size])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 4])],
        [numpy_helper.from_array(array, name) for name, array in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(op_type: str, inputs: str, output: str, **attributes) -> onnx.NodeProto:
    name = attributes.pop("name", f"the_{op_type.lower()}")
    return helper.make_node(op_type, inputs.split(), [output], name=name, **attributes)


def counted(output: str) -> list[onnx.NodeProto]:
    """How many entries of 'r' are over zero, as int64: nobody knows it before the run."""
    return [
        node("Greater", "r zero", "over", name="n1"),
        node("Cast", "over", "over_i", to=7, name="n2"),
        node("ReduceSum", "over_i", output, keepdims=0, name="n3"),
    ]


ZERO, ONE = {"zero": np.float32(0)}, {"one": np.array([1])}
FAILING = {
    "Reshape": network(
        *counted("k"),
        node("Unsqueeze", "k axis", "k1", name="n4"),
        node("Concat", "k1 eight k1 one", "to", axis=0, name="n5"),
        node("Reshape", "r to", "y"),
        axis=np.array([0]),
        eight=np.array([8]),
        **{**ZERO, **ONE},
    ),
    "Gather": network(
        *counted("k"), node("Gather", "r k", "g", axis=1), node("Add", "r g", "y", name="n6"), **ZERO
    ),
    "Conv": network(
        *counted("k"),
        node("Unsqueeze", "k start", "k1", name="n4"),
        node("Min", "k1 five", "k2", name="n5"),
        node("Slice", "r start k2 one", "part", name="n6"),
        node("Conv", "part w8", "y"),
        five=np.array([5]),
        start=np.array([0]),
        w8=np.ones((8, 8, 1, 1), np.float32),
        **{**ZERO, **ONE},
    ),
    "Expand": network(
        *counted("k"),
        node("Unsqueeze", "k start", "k1", name="n4"),
        node("Expand", "r k1", "y"),
        start=np.array([0]),
        **ZERO,
    ),
    "Loop": network(
        *counted("k"),
        helper.make_node(
            "Loop",
            ["twice", "", "r"],
            ["y"],
            name="outer",
            body=helper.make_graph(
                [
                    helper.make_node("Identity", ["go"], ["on"], name="b1"),
                    node("Gather", "held k", "g", axis=1, name="within"),
                    helper.make_node("Add", ["held", "g"], ["next"], name="b2"),
                ],
                "body",
                [
                    helper.make_tensor_value_info("i", TensorProto.INT64, []),
                    helper.make_tensor_value_info("go", TensorProto.BOOL, []),
                    helper.make_tensor_value_info("held", TensorProto.FLOAT, None),
                ],
                [
                    helper.make_tensor_value_info("on", TensorProto.BOOL, []),
                    helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
                ],
            ),
        ),
        twice=np.array(2),
        **ZERO,
    ),
}
NAMED = {name: f"operator {name} (node 'the_{name.lower()}'" for name in FAILING}
NAMED["Loop"] = "operator Gather (node 'within', layer 'g')"
NAMED["Conv"] = "operator Conv (node 'the_conv', layer 'y')"


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 3, 32, 32)).astype(np.float32)


@pytest.fixture
def photo(tmp_path):
    from PIL import Image

    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
    return path


def opened(model: onnx.ModelProto):
    return onnxviz.load(model, preprocess="unit", size=32, provider="cpu")


@pytest.mark.parametrize("name", FAILING)
def test_a_network_that_fails_is_the_models_fault(name, x):
    net = opened(FAILING[name])
    with pytest.raises(ModelFailed) as failed:
        net.run(x, ["scores"])
    assert NAMED[name] in str(failed.value)
    assert "onnxruntime_src" not in str(failed.value)
    assert failed.value.exit_code == 3
    assert isinstance(failed.value, ModelRejected)


def test_a_function_of_the_file_is_the_models_own(x):
    model = network(*counted("k"), node("Outside", "r k", "y", domain="own"), **ZERO)
    body = [node("Gather", "a b", "g", axis=1, name="within"), node("Add", "a g", "c", name="n")]
    domains = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "Outside", ["a", "b"], ["c"], body, domains))
    model.opset_import.append(helper.make_opsetid("own", 1))
    net = opened(model)
    inside = [layer.name for layer in net.layers if layer.op == "Add"]
    for names in (["scores"], [*inside, "scores"]):  # inlined by ONNX Runtime, and by us
        with pytest.raises(ModelFailed, match=r"operator Gather \(node '\w*within'"):
            net.run(x, names)


@pytest.mark.parametrize("name", FAILING)
def test_so_it_is_within_its_gradient(name, x):
    try:
        gradient = opened(FAILING[name]).value_and_gradient(onnxviz.objectives.logit(1))
        gradient(x)
    except OnnxVizError as error:
        assert error.exit_code == 3, error
    else:
        pytest.fail("the network does not fail")


@pytest.mark.parametrize("name", FAILING)
@pytest.mark.parametrize("command", ["predict", "saliency", "occlusion", "cam"])
def test_the_command_line_says_which_node(name, command, photo, tmp_path, capsys):
    onnx.save(FAILING[name], tmp_path / "failing.onnx")
    out = [] if command == "predict" else ["-o", str(tmp_path / "out.png")]
    options = ["--preprocess", "unit", "--size", "32", "--provider", "cpu"]
    code = run([command, str(tmp_path / "failing.onnx"), str(photo), *options, *out])
    said = capsys.readouterr().err
    assert code == 3, said
    assert "bug" not in said
    if command == "predict":
        assert NAMED[name] in said


def test_a_kernel_that_does_not_exist_is_the_models_fault(photo, tmp_path, capsys):
    model = network(
        node("Cast", "r", "d", to=TensorProto.DOUBLE, name="n1"),
        node("Conv", "d w64", "y64", name="in_double"),
        node("Cast", "y64", "y", to=TensorProto.FLOAT, name="n2"),
        w64=np.ones((8, 8, 1, 1)),
    )
    onnx.save(model, tmp_path / "double.onnx")
    assert run(["predict", str(tmp_path / "double.onnx"), str(photo), "--preprocess", "unit"]) == 3
    assert "in_double" in capsys.readouterr().err


def test_nodes_without_names_are_named_by_their_layer(x):
    model = FAILING["Gather"]
    unnamed = onnx.ModelProto.FromString(model.SerializeToString())
    for one in unnamed.graph.node:
        one.name = ""
    with pytest.raises(ModelFailed, match=r"operator Gather \(node 'g', layer 'g'\)"):
        opened(unnamed).run(x, ["scores"])


def test_a_wrong_input_is_the_callers_mistake(x):
    net = opened(network(node("Identity", "r", "y")))
    gradient = net.value_and_gradient(onnxviz.objectives.logit(1))
    for wrong in (x[:, :2], x[:, :, :31], x[0]):
        for call in (gradient, lambda given: net.run(given, ["scores"])):
            with pytest.raises(OnnxVizError) as failed:
                call(wrong)
            assert failed.value.exit_code in (2, 3), failed.value


# --- ours ---------------------------------------------------------------------------------------


def two(own_name: str = "theirs") -> ir.Model:
    """x -> Reshape 'theirs' -> Reshape 'ours', which fails where x has no 6 entries or 4."""
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["x", "six"], ["a"], name=own_name),
            helper.make_node("Reshape", ["a", "four"], ["b"], name="ours"),
        ],
        "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["K"])],
        [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.array([3, -1]), "six"),
            numpy_helper.from_array(np.array([4, -1]), "four"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return ir.from_proto(model)


def test_a_node_that_we_added_is_our_mistake():
    program = compile(two(), provider="cpu", own={"x", "a", "theirs"})
    with pytest.raises(ModelFailed, match=r"node 'theirs', layer 'a'"):
        program({"x": np.ones(5, np.float32)})
    with pytest.raises(
        RuntimeFailed, match=r"a graph that onnxviz wrote: operator Reshape \(node 'ours'\)"
    ) as failed:
        program({"x": np.ones(6, np.float32)})
    assert not isinstance(failed.value, ModelRejected)
    assert failed.value.exit_code == 5
    program({"x": np.ones(12, np.float32)})


@pytest.mark.parametrize("target", [0, 1, 900])
def test_an_objective_of_scores_without_a_number_is_told(target):
    """How many classes there are only the run tells: none."""
    model = network(*counted("k"), node("Identity", "r", "y"), **ZERO)
    model.graph.node[-1].output[0] = "all"
    model.graph.node.extend(
        [
            node("Sub", "k k", "none", name="n4"),
            node("Unsqueeze", "none start", "end", name="n5"),
            node("Slice", "all start end one", "scores", name="n6"),
        ]
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array([0]), "start"))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1]), "one"))
    del model.graph.output[0].type.tensor_type.shape.dim[1]
    model.graph.output[0].type.tensor_type.shape.dim.add()
    photo = np.zeros((32, 32, 3), np.uint8)
    with pytest.raises(UsageError, match="an entry that the output does not have"):
        onnxviz.cam(opened(model), photo, target=1)


def test_what_we_feed_wrongly_is_our_mistake():
    program = compile(two(), provider="cpu")
    for feeds in ({}, {"z": np.ones(6, np.float32)}):
        with pytest.raises(RuntimeFailed) as failed:
            program(feeds)
        assert failed.value.exit_code == 5


def test_a_gradient_that_fails_where_the_network_runs_is_our_mistake(x, monkeypatch):
    net = opened(network(node("Identity", "r", "y")))
    gradients = net.gradients(onnxviz.objectives.logit(1))
    text = "the model's own node, within our graph"

    def failing(feeds):
        raise ModelFailed(text)

    monkeypatch.setattr(gradients, "_program", type("P", (), {"__call__": lambda _, f: failing(f)})())
    gradients._program.outputs, gradients._program.inputs = ["objective"], ["image"]
    with pytest.raises(RuntimeFailed, match=f"{text}; but the network itself runs") as failed:
        gradients(x)
    assert failed.value.exit_code == 5


def test_memory_and_time_are_limits():
    text = "[ONNXRuntimeError] : 1 : FAIL : Error while running Conv node. Name:'c' Status Message: "
    for reason in (
        "std::bad_alloc",
        "/a/b.cc:1 void* f(int) Failed to allocate memory for requested buffer of size 9",
    ):
        assert isinstance(typed(RuntimeError(text + reason), {}, None), LimitExceeded)
    assert isinstance(typed(MemoryError(), {}, None), LimitExceeded)
    assert "after 3 s" in str(typed(RuntimeError("Exiting due to terminate flag"), {}, 3.0))


def test_names_in_messages_are_bounded_and_printable():
    name = "\x1b[2J" + "n" * 10_000
    error = RuntimeError(f"while running Add node. Name:'{name}' Status Message: " + "because " * 1000)
    graph = ir.Graph([], [], nodes=[ir.Node("", "Add", [], name=name)], opset_imports={"": 17})
    said = str(typed(error, places(graph, None), None))
    assert len(said) < 700
    assert "\x1b" not in said
