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

    def build(op, x, g, **values):
        moved, after = update.append(op, x, g, [values[name] for name in update.state], values)
        return [moved, *after]

    for index, g in enumerate(gradients):
        scalars = {name: np.array(value, np.float32) for name, value in update.scalars(index).items()}
        x, *after = run(build, x=x, g=g, **state, **scalars)
        state = dict(zip(update.state, after, strict=True))
        found.append(x)
    return found


GRADIENTS = [RNG.standard_normal(SHAPE).astype(np.float32) * 10.0**-i for i in range(4)]
START = RNG.standard_normal(SHAPE).astype(np.float32)


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [(Adam(0.1), torch.optim.Adam, {}), (Ascent(0.1, "none", 0.9), torch.optim.SGD, {"momentum": 0.9})],
)
def test_it_is_torchs(ours, theirs, options) -> None:
    x = torch.tensor(START, requires_grad=True)
    optimiser = theirs([x], lr=0.1, maximize=True, **options)
    for g, found in zip(GRADIENTS, stepped(ours, START, GRADIENTS), strict=True):
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


# --- between two steps ----------------------------------------------------------------------------

PIXELS = RNG.standard_normal((2, 3, 8, 10)).astype(np.float32)


def test_decay_and_blur() -> None:
    from scipy.ndimage import gaussian_filter

    np.testing.assert_allclose(Decay(0.25).apply(PIXELS, None), 0.75 * PIXELS, rtol=1e-6)
    blurred = Blurring(1.5, 3).apply(PIXELS, None)
    np.testing.assert_allclose(blurred[1, 2], gaussian_filter(PIXELS[1, 2], 1.5, mode="nearest"), atol=1e-5)
    assert [Blurring(1.5, 3).due(step) for step in range(6)] == [False, False, True] * 2


def test_small_pixels_and_contributions_are_cleared_picture_by_picture() -> None:
    def smallest(cleared, given, measure, count):
        gone = (cleared == 0).all(axis=1)
        np.testing.assert_array_equal(cleared, np.where(gone[:, None], 0, given))
        for one in range(2):
            assert gone[one].sum() == count
            assert measure[one][gone[one]].max() < measure[one][~gone[one]].min()

    loud = PIXELS * np.array([1, 100], np.float32)[:, None, None, None]
    smallest(SmallPixels(30).apply(loud, None), loud, np.linalg.norm(loud, axis=1), 24)
    gradient = RNG.standard_normal(PIXELS.shape).astype(np.float32)
    # As the authors measure it: over colours, then the magnitude.
    share = np.abs((PIXELS * gradient).sum(axis=1))
    smallest(SmallContributions(50).apply(PIXELS, gradient), PIXELS, share, 40)
    # From zero every pixel is the smallest: none may be held there.
    grown = np.full((1, 3, 4, 4), 0.1, np.float32)
    np.testing.assert_array_equal(SmallPixels(50).apply(grown, None), grown)


@pytest.mark.parametrize(
    ("kind", "given"),
    [(Decay, [1.0]), (Blurring, [0]), (Blurring, [1, 0]), (SmallPixels, [100]), (Ascent, [1.0, "largest"])],
)
def test_what_makes_no_sense_is_refused(kind, given) -> None:
    with pytest.raises(UsageError, match="expected|progress"):
        kind(*given)
