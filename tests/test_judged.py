"""An analysis that stumbles over a graph which nothing can run says so; over a sound one the mistake is ours."""

import numpy as np
import onnx
import onnxruntime
import pytest
from heads import finished, linear, pooled, renamed, trunk
from networks import Maker, fp16, tiny_cnn
from onnx import helper

import onnxviz
from onnxviz.errors import ModelRejected, OnnxVizError
from onnxviz.graph.open.load import load as load_graph

PHOTO = np.random.default_rng(0).integers(0, 255, (40, 44, 3), dtype=np.uint8)


def opened(model):
    return onnxviz.load(model.SerializeToString(), provider="cpu", threads=1)


def statistics_of_another_length():
    """A BatchNormalization behind a Conv, with a length that is not that of the channels."""
    m = Maker()
    x = m("BatchNormalization", trunk(m), *(m.constant(np.ones(5, np.float32)) for _ in range(4)))
    return finished(m, renamed(m, linear(m, m("Flatten", m("GlobalAveragePool", x)), 10), "y"))


def softmax_along_an_axis_that_is_not_there():
    m = Maker()
    return finished(m, renamed(m, m("Softmax", linear(m, pooled(m), 10), axis=7), "y"))


BROKEN = [statistics_of_another_length, softmax_along_an_axis_that_is_not_there]


@pytest.mark.parametrize("make", BROKEN)
def test_what_onnx_runtime_refuses_is_the_files_mistake(make):
    model = make()
    with pytest.raises(Exception, match="BatchNormalization|Softmax|axis"):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        session.run(None, {"image": np.zeros((1, 3, 16, 16), np.float32)})
    try:
        net = opened(model)
    except OnnxVizError as error:
        assert error.exit_code == 3
        return
    for analysis in (
        lambda: net.end,
        lambda: onnxviz.inspect(net).lines(),
        lambda: net.value_and_gradient(onnxviz.objectives.logit(0))(net.prepare(PHOTO)),
        lambda: onnxviz.gradient_model(model.SerializeToString()),
    ):
        try:
            analysis()
        except OnnxVizError as error:
            assert error.exit_code == 3, error


@pytest.mark.parametrize("where", ["layers", "head", "gradient"])
def test_a_mistake_of_ours_stays_one(monkeypatch, where):
    """On a network that runs, nothing is made of an exception."""

    def broken(*_arguments, **_named):
        raise TypeError("a mistake of ours")

    net = opened(tiny_cnn())
    if where == "layers":
        monkeypatch.setattr("onnxviz.graph.layers.of", broken)
        analysis = lambda: net.layers  # noqa: E731
    elif where == "head":
        monkeypatch.setattr("onnxviz.meaning.head", broken)
        analysis = lambda: net.end  # noqa: E731
    else:
        monkeypatch.setattr("onnxviz.grad.model.normalise", broken)
        analysis = lambda: net.value_and_gradient(onnxviz.objectives.logit(0))  # noqa: E731
    with pytest.raises(TypeError, match="a mistake of ours"):
        analysis()


def test_the_same_mistake_over_a_broken_file_names_what_onnx_runtime_says(monkeypatch):
    def broken(*_arguments, **_named):
        raise TypeError("stumbled")

    m = (
        Maker()
    )  # how long the rows are is told by the picture alone: nothing can be said when the file is opened
    length = m("Cast", m("ReduceSum", m("Sign", m("Abs", "image")), keepdims=0), to=onnx.TensorProto.INT64)
    x = m("Reshape", trunk(m), m("Concat", m.constant([-1]), m("Unsqueeze", length, m.constant([0])), axis=0))
    net = opened(finished(m, renamed(m, x, "y")))
    monkeypatch.setattr("onnxviz.graph.layers.of", broken)
    with pytest.raises(ModelRejected, match="Reshape") as found:
        _ = net.layers
    assert isinstance(found.value.__cause__, TypeError)


# --- what runs must work --------------------------------------------------------------------------


def test_a_sequence_beside_the_scores():
    """ONNX Runtime computes it; nothing here reads it, and it is no layer."""
    model = tiny_cnn()
    model.graph.node.append(helper.make_node("SequenceConstruct", ["relu1", "relu2"], ["pieces"]))
    model.graph.output.append(helper.make_tensor_sequence_value_info("pieces", onnx.TensorProto.FLOAT, None))
    net, plain = opened(model), opened(tiny_cnn())
    assert [layer.name for layer in net.layers] == [layer.name for layer in plain.layers]
    assert net.predict(PHOTO) == plain.predict(PHOTO)
    x = net.prepare(PHOTO)
    found, expected = (one.value_and_gradient(onnxviz.objectives.logit(3))(x)[1] for one in (net, plain))
    np.testing.assert_array_equal(found, expected)
    assert net.outputs[1].kind == "other"
    assert "sequence" in net.outputs[1].describe()


def test_an_output_listed_twice():
    for model in (tiny_cnn(), fp16(tiny_cnn())):
        plain = opened(model)
        model.graph.output.append(model.graph.output[0])
        net = opened(model)
        assert net.predict(PHOTO) == plain.predict(PHOTO)
        assert any("more than once" in text for text in net.warnings)
        assert onnxviz.inspect(net).gradients == onnxviz.inspect(plain).gradients


