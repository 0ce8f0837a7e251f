"""The pass over sizes against the truth: the node cases of the onnx package, with the outputs that they expect.

A shape that is claimed larger than it is would refuse a sound model.
"""

import warnings
from collections import Counter

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from onnxviz.errors import LimitExceeded, ModelRejected
from onnxviz.graph.open import known as inference
from onnxviz.graph.open import sizes, structure
from onnxviz.graph.open.known import Known, constant
from onnxviz.graph.open.load import load
from onnxviz.limits import Limits
from tests.graph.hostile import array, choice, ints, local, model, refused

# Operators of the case collection that no model may use.
REFUSED = ("FlexAttention", "Adagrad", "Adam", "Momentum", "Gradient")


@pytest.fixture(scope="module")
def cases():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return collect_testcases(None)


def test_every_operator_of_onnx_loads(cases):
    refused = set()
    for case in cases:
        try:
            load(case.model)
        except ModelRejected:
            refused |= {node.op_type for node in case.model.graph.node}
    assert refused <= set(REFUSED)


def lookup(tensor):
    if tensor.data_type == onnx.TensorProto.STRING:
        return None
    elements = numpy_helper.to_array(tensor)
    return elements if elements.size <= 1024 and elements.dtype.kind in "iufb" else None


@pytest.mark.parametrize("known", ["shapes", "values"])
def test_what_is_certain_is_true(cases, known):
    counts = Counter()
    for case in cases:
        if any(node.op_type in REFUSED for node in case.model.graph.node):
            continue
        found = structure.check(case.model, Limits())
        inputs, outputs = case.data_sets[0]
        scope = {}
        for value, fed in zip(case.model.graph.input, inputs, strict=False):
            if isinstance(fed, np.ndarray) and value.type.HasField("tensor_type"):
                certain = known == "values" and fed.dtype.kind in "iufb"
                dtype = value.type.tensor_type.elem_type
                scope[value.name] = constant(fed, dtype) if certain else Known(fed.shape, dtype=dtype)
        run = sizes._Pass(found, lookup, 0, Limits())
        results, _ = run.graph(case.model.graph, sizes._Scope(scope, None), found.opsets, {})
        for result, expected in zip(results, outputs, strict=True):
            if result.shape is None or not isinstance(expected, np.ndarray):
                continue
            counts["shape"] += 1
            assert len(result.shape) == expected.ndim, case.name
            for size, true in zip(result.shape, expected.shape, strict=True):
                assert size in (None, true), f"{case.name}: {result.shape}, true {expected.shape}"
            if result.value is not None:
                counts["value"] += 1
                np.testing.assert_allclose(result.value, expected, err_msg=case.name)
    assert counts["shape"] > 1000
    assert counts["value"] > (200 if known == "values" else 0)


# --- what is told on the way ----------------------------------------------------------------------


MISFIT = [array("two", np.zeros((1, 2, 1, 1))), array("five", np.zeros((1, 5, 1, 1)))]


def test_a_function_that_contradicts_itself_is_named_by_its_node():
    function = local("f (a, b) => (c) { [inner] c = Add(a, b) }")
    proto = model("y = local.f(two, five)", MISFIT, functions=[function])
    refused(proto, "'Add' node 'inner' does not fit its inputs: Incompatible dimensions")


@pytest.mark.parametrize("taken", [True, False])
def test_only_a_branch_that_may_run_is_refused(taken):
    """Exporters leave `If` with a condition that is constant, whose other branch fits another rank."""
    text = choice("b = Add(two, five)", "b = Relu(two)")
    proto = model(text, [*MISFIT, array("c", taken, np.bool_)])
    if taken:
        refused(proto, "does not fit its inputs")
    else:
        load(proto)


@pytest.mark.parametrize("rows", [64, 128])
def test_lengths_that_are_known_in_part_go_on_through_reshape(rows):
    """(N, 8, 4, 4) → (N, 128) by Shape, Gather and Concat, which no matrix of 64 rows takes, whatever N is."""
    text = """
        s = Shape(x) n = Gather(s, first) wanted = Concat<axis = 0>(n, rest) flat = Reshape(x, wanted)
        [product] y = MatMul(flat, w)
    """
    weights = [ints("first", 0), ints("rest", 128), array("w", np.zeros((rows, 2)))]
    proto = model(text, weights, shape=("N", 8, 4, 4))
    if rows == 128:
        load(proto)
    else:
        refused(proto, "'product' does not fit its inputs")


def test_operators_of_onnx_runtime_are_asked_as_their_standard_ones():
    weights = [array(name, np.zeros((70_000, 1))) for name in "ab"]
    text = "[bomb] y = com.microsoft.FusedMatMul<transB = 1>(a, b)"
    with pytest.raises(LimitExceeded, match="'bomb' makes 4900000000 elements"):
        load(model(text, weights, imports=[("com.microsoft", 1)]))


def test_an_onnx_without_the_shortcut_is_asked_by_its_public_function(monkeypatch):
    """A later onnx may not have what `infer_node_outputs` calls; the answers are the same."""
    node = helper.make_node("Concat", ["a", "b"], ["c"], axis=1)
    types = {
        name: helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [2, width]).SerializeToString()
        for name, width in (("a", 3), ("b", 4))
    }
    schema = onnx.defs.get_schema("Concat", 18)

    class Later:
        """The schema, without what is private."""

    public = onnx.shape_inference.infer_node_outputs
    monkeypatch.setattr(
        onnx.shape_inference,
        "infer_node_outputs",
        lambda _, *given, **options: public(schema, *given, **options),
    )
    answers = [inference._asked(one, node, types, {}, 18)["c"] for one in (schema, Later())]
    shapes = [onnx.TypeProto.FromString(one).tensor_type.shape for one in answers]
    assert [[axis.dim_value for axis in shape.dim] for shape in shapes] == [[2, 7], [2, 7]]


def test_the_lengths_of_an_expand_may_lie_in_any_rank():
    """The standard wants a vector; ONNX Runtime reads the numbers as they come (seed 643388)."""
    load(model("y = Expand(x, w)", [array("w", [[2], [3], [8], [8]], np.int64)], shape=(1, 3, 8, 8)))
    with pytest.raises(LimitExceeded, match="elements"):
        load(model("y = Expand(x, w)", [array("w", [[2**31], [3], [8], [8]], np.int64)], shape=(1, 3, 8, 8)))
