"""The torch backend: operators against the onnx package's own cases, gradients against native ones, the fallback."""

from __future__ import annotations

import functools
import json
import warnings
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from onnxviz import objectives
from onnxviz.errors import (
    LimitExceeded,
    ModelUnsuitable,
    ProviderUnavailable,
    RuntimeFailed,
    UnsupportedOperator,
    UsageError,
)
from onnxviz.grad.table import VJP_RULES
from onnxviz.runtime import backends
from onnxviz.runtime.torch_backend.executor import Executor, knows
from onnxviz.runtime.torch_backend.table import OPERATORS, operator
from onnxviz.runtime.torch_backend.tensors import from_numpy
from tests import networks
from tests.runtime import operator_cases
from tests.runtime.torch_cases import lstm_network

torch.set_num_threads(1)

# --- operators, forward ---------------------------------------------------------------------------

# Types that torch has not, training, strings, and operators of no network that looks at pictures.
NOT_RUN = (
    "test_ai_onnx_ml",
    "test_adagrad",
    "test_adam",
    "test_bernoulli",
    "test_bitcast",
    "test_bitwise_not_3d",  # uint16
    "test_col2im_5d",
    "test_image_decoder",
    "test_melweightmatrix",
    "test_momentum",
    "test_nesterov",
    "test_quantizelinear_blocked_symmetric",  # int4
    "test_sce",
    "test_tfidf",
    "test_training_dropout",
)
# Where ONNX Runtime, which the networks run on, differs from the standard's reference.
AS_ONNX_RUNTIME = (
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
)
EMPTY = ("test_reduce_max_empty_set", "test_reduce_min_empty_set")


@functools.lru_cache(maxsize=1)
def node_cases() -> dict[str, list[Any]]:
    """The onnx package's cases that have types of torch's, in groups."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    groups: dict[str, list[Any]] = {}
    for case in found:
        if case.name.startswith((*NOT_RUN, *AS_ONNX_RUNTIME, *EMPTY)) or not _fits(case):
            continue
        groups.setdefault(case.name.removeprefix("test_").partition("_")[0][:2], []).append(case)
    return groups


def _fits(case: Any) -> bool:
    def plain(value: Any) -> bool:
        if value is None:
            return True
        if isinstance(value, (list, tuple)):
            return all(plain(v) for v in value)
        return np.asarray(value).dtype.name in (
            "float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool",
        )  # fmt: skip

    return all(plain(v) for group in case.data_sets for values in group for v in values)


def _tensor(value: Any) -> Any:
    if value is None:
        return None
    return [_tensor(v) for v in value] if isinstance(value, list) else from_numpy(np.asarray(value))


def _same(found: Any, expected: Any) -> None:
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for a, b in zip(found, expected, strict=True):
            _same(a, b)
    elif expected is not None:
        array = np.asarray(expected)
        assert found.shape == array.shape
        tolerance = 1e-2 if array.dtype == np.float16 else 1e-3  # some are written with four digits
        np.testing.assert_allclose(
            found.numpy().astype(np.float64), array.astype(np.float64), rtol=tolerance, atol=1e-4
        )
    else:
        assert found is None


@pytest.mark.parametrize("group", sorted(node_cases()))
def test_cases_of_the_standard(group: str) -> None:
    """Forward as the standard's own examples have it, every attribute and opset variant among them."""
    for case in node_cases()[group]:
        run = Executor(ir.from_proto(case.model))
        for inputs, outputs in case.data_sets:
            names = [value.name for value in case.model.graph.input]
            found = run({n: _tensor(v) for n, v in zip(names, inputs, strict=True)})
            for value, expected in zip(case.model.graph.output, outputs, strict=True):
                try:
                    _same(found[value.name], expected)
                except AssertionError as error:
                    raise AssertionError(f"{case.name}: {error}") from error


def test_enough_of_the_standard_is_run() -> None:
    """Every function of the table has a case, there or in this file."""
    ran = {
        node.op_type for group in node_cases().values() for case in group for node in case.model.graph.node
    }
    assert sum(map(len, node_cases().values())) > 1000
    here = {
        "MaxRoiPool",
        "Upsample",
        "DynamicQuantizeLinear",
        "GlobalLpPool",
        "SequenceErase",
        "SequenceLength",
    }
    here |= {"SequenceAt", "SequenceConstruct", "ConcatFromSequence", "SequenceEmpty"}
    older_names = {"Scatter", "SimplifiedLayerNormalization", "Optional", "OptionalGetElement"}
    assert {name for name in OPERATORS if "::" not in name} - here - older_names - ran == set()


