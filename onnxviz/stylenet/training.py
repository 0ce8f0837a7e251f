"""The training loop of a style network: pictures in, a better network at every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from onnxviz.errors import GradientNotFinite
from onnxviz.stylenet.network import StyleNetwork

#: From a batch of pictures (N, h, w, 3) to what its painted versions lose: see `bridge.Loss`.
LossOf = Callable[[np.ndarray], Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]]


@dataclass(frozen=True)
class Taught:
    """One step.

    index       from 0
    perceptual  the mean perceptual loss of the batch
    tv          the total variation term
    """

    index: int
    perceptual: float
    tv: float

    @property
    def total(self) -> float:
        """What the step went down."""
        return self.perceptual + self.tv


def fresh(width: int, blocks: int, seed: int) -> StyleNetwork:
    """An untrained network; the process's own random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return StyleNetwork(width, blocks)


def train(
    network: StyleNetwork,
    batches: Iterator[np.ndarray],
    loss_of: LossOf,
    *,
    steps: int,
    rate: float,
    tv: float,
) -> Iterator[Taught]:
    """Adam on the perceptual loss of painted batches, plus total variation.

    batches   (N, h, w, 3) uint8 each
    loss_of   called with a batch before its painted version is measured
    tv        weight of the mean squared difference of neighbouring pixels, black to white being 1
    raises    GradientNotFinite, naming the step
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network.to(device).train()
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    for index, batch in zip(range(steps), batches, strict=False):
        x = torch.from_numpy(np.ascontiguousarray(batch.transpose(0, 3, 1, 2))).to(device, torch.float32)
        loss = loss_of(batch)
        optimiser.zero_grad()
        painted = network(x)[:, :, : x.shape[2], : x.shape[3]]
        feature = perceptual(painted, loss)
        rough = tv * _total_variation(painted / 255)
        total = feature + rough
        if not bool(torch.isfinite(total)):
            raise GradientNotFinite(
                f"the loss is not finite at step {index + 1}; try a smaller learning rate, or other layers"
            )
        total.backward()
        optimiser.step()
        yield Taught(index, float(feature.detach()), float(rough.detach()))
    network.eval()


def _total_variation(pictures: Any) -> Any:
    """As `objectives.tv` at beta = 2: over the places that have a neighbour below and one to the right."""
    here = pictures[:, :, :-1, :-1]
    below, right = pictures[:, :, 1:, :-1] - here, pictures[:, :, :-1, 1:] - here
    return (below * below + right * right).mean()


def paint(network: StyleNetwork, pictures: np.ndarray) -> np.ndarray:
    """Pictures (N, h, w, 3) uint8 as the network paints them in torch: (N, 3, h', w') float32, 0 to 255."""
    device = next(network.parameters()).device
    was = network.training
    network.eval()
    with torch.no_grad():
        x = torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).to(device, torch.float32)
        result: np.ndarray = network(x).clamp(0, 255).cpu().numpy()
    network.train(was)
    return result


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
