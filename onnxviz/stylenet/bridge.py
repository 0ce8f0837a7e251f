"""The perceptual loss of any ONNX network as a function that torch differentiates through.

Value and gradient by the picture come from the network's own gradient graph on ONNX Runtime; torch sees one function
with a known backward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

#: From pictures (N, h, w, 3) float32 of 0 to 255 to the loss of each, (N,), and its gradient by them.
Loss = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


class _Perceptual(torch.autograd.Function):
    """The mean loss of a batch of pictures."""

    @staticmethod
    def forward(ctx: Any, pictures: Any, loss: Loss) -> Any:
        """pictures (N, 3, h, w) -> scalar"""
        array = pictures.detach().cpu().numpy().transpose(0, 2, 3, 1)
        values, gradient = loss(np.ascontiguousarray(array))
        back = np.ascontiguousarray(gradient.transpose(0, 3, 1, 2)) / len(values)
        ctx.save_for_backward(torch.from_numpy(back.astype(np.float32)).to(pictures.device))
        return pictures.new_tensor(float(values.mean(dtype=np.float64)))

    @staticmethod
    def backward(ctx: Any, *outputs: Any) -> Any:
        """The saved gradient times what comes from behind."""
        (gradient,) = ctx.saved_tensors
        return outputs[0] * gradient, None


def perceptual(pictures: Any, loss: Loss) -> Any:
    """The mean loss of pictures (N, 3, h, w) of 0 to 255, a torch scalar that can be differentiated."""
    return _Perceptual.apply(pictures, loss)
