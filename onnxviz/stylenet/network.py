"""The transformation network in torch.

Johnson, Alahi & Fei-Fei 2016, arXiv:1603.08155, with instance normalisation (Ulyanov, Vedaldi & Lempitsky 2016,
arXiv:1607.08022) and nearest-neighbour upsampling before its convolutions (Odena, Dumoulin & Olah 2016), which leave
no checkerboards.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

#: The output is centre + span · tanh, in grey levels: what the loss measures is what is shown, nothing is clipped.
CENTRE, SPAN = 127.5, 127.5


class Convolution(nn.Module):
    """Reflection padding, a convolution, and, unless it is the last, instance normalisation."""

    def __init__(
        self, given: int, made: int, side: int, *, stride: int = 1, up: int = 1, last: bool = False
    ) -> None:
        super().__init__()
        self.up, self.stride, self.pad = up, stride, side // 2
        self.convolution = nn.Conv2d(given, made, side, stride)
        self.norm = None if last else nn.InstanceNorm2d(made, affine=True)

    def forward(self, x: Any) -> Any:
        """(N, given, H, W) -> (N, made, H·up/stride, W·up/stride)"""
        if self.up > 1:
            x = nn.functional.interpolate(x, scale_factor=float(self.up), mode="nearest")
        x = self.convolution(nn.functional.pad(x, [self.pad] * 4, mode="reflect"))
        return x if self.norm is None else self.norm(x)


class Residual(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = Convolution(channels, channels, 3)
        self.second = Convolution(channels, channels, 3)

    def forward(self, x: Any) -> Any:
        """(N, C, H, W) -> the same shape"""
        return x + self.second(torch.relu(self.first(x)))


class StyleNetwork(nn.Module):
    """From pictures (N, 3, H, W) of 0 to 255 to pictures in the trained style, 0 to 255.

    width    channels of the first layer; the residual blocks have four times as many
    blocks   residual blocks
    """

    def __init__(self, width: int = 32, blocks: int = 5) -> None:
        super().__init__()
        self.width, self.blocks = width, blocks
        self.down = nn.ModuleList(
            [
                Convolution(3, width, 9),
                Convolution(width, 2 * width, 3, stride=2),
                Convolution(2 * width, 4 * width, 3, stride=2),
            ]
        )
        self.middle = nn.ModuleList([Residual(4 * width) for _ in range(blocks)])
        self.up = nn.ModuleList(
            [Convolution(4 * width, 2 * width, 3, up=2), Convolution(2 * width, width, 3, up=2)]
        )
        self.out = Convolution(width, 3, 9, last=True)

    def forward(self, x: Any) -> Any:
        """(N, 3, H, W) -> (N, 3, H', W'), each side the next multiple of four"""
        for layer in self.down:
            x = torch.relu(layer(x))
        for block in self.middle:
            x = block(x)
        for layer in self.up:
            x = torch.relu(layer(x))
        return CENTRE + SPAN * torch.tanh(self.out(x))
