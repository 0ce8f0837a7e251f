"""Operators that the standard defines by others (Attention and its like), and AffineGrid."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxviz.grad.model import support
from onnxviz.graph.normalise import normalise
from tests.grad.oracle import Case, case, normal, rule_test


def attention(q=(2, 4, 5, 8), k=(2, 4, 6, 8), opset=23, mask=None, **attributes) -> Case:
    masked = {} if mask is None else {"m": mask}
    inputs = {"q": normal(*q), "k": normal(*k), "v": normal(*k), **masked}
    return case("Attention", opset=opset, label=f"{q}{k}".replace(" ", ""), **inputs, **attributes)


CASES = [
    attention(),
    attention(opset=24),
    attention(k=(2, 4, 5, 8), is_causal=1),
    attention(k=(2, 2, 6, 8), softcap=2.0, scale=0.3),  # two queries share a key
    attention((2, 5, 12), (2, 6, 12), mask=normal(5, 6), q_num_heads=3, kv_num_heads=3),
    case("RotaryEmbedding", x=normal(2, 4, 5, 8), c=normal(2, 5, 4), s=normal(2, 5, 4), opset=23),
    *(
        case(
            "AffineGrid",
            t=normal(2, d, d + 1),
            n=np.int64([2, 3, 4, 5, 3][: d + 2]),
            align_corners=corners,
            opset=20,
            label=f"{d}d",
            step=1e-2,
        )
        for d in (2, 3)
        for corners in (0, 1)
    ),
]


test_rule = rule_test(CASES)


def test_nothing_of_the_definition_stays_a_function() -> None:
    case = attention()
    case._rank[:] = [4]
    model = ir.from_proto(case.model())
    found = normalise(model)
    assert not found.functions
    assert {node.domain for node in found.graph} == {""}
    assert set(found.opset_imports) == {""}
    assert "Attention" not in {node.op_type for node in found.graph}
    assert all(support(model).values())
