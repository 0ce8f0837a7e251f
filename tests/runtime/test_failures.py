"""Whose fault a failed run is: of the network (exit 3), of a limit (4), of onnxviz (5)."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from PIL import Image

import onnxviz
from onnxviz.cli.main import run
from onnxviz.errors import LimitExceeded, ModelFailed, ModelRejected, OnnxVizError, RuntimeFailed, UsageError
from onnxviz.programs import compile
from onnxviz.runtime.endings import places, typed
from tests.runtime.stateful import parsed

# How many entries of 'r' are over zero, as int64: nobody knows it before the run.
COUNTED = """
    over = Greater(r, zero)
    over_i = Cast<to = 7>(over)
    k = ReduceSum<keepdims = 0>(over_i)
"""
CONSTANTS = (
    "int64[1] start = {0}, int64[1] one = {1}, int64[1] five = {5}, int64[1] eight = {8}, int64 twice = {2}"
)


def network(
    nodes: str, scores: str = "float[N, 4] scores", end: str = "scores = MatMul(m, v)", functions: str = ""
):
    """image (N, 3, 32, 32) -> conv, relu -> the nodes, from 'r' to 'y' -> mean -> scores (N, 4)."""
    model = onnx.parser.parse_model(f"""
        <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
        failing (float[N, 3, 32, 32] image) => ({scores})
        <float[8, 3, 3, 3] w = {{}}, float[8, 4] v = {{}}, float zero = {{0}}, float[8, 8, 1, 1] w8 = {{}}, {CONSTANTS}>
        {{
            c = Conv<pads = [1, 1, 1, 1]>(image, w)
            r = Relu(c)
            {nodes}
            m = ReduceMean<axes = [2, 3], keepdims = 0>(y)
            {end}
        }}
        {functions}
    """)
    random = np.random.default_rng(0)
    weights = {"w": random.standard_normal((8, 3, 3, 3)) / 5, "v": random.standard_normal((8, 4))}
    weights["w8"] = np.ones((8, 8, 1, 1))
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(weights[tensor.name].astype(np.float32), tensor.name)
            )
    for node in model.graph.node:
        node.name = f"the_{node.op_type.lower()}"
    model.graph.node[0].name = "first"
    return model


FAILING = {
    "Reshape": network(
        f"{COUNTED} k1 = Unsqueeze(k, start) to = Concat<axis = 0>(k1, eight, k1, one) y = Reshape(r, to)"
    ),
    "Gather": network(f"{COUNTED} g = Gather<axis = 1>(r, k) y = Add(r, g)"),
    "Conv": network(
        f"{COUNTED} k1 = Unsqueeze(k, start) k2 = Min(k1, five) part = Slice(r, start, k2, one) y = Conv(part, w8)"
    ),
    "Expand": network(f"{COUNTED} k1 = Unsqueeze(k, start) y = Expand(r, k1)"),
    "Loop": network(f"""
        {COUNTED}
        y = Loop(twice, , r)<body = body (int64 i, bool go, float held) => (bool on, float next) {{
            on = Identity(go)
            g = Gather<axis = 1>(held, k)
            next = Add(held, g)
        }}>
    """),
}
for attribute in FAILING["Loop"].graph.node[-3].attribute:
    for value in (attribute.g.input[2], attribute.g.output[1]):
        value.type.tensor_type.ClearField("shape")
    attribute.g.node[1].name = "within"
NAMED = {name: f"operator {name} (node 'the_{name.lower()}'" for name in FAILING}
NAMED["Loop"] = "operator Gather (node 'within', layer 'g')"
NAMED["Conv"] = "operator Conv (node 'the_conv', layer 'y')"
# On processors whose blocked layout takes these channels, an operator of ONNX Runtime's own fails in front of it.
IN_FRONT = {"Conv": "operator ReorderInput"}


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((1, 3, 32, 32)).astype(np.float32)


def opened(model: onnx.ModelProto):
    return onnxviz.load(model, preprocess="unit", size=32, provider="cpu")


@pytest.mark.parametrize("name", FAILING)
def test_a_network_that_fails_is_the_models_fault(name, x):
    with pytest.raises(ModelFailed) as failed:
        opened(FAILING[name]).run(x, ["scores"])
    said = str(failed.value)
    assert NAMED[name] in said or IN_FRONT.get(name, NAMED[name]) in said
    assert "onnxruntime_src" not in str(failed.value)
    assert failed.value.exit_code == 3 and isinstance(failed.value, ModelRejected)
    with pytest.raises(OnnxVizError) as within:  # its gradient likewise
        opened(FAILING[name]).value_and_gradient(onnxviz.objectives.logit(1))(x)
    assert within.value.exit_code == 3, within.value


def test_a_function_of_the_file_is_the_models_own(x):
    body = '<domain: "own", opset_import: ["" : 17]> Outside (a, b) => (c) { g = Gather<axis = 1>(a, b) c = Add(a, g) }'
    model = network(f"{COUNTED} y = own.Outside(r, k)", functions=body)
    model.functions[0].node[0].name = "within"
    net = opened(model)
    inside = [layer.name for layer in net.layers if layer.op == "Add"]
    for names in (["scores"], [*inside, "scores"]):  # inlined by ONNX Runtime, and by us
        with pytest.raises(ModelFailed, match=r"operator Gather \(node '\w*within'"):
            net.run(x, names)


DOUBLE = network("d = Cast<to = 11>(r) w64 = Cast<to = 11>(w8) y64 = Conv(d, w64) y = Cast<to = 1>(y64)")
DOUBLE.graph.node[4].name = "in_double"


@pytest.mark.parametrize(
    ("model", "command", "words"),
    [
        *((FAILING[name], "predict", NAMED[name]) for name in FAILING),
        *((FAILING[name], command, "") for name in FAILING for command in ("saliency", "occlusion", "cam")),
        (DOUBLE, "predict", "in_double"),  # a kernel that does not exist
    ],
)
def test_the_command_line_says_which_node(model, command, words, tmp_path, capsys):
    onnx.save(model, tmp_path / "failing.onnx")
    pixels = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    out = [] if command == "predict" else ["-o", str(tmp_path / "out.png")]
    given = [str(tmp_path / "failing.onnx"), str(tmp_path / "photo.png"), *out]
    code = run([command, *given, "--preprocess", "unit", "--size", "32", "--provider", "cpu"])
    said = capsys.readouterr().err
    assert code == 3, said
    assert "bug" not in said and (words in said or (words == NAMED["Conv"] and IN_FRONT["Conv"] in said))


def test_nodes_without_names_are_named_by_their_layer(x):
    unnamed = onnx.ModelProto.FromString(FAILING["Gather"].SerializeToString())
    for one in unnamed.graph.node:
        one.name = ""
    with pytest.raises(ModelFailed, match=r"operator Gather \(node 'g', layer 'g'\)"):
        opened(unnamed).run(x, ["scores"])


def test_a_wrong_input_is_the_callers_mistake(x):
    net = opened(network("y = Identity(r)"))
    gradient = net.value_and_gradient(onnxviz.objectives.logit(1))
    for wrong in (x[:, :2], x[:, :, :31], x[0]):
        for call in (gradient, lambda given: net.run(given, ["scores"])):
            with pytest.raises(OnnxVizError) as failed:
                call(wrong)
            assert failed.value.exit_code in (2, 3), failed.value


# --- ours ---------------------------------------------------------------------------------------


def two() -> ir.Model:
    """x -> Reshape 'theirs' -> Reshape 'ours', which fails where x has no 6 entries or 4."""
    model = parsed("""
        two (float[K] x) => (float b) <int64[2] six = {3, -1}, int64[2] four = {4, -1}> {
            a = Reshape(x, six)
            b = Reshape(a, four)
        }
    """)
    model.graph.outputs[0].shape = None
    for node, name in zip(model.graph, ("theirs", "ours"), strict=True):
        node.name = name
    return model


def test_a_node_that_we_added_is_our_mistake():
    program = compile(two(), provider="cpu", own={"x", "a", "theirs"})
    with pytest.raises(ModelFailed, match=r"node 'theirs', layer 'a'"):
        program({"x": np.ones(5, np.float32)})
    told = r"a graph that onnxviz wrote: operator Reshape \(node 'ours'\)"
    with pytest.raises(RuntimeFailed, match=told) as failed:
        program({"x": np.ones(6, np.float32)})
    assert not isinstance(failed.value, ModelRejected) and failed.value.exit_code == 5
    program({"x": np.ones(12, np.float32)})


def test_an_objective_of_scores_without_a_number_is_told():
    """How many classes there are only the run tells: none."""
    end = "all = MatMul(m, v) none = Sub(k, k) end = Unsqueeze(none, start) scores = Slice(all, start, end, one)"
    model = network(f"{COUNTED} y = Identity(r)", scores="float[N, classes] scores", end=end)
    model.graph.output[0].type.tensor_type.shape.dim[1].ClearField("dim_param")
    with pytest.raises(UsageError, match="an entry that the output does not have"):
        onnxviz.cam(opened(model), np.zeros((32, 32, 3), np.uint8), target=1)


@pytest.mark.parametrize("feeds", [{}, {"z": np.ones(6, np.float32)}])
def test_what_we_feed_wrongly_is_our_mistake(feeds):
    with pytest.raises(RuntimeFailed) as failed:
        compile(two(), provider="cpu")(feeds)
    assert failed.value.exit_code == 5


def test_a_gradient_that_fails_where_the_network_runs_is_our_mistake(x, monkeypatch):
    net = opened(network("y = Identity(r)"))
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
    buffer = "/a/b.cc:1 void* f(int) Failed to allocate memory for requested buffer of size 9"
    for error in (RuntimeError(f"{text}std::bad_alloc"), RuntimeError(text + buffer), MemoryError()):
        assert isinstance(typed(error, {}, None), LimitExceeded)
    assert "after 3 s" in str(typed(RuntimeError("Exiting due to terminate flag"), {}, 3.0))


def test_names_in_messages_are_bounded_and_printable():
    name = "\x1b[2J" + "n" * 10_000
    error = RuntimeError(f"while running Add node. Name:'{name}' Status Message: " + "because " * 1000)
    graph = ir.Graph([], [], nodes=[ir.Node("", "Add", [], name=name)], opset_imports={"": 17})
    said = str(typed(error, places(graph, None), None))
    assert len(said) < 700 and "\x1b" not in said