def test_sequences() -> None:
    from tests.grad.oracle import session

    m = networks.Maker(17)
    rows = m("SplitToSequence", "x", m.constant([1, 2, 1]), axis=1)
    longer = m("SequenceInsert", rows, m("SequenceAt", rows, m.constant(-1)), m.constant(1))
    shorter = m("SequenceErase", longer, m.constant(0))
    pair = m("SequenceConstruct", "x", m("Neg", "x"))
    empty = m("SequenceInsert", m("SequenceEmpty"), m("ConcatFromSequence", pair, axis=0, new_axis=1))
    y = m("ConcatFromSequence", shorter, axis=1)
    z = m("Mul", m("SequenceAt", empty, m.constant(0)), m("Cast", m("SequenceLength", shorter), to=1))
    model = m.model({"x": (2, 4)}, {y: None, z: None})
    x = np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)
    found = Executor(ir.from_proto(model))({"x": torch.tensor(x)})
    expected = session(onnx.shape_inference.infer_shapes(model)).run(None, {"x": x})
    for name, array in zip([y, z], expected, strict=True):
        np.testing.assert_allclose(found[name].numpy(), array)
    _by_differences(model, x, z)


def test_every_native_operator_is_there() -> None:
    """What has a rule runs on torch too; most of the issue's list that has none does."""
    assert [name for name in VJP_RULES if not knows(name)] == []
    for name in ("LSTM", "GRU", "RNN", "If", "Loop", "Scan", "Attention", "RotaryEmbedding", "DeformConv"):
        assert knows(name)
    assert not knows("acme::Secret")


@pytest.mark.parametrize(
    ("op", "shape", "weights", "attributes", "opset"),
    [
        ("RoiAlign", (2, 3, 9, 7), {"r": np.float32([[1, 1, 7, 6], [0, 2, 3, 8.5]]), "b": np.int64([1, 0])},
         {"mode": "max", "output_height": 2, "output_width": 3, "sampling_ratio": 2}, 16),
        ("RoiAlign", (2, 3, 9, 7), {"r": np.float32([[-3, 1, 7, 6], [0, 2, 13, 8.5]]), "b": np.int64([1, 0])},
         {"output_height": 2, "output_width": 3, "spatial_scale": 0.7}, 10),
        ("MaxRoiPool", (2, 3, 9, 7), {"r": np.float32([[1, 1, 1, 5, 6], [0, 0, 2, 6, 8]])},
         {"pooled_shape": [3, 2]}, 13),
        ("Upsample", (1, 2, 3, 4), {"s": np.float32([1, 1, 2, 3])}, {"mode": "linear"}, 9),
        ("Resize", (1, 1, 2, 4), {"s": np.float32([1, 1, 0.6, 0.6])},
         {"mode": "linear", "coordinate_transformation_mode": "align_corners"}, 13),
        ("MaxPool", (2, 3, 9, 8), {}, {"kernel_shape": [3, 2], "pads": [1, 0, 0, 1], "strides": [2, 3]}, 12),
        ("Softmax", (2, 3, 4), {}, {}, 11),
        ("DynamicQuantizeLinear", (3, 5), {}, {}, 13),
    ],
)  # fmt: skip
def test_as_onnx_runtime(op: str, shape: tuple, weights: dict, attributes: dict, opset: int) -> None:
    """Forms that the standard's examples lack, or that ONNX Runtime reads in its own way."""
    from tests.grad.oracle import session

    names = ["x", "r", "b"] if op in ("RoiAlign", "MaxRoiPool") else ["x", "s"]
    inputs = ["x", *names[1 : 1 + len(weights)]]
    if op == "Resize":
        inputs = ["x", "none", "s"]
        weights = {"none": np.zeros(0, np.float32), **weights}
    outputs = ["y", "i"] if op == "MaxPool" else ["y", "s", "z"] if op == "DynamicQuantizeLinear" else ["y"]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, outputs, **attributes)],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    found = Executor(ir.from_proto(model))({"x": torch.tensor(x)})
    for name, expected in zip(
        outputs, session(onnx.shape_inference.infer_shapes(model)).run(None, {"x": x}), strict=True
    ):
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-5, atol=1e-6)


