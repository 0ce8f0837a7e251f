"""Objectives that compare a layer with given activations: values and gradients against torch, written out anew."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import onnxviz
from onnxviz.errors import UsageError
from onnxviz.objectives import likeness
from tests.grad import torch_graph
from tests.synthesis.painted import network

LAYER = "relu10"


@pytest.fixture(scope="module")
def small():
    return onnxviz.load(network(), preprocess="imagenet", provider="cpu", size=24)


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(1).standard_normal((2, 3, 24, 24)).astype(np.float32)


def agree(small, objective, x, loss) -> None:
    """`loss` of the layer, (N,), and its gradient by x, in float64."""
    at = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    wanted = loss(torch_graph.run(network(), {"image": at}, precision=torch.float64)[LAYER])
    wanted.sum().backward()
    slope = at.grad.numpy()
    value, gradient = small.value_and_gradient(objective)(x)
    np.testing.assert_allclose(value, wanted.detach().numpy(), rtol=2e-5)
    np.testing.assert_allclose(gradient, slope, rtol=2e-3, atol=2e-5 * np.abs(slope).max())


@pytest.mark.parametrize("share", [0.5, 0])
def test_near_is_the_relative_squared_error(small, x, share):
    """Of a layer of zeros the distance itself."""
    target = share * small.run(x[:1] * 0.5, [LAYER])[LAYER]
    wanted = torch.tensor(target, dtype=torch.float64)

    def loss(a):
        return -((a - wanted) ** 2).sum((1, 2, 3)) / ((wanted**2).sum() if share else 1)

    agree(small, likeness.near(LAYER, target), x, loss)


@pytest.mark.parametrize("centred", [False, True])
def test_texture_is_the_relative_distance_of_gram_matrices(small, x, centred):
    source = small.run(x[:1] * 0.5, [LAYER])[LAYER]
    centre = likeness.means_of(source) if centred else None
    gram = likeness.gram_of(source, centre)
    rows = torch.tensor(source[0], dtype=torch.float64).flatten(1)
    middle = rows.mean(1, keepdim=True) * centred
    wanted = (rows - middle) @ (rows - middle).T / rows.numel()
    np.testing.assert_allclose(gram, wanted.numpy(), rtol=1e-4, atol=1e-6)

    def loss(a):
        flat = a.flatten(2) - middle
        found = flat @ flat.transpose(1, 2) / rows.numel()
        return -((found - wanted) ** 2).sum((1, 2)) / (wanted**2).sum()

    agree(small, likeness.texture(LAYER, gram, centre), x, loss)


def test_channels_last_changes_nothing():
    rng = np.random.default_rng(0)
    maps = rng.standard_normal((1, 5, 4, 3)).astype(np.float32)
    turned = maps.transpose(0, 2, 3, 1)
    means = likeness.means_of(maps)
    np.testing.assert_allclose(means, likeness.means_of(turned, channels_last=True), rtol=1e-6)
    for centre in (None, means):
        last = likeness.gram_of(turned, centre, channels_last=True)
        np.testing.assert_allclose(likeness.gram_of(maps, centre), last, rtol=1e-6)


def test_resemblance_takes_the_best_place_of_the_guide(small, x):
    guide = small.run(x[1:] * 0.7, [LAYER])[LAYER][0]
    columns = torch.tensor(guide, dtype=torch.float64).flatten(1)

    def loss(a):
        return (a.flatten(2).transpose(1, 2) @ columns).amax(2).sum(1)

    agree(small, likeness.resemblance(LAYER, guide), x, loss)


def test_excitement_is_half_the_square_of_some_channels(small, x):
    agree(small, likeness.excitement(LAYER, [3, 7]), x, lambda a: 0.5 * (a[:, [3, 7]] ** 2).sum((1, 2, 3)))
    with pytest.raises(UsageError, match="index 16"):
        small.value_and_gradient(likeness.excitement(LAYER, [16]))
