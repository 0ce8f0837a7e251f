"""A small network like VGG, of any image size, for the techniques that make one picture from another."""

from __future__ import annotations

import numpy as np
import onnx

from tests.networks import Maker


def network(seed: int = 0) -> onnx.ModelProto:
    """Five convolutions (8, 16, 16, 32, 32 channels), each with a Relu, at strides 1, 2, 2, 4, 4; any image size.

    Relus: relu3 (stride 1), relu7, relu10 (2), relu14, relu17 (4). Then global average, linear: logits (N, 10).
    """
    m = Maker(seed=seed)
    x, channels = "image", 3
    for width, pool in ((8, False), (16, True), (16, False), (32, True), (32, False)):
        if pool:
            x = m("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        x = m("Relu", m("Conv", x, m.random(width, channels, 3, 3), pads=[1, 1, 1, 1]))
        channels = width
    x = m("Flatten", m("GlobalAveragePool", x))
    x = m("Gemm", x, m.random(10, channels), transB=1)
    return m.model({"image": ("N", 3, "H", "W")}, {x: ("N", 10)})


def picture(height: int = 48, width: int = 64, seed: int = 0) -> np.ndarray:
    """(H, W, 3) uint8: smooth blobs of colour with some grain."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    blobs = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float64)
    return np.clip(blobs + rng.normal(0, 12, blobs.shape), 0, 255).astype(np.uint8)
