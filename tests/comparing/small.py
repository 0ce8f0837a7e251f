"""Small networks of the kinds that are quantised for the edge, made on the spot: image (N, 3, size, size)."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

import onnxviz
from tests.networks import Maker

SIZE = 64
#: How these networks take pictures: as the arrays (`pictures`) that their int8 files are calibrated on.
SCALED = {"mean": (0.5,) * 3, "std": (40 / 255,) * 3}


def opened(model: Any, **options: Any) -> onnxviz.Network:
    return onnxviz.load(model, **{"provider": "cpu", "threads": 1, **options})


class Named(Maker):
    """`y = m.layer("stem", "Conv", x, ...)`: the value and its node bear the name."""

    def layer(self, name: str, op: str, *inputs: str, **attributes: Any) -> str:
        self(op, *inputs, name=name, **attributes)
        self.nodes[-1].output[0] = name
        return name

    def conv(
        self, name: str, x: str, out: int, into: int, kernel: int = 3, stride: int = 1, group: int = 1
    ) -> str:
        weights = self.random(out, into // group, kernel, kernel, name=f"{name}.weight")
        bias = self.random(out, name=f"{name}.bias")
        pads = [kernel // 2] * 4
        return self.layer(name, "Conv", x, weights, bias, pads=pads, strides=[stride] * 2, group=group)

    def norm(self, name: str, x: str, channels: int) -> str:
        scale, var = (
            self.random(channels, name=f"{name}.{part}", positive=True) for part in ("scale", "var")
        )
        bias, mean = (self.random(channels, name=f"{name}.{part}") for part in ("bias", "mean"))
        return self.layer(name, "BatchNormalization", x, scale, bias, mean, var)

    def linear(self, name: str, x: str, out: int, into: int) -> str:
        weights = self.constant((self.rng.standard_normal((out, into)) * np.sqrt(8 / into)), f"{name}.weight")
        return self.layer(name, "Gemm", x, weights, self.random(out, name=f"{name}.bias"), transB=1)


def resnet(classes: int = 10, seed: int = 0) -> onnx.ModelProto:
    """Residual blocks with batch norms of their own, as torch's exporter writes them (He et al. 2016)."""
    m = Named(seed=seed)
    x = m.layer("stem.relu", "Relu", m.norm("stem.norm", m.conv("stem", "image", 16, 3, 7, 2), 16))
    x = m.layer("pool", "MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    width = 16
    for place, (out, stride) in enumerate(((16, 1), (32, 2), (32, 1))):
        block = f"block{place}"
        y = m.norm(f"{block}.norm1", m.conv(f"{block}.conv1", x, out, width, 3, stride), out)
        y = m.layer(f"{block}.relu1", "Relu", y)
        y = m.norm(f"{block}.norm2", m.conv(f"{block}.conv2", y, out, out), out)
        if out != width or stride > 1:
            x = m.norm(f"{block}.norm3", m.conv(f"{block}.down", x, out, width, 1, stride), out)
        x = m.layer(f"{block}.relu2", "Relu", m.layer(f"{block}.add", "Add", y, x))
        width = out
    x = m.layer("features", "Flatten", m.layer("gap", "GlobalAveragePool", x))
    return m.model({"image": ("N", 3, SIZE, SIZE)}, {m.linear("logits", x, classes, width): ("N", classes)})


def mobilenet(classes: int = 10, seed: int = 0) -> onnx.ModelProto:
    """Inverted residuals with hard swish and squeeze-and-excite, as MobileNetV3 (Howard et al. 2019)."""
    m = Named(seed=seed)
    x = m.layer("stem.swish", "HardSwish", m.conv("stem", "image", 16, 3, 3, 2))
    width = 16
    for place, (out, stride) in enumerate(((16, 1), (24, 2), (24, 1))):
        block, wide = f"block{place}", 4 * width
        y = m.layer(f"{block}.swish1", "HardSwish", m.conv(f"{block}.expand", x, wide, width, 1))
        y = m.conv(f"{block}.depthwise", y, wide, wide, 3, stride, group=wide)
        y = m.layer(f"{block}.swish2", "HardSwish", y)
        s = m.layer(f"{block}.squeeze", "GlobalAveragePool", y)
        s = m.layer(f"{block}.reduce.relu", "Relu", m.conv(f"{block}.reduce", s, wide // 4, wide, 1))
        s = m.layer(
            f"{block}.gate", "HardSigmoid", m.conv(f"{block}.excite", s, wide, wide // 4, 1), alpha=1 / 6
        )
        y = m.conv(f"{block}.project", m.layer(f"{block}.scaled", "Mul", y, s), out, wide, 1)
        x = m.layer(f"{block}.add", "Add", y, x) if out == width and stride == 1 else y
        width = out
    x = m.layer("features", "Flatten", m.layer("gap", "GlobalAveragePool", x))
    return m.model({"image": ("N", 3, SIZE, SIZE)}, {m.linear("logits", x, classes, width): ("N", classes)})


def detector(classes: int = 5, seed: int = 0) -> onnx.ModelProto:
    """Two scales with a neck between them; output0 (N, 4 + classes, places) of boxes and scores, as YOLO writes it."""
    m = Named(seed=seed)
    x = m.layer("stem.relu", "Relu", m.conv("stem", "image", 16, 3, 3, 2))
    fine = m.layer("stage1.relu", "Relu", m.conv("stage1", x, 24, 16, 3, 2))
    coarse = m.layer("stage2.relu", "Relu", m.conv("stage2", fine, 32, 24, 3, 2))
    up = m.layer("neck.up", "Resize", coarse, "", m.constant(np.float32([1, 1, 2, 2])), mode="nearest")
    joined = m.layer("neck.join", "Concat", up, fine, axis=1)
    fine = m.layer("neck.relu", "Relu", m.conv("neck", joined, 24, 56))
    rows = []
    for name, level, width, places in (("fine", fine, 24, 256), ("coarse", coarse, 32, 64)):
        raw = m.conv(f"head.{name}", level, 4 + classes, width, 1)
        rows.append(m.layer(f"{name}.rows", "Reshape", raw, m.constant([0, 4 + classes, places])))
    both = m.layer("rows", "Concat", *rows, axis=2)
    m("Split", both, m.constant([4, classes]), axis=1, outputs=2, name="parts")
    m.nodes[-1].output[:] = ["boxes", "raw_scores"]
    scores = m.layer("scores", "Sigmoid", "raw_scores")
    out = m.layer("output0", "Concat", "boxes", scores, axis=1)
    return m.model({"image": ("N", 3, SIZE, SIZE)}, {out: ("N", 4 + classes, 320)})


def segmenter(classes: int = 4, seed: int = 0) -> onnx.ModelProto:
    """An encoder and a decoder with a skip connection; masks (N, classes, size, size), as U-Net gives them."""
    m = Named(seed=seed)
    first = m.layer("down1.relu", "Relu", m.conv("down1", "image", 16, 3, 3, 2))
    x = m.layer("down2.relu", "Relu", m.conv("down2", first, 32, 16, 3, 2))
    x = m.layer("middle.relu", "Relu", m.conv("middle", x, 32, 32))
    weights, bias = m.random(32, 16, 2, 2, name="up.weight"), m.random(16, name="up.bias")
    x = m.layer("up", "ConvTranspose", x, weights, bias, strides=[2, 2])
    x = m.layer("join", "Concat", x, first, axis=1)
    x = m.layer("merge.relu", "Relu", m.conv("merge", x, 16, 32))
    x = m.conv("classes", x, classes, 16, 1)
    scales = m.constant(np.float32([1, 1, 2, 2]))
    out = m.layer(
        "masks", "Resize", x, "", scales, mode="linear", coordinate_transformation_mode="half_pixel"
    )
    return m.model({"image": ("N", 3, SIZE, SIZE)}, {out: ("N", classes, SIZE, SIZE)})


def decoder(seed: int = 5) -> onnx.ModelProto:
    """Down three times and up three times, as an autoencoder; a picture (N, 3, size, size)."""
    m = Named(seed=seed)
    x, width = "image", 3
    for place, out in enumerate((16, 24, 32), 1):
        x, width = m.layer(f"d{place}.relu", "Relu", m.conv(f"d{place}", x, out, width, 3, 2)), out
    for place, out in enumerate((24, 16, 12)):
        weights, bias = (
            m.random(width, out, 4, 4, name=f"u{place}.weight"),
            m.random(out, name=f"u{place}.bias"),
        )
        x, width = m.layer(f"u{place}", "ConvTranspose", x, weights, bias, strides=[2, 2], pads=[1] * 4), out
        x = m.norm("u1.norm", x, out) if place == 1 else x
        x = m.layer(f"u{place}.relu", "Relu", x) if place < 2 else x
    out = m.layer("picture", "Tanh", m.conv("last", x, 3, width))
    return m.model({"image": ("N", 3, SIZE, SIZE)}, {out: ("N", 3, SIZE, SIZE)})


def bounded(classes: int = 10, seed: int = 6) -> onnx.ModelProto:
    """Inverted residuals with Clip(0, 6), as MobileNetV2 (Sandler et al. 2018)."""
    m = Named(seed=seed)
    ends = m.constant(np.float32(0)), m.constant(np.float32(6))
    x, width = m.layer("stem.relu6", "Clip", m.conv("stem", "image", 16, 3, 3, 2), *ends), 16
    for place, (out, stride) in enumerate(((16, 1), (24, 2), (24, 1))):
        block, wide = f"block{place}", 3 * width
        y = m.layer(f"{block}.relu1", "Clip", m.conv(f"{block}.expand", x, wide, width, 1), *ends)
        y = m.conv(f"{block}.depthwise", y, wide, wide, 3, stride, group=wide)
        y = m.conv(f"{block}.project", m.layer(f"{block}.relu2", "Clip", y, *ends), out, wide, 1)
        x = m.layer(f"{block}.add", "Add", y, x) if out == width and stride == 1 else y
        width = out
    x = m.layer("features", "Flatten", m.layer("gap", "GlobalAveragePool", x))
    return m.model({"image": ("N", 3, SIZE, SIZE)}, {m.linear("logits", x, classes, width): ("N", classes)})


NETWORKS = {"resnet": resnet, "mobilenet": mobilenet, "detector": detector, "segmenter": segmenter}


def pictures(count: int = 8, seed: int = 1) -> np.ndarray:
    """Coarse and fine noise together, as photos have both: (count, 3, SIZE, SIZE) float32 of about −2 to 2."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((count, 3, SIZE // 8, SIZE // 8)).repeat(8, axis=2).repeat(8, axis=3)
    return (coarse + 0.4 * rng.standard_normal((count, 3, SIZE, SIZE))).astype(np.float32)


def photos(count: int = 8, seed: int = 1) -> list[np.ndarray]:
    """The same as pictures that are taken as `SCALED` says: (SIZE, SIZE, 3) uint8."""
    arrays = np.rint(pictures(count, seed).transpose(0, 2, 3, 1) * 40 + 127.5)
    return list(np.clip(arrays, 0, 255).astype(np.uint8))
