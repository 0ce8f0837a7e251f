"""QOperator forms whose operands are not all there: refused as ONNX Runtime does, naming node and input."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from onnxviz.errors import ModelRejected
from onnxviz.graph.fused import as_qdq


def model(op_type: str, inputs: int, domain: str = "com.microsoft", left_out: int | None = None) -> ir.Model:
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
        as_qdq(model(op_type, inputs, domain))


def test_an_operand_that_is_left_out_is_named():
    with pytest.raises(ModelRejected, match=r"lacks input 4, the scale of an operand"):
        as_qdq(model("QLinearAdd", 8, left_out=4))


def test_what_may_be_left_out_may():
    """QGemm without a bias, and without the result's scale: it gives real numbers then."""
    found = model("QGemm", 6)
    as_qdq(found)
    assert [node.op_type for node in found.graph] == ["DequantizeLinear"] * 2 + ["Gemm", "Identity"]
