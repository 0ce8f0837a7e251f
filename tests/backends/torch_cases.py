"""Networks with operators that native gradients have no rule for."""

from __future__ import annotations

import numpy as np
import onnx

from tests.networks import Maker, written


def lstm_network() -> onnx.ModelProto:
    """A text reader's kind: convolution, then an LSTM over the columns. image (N, 3, 16, 16) -> scores (N, 5)."""
    m = Maker(17)
    x = m("Relu", m("Conv", "image", m.random(8, 3, 3, 3), m.random(8), pads=[1] * 4, strides=[2, 2]))
    x = m("Transpose", m("ReduceMean", x, axes=[2], keepdims=0), perm=[2, 0, 1])  # (columns, N, 8)
    weights = [m.random(1, 24, 8), m.random(1, 24, 6), m.constant(np.zeros((1, 48), np.float32))]
    _, last = m("LSTM", x, *weights, hidden_size=6, outputs=2)  # (1, N, 6)
    x = m("Flatten", m("Transpose", last, perm=[1, 0, 2]))
    scores = m("Gemm", x, m.random(5, 6), m.random(5), transB=1)
    return m.model({"image": ("N", 3, 16, 16)}, {scores: ("N", 5)})


def loop_network() -> onnx.ModelProto:
    """x·x·…, as often as its own length says, and every step of it; with a scan over rows."""
    body = """g (int64 i, bool go, float[N, 3] before) => (bool on, float[N, 3] after, float[N, 3] seen) {
        after = Mul(before, x) on = Identity(go) seen = Sin(after) }"""
    big, small = (f"g () => (float[N, 3] {op}_out) {{ {op}_out = {op}(last) }}" for op in ("Tanh", "Neg"))
    text = f"""shape = Shape <start = 1> (x) times = Squeeze(shape)
        last, all = Loop <body = {body}> (times, , x)
        total = ReduceSum <keepdims = 0> (last) positive = Greater(total, zero)
        chosen = If <then_branch = {big}, else_branch = {small}> (positive)
        steps = ReduceSum <keepdims = 0> (all, first) y = Add(chosen, steps)"""
    weights = {"zero": np.float32(0), "first": np.int64([0])}
    return written(text, {"x": ("N", 3)}, {"y": ("N", 3)}, weights)
