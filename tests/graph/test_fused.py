"""Fused operators of com.microsoft in the standard's parts: the same numbers, and gradients as of the parts."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxviz
from onnxviz.errors import ModelRejected
from onnxviz.graph.fused import as_qdq
from onnxviz.graph.normalise import normalise
from tests import networks
from tests.grad.oracle import normal, session

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
MICROSOFT = "com.microsoft"


def node(
    op: str, inputs: list[str], domain: str = MICROSOFT, outputs: tuple[str, ...] = ("y",), **attributes
):
    return helper.make_node(op, inputs, list(outputs), domain=domain, **attributes)


def model(nodes, weights, shape, *, opset: int = 17, kind=FLOAT, outputs=("y",)) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, shape)],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid(MICROSOFT, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


MAP, ROWS, CUBE = (2, 3, 6, 6), (4, 8), (2, 3, 4, 8)
CONV = {"w": normal(4, 3, 3, 3), "b": normal(4)}
LINE = {"w": normal(8, 5), "b": normal(5)}
SCALE = {"g": normal(8), "b": normal(8), "skip": normal(3, 4, 8)}
RAMP = {"activation_params": [0.2, 0.4]}
CASES = {
    "FusedConv": ([node("FusedConv", ["x", "w", "b"], strides=[2, 2])], CONV, MAP),
    "FusedConv Relu": ([node("FusedConv", ["x", "w", "b"], activation="Relu", pads=[1] * 4)], CONV, MAP),
    "FusedConv Relu of a sum": (
        [
            node("Conv", ["x", "w"], "", ("z",)),
            node("FusedConv", ["x", "w", "b", "z"], activation="Relu"),
        ],
        CONV,
        MAP,
    ),
    "FusedConv without a bias": (
        [node("Conv", ["x", "w"], "", ("z",)), node("FusedConv", ["x", "w", "", "z"], activation="Tanh")], CONV, MAP
    ),
    "FusedConv Sigmoid": ([node("FusedConv", ["x", "w"], activation="Sigmoid")], CONV, MAP),
    "FusedConv LeakyRelu": (
        [node("FusedConv", ["x", "w"], activation="LeakyRelu", activation_params=[0.3])], CONV, MAP
    ),
    "FusedConv Clip": ([node("FusedConv", ["x", "w"], activation="Clip", activation_params=[0.0, 6.0])], CONV, MAP),
    "FusedConv HardSigmoid": ([node("FusedConv", ["x", "w"], activation="HardSigmoid", **RAMP)], CONV, MAP),
    "FusedGemm": ([node("FusedGemm", ["x", "w", "b"], activation="Relu", alpha=0.5)], LINE, ROWS),
    "FusedGemm LeakyRelu": (
        [node("FusedGemm", ["x", "w", "b"], activation="LeakyRelu", activation_alpha=0.3)], LINE, ROWS
    ),
    "FusedGemm transposed": (
        [node("FusedGemm", ["x", "w"], activation="Tanh", transB=1)], {"w": normal(5, 8)}, ROWS
    ),
    "FusedMatMul": ([node("FusedMatMul", ["x", "w"], alpha=0.5)], LINE, CUBE),
    "FusedMatMul transposed": ([node("FusedMatMul", ["x", "w"], transB=1)], {"w": normal(5, 8)}, ROWS),
    "FusedMatMul both transposed": (
        [node("FusedMatMul", ["x", "w"], transA=1, transB=1, alpha=2.0)], {"w": normal(2, 3, 5, 4)}, CUBE
    ),
    "FusedMatMul batch transposed": (
        [node("FusedMatMul", ["x", "w"], transBatchA=1)], {"w": normal(3, 4, 8, 5)}, CUBE
    ),
    "TransposeMatMul": ([node("TransposeMatMul", ["x", "w"], transA=1)], {"w": normal(4, 5)}, ROWS),
    "Gelu": ([node("Gelu", ["x"])], {}, ROWS),
    "BiasGelu": ([node("BiasGelu", ["x", "b"])], {"b": normal(8)}, ROWS),
    "FastGelu": ([node("FastGelu", ["x"])], {}, ROWS),
    "FastGelu with a bias": ([node("FastGelu", ["x", "b"])], {"b": normal(8)}, ROWS),
    "QuickGelu": ([node("QuickGelu", ["x"], alpha=1.5)], {}, ROWS),
    "SkipLayerNormalization": ([node("SkipLayerNormalization", ["h", "s", "g", "b"])], SCALE, CUBE[1:]),
    "SkipLayerNormalization with its sum": (
        [node("SkipLayerNormalization", ["h", "s", "g", "b"], outputs=("n", "", "", "t")), node("Mul", ["n", "t"], "")],
        SCALE,
        CUBE[1:],
    ),
    "SkipSimplifiedLayerNormalization": (
        [node("SkipSimplifiedLayerNormalization", ["h", "s", "g"], epsilon=1e-3)], SCALE, CUBE[1:]
    ),
    "SimplifiedLayerNormalization": (
        [node("SimplifiedLayerNormalization", ["x", "g"], "", axis=-1)], {"g": normal(8)}, CUBE
    ),
    "DynamicQuantizeMatMul": (
        [node("DynamicQuantizeMatMul", ["x", "q", "s", "z", "b"])],
        {
            "q": np.random.default_rng(0).integers(0, 255, (8, 5), dtype=np.uint8),
            "s": np.float32([0.02]),
            "z": np.uint8([127]),
            "b": normal(5),
        },
        ROWS,
    ),
    "MatMulIntegerToFloat": (
        [
            node("DynamicQuantizeLinear", ["x"], "", ("u", "t", "o")),
            node("MatMulIntegerToFloat", ["u", "q", "t", "s", "o"]),
        ],
        {"q": np.random.default_rng(0).integers(-127, 127, (8, 5), dtype=np.int8), "s": np.float32([0.02])},
        ROWS,
    ),
}  # fmt: skip
for _name, (_nodes, _weights, _shape) in CASES.items():
    if "Skip" in _name:  # both operands vary
        _before = [node("Relu", ["x"], "", ("h",)), node("Mul", ["x", "skip"], "", ("s",))]
        CASES[_name] = ([*_before, *_nodes], _weights, _shape)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("opset", [10, 17, 18])
def test_the_same_numbers(name: str, opset: int) -> None:
    nodes, weights, shape = CASES[name]
    if opset == 10 and "quant" in name.lower():
        return  # DynamicQuantizeLinear is of opset 11
    source = model(nodes, weights, shape, opset=opset)
    if "ToFloat" in name and opset == 10:
        return
    found = normalise(ir.from_proto(source))
    assert not [n for n in found.graph if n.domain]
    assert all(y.shape is not None for n in found.graph for y in n.outputs)
    x = normal(*shape)
    expected = session(source).run(None, {"x": x})[0]
    np.testing.assert_allclose(
        session(ir.to_proto(found)).run(None, {"x": x})[0], expected, rtol=2e-4, atol=2e-5
    )


@pytest.mark.parametrize("name", ["Gelu", "FastGelu", "QuickGelu"])
def test_half_precision(name: str) -> None:
    """Constants take the type of the data, also where only an earlier fused operator tells it."""
    nodes, weights, shape = CASES[name]
    first = node(nodes[0].op_type, ["x"], outputs=("h",))
    source = model([first, node(nodes[0].op_type, ["h"])], weights, shape, kind=HALF)
    x = normal(*shape).astype(np.float16)
    found = ir.to_proto(normalise(ir.from_proto(source)))
    expected = twice(x, name)
    np.testing.assert_allclose(session(found).run(None, {"x": x})[0], expected, rtol=5e-3, atol=5e-3)


def twice(x: np.ndarray, name: str) -> np.ndarray:
    """The activation twice, by torch in float64."""
    import torch

    t = torch.tensor(x.astype(np.float64))
    for _ in range(2):
        if name == "QuickGelu":
            t = t * torch.sigmoid(1.702 * t)
        else:
            t = torch.nn.functional.gelu(t, approximate="tanh" if name == "FastGelu" else "none")
    return t.numpy()


def test_a_form_that_is_unknown_is_refused_by_name() -> None:
    source = model([node("FusedGemm", ["x", "w"], activation="Fancy")], LINE, ROWS)
    found = normalise(ir.from_proto(source))
    assert [n.op_type for n in found.graph] == ["FusedGemm"]


def _saved(source: onnx.ModelProto, level: str, folder) -> onnx.ModelProto:
    """The file as ONNX Runtime saves it at this level of optimisation."""
    onnx.save(source, folder / "source.onnx")
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(folder / "saved.onnx")
    options.log_severity_level = 4
    onnxruntime.InferenceSession(str(folder / "source.onnx"), options, providers=["CPUExecutionProvider"])
    return onnx.load(folder / "saved.onnx")


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
@pytest.mark.parametrize("level", ["EXTENDED", "ALL"])
def test_an_int8_file_that_onnx_runtime_saved(form: str, level: str, tmp_path) -> None:
    """QLinearConv, from all optimisations on with the channels last, and pools of com.microsoft."""
    source = getattr(networks, form)(networks.tiny_cnn())
    saved = _saved(source, level, tmp_path)
    expected = MICROSOFT if level == "ALL" else ""
    assert expected in {n.domain for n in saved.graph.node if n.op_type == "QLinearConv"}
    x = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    for rules in ("plain", "guided"):
        a, b = (
            onnxviz.load(m, preprocess="unit").value_and_gradient(onnxviz.objectives.logit(3), rules=rules)(
                x
            )[1]
            for m in (source, saved)
        )
        assert (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)) > 0.99


@pytest.mark.parametrize("rules", ["plain", "guided", "deconvnet", "redirected"])
def test_a_file_that_onnx_runtime_saved(rules: str, tmp_path) -> None:
    """Optimised and saved, the network has fused convolutions; its gradients are the source's on both backends."""
    source = networks.tiny_cnn()
    assert "FusedConv" in {n.op_type for n in _saved(source, "EXTENDED", tmp_path).graph.node}
    x = np.random.default_rng(0).random((2, 3, 32, 32), dtype=np.float32)
    found = []
    for name, backend in (("source", "native"), ("saved", "native"), ("saved", "torch")):
        net = onnxviz.load(str(tmp_path / f"{name}.onnx"), preprocess="unit", backend=backend)
        gradients = net.gradients(onnxviz.objectives.logit(3), rules=rules)
        found.append(gradients(x)["image.gradient"])
        assert gradients.rectifiers == (None if rules == "plain" else 2)
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=1e-3, atol=1e-6)


