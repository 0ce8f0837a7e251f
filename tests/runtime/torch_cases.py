"""Networks with operators that native gradients have no rule for."""

from __future__ import annotations

import numpy as np
import onnx

from tests.networks import Maker


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