def test_a_shape_of_two_axes_fills_as_in_onnx_runtime():
    m = Maker()
    ones = m("ConstantOfShape", m.constant([[8, 1, 1]]), value=helper.make_tensor("v", 1, [1], [2.0]))
    x = m("Mul", trunk(m), ones)
    model = finished(m, renamed(m, linear(m, m("Flatten", m("GlobalAveragePool", x)), 10), "y"))
    net = opened(model)
    x = net.prepare(PHOTO)
    value, gradient = net.value_and_gradient(onnxviz.objectives.logit(0))(x)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    assert value[0] == pytest.approx(session.run(None, {"image": x})[0][0, 0], rel=1e-5)
    assert np.abs(gradient).max() > 0


def test_codes_with_a_scale_for_each_channel_stay_hashable():
    """Layers are looked up in caches; a scale for each channel of an activation was a list."""
    m = Maker()
    scales, zeros = m.constant(np.full(8, 0.1, np.float32)), m.constant(np.zeros(8, np.int8))
    x = m("DequantizeLinear", m("QuantizeLinear", trunk(m), scales, zeros, axis=1), scales, zeros, axis=1)
    net = opened(finished(m, renamed(m, linear(m, m("Flatten", m("GlobalAveragePool", x)), 10), "y")))
    held = [layer for layer in net.layers if layer.quantised is not None]
    assert held and len(held[0].quantised.scale) == 8
    assert len({*net.layers}) == len(net.layers)


def test_a_pool_of_endless_windows_is_refused():
    model = tiny_cnn()
    pool = next(node for node in model.graph.node if node.op_type == "MaxPool")
    pool.attribute[0].ints[:] = [2, 2**62]
    with pytest.raises(OnnxVizError) as found:
        load_graph(model.SerializeToString())
        onnxviz.gradient_model(model.SerializeToString())
    assert found.value.exit_code in (3, 4)


@pytest.mark.parametrize(
    ("version", "op", "runs"), [(13, "Relu", True), (14, "Relu", True), (15, "Resize", False)]
)
def test_a_function_in_another_version_of_the_operators(version, op, runs):
    """Where what it holds is the same operator in both it is inlined, else refused: never a bare ValueError."""
    model = tiny_cnn(opset=25)
    inputs = ["x"] if op == "Relu" else ["x", "", "scales"]
    nodes = [helper.make_node(op, inputs, ["y"])]
    if op == "Resize":
        scales = helper.make_tensor("s", 1, [4], [1, 1, 1, 1])
        nodes.insert(0, helper.make_node("Constant", [], ["scales"], value=scales))
    body = helper.make_function("local", "Block", ["x"], ["y"], nodes, [helper.make_opsetid("", version)])
    model.functions.append(body)
    model.opset_import.add(domain="local", version=1)
    model.graph.node.append(helper.make_node("Block", ["relu1"], ["blocked"], domain="local"))
    model.graph.output.append(helper.make_tensor_value_info("blocked", 1, None))
    net = opened(model)
    if runs:
        assert "blocked" in [layer.name for layer in net.layers]
    else:
        with pytest.raises(ModelRejected, match=f"version {version} .*{op}"):
            _ = net.layers


def test_an_output_that_does_not_depend_on_the_picture():
    """It is folded into a weight; that there is no gradient is the file's doing."""
    m = Maker()
    x = m("Softmax", m("Add", m.constant(np.ones((1, 10), np.float32)), m.constant(np.float32(1))))
    model = finished(m, renamed(m, x, "y"))
    with pytest.raises(ModelRejected, match="does not depend"):
        onnxviz.gradient_model(model.SerializeToString())


@pytest.mark.parametrize("inputs", [["", "start", "end"], ["shape", "", "end"]])
def test_lengths_computed_from_an_input_left_out(inputs):
    """What follows from constants is concluded when a file is opened; nothing follows from nothing."""
    m = Maker()
    for name, values in (("shape", [2, 8, -1]), ("start", [0]), ("end", [3])):
        m.constant(values, name)
    x = m("Reshape", trunk(m), m("Slice", *inputs))
    try:
        _ = opened(finished(m, renamed(m, x, "y"))).layers
    except OnnxVizError as error:
        assert error.exit_code == 3


def test_weights_without_numbers_are_no_filters():
    m = Maker()
    x = m("Conv", "image", m.constant(np.zeros((0, 3, 3, 3), np.float32)), pads=[1] * 4)
    try:
        net = opened(finished(m, renamed(m, x, "y")))
    except OnnxVizError as error:
        assert error.exit_code == 3
        return
    with pytest.raises(ModelRejected, match="no filters"):
        onnxviz.filters(net)


@pytest.mark.parametrize(("op", "value"), [("ReduceMax", -np.inf), ("ReduceMin", np.inf)])
def test_the_extreme_of_nothing_on_torch(op, value):
    """As ONNX Runtime has it; torch itself refuses."""
    torch = pytest.importorskip("torch")
    from onnxviz.backends.torch import elementwise

    found = elementwise._REDUCTIONS[op](torch.zeros(2, 0, 3), (1,))
    np.testing.assert_array_equal(found.numpy(), np.full((2, 1, 3), value, np.float32))