# --- QOperator forms whose operands are not all there: refused as ONNX Runtime does, naming node and input ---


def qoperator(
    op_type: str, inputs: int, domain: str = "com.microsoft", left_out: int | None = None
) -> ir.Model:
    values = [ir.val(f"v{i}", ir.DataType.FLOAT, [4, 4]) for i in range(inputs)]
    given = [None if i == left_out else value for i, value in enumerate(values)]
    node = ir.node(op_type, given, domain=domain, name="it")
    node.outputs[0].name = "y"
    graph = ir.Graph(
        values, list(node.outputs), nodes=[node], opset_imports={"": 17, "com.microsoft": 1}, name="g"
    )
    return ir.Model(graph, ir_version=8)


@pytest.mark.parametrize(
    ("op_type", "domain", "inputs"),
    [
        ("QLinearConv", "", 4),
        ("QLinearMatMul", "", 1),
        ("QGemm", "com.microsoft", 3),
        ("QLinearAdd", "com.microsoft", 4),
        ("QLinearMul", "com.microsoft", 0),
        ("QLinearSigmoid", "com.microsoft", 1),
    ],
)
def test_a_missing_operand_is_named(op_type, domain, inputs):
    with pytest.raises(ModelRejected, match=rf"node 'it' \({op_type}\) lacks input {inputs}\b"):
        as_qdq(qoperator(op_type, inputs, domain))


def test_an_operand_that_is_left_out_is_named():
    with pytest.raises(ModelRejected, match=r"lacks input 4, the scale of an operand"):
        as_qdq(qoperator("QLinearAdd", 8, left_out=4))


def test_what_may_be_left_out_may():
    """QGemm without a bias, and without the result's scale: it gives real numbers then."""
    found = qoperator("QGemm", 6)
    as_qdq(found)
    assert [node.op_type for node in found.graph] == ["DequantizeLinear"] * 2 + ["Gemm", "Identity"]
