"""The torch backend's operators: forward as the onnx package's own cases have it, gradients by differences."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from onnxviz.backends.torch.executor import Executor, knows
from onnxviz.backends.torch.table import OPERATORS, CannotRun, from_numpy
from onnxviz.grad.table import VJP_RULES
from onnxviz.graph import lift
from onnxviz.graph.normalise import normalise
from tests import networks
from tests.backends.torch_cases import loop_network
from tests.grad.oracle import normal, session
from tests.networks import written

torch.set_num_threads(1)

# Types that torch has not, training, strings, and operators of no network that looks at pictures.
NOT_RUN = (
    "test_ai_onnx_ml",
    "test_adagrad",
    "test_adam",
    "test_bernoulli",
    "test_bitcast",
    "test_bitwise_not_3d",  # uint16
    "test_col2im_5d",
    "test_flexattention",  # of a preview, which ONNX Runtime does not run
    "test_image_decoder",
    "test_melweightmatrix",
    "test_momentum",
    "test_nesterov",
    "test_quantizelinear_blocked_symmetric",  # int4
    "test_scan_sum",  # opset 8, another operator since
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
        old = case.model.opset_import[0].version < lift.OLDEST
        if old or case.name.startswith((*NOT_RUN, *AS_ONNX_RUNTIME, *EMPTY)) or not _fits(case):
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
        run = Executor(normalise(ir.from_proto(case.model)))
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
    here = """MaxRoiPool DynamicQuantizeLinear GlobalLpPool SequenceErase SequenceLength SequenceAt
        SequenceConstruct ConcatFromSequence SequenceEmpty Optional OptionalGetElement"""
    assert {*OPERATORS} - {*here.split()} - ran == set()


def test_sequences() -> None:
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
    as_onnx_runtime(model, x, rtol=1e-7, atol=0)
    _by_differences(model, x, z)


def test_every_native_operator_is_there() -> None:
    """What has a rule runs on torch too; most of the issue's list that has none does."""
    assert [name for name in VJP_RULES if not knows(name)] == []
    for name in ("LSTM", "GRU", "RNN", "If", "Loop", "Scan", "DeformConv"):
        assert knows(name)
    assert not knows("acme::Secret")


ROIS = {"r": np.float32([[1, 1, 7, 6], [0, 2, 3, 8.5]]), "b": np.int64([1, 0])}
OUTSIDE = {"r": np.float32([[-3, 1, 7, 6], [0, 2, 13, 8.5]]), "b": np.int64([1, 0])}


@pytest.mark.parametrize(
    ("text", "shape", "weights", "opset"),
    [
        ('y = RoiAlign <mode = "max", output_height = 2, output_width = 3, sampling_ratio = 2> (x, r, b)',
         (2, 3, 9, 7), ROIS, 16),
        ("y = RoiAlign <output_height = 2, output_width = 3, spatial_scale = 0.7> (x, r, b)",
         (2, 3, 9, 7), OUTSIDE, 10),
        ("y = MaxRoiPool <pooled_shape = [3, 2]> (x, r)",
         (2, 3, 9, 7), {"r": np.float32([[1, 1, 1, 5, 6], [0, 0, 2, 6, 8]])}, 13),
        ('y = Upsample <mode = "linear"> (x, s)', (1, 2, 3, 4), {"s": np.float32([1, 1, 2, 3])}, 9),
        ('y = Resize <mode = "linear", coordinate_transformation_mode = "align_corners"> (x, none, s)',
         (1, 1, 2, 4), {"none": np.zeros(0, np.float32), "s": np.float32([1, 1, 0.6, 0.6])}, 13),
        ("y, i = MaxPool <kernel_shape = [3, 2], pads = [1, 0, 0, 1], strides = [2, 3]> (x)", (2, 3, 9, 8), {}, 12),
        ("y = Softmax(x)", (2, 3, 4), {}, 11),
        ("y, s, z = DynamicQuantizeLinear(x)", (3, 5), {}, 13),
    ],
)  # fmt: skip
def test_as_onnx_runtime(text: str, shape: tuple, weights: dict, opset: int) -> None:
    """Forms that the standard's examples lack, or that ONNX Runtime reads in its own way."""
    outputs = text.partition(" =")[0].split(", ")
    model = written(text, {"x": shape}, {}, weights, opset=opset)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    as_onnx_runtime(model, np.random.default_rng(0).standard_normal(shape).astype(np.float32), rtol=1e-5)


def as_onnx_runtime(model: onnx.ModelProto, x: np.ndarray, rtol: float, atol: float = 1e-6) -> None:
    """All outputs of its one input."""
    found = Executor(normalise(ir.from_proto(model)))({model.graph.input[0].name: torch.tensor(x)})
    expected = session(onnx.shape_inference.infer_shapes(model)).run(None, {model.graph.input[0].name: x})
    for value, array in zip(model.graph.output, expected, strict=True):
        np.testing.assert_allclose(found[value.name].numpy(), array, rtol=rtol, atol=atol)


