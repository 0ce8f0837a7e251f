"""Attributions of the bundled network against Captum on the same weights in torch.

Captum hooks nn.ReLU modules only: asked for guided backpropagation of this network, whose activations are ReLU6, it
gives the plain gradient. So each ReLU6 is written with an nn.ReLU that Captum does hook. Its upper end is a second,
functional ReLU for guided backpropagation (where a unit at its limit passes nothing), and a straight-through limit for
the deconvnet (where every unit passes what is positive).
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import captum.attr
import numpy as np
import pytest
import torch

import onnxviz
from onnxviz.attribution.methods import METHODS
from onnxviz.attribution.sampled import Job
from onnxviz.attribution.targets import parse
from onnxviz.exporting.efficientnet import lite0
from onnxviz.features.pictures import given
from tests.attribution.pieces import correlation

CAT = 285
pytestmark = pytest.mark.filterwarnings("ignore")


class Limited(torch.nn.Module):
    """ReLU6 as 6 − relu(6 − ReLU(x)), of which Captum hooks the inner one."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = torch.nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 6 - torch.relu(6 - self.relu(x))


class Through(Limited):
    """ReLU6 whose upper end does not show in the gradient."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.relu(x)
        return y + (y.clamp(max=6) - y).detach()


def with_activations(module: torch.nn.Module, made: Callable[[], torch.nn.Module] | None) -> torch.nn.Module:
    """A copy whose every ReLU6 is another; None: the module itself."""
    if made is None:
        return module
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, torch.nn.ReLU6):
                setattr(parent, name, made())
    return module


@pytest.fixture(scope="module")
def torch_net() -> torch.nn.Module:
    torch.set_num_threads(1)
    return lite0().module.eval()


@pytest.fixture(scope="module")
def job(net, photo_files) -> Job:
    taken = given(net, photo_files[:2])
    return Job(net, taken.x, taken.pictures, parse(net, CAT).settle(net, taken.x))


def least(found: np.ndarray, expected: torch.Tensor) -> float:
    """The least correlation of a picture's arrays."""
    return min(map(correlation, found, expected.detach().numpy()))


def test_captum_does_not_hook_relu6(torch_net, job) -> None:
    """Why the modules are replaced below."""
    x = torch.tensor(job.x, requires_grad=True)
    left_alone = captum.attr.GuidedBackprop(torch_net).attribute(x, target=CAT)
    assert least(job.gradient()[1], left_alone) > 0.999


@pytest.mark.parametrize(
    ("method", "attribution", "activations"),
    [
        ("gradient", lambda m, x: captum.attr.Saliency(m).attribute(x, target=CAT, abs=False), None),
        ("saliency", lambda m, x: captum.attr.Saliency(m).attribute(x, target=CAT, abs=False), None),
        ("input-x-gradient", lambda m, x: captum.attr.InputXGradient(m).attribute(x, target=CAT), None),
        ("guided", lambda m, x: captum.attr.GuidedBackprop(m).attribute(x, target=CAT), Limited),
        ("deconvnet", lambda m, x: captum.attr.Deconvolution(m).attribute(x, target=CAT), Through),
    ],
)
def test_one_pass_methods_agree(torch_net, job, method, attribution, activations) -> None:
    expected = attribution(with_activations(torch_net, activations), torch.tensor(job.x, requires_grad=True))
    found = onnxviz.saliency(job.net, job.x, method=method, target=CAT)
    colours = expected.sum(dim=1) if METHODS[method].signed else expected.abs().amax(dim=1)
    assert least(np.stack([one.values for one in found]), colours) > 0.9999


def test_integrated_gradients_agree(torch_net, job) -> None:
    expected = captum.attr.IntegratedGradients(torch_net).attribute(
        torch.tensor(job.x), baselines=0.0, target=CAT, n_steps=6, internal_batch_size=12
    )
    found = METHODS["integrated-gradients"].run(job, steps=6, baseline="zero")
    assert least(found.raw, expected) > 0.999


def test_the_noise_tunnel_around_the_same_noise_agrees(torch_net, job) -> None:
    """SmoothGrad by hand, in torch, with the noise that the method draws."""
    expected = torch.zeros(job.x.shape)
    spread = 0.15 * (job.x.max(axis=(1, 2, 3)) - job.x.min(axis=(1, 2, 3)))
    for sample in range(2):
        noise = np.random.default_rng([job.seed, sample]).standard_normal(job.x.shape[1:], dtype=np.float32)
        x = torch.tensor(job.x + spread[:, None, None, None].astype(np.float32) * noise, requires_grad=True)
        torch_net(x)[:, CAT].sum().backward()
        expected += x.grad / 2
    found = METHODS["smoothgrad"].run(job, samples=2, noise=0.15)
    assert least(found.raw, expected) > 0.9999
