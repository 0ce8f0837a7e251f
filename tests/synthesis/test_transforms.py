"""Transforms: what they do to a picture, and that the gradient passes each: ⟨Tx, g⟩ = ⟨x, Tᵀg⟩."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import rotate

from onnxviz.errors import UsageError
from onnxviz.synthesis.transforms import Blur, Crop, Jitter, Pad, Rotate, Scale, Window
from tests.synthesis.pieces import there_and_back

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 21, 30)).astype(np.float32)

TRANSFORMS = {
    "jitter": Jitter(5),
    "jitter, far": Jitter(500),
    "rotate": Rotate(30),
    "scale down": Scale(0.6, 0.8),
    "scale up": Scale(1.3, 1.6),
    "window": Window(16, 20, 0.7, 1.4, 9),
    "window, larger than the picture": Window(30, 50, 0.5, 0.6),
    "pad": Pad(4),
    "crop": Crop(16, 20),
    "crop, middle": Crop(16, 20, centred=True),
    "crop, too large": Crop(400, 20),
    "blur": Blur(0.5, 1.5),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("seed", [1, 2])
def test_adjoint(name: str, seed: int) -> None:
    transform = TRANSFORMS[name]
    y, g, back = there_and_back(transform, X, seed=seed)
    assert y.shape == (2, 3, *transform.size(21, 30))
    assert back.shape == X.shape
    one, other = float((y.astype(np.float64) * g).sum()), float((X.astype(np.float64) * back).sum())
    assert one == pytest.approx(other, rel=1e-4, abs=1e-3)


def turned(transform, x, seed=0):
    """The picture behind a transform."""
    return there_and_back(transform, x, seed=seed)[0]


def test_jitter_rolls() -> None:
    by = Jitter(5).draw(np.random.default_rng(3), 21, 30)["by"]
    assert np.abs(by).max() <= 5
    np.testing.assert_array_equal(turned(Jitter(5), X, 3), np.roll(X, by, axis=(2, 3)))


def test_rotation_moves_whole_pixels_about_the_middle() -> None:
    y = turned(Rotate(20), X, 5)
    np.testing.assert_array_equal(np.sort(y, axis=None), np.sort(X, axis=None))
    smooth = np.zeros((1, 3, 41, 41), np.float32)
    smooth[:, :, 8:33, 18:23] = 1.0
    y = turned(Rotate(20), smooth, 5)
    rows = Rotate(20).draw(np.random.default_rng(5), 41, 41)["rows"]
    angle = 2 * np.degrees(np.arctan(-rows[0] / (0 - 20)))
    ways = [rotate(smooth[0, 0], sign * angle, reshape=False, order=1) for sign in (1, -1)]
    gaps = [np.abs(y[0, 0] - one).mean() for one in ways]
    assert min(gaps) < 0.03 < max(gaps)


def test_scaling_is_about_the_middle() -> None:
    ramp = np.broadcast_to(np.arange(31, dtype=np.float32) - 15, (1, 3, 31, 31)).copy()
    np.testing.assert_allclose(turned(Scale(2, 2), ramp)[0, 0, 4], np.linspace(-7.5, 7.5, 31), atol=1e-4)


def test_a_window_is_a_view_of_a_picture_without_edges() -> None:
    np.testing.assert_allclose(turned(Window(21, 30), X), X, atol=1e-4)
    np.testing.assert_allclose(turned(Window(7, 30, 1.0, 1.0, 0.0), X), X[:, :, 7:14], atol=1e-4)
    wide = turned(Window(63, 30), X)
    np.testing.assert_allclose(wide[:, :, :21], X, atol=1e-4)
    np.testing.assert_allclose(wide[:, :, 42:], X, atol=1e-4)
    middles = [Window(7, 7, 1, 1, 5).draw(np.random.default_rng(i), 21, 30)["middle"] for i in range(99)]
    assert np.abs(np.array(middles) - [10, 14.5]).max() == pytest.approx(5, abs=0.3)


def test_padding_is_the_mean_colour_and_crop_undoes_it() -> None:
    y = turned(Pad(4), X)
    assert np.all(y[:, :, :4] == 0)
    np.testing.assert_array_equal(turned(Crop(21, 30, centred=True), y), X)


def test_crops_reach_every_place() -> None:
    rng = np.random.default_rng(0)
    drawn = [Crop(18, 18).draw(rng, 21, 30) for _ in range(200)]
    first = np.array([(one["rows"][0], one["columns"][0]) for one in drawn])
    assert first.min(axis=0).tolist() == [0, 0]
    assert first.max(axis=0).tolist() == [3, 12]


def test_blur_keeps_the_mean_of_the_inside() -> None:
    y = turned(Blur(1.0, 1.0), np.ones((1, 3, 31, 31), np.float32))
    assert y[0, 0, 15, 15] == pytest.approx(1, abs=1e-5)
    assert y[0, 0, 0, 0] < 0.5


@pytest.mark.parametrize(
    ("kind", "given"), [(Rotate, [90]), (Scale, [1.2, 0.8]), (Scale, [0, 1]), (Blur, [0, 1]), (Blur, [2, 1])]
)
def test_what_makes_no_sense_is_refused(kind, given) -> None:
    with pytest.raises(UsageError, match="expected"):
        kind(*given)
