"""The optimisers in the graph against torch's and against their formulas; the rules between two steps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from onnxviz.errors import UsageError
from onnxviz.synthesis.updates import Adam, Ascent, Blurring, Decay, SmallContributions, SmallPixels
from tests.synthesis.pieces import run

RNG = np.random.default_rng(0)
SHAPE = (2, 3, 4, 5)


def stepped(update, x, gradients):
    """The parameters after each gradient."""
    state = {name: np.zeros(SHAPE, np.float32) for name in update.state}
    found = []
    for index, g in enumerate(gradients):
        scalars = {name: np.float32(value) for name, value in update.scalars(index).items()}

        def build(op, x, g, **values):
            old = [values[name] for name in update.state]
            moved, after = update.append(op, x, g, old, values)
            return [moved, *after]

        x, *after = run(build, x=x, g=g, **state, **{k: np.asarray(v) for k, v in scalars.items()})
        state = dict(zip(update.state, after, strict=True))
        found.append(x)
    return found


GRADIENTS = [RNG.standard_normal(SHAPE).astype(np.float32) * 10.0**-i for i in range(4)]
START = RNG.standard_normal(SHAPE).astype(np.float32)


def test_adam_is_torchs() -> None:
    x = torch.tensor(START, requires_grad=True)
    optimiser = torch.optim.Adam([x], lr=0.1, maximize=True)
    ours = stepped(Adam(0.1), START, GRADIENTS)
    for g, found in zip(GRADIENTS, ours, strict=True):
        x.grad = torch.tensor(g)
        optimiser.step()
        np.testing.assert_allclose(found, x.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_momentum_is_torchs() -> None:
    x = torch.tensor(START, requires_grad=True)
    optimiser = torch.optim.SGD([x], lr=0.1, momentum=0.9, maximize=True)
    ours = stepped(Ascent(0.1, "none", 0.9), START, GRADIENTS)
    for g, found in zip(GRADIENTS, ours, strict=True):
        x.grad = torch.tensor(g)
        optimiser.step()
        np.testing.assert_allclose(found, x.detach().numpy(), rtol=1e-4, atol=1e-5)


NORMS = {
    "mean": lambda g: np.abs(g).mean((1, 2, 3), keepdims=True),
    "rms": lambda g: np.sqrt((g**2).mean((1, 2, 3), keepdims=True)),
    "l2": lambda g: np.sqrt((g**2).sum((1, 2, 3), keepdims=True)),
}


@pytest.mark.parametrize("norm", NORMS)
def test_steps_are_normalised_for_each_picture(norm: str) -> None:
    (found,) = stepped(Ascent(0.5, norm), START, GRADIENTS[:1])
    g = GRADIENTS[0]
    np.testing.assert_allclose(found, START + 0.5 * g / NORMS[norm](g), rtol=1e-4, atol=1e-5)


def test_a_gradient_of_zero_moves_nothing() -> None:
    for norm in (*NORMS, "progress", "none"):
        (found,) = stepped(Ascent(0.5, norm), START, [np.zeros(SHAPE, np.float32)])
        np.testing.assert_array_equal(found, START)


def test_progress_is_what_the_objective_gains_and_is_limited() -> None:
    g = GRADIENTS[0]
    (found,) = stepped(Ascent(2.0, "progress", most=1e9), START, [g])
    np.testing.assert_allclose(((found - START) * g).sum((1, 2, 3)), [2.0, 2.0], rtol=1e-3)
    (found,) = stepped(Ascent(2.0, "progress", most=1e-3), START, [g])
    np.testing.assert_allclose(found - START, g * 1e-3, rtol=1e-2, atol=1e-6)


def test_the_rate_may_change_from_step_to_step() -> None:
    found = stepped(Ascent(lambda step: [1.0, 0.0][step], "none"), START, GRADIENTS[:2])
    np.testing.assert_allclose(found[0], START + GRADIENTS[0], rtol=1e-5)
    np.testing.assert_array_equal(found[1], found[0])


def test_an_unknown_norm_is_refused() -> None:
    with pytest.raises(UsageError, match="progress"):
        Ascent(1.0, "largest")


# --- between two steps ----------------------------------------------------------------------------

PIXELS = RNG.standard_normal((2, 3, 8, 10)).astype(np.float32)


def test_decay_and_blur() -> None:
    from scipy.ndimage import gaussian_filter

    np.testing.assert_allclose(Decay(0.25).apply(PIXELS, None), 0.75 * PIXELS, rtol=1e-6)
    blurred = Blurring(1.5, 3).apply(PIXELS, None)
    np.testing.assert_allclose(blurred[1, 2], gaussian_filter(PIXELS[1, 2], 1.5, mode="nearest"), atol=1e-5)
    assert [Blurring(1.5, 3).due(step) for step in range(6)] == [False, False, True] * 2


def test_small_pixels_and_contributions_are_cleared_picture_by_picture() -> None:
    loud = PIXELS * np.array([1, 100], np.float32)[:, None, None, None]
    cleared = SmallPixels(30).apply(loud, None)
    gone = (cleared == 0).all(axis=1)
    assert gone.reshape(2, -1).sum(axis=1).tolist() == [24, 24]
    sizes = np.linalg.norm(loud, axis=1)
    for one in range(2):
        assert sizes[one][gone[one]].max() < sizes[one][~gone[one]].min()
    gradient = RNG.standard_normal(PIXELS.shape).astype(np.float32)
    kept = SmallContributions(50).apply(PIXELS, gradient)
    share = np.abs(
        (PIXELS * gradient).sum(axis=1)
    )  # as the authors measure it: over colours, then the magnitude
    for one in range(2):
        lost = (kept[one] == 0).all(axis=0)
        assert lost.sum() == 40
        assert share[one][lost].max() < share[one][~lost].min()
    np.testing.assert_array_equal(kept[kept != 0], PIXELS[kept != 0])


def test_an_empty_picture_is_not_stuck() -> None:
    """From zero every pixel is the smallest: none may be held there."""
    grown = np.full((1, 3, 4, 4), 0.1, np.float32)
    np.testing.assert_array_equal(SmallPixels(50).apply(grown, None), grown)


@pytest.mark.parametrize(
    "make", [lambda: Decay(1.0), lambda: Blurring(0), lambda: Blurring(1, 0), lambda: SmallPixels(100)]
)
def test_rules_that_make_no_sense_are_refused(make) -> None:
    with pytest.raises(UsageError, match="expected"):
        make()


def test_contributions_of_a_pixels_colours_cancel() -> None:
    """The authors' measure is |Σ x·g| over colours: a pixel whose colours work against each other does little."""
    pixels = np.ones((1, 3, 1, 4), np.float32)
    gradient = np.zeros_like(pixels)
    gradient[0, :, 0, 0] = 5, -5, 0.1  # much, but it cancels
    gradient[0, :, 0, 1] = 1, 1, 0
    gradient[0, :, 0, 2] = 0, -1.5, 0
    gradient[0, :, 0, 3] = 0, 0, 0
    kept = SmallContributions(50).apply(pixels, gradient)
    np.testing.assert_array_equal(kept[0, 0, 0] != 0, [False, True, True, False])
