"""Fused operators of com.microsoft in the standard's parts: the same numbers, and gradients as of the parts."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto

import onnxviz
from onnxviz.errors import ModelRejected
from onnxviz.graph.fused import as_qdq
from onnxviz.graph.normalise import normalise
from tests import networks
from tests.grad.oracle import normal, session
from tests.networks import written

M = "com.microsoft."
MAP, ROWS, CUBE = (2, 3, 6, 6), (4, 8), (2, 3, 4, 8)
CONV = {"w": normal(4, 3, 3, 3), "b": normal(4)}
LINE = {"w": normal(8, 5), "b": normal(5)}
TURNED, ROW = {"w": normal(5, 8)}, {"b": normal(8)}
SCALE = {"g": normal(8), "b": normal(8), "skip": normal(3, 4, 8)}
CODES = {
    "u8": np.random.default_rng(0).integers(0, 255, (8, 5), dtype=np.uint8),
    "i8": np.random.default_rng(0).integers(-127, 127, (8, 5), dtype=np.int8),
    "step": np.float32([0.02]),
    "zero": np.uint8([127]),
    "b": normal(5),
}
BOTH = "h = Relu(x) s = Mul(x, skip)"  # both operands of a sum vary
CASES = {
    "FusedConv": (f"y = {M}FusedConv <strides = [2, 2]> (x, w, b)", CONV, MAP),
    "FusedConv Relu": (f'y = {M}FusedConv <activation = "Relu", pads = [1, 1, 1, 1]> (x, w, b)', CONV, MAP),
    "FusedConv Relu of a sum": (
        f'z = Conv(x, w) y = {M}FusedConv <activation = "Relu"> (x, w, b, z)', CONV, MAP
    ),
    "FusedConv without a bias": (
        f'z = Conv(x, w) y = {M}FusedConv <activation = "Tanh"> (x, w, , z)', CONV, MAP
    ),
    "FusedConv Sigmoid": (f'y = {M}FusedConv <activation = "Sigmoid"> (x, w)', CONV, MAP),
    "FusedConv LeakyRelu": (
        f'y = {M}FusedConv <activation = "LeakyRelu", activation_params = [0.3]> (x, w)', CONV, MAP
    ),
    "FusedConv Clip": (
        f'y = {M}FusedConv <activation = "Clip", activation_params = [0.0, 6.0]> (x, w)', CONV, MAP
    ),
    "FusedConv HardSigmoid": (
        f'y = {M}FusedConv <activation = "HardSigmoid", activation_params = [0.2, 0.4]> (x, w)', CONV, MAP
    ),
    "FusedGemm": (f'y = {M}FusedGemm <activation = "Relu", alpha = 0.5> (x, w, b)', LINE, ROWS),
    "FusedGemm LeakyRelu": (
        f'y = {M}FusedGemm <activation = "LeakyRelu", activation_alpha = 0.3> (x, w, b)', LINE, ROWS
    ),
    "FusedGemm transposed": (f'y = {M}FusedGemm <activation = "Tanh", transB = 1> (x, w)', TURNED, ROWS),
    "FusedMatMul": (f"y = {M}FusedMatMul <alpha = 0.5> (x, w)", LINE, CUBE),
    "FusedMatMul transposed": (f"y = {M}FusedMatMul <transB = 1> (x, w)", TURNED, ROWS),
    "FusedMatMul both transposed": (
        f"y = {M}FusedMatMul <transA = 1, transB = 1, alpha = 2.0> (x, w)", {"w": normal(2, 3, 5, 4)}, CUBE
    ),
    "FusedMatMul batch transposed": (
        f"y = {M}FusedMatMul <transBatchA = 1> (x, w)", {"w": normal(3, 4, 8, 5)}, CUBE
    ),
    "TransposeMatMul": (f"y = {M}TransposeMatMul <transA = 1> (x, w)", {"w": normal(4, 5)}, ROWS),
    "Gelu": (f"y = {M}Gelu(x)", {}, ROWS),
    "BiasGelu": (f"y = {M}BiasGelu(x, b)", ROW, ROWS),
    "FastGelu": (f"y = {M}FastGelu(x)", {}, ROWS),
    "FastGelu with a bias": (f"y = {M}FastGelu(x, b)", ROW, ROWS),
    "QuickGelu": (f"y = {M}QuickGelu <alpha = 1.5> (x)", {}, ROWS),
    "SkipLayerNormalization": (f"{BOTH} y = {M}SkipLayerNormalization(h, s, g, b)", SCALE, CUBE[1:]),
    "SkipLayerNormalization with its sum": (
        f"{BOTH} n, , , t = {M}SkipLayerNormalization(h, s, g, b) y = Mul(n, t)", SCALE, CUBE[1:]
    ),
    "SkipSimplifiedLayerNormalization": (
        f"{BOTH} y = {M}SkipSimplifiedLayerNormalization <epsilon = 0.001> (h, s, g)", SCALE, CUBE[1:]
    ),
    "SimplifiedLayerNormalization": ("y = SimplifiedLayerNormalization <axis = -1> (x, g)", SCALE, CUBE),
    "DynamicQuantizeMatMul": (f"y = {M}DynamicQuantizeMatMul(x, u8, step, zero, b)", CODES, ROWS),
    "MatMulIntegerToFloat": (
        f"u, t, o = DynamicQuantizeLinear(x) y = {M}MatMulIntegerToFloat(u, i8, t, step, o)", CODES, ROWS
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("opset", [10, 17, 18])
def test_the_same_numbers(name: str, opset: int) -> None:
    nodes, weights, shape = CASES[name]
    if opset == 10 and ("quant" in name.lower() or "ToFloat" in name):
        return  # DynamicQuantizeLinear is of opset 11
    source = written(nodes, {"x": shape}, {"y": None}, weights, opset=opset)
    found = normalise(ir.from_proto(source))
    assert not [n for n in found.graph if n.domain]
    assert all(y.shape is not None for n in found.graph for y in n.outputs)
    x = normal(*shape)
    before, after = (session(one).run(None, {"x": x})[0] for one in (source, ir.to_proto(found)))
    np.testing.assert_allclose(after, before, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", ["Gelu", "FastGelu", "QuickGelu"])
def test_half_precision(name: str) -> None:
    """Constants take the type of the data, also where only an earlier fused operator tells it."""
    last, _, shape = CASES[name]
    source = written(
        f"h = {M}{name}(x) {last.replace('(x)', '(h)')}", {"x": shape}, {"y": None}, dtype=TensorProto.FLOAT16
    )
    x = normal(*shape).astype(np.float16)
    found = ir.to_proto(normalise(ir.from_proto(source)))
    t = torch.tensor(x.astype(np.float64))
    for alpha in (1.702, 1.5):
        tanh = "tanh" if name == "FastGelu" else "none"
        t = (
            t * torch.sigmoid(alpha * t)
            if name == "QuickGelu"
            else torch.nn.functional.gelu(t, approximate=tanh)
        )
    np.testing.assert_allclose(session(found).run(None, {"x": x})[0], t.numpy(), rtol=5e-3, atol=5e-3)


def test_a_form_that_is_unknown_is_left_to_be_refused_by_name() -> None:
    source = written(f'y = {M}FusedGemm <activation = "Fancy"> (x, w)', {"x": ROWS}, {"y": None}, LINE)
    assert [n.op_type for n in normalise(ir.from_proto(source)).graph] == ["FusedGemm"]


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
    expected = "com.microsoft" if level == "ALL" else ""
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


def operands(
    op_type: str, inputs: int, domain: str = "com.microsoft", left_out: int | None = None
) -> ir.Model:
    given = ", ".join("" if i == left_out else f"v{i}" for i in range(inputs))
    text = f"y = {domain + '.' if domain else ''}{op_type}({given})"
    model = ir.from_proto(written(text, {f"v{i}": (4, 4) for i in range(inputs)}, {"y": None}))
    model.graph[0].name = "it"
    return model


@pytest.mark.parametrize(
    ("op_type", "domain", "inputs", "left_out", "lacks"),
    [
        ("QLinearConv", "", 4, None, "4"),
        ("QLinearMatMul", "", 1, None, "1"),
        ("QGemm", "com.microsoft", 3, None, "3"),
        ("QLinearAdd", "com.microsoft", 4, None, "4"),
        ("QLinearAdd", "com.microsoft", 8, 4, "4, the scale of an operand"),
        ("QLinearMul", "com.microsoft", 0, None, "0"),
        ("QLinearSigmoid", "com.microsoft", 1, None, "1"),
    ],
)
def test_a_missing_operand_is_named(op_type, domain, inputs, left_out, lacks):
    with pytest.raises(ModelRejected, match=rf"node 'it' \({op_type}\) lacks input {lacks}\b"):
        as_qdq(operands(op_type, inputs, domain, left_out))


def test_what_may_be_left_out_may():
    """QGemm without a bias, and without the result's scale: it gives real numbers then."""
    found = operands("QGemm", 6)
    as_qdq(found)
    assert [node.op_type for node in found.graph] == ["DequantizeLinear"] * 2 + ["Gemm", "Identity"]
