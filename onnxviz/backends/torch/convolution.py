"""Convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from onnxviz.backends.torch.table import CannotRun, operator
from onnxviz.backends.torch.tensors import numbers
from onnxviz.backends.torch.windows import Windows, padded, pick


@operator("Conv")
def conv(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Any:
    """x (N, C, ...), w (M, C/group, ...)."""
    win = Windows.of(x.shape[2:], w.shape[2:], strides, pads, dilations, auto_pad)
    function = pick(x.ndim - 2, F.conv1d, F.conv2d, F.conv3d)
    if win.begin == win.end and min(win.begin) >= 0:  # torch pads both ends alike, without a copy
        return function(x, w, b, win.strides, win.begin, win.dilations, group)
    return function(padded(x, win.begin, win.end), w, b, win.strides, 0, win.dilations, group)


@operator("ConvTranspose")
def conv_transpose(
    x: Any,
    w: Any,
    b: Any = None,
    *,
    auto_pad: str = "NOTSET",
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    output_padding: Sequence[int] | None = None,
    output_shape: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Any:
    """x (N, C, ...), w (C, M/group, ...): everything that the windows reach, then the padding cut off."""
    n = x.ndim - 2
    steps, gaps = list(strides or [1] * n), list(dilations or [1] * n)
    extra = list(output_padding or [0] * n)
    y = pick(n, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)(
        x, w, None, steps, 0, 0, group, gaps
    )
    begin, end = list(pads or [0] * 2 * n)[:n], list(pads or [0] * 2 * n)[n:]
    wanted = list(output_shape or [])[-n:]
    if not wanted and auto_pad.startswith("SAME"):
        wanted = [length * step for length, step in zip(x.shape[2:], steps, strict=True)]
    if wanted:
        for i in range(n):
            total = y.shape[2 + i] + extra[i] - wanted[i]
            small, large = total // 2, total - total // 2
            begin[i], end[i] = (large, small) if auto_pad == "SAME_LOWER" else (small, large)
            if total < 0:
                begin[i], end[i] = 0, total
    y = padded(y, [-p for p in begin], [o - p for o, p in zip(extra, end, strict=True)])
    return y if b is None else y + b.reshape(-1, *([1] * n))


@operator("DeformConv")
def deform_conv(
    x: Any,
    w: Any,
    offset: Any,
    b: Any = None,
    mask: Any = None,
    *,
    dilations: Sequence[int] | None = None,
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    offset_group: int = 1,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Any:
    """Dai et al. 2017, arXiv:1703.06211: every tap of the kernel reads at its own, shifted place."""
    if x.ndim != 4:
        raise CannotRun("has other than 2 spatial axes")
    n, c, height, width = x.shape
    win = Windows.of((height, width), w.shape[2:], strides, pads, dilations)
    kh, kw = win.kernel
    oh, ow = offset.shape[2:]
    offset = offset.reshape(n, offset_group, kh * kw, 2, oh, ow)
    places = {"dtype": x.dtype, "device": x.device}
    base_y = torch.arange(oh, **places) * win.strides[0] - win.begin[0]
    base_x = torch.arange(ow, **places) * win.strides[1] - win.begin[1]
    parts = x.reshape(n * offset_group, c // offset_group, height, width)
    columns = []
    for tap in range(kh * kw):
        ys = base_y[:, None] + (tap // kw) * win.dilations[0] + offset[:, :, tap, 0]  # (n, groups, oh, ow)
        xs = base_x[None, :] + (tap % kw) * win.dilations[1] + offset[:, :, tap, 1]
        grid = torch.stack([(2 * xs + 1) / width - 1, (2 * ys + 1) / height - 1], -1)
        read = F.grid_sample(parts, grid.reshape(-1, oh, ow, 2), align_corners=False)
        if mask is not None:
            read = read * mask.reshape(-1, kh * kw, oh, ow)[:, tap, None]
        columns.append(read.reshape(n, c, oh * ow))
    stacked = torch.stack(columns, 2).reshape(n, group, c // group * kh * kw, oh * ow)
    y = torch.einsum("gmk,ngko->ngmo", w.reshape(group, -1, stacked.shape[2]), stacked)
    y = y.reshape(n, -1, oh, ow)
    return y if b is None else y + b.reshape(-1, 1, 1)


@operator("Col2Im")
def col2im(
    x: Any,
    image_shape: Any,
    block_shape: Any,
    *,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Any:
    """Add blocks up where they lie over each other: x (N, C·block, places)."""
    size, block = numbers(image_shape), numbers(block_shape)
    if len(size) != 2:
        raise CannotRun("has other than 2 spatial axes")
    begin, end = list(pads or [0] * 4)[:2], list(pads or [0] * 4)[2:]
    whole = [length + b + e for length, b, e in zip(size, begin, end, strict=True)]
    y = F.fold(x, whole, block, dilation=tuple(dilations or (1, 1)), stride=tuple(strides or (1, 1)))
    return padded(y, [-p for p in begin], [-p for p in end])


@operator("FusedConv", domain="com.microsoft")
def fused_conv(
    x: Any,
    w: Any,
    b: Any = None,
    z: Any = None,
    *,
    activation: str = "",
    activation_params: Sequence[float] = (),
    **attributes: Any,
) -> Any:
    """Conv, then an addition, then an activation."""
    y = conv(x, w, b, **attributes)
    y = y if z is None else y + z
    p = tuple(activation_params)
    if activation == "LeakyRelu":
        return F.leaky_relu(y, p[0])
    if activation == "Clip":
        return torch.clamp(y, p[0], p[1])
    if activation == "HardSigmoid":
        return torch.clamp(p[0] * y + p[1], 0.0, 1.0)
    plain = {"": lambda v: v, "Relu": torch.relu, "Tanh": torch.tanh, "Sigmoid": torch.sigmoid}
    if activation not in plain:
        raise CannotRun(f"has the activation {activation!r}")
    return plain[activation](y)