# --- gradients ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", operator_cases.CASES)
def test_gradient_as_native(name: str) -> None:
    found, expected = (operator_cases.gradients(name, backend) for backend in ("torch", "native"))
    assert operator_cases.worst(found, expected) < 2e-5


def _by_differences(model: onnx.ModelProto, x: np.ndarray, output: str) -> None:
    """autograd against central differences, in float64."""
    run = Executor(ir.from_proto(model), precision=torch.float64)
    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    name = model.graph.input[0].name
    assert torch.autograd.gradcheck(lambda t: run({name: t})[output], tensor, eps=1e-5, atol=1e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_recurrent_layers(op: str, direction: str) -> None:
    """Sequences of different lengths, initial states; forward as ONNX Runtime, gradient by differences."""
    from tests.grad.oracle import session

    m = networks.Maker(17)
    gates, ways = {"RNN": 1, "GRU": 3, "LSTM": 4}[op], 2 if direction == "bidirectional" else 1
    lengths, states = m.constant(np.int32([4, 2])), [m.random(ways, 2, 3)] * (2 if op == "LSTM" else 1)
    weights = [m.random(ways, gates * 3, 5), m.random(ways, gates * 3, 3), m.random(ways, gates * 6)]
    y, last = m(op, "x", *weights, lengths, *states, hidden_size=3, direction=direction, outputs=2)
    model = m.model({"x": (4, 2, 5)}, {y: (4, ways, 2, 3), last: (ways, 2, 3)})
    x = np.random.default_rng(1).standard_normal((4, 2, 5)).astype(np.float32)
    found = Executor(ir.from_proto(model))({"x": torch.tensor(x)})
    for name, expected in zip([y, last], session(model).run(None, {"x": x}), strict=True):
        np.testing.assert_allclose(found[name].numpy(), expected, rtol=1e-4, atol=1e-6)
    _by_differences(model, x, y)


def loop_network() -> onnx.ModelProto:
    """x·x·…, as often as its own length says, and every step of it; with a scan over rows."""
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["before", "x"], ["after"]),
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Sin", ["after"], ["seen"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, ["N", 3]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, ["N", 3]),
            helper.make_tensor_value_info("seen", TensorProto.FLOAT, ["N", 3]),
        ],
    )
    big, small = (
        helper.make_graph(
            [helper.make_node(op, ["last"], [f"{op}_out"])],
            op,
            [],
            [helper.make_tensor_value_info(f"{op}_out", TensorProto.FLOAT, ["N", 3])],
        )
        for op in ("Tanh", "Neg")
    )
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], start=1),
        helper.make_node("Squeeze", ["shape"], ["times"]),
        helper.make_node("Loop", ["times", "", "x"], ["last", "all"], body=body),
        helper.make_node("ReduceSum", ["last"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["chosen"], then_branch=big, else_branch=small),
        helper.make_node("ReduceSum", ["all", "first"], ["steps"], keepdims=0),
        helper.make_node("Add", ["chosen", "steps"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "loop",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [
            numpy_helper.from_array(np.float32(0), "zero"),
            numpy_helper.from_array(np.int64([0]), "first"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("sign", [1, -1])
def test_loops_and_branches(sign: int) -> None:
    from tests.grad.oracle import session

    model = loop_network()
    x = sign * np.float32([[0.5, 1.2, -0.3], [0.7, 0.1, 0.9]])
    found = Executor(ir.from_proto(model))({"x": torch.tensor(x)})["y"]
    np.testing.assert_allclose(found.numpy(), session(model).run(None, {"x": x})[0], rtol=1e-5)
    _by_differences(model, x, "y")


@pytest.mark.parametrize("rules", ["plain", "guided", "deconvnet", "redirected"])
@pytest.mark.parametrize("six", [False, True], ids=["Relu", "ReLU6"])
def test_variants_as_native(rules: str, six: bool) -> None:
    model = networks.tiny_cnn(softmax=False)
    if six:
        model.graph.initializer.extend(
            [numpy_helper.from_array(np.float32(v), k) for k, v in (("low", 0), ("high", 0.6))]
        )
        for node in model.graph.node:
            if node.op_type == "Relu":
                node.op_type = "Clip"
                node.input.extend(["low", "high"])
    x = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    found, expected = (
        onnxviz.load(model, provider="cpu", preprocess="unit", backend=backend).gradients(
            objectives.logit(2), ["image", "relu1"], rules=rules
        )(x)
        for backend in ("torch", "native")
    )
    assert operator_cases.worst(found, expected) < 1e-5


@pytest.mark.parametrize(
    "form", ["fp16", "qdq", "qoperator", "uint8", "nhwc", "static_batch", "with_function"]
)
def test_forms_as_native(form: str) -> None:
    """Half precision, quantised (straight through, stopped by saturation), bytes, and other forms of files."""
    plain = networks.tiny_cnn(softmax=False)
    made = {
        "fp16": lambda: networks.fp16(plain),
        "qdq": lambda: networks.qdq(plain),
        "qoperator": lambda: networks.qoperator(plain),
        "uint8": lambda: networks.tiny_cnn(softmax=False, uint8=True),
        "nhwc": networks.nhwc,
        "static_batch": networks.static_batch,
        "with_function": networks.with_function,
    }
    model = made[form]()
    nets = [
        onnxviz.load(
            model, provider="cpu", preprocess="uint8" if form == "uint8" else "unit", backend=backend
        )
        for backend in ("torch", "native")
    ]
    shape = [
        4 if i == 0 else d or 8 for i, d in enumerate(nets[0].input.shape) if not isinstance(d, str) or i == 0
    ]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x = np.round(np.abs(x) * 80) if form == "uint8" else x
    last = nets[0].model.graph.outputs[0].name or ""
    found, expected = (net.gradients(objectives.l2(last), also=[last])(x) for net in nets)
    assert set(found) == set(expected)
    for name, array in expected.items():
        cosine = float((found[name] * array).sum() / np.linalg.norm(found[name]) / np.linalg.norm(array))
        assert cosine >= 0.9999, name  # one quantisation step either way is another integer


# --- as a backend ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader():
    return onnxviz.load(lstm_network(), provider="cpu", preprocess="unit")


def test_fallback_says_so(reader) -> None:
    """An operator without a rule: torch takes over, with a warning and in the manifest."""
    x = np.random.default_rng(0).random((3, 3, 16, 16), dtype=np.float32)
    found = reader.gradients(objectives.logit(2))(x)
    reader.gradients(objectives.logit(3))
    assert np.abs(found["image.gradient"]).max() > 0
    notes = [text for text in reader.warnings if "torch" in text]
    assert len(notes) == 1
    assert "LSTM" in notes[0]
    manifest = reader.manifest("test")
    assert manifest["backend"] == "torch"
    assert manifest["versions"]["torch"] == backends.version("torch")
    assert notes[0] in manifest["warnings"]
    h = np.float32(1e-4)
    step = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    scores = [reader.run(x + s * h * step, [reader.head.logits])[reader.head.logits][:, 2] for s in (1, -1)]
    slope = (found["image.gradient"] * step).sum((1, 2, 3))
    np.testing.assert_allclose((scores[0] - scores[1]) / (2 * h), slope, atol=3e-4)


def test_native_when_it_can() -> None:
    net = onnxviz.load(networks.tiny_cnn(), provider="cpu", preprocess="unit")
    assert net.manifest("test")["backend"] is None
    net.gradients(objectives.logit(2))
    assert net.manifest("test")["backend"] == "native"
    assert "torch" not in net.manifest("test")["versions"]
    assert not any("torch" in text for text in net.warnings)


def test_without_torch_the_way_out_is_named(monkeypatch, reader) -> None:
    from onnxviz.runtime.torch_backend import program

    monkeypatch.setattr(program, "available", lambda: None)
    with pytest.raises(UnsupportedOperator, match=r"LSTM.*--backend torch.*onnxviz\[torch\]"):
        reader.gradients(objectives.logit(1))
    assert onnxviz.inspect(reader).torch_only is None


def test_inspect_names_what_only_torch_does(reader) -> None:
    found = onnxviz.inspect(reader)
    assert found.torch_only == ["LSTM"]
    assert "no rule for LSTM; torch does" in found.lines()[-1]
    plain = onnxviz.inspect(onnxviz.load(networks.tiny_cnn(), provider="cpu", preprocess="unit"))
    assert plain.torch_only == []


def test_the_command_line_says_so(tmp_path, capsys) -> None:
    from PIL import Image

    from onnxviz.cli.main import run

    onnx.save(lstm_network(), tmp_path / "reader.onnx")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    names = [str(tmp_path / "reader.onnx"), str(tmp_path / "a.png"), "--preprocess", "unit"]
    out = ["-o", str(tmp_path / "map.png")]
    assert run(["saliency", *names, "--target", "1", *out]) == 0
    assert "gradients are computed by torch" in capsys.readouterr().err
    manifest = json.loads((tmp_path / "map.json").read_text())
    assert manifest["backend"] == "torch"
    assert run(["saliency", *names, "--backend", "native", *out]) == 3
    assert "--backend torch" in capsys.readouterr().err
    assert run(["saliency", *names, "--backend", "pytorch", *out]) == 2
    assert "did you mean 'torch'" in capsys.readouterr().err


def secret_network() -> onnx.ModelProto:
    """Half of it behind an operator that nobody knows, as an output that the scores do not need."""
    m = networks.Maker(17)
    x = m("Relu", "image")
    scores = m("Flatten", m("GlobalAveragePool", x))
    return m.model({"image": ("N", 3, 8, 8)}, {scores: ("N", 3)})


def task(model: onnx.ModelProto, objective: Any, **options: Any) -> backends.Task:
    given = {
        "sources": ("image",), "also": (), "rules": "plain", "provider": "cpu", "threads": 1, "seconds": None,
        **options,
    }  # fmt: skip
    return backends.Task(model=ir.from_proto(model), objective=objective, **given)


def test_no_silent_zero_map() -> None:
    """What has no derivative is refused, as native gradients do, not answered with zeros."""
    for op in ("Floor", "Round", "Sign", "Ceil"):
        m = networks.Maker(17)
        flat = m("Flatten", m(op, "image"))
        model = m.model({"image": ("N", 1, 2, 2)}, {flat: ("N", 4)})
        program = backends.compile(task(model, objectives.logit(1, layer=flat)), "torch").program
        with pytest.raises(ModelUnsuitable, match="zero everywhere"):
            program({"image": np.ones((1, 1, 2, 2), np.float32)})


def test_a_layer_that_nothing_leads_to() -> None:
    m = networks.Maker(17)
    first = m("Relu", "image")
    other = m("Sigmoid", "image")
    flat = m("Flatten", first)
    model = m.model({"image": ("N", 1, 2, 2)}, {flat: ("N", 4), other: None})
    made = task(model, objectives.logit(1, layer=flat), sources=("image", other))
    with pytest.raises(ModelUnsuitable, match=other):
        backends.compile(made, "torch").program({"image": np.ones((1, 1, 2, 2), np.float32)})


def test_unknown_operators_and_attributes() -> None:
    m = networks.Maker(17)
    m.nodes.append(helper.make_node("Secret", ["image"], ["s"], domain="acme", name="block3/secret"))
    m.domains.add("acme")
    model = m.model({"image": ("N", 3, 2, 2)}, {"s": ("N", 3)})
    with pytest.raises(UnsupportedOperator, match="acme::Secret.*block3/secret.*torch"):
        backends.compile(task(model, objectives.part("s")), "torch")
    graph = ir.from_proto(secret_network())
    graph.graph[0].attributes["alpha"] = ir.AttrFloat32("alpha", 0.3)
    with pytest.raises(UnsupportedOperator, match="'alpha'"):
        Executor(graph)({"image": torch.zeros(1, 3, 8, 8)})
    with pytest.raises(RuntimeError, match="two torch functions for Relu"):
        operator("Relu")(torch.relu)


def test_limits_and_failures() -> None:
    endless = task(loop_network(), objectives.part("y"), sources=("x",), seconds=0.0)
    program = backends.compile(endless, "torch").program
    with pytest.raises(LimitExceeded, match="run_seconds"):
        program({"x": np.ones((1, 3), np.float32)})
    fine = backends.compile(task(networks.tiny_cnn(), objectives.logit(1)), "torch").program
    with pytest.raises(RuntimeFailed, match="operator Conv"):
        fine({"image": np.ones((1, 4, 32, 32), np.float32)})
    with pytest.raises(ProviderUnavailable, match="cpu and cuda"):
        backends.compile(task(networks.tiny_cnn(), objectives.logit(1), provider="tensorrt"), "torch")
    with pytest.raises(UsageError, match="no rules"):
        backends.compile(task(networks.tiny_cnn(), objectives.logit(1), rules="guide"), "torch")


def test_threads_are_put_back() -> None:
    before = torch.get_num_threads()
    program = backends.compile(task(networks.tiny_cnn(), objectives.logit(1), threads=2), "torch").program
    program({"image": np.ones((1, 3, 32, 32), np.float32)})
    assert torch.get_num_threads() == before
