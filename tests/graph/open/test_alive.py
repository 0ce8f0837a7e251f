"""Tensors that are each within their limit, and together beyond the memory."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxviz.errors import LimitExceeded
from onnxviz.graph.open.load import load
from onnxviz.limits import Limits

node = helper.make_node
SIDE = 31_000  # 31,000² float32: 3.8 GB


def opened(nodes, limits, kind=TensorProto.FLOAT, side=SIDE):
    inputs = [helper.make_tensor_value_info("x", kind, ["N", 1])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    constants = [numpy_helper.from_array(np.array([side, side], np.int64), "large")]
    constants += [numpy_helper.from_array(np.float32(i), f"c{i}") for i in range(9)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return load(model.SerializeToString(), limits=limits)


def large(i, source="x"):
    """A large tensor t<i> that differs from the others."""
    return [node("Add", [source, f"c{i}"], [f"s{i}"]), node("Expand", [f"s{i}", "large"], [f"t{i}"])]


EIGHT = [one for i in range(8) for one in large(i)]
TOGETHER = [*EIGHT, node("Sum", [f"t{i}" for i in range(8)], ["z"]), node("ReduceSum", ["z"], ["y"])]


def test_eight_inputs_of_one_node():
    with pytest.raises(LimitExceeded, match=r"8 tensors of 30752000000 bytes .*memory=30752000000"):
        opened(TOGETHER, Limits(memory=16 * 2**30))
    opened(TOGETHER, Limits(memory=32 * 2**30))


def test_by_default_what_the_machine_has(monkeypatch):
    from onnxviz.graph.open import alive

    monkeypatch.setattr(alive, "machine_memory", lambda: 16 * 2**30)
    with pytest.raises(LimitExceeded, match="8 tensors"):
        opened(TOGETHER, Limits())
    monkeypatch.setattr(alive, "machine_memory", lambda: 64 * 2**30)
    opened(TOGETHER, Limits())


def test_what_is_needed_again_behind_a_chain():
    """t0 … t7, each made of the one before, and all read at the end: the last is made while seven are there."""
    chain = [*large(0), *[node("Mul", [f"t{i}", "c2"], [f"t{i + 1}"]) for i in range(7)]]
    ends = [node("ReduceSum", ["t7"], ["e7"])]
    for i in range(6, -1, -1):  # each reads the sum of those behind it
        ends += [node("Add", [f"t{i}", f"e{i + 1}"], [f"a{i}"]), node("ReduceSum", [f"a{i}"], [f"e{i}"])]
    nodes = [*chain, *ends, node("Identity", ["e0"], ["y"])]
    with pytest.raises(LimitExceeded, match="tensors of"):
        opened(nodes, Limits(memory=16 * 2**30))


@pytest.mark.parametrize(
    "nodes",
    [
        # One after the other: two at a time are enough.
        [
            *large(0),
            *[node("Mul", [f"t{i}", "c2"], [f"t{i + 1}"]) for i in range(7)],
            node("ReduceSum", ["t7"], ["y"]),
        ],
        # Each is summed before the next needs to be made.
        [
            *EIGHT,
            *[node("ReduceSum", [f"t{i}"], [f"e{i}"]) for i in range(8)],
            node("Sum", [f"e{i}" for i in range(8)], ["y"]),
        ],
        # The same memory under eight names.
        [
            *large(0),
            *[node("Identity", ["t0"], [f"u{i}"]) for i in range(8)],
            node("Sum", [f"u{i}" for i in range(8)], ["z"]),
            node("ReduceSum", ["z"], ["y"]),
        ],
        # Nodes that do the same are one to ONNX Runtime.
        [
            node("Add", ["x", "c1"], ["s"]),
            *[node("Expand", ["s", "large"], [f"t{i}"]) for i in range(8)],
            node("Sum", [f"t{i}" for i in range(8)], ["z"]),
            node("ReduceSum", ["z"], ["y"]),
        ],
    ],
)
def test_what_need_not_be_there_together_is_let_through(nodes):
    opened(nodes, Limits(memory=16 * 2**30))


def test_bytes_follow_the_type():
    narrow = [
        *[node("Cast", ["x"], ["h"], to=TensorProto.FLOAT16)],
        *[
            one
            for i in range(8)
            for one in (
                node("Cast", [f"c{i}"], [f"k{i}"], to=TensorProto.FLOAT16),
                node("Add", ["h", f"k{i}"], [f"s{i}"]),
                node("Expand", [f"s{i}", "large"], [f"t{i}"]),
            )
        ],
        node("Sum", [f"t{i}" for i in range(8)], ["z"]),
        node("ReduceSum", ["z"], ["r"]),
        node("Cast", ["r"], ["y"], to=TensorProto.FLOAT),
    ]
    opened(narrow, Limits(memory=16 * 2**30))
    with pytest.raises(LimitExceeded, match="8 tensors of 15376000000 bytes"):
        opened(narrow, Limits(memory=15 * 10**9))


def test_an_onnx_file_within_its_memory_is_let_through():
    opened([*EIGHT[:2], node("ReduceSum", ["t0"], ["y"])], Limits(memory=4 * 10**9))