def _by_differences(model: onnx.ModelProto, x: np.ndarray, output: str) -> None:
    """autograd against central differences, in float64."""
    run = Executor(normalise(ir.from_proto(model)), precision=torch.float64)
    tensor = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    name = model.graph.input[0].name
    assert torch.autograd.gradcheck(lambda t: run({name: t})[output], tensor, eps=1e-5, atol=1e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", ["RNN", "GRU", "LSTM"])
def test_recurrent_layers(op: str, direction: str) -> None:
    """Sequences of different lengths, initial states; forward as ONNX Runtime, gradient by differences."""
    m = networks.Maker(17)
    gates, ways = {"RNN": 1, "GRU": 3, "LSTM": 4}[op], 2 if direction == "bidirectional" else 1
    lengths, states = m.constant(np.int32([4, 2])), [m.random(ways, 2, 3)] * (2 if op == "LSTM" else 1)
    weights = [m.random(ways, gates * 3, 5), m.random(ways, gates * 3, 3), m.random(ways, gates * 6)]
    y, last = m(op, "x", *weights, lengths, *states, hidden_size=3, direction=direction, outputs=2)
    model = m.model({"x": (4, 2, 5)}, {y: (4, ways, 2, 3), last: (ways, 2, 3)})
    x = np.random.default_rng(1).standard_normal((4, 2, 5)).astype(np.float32)
    as_onnx_runtime(model, x, rtol=1e-4)
    _by_differences(model, x, y)


@pytest.mark.parametrize("sign", [1, -1])
def test_loops_and_branches(sign: int) -> None:
    model = loop_network()
    x = sign * np.float32([[0.5, 1.2, -0.3], [0.7, 0.1, 0.9]])
    as_onnx_runtime(model, x, rtol=1e-5, atol=0)
    _by_differences(model, x, "y")


def test_the_graphs_within_are_in_normal_form_too() -> None:
    """A branch with implicit pads and a fused operator, forward as ONNX Runtime, gradient by differences."""
    then = """g () => (float[] inner) { sum = Conv <auto_pad = "SAME_LOWER", strides = [2, 2]> (x, w)
        inner = com.microsoft.FusedConv <activation = "Tanh"> (sum, v) }"""
    other = "g () => (float[] same) { same = Identity(x) }"
    text = f"""total = ReduceSum <keepdims = 0> (x) positive = Greater(total, low)
        y = If <then_branch = {then}, else_branch = {other}> (positive)"""
    weights = {"w": normal(2, 3, 3, 3) / 4, "v": normal(2, 2, 1, 1), "low": np.float32(-1e6)}
    model = written(text, {"x": (1, 3, 7, 6)}, {"y": None}, weights)
    x = np.random.default_rng(0).standard_normal((1, 3, 7, 6)).astype(np.float32)
    as_onnx_runtime(model, x, rtol=1e-4)
    _by_differences(model, x, "y")


def test_axes_that_the_input_has_not_are_none():
    """Of a value whose rank no file tells, the usual axes of maps are there: ONNX Runtime leaves out the last."""
    function = OPERATORS["MeanVarianceNormalization"]
    x = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(function(x, axes=[0, 2, 3]), function(x, axes=[0, 2]))
    assert not function(x, axes=[3]).any()


@pytest.mark.parametrize(
    ("name", "given"), [("InstanceNormalization", {}), ("GroupNormalization", {"num_groups": 2})]
)
def test_a_map_of_one_place_is_its_own_mean(name, given):
    """Torch's functional forms refuse it (seed 753968)."""
    bias = torch.tensor([1.0, 2.0])
    y = OPERATORS[name](torch.tensor([3.0, 4.0]).reshape(1, 2, 1, 1), torch.ones(2), bias, **given)
    torch.testing.assert_close(y.flatten(), bias, atol=1e-3, rtol=0)  # 3/√ε − 3/√ε, in float32


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("name", ["Conv", "MaxPool", "AveragePool", "LpPool"])
def test_strides_beyond_the_map_take_one_window_however_long(name, ceil_mode):
    """Torch's kernels hold numbers of 32 bits, some of 64 (seed 743867)."""
    function = OPERATORS[name]
    x = torch.randn(1, 2, 6, 7, generator=torch.Generator().manual_seed(0))
    given = (
        {"w": torch.ones(3, 2, 3, 3)} if name == "Conv" else {"kernel_shape": [3, 3], "ceil_mode": ceil_mode}
    )
    given |= {"outputs": 1} if name == "MaxPool" else {}
    for pads in ([0] * 4, [1, 0, 1, 2]):
        long, short = ([2, n] for n in (2**62, 100))
        assert torch.equal(
            function(x, strides=long, pads=pads, **given), function(x, strides=short, pads=pads, **given)
        )


def test_strides_of_more_numbers_than_axes_are_read_as_far_as_there_are_axes():
    """As ONNX Runtime does where the file does not tell the rank (seed 644393); of fewer, it says which."""
    function = OPERATORS["Conv"]
    x, w = torch.ones(1, 2, 6, 6), torch.ones(3, 2, 3, 3)
    assert torch.equal(function(x, w, strides=[2, 2, 2**63 - 1]), function(x, w, strides=[2, 2]))
    with pytest.raises(CannotRun, match="of another number than 2 spatial axes"):
        function(x, w, strides=[2])
